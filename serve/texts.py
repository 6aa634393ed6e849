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

from deshi.serve.language_model_texts import LANGUAGE_MODEL_TEXTS
from deshi.serve.recorded_texts import RECORDED_TEXTS

Language = Literal["ja", "en"]
LANGUAGES: tuple[Language, ...] = get_args(Language)


class Text(NamedTuple):
    """One sentence or word in every language."""

    ja: str
    en: str


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
        # page
        "page.title": Text("小型化の評価報告書", "Model reduction report"),
        "page.kicker": Text("Deshi 評価報告書", "Deshi evidence report"),
        "page.task.classify": Text("文章の自動振り分け（分類）", "text classification"),
        "page.created": Text("作成 {created}", "created {created}"),
        "page.classes": Text("{n}種類に分類", "{n} classes"),
        "page.original": Text(
            "英文のまま示した箇所は、測定プログラムが残した記録の原文です。",
            "Passages in another language than this page are quoted from the measuring program's own record.",
        ),
        "page.notation": Text(
            "幅のある数値は{confidence}信頼区間です。「ポイント」は百分率の差（1ポイント = 0.01）です。",
            "Ranges are {confidence} confidence intervals. A point is a difference of percentages (0.01).",
        ),
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
        "verdict.limits_link": Text(
            "この判定が証明していないこと（{n}件）", "What this verdict does not prove ({n} items)"
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
        "notice.not_distilled": Text(
            "このモデルは蒸留で作ったものではありません（工程：{chain}）。教師を模倣した生徒モデルとの比較は下"
            "の表をご覧ください。",
            "This model was not distilled (stages: {chain}). See the tables below for the distilled students.",
        ),
        "notice.static": Text(
            "このモデルは、単語の埋め込みを足し合わせるだけの静的モデルです。語順は読み取りません。",
            "This model is static: it adds up word embeddings and does not read word order.",
        ),
        "notice.no_candidate": Text(
            "候補モデルの結果は記録にありません。表には教師と対照だけを示します。",
            "The evidence holds no candidate; the tables show the teacher and the controls only.",
        ),
        # tiles
        "tile.cost": Text("1,000件あたりの費用", "Cost per 1,000 requests"),
        "tile.latency": Text("利用者が感じる応答時間（95%がこれ以内）", "Latency as felt (95% are faster)"),
        "tile.drop": Text("品質の低下（教師との差）", "Quality drop against the teacher"),
        "tile.size": Text("モデルの大きさ", "Size"),
        "tile.teacher": Text("教師 {value}", "teacher {value}"),
        "tile.limit": Text("基準 {value}以下", "at most {value}"),
        "tile.scores": Text("{score}：教師 {teacher} → 今回 {chosen}", "{score}: teacher {teacher}, now {chosen}"),
        "tile.cost_full_use": Text("全力稼働時の下限 {value}", "lower bound, never idle: {value}"),
        "tile.machines": Text("最大負荷に必要な台数 {value}", "machines at peak load: {value}"),
        "tile.no_teacher": Text("教師の値なし", "no teacher figure"),
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
        "quality.score_n": Text("{score}（n = {n}）", "{score} (n = {n})"),
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
        "quantity.engine_p95": Text("うち モデルの計算（95%値）", "of it, engine p95"),
        "quantity.queue_p95": Text("うち 待ち行列（95%値）", "of it, queue p95"),
        "quantity.http_p95": Text("うち HTTP処理（95%値）", "of it, HTTP p95"),
        "quantity.network": Text("うち 通信", "of it, network"),
        "quantity.throughput_rps": Text("処理能力", "throughput"),
        "quantity.memory_mb": Text("最大メモリ", "peak memory"),
        "quantity.size_mb": Text("大きさ", "size"),
        "quantity.machines": Text("必要な台数", "machines needed"),
        "quantity.cost_per_1000": Text("1,000件あたりの費用", "cost per 1,000 requests"),
        "quantity.cost_per_1000_full_use": Text("同、全力稼働時の下限", "the same, never idle: a lower bound"),
        "quantity.order_score": Text("工程順ごとの{score}", "{score} of a stage order"),
        "quantity.order_agreement": Text("工程順ごとの一致率", "agreement of a stage order"),
        "quantity.kpi": Text("KPI:{name}", "KPI: {name}"),
        # KPI table
        "kpi.title": Text("KPI一覧", "KPIs"),
        "kpi.lead": Text(
            "合否は点推定ではなく区間で判定します。区間が基準をまたぐ項目は「保留」です。",
            "The interval decides, not the point: an interval across the limit is inconclusive.",
        ),
        "kpi.axis": Text("観点", "axis"),
        "kpi.axis.quality": Text("品質", "quality"),
        "kpi.axis.operations": Text("運用", "operations"),
        "kpi.axis.risk": Text("リスク", "risk"),
        "kpi.name": Text("項目", "KPI"),
        "kpi.limit": Text("基準", "target"),
        "kpi.measured": Text("測定値", "measured"),
        "kpi.interval": Text("区間", "interval"),
        "kpi.n": Text("件数", "n"),
        "kpi.verdict": Text("判定", "verdict"),
        "kpi.at most": Text("{value}以下", "at most {value}"),
        "kpi.at least": Text("{value}以上", "at least {value}"),
        "kpi.verdict.PASS": Text("合格", "pass"),
        "kpi.verdict.FAIL": Text("不合格", "fail"),
        "kpi.verdict.INCONCLUSIVE": Text("保留", "inconclusive"),
        "kpi.verdict.NO TARGET": Text("基準なし", "no target"),
        "kpi.drop": Text("教師からの低下", "drop from the teacher"),
        "kpi.latency_ms_p95": Text("応答時間 95%値", "latency p95"),
        "kpi.size_mb": Text("大きさ", "size"),
        "kpi.memory_mb": Text("最大メモリ", "peak memory"),
        "kpi.cost_per_1000": Text("1,000件あたりの費用", "cost per 1,000 requests"),
        "kpi.worst_slice": Text("最も悪い区分の低下", "drop of the worst slice"),
        "kpi.calibration_error": Text("確信度の誤差", "calibration error"),
        "kpi.score": Text("品質スコア", "score"),
        "kpi.agreement": Text("教師との一致率", "agreement with the teacher"),
        "kpi.on": Text("{name}（{target}）", "{name} ({target})"),
        "kpi.empty": Text("KPIの記録がありません。", "The evidence holds no KPI row."),
        # quality, controls
        "quality.title": Text("品質：教師と対照との比較", "Quality: the teacher and the controls"),
        "quality.lead": Text(
            "同じテストデータを全モデルに一度だけ解かせ、1行ずつ教師と突き合わせました。対照は同じラベルと同じ"
            "学習量です。",
            "Every model answered the same test rows, once, paired row by row with the teacher. The controls had the"
            " same labels and the same budget.",
        ),
        "quality.drops": Text("教師からの低下と区間", "Drop from the teacher, with interval"),
        "quality.drops.caption": Text(
            "点は測定値、横線は区間、縦線は許容できる低下の上限です。横線がすべて上限より左にあれば合格です。",
            "Dots are measured, bars are intervals, the line is the largest drop allowed. A bar wholly left of"
            " it passes.",
        ),
        "quality.margin": Text("許容 {value}", "allowed {value}"),
        "quality.model": Text("モデル", "model"),
        "quality.flips": Text("正→誤 / 誤→正", "turned wrong / right"),
        "quality.mcnemar": Text("マクネマー検定 p", "McNemar p"),
        "quality.chain": Text("工程", "stages"),
        "quality.shape": Text("層 / FFN / 語彙", "layers / FFN / vocabulary"),
        "quality.parameters": Text("パラメータ数", "parameters"),
        "quality.scheme": Text("数値形式", "scheme"),
        "quality.steps": Text("学習ステップ", "training steps"),
        "quality.made": Text("各モデルの作り", "How each model is made"),
        # pareto
        "pareto.title": Text("候補の全体像（パレート図）", "All candidates (Pareto picture)"),
        "pareto.lead": Text(
            "左上ほど、速く（小さく）正確です。候補の点は検証データでの値で、選択に使ったものです。",
            "Up and to the left is faster (smaller) and better. Candidates are placed by the validation rows"
            " that chose.",
        ),
        "pareto.latency": Text("速さと品質", "Speed and quality"),
        "pareto.size": Text("大きさと品質", "Size and quality"),
        "pareto.x.latency_ms": Text("計算時間（ms、対数目盛）", "engine time (ms, log scale)"),
        "pareto.x.size_mb": Text("大きさ（MB、対数目盛）", "size (MB, log scale)"),
        "pareto.y": Text("{score}（検証）", "{score} (validation)"),
        "pareto.legend.front": Text("パレート最適", "on the front"),
        "pareto.legend.other": Text("その他の候補", "other candidates"),
        "pareto.legend.reference": Text("教師・対照（テストデータでの値）", "teacher and controls (test rows)"),
        "pareto.caption": Text(
            "試行 {n}件、うちパレート最適 {front}件。白抜きの印は比較用の参考で、テストデータでの値です。"
            "下端の小さな▼は、図の範囲より品質が低い候補です。",
            "{n} trials, {front} on the front. Hollow marks are for comparison and show the test rows."
            " Small triangles on the floor are candidates below the picture's range.",
        ),
        "pareto.empty": Text("探索の記録がありません。", "The evidence holds no trial."),
        # waterfall
        "waterfall.title": Text("工程ごとの変化", "What each stage changed"),
        "waterfall.lead": Text(
            "選ばれたモデルが各工程の後にどう変わったかを示します。品質は検証データ、時間はモデルの計算だけ、"
            "費用は{target}の1台が休みなく働いた場合の下限です。",
            "The winner after each of its stages: quality on the validation rows, time of the engine alone, and"
            " the cost of one machine of {target} that is never idle, a lower bound.",
        ),
        "waterfall.caption": Text("灰色は前の工程の値です。", "Grey marks the value before the stage."),
        "waterfall.stage": Text("工程", "stage"),
        "waterfall.latency": Text("計算時間", "engine time"),
        "waterfall.size": Text("大きさ", "size"),
        "waterfall.cost": Text("1,000件の費用の下限", "lower bound of cost per 1,000"),
        "waterfall.empty": Text("工程ごとの記録がありません。", "The evidence holds no stage."),
        # orders
        "orders.title": Text("工程の順序の比較", "Stage orders compared"),
        "orders.lead": Text(
            "学習量をそろえ、順序だけを変えて測りました。「記事の順序」は本製品が手本とした記事の順です。",
            "Equal training budget, only the order differs. The article's order is the one this product follows.",
        ),
        "orders.order": Text("順序", "order"),
        "orders.empty": Text("順序の比較は行っていません。", "No order was compared."),
        # slices
        "slices.title": Text("区分ごとの品質", "Quality by slice"),
        "slices.lead": Text(
            "全体の平均が良くても、特定の区分だけ悪くなることがあります。低下が大きい順に並べました。",
            "A good average can hide a bad slice. The largest drops come first.",
        ),
        "slices.slice": Text("区分", "slice"),
        "slices.teacher": Text("教師", "teacher"),
        "slices.model": Text("今回", "this model"),
        "slices.status": Text("状態", "status"),
        "slices.held": Text("基準内", "within"),
        "slices.worse": Text("基準超え", "beyond"),
        "slices.unproven": Text("未確認", "unproven"),
        "slices.small": Text(
            "{n}行未満のため結論を出せない区分（{count}件）：",
            "Under {n} rows, so unproven ({count} slices):",
        ),
        "slices.all": Text("全モデルの区分別の値を開く", "All models, every slice"),
        "slices.empty": Text("区分は指定されていません。", "The recipe names no slice."),
        # targets
        "targets.title": Text("動かす場所ごとの結果", "Results by target"),
        "targets.lead": Text(
            "最大負荷（毎秒{rps}件）をかけて、利用者から見た応答時間を測りました。",
            "Latency as the user feels it, at the peak load of {rps} requests/s.",
        ),
        "targets.figure": Text("応答時間の内訳（95%値）", "Latency split (p95)"),
        "targets.figure.caption": Text(
            "内訳はそれぞれの95%値なので、足しても全体の95%値とは一致しません。黒い縦線が全体の95%値、赤い破線"
            "が上限です。",
            "Each part is its own p95, so the parts do not add up to the whole. Black: the whole p95; red"
            " dashes: the limit.",
        ),
        "targets.part.engine": Text("モデルの計算", "engine"),
        "targets.part.queue": Text("待ち行列", "queue"),
        "targets.part.http": Text("HTTP処理", "HTTP"),
        "targets.part.network": Text("通信", "network"),
        "targets.limit": Text("上限 {value}", "limit {value}"),
        "targets.facts": Text(
            "スレッド {threads}、往復通信 {rtt} ms、単価 {price} {currency}/時",
            "{threads} threads, round trip {rtt} ms, {price} {currency} an hour",
        ),
        "targets.memory": Text("メモリ上限 {memory} MB", "{memory} MB of memory"),
        "targets.projected": Text(
            "この行き先は測定した機械で再現できません。値は推定であり、一度も測定していません。",
            "This target cannot be reproduced on the measuring machine: its figures are projected, never measured.",
        ),
        "targets.quantity": Text("項目", "figure"),
        "targets.build": Text("実行エンジン", "engine and scheme"),
        "targets.chosen_builds": Text("文の長さと件数ごとに選ばれたエンジン", "Engine chosen by batch and length"),
        "targets.shape": Text("{rows}件×{tokens}トークン", "{rows} row(s) x {tokens} tokens"),
        "targets.empty": Text("行き先の記録がありません。", "The evidence holds no target."),
        # removed, data
        "removed.title": Text("取り除いたもの", "What was removed"),
        "removed.layers": Text("教師から外した層（0から数える）", "teacher layers dropped, counted from 0"),
        "removed.ffn": Text("中間層（FFN）の幅の削減", "FFN width removed"),
        "removed.vocabulary": Text("語彙から外した語", "vocabulary entries removed"),
        "removed.parameters": Text("パラメータの削減", "parameters removed"),
        "removed.bits": Text("数値の精度", "number format"),
        "data.title": Text("データとラベル", "Data and labels"),
        "data.rows": Text("行数", "Rows"),
        "data.rows.train": Text("学習", "train"),
        "data.rows.unlabelled": Text("ラベルなし", "unlabelled"),
        "data.rows.agreement": Text("一致率の確認", "agreement"),
        "data.rows.calibration": Text("較正", "calibration"),
        "data.rows.validation": Text("検証", "validation"),
        "data.rows.test": Text("テスト", "test"),
        "data.labels": Text("使ったラベルの数", "Labels used"),
        "data.labels.training": Text("学習に使用", "for training"),
        "data.labels.selection": Text("選択に使用", "for selection"),
        "data.labels.test": Text("テストに使用", "for the test"),
        "data.truncated": Text("長さの上限で切られた行の割合", "Share of rows cut at the length limit"),
        "data.unknown": Text("テストでの未知語率", "Unknown-token rate on the test"),
        "data.quality": Text("データの注意点", "Cautions"),
        "data.duplicates": Text("取り除いた重複行", "duplicates dropped"),
        "data.near_twins": Text(
            "学習や選択に使った文とほぼ同じテスト行", "test rows with a near-twin in training or selection"
        ),
        "data.classes": Text("分類先", "Classes"),
        # how measured
        "how.title": Text("測定方法", "How each figure was measured"),
        "how.lead": Text(
            "この報告書の数値を、どの計算または測定で得たかの記録です。",
            "The record of which computation or measurement gave each number here.",
        ),
        "how.quantity": Text("数値", "figure"),
        "how.how": Text("得た方法（記録の原文）", "how"),
        "how.basis": Text("種別", "basis"),
        "how.count": Text("個数", "count"),
        "how.n": Text("件数 n", "n"),
        "how.unrecorded": Text("記録なし", "not recorded"),
        "how.notes": Text("補足", "Notes"),
        "topic.intervals": Text("区間", "intervals"),
        "topic.selection": Text("選び方", "selection"),
        "topic.latency": Text("応答時間", "latency"),
        "topic.cost": Text("費用", "cost"),
        "data.notes": Text("データの分け方", "How the rows were split"),
        "quality.left_out": Text("作れなかった対照", "Controls that could not be made"),
        "topic.controls": Text("対照", "controls"),
        "origin.title": Text("再現のための記録", "Record for reproduction"),
        "origin.machine": Text("測定した機械", "Machine"),
        "origin.machine.cpu": Text("プロセッサ", "processor"),
        "origin.machine.cores": Text("コア数", "cores"),
        "origin.machine.memory_gb": Text("メモリ（GB）", "memory (GB)"),
        "origin.machine.platform": Text("OS", "platform"),
        "origin.machine.gpu": Text("GPU", "GPU"),
        "origin.versions": Text("ソフトウェアの版", "Versions"),
        "origin.commit": Text("Deshi のコミット", "Deshi commit"),
        "origin.digests": Text("ダイジェスト（改ざん検出用）", "Digests"),
        "origin.licences": Text("ライセンス", "Licences"),
        "origin.licences.teacher": Text("教師モデル", "teacher"),
        "origin.licences.data": Text("データ", "data"),
        "origin.seconds": Text("所要時間（秒）", "Wall time (s)"),
        "origin.recipe": Text("レシピ（指示書）の全文を開く", "The whole recipe"),
        # limits
        "limits.title": Text("この報告書が証明していないこと", "What was not proven"),
        "limits.scope": Text(
            "テストは {n} 行です。結果が当てはまるのは、これと同じ種類の文章だけです。",
            "The test has {n} rows. The result holds for texts of the same kind only.",
        ),
        "limits.seed": Text(
            "学習は乱数の種一つ（{seed}）で行いました。種を変えたときのばらつきは区間に含まれません。",
            "Training used one random seed ({seed}). The intervals do not hold the spread between seeds.",
        ),
        "limits.people": Text(
            "利用者の満足度や業務の処理率は測っていません。",
            "User satisfaction and the rate of finished business cases were not measured.",
        ),
        "limits.cost": Text(
            "費用はレシピに書かれた機械の単価からの計算です。人件費、移行作業、保守は含みません。",
            "Costs are computed from the recipe's price of a machine; labour, migration and upkeep are not in them.",
        ),
        "limits.projected": Text(
            "{targets} は測定した機械で再現できず、値は推定です。導入前に実機で測ってください。",
            "{targets}: projected, not measured. Measure on the real machine before it is used.",
        ),
        "limits.latency": Text(
            "{targets} では、利用者から見た応答時間を測っていません。",
            "{targets}: latency as the user feels it was not measured.",
        ),
        "limits.slices": Text(
            "{total}区分のうち{n}区分は、行数が足りず、低下が基準内かどうか確認できていません。",
            "{n} of {total} slices are too small to say that their drop is within the limit.",
        ),
        "limits.kpis": Text("判定を保留したKPI：{names}。", "KPIs left inconclusive: {names}."),
        "limits.no_target": Text(
            "基準を定めていないため合否に使っていないKPI：{names}。",
            "KPIs without a target, which gate nothing: {names}.",
        ),
        "limits.near_twins": Text(
            "テストの{n}行は学習や選択に使った文とほぼ同じで、品質を少し良く見せる可能性があります。",
            "{n} test rows have a near-twin in training or selection, which may flatter the quality a little.",
        ),
        "limits.truncated": Text(
            "テストの{share}は長さの上限で切られ、後半は読まれていません。",
            "{share} of the test rows were cut at the length limit; their tails were not read.",
        ),
        "limits.licence": Text(
            "{names}のライセンスが不明です。使用の可否を確認してください。",
            "The licence of {names} is unknown; make sure that it may be used.",
        ),
        "list.parts": Text("。", "; "),
        "list.comma": Text("、", ", "),
        "list.arrow": Text(" → ", " → "),
    }
    | {key: Text(*said) for key, said in (RECORDED_TEXTS | LANGUAGE_MODEL_TEXTS).items()}
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
