"""The sentences of texts.py that only a language model's run needs, key -> (ja, en)."""

from __future__ import annotations

_TIMES = {
    "first_token_p95": ("{target} の最初のトークンまでの時間（95%値）", "First token p95 on {target}"),
    "per_token_p95": ("{target} の1トークンあたりの時間（95%値）", "Time of a token p95 on {target}"),
}
_MEASURES = {
    "kl_mean": ("教師の確率とのずれ（KLの平均）", "Mean KL to the teacher"),
    "perplexity_ratio": ("教師に対するパープレキシティの比", "Perplexity over the teacher's"),
}
_TIME_OUTCOMES = {
    "pass": (
        "は {value} {unit} で、上限 {limit} {unit} の範囲内です。",
        ": {value} {unit}, within the limit of {limit} {unit}.",
    ),
    "fail": (
        "は {value} {unit} で、上限 {limit} {unit} を超えます。",
        ": {value} {unit}, over the limit of {limit} {unit}.",
    ),
    "inconclusive": (
        "は {value} {unit}（{low} 〜 {high}）で、区間が上限 {limit} {unit} をまたぎます。より長い測定が必要です。",
        ": {value} {unit} ({low} to {high}) straddles the limit of {limit} {unit}; measure for longer.",
    ),
    "unmeasured": (
        "は測定していないため、上限 {limit} {unit} を満たすとは言えません。",
        ": not measured, so the limit of {limit} {unit} is not shown to hold.",
    ),
}
_MEASURE_OUTCOMES = {
    "pass": (
        "は {value}（{low} 〜 {high}）で、区間のすべてが上限 {limit} の範囲内です。",
        ": {value} ({low} to {high}), all of it within the limit of {limit}.",
    ),
    "fail": (
        "は {value}（{low} 〜 {high}）で、区間のすべてが上限 {limit} を超えます。",
        ": {value} ({low} to {high}), all of it over the limit of {limit}.",
    ),
    "inconclusive": (
        "は {value}（{low} 〜 {high}）で、区間が上限 {limit} をまたぎます。",
        ": {value} ({low} to {high}), astride the limit of {limit}.",
    ),
    "inconclusive_above": (
        "は {value}（{low} 〜 {high}）で、区間が上限 {limit} をまたぎ、測定値も上限を下回りません。行を増やせば不採用に"
        "傾く見込みです。",
        ": {value} ({low} to {high}), astride the limit of {limit}, the estimate not below it: more rows would sooner"
        " reject.",
    ),
    "unmeasured": (
        "を測定していないため、上限 {limit} を満たすとは言えません。",
        ": not measured, so the limit of {limit} is not shown to hold.",
    ),
}


def _reasons() -> dict[str, tuple[str, str]]:
    """A sentence for each reason of a verdict: what is meant, joined with what came of it."""
    pairs = ((_TIMES, _TIME_OUTCOMES), (_MEASURES, _MEASURE_OUTCOMES))
    return {
        f"reason.{name}.{outcome}": (subject[0] + said[0], subject[1] + said[1])
        for subjects, outcomes in pairs
        for name, subject in subjects.items()
        for outcome, said in outcomes.items()
    }


