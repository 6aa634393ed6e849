"""The words of the report's first screen and of its account and risk sections, key -> (ja, en)."""

from __future__ import annotations

PAGE_TEXTS: dict[str, tuple[str, str]] = {
    "page.title": ("小型化の評価報告書", "Model reduction report"),
    "page.kicker": ("Deshi 評価報告書", "Deshi evidence report"),
    "page.task.classify": ("文章の自動振り分け（分類）", "text classification"),
    "page.created": ("作成 {created}", "created {created}"),
    "page.classes": ("{n}種類に分類", "{n} classes"),
    "page.original": (
        "英文のまま示した箇所は、測定プログラムが残した記録の原文です。",
        "Passages in another language than this page are quoted from the measuring program's own record.",
    ),
    "page.notation": (
        "幅のある数値は{confidence}信頼区間です。「ポイント」は百分率の差（1ポイント = 0.01）です。",
        "Ranges are {confidence} confidence intervals. A point is a difference of percentages (0.01).",
    ),
    "verdict.limits_link": ("この判定が証明していないこと（{n}件）", "What this verdict does not prove ({n} items)"),
    "notice.not_distilled": (
        "このモデルは蒸留で作ったものではありません（工程：{chain}）。教師を模倣した生徒モデルとの比較は下"
        "の表をご覧ください。",
        "This model was not distilled (stages: {chain}). See the tables below for the distilled students.",
    ),
    "notice.static": (
        "このモデルは、単語の埋め込みを足し合わせるだけの静的モデルです。語順は読み取りません。",
        "This model is static: it adds up word embeddings and does not read word order.",
    ),
    "notice.no_candidate": (
        "候補モデルの結果は記録にありません。表には教師と対照だけを示します。",
        "The evidence holds no candidate; the tables show the teacher and the controls only.",
    ),
    "tile.cost": ("1,000件あたりの費用", "Cost per 1,000 requests"),
    "tile.latency": ("利用者が感じる応答時間（95%がこれ以内）", "Latency as felt (95% are faster)"),
    "tile.drop": ("品質の低下（教師との差）", "Quality drop against the teacher"),
    "tile.size": ("モデルの大きさ", "Size"),
    "tile.teacher": ("教師 {value}", "teacher {value}"),
    "tile.limit": ("基準 {value}以下", "at most {value}"),
    "tile.scores": ("{score}：教師 {teacher} → 今回 {chosen}", "{score}: teacher {teacher}, now {chosen}"),
    "tile.cost_full_use": ("全力稼働時の下限 {value}", "lower bound, never idle: {value}"),
    "tile.machines": ("最大負荷に必要な台数 {value}", "machines at peak load: {value}"),
    "tile.no_teacher": ("教師の値なし", "no teacher figure"),
}
