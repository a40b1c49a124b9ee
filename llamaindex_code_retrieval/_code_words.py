"""Split code and questions into the words that are searched."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_ASCII_WORD = re.compile(r"[a-z]+|[A-Z](?:[a-z]+|[A-Z]*(?![a-z]))|[0-9]+")
_SHAPE_OF_WORD = re.compile(r"(?:Um*)+(?![lm])|(?:Um*)?l[lm]*|d+|c+|o[om]*")
_CJK = re.compile(
    "[\u1100-\u11ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f"
    "\uac00-\ud7ff\uf900-\ufaff\U00020000-\U000323af]"
)


class _Shapes(dict[int, str]):
    """The kind of each character, for ``str.translate``: one letter, or a space between words."""

    def __missing__(self, code_point: int) -> str:
        self[code_point] = _shape(chr(code_point))
        return self[code_point]


def _shape(character: str) -> str:
    if character.isupper() or character.istitle():
        return "U"
    if character.islower():
        return "l"
    if character.isdecimal():
        return "d"
    if unicodedata.category(character).startswith("M"):
        return "m"  # accents and vowel signs, which continue a word
    if not character.isalnum():
        return " "
    return "c" if _CJK.match(character) else "o"


_SHAPES = _Shapes()


def code_words(text: str) -> list[str]:
    """Return the lower-cased words of a text, identifiers split at camelCase, snake_case and digits.

    A word is a run of letters or of digits in any script, after Unicode normalisation (NFKC). Chinese, Japanese and
    Korean texts do not separate words as others do: each pair of neighbouring characters is a word, and a character
    that stands alone.

    >>> code_words("parseHTTPHeader(max_size, utf8)")
    ['parse', 'http', 'header', 'max', 'size', 'utf', '8']
    >>> code_words("getGrößeDerDatei(café)")
    ['get', 'größe', 'der', 'datei', 'café']
    >>> code_words("def 读取配置(表)")
    ['def', '读取', '取配', '配置', '表']
    """
    return join_words(text).split()


def join_words(text: str) -> str:
    """Return :func:`code_words` separated by spaces."""
    words = _ASCII_WORD.findall(text) if text.isascii() else _unicode_words(unicodedata.normalize("NFKC", text))
    return " ".join(words).lower()


def _unicode_words(text: str) -> Iterator[str]:
    shapes = text.translate(_SHAPES)
    for match in _SHAPE_OF_WORD.finditer(shapes):
        first, end = match.span()
        if shapes[first] == "c" and end - first > 2:
            yield from (text[start : start + 2] for start in range(first, end - 1))
        else:
            yield text[first:end]
