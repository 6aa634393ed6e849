"""The words of the report's first screen and of its account and risk sections, key -> (ja, en)."""

from __future__ import annotations

_FIRST_SCREEN: dict[str, tuple[str, str]] = {
    "number.in_brackets": ("（{between}）", "({between})"),
    "page.title": ("小型化の評価報告書", "Model reduction report"),
    "page.kicker": ("Deshi 評価報告書", "Deshi evidence report"),
    "page.language": ("日本語", "English"),
    "page.choose": ("日本語で読む", "Read in English"),
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
    "page.notation_plain": (
        "「ポイント」は百分率の差（1ポイント = 0.01）です。",
        "A point is a difference of percentages (0.01).",
    ),
    "verdict.limits_link": ("この判定が証明していないこと", "What this verdict does not prove"),
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
    # the four answers
    "answer.title": ("経営判断のための四つの答え", "Four answers for the decision"),
    "answer.cost": (
        "PoCで推論コストを何%削減できるか",
        "By how many percent can this proof of concept cut the cost of inference?",
    ),
    "answer.cost.sentence": (
        "{target}では、推論の費用が月{today}から月{new}に下がります。{payback}",
        "On {target}, inference goes from {today} to {new} a month. {payback}",
    ),
    "answer.cost.dearer": (
        "{target}では、推論の費用が月{today}から月{new}に増えます。{payback}",
        "On {target}, inference rises from {today} to {new} a month. {payback}",
    ),
    "answer.cost.other": ("{target}では {share}", "{share} on {target}"),
    "answer.cost.no_account": (
        "{target}での1,000件あたりの費用です（教師は{before}）。事業の前提がないため、削減率は計算していません。",
        "Cost of 1,000 requests on {target} (teacher: {before}). Without a business case no share was computed.",
    ),
    "answer.cost.unmeasured": (
        "処理能力を測定していないため、費用は計算できません。",
        "The throughput was not measured, so no cost can be computed.",
    ),
    "answer.quality": ("品質低下の業務影響度 (KPI)", "What the loss of quality does to the business (KPI)"),
    "answer.quality.PASS": (
        "「{name}」は、許容上限の{limit}を下回ることを確認しました。",
        "The {name} is shown to lie below the limit of {limit}.",
    ),
    "answer.quality.FAIL": (
        "「{name}」は、許容上限の{limit}を超えています。",
        "The {name} lies beyond the limit of {limit}.",
    ),
    "answer.quality.INCONCLUSIVE": (
        "「{name}」が許容上限の{limit}に収まるかどうか、今回の行数では言い切れません。",
        "Whether the {name} keeps within the limit of {limit} is not settled by this many rows.",
    ),
    "answer.quality.no_limit": (
        "教師からの品質低下に上限は定めていません。",
        "No limit was set for the drop from the teacher.",
    ),
    "answer.quality.flips": (
        "テスト{n}件のうち、教師が正しく本モデルが誤ったものは{worse}件、その逆は{better}件です。",
        "Of {n} test rows, {worse} turned from right to wrong and {better} from wrong to right.",
    ),
    "answer.quality.errors": (
        "誤りによる損失は、1,000件あたり{before}から{after}に変わります。",
        "What errors cost goes from {before} to {after} per 1,000 requests.",
    ),
    "answer.places": (
        "オンプレミス検証からクラウドへの段階",
        "From the trial on premises to the cloud, step by step",
    ),
    "answer.places.figure": ("実測 {measured} / {all} か所", "{measured} of {all} places measured"),
    "answer.places.some": (
        "{measured}は実測済みです。次は、同じ成果物を{projected}の実機に置き、同じKPIで測定します。",
        "Measured: {measured}. Next, the same release is put on {projected} and measured by the same KPIs.",
    ),
    "answer.places.all": (
        "動かす場所のすべて（{measured}）で実測しました。次は、同じ成果物に本番の要求を少しずつ流します。",
        "All were measured: {measured}. Next, the same release is given a growing part of the live requests.",
    ),
    "answer.places.none": (
        "{projected}はまだ実測していません。次は、同じ成果物を実機に置き、同じKPIで測定します。",
        "Not measured yet: {projected}. Next, the same release is put there and measured by the same KPIs.",
    ),
    "answer.places.line": (
        "{target}（{basis}）：応答時間 95%値 {latency}、1,000件 {cost}",
        "{target} ({basis}): latency p95 {latency}, 1,000 requests {cost}",
    ),
    "answer.roadmap": ("半年で内製化するロードマップ", "A road map: in-house within six months"),
    "answer.roadmap.figure": ("3段階・6か月", "3 steps in 6 months"),
    "answer.roadmap.sentence": (
        "手順と演習は docs/operate.md にあり、各段階の終わりに自社だけでできることを確認します。",
        "Procedures and exercises are in docs/operate.md; each step ends with a check of what you can do alone.",
    ),
    "answer.roadmap.first": (
        "1〜2か月目：演習を終え、担当者が判定と監視の見方を覚える",
        "Months 1-2: the exercises are done; your people read verdicts and monitoring",
    ),
    "answer.roadmap.second": (
        "3〜4か月目：自社でレシピを書いて次のPoCを回し、支援者は補助に回る",
        "Months 3-4: you write the recipes and run the next PoC; the supporters assist",
    ),
    "answer.roadmap.third": (
        "5〜6か月目：再学習、切り戻し、監査対応を自社だけで行い、引き継ぎを終える",
        "Months 5-6: retraining, back-out and audits are yours alone; the hand-over ends",
    ),
    # what may go wrong, what to do next
    "worry.title": ("起こりうる問題と、気づく方法", "What may go wrong, and how you would notice"),
    "worry.none": (
        "この証拠にはリスク台帳がありません。下の「証明していないこと」をご確認ください。",
        "This evidence holds no risk ledger; see below what was not proven.",
    ),
    "worry.sign": ("気づく方法", "how you would notice"),
    "worry.more": ("リスク台帳の全体", "the whole risk ledger"),
    "next.title": ("次に行うこと", "What to do next"),
    "next.serve": (
        "採用したモデルを起動し、本番と同じ要求で確かめます。",
        "Start the chosen model and try it with real requests.",
    ),
    "next.rows": (
        "テストデータをおよそ{rows}行に増やし、同じレシピをもう一度実行します。",
        "Raise the test rows to about {rows} and run the same recipe again.",
    ),
    "next.longer": (
        "レシピの resources.load_seconds を延ばして長く測り、もう一度実行します。",
        "Measure for longer: raise resources.load_seconds in the recipe and run it again.",
    ),
    "next.margin": (
        "許容できる低下の上限を業務の側から見直すか、探索の時間（search.minutes）を延ばして、もう一度実行します。どちらも変え"
        "られない場合は、今のモデルを使い続けます。",
        "Ask the business for another margin, or give the search more minutes (search.minutes), and run again. If"
        " neither can change, keep what answers today.",
    ),
    "next.limits": (
        "満たさなかった基準を業務の側から見直すか、探索の時間（search.minutes）を延ばして、もう一度実行します。どちらも変えられな"
        "い場合は、今のモデルを使い続けます。",
        "Ask the business for other limits, or give the search more minutes (search.minutes), and run again. If"
        " neither can change, keep what answers today.",
    ),
    "next.verify": (
        "署名の前に、この報告書のもとになったファイルが変わっていないことを確かめます。",
        "Before you sign, check that no file behind this report has changed.",
    ),
}
_SECTIONS: dict[str, tuple[str, str]] = {
    "account.empty": (
        "この証拠には費用と効果の計算がありません。レシピの business に現在の費用を書いて実行すると表示されます。",
        "This evidence holds no account. State today's costs in the recipe's business section and run again.",
    ),
    "account.no_once": ("レシピに初期費用の記載はありません。", "The recipe states no money that is spent once."),
    "account.none": ("値なし", "no value"),
    "account.never": ("評価期間内の回収なし", "not within the horizon"),
    "ledger.empty": ("この証拠にはリスクの測定がありません。", "This evidence holds no measurement of risk."),
    "ledger.measured": ("測定したリスク", "What was measured"),
    "ledger.figure": ("リスク台帳の測定値", "a risk of the ledger"),
    "ledger.effect": ("対策の効果", "effect of a counter-measure"),
    "ledger.changed": ("教師と答えが異なるテスト行", "Test rows answered unlike the teacher"),
    "ledger.no_text": (
        "文章そのものはこの報告書に載せていません。",
        "The texts themselves are not in this report.",
    ),
    "slices.harm_p": ("悪化の検定 p = {p}", "harm test p = {p}"),
    "limits.account": (
        "費用と効果は、レシピに書かれた前提にもとづく計算です。前提が違えば結果も変わります。",
        "Costs and returns are computed from what the recipe states; other assumptions give other results.",
    ),
    "limits.domain": (
        "テストにない分野、言語、複数段の推論については何も確かめていません。",
        "Domains and languages that the test does not hold, and reasoning beyond it, were not examined.",
    ),
    "sign.title": ("確認と署名", "Review and signature"),
    "sign.lead": (
        "判定、証明していないこと、前提を読んだうえで署名してください。",
        "Sign after reading the verdict, what was not proven, and the assumptions.",
    ),
    "sign.role": ("役割", "role"),
    "sign.name": ("氏名", "name"),
    "sign.decision": ("判断", "decision"),
    "sign.date": ("日付", "date"),
    "sign.signature": ("署名", "signature"),
    "sign.engineer": ("基盤担当者", "platform engineer"),
    "sign.owner": ("業務責任者", "business owner"),
    "sign.auditor": ("監査担当者", "auditor"),
    "book.kpis": ("KPI一覧", "KPIs"),
    "book.models": ("モデル", "models"),
    "book.account": ("費用と効果", "account"),
    "book.risks": ("リスク", "risks"),
    "book.assumptions": ("前提", "assumptions"),
    "book.target": ("動かす場所", "target"),
    "book.unit": ("単位", "unit"),
    "book.low": ("区間の下端", "low"),
    "book.high": ("区間の上端", "high"),
    "book.basis": ("種別", "basis"),
    "book.how": ("得た方法", "how"),
    "book.entry": ("evidence.json の位置", "entry of evidence.json"),
    "book.figure": ("項目", "figure"),
}
PAGE_TEXTS: dict[str, tuple[str, str]] = _FIRST_SCREEN | _SECTIONS
