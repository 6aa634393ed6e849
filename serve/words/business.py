"""The sentences of texts.py about money: the account, its assumptions, what it comes to, key -> (ja, en).

`money.<line>`, `one_off.<name>` and `assumption.<key>` name the rows of `business_schema.py`, the records are the
formulas of `business_case.py`, both in `jobs/evidence/business/`.
"""

from __future__ import annotations

_SECTION: dict[str, tuple[str, str]] = {
    "money.title": ("業務効果と費用", "Money"),
    "money.lead": (
        "費用は最大負荷をさばける台数を整数で数えて計算しています。区間は実測値のばらつきによるもので、"
        "レシピに書かれた前提の影響は「前提を動かしたとき」に示します。",
        "Machines are counted whole, at peak load. Intervals come from what was measured; what the recipe states is"
        " moved in the table of assumptions.",
    ),
    "money.monthly": ("毎月の収支", "Every month"),
    "money.line": ("費目", "line"),
    "money.today": ("現在", "today"),
    "money.new": ("導入後", "new"),
    "money.saving": ("削減額", "saving"),
    "money.total": ("合計", "total"),
    "money.once": ("初期費用", "Spent once"),
    "money.result": ("採算", "What it comes to"),
    "money.sensitivity": ("前提を動かしたとき", "When an assumption moves"),
    "money.sensitivity.lead": (
        "レシピに書かれた前提を一つずつ20%下げ、また20%上げたときの正味現在価値です。影響が大きい順に並べました。",
        "Net present value when one assumption alone is 20% lower and 20% higher, the largest effect first.",
    ),
    "money.sensitivity.low": ("20%下げたとき", "20% lower"),
    "money.sensitivity.high": ("20%上げたとき", "20% higher"),
    "money.assumptions": ("計算の前提", "Assumptions"),
    "money.assumption": ("前提", "assumption"),
    "money.value": ("値", "value"),
    "money.source": ("出どころ", "source"),
    "money.source.recipe": ("レシピの記載", "recipe"),
    "money.source.default": ("既定値（レシピに記載なし）", "default, not stated in the recipe"),
    "money.source.measured": ("実測", "measured"),
    "money.source.projected": ("推定・未測定", "projected, never measured"),
    # lines of a month, money spent once
    "money.inference": ("推論の費用", "inference"),
    "money.operation": ("運用の作業", "operation"),
    "money.errors": ("誤った回答の費用", "wrong answers"),
    "money.staff_waiting": ("担当者の待ち時間", "staff waiting for answers"),
    "money.cascade": ("教師モデルへの問い合わせ", "questions passed to the teacher"),
    "one_off.training": ("モデルの作成", "making the model"),
    "one_off.staff_training": ("担当者の教育", "training of staff"),
    "one_off.plan": ("移行の計画", "migration: plan"),
    "one_off.integrate": ("移行：システムへの組み込み", "migration: integrate"),
    "one_off.test": ("移行：受け入れ試験", "migration: acceptance test"),
    "one_off.switch": ("移行：切り替え", "migration: switch over"),
    # results
    "account.inference_saving_share": ("推論費用の削減率", "inference cost saved"),
    "account.monthly_saving": ("毎月の削減額", "saving a month"),
    "account.staff_hours": ("毎月減る待ち時間", "hours of waiting saved a month"),
    "account.roi": ("投資利益率（ROI）", "return on investment (ROI)"),
    "account.npv": ("正味現在価値（NPV）", "net present value (NPV)"),
    "account.payback_months": ("回収期間", "payback"),
    "account.break_even_requests": ("損益分岐の月間件数", "break-even, requests a month"),
    "account.experience": ("顧客体験の価値（上記の計算には含みません）", "customer experience (in none of the above)"),
    "unit.months": ("か月", "months"),
    "unit.hours": ("時間", "hours"),
    "unit.requests": ("件", "requests"),
    "unit.people": ("人", "people"),
}

