"""A text as units to compare: words where words are spaced, characters where they are not.

Case, punctuation, width (full or half) and invisible characters do not count: "Well-known，１" and
"well known 1" have the same units. Chinese, Japanese, Thai, Lao, Khmer and Burmese are compared by
character.
"""

import re
import unicodedata

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
)
_UNIT = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_INSIDE_WORDS = re.compile("['\u2019\u00ad\u200b-\u200f\u2060\ufeff]")
_CHARACTER = re.compile(rf"[{_UNSPACED}]")


def units_of(text: str) -> list[str]:
    """Return the words and characters of a text, normalised."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _UNIT.findall(_INSIDE_WORDS.sub("", text.casefold()))


def is_character(unit: str) -> bool:
    """Return whether the unit is a character of a script without spaces."""
    return _CHARACTER.match(unit) is not None


def information_of(unit: str) -> float:
    """Return how much a unit tells: 1 for a word, half for a character, 0 for a number or letter.

    What tells nothing is in too many texts by chance: numbers in a row, the letters of choices.
    """
    if is_character(unit):
        return 0.5
    return float(len(unit) > 1 and not unit.isdecimal())


def joined(units: list[str]) -> str:
    """Return units as a text, words with spaces between them."""
    parts = []
    for before, unit in zip(["", *units], units, strict=False):
        spaced = before and not (is_character(before) and is_character(unit))
        parts.append(f" {unit}" if spaced else unit)
    return "".join(parts)
