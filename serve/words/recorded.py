"""What our programs record in English - formulas, notes, reasons - in the reader's language, key -> (ja, en).

The English text is the record, so it is also the pattern by which `texts.recorded` knows it.
"""

from __future__ import annotations

RECORDED_TEXTS: dict[str, tuple[str, str]] = {
    "record.training_after_quantize": (
        "量子化の後の{stage}には、量子化を考慮した学習が必要です。ふつうの学習では丸めが元に戻るためで、"
        "{stage}は量子化の前に置きます",
        "{stage} after quantize needs quantization-aware training, since plain training would undo the"
        " rounding; put {stage} before quantize",
    ),
    "record.needs_parent": (
        "量子化の後の剪定には、量子化前の全精度モデルが必要です。全精度モデルを残すか、剪定を量子化の前に置きます",
        "prune after quantize needs the full-precision parent, from which the quantized form is built"
        " again; keep the parent or put prune before quantize",
    ),
    "record.bits_fp32": (
        "32ビット浮動小数点",
        "32-bit floating point",
    ),
    "record.bits_w8a8": (
        "8ビット（重みと計算）",
        "8-bit weights and activations",
    ),
    "record.bits_w8a16": (
        "8ビット（重みのみ）",
        "8-bit weights",
    ),
    "record.intervals": (
        "信頼度 kpi.quality.confidence の両側区間です。区間の全体が限度内にあるかどうかで判定します",
        "two-sided at kpi.quality.confidence; a verdict asks whether all of the interval lies within the limit",
    ),
    "record.selection": (
        "候補は、検証データのラベルと、取り分けたラベルなしデータでの教師との一致率で順位を付けました。テス"
        "トデータは、選んだ後に一度だけ開きました",
        "candidates were ranked on validation labels and on agreement with the teacher on held-out"
        " unlabelled rows; the test rows were opened once, after the choice",
    ),
    "record.latency": (
        "計算時間は、教師のfp32版と並べて、同じ時間帯に無作為な順で測りました。体感の応答時間は、動いている"
        "窓口に対し、ループバックで毎秒peak_rps件を応答を待たずに送って測りました。負荷をかける側も同じコア"
        "を使います",
        "engines timed in one window, in random order, beside the teacher's fp32 build; latency as felt"
        " measured through the running endpoint, open loop at peak_rps on loopback, load generator on the"
        " same cores",
    ),
    "record.cost": (
        "最大負荷を上限時間内にさばける台数を整数で数え、1か月分の料金を払うとしました。全力稼働時の費用は下限です",
        "whole machines at peak_rps within the latency limit, paid all month; cost at full use is a lower bound",
    ),
    "record.controls": (
        "対照は、勝者と同じ形・学習量・ラベル・エンジンで、教師の回答だけを使いません",
        "the same shape, steps, labels and engine as the winner, without the teacher's answers",
    ),
    "record.open_loop": (
        "毎秒{rps}件を{seconds}秒間、応答を待たずにループバックで送信（{total}件中{good}件に応答）",
        "open loop, {rps} rps for {seconds} s on loopback, {good} of {total} answered",
    ),
    "record.rtt": (
        "レシピにある往復通信時間",
        "the target's rtt_ms in the recipe",
    ),
    "record.throughput": (
        "通信を除く応答時間の95%値が{limit} ms以下に収まる最大の送信速度",
        "highest open-loop rate with p95 <= {limit} ms before the network",
    ),
    "record.memory": (
        "起動時を含む、提供プロセス全体の最大メモリ（{basis}）",
        "peak {basis} of the serving process tree, start included",
    ),
    "record.startup": ("コマンドの実行から最初の応答まで", "from the command to its first answer"),
    "record.energy": (
        "プロセッサ自身の電力量計（RAPL）による機械全体の値を、最大負荷で送った件数で割ったもの",
        "processor packages' own counters (RAPL), the whole machine, over the requests at peak_rps",
    ),
    "record.held_both": (
        "{cores}コアと{memory} MBに実際に制限して測定",
        "held to {cores} core(s) and {memory} MB",
    ),
    "record.held_cores": ("{cores}コアに実際に制限して測定", "held to {cores} core(s)"),
    "record.held_memory": ("{memory} MBに実際に制限して測定", "held to {memory} MB"),
    "record.order_score": (
        "検証データ、Wilson区間",
        "validation rows, Wilson",
    ),
    "record.order_agreement": (
        "取り分けたラベルなしデータで教師と同じ分類になった割合",
        "same class as the teacher on held-out unlabelled rows",
    ),
    "record.ece": (
        "期待較正誤差（15区間、温度調整後）",
        "expected calibration error, 15 bins, after temperature",
    ),
    "record.drop": (
        "テストの同じ行どうしで比べた差（教師 − このモデル）のブートストラップ",
        "paired bootstrap over test rows, teacher minus this model",
    ),
    "record.agreement": (
        "教師と同じ分類になった割合、Wilson区間",
        "same class as the teacher, Wilson",
    ),
    "record.kl": (
        "テスト1行あたりの平均 KL(教師 || このモデル)",
        "mean KL(teacher || model) a test row",
    ),
    "record.score": (
        "テストデータでの{score}、行のブートストラップ",
        "{score} on the test rows, bootstrap over rows",
    ),
    "record.slice_score": (
        "区分のテスト行での正解率、Wilson区間",
        "accuracy on the slice's test rows, Wilson",
    ),
    "record.slice_drop": (
        "区分の同じ行どうしで比べた差のブートストラップ",
        "paired bootstrap over the slice's test rows",
    ),
    "record.interleaved": (
        "{threads}スレッド、教師の{build}版と交互に測定",
        "{threads} threads, interleaved with the teacher's {build} build",
    ),
    "record.batch": (
        "{rows}件×{tokens}トークン、{threads}スレッド、教師の{build}版と交互に測定",
        "{rows}x{tokens}, {threads} threads, interleaved with the teacher's {build} build",
    ),
    "record.one_row": (
        "16トークンの1件、{threads}スレッド、教師の{build}版と交互に測定",
        "1 row of 16 tokens, {threads} threads, interleaved with the teacher's {build} build",
    ),
    "record.assumed": (
        "この機械は{cores}コアで、{threads}スレッドでも遅くならないと仮定",
        "this machine has {cores} cores, {threads} threads are assumed to be no slower",
    ),
    "record.moved": (
        "{target} での実測値を、{threads}スレッドでも遅くならないと仮定して転用",
        "as measured on '{target}', assuming that {threads} threads are no slower",
    ),
    "record.machines": (
        "最大負荷 ÷ 上限時間内の処理能力、切り上げ",
        "ceil(peak_rps / rate in the limit)",
    ),
    "record.money": (
        "台数 × 時間単価 × 730時間 ÷ 月間件数 × 1,000",
        "machines x price_per_hour x 730 h / requests_per_month x 1,000",
    ),
    "record.full_use": (
        "下限：1台が休みなく働いた場合",
        "lower bound: one machine that is never idle",
    ),
    "record.size": (
        "エンジンのファイル、トークナイザー、および必要な場合はモデル本体の合計",
        "engine builds, tokenizer, and the model where a build reads it",
    ),
    "record.unknown": (
        "テスト行のトークンのうち、トークナイザーが知らないものの割合",
        "tokens of the test rows that are unknown to the tokenizer",
    ),
    "record.note_validation_twins": (
        "検証用 {rows} 行のうち {n} 行は、学習に使う行とほぼ同じ文です。",
        "{n} of {rows} validation rows have a near-twin among the rows to learn from.",
    ),
    "record.note_validation": (
        "検証用には正解ラベル付き {rows} 行のうち {n} 行（各分類の{share}、学習用に2行は残す）を分けました。分類と"
        "最初の区分で層化し、ほぼ同じ文は同じ側に置いています。",
        "Validation is {n} of {rows} labelled rows ({share} of each class, two rows of it stay in train), "
        "stratified on the class and the first slice, near-twins together.",
    ),
    "record.note_agreement": (
        "教師との一致は、ラベルのない {rows} 行のうち {n} 行で見ています。",
        "Agreement with the teacher is read on {n} of {rows} unlabelled rows.",
    ),
    "record.note_agreement_labelled": (
        "教師との一致は {n} 行で見ています。ラベルのない行が{least}行に満たないため、"
        "多くはラベルを使わずに残した行です。",
        "Agreement with the teacher is read on {n} rows, mostly labelled ones whose labels are not used (under "
        "{least} unlabelled).",
    ),
    "record.note_blank": ("{file} の空の行 {n} 件を除きました。", "{n} rows with a blank text were dropped in {file}."),
    "record.note_repeated": (
        "{file} の同じ文の繰り返し {n} 行を除きました（ラベルは多数のものを採用）。",
        "{n} rows that repeat another row's text were dropped (the label most of them carry is kept) in {file}.",
    ),
    "record.note_undecided": (
        "{file} の {n} 件は複数のラベルが同数のため、学習用ではラベルなし、それ以外では除外としました。",
        "{n} texts carry several labels equally often and count as unlabelled (train) or not at all in {file}.",
    ),
}
