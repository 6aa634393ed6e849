"""What people read on the review sheets, and what the page says of their reviews; a part of `deshi.serve.texts.TEXTS`.

The words of the sheets must not tell which answer is whose: they know an A and a B, never a teacher or a student.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# key -> (Japanese, English)
REVIEW_TEXTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        # the sheets
        "sheet.title": ("回答の評価シート", "Answers to be reviewed"),
        "sheet.release": ("対象（変更しないでください）", "subject (do not change)"),
        "sheet.name": ("お名前", "your name"),
        "sheet.blind": (
            "各件には、同じ文章に対する2つの回答AとBがあります。どちらがどの仕組みの回答かは伏せてあり、"
            "AとBの割り当ては件ごとに変わります。2つが同じ内容のこともあります。",
            "Each item has two answers, A and B, to the same text. Which system gave which is not told and changes "
            "from item to item. Both may be the same.",
        ),
        "sheet.rule": (
            "普段の仕事でその回答を受け取ったつもりで、上から順に評価してください。"
            "評価する件は5つの設問すべてに答え、評価しない件は空欄のままにします。途中で終えてもかまいません。",
            "Judge each answer as if you had received it at work, from the top. Answer all five questions of an item "
            "or none of them; you may stop at any item.",
        ),
        "sheet.back": (
            "終わったら、ファイルを保存して、依頼した担当者に渡してください。",
            "When you are done, save the file and hand it to the person who asked you.",
        ),
        "sheet.item": ("番号", "item"),
        "sheet.text": ("文章", "text"),
        "sheet.a": ("回答A", "answer A"),
        "sheet.b": ("回答B", "answer B"),
        "sheet.satisfaction_a": ("Aの満足度", "satisfaction with A"),
        "sheet.satisfaction_b": ("Bの満足度", "satisfaction with B"),
        "sheet.satisfaction.scale": (
            "1：とても不満 〜 5：とても満足",
            "1: very dissatisfied to 5: very satisfied",
        ),
        "sheet.preference": ("良い方", "better answer"),
        "sheet.handled_a": (
            "Aだけで、上長や他部署に回さず処理を終えられるか",
            "with A, could the case be finished without escalation",
        ),
        "sheet.handled_b": (
            "Bだけで、上長や他部署に回さず処理を終えられるか",
            "with B, could the case be finished without escalation",
        ),
        "sheet.remark": ("気づいたこと（任意）", "remark (optional)"),
        "sheet.choice.same": ("同じ", "same"),
        "sheet.choice.yes": ("はい", "yes"),
        "sheet.choice.no": ("いいえ", "no"),
        "sheet.refused": (
            "一覧にある値を選んでください。",
            "Choose one of the values in the list.",
        ),
        "sheet.save": ("回答をファイルに保存", "Save the answers as a file"),
        "sheet.done": ("評価済み", "items done"),
        "sheet.unnamed": ("お名前を入力してください。", "Enter your name."),
        "sheet.missing": (
            "設問の一部だけに答えた件があります。5つすべてに答えるか、「消す」で空欄に戻してください：",
            "Some items have answers to a part of the questions. Answer all five, or clear the item:",
        ),
        "sheet.saved": (
            "保存しました。ファイルを担当者に渡してください：",
            "Saved. Hand this file to the person who asked you:",
        ),
        "sheet.clear": ("消す", "clear"),
        # the page
        "people.title": ("現場の評価", "What people on the floor say"),
        "people.not_asked": (
            "まだ聞いていません。利用者の満足度と、上長や他部署に回さず処理を終えられる割合は分かっていません。"
            "評価シートは {command} で作成します。",
            "Not asked. User satisfaction and the share of cases finished without escalation are not known. "
            "{command} writes the sheets.",
        ),
        "people.lead": (
            "現場の{raters}名が、{items}件について教師と今回のモデルの回答を、どちらの回答か伏せたまま評価しました"
            "（{date}）。{rows}行のテストデータから無作為に選び、回答が食い違った行を多めに採ったうえで、"
            "全体の割合に合うように重みを付けています。",
            "{raters} people rated the answers of the teacher and of this model to {items} items without knowing whose "
            "they were ({date}). Items were drawn from {rows} test rows, more of them where the answers differ, and "
            "are weighted back to all rows.",
        ),
        "people.caption": (
            "区間は件のばらつきだけを表し、評価者を替えたときのばらつきは含みません。",
            "Intervals hold the spread over items, not that over other raters.",
        ),
        "people.quantity": ("項目", "quantity"),
        "people.student": ("今回のモデル", "this model"),
        "people.teacher": ("教師", "teacher"),
        "people.difference": ("差（今回 − 教師）", "difference (this model − teacher)"),
        "people.satisfaction": ("満足度の平均（1〜5）", "mean satisfaction (1 to 5)"),
        "people.satisfied": ("満足した割合（4以上）", "share satisfied (4 or 5)"),
        "people.handled": ("上長や他部署に回さず処理を終えられる割合", "share finished without escalation"),
        "people.preference": (
            "優劣を付けた回答のうち、今回のモデルを選んだ割合",
            "share that prefers this model, ties left out",
        ),
        "people.agreement": ("評価者どうしの一致（クリッペンドルフのα）", "agreement of raters (Krippendorff's alpha)"),
        "people.experience": (
            "顧客体験の金額換算（1か月、基本の試算には含みません）",
            "customer experience in money, a month (outside of the base case)",
        ),
        # what the figures record
        "record.review_satisfaction": ("1〜5の満足度の平均", "mean satisfaction on the scale of 1 to 5"),
        "record.review_satisfied": ("満足度が4または5の割合", "share of the answers with satisfaction 4 or 5"),
        "record.review_handled": (
            "上長や他部署に回さず処理を終えられる割合",
            "share of the cases that staff could finish without escalation",
        ),
        "record.review_difference": (
            "同じ件での差（今回のモデル − 教師）",
            "student minus teacher on the same items",
        ),
        "record.review_weighted": (
            "件ごとに評価者の平均を取り、各件が代表する行数で重み付けし、件のブートストラップで区間を計算",
            "raters averaged within an item, items weighted by the rows they stand for, bootstrap over items",
        ),
        "record.review_preference": (
            "優劣を付けた回答のうち、今回のモデルを選んだ割合",
            "preferred answers that are the student's, ties left out",
        ),
        "record.review_undecided": (
            "回答が食い違う件で、優劣を付けた人がいません",
            "nobody preferred one of two different answers",
        ),
        "record.review_agreement": (
            "満足度のクリッペンドルフのα（順序尺度）、件のブートストラップ",
            "Krippendorff's alpha of the satisfaction, ordinal, bootstrap over items",
        ),
        "record.review_alone": (
            "一致度の計算には、同じ件を評価した2名以上と、2種類以上の評価が必要です",
            "agreement needs two raters of the same items and more than one value",
        ),
        "record.review_experience": (
            "満足した1件の価値 × 月間件数 × 満足した割合の差（1か月分）",
            "value_per_satisfied_request x requests_per_month x difference of the shares satisfied, a month",
        ),
    }
)
