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
    }
)
