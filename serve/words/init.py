"""What `deshi init` asks, says and writes into a recipe as comments, key -> (ja, en)."""

from __future__ import annotations

_ASK = {
    "task": (
        "何をさせますか（classify：文章を分類、generate：文章を書く）",
        "What is the model to do (classify: sort texts into classes, generate: write text)",
    ),
    "text": ("文章の列", "Column of the text"),
    "label": ("分類（正解ラベル）の列", "Column of the class"),
    "format": (
        "1行の内容（messages：対話、prompt_completion：入力と応答の組、text：文章）",
        "What a row holds (messages: a conversation, prompt_completion: a prompt and its answer, text: a passage)",
    ),
    "column": ("読み込む列（組の場合は2列をコンマで区切る）", "Column to read (of a pair two, with a comma between)"),
    "test": (
        "テスト用ファイル（なければ空のまま。このファイルから取り分けます）",
        "File of test rows (leave blank if there is none: some of these rows are held out)",
    ),
    "teacher": (
        "教師モデル（いま使っている大きなモデル）のフォルダー、またはモデルハブのID",
        "The teacher, the large model of today: its folder, or its id on a model hub",
    ),
    "first": (
        "何を最も優先しますか（quality：品質、cost：費用、speed：速さ）",
        "What comes first (quality, cost or speed)",
    ),
    "drop_points": (
        "教師モデルより何ポイントまでの低下を許容しますか（1ポイント = 0.01）",
        "How many points may it lose against the teacher (1 point = 0.01)",
    ),
    "latency_ms": (
        "利用者が待てる時間（ミリ秒、95%の応答がこの時間内）",
        "How long may users wait (ms, 95% of the answers within it)",
    ),
    "worst_true": (
        "最も損害の大きい誤り：正しくはどの分類のものですか（決めない場合は空のまま）",
        "The costliest error: which class is it in truth (leave blank to skip)",
    ),
    "worst_answered": ("それをどの分類と答えると最も困りますか", "and answered as which class"),
    "worst_cost": ("その誤り1件の損害額", "What does one such error cost"),
    "other_cost": ("ほかの誤り1件の損害額", "What does one of the other errors cost"),
    "error_cost": (
        "誤った応答1件の損害額（決めない場合は空のまま）",
        "What does one wrong answer cost (leave blank to skip)",
    ),
    "currency": ("通貨", "Currency"),
    "threads": ("動かす機械で使えるスレッド数", "Threads of the machine that it will run on"),
    "memory_mb": (
        "使えるメモリの上限（MB、制限がなければ空のまま）",
        "Memory that it may take (MB, leave blank for no limit)",
    ),
    "price_per_hour": ("その機械1台の1時間あたりの費用", "Price of one such machine an hour"),
    "requests_per_month": ("1か月の件数", "Requests a month"),
    "peak_rps": ("最も混む時の毎秒の件数", "Requests a second at the peak"),
    "today_per_1000": (
        "いまの費用（1,000件あたり、不明なら空のまま）",
        "What 1,000 requests cost today (leave blank if unknown)",
    ),
}
_SAY = {
    "header": (
        "deshi init が {file} から作成しました。どの行も書き換えられます。使える項目の一覧は deshi schema "
        "で見られます。",
        "Made by `deshi init` from {file}. Every line may be changed; `deshi schema` lists all the keys.",
    ),
    "rows_classify": (
        "行数：{rows}行。正解ラベルあり {labelled}行、なし {unlabelled}行。",
        "Rows: {rows}, of which {labelled} have a label and {unlabelled} have none.",
    ),
    "rows_generate": ("行数：{rows}行。", "Rows: {rows}."),
    "dropped": (
        "このほかに、空の行や学習に使えない行が {rows}行ありました（除外）。",
        "{rows} more rows are blank or cannot be learned from, and are left out.",
    ),
    "repeated": (
        "このうち {rows}行は、ほかの行と同じ文の繰り返しです（1行だけ残します）。",
        "{rows} of them repeat another row's text, which is kept once.",
    ),
    "classes": ("分類ごとの行数：{classes}。", "Rows by class: {classes}."),
    "split": (
        "使い分け：学習 {train}行、選択 {selection}行、テスト {test}行。",
        "Who gets which: {train} rows to learn from, {selection} to choose by, {test} for the test.",
    ),
    "held_out_classify": (
        "テスト行は乱数のシード {seed} で、分類の割合を保って取り分けました。ほぼ同じ文は同じ側に置いています。",
        "The test rows were held out with seed {seed}, in proportion to the classes, near-twins on one side.",
    ),
    "held_out_generate": (
        "テスト行は乱数のシード {seed} で取り分けました。ほぼ同じ文は同じ側に置いています。",
        "The test rows were held out with seed {seed}, near-twins on one side.",
    ),
    "left_out": (
        "テスト行とほぼ同じ、ラベルのない {rows}行は、どちらにも入れていません。",
        "{rows} unlabelled rows that are near-twins of test rows are in neither part.",
    ),
    "near_twins": (
        "テストの {rows}行は学習に使う行とほぼ同じ文で、品質を少し良く見せる可能性があります。",
        "{rows} test rows have a near-twin among those to learn from, which may flatter the quality a little.",
    ),
    "assumed_classify": (
        "仮定：実際の低下が {drop}ポイント、教師と答えが異なる行が{discordant}、信頼度{confidence}、検出力80%",
        "assumed: a true drop of {drop} points, {discordant} of the rows answered differently than by the teacher, "
        "confidence {confidence}, power 80%",
    ),
    "assumed_generate": (
        "仮定：教師と最も確からしい語が異なる割合が{discordant}（低下 {drop}ポイント）で、1行を1件と数え、"
        "信頼度{confidence}、検出力80%",
        "assumed: {discordant} of the tokens differ from the teacher's likeliest ones, a drop of {drop} points, a row "
        "counted as one observation, confidence {confidence}, power 80%",
    ),
    "provable": (
        "証明できる最小の低下：テスト {test}行では {points}ポイント（{assumed}）。1行も異ならない場合でも、"
        "{floor}ポイント未満は証明できません。",
        "The smallest drop that can be proven: {points} points with {test} test rows ({assumed}). Even if no row "
        "differs, nothing below {floor} points can be proven.",
    ),
    "not_provable": (
        "テスト {test}行では、どのような低下も証明できません（{assumed}）。",
        "With {test} test rows no drop can be proven ({assumed}).",
    ),
    "enough": (
        "許容する低下 {margin}ポイントの証明には、この仮定で {needed}行が必要です。足りています。",
        "To prove the allowed drop of {margin} points takes {needed} rows under this assumption: there are enough.",
    ),
    "not_enough": (
        "許容する低下 {margin}ポイントの証明には、この仮定で {needed}行が必要です。足りないため、判定保留になる"
        "おそれがあります。テスト行を増やすか、許容値を見直してください。",
        "To prove the allowed drop of {margin} points takes {needed} rows under this assumption: there are "
        "too few, and "
        "the verdict may be INCONCLUSIVE. Add test rows, or allow a larger drop.",
    ),
    "too_strict": (
        "許容する低下 {margin}ポイントは、実際に {drop}ポイント低下するモデルでは、行数を増やしても証明できません。",
        "An allowed drop of {margin} points cannot be proven, with any number of rows, of a model that "
        "truly loses {drop}.",
    ),
    "minutes_planned": (
        "所要時間の目安：約{minutes}分。この機械の計算速度を測り、deshi plan と同じ計算に、"
        "準備の時間（{start}分と、試行"
        "1件あたり{trial}分）を加えました。",
        "Minutes to expect: about {minutes}, as `deshi plan` counts them at this machine's measured speed, and {start} "
        "minutes and {trial} for each trial to start, export and load.",
    ),
    "minutes_rule": (
        "所要時間の目安：約{minutes}分。教師モデルがここにないため、search.minutes の2倍に、"
        "準備の時間（{start}分と、試行"
        "1件あたり{trial}分）を加えた概算です。",
        "Minutes to expect: about {minutes}. The teacher is not here, so this is a rule: twice "
        "search.minutes, and {start} "
        "minutes and {trial} for each trial.",
    ),
    "refused": (
        "このままでは deshi poc が次の理由で止まります：{reason}",
        "As it stands `deshi poc` would stop: {reason}",
    ),
    "written": ("{path} を作成しました。", "{path} is written."),
    "parts": ("学習用：{train}　テスト用：{test}", "To learn from: {train}  test: {test}"),
    "next": (
        "次に：deshi plan {path} で確認し、deshi poc {path} で実行します。",
        "Next: `deshi plan {path}` checks it, `deshi poc {path}` runs it.",
    ),
}
_COMMENT = {
    "name": (
        "この PoC の名前です。結果は storage の下の、この名前のフォルダーに置かれます。"
        "パスはこのファイルからの相対です。",
        "The name of this PoC: results go to the folder of that name in `storage`. Paths are relative to this file.",
    ),
    "data": (
        "学習とテストの行です。test は最後に一度だけ開きます。max_length はトークン数で、それより長い文は切られます。"
        "slices に列の名前を書くと、その区分ごとの品質も判定します。licence にはデータの利用条件を書いてください。",
        "The rows. `test` is opened once, at the end. `max_length` counts tokens; longer texts are cut. "
        "Columns named in "
        "`slices` are judged apart. Write the terms of use of the data into `licence`.",
    ),
    "teacher_finetune": (
        "お手本になる大きなモデルです。finetune: true では、まず正解ラベル付きの行で調整します。licence "
        "を確認して書いて"
        "ください。",
        "The large model to be imitated. With `finetune: true` it is first fine-tuned on the labelled "
        "rows. Look up its "
        "licence and write it here.",
    ),
    "teacher_as_it_is": (
        "お手本になる大きなモデルです。finetune: false では、そのまま使います。licence を確認して書いてください。",
        "The large model to be imitated, taken as it is (`finetune: false`). Look up its licence and write it here.",
    ),
    "search_quality": (
        "品質を最優先：許容する低下を小さくし、試行と学習を増やします。minutes は学習に使う時間の上限（分）です。",
        "Quality comes first: a smaller allowed drop, more trials, longer training. `minutes` bounds the training.",
    ),
    "search_cost": (
        "費用を最優先：いまの費用が分かる場合、"
        "1,000件あたりの費用をその半分以下にします（kpi.cost_per_1000）。minutes は"
        "学習に使う時間の上限（分）です。",
        "Cost comes first: where today's price is known, 1,000 requests may cost at most half of it "
        "(kpi.cost_per_1000). `minutes` bounds the training.",
    ),
    "search_speed": (
        "速さを最優先：利用者が待つ時間に上限を設けます（kpi の latency）。minutes は学習に使う時間の上限（分）です。",
        "Speed comes first: what users wait for has a limit (kpi, latency). `minutes` bounds the training.",
    ),
    "targets": (
        "動かす場所です。threads はスレッド数、memory_mb はメモリの上限、rtt_ms は通信の往復時間（ミリ秒）、"
        "price_per_hour は1台の1時間あたりの費用です。場所が複数あれば行を足してください。",
        "Where it will run: threads, limit of memory, network round trip in ms, price of one machine an "
        "hour. Add a line "
        "for each further place.",
    ),
    "price_assumed": (
        "price_per_hour は仮の値です。実際の費用に直してください。",
        "`price_per_hour` is assumed; write what a machine really costs.",
    ),
    "business": (
        "金額の計算に使います。peak_rps は最も混む時の毎秒の件数です。",
        "What money is computed from. `peak_rps` is requests a second at the peak.",
    ),
    "peak_assumed": (
        "peak_rps は仮の値で、月間の件数を営業時間（22日×8時間）で割った平均の3倍です。",
        "`peak_rps` is assumed: three times the mean over the office hours of a month (22 days of 8 hours).",
    ),
    "today_missing": (
        "いまの費用が分かれば today: {{price_per_1000: 金額}} を書き足してください。なければ、"
        "教師モデルを同じ場所で動かす"
        "場合と比べます。",
        "If today's cost is known, add `today: {{price_per_1000: ...}}`; without it the teacher on the same target is "
        "what the saving is counted against.",
    ),
    "error_cost": (
        "error_cost は誤り1件の損害額で、正しい分類ごとに、答えた分類の金額を並べています。"
        "最も損害が大きいのは、{worst} を"
        " {answered} と答える誤りです。",
        "`error_cost` is what one error costs: for each true class, each class that it may be taken for. "
        "The costliest is "
        "{worst} answered as {answered}.",
    ),
    "other_assumed": (
        "ほかの誤りの損害額は仮の値で、最も大きいものの10分の1です。",
        "The other errors' cost is assumed: a tenth of the costliest one's.",
    ),
    "kpi_classify": (
        "合格の条件です。max_drop は許容する低下（0.05 = 5ポイント）、confidence は判定の信頼度です。区間の全体が条件を"
        "満たす場合だけ合格とします。",
        "What it must reach. `max_drop` is the allowed drop (0.05 = 5 points), `confidence` that of the "
        "verdict: all of "
        "the interval must lie within the limit.",
    ),
    "kpi_generate": (
        "合格の条件です。same_top は教師と最も確からしい語が一致する割合の下限、confidence は判定の信頼度です。"
        "perplexity_ratio や kl_mean を足すこともできます。",
        "What it must reach. `same_top` is the least share of tokens that teacher and student find likeliest alike, "
        "`confidence` that of the verdict. `perplexity_ratio` and `kl_mean` may be added.",
    ),
    "distill_generate": (
        "学習量です。CPU では1歩に時間がかかるため、小さくしています。GPU があれば steps を増やしてください。",
        "How much is learned: little, since a step takes long on a CPU. With a GPU, write more steps.",
    ),
}
INIT_TEXTS: dict[str, tuple[str, str]] = (
    {f"init.ask.{key}": said for key, said in _ASK.items()}
    | {f"init.say.{key}": said for key, said in _SAY.items()}
    | {f"init.comment.{key}": said for key, said in _COMMENT.items()}
)
