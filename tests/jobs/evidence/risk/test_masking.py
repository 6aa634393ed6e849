"""What is masked, what is not, and that nothing else in a text changes. All persons and numbers are invented."""

from __future__ import annotations

import pytest

from deshi.jobs.evidence.risk.masking import mask, passes_luhn


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("番号は123456789012です", "番号は[MY NUMBER]です"),
        ("番号は１２３４－５６７８－９０１２です", "番号は[MY NUMBER]です"),
        ("1234 5678 9012", "[MY NUMBER]"),
        ("No.123456789012", "No.[MY NUMBER]"),
        ("card 4111-1111-1111-1111.", "card [CARD]."),
        ("カード４１１１　１１１１　１１１１　１１１１", "カード[CARD]"),
        ("amex 378282246310005", "amex [CARD]"),
        ("tel 03-1234-5678", "tel [PHONE]"),
        ("電話は０９０−１２３４−５６７８まで", "電話は[PHONE]まで"),
        ("０９０ー１２３４ー５６７８", "[PHONE]"),  # a long-vowel mark typed for a hyphen
        ("(03)1234-5678", "[PHONE]"),
        ("09012345678", "[PHONE]"),
        ("call +81 90-1234-5678 now", "call [PHONE] now"),
        ("call (555) 123-4567 now", "call [PHONE] now"),
        ("to taro.yamada+x@mail.example.co.jp, please", "to [MAIL], please"),
        ("ｔａｒｏ＠ｅｘａｍｐｌｅ．ｃｏｍへ", "[MAIL]へ"),
        ("山田様へ", "[NAME]様へ"),
        ("佐藤 花子さんから", "[NAME]さんから"),
        ("ジョン・スミス氏が", "[NAME]氏が"),
        ("Smith様", "[NAME]様"),
        ("Mr. Smith and Ms Jane A. Doe wrote", "Mr. [NAME] and Ms [NAME] wrote"),
        ("Dr O'Neill's desk", "Dr [NAME] desk"),
    ],
)
def test_personal_data_with_a_form_is_masked(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "お客様の仕様と模様、皆さん、多様な王様",
        "氏名を書いてください",
        "2026-11-27 10:30",
        "注文番号 12345678",
        "4111-1111-1111-1112",  # Luhn's digit is wrong: an order number
        "How far is it from Denver to Aspen ?",
        "Who invented the 1,000,000th mister minit?",
        "version 1.2.3.4, 3.141592653589",
    ],
)
def test_what_is_no_personal_data_stays(text):
    assert mask(text) == text


def test_several_in_one_text_and_what_cannot_be_found():
    told = "山田太郎様（yamada@example.jp、03-1234-5678）とタロウ、東京都千代田区1-1"
    assert mask(told) == "[NAME]様（[MAIL]、[PHONE]）とタロウ、東京都千代田区1-1"


def test_the_check_digit_of_the_standard():
    assert passes_luhn("79927398713")  # the worked example of ISO/IEC 7812-1
    assert [digit for digit in "0123456789" if passes_luhn("7992739871" + digit)] == ["3"]
