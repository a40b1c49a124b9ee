"""Close brackets where the layout of a source says that they end, so that one broken line costs one function."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from llamaindex_code_retrieval.languages.tokens import CLOSERS, tokens

_MAX_LENGTH = 500_000
# rows that stand at the margin wherever they are: labels and preprocessor directives
_MARGIN_ROW = re.compile(r"(?m)[ \t]*(?:\#\s*[a-z]|(?!else|try|finally)\w+[ \t]*:[ \t]*(?://.*|/\*.*)?$)")


@dataclass(slots=True)
class _Bracket:
    closer: str
    indent: int
    is_empty: bool = True
    is_flat: bool = False
    """Whether the code inside is not indented, as in a namespace: the layout does not tell where it ends."""


@dataclass(slots=True)
class _Repair:
    stack: list[_Bracket] = field(default_factory=list)
    edits: list[tuple[int, int, str]] = field(default_factory=list)  # start, end, what is put there
    end: int = 0  # of the last code before the present token

    def start_row(self, indent: int, first: str) -> None:
        """Close the brackets that the indentation of a row of code shows as ended."""
        is_closer = first in CLOSERS.values()
        if self.stack and self.stack[-1].is_empty:
            bracket = self.stack[-1]
            bracket.is_empty = False
            bracket.is_flat = bracket.closer == "}" and indent <= bracket.indent and not is_closer
        while self.stack and not self.stack[-1].is_flat:
            if self.stack[-1].indent < indent + is_closer:
                break
            self.edits.append((self.end, self.end, self.stack.pop().closer))

    def close(self, closer: str, start: int, indent: int, *, leads: bool) -> None:
        """Take a closing bracket, after closing those inside that are still open; one that closes nothing is removed.

        ``leads``: whether the row starts with a closing bracket. Such a row stands under the row that it closes, so
        one that is indented more closes nothing either.
        """
        depth = next((depth for depth, each in enumerate(reversed(self.stack)) if each.closer == closer), None)
        if depth is None or (leads and closer == "}" and self.stack[-1 - depth].indent < indent):
            self.edits.append((start, start + 1, " "))
            return
        for _ in range(depth):
            self.edits.append((self.end, self.end, self.stack.pop().closer))
        self.stack.pop()


def close_brackets(source: str, style: str) -> str:
    """Return a source in which brackets that the indentation shows as ended are closed, with the same rows.

    A row that is indented no more than the row of an open bracket, and does not start with a closing one, is taken to
    be outside. Closing brackets without an opening one become spaces. Sources over 500,000 characters are left as
    they are.
    """
    if len(source) > _MAX_LENGTH:
        return source
    repair = _Repair()
    indent, leads = 0, False
    for token in tokens(source, style):
        if token.is_first:
            indent = len(source[token.row_start : token.start].expandtabs(4))
            leads = token.text in CLOSERS.values()
            if not _MARGIN_ROW.match(source, token.row_start):
                repair.start_row(indent, token.text[:1])
        if token.text in CLOSERS:
            repair.stack.append(_Bracket(CLOSERS[token.text], indent))
        elif token.text in CLOSERS.values():
            repair.close(token.text, token.start, indent, leads=leads)
        repair.end = token.end
        if token.missing_quotes:
            repair.edits.append((token.end, token.end, token.missing_quotes))
    repair.edits += [(repair.end, repair.end, bracket.closer) for bracket in reversed(repair.stack)]
    result, end = [], 0
    for first, last, text in repair.edits:
        result += [source[end:first], text]
        end = last
    return "".join([*result, source[end:]])
