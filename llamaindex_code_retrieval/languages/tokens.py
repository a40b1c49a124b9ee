"""Divide source code into words, strings and marks, without its comments and without a grammar."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

CLOSERS: Mapping[str, str] = {"(": ")", "[": "]", "{": "}"}
SQL_STRING = r"'(?:''|\\(?:(?!'\s*[,;)])[\s\S])?|[^'\\\n]|\n(?!(?i:create)\b))*+'"
"""A string of SQL, which does not go over a row that starts with ``CREATE``.

A backslash before its last quote is one of its characters in most dialects.
"""
_C_COMMENTS = r"//[^\n]*|/\*[\s\S]*?\*/|`(?:\\.|[^`\\])*`"
_COMMENTS: Mapping[str, str] = {
    "c": _C_COMMENTS,
    "xml": _C_COMMENTS,
    "hash": r"\#[^\n]*",
    "pod": r"(?m:^=[a-z])[\s\S]*?(?:\n=cut\b[^\n]*|\Z)|\#[^\n]*",
    "julia": r"\#=[\s\S]*?=\#|\#[^\n]*",
    "sql": r"--[^\n]*|/\*[\s\S]*?\*/",
    "docstring": r"\#[^\n]*",
    "description": r"\#[^\n]*",
    "powershell": r"<\#[\s\S]*?\#>|\#[^\n]*",
    "dash": r"--\[=*\[[\s\S]*?\]=*\]|--[^\n]*|\{-[\s\S]*?-\}",
    "ml": r"\(\*[\s\S]*?\*\)",
    "percent": r"%[^\n]*",
    "semicolon": r";[^\n]*",
}
_LONG_STRINGS = r"(?P<long>\"{3}|'{3})(?:(?!(?P=long))[\s\S])*(?P=long)"
# a docstring that goes over the start of a definition has lost its end
_DOCSTRINGS = r"(?P<long>\"{3}|'{3})(?:(?!(?P=long)|\n[ \t]*(?:async def|def|class) )[\s\S])*(?P=long)"
_STRINGS = r'"(?:\\.|[^"\\\n])*"' + r"|'(?:\\.|[^'\\\n])*'"
_QUOTED_NAME = r"`[^`\s]+`"
"""A name of R such as `` `[[<-.frame` ``, whose brackets are not closed."""
_OPEN_STRING = r"(?P<open>\"{3}|'{3}|\"(?!(?:\\.|[^\"\\\n])*\"))[^\n]*"


class Token(NamedTuple):
    """A word, a string or a mark of one character."""

    text: str
    start: int
    row: int
    row_start: int
    """Where its row starts."""
    is_first: bool
    """Whether it is the first of its row."""
    missing_quotes: str
    """The quotes that would end a string without its end."""

    @property
    def end(self) -> int:
        """Where the next token may start."""
        return self.start + len(self.text)


def tokens(source: str, style: str) -> Iterator[Token]:
    """Yield the tokens of a source whose comments are of a style of ``docstrings.COMMENT_STYLES``.

    >>> [token.text for token in tokens("f(x) // go\\n'a b'", "c")]
    ['f', '(', 'x', ')', "'a b'"]
    """
    is_first, row, row_start = True, 0, 0
    for match in _pattern(style).finditer(source):
        text = match[0]
        if match.lastgroup not in ("break", "comment"):
            yield Token(text, match.start(), row, row_start, is_first, match["open"] or "")
            is_first = False
        if "\n" in text:
            row += text.count("\n")
            row_start = match.start() + text.rindex("\n") + 1
            is_first = is_first or match.lastgroup == "break"


@cache
def _pattern(style: str) -> re.Pattern[str]:
    long_strings = _DOCSTRINGS if style == "docstring" else _LONG_STRINGS
    strings = ("(?P<open>(?!))", SQL_STRING, r'"[^"\n]*"') if style == "sql" else (long_strings, _OPEN_STRING, _STRINGS)
    names = (_QUOTED_NAME,) if style == "hash" else ()
    code = "|".join((*strings, *names, r"[\w$]+|[^\s\w]"))
    return re.compile(rf"(?P<comment>{_COMMENTS[style]})|(?P<break>\n)|{code}")
