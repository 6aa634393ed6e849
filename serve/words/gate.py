"""The sentences of texts.py about the gate by slice, key -> (ja, en)."""

from __future__ import annotations

GATE_TEXTS: dict[str, tuple[str, str]] = {
    "kpi.harmed_slices": ("品質が損なわれた区分の数", "slices that are harmed"),
    "slices.harmed": ("品質低下あり", "harmed"),
    "reason.harmed_slices.pass": (
        "判定できる大きさの {n} 区分のうち、品質が損なわれたものはありません。",
        "No slice of the {n} that are large enough to be judged is harmed.",
    ),
    "reason.harmed_slices.fail": (
        "区分 {slice}（{n} 行）で品質が損なわれています。低下は {value} ポイント（{low} 〜 {high}）です。ほかの行より"
        "低下が大きいことが統計的に確かめられ、上限 {limit} ポイントも超えています。",
        "The slice {slice} (n = {n}) is harmed: it drops by {value} points ({low} to {high}), proven to be more than"
        " the other rows drop and beyond the limit of {limit}.",
    ),
    "kpi.slice_least": ("最も弱い区分のスコア", "score of the weakest slice"),
    "reason.slice_least.pass": (
        "判定できる大きさの区分は、すべて {limit}% 以上です。最も弱い区分 {slice} は {value}%（{low} 〜 {high}）です。",
        "Every slice that is large enough to be judged scores at least {limit}%; the weakest, {slice}, scores {value}%"
        " ({low} to {high}).",
    ),
    "reason.slice_least.fail": (
        "区分 {slice}（{n} 行）のスコアは {value}%（{low} 〜 {high}）で、区間のすべてが、どの区分にも求める {limit}% を"
        "下回ります。教師のスコアも {teacher}% です。",
        "The slice {slice} (n = {n}) scores {value}% ({low} to {high}), all of it below the {limit}% that every slice"
        " must reach; the teacher scores {teacher}% there.",
    ),
    "reason.slice_least.inconclusive": (
        "区分 {slice}（{n} 行）のスコアは {value}%（{low} 〜 {high}）で、区間が、どの区分にも求める {limit}% を"
        "またぎます。",
        "The slice {slice} (n = {n}) scores {value}% ({low} to {high}), astride the {limit}% that every slice must"
        " reach.",
    ),
    "reason.slice_least.unmeasured": (
        "判定できる大きさの区分がないため、どの区分も {limit}% 以上とは言えません。",
        "No slice is large enough to be judged, so the {limit}% that every slice must reach are not shown to hold.",
    ),
    "record.harmed_slices": (
        "全 {total} 区分のうち、判定できる大きさのものは {judged} 区分",
        "of {total} slices, {judged} large enough to be judged",
    ),
    "record.harm_test": (
        "ほかの行より低下が大きく（スコア検定、Holm法で補正、有意水準5%）、かつ許容幅を超えて低下した区分を数えました",
        "counts those that drop more than the other rows (score test, Holm, 5%) and by more than the margin",
    ),
}
