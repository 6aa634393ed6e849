"""The words of the risk ledger, key -> (ja, en)."""

from __future__ import annotations

# Of each risk: what it is, how one would notice it in operation, and what is done against it.
_LEDGER: dict[str, dict[str, tuple[str, str]]] = {
    "worst_slice": {
        "title": (
            "一部の種類の文章だけ品質が下がる：「{slice}」（{rows}件）。{slices}区分のうち{harmed}区分で悪化を確認",
            "Quality drops for one kind of text: {slice} ({rows} rows); {harmed} of {slices} slices are proven harmed",
        ),
        "sign": (
            "この種類の文章で、担当者による訂正や問い合わせが増えます",
            "Corrections and complaints rise for this kind of text",
        ),
        "counter": (
            "この種類の文章は教師モデルに回し、学習用の文章をこの種類から増やします",
            "Send this kind of text to the teacher, and add training text of this kind",
        ),
    },
    "no_slices": {
        "title": (
            "種類ごとの品質を調べていない",
            "Quality was not looked at by kind of text",
        ),
        "sign": (
            "全体の正解率は変わらないのに、特定の部署や商品から苦情が出ます",
            "The overall score stays, yet one department or product complains",
        ),
        "counter": (
            "部署・商品・言語などの列を data.slices に書き、もう一度実行します",
            "Name a column such as department, product or language in data.slices and run again",
        ),
    },
    "confident_wrong": {
        "title": (
            "自信をもって間違える",
            "It is wrong and sure of it",
        ),
        "sign": (
            "確信度0.9以上の回答を抜き取って確かめると、誤りが見つかります",
            "Spot checks of answers with a confidence of 0.9 or more find errors",
        ),
        "counter": (
            "確信度が高い回答も、毎週一定数を人が抜き取って確かめます",
            "People check a fixed number of confident answers every week",
        ),
    },
    "calibration": {
        "title": (
            "確信度が実際の正解率と合わない",
            "Its confidence is not how often it is right",
        ),
        "sign": (
            "確信度で回答を振り分けると、想定より多くの誤りが自動処理に回ります",
            "More errors than expected pass a threshold of confidence",
        ),
        "counter": (
            "温度で確信度を補正しています。文章の傾向が変わったら補正し直します",
            "Confidence is corrected by a temperature; fit it again when the text changes",
        ),
    },
    "error_cost": {
        "title": (
            "誤りによる損失が教師モデルより増える",
            "Errors cost more than the teacher's",
        ),
        "sign": (
            "訂正・返金・再対応の件数や金額が増えます",
            "The number or cost of corrections, refunds and repeated work rises",
        ),
        "counter": (
            "損失の大きい取り違えが疑われる回答は、教師モデルか人に回します",
            "Send answers that may be a costly mix-up to the teacher or to people",
        ),
    },
    "repetition": {
        "title": ("同じ語句を繰り返す", "It repeats itself"),
        "sign": (
            "長い回答の後半に、同じ文や語句が続きます",
            "The same phrases follow each other late in long answers",
        ),
        "counter": (
            "回答の長さに上限を設け、繰り返しを見つけたら教師モデルで作り直します",
            "Limit the length of answers, and ask the teacher again when one repeats itself",
        ),
    },
    "forgetting": {
        "title": (
            "学習した分野の外で、教師モデルより大きく劣る",
            "Outside of its domain it is much worse than the teacher",
        ),
        "sign": (
            "業務外の質問に、もっともらしい誤りで答えます",
            "It answers other questions with plausible errors",
        ),
        "counter": (
            "対象業務の外の依頼は受け付けないか、教師モデルに回します",
            "Refuse requests from outside its work, or send them to the teacher",
        ),
    },
    "removed": {
        "title": (
            "取り除いた部分が、テストにない入力で必要になる（層{layers}、中間層の幅{ffn}、語彙{vocabulary}語、"
            "パラメーター{parameters}を削減、形式{scheme}）",
            "What was removed is needed by inputs unlike the test ({layers} layers, {ffn} of the inner width, "
            "{vocabulary} pieces of vocabulary, {parameters} of the parameters; scheme {scheme})",
        ),
        "sign": (
            "新しい種類の文章で、教師モデルとの不一致が増えます",
            "Disagreement with the teacher rises on new kinds of text",
        ),
        "counter": (
            "本番の文章の一部を教師モデルにも送り、不一致の割合を見張ります",
            "Send a share of live text to the teacher too, and watch how often they disagree",
        ),
    },
    "unknown_words": {
        "title": (
            "語彙を減らしたため、読めない語が増える",
            "With fewer words in its vocabulary, more of a text is unreadable to it",
        ),
        "sign": (
            "新商品名や人名など、新しい語を含む文章で誤りが増えます",
            "Errors rise for text with new words, such as product or personal names",
        ),
        "counter": (
            "読めない語の割合を見張り、増えたら新しい文章で語彙を選び直します",
            "Watch the share of unknown tokens; when it rises, choose the vocabulary again from new text",
        ),
    },
    "quantization": {
        "title": (
            "数値を丸めた影響が、珍しい語を含む文章で大きくなる",
            "Rounding hurts more where words are rare",
        ),
        "sign": (
            "珍しい語を含む文章だけ、丸める前のモデルと回答が変わります",
            "Only text with rare words is answered otherwise than before rounding",
        ),
        "counter": (
            "代表的な文章で丸め方を決め直すか、丸めないモデルを使います",
            "Choose the rounding again on typical text, or serve the model in full precision",
        ),
    },
    "explanations": {
        "title": (
            "教師モデルと違う理由で同じ答えを出す",
            "It gives the same answers for other reasons than the teacher",
        ),
        "sign": (
            "言い回しを少し変えただけで回答が変わります",
            "Answers change when only the wording does",
        ),
        "counter": (
            "判断の根拠を説明する必要がある業務では、回答ごとに根拠を確かめてから使います",
            "Where reasons must be given, check them answer by answer before use",
        ),
    },
    "near_twins": {
        "title": (
            "テストに、学習や選択に使った文とほぼ同じ文がある",
            "Some test rows are near-twins of rows that models saw",
        ),
        "sign": (
            "本番の正解率が、この報告書の値より低くなります",
            "The score in operation is lower than in this report",
        ),
        "counter": (
            "重複のない新しい文章でテストを作り直します",
            "Make the test again from new text without twins",
        ),
    },
    "truncated": {
        "title": (
            "長い文章の後半を読んでいない",
            "The tails of long texts are not read",
        ),
        "sign": (
            "長い文章で、後半の内容を無視した回答が出ます",
            "Answers to long texts ignore what their tails say",
        ),
        "counter": (
            "data.max_length を増やすか、長い文章を分けて送ります",
            "Raise data.max_length, or send long texts in parts",
        ),
    },
    "projected": {
        "title": (
            "実際の機器で測っていない配置先がある：{targets}",
            "Some targets were never measured: {targets}",
        ),
        "sign": (
            "その配置先で、応答時間やメモリが見込みを超えます",
            "Latency or memory on that target exceeds the projection",
        ),
        "counter": (
            "本番の機器で同じ測定を行ってから切り替えます",
            "Measure on the real machine before switching over",
        ),
    },
    "licence_teacher": {
        "title": ("教師モデルのライセンスが不明", "The teacher's licence is unknown"),
        "sign": ("権利者や監査から指摘を受けます", "The owner or an auditor objects"),
        "counter": (
            "使用許諾を確かめて teacher.licence に書くまで、本番では使いません",
            "Do not use it in production until the licence is known and written in teacher.licence",
        ),
    },
    "licence_data": {
        "title": ("データのライセンスが不明", "The data's licence is unknown"),
        "sign": ("権利者や監査から指摘を受けます", "The owner or an auditor objects"),
        "counter": (
            "使用許諾を確かめて data.licence に書くまで、本番では使いません",
            "Do not use it in production until the licence is known and written in data.licence",
        ),
    },
    "one_seed": {
        "title": (
            "乱数の種1つでしか学習していない",
            "It was trained from one random seed only",
        ),
        "sign": (
            "同じ手順で作り直したモデルの品質が、今回と違います",
            "A model made again in the same way differs in quality",
        ),
        "counter": (
            "採用の前に、seed を変えてもう一度実行し、結果を比べます",
            "Run the recipe again with another seed before adopting, and compare",
        ),
    },
    "domain": {
        "title": (
            "テストに含まれない分野・言語での品質は分からない",
            "Quality in domains and languages beyond the test is not known",
        ),
        "sign": (
            "新しい部署や言語で使い始めた後に、誤りが増えます",
            "Errors rise after a new department or language starts to use it",
        ),
        "counter": (
            "使う範囲を広げる前に、その分野・言語のテストを加えて測り直します",
            "Before its use is widened, add test rows of that domain or language and measure again",
        ),
    },
    "reasoning": {
        "title": (
            "テストより複雑な推論が要る文章での品質は分からない",
            "Quality on text that needs more reasoning than the test is not known",
        ),
        "sign": (
            "否定・条件・計算を含む文章で、誤りが目立ちます",
            "Errors stand out in text with negation, conditions or arithmetic",
        ),
        "counter": (
            "難しい文章を集めたテストで確かめ、それまでは教師モデルに回します",
            "Test it on a set of hard texts, and send such text to the teacher until then",
        ),
    },
    "people": {
        "title": (
            "現場の担当者がどう感じるかを尋ねていない",
            "The people who work with it were not asked",
        ),
        "sign": (
            "担当者が回答を使わず、手作業に戻ります",
            "Staff stop using the answers and go back to doing it by hand",
        ),
        "counter": (
            "deshi review で担当者に見比べてもらい、結果を取り込みます",
            "Let staff compare answers with `deshi review`, and import what they say",
        ),
    },
}

LEDGER_TEXTS: dict[str, tuple[str, str]] = {
    f"risk.{code}.{part}": said for code, parts in _LEDGER.items() for part, said in parts.items()
}
