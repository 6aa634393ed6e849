"""What a person reads of a judged model and of several PoCs side by side; a part of `deshi.serve.texts.TEXTS`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# key -> (Japanese, English)
JUDGING_TEXTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "model.live": ("稼働中のモデル", "live release"),
        "stage.given": ("提供されたモデル", "given model"),
        "replacement.title": ("稼働中のモデルと入れ替えるか", "Replace the live release?"),
        "replacement.replace": ("入れ替える", "Replace"),
        "replacement.keep": ("今のまま使う", "Keep"),
        "replacement.not_accepted": (
            "新しいモデルは、定めた基準をすべて満たすとは言えません。",
            "The new model is not shown to meet every target that was set.",
        ),
        "replacement.may_be_worse": (
            "新しいモデルの品質が、稼働中のモデルより許容幅を超えて低い可能性が残ります。",
            "The new model may lose more than the margin against the live one.",
        ),
        "replacement.cheaper": (
            "品質の差は許容幅に収まり、費用が下がります。",
            "It keeps within the margin of the live one and costs less.",
        ),
        "replacement.better": (
            "費用は下がりませんが、品質が高いことを確認しました。",
            "It does not cost less, but is shown to be better.",
        ),
        "replacement.no_gain": (
            "品質も費用も、入れ替えるほどの差はありません。",
            "Neither quality nor cost pays for the change.",
        ),
        "replacement.drop": ("稼働中のモデルからの低下", "drop from the live release"),
        "replacement.hourly_cost": ("1時間あたりの費用（今回 / 稼働中）", "cost an hour (this one / live)"),
        "record.replacement.drop": (
            "テスト行ごとの、稼働中のモデルの正否から今回の正否を引いた平均、対応のあるブートストラップ",
            "mean over test rows of the live hit less this one's, paired bootstrap",
        ),
        "record.replacement.hourly": (
            "応答時間の上限を守れる処理量で最大負荷に必要な台数 × 1時間の単価、全対象の合計",
            "whole machines at peak_rps within the latency limit x price_per_hour, over all targets",
        ),
        "portfolio.title": ("PoC一覧", "PoCs side by side"),
        "portfolio.kicker": ("Deshi PoC一覧", "Deshi portfolio"),
        "portfolio.lead": (
            "小さなPoCを同じ予算の中で並べて走らせた結果です。見込みの大きいものから順に学習時間を割り当てました。",
            "Several small PoCs, run under one budget. Training time went to the most promising first.",
        ),
        "portfolio.budget": (
            "学習時間の予算 {minutes} 分、全体の所要時間 {total} 分、{created} 作成。",
            "{minutes} minutes of training were shared; everything took {total} minutes; made {created}.",
        ),
        "portfolio.name": ("PoC", "PoC"),
        "portfolio.verdict": ("判定", "verdict"),
        "portfolio.drop": ("教師からの低下", "drop from the teacher"),
        "portfolio.saving": ("月あたりの削減額", "saving a month"),
        "portfolio.payback": ("回収期間", "payback"),
        "portfolio.risk": ("最も大きいリスク", "gravest risk"),
        "portfolio.next": ("次の一手", "next step"),
        "portfolio.minutes": ("学習時間（分）", "minutes of training"),
        "portfolio.failed": ("失敗", "failed"),
        "portfolio.report": ("報告書", "report"),
        "portfolio.step.scale": ("本番に近い負荷で試し、広げます。", "Scale it: serve it and widen its use."),
        "portfolio.step.more_data": (
            "テストデータを増やして（目安 {rows} 行）、もう一度実行します。",
            "Gather more test rows (about {rows}) and run it again.",
        ),
        "portfolio.step.measure_again": (
            "判定を保留した項目を、測定を延ばすか基準を見直して、もう一度確かめます。",
            "Settle what is inconclusive: measure for longer (resources.load_seconds) or look at that limit again.",
        ),
        "portfolio.step.more_budget": (
            "学習時間を全部は使っていません。単独で実行し直します。",
            "It has not had all of its training time: run it alone.",
        ),
        "portfolio.step.another_margin": (
            "費用は下がるため、許容できる低下幅を業務側と見直します。",
            "It saves money: ask the business whether the margin can be wider.",
        ),
        "portfolio.step.stop": ("効果が見込めないため、ここで止めます。", "Nothing is gained: stop here."),
        "portfolio.step.mend": ("原因を直して、もう一度実行します。", "Mend the cause and run it again."),
        "portfolio.notation": (
            "幅のある数値は信頼区間です。金額はそれぞれのレシピの通貨です。",
            "Ranges are confidence intervals. Money is in each recipe's currency.",
        ),
    }
)
