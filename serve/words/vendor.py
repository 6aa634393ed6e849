"""What a person reads of a model behind a vendor's URL; a part of `deshi.serve.texts.TEXTS`."""

from __future__ import annotations

VENDOR_TEXTS: dict[str, tuple[str, str]] = {
    "stage.asked": ("提供元への問い合わせ", "vendor asked"),
    "topic.asked": ("問い合わせ方", "how the vendor was asked"),
    "quantity.unmatched": ("どの分類でもない回答", "answers that are no label"),
    "notice.vendor": (
        "このモデルは手元になく、提供元のURL（{url}、モデル名 {model}）に問い合わせて評価しました。教師の確率とのずれ、"
        "サイズ、メモリなど、モデル本体が必要な項目は測定していません。",
        "This model is not held here: it was asked at its vendor's URL ({url}, model {model}). What needs its weights, "
        "such as KL, size and memory, was not measured.",
    ),
    "answer.places.vendor": (
        "モデルは提供元で動くため、導入先の機械は使いません。応答時間は、この機械から提供元に問い合わせて測りました。",
        "The model runs at its vendor, on no machine of one's own. Latency was taken from this machine to the vendor.",
    ),
    "next.vendor": (
        "提供元と契約条件（データの扱い、モデル変更の通知）を確認します。モデルは予告なく変わり得るため、--name で"
        "別の名前を付けて定期的に評価し直します。",
        "Settle the terms with the vendor (use of data, notice of changes). The model may change at any time: judge it "
        "again now and then, under another --name.",
    ),
    "removed.vendor": ("提供元のモデルのため不明", "not known of a vendor's model"),
    "risk.vendor.title": (
        "提供元のモデル（{model}）は、予告なく変わったり止まったりすることがあり、文章は社外に送られる",
        "The vendor's model ({model}) may change or end at any time, and the texts leave the company",
    ),
    "risk.vendor.sign": (
        "同じ文章への回答が前と変わります。応答時間や料金が変わります",
        "The same text is answered otherwise than before; latency or price moves",
    ),
    "risk.vendor.counter": (
        "決まったテスト行で定期的に評価し直します。データの扱いとモデル変更の通知を契約で定めます",
        "Judge it again on fixed rows at fixed times; settle the use of data and notice of changes by contract",
    ),
    "risk.vendor_calibration.title": (
        "提供元が返す確信度が、実際の正解率と合わない",
        "The confidence that the vendor returns is not how often it is right",
    ),
    "risk.vendor_calibration.sign": (
        "確信度で回答を振り分けると、想定より多くの誤りが自動処理に回ります",
        "More errors than expected pass a threshold of confidence",
    ),
    "risk.vendor_calibration.counter": (
        "確信度での振り分けは、自社の行で補正してから行います",
        "Correct it on rows of one's own before answers are parted by it",
    ),
    "assumption.vendor.price_per_1000": ("提供元の1,000件あたりの単価", "the vendor's price of 1,000 requests"),
    "money.source.command": ("コマンドの指定", "given with the command"),
    "record.inference_vendor": (
        "提供元の1,000件あたりの単価 × 月間件数 ÷ 1,000",
        "vendor.price_per_1000 x requests_per_month / 1,000",
    ),
    "record.vendor_asked": (
        "テストの各行を1回ずつ、温度0で問い合わせました。指示文に分類の一覧を載せ、そのうち一つだけを答えさせています。"
        "モデルは {url} の {model} です",
        "each test row once, at temperature 0, by a prompt that lists the labels and demands exactly one of them: "
        "model {model} at {url}",
    ),
    "record.vendor_latency": (
        "テスト行を提供元のURLに問い合わせた時間（この機械から同時に{at_once}件、再試行したものは最後の1回）",
        "the test rows' own requests to the URL, {at_once} at a time from this machine, the last try of each",
    ),
    "record.vendor_within": (
        "個別には測っていません。体感の応答時間に含まれます",
        "not measured apart: it is part of the latency as felt",
    ),
    "record.vendor_not_here": (
        "モデルは提供元で動くため測っていません",
        "not measured: the model runs at the vendor",
    ),
    "record.vendor_price": ("提供元の料金（--price-per-1000）", "the vendor's price, --price-per-1000"),
    "record.vendor_no_kl": (
        "測っていません。KLには全分類の確率が必要ですが、URLからは得られません",
        "not measured: a KL needs the probability of every label, which the URL does not give",
    ),
    "record.vendor_no_confidence": (
        "測っていません。URLは回答の確率を返しません",
        "not measured: the URL does not say how likely its tokens are",
    ),
    "record.vendor_unmatched": (
        "前後の空白と大文字・小文字の違いを除いても、どの分類とも一致しない回答の割合（誤りに数える）、Wilson区間",
        "answers that are none of the labels after trimming and case folding, counted as wrong, Wilson",
    ),
    "record.vendor_calibration": (
        "期待較正誤差（15区間、確信度は回答の各トークンの確率の積）",
        "expected calibration error, 15 bins, of exp(sum of the answer's token log-probabilities)",
    ),
    "record.replacement.priced": (
        "1,000件あたりの料金 × 月間件数 ÷ 1,000 ÷ 730時間、全対象の合計",
        "cost_per_1000 x requests_per_month / 1,000 / 730 h, over all targets",
    ),
}
