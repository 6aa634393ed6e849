"""Personal data out of a text before people read it: what has a form is replaced by its name in brackets.

    [MY NUMBER]  12 digits                         [CARD]  13 to 19 digits whose Luhn digit is right (ISO/IEC 7812)
    [PHONE]      of Japan and international        [MAIL]  an address with an @
    [NAME]       what stands before 様, さん, 氏 and the like, or after Mr., Ms., Dr. and the like

Digits may be full width, and may be parted by hyphens of any kind or spaces. A name without a title, an address,
an account or a customer number in words has no form and stays: `CANNOT_FIND` says so wherever masked texts are shown.
Doubt masks: 12 digits are masked whatever they count.
"""

from __future__ import annotations

import re

CANNOT_FIND = "masking.cannot_find"  # a key of deshi.serve.texts

# One character for one, so that places in the plain form are places in the text.
_HYPHENS = "‐‑‒–—―−－ｰ﹣"
_PLAIN = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | {"\u3000": " ", "\u00a0": " "}
    | dict.fromkeys(_HYPHENS, "-")
)
_LONG_VOWEL = re.compile(r"(?<=[0-9])[ー―](?=[0-9])")  # typed for a hyphen between digits

_MAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)+")
_DIGITS = re.compile(r"(?<![0-9+])(?<![0-9]\.)[0-9](?:[ -]?[0-9]){11,18}(?![0-9])")  # no decimals
_PHONE = re.compile(
    r"(?<![0-9A-Za-z])(?:"
    r"\+[0-9]{1,3}(?:[ .-]?\(?[0-9]{1,4}\)?){2,5}"  # international
    r"|\(?0[0-9]{1,4}\)?[ .-]?\(?[0-9]{1,4}\)?[ .-]?[0-9]{3,4}"  # Japan: 03-1234-5678, 090 1234 5678, (03)1234-5678
    r"|\(?[2-9][0-9]{2}\)?[ .-][0-9]{3}[ .-][0-9]{4}"  # North America
    r")(?![0-9])"
)
_KANJI = r"[\u3400-\u9fff々〆ヶ]"
_KANA = r"[\u30a1-\u30fcー]"
_JAPANESE = re.compile(
    rf"(?P<name>(?:{_KANJI}{{1,6}}|{_KANA}{{2,}}|[A-Za-z]{{2,}})"
    rf"(?:[ ・]?(?:{_KANJI}{{1,4}}|{_KANA}{{2,}}|[A-Z][A-Za-z]+))?)"
    r" ?(?=様|さま|さん|氏(?!名)|殿(?!下|堂|方)|くん|君(?!が|の|は|に|を|も|主|臨)|ちゃん)"
)
# Words that end in such a title and are no name: "everybody", "customer", "shape", "specification", ...
_NO_NAME = frozenset(
    (
        "客", "皆", "お客", "仕", "模", "同", "多", "有", "一", "異", "王", "神", "奥",
        "貴", "各", "御社", "貴社", "両", "彼", "母", "父", "兄", "姉", "祖母", "祖父",
        "子", "孫", "赤", "何", "主", "店員", "店長", "患者", "業者", "看護師",
    )
)  # fmt: skip
_TITLED = re.compile(
    r"\b(?i:mr|mrs|ms|miss|mx|dr|prof|sir|madam|mister)\.? "
    r"(?P<name>[A-Z][\w'’-]*(?: (?:[A-Z]\.|[A-Z][\w'’-]+)){0,2})"
)


def mask(text: str) -> str:
    """The text with personal data that has a form replaced."""
    plain = _LONG_VOWEL.sub("-", text.translate(_PLAIN))
    places: list[tuple[int, int, str]] = [(*found.span(), "[MAIL]") for found in _MAIL.finditer(plain)]
    for found in _DIGITS.finditer(plain):
        digits = re.sub(r"\D", "", found[0])
        if len(digits) == 12:
            places.append((*found.span(), "[MY NUMBER]"))
        elif passes_luhn(digits):
            places.append((*found.span(), "[CARD]"))
    places += [(*found.span(), "[PHONE]") for found in _PHONE.finditer(plain) if _is_phone(found[0])]
    places += [(*found.span("name"), "[NAME]") for found in _TITLED.finditer(plain)]
    places += [(*found.span("name"), "[NAME]") for found in _JAPANESE.finditer(plain) if found["name"] not in _NO_NAME]
    return _replaced(text, places)


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others: every second from the right doubled, sum by tens."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _is_phone(found: str) -> bool:
    """10 or 11 digits at home, 8 to 15 abroad (ITU-T E.164)."""
    digits = len(re.sub(r"\D", "", found))
    return 8 <= digits <= 15 if found.startswith("+") else 10 <= digits <= 11


def _replaced(text: str, places: list[tuple[int, int, str]]) -> str:
    """Each place by its word; of two that overlap the one that was named first."""
    kept: list[tuple[int, int, str]] = []
    for start, end, word in places:
        if all(end <= first or start >= last for first, last, _ in kept):
            kept.append((start, end, word))
    for start, end, word in sorted(kept, reverse=True):
        text = text[:start] + word + text[end:]
    return text