LANGUAGE_MODEL_TEXTS: dict[str, tuple[str, str]] = {
    **_reasons(),
    "page.task.generate": ("文章の生成（言語モデル）", "text generation (language model)"),
    "unit.tokens_per_second": ("トークン/秒", "tokens/s"),
    "score.same_top": ("教師と同じ最有力トークン", "same top token"),
    "shape.all": ("すべての長さ", "every length"),
    "model.unrecovered": ("剪定のみ（学習なし）", "cut, not trained"),
    "data.rows.forget": ("別分野の文章", "other domain"),
    "topic.text": ("文章の品質", "text quality"),
    "kpi.kl_mean": ("教師の確率とのずれ（KLの平均）", "mean KL to the teacher"),
    "kpi.perplexity_ratio": ("教師に対するパープレキシティの比", "perplexity over the teacher's"),
    "kpi.first_token_p95": ("最初のトークンまで 95%値", "first token p95"),
    "kpi.per_token_p95": ("1トークンあたり 95%値", "time of a token p95"),
    "quantity.first_token_p95": ("最初のトークンまで（95%値）", "first token p95"),
    "quantity.per_token_p95": ("1トークンあたり（95%値）", "time of a token p95"),
    "quantity.tokens_per_second": ("同時に生成した速さ", "tokens written at once"),
    "quantity.perplexity": ("パープレキシティ", "perplexity"),
    "quantity.perplexity_ratio": ("教師に対する比", "over the teacher's"),
    "quantity.kl_mean": ("KLの平均", "KL mean"),
    "quantity.kl_p99": ("KLの99%値", "KL 99%"),
    "quantity.kl_p999": ("KLの99.9%値", "KL 99.9%"),
    "quantity.same_top": ("同じ最有力トークン", "same top token"),
    "quantity.forget_perplexity": ("別分野のパープレキシティ", "perplexity, other domain"),
    "quantity.forget_perplexity_ratio": ("別分野の、教師に対する比", "other domain, over the teacher's"),
    "quantity.choice_accuracy": ("四択の正解率", "four choices, right"),
    "quantity.choice_flips": ("四択で教師と異なる割合", "four choices, unlike the teacher"),
    "quantity.repetition": ("繰り返しの割合", "repetition"),
    "quantity.length_ratio": ("答えの長さの、教師に対する比", "answer length over the teacher's"),
    "text.title": ("文章の品質", "The text itself"),
    "text.lead": (
        "「教師に対する比」が1より小さい場合、その文章については教師よりもよく予測しています。教師がこの分野の文章で学習し"
        "ていないときに起こります。別分野の列は、学習で失われたものを示します。",
        "A ratio below 1 means that the model predicts this text better than its teacher does, which happens where the "
        "teacher was not trained on such text. The columns of the other domain show what was forgotten.",
    ),
    "text.agreement": ("パープレキシティから見た近さ", "teacher's perplexity over the model's"),
    "quality.lead.generate": (
        "全モデルに同じテストデータを一度だけ読ませ、1トークンずつ教師と突き合わせました。対照は同じ文章と同じ学習量です。",
        "Every model read the same test rows, once, paired token by token with the teacher. The controls had the same "
        "text and the same budget.",
    ),
    # what programs recorded
    "record.bits_f16": ("16ビット浮動小数点", "16-bit floating point"),
    "record.bits_q8_0": ("8ビット（32個ごとの区画）", "8-bit weights in blocks of 32"),
    "record.bits_q4_0": ("4ビット（32個ごとの区画）", "4-bit weights in blocks of 32"),
    "record.selection_text": (
        "候補は検証データで、教師と同じトークンを最有力とした割合とパープレキシティにより順位を付けました。テストデータは、選ん"
        "だ後に一度だけ開きました",
        "candidates were ranked on validation rows, by the tokens that they and the teacher find likeliest and by "
        "perplexity; the test rows were opened once, after the choice",
    ),
    "record.text": (
        "尤度は、エンジンのファイルが持つ丸めた重みを用い、PyTorchで計算しました。KLは全語彙で求め、ブートストラップはトーク"
        "ンではなく行を引きます",
        "likelihoods were computed in PyTorch on the weights as the engine's file holds them; KL over the whole "
        "vocabulary; the bootstrap draws rows, not tokens",
    ),
    "record.latency_text": (
        "計算時間は、教師のf16版と並べて、同じ時間帯に無作為な順で測りました。体感の時間は、動いている窓口に対し、ループバック"
        "で毎秒peak_rps件を応答を待たずに送り、逐次配信で測りました。負荷をかける側も同じコアを使います",
        "engines timed in one window, in random order, beside the teacher's f16 build; latency as felt measured "
        "through the running endpoint, streamed, open loop at peak_rps on loopback, load generator on the same cores",
    ),
    "record.controls_text": (
        "対照は、同じ大きさになるように量子化しただけの教師、勝者と同じ形に切って学習しないもの、同じ形・同じ学習量で教師の"
        "回答を使わず文章だけで学習したものです",
        "the teacher only quantized at equal bytes; the winner's shape cut and not trained; the same shape and steps "
        "trained on the text alone, without the teacher's answers",
    ),
    "record.teacher_itself": ("教師は自分自身と一致します", "the teacher agrees with itself"),
    "record.one_request": (
        "入力128トークン・出力32トークンの1件、{threads}スレッド、教師の{build}版と交互に測定",
        "a prompt of 128 tokens and an answer of 32, {threads} threads, interleaved with the teacher's {build} build",
    ),
    "record.order_text": (
        "検証データで教師と同じトークンを最有力とした割合、行を単位としたWilson区間",
        "same likeliest token as the teacher on validation rows, Wilson with rows as trials",
    ),
    "record.order_perplexity": (
        "検証データでの教師のパープレキシティ ÷ このモデルのパープレキシティ（上限1）",
        "the teacher's perplexity over this model's on validation rows, at most 1",
    ),
    "record.note_scored": (
        "{split}の {rows} 行のうち {n} 行（{tokens} トークン）を採点しました。無作為な標本です。",
        "{n} of {rows} {split} rows were scored, {tokens} tokens; a random sample.",
    ),
    "record.note_learned": (
        "学習には {rows} 行のうち {n} 行を使いました。無作為な標本です。",
        "Students learned from {n} of {rows} train rows, a random sample.",
    ),
}