# Every value comes with its unit.
_SENTENCES: dict[str, tuple[str, str]] = {
    "money.says.saves": (
        "{target} では、推論の費用を {value} 削減できます。",
        "On {target}, inference costs {value} less.",
    ),
    "money.says.saves.interval": (
        "{target} では、推論の費用を {value}（{low} 〜 {high}）削減できます。",
        "On {target}, inference costs {value} less ({low} to {high}).",
    ),
    "money.says.same": (
        "{target} では、推論の費用は変わりません。",
        "On {target}, inference costs the same.",
    ),
    "money.says.costs_more": (
        "{target} では、推論の費用は下がりません（削減率 {value}）。",
        "On {target}, inference costs more, not less (a saving of {value}).",
    ),
    "money.says.free": (
        "{target} では、現在の推論の費用が 0 のため、削減率は計算できません。",
        "On {target}, inference costs nothing today, so no share can be saved.",
    ),
    "money.says.payback": (
        "初期費用は {value}で回収できます。",
        "The money spent once is back after {value}.",
    ),
    "money.says.payback.interval": (
        "初期費用は {value}（{low} 〜 {high}）で回収できます。",
        "The money spent once is back after {value} ({low} to {high}).",
    ),
    "money.says.payback.may_never": (
        "初期費用は {value}で回収できる見込みです。ただし測定値の幅を考えると、早ければ {low}で回収できる一方、"
        "評価期間の {horizon}以内に回収できないこともあります。",
        "The money spent once is back after {value}; by what was measured it may be back after {low}, or not within the"
        " horizon of {horizon}.",
    ),
    "money.says.payback.none_spent": (
        "レシピに初期費用の記載がないため、初月から効果が出る計算です。移行や教育にかかる費用を確認してください。",
        "The recipe states no money that is spent once, so it pays from the first month; check the cost of the change.",
    ),
    "money.says.payback.never": (
        "評価期間の {horizon}以内には、初期費用を回収できません。",
        "The money spent once does not come back within the horizon of {horizon}.",
    ),
    "money.says.payback.never_but": (
        "評価期間の {horizon}以内には、初期費用を回収できない見込みです。測定値の幅のうち最も良い場合は {low}で"
        "回収できます。",
        "The money spent once is not expected back within the horizon of {horizon}; by what was measured it may be back"
        " after {low}.",
    ),
    "money.says.loses": (
        "毎月の費用が現在より減らないため、初期費用は回収できません。",
        "No month costs less than today, so the money spent once never comes back.",
    ),
    "money.says.break_even": (
        "月間の件数が {value}まで減っても採算が取れます（想定は {planned}）。",
        "It still pays if requests fall to {value} a month ({planned} are planned).",
    ),
    "money.says.break_even.grow": (
        "採算を取るには月間 {value}が必要です（想定は {planned}）。",
        "It takes {value} a month to pay ({planned} are planned).",
    ),
    "money.says.break_even.none": (
        "月間の件数が想定（{planned}）の{times}倍に増えても、採算は取れません。",
        "It does not pay even at {times} times the planned {planned} a month.",
    ),
    "money.says.without": (
        "この計算に含まないもの：{names}。",
        "Not in this account: {names}.",
    ),
    "money.none.no_rate": (
        "{target} では、応答時間の上限を守れる処理能力を確認できていないため、費用を計算できません。",
        "{target} has no account: no rate of requests was found that keeps the latency limit there.",
    ),
    "money.none.no_today": (
        "{target} では、現在の費用がわからないため、費用を比較できません。レシピの business.today に単価を書いてくだ"
        "さい。",
        "{target} has no account: today's cost is not known there; state a price in business.today.",
    ),
}

