"""Refuses free text that seems to identify a patient, before it is stored.

It finds what has a form: dates, addresses, numbers, and the words that announce them. A name alone has none, so this
is a net below the sentence on the page that asks people to leave patients out, and no replacement for it.
"""

from __future__ import annotations

import re
import unicodedata
from difflib import SequenceMatcher

from core.errors import FeedbackError

MOST_CHARACTERS = 2000
MOST_CORRECTED = 20_000
"""Characters of a corrected text, as long as a report may be."""
_WORDS = re.compile(r"\w+|[^\w\s]")
_MONTHS = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|märz|mär|mrz|apr(?:il)?|may|mai|june?|juni|july?|juli"
    r"|aug(?:ust)?|sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)\b\.?"
)
_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:18|19|20)\d\d"
_DATES = (
    rf"(?<!\d){_YEAR}([-./]){_MONTH}\1{_DAY}(?!\d)",
    rf"(?<![\d.,])(?:{_DAY}([-./])\s?{_MONTH}|{_MONTH}([-./])\s?{_DAY})(?:\1|\2)\s?{_YEAR}(?!\d)",
    # With two digits of the year it must stand alone, or spine levels and versions would be dates.
    rf"(?<![\w.,/-])(?:{_DAY}([-./]){_MONTH}\1|{_MONTH}([-./]){_DAY}\2)\d\d(?![\d/-]|\.\d)",
    rf"(?<!\d){_DAY}(?:st|nd|rd|th)?[\s.-]*(?:of\s+)?{_MONTHS}[\s,-]*(?:{_YEAR}|'?\d\d)(?!\d)",
    rf"(?<![^\W\d]){_MONTHS}[\s-]*{_DAY}(?:st|nd|rd|th)?(?:\s*,\s*|\s+|-){_YEAR}(?!\d)",
    rf"(?<!\d){_YEAR}[\s,-]+{_MONTHS}[\s-]*{_DAY}(?!\d)",
)
_PHONES = (
    r"(?<![\w.])(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,5}\)?){2,}",
    r"(?<![\w.,])\(?0[1-9]\d{1,4}\)?[ /-]?(?:\d[ /-]?){5,}",
    r"(?<![\w.,])0[1-9](?:[ .-]?\d\d){4}(?!\d)",
    r"(?<![\w.,])(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-. ]\d{4}(?!\d)",
    r"\b(?:tel|telefon|telephone|phone|fax|mobil|mobile|handy|cell|call)\b\.?(?: ?(?:no|nr|number))?[.:]? *"
    r"\+?\d[\d ()/.-]{4,}\d",
)
_NUMBERS = (
    r"\d{6,}",
    r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])",
    r"\b(?:nhs|ssn|kvnr)\b[\s:#.]*(?:(?:no|nr|number)\b[\s:#.]*)?[a-z]?\d",
)
_PATIENTS = (
    r"\bmrn\b\s*(?:[:=#]|(?:is|no|nr|number)\b|\w*\d)",
    r"\b(?:medical record|patient|pat|patienten|fall|case|accession)(?:['’]?s)?[\s._-]*"
    r"(?:id|name|no|nr|number|nummer)\b\.?\s*(?:[:=#]|(?:is|ist)\b|[a-z]*\d|(?-i:[A-Z][a-z]))",
)
_BIRTHS = (r"\bd\.?o\.?b\b", r"\b(?:date of birth|birth ?date)\b", r"\bgeb\b\.", r"\bgeboren am\b", r"\bgeburtsdatum\b")


def _patterns(expressions: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(expression, re.IGNORECASE) for expression in expressions)


KINDS = {
    "a date": _patterns(_DATES),
    "an e-mail address": _patterns((r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",)),
    "a phone number": _patterns(_PHONES),
    "a number of six or more digits": _patterns(_NUMBERS),
    "a patient's name or number": _patterns(_PATIENTS),
    "a date of birth": _patterns(_BIRTHS),
}


def storable(text: str) -> str:
    """The text without what a database cannot hold: zero characters and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def screened(text: str, *, most: int = MOST_CHARACTERS, known: str = "") -> str:
    """The text as it may be stored.

    Args:
        most: characters that it may have.
        known: what it was made from, and is stored already: what stands there may stay, and only words that are new
            are refused.

    Raises:
        FeedbackError: it is too long, or seems to hold an identifier of a patient. The message says of what kind, and
            does not repeat it.
    """
    text = storable(text)
    if len(text) > most:
        raise FeedbackError(
            "The text is too long to be stored", value=len(text), remedy=f"Use at most {most} characters"
        )
    plain = _plain(text)
    new = _new_parts(plain, _plain(known))
    found = [kind for kind, patterns in KINDS.items() if any(_holds(pattern, plain, new) for pattern in patterns)]
    if found:
        raise FeedbackError(
            f"The text seems to hold {' and '.join(found)}, which may identify a patient",
            remedy="Nothing was stored. Remove it and try again",
        )
    return text


def _plain(text: str) -> str:
    """The text in one way of writing, without characters that nobody sees."""
    return "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")


def _new_parts(text: str, known: str) -> list[tuple[int, int]]:
    """Start and end of what a text has more than another one, in whole words."""
    if not known:
        return [(0, len(text))]
    words = list(_WORDS.finditer(text))
    changes = SequenceMatcher(None, _WORDS.findall(known), [word[0] for word in words]).get_opcodes()
    return [(words[a].start(), words[b - 1].end()) for kind, _, _, a, b in changes if kind != "equal" and a < b]


def _holds(pattern: re.Pattern[str], text: str, new: list[tuple[int, int]]) -> bool:
    """Whether the pattern is found in what is new, but not in the decimals of a number, such as 0.123456."""
    for match in pattern.finditer(text):
        if not any(start < match.end() and match.start() < end for start, end in new):
            continue
        before, after = text[: match.start()], text[match.end() :]
        if not (match[0].isdigit() and re.search(r"(?<![\d.])\d{1,5}[.,]$", before) and not re.match(r"\.\d", after)):
            return True
    return False
