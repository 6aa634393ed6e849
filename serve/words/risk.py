"""The words of risk: its section, its figures, and the page of changed answers; key -> (ja, en)."""

from __future__ import annotations

RISK_TEXTS: dict[str, tuple[str, str]] = {
    "risk.title": ("リスクと対策", "What may go wrong, and what is done against it"),
    "risk.column.title": ("リスク", "Risk"),
    "risk.column.level": ("程度", "Level"),
    "risk.column.figure": ("測定値", "Measured"),
    "risk.column.sign": ("現れ方", "How one would notice"),
    "risk.column.counter": ("対策", "Counter-measure"),
    "risk.column.effect": ("対策の効果（実測）", "Its measured effect"),
    "risk.level.high": ("高", "high"),
    "risk.level.medium": ("中", "medium"),
    "risk.level.low": ("低", "low"),
    "risk.level.unknown": ("不明", "unknown"),
    "risk.level_rule": (
        "「高」は害が確かめられたもの、「中」は害の有無を言い切れないもの、「低」は限度内と確かめられたもの、"
        "「不明」は測っていないものです。",
        "High: the harm is shown. Medium: neither harm nor its absence is shown. Low: shown to be within the limit. "
        "Unknown: not measured.",
    ),
    "risk.not_measured": ("未測定", "not measured"),
    # figures of Risk
    "risk.confident_wrong": (
        "自信をもって間違えた割合（確信度0.9以上）",
        "Wrong with a confidence of 0.9 or more",
    ),
    "risk.teacher_confident_wrong": ("同、教師モデル", "the same, the teacher"),
    "risk.calibration_before": ("確信度のずれ（補正前）", "Calibration error before correction"),
    "risk.calibration_after": ("確信度のずれ（補正後）", "Calibration error after correction"),
    "risk.error_cost_per_1000": ("誤りによる損失（1,000件あたり）", "Cost of errors a 1,000 requests"),
    "risk.teacher_error_cost_per_1000": ("同、教師モデル", "the same, the teacher"),
    "risk.error_cost_difference_per_1000": ("教師モデルとの差", "more than the teacher's"),
    "risk.explanations.agreement": ("判断理由の一致：教師モデルと", "Agreement of reasons with the teacher"),
    "risk.explanations.ceiling": (
        "同、種だけが違う2つの教師（上限の目安）",
        "the same, of two teachers that differ by seed (ceiling)",
    ),
    "risk.explanations.floor": (
        "同、学習していないモデルと（下限の目安）",
        "the same, with an untrained model (floor)",
    ),
    "risk.rare_divergence": (
        "丸めで回答が変わった割合：珍しい語を含む4分の1",
        "Answers changed by rounding: the quarter with the rarest words",
    ),
    "risk.common_divergence": ("同、それ以外", "the same, other rows"),
    "risk.changed": (
        "テスト{rows}件のうち、正しい回答から誤りへ{to_wrong}件、誤りから正しい回答へ{to_right}件、"
        "別の誤りへ{between_wrong}件変わりました。",
        "Of {rows} test rows, {to_wrong} turned wrong, {to_right} turned right, and {between_wrong} are wrong in "
        "another way.",
    ),
    "unit.correlation": ("相関", "correlation"),
    "unit.targets": ("か所", "targets"),
    # the page of changed answers
    "changes.title": ("回答が変わった文章：{name}", "Changed answers: {name}"),
    "changes.summary": (
        "テスト{rows}件のうち{n}件で、教師モデルと回答が変わりました（正しい回答から誤りへ{to_wrong}件、"
        "誤りから正しい回答へ{to_right}件、別の誤りへ{between_wrong}件）。",
        "{n} of {rows} test rows are answered otherwise than by the teacher ({to_wrong} turned wrong, {to_right} "
        "turned right, {between_wrong} are wrong in another way).",
    ),
    "changes.masked": (
        "マイナンバー、カード番号、電話番号、メールアドレス、敬称の付いた氏名を伏せています。",
        "My Numbers, card numbers, phone numbers, mail addresses and names with a title are masked.",
    ),
    "changes.unmasked": (
        "個人情報を伏せていません。社外に出さず、見終わったら削除してください。",
        "Personal data is not masked. Keep this file inside the company and delete it after use.",
    ),
    "masking.cannot_find": (
        "敬称のない氏名、住所、口座番号、文章で書かれた個人情報は、自動では見つけられません。渡す前に人の目で確かめてく"
        "ださい。",
        "Names without a title, addresses, account numbers and personal data told in words cannot be found by machine. "
        "Have a person look before passing this on.",
    ),
    "changes.column.row": ("行", "Row"),
    "changes.column.kind": ("変化", "Change"),
    "changes.column.text": ("文章", "Text"),
    "changes.column.label": ("正解", "Right label"),
    "changes.column.teacher": ("教師モデル", "Teacher"),
    "changes.column.answer": ("新しいモデル", "New model"),
    "changes.column.confidence": ("確信度", "Confidence"),
    "changes.kind.to_wrong": ("正 → 誤", "right to wrong"),
    "changes.kind.to_right": ("誤 → 正", "wrong to right"),
    "changes.kind.between_wrong": ("誤 → 別の誤り", "wrong to wrong"),
    # what programs record
    "record.confident_wrong": (
        "確信度{sure}以上で誤ったテスト行の割合、Wilson区間",
        "test rows wrong with a confidence of {sure} or more, Wilson",
    ),
    "record.ece_before": (
        "期待較正誤差（15区間、温度1）",
        "expected calibration error, 15 bins, at temperature 1",
    ),
    "record.ece_less": (
        "温度1での較正誤差 − 提供時の温度での較正誤差",
        "calibration error at temperature 1 minus that at the served temperature",
    ),
    "record.error_cost": (
        "テスト行の回答の損失の平均 × 1,000、行のブートストラップ",
        "1,000 x mean price of a test row's answer, bootstrap over rows",
    ),
    "record.error_cost_paired": (
        "同じテスト行どうしの損失の差（このモデル − 教師）の平均 × 1,000、行のブートストラップ",
        "1,000 x mean of this model's price minus the teacher's on the same test row, bootstrap over rows",
    ),
    "record.explanations_agreement": (
        "単語ごとの寄与（積分勾配{steps}段）の順位相関（スピアマン）の平均。教師と生徒、テスト行のブートストラップ",
        "mean Spearman correlation of word attributions ({steps} steps of integrated gradients), teacher and student, "
        "bootstrap over test rows",
    ),
    "record.explanations_ceiling": (
        "単語ごとの寄与（積分勾配{steps}段）の順位相関（スピアマン）の平均。種だけが違う2つの教師、テスト行のブートストラップ",
        "mean Spearman correlation of word attributions ({steps} steps of integrated gradients), two teachers that "
        "differ by their seed, bootstrap over test rows",
    ),
    "record.explanations_floor": (
        "単語ごとの寄与（積分勾配{steps}段）の順位相関（スピアマン）の平均。教師と学習していない生徒、テスト行のブートスト"
        "ラップ",
        "mean Spearman correlation of word attributions ({steps} steps of integrated gradients), the teacher and an "
        "untrained student, bootstrap over test rows",
    ),
    "record.rare_divergence": (
        "同じ重みのfp32と{scheme}で回答が違う割合。語が最も珍しい4分の1のテスト行、Wilson区間",
        "{scheme} answers unlike fp32 of the same weights, the quarter of the test rows with the rarest words, Wilson",
    ),
    "record.common_divergence": (
        "同じ重みのfp32と{scheme}で回答が違う割合。その他のテスト行、Wilson区間",
        "{scheme} answers unlike fp32 of the same weights, other test rows, Wilson",
    ),
    "record.near_twins": (
        "モデルが見た行とほぼ同じ文であるテスト行の割合",
        "test rows with a near-twin among the rows that models saw",
    ),
    "record.truncated": ("data.max_length で切られたテスト行の割合", "test rows cut at data.max_length"),
    "record.parameters_removed": (
        "1 − このモデルのパラメーター数 ÷ 教師のパラメーター数",
        "1 - parameters of the model / parameters of the teacher",
    ),
    "record.not_measured_here": ("この機械で測れなかった配置先の数", "targets not measured here"),
}