_ASSUMPTIONS: dict[str, tuple[str, str]] = {
    "assumption.requests_per_month": ("月間の件数", "requests a month"),
    "assumption.peak_rps": ("最大負荷（1秒あたりの件数）", "peak load"),
    "assumption.target.price_per_hour": ("導入先の機械の時間単価", "price of a machine-hour on the target"),
    "assumption.target.rtt_ms": ("導入先までの往復通信時間", "network round trip to the target"),
    "assumption.today.price_per_1000": ("現在の1,000件あたりの単価", "price of 1,000 requests today"),
    "assumption.today.price_per_hour": ("現在の機械の時間単価", "price of a machine-hour today"),
    "assumption.today.requests_per_hour": (
        "現在の機械1台が1時間に処理できる件数",
        "requests an hour of one machine today",
    ),
    "assumption.today.latency_ms": ("現在の応答時間", "latency today"),
    "assumption.operation.hours_per_month": ("導入で増える運用の作業時間（月）", "added hours of operation a month"),
    "assumption.operation.hour_cost": ("運用担当者の時間単価", "cost of an hour of operation"),
    "assumption.staff.people": ("回答を待ちながら働く担当者の人数", "people who wait for answers"),
    "assumption.staff.hours_per_month": ("担当者1人の月間の勤務時間", "hours at work a month, each"),
    "assumption.staff.requests_per_hour": ("担当者1人が1時間に送る件数", "requests an hour of one of them"),
    "assumption.staff.share_waiting": ("応答時間のうち手が止まる割合", "share of an answer's time that is lost"),
    "assumption.staff.hour_cost": ("担当者の時間単価", "cost of an hour of staff"),
    "assumption.error_cost": ("誤った回答1件の費用", "cost of one wrong answer"),
    "assumption.error_cost_matrix": ("誤りの種類ごとの費用の表（倍率）", "table of error costs (times)"),
    "assumption.migration.hours": ("移行の作業時間（合計）", "hours of migration, in all"),
    "assumption.migration.hour_cost": ("移行担当者の時間単価", "cost of an hour of migration"),
    "assumption.training_cost": ("モデルの作成費用", "cost of making the model"),
    "assumption.staff_training_hours": ("担当者の教育時間（合計）", "hours of staff training, in all"),
    "assumption.horizon_months": ("評価期間", "horizon"),
    "assumption.discount_rate": ("割引率（年）", "discount rate a year"),
    "assumption.throughput_rps": ("応答時間の上限内の処理能力", "throughput within the latency limit"),
    "assumption.latency_p50_ms": ("応答時間の中央値", "median latency"),
    "assumption.error_cost_per_1000": ("1,000件あたりの誤りの費用", "cost of errors in 1,000 requests"),
    "assumption.error_cost_difference_per_1000": (
        "1,000件あたりの誤りの費用の差（教師との差、同じ行どうし）",
        "cost of errors in 1,000 requests less the teacher's, on the same rows",
    ),
    "assumption.teacher.throughput_rps": (
        "教師の、応答時間の上限内の処理能力",
        "the teacher's throughput within the limit",
    ),
    "assumption.teacher.latency_p50_ms": ("教師の応答時間の中央値", "the teacher's median latency"),
    "assumption.teacher.error_cost_per_1000": (
        "教師の1,000件あたりの誤りの費用",
        "the teacher's cost of errors in 1,000 requests",
    ),
}

