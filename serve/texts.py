"""Every sentence that a person reads, in Japanese and English: one table, key -> (ja, en).

Code asks for a key, never for a language's words; a key or a placeholder that is missing is an error of ours, and a
test holds both languages to the same placeholders. Values are filled in by `str.format`, so a value that itself
contains braces stays as it is. What a program recorded (a formula, a path, a licence) is quoted, not translated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from string import Formatter
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

from deshi.serve.words.business import BUSINESS_TEXTS
from deshi.serve.words.gate import GATE_TEXTS
from deshi.serve.words.init import INIT_TEXTS
from deshi.serve.words.judging import JUDGING_TEXTS
from deshi.serve.words.language_model import LANGUAGE_MODEL_TEXTS
from deshi.serve.words.ledger import LEDGER_TEXTS
from deshi.serve.words.page import PAGE_TEXTS
from deshi.serve.words.recorded import RECORDED_TEXTS
from deshi.serve.words.review import REVIEW_TEXTS
from deshi.serve.words.risk import RISK_TEXTS
from deshi.serve.words.section import SECTION_TEXTS
from deshi.serve.words.vendor import VENDOR_TEXTS

Language = Literal["ja", "en"]
LANGUAGES: tuple[Language, ...] = get_args(Language)


class Text(NamedTuple):
    """One sentence or word in every language."""

    ja: str
    en: str


# Each part is a file of its own topic: key -> (Japanese, English).
PARTS: tuple[Mapping[str, tuple[str, str]], ...] = (
    BUSINESS_TEXTS,
    GATE_TEXTS,
    INIT_TEXTS,
    JUDGING_TEXTS,
    LANGUAGE_MODEL_TEXTS,
    LEDGER_TEXTS,
    PAGE_TEXTS,
    RECORDED_TEXTS,
    REVIEW_TEXTS,
    RISK_TEXTS,
    SECTION_TEXTS,
    VENDOR_TEXTS,
)

TEXTS: Mapping[str, Text] = MappingProxyType(
    {
        # numbers and units
        "number.interval": Text("{low} 〜 {high}", "{low} to {high}"),
        "number.n": Text("n = {n}", "n = {n}"),
        "unit.points": Text("ポイント", "points"),
        "unit.rps": Text("件/秒", "requests/s"),
        "unit.times": Text("倍", "x"),
        "unit.rows": Text("行", "rows"),
        "unit.s": Text("秒", "s"),
        "unit.per_1000": Text("{currency}/1,000件", "{currency}/1,000 requests"),
        "basis.measured": Text("実測", "measured"),
        "basis.projected": Text("推定・未測定", "projected, never measured"),
        "basis.short": Text("推定", "projected"),
        "basis.computed": Text("計算", "computed"),
        "basis.not measured": Text("未測定", "not measured"),
        "none": Text("なし", "none"),
        "yes": Text("あり", "yes"),
        # verdict
        "verdict.ACCEPT": Text("採用", "Accept"),
        "verdict.REJECT": Text("不採用", "Reject"),
        "verdict.INCONCLUSIVE": Text("判定保留", "Inconclusive"),
        "verdict.title": Text("判定", "Verdict"),
        "verdict.ACCEPT.meaning": Text(
            "小さいモデルは、定めた基準をすべて満たしました。",
            "The small model meets every target that was set.",
        ),
        "verdict.REJECT.meaning": Text(
            "小さいモデルは、定めた基準を満たしませんでした。以下は、基準に最も近い候補の結果です。",
            "No small model meets the targets that were set. What follows is the nearest candidate.",
        ),
        "verdict.INCONCLUSIVE.meaning": Text(
            "基準を満たすとも満たさないとも、今回の測定では言い切れません。以下は候補の結果です。",
            "The measurements do not settle whether the targets are met. What follows is the candidate.",
        ),
        "verdict.rows_needed": Text(
            "結論を出すには、テストデータがおよそ {rows} 行必要です（今回は {have} 行）。",
            "About {rows} test rows would settle it (this run had {have}).",
        ),
        # reasons of a verdict, by the codes of jobs/evidence/verdict.py
        "reason.drop.pass": Text(
            "品質の低下は {value} ポイント（{low} 〜 {high}）で、区間のすべてが上限 {limit} ポイントを下回ります。",
            "The score drops by {value} points ({low} to {high}), all of it below the limit of {limit}.",
        ),
        "reason.drop.fail": Text(
            "品質の低下は {value} ポイント（{low} 〜 {high}）で、区間のすべてが上限 {limit} ポイントを上回ります。",
            "The score drops by {value} points ({low} to {high}), all of it above the limit of {limit}.",
        ),
        "reason.drop.inconclusive": Text(
            "品質の低下は {value} ポイント（{low} 〜 {high}）で、区間が上限 {limit} ポイントをまたぎます。",
            "The score drops by {value} points ({low} to {high}), astride the limit of {limit}.",
        ),
        "reason.drop.inconclusive_above": Text(
            "品質の低下は {value} ポイント（{low} 〜 {high}）で、区間が上限 {limit} ポイントをまたぎ、測定値も"
            "上限を下回りません。行を増やせば不採用に傾く見込みです。",
            "The score drops by {value} points ({low} to {high}), astride the limit of {limit}, the estimate"
            " not below it: more rows would sooner reject.",
        ),
        "reason.drop.unmeasured": Text(
            "品質の低下を測定していないため、上限 {limit} ポイントを満たすとは言えません。",
            "The drop was not measured, so the limit of {limit} points is not shown to hold.",
        ),
        "reason.projected": Text(
            "{target} の値は推定です。この機械では再現できず、測定していません。",
            "The figures of {target} are projected, not measured: this machine cannot reproduce it.",
        ),
        "reason.latency_ms_p95.pass": Text(
            "{target} の応答時間（95%値）は {value} {unit} で、上限 {limit} {unit} の範囲内です。",
            "Latency p95 on {target}: {value} {unit}, within the limit of {limit} {unit}.",
        ),
        "reason.latency_ms_p95.fail": Text(
            "{target} の応答時間（95%値）は {value} {unit} で、上限 {limit} {unit} を超えます。",
            "Latency p95 on {target}: {value} {unit}, over the limit of {limit} {unit}.",
        ),
        "reason.latency_ms_p95.inconclusive": Text(
            "{target} の応答時間（95%値）は {value} {unit}（{low} 〜 {high}）で、区間が上限 {limit} {unit} をま"
            "たぎます。より長い測定が必要です。",
            "Latency p95 on {target}: {value} {unit} ({low} to {high}) straddles the limit of {limit} {unit}; measure"
            " for longer.",
        ),
        "reason.latency_ms_p95.unmeasured": Text(
            "{target} の応答時間（95%値）は測定していないため、上限 {limit} {unit} を満たすとは言えません。",
            "Latency p95 on {target}: not measured, so the limit of {limit} {unit} is not shown to hold.",
        ),
        "reason.size_mb.pass": Text(
            "大きさは {value} {unit} で、上限 {limit} {unit} の範囲内です。",
            "Size: {value} {unit}, within the limit of {limit} {unit}.",
        ),
        "reason.size_mb.fail": Text(
            "大きさは {value} {unit} で、上限 {limit} {unit} を超えます。",
            "Size: {value} {unit}, over the limit of {limit} {unit}.",
        ),
        "reason.size_mb.inconclusive": Text(
            "大きさは {value} {unit}（{low} 〜 {high}）で、区間が上限 {limit} {unit} をまたぎます。より長い測定"
            "が必要です。",
            "Size: {value} {unit} ({low} to {high}) straddles the limit of {limit} {unit}; measure for longer.",
        ),
        "reason.size_mb.unmeasured": Text(
            "大きさは測定していないため、上限 {limit} {unit} を満たすとは言えません。",
            "Size: not measured, so the limit of {limit} {unit} is not shown to hold.",
        ),
        "reason.memory_mb.pass": Text(
            "{target} の最大メモリは {value} {unit} で、上限 {limit} {unit} の範囲内です。",
            "Peak memory on {target}: {value} {unit}, within the limit of {limit} {unit}.",
        ),
        "reason.memory_mb.fail": Text(
            "{target} の最大メモリは {value} {unit} で、上限 {limit} {unit} を超えます。",
            "Peak memory on {target}: {value} {unit}, over the limit of {limit} {unit}.",
        ),
        "reason.memory_mb.inconclusive": Text(
            "{target} の最大メモリは {value} {unit}（{low} 〜 {high}）で、区間が上限 {limit} {unit} をまたぎま"
            "す。より長い測定が必要です。",
            "Peak memory on {target}: {value} {unit} ({low} to {high}) straddles the limit of {limit} {unit}; measure"
            " for longer.",
        ),
        "reason.memory_mb.unmeasured": Text(
            "{target} の最大メモリは測定していないため、上限 {limit} {unit} を満たすとは言えません。",
            "Peak memory on {target}: not measured, so the limit of {limit} {unit} is not shown to hold.",
        ),
        "reason.cost_per_1000.pass": Text(
            "{target} の1,000件あたりの費用は {value} {unit} で、上限 {limit} {unit} の範囲内です。",
            "Cost of 1,000 requests on {target}: {value} {unit}, within the limit of {limit} {unit}.",
        ),
        "reason.cost_per_1000.fail": Text(
            "{target} の1,000件あたりの費用は {value} {unit} で、上限 {limit} {unit} を超えます。",
            "Cost of 1,000 requests on {target}: {value} {unit}, over the limit of {limit} {unit}.",
        ),
        "reason.cost_per_1000.inconclusive": Text(
            "{target} の1,000件あたりの費用は {value} {unit}（{low} 〜 {high}）で、区間が上限 {limit} {unit} を"
            "またぎます。より長い測定が必要です。",
            "Cost of 1,000 requests on {target}: {value} {unit} ({low} to {high}) straddles the limit of"
            " {limit}; measure for longer.",
        ),
        "reason.cost_per_1000.unmeasured": Text(
            "{target} の1,000件あたりの費用は測定していないため、上限 {limit} {unit} を満たすとは言えません。",
            "Cost of 1,000 requests on {target}: not measured, so the limit of {limit} {unit} is not shown to hold.",
        ),
        # models
        "model.chosen.ACCEPT": Text("採用モデル", "chosen model"),
        "model.chosen.REJECT": Text("最も近い候補", "nearest candidate"),
        "model.chosen.INCONCLUSIVE": Text("候補モデル", "candidate"),
        "model.teacher": Text("教師", "teacher"),
        "model.distilled": Text("蒸留モデル（最良）", "best distilled student"),
        "model.quantize-only": Text("量子化のみ", "quantize only"),
        "model.undistilled-pretrained": Text("蒸留なし（事前学習の層）", "undistilled, pretrained layers"),
        "model.undistilled-teacher": Text("蒸留なし（教師の層）", "undistilled, teacher's layers"),
        "model.static": Text("静的モデル", "static student"),
        "role.chosen": Text("候補", "candidate"),
        "role.teacher": Text("教師", "teacher"),
        "role.distilled": Text("比較用", "for comparison"),
        "role.control": Text("対照", "control"),
        # stages and orders
        "stage.teacher": Text("教師", "teacher"),
        "stage.parent": Text("出発点", "start"),
        "stage.data": Text("データの準備", "data"),
        "stage.machine": Text("計算環境の起動", "start of Ray"),
        "stage.answers": Text("教師の回答", "teacher's answers"),
        "stage.bench": Text("エンジンの下見", "engines tried"),
        "stage.search": Text("探索", "search"),
        "stage.choose": Text("候補の選択", "choice"),
        "stage.controls": Text("対照の作成", "controls"),
        "stage.verdict": Text("テストと判定", "test and verdict"),
        "stage.measure": Text("測定", "measurement"),
        "stage.teach": Text("教師の学習", "teach"),
        "stage.init": Text("層の選択", "layers taken"),
        "stage.depth": Text("層の選択", "layers taken"),
        "stage.train": Text("ラベル学習", "train on labels"),
        "stage.label": Text("ラベル学習", "train on labels"),
        "stage.finetune": Text("ラベル学習", "train on labels"),
        "stage.distill": Text("蒸留", "distil"),
        "stage.prune": Text("剪定", "prune"),
        "stage.vocabulary": Text("語彙の剪定", "prune vocabulary"),
        "stage.recover": Text("回復学習", "recover"),
        "stage.quantize": Text("量子化", "quantize"),
        "stage.export": Text("実行形式への変換", "export"),
        "stage.static": Text("静的モデル化", "make static"),
        "order.article": Text("記事の順序", "the article's order"),
        "order.illegal": Text("実行不可", "illegal"),
        "shape.1x16": Text("1件・短文", "one short text"),
        "shape.1x128": Text("1件・長文", "one long text"),
        "shape.32x16": Text("32件・短文", "32 short texts"),
        "shape.32x128": Text("32件・長文", "32 long texts"),
        # figures of the evidence
        "score.accuracy": Text("正解率", "accuracy"),
        "score.macro_f1": Text("マクロF1", "macro F1"),
        "score.balanced_accuracy": Text("平均再現率", "balanced accuracy"),
        "quantity.score": Text("{score}", "{score}"),
        "quantity.drop": Text("教師からの低下", "drop from the teacher"),
        "quantity.agreement": Text("教師との一致率", "agreement with the teacher"),
        "quantity.kl": Text("教師の確率とのずれ（KL）", "KL to the teacher"),
        "quantity.calibration_error": Text("確信度の誤差", "calibration error"),
        "quantity.unknown_token_rate": Text("未知語率", "unknown-token rate"),
        "quantity.slice_score": Text("区分ごとの{score}", "{score} of a slice"),
        "quantity.slice_drop": Text("区分ごとの低下", "drop of a slice"),
        "quantity.engine_ms": Text("モデルの計算時間（1件）", "engine time of one request"),
        "quantity.ratio_to_teacher": Text("教師に対する計算時間の比", "engine time over the teacher's"),
        "quantity.p50": Text("応答時間 中央値", "latency p50"),
        "quantity.p95": Text("応答時間 95%値", "latency p95"),
        "quantity.p99": Text("応答時間 99%値", "latency p99"),
        "quantity.engine_p95": Text("うち モデルの計算（95%値）", "of it, engine p95"),
        "quantity.queue_p95": Text("うち 待ち行列（95%値）", "of it, queue p95"),
        "quantity.http_p95": Text("うち HTTP処理（95%値）", "of it, HTTP p95"),
        "quantity.network": Text("うち 通信", "of it, network"),
        "quantity.throughput_rps": Text("処理能力", "throughput"),
        "quantity.memory_mb": Text("最大メモリ", "peak memory"),
        "quantity.startup_s": Text("起動時間", "start-up"),
        "quantity.energy_j": Text("1件あたりの電力量", "energy of a request"),
        "quantity.tried_ms": Text("試したエンジンの計算時間", "time of an engine that was tried"),
        "quantity.tried_ratio": Text("試したエンジンの、教師に対する比", "its time over the teacher's"),
        "quantity.size_mb": Text("大きさ", "size"),
        "quantity.machines": Text("必要な台数", "machines needed"),
        "quantity.cost_per_1000": Text("1,000件あたりの費用", "cost per 1,000 requests"),
        "quantity.cost_per_1000_full_use": Text("同、全力稼働時の下限", "the same, never idle: a lower bound"),
        "quantity.order_score": Text("工程順ごとの{score}", "{score} of a stage order"),
        "quantity.order_agreement": Text("工程順ごとの一致率", "agreement of a stage order"),
        "quantity.kpi": Text("KPI:{name}", "KPI: {name}"),
        "list.parts": Text("。", "; "),
        "list.comma": Text("、", ", "),
        "list.colon": Text("：", ": "),
        "list.arrow": Text(" → ", " → "),
    }
    | {key: Text(*said) for part in PARTS for key, said in part.items()}
)


def text(key: str, lang: Language, **values: object) -> str:
    """The words of `key` in `lang`, its placeholders filled in.

    Raises:
        KeyError: if there is no such key, or a placeholder is left without a value.
    """
    if key not in TEXTS:
        raise KeyError(f"no text is called {key!r}; add a row to deshi.serve.texts.TEXTS")
    return getattr(TEXTS[key], lang).format(**values)


def recorded(words: str, lang: Language) -> str:
    """What one of our programs recorded (a row `record.`) in the reader's language; anything else as it stands.

    The English text is the record, so it is also the pattern; parts that are joined by "; " are read one by one.
    """
    # The longest first, so that a template that is the end of another does not speak for it.
    records = sorted((key for key in TEXTS if key.startswith("record.")), key=lambda key: -len(TEXTS[key].en))
    for key in records:
        if found := re.fullmatch(_pattern(TEXTS[key].en), words):
            return text(key, lang, **{name: named("stage", value, lang) for name, value in found.groupdict().items()})
    parts = words.split("; ")
    return words if len(parts) == 1 else text("list.parts", lang).join(recorded(part, lang) for part in parts)


@cache
def _pattern(template: str) -> str:
    """The regular expression that a `str.format` template matches; a placeholder that returns is the same again."""
    pattern, seen = "", set()
    for literal, name, _, _ in Formatter().parse(template):
        pattern += re.escape(literal)
        if name is not None:
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>[^;]+?)"
            seen.add(name)
    return pattern


def named(prefix: str, name: str, lang: Language) -> str:
    """The words for a name that data holds (`stage.`, `kpi.`, ...), or the name itself where it has none."""
    key = f"{prefix}.{name}"
    return text(key, lang) if key in TEXTS else name
