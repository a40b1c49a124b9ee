"""Resolve directives of the C preprocessor inside statements, which no grammar can parse."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from llamaindex_code_retrieval.languages.tokens import CLOSERS, tokens

_DIRECTIVE = re.compile(r"(?m)^[ \t]*#[ \t]*(?:if|define|undef|include)")
_STATEMENT_ENDS = frozenset(";{}:")


@dataclass(slots=True)
class _Branch:
    first: int
    """The row below its directive."""
    last: int = -1
    depth: int = 0
    """How many brackets are open at its end."""
    low: int = 0
    """The lowest number of open brackets in it."""
    is_whole: bool = True
    """Whether it ends where a statement may end."""


@dataclass(slots=True)
class _Conditional:
    row: int
    depth: int
    """How many brackets are open in front of it."""
    is_whole: bool
    """Whether it starts where a statement may start."""
    is_off: bool
    """Whether it starts with ``#if 0``."""
    branches: list[_Branch] = field(default_factory=list)

    @property
    def divides(self) -> bool:
        """Whether it is not whole statements in every branch."""
        return not self.is_whole or any(
            not branch.is_whole or branch.depth != self.depth or branch.low < self.depth for branch in self.branches
        )


@dataclass(slots=True)
class _Reader:
    """The brackets and conditionals that are open at a place of a source."""

    depth: int = 0
    is_whole: bool = True
    """Whether a statement may start here."""
    lists: list[int] = field(default_factory=list)
    """How many brackets are open in each initializer or enumeration."""
    starts_list: bool = False
    stack: list[_Conditional] = field(default_factory=list)
    blank: list[range] = field(default_factory=list)
    """Rows to be left out."""

    def take(self, token: str) -> None:
        self.depth += (token in CLOSERS) - (token in CLOSERS.values())
        if token == "{" and self.starts_list:
            self.lists.append(self.depth)
        while self.lists and self.depth < self.lists[-1]:
            self.lists.pop()
        self.starts_list = token in ("=", "enum") or (self.starts_list and token not in "{};()")
        self.is_whole = token in _STATEMENT_ENDS and not self.lists
        if self.stack:
            branch = self.stack[-1].branches[-1]
            branch.low = min(branch.low, self.depth)

    def take_directive(self, words: Sequence[str], row: int, last: int) -> None:
        """Take a directive from ``row`` to ``last``."""
        if words[0].startswith("if"):
            self.stack.append(_Conditional(row, self.depth, self.is_whole, list(words) == ["if", "0"]))
            self._start_branch(last + 1)
        elif words[0].startswith("el") and self.stack:
            self._end_branch(row - 1)
            self._start_branch(last + 1)
        elif words[0] == "endif" and self.stack:
            self._end_branch(row - 1)
            self._end(self.stack.pop(), last)
        elif not self.is_whole:
            self.blank.append(range(row, last + 1))

    def _start_branch(self, row: int) -> None:
        conditional = self.stack[-1]
        self.depth, self.is_whole = conditional.depth, conditional.is_whole
        conditional.branches.append(_Branch(row, low=self.depth))

    def _end_branch(self, row: int) -> None:
        branch = self.stack[-1].branches[-1]
        branch.last, branch.depth, branch.is_whole = row, self.depth, self.is_whole

    def _end(self, conditional: _Conditional, last: int) -> None:
        if not conditional.divides:
            return
        on = conditional.branches[conditional.is_off :]
        kept = max(on, key=lambda branch: branch.last - branch.first) if on else None
        if kept is None:
            kept = _Branch(last + 1, last, conditional.depth, conditional.depth, conditional.is_whole)
        self.blank += [range(conditional.row, kept.first), range(kept.last + 1, last + 1)]
        self.depth, self.is_whole = kept.depth, kept.is_whole
        if self.stack:
            branch = self.stack[-1].branches[-1]
            branch.low = min(branch.low, kept.low)


def resolve_directives(source: str, style: str) -> str:
    """Return a source without the directives inside statements and initializers.

    Of the branches of a conditional that divides statements, the longest is kept that is not ``#if 0``, the first of
    equal ones; the rows of the others become blank.

    >>> resolve_directives("f(a\\n#ifdef X\\n, b\\n#else\\n, c\\n#endif\\n);", "c")
    'f(a\\n\\n, b\\n\\n\\n\\n);'
    """
    if not _DIRECTIVE.search(source):
        return source
    lines = source.split("\n")
    reader = _Reader()
    directive_end = -1
    for row, line_tokens in groupby(tokens(source, style), key=lambda token: token.row):
        words = [token.text for token in line_tokens]
        if words[0] == "#" and row > directive_end:
            directive_end = row
            while directive_end < len(lines) - 1 and lines[directive_end].rstrip().endswith("\\"):
                directive_end += 1
            reader.take_directive(words[1:] or [""], row, directive_end)
        elif row > directive_end:
            for word in words:
                reader.take(word)
    for rows in reader.blank:
        lines[rows.start : rows.stop] = [""] * len(rows)
    return "\n".join(lines)