_MACHINES = " x price_per_hour x 730 h"
_RECORDS: dict[str, tuple[str, str]] = {
    "record.inference_price": (
        "現在の1,000件あたりの単価 × 月間件数 ÷ 1,000",
        "today.price_per_1000 x requests_per_month / 1,000",
    ),
    "record.inference_hourly": (
        "最大負荷（毎秒）× 3,600 ÷ 現在の1台が1時間に処理できる件数、切り上げ × 時間単価 × 730時間",
        "ceil(peak_rps x 3,600 / today.requests_per_hour)" + _MACHINES,
    ),
    "record.inference_teacher": (
        "最大負荷 ÷ 教師の上限時間内の処理能力、切り上げ × 時間単価 × 730時間",
        "ceil(peak_rps / the teacher's rate in the limit)" + _MACHINES,
    ),
    "record.inference_new": (
        "最大負荷 ÷ 上限時間内の処理能力、切り上げ × 時間単価 × 730時間",
        "ceil(peak_rps / rate in the limit)" + _MACHINES,
    ),
    "record.operation_today": (
        "現在の作業に加わる分だけを数えます",
        "only work that is added to today's is counted",
    ),
    "record.operation_new": (
        "月間の運用作業時間 × 時間単価",
        "operation.hours_per_month x operation.hour_cost",
    ),
    "record.errors_today": (
        "教師の1件あたりの誤りの費用 × 月間件数",
        "the teacher's cost of errors a request x requests_per_month",
    ),
    "record.errors_new": (
        "このモデルの1件あたりの誤りの費用 × 月間件数",
        "this model's cost of errors a request x requests_per_month",
    ),
    "record.waiting_today": (
        "担当者が現在の回答を待つ時間（応答時間の中央値）× 担当者の時間単価",
        "hours that staff wait for today's answers (median latency) x staff.hour_cost",
    ),
    "record.waiting_new": (
        "担当者が新しい回答を待つ時間（応答時間の中央値）× 担当者の時間単価",
        "hours that staff wait for the new answers (median latency) x staff.hour_cost",
    ),
    "record.once_migration": ("{hours}時間 × 移行担当者の時間単価", "{hours} h x migration.hour_cost"),
    "record.once_training": ("レシピに書かれたモデルの作成費用", "training_cost of the recipe"),
    "record.once_staff": ("教育時間 × 担当者の時間単価", "staff_training_hours x staff.hour_cost"),
    "record.money_share": (
        "（現在の推論費用 − 導入後の推論費用）÷ 現在の推論費用",
        "(today's inference cost - the new one) / today's",
    ),
    "record.money_saving": (
        "毎月の費目すべてについて、現在 − 導入後を合計（誤りの費用は同じ行どうしで比べた差）",
        "today minus new, summed over all monthly lines, of errors the difference on the same rows",
    ),
    "record.money_hours": (
        "人数 × 勤務時間 × 1時間の件数 × 手が止まる割合 ×（現在と導入後の応答時間の中央値の差）",
        "people x hours_per_month x requests_per_hour x share_waiting x (median latency today - new)",
    ),
    "record.money_roi": (
        "（評価期間の月数 × 毎月の削減額 − 初期費用）÷ 初期費用、割引なし",
        "(horizon_months x monthly saving - money spent once) / money spent once, undiscounted",
    ),
    "record.money_roi_none": (
        "レシピに初期費用の記載がありません",
        "the recipe states no money that is spent once",
    ),
    "record.money_npv": (
        "毎月の削減額を月あたり (1 + 割引率)^(1/12) で割り引いた合計 − 初期費用",
        "monthly savings, discounted at (1 + discount_rate)^(1/12) a month, minus money spent once",
    ),
    "record.money_payback": (
        "初期費用 ÷ 毎月の削減額、割引なし",
        "money spent once / monthly saving, undiscounted",
    ),
    "record.money_payback_never": (
        "評価期間内の削減額の合計が初期費用に届きません",
        "the savings do not add up to the money spent once within horizon_months",
    ),
    "record.money_even": (
        "そこから想定件数までのどの件数でも正味現在価値が0以上となる、最小の月間件数（台数は整数）",
        "smallest volume from which every one up to the planned volume has NPV >= 0, in whole machines",
    ),
    "record.money_even_grow": (
        "想定件数を超えて、正味現在価値が初めて0以上となる月間件数（台数は整数）",
        "first volume above the planned one with NPV >= 0, in whole machines",
    ),
    "record.money_even_none": (
        "想定件数の{times}倍までのどの件数でも、正味現在価値が0以上になりません",
        "no volume up to {times} times the planned one has NPV >= 0",
    ),
    "record.money_draws": (
        "区間は、実測値をその区間に従って{draws}回引いた結果",
        "interval from {draws} draws of the measured figures",
    ),
}

BUSINESS_TEXTS = _SECTION | _SENTENCES | _ASSUMPTIONS | _RECORDS
