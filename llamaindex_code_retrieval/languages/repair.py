"""Close brackets where the layout of a source says that they end, so that one broken line costs one function."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_MAX_BYTES = 500_000
_CLOSERS = {b"(": b")", b"[": b"]", b"{": b"}"}
# a string in three quotes that goes over the start of a definition has lost its end
_LONG_STRINGS = rb"(?P<long>\"{3}|'{3})(?:(?!(?P=long)|\n[ \t]*(?:async def|def|class) )[\s\S])*(?P=long)"
_STRINGS = rb'"(?:\\.|[^"\\\n])*"' + rb"|'(?:\\.|[^'\\\n])*'"
_OPEN_STRING = rb"(?P<open>\"{3}|'{3}|\"(?!(?:\\.|[^\"\\\n])*\"))[^\n]*"
_C_COMMENTS = rb"//[^\n]*|/\*[\s\S]*?\*/|`(?:\\.|[^`\\])*`"
_COMMENTS: Mapping[str, bytes] = {
    "c": _C_COMMENTS,
    "xml": _C_COMMENTS,
    "hash": rb"\#[^\n]*",
    "docstring": rb"\#[^\n]*",
    "dash": rb"--\[=*\[[\s\S]*?\]=*\]|--[^\n]*|\{-[\s\S]*?-\}",
    "ml": rb"\(\*[\s\S]*?\*\)",
    "percent": rb"%[^\n]*",
    "semicolon": rb";[^\n]*",
}
# rows that stand at the margin wherever they are: labels and preprocessor directives
_MARGIN_ROW = re.compile(rb"\s*(?:\#\s*[a-z]|\w+\s*:\s*(?://.*|/\*.*)?$)")


@dataclass(slots=True)
class _Bracket:
    closer: bytes
    indent: int
    is_empty: bool = True
    is_flat: bool = False
    """Whether the code inside is not indented, as in a namespace: the layout does not tell where it ends."""


@dataclass(slots=True)
class _Repair:
    stack: list[_Bracket] = field(default_factory=list)
    edits: list[tuple[int, int, bytes]] = field(default_factory=list)  # start, end, what is put there
    end: int = 0  # of the last code before the present token

    def start_row(self, indent: int, first: bytes) -> None:
        """Close the brackets that the indentation of a row of code shows as ended."""
        is_closer = first in _CLOSERS.values()
        if self.stack and self.stack[-1].is_empty:
            bracket = self.stack[-1]
            bracket.is_empty = False
            bracket.is_flat = bracket.closer == b"}" and indent <= bracket.indent and not is_closer
        while self.stack and not self.stack[-1].is_flat:
            if self.stack[-1].indent < indent + is_closer:
                break
            self.edits.append((self.end, self.end, self.stack.pop().closer))

    def close(self, closer: bytes, start: int, indent: int, *, leads: bool) -> None:
        """Take a closing bracket, after closing those inside that are still open; one that closes nothing is removed.

        ``leads``: whether the row starts with a closing bracket. Such a row stands under the row that it closes, so
        one that is indented more closes nothing either.
        """
        depth = next((depth for depth, each in enumerate(reversed(self.stack)) if each.closer == closer), None)
        if depth is None or (leads and closer == b"}" and self.stack[-1 - depth].indent < indent):
            self.edits.append((start, start + 1, b" "))
            return
        for _ in range(depth):
            self.edits.append((self.end, self.end, self.stack.pop().closer))
        self.stack.pop()


def close_brackets(raw: bytes, style: str) -> bytes:
    """Return a source in which brackets that the indentation shows as ended are closed, with the same rows.

    A row that is indented no more than the row of an open bracket, and does not start with a closing one, is taken to
    be outside. Closing brackets without an opening one become spaces. Sources over 500,000 bytes are left as they are.
    """
    if len(raw) > _MAX_BYTES:
        return raw
    repair = _Repair()
    indent, leads = 0, False
    for token, start, is_first, row_start, quote in _tokens(raw, style):
        if is_first:
            indent = len(raw[row_start:start].expandtabs(4))
            leads = token in _CLOSERS.values()
            if not _MARGIN_ROW.match(raw, row_start):
                repair.start_row(indent, token[:1])
        if token in _CLOSERS:
            repair.stack.append(_Bracket(_CLOSERS[token], indent))
        elif token in _CLOSERS.values():
            repair.close(token, start, indent, leads=leads)
        repair.end = start + len(token)
        if quote:
            repair.edits.append((repair.end, repair.end, quote))
    repair.edits += [(repair.end, repair.end, bracket.closer) for bracket in reversed(repair.stack)]
    result, end = [], 0
    for first, last, text in repair.edits:
        result += [raw[end:first], text]
        end = last
    return b"".join([*result, raw[end:]])


def _tokens(raw: bytes, style: str) -> Iterator[tuple[bytes, int, bool, int, bytes]]:
    """Yield the tokens of a source without its comments.

    Each is the token, where it starts, whether it is the first of its row, where the row starts, and the quotes that
    would end it if it is a string without its end.
    """
    pattern = re.compile(
        rb"(?P<comment>"
        + _COMMENTS[style]
        + rb")|(?P<break>\n)|"
        + rb"|".join((_LONG_STRINGS, _OPEN_STRING, _STRINGS, rb"[\w$]+|[^\s\w]"))
    )
    is_first, row_start = True, 0
    for match in pattern.finditer(raw):
        if match.lastgroup == "break":
            is_first, row_start = True, match.end()
        elif match.lastgroup == "comment":
            if b"\n" in match[0]:
                row_start = match.start() + match[0].rindex(b"\n") + 1
        else:
            yield match[0], match.start(), is_first, row_start, match["open"] or b""
            is_first = False
            if b"\n" in match[0]:
                row_start = match.start() + match[0].rindex(b"\n") + 1
