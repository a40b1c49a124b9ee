"""Find definitions by regular expressions, in languages without a grammar."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from llamaindex_code_retrieval.languages.docstrings import comment_text
from llamaindex_code_retrieval.languages.expressions import Pattern
from llamaindex_code_retrieval.languages.names import unquoted
from llamaindex_code_retrieval.languages.outline import Item, Nesting, Outline
from llamaindex_code_retrieval.languages.repair import close_brackets
from llamaindex_code_retrieval.languages.table import LANGUAGES
from llamaindex_code_retrieval.languages.tokens import CLOSERS, Token, tokens

_NOT_BREAK = re.compile(r"[^\n]")
_UNFINISHED = frozenset((*"+-*/%^&|~<>=,:!?.", "else"))
"""A row that ends with one is not the last of its statement."""
_IN_BRACKETS = re.compile(r"^\[(.+)\]$")  # names of SQL
_ENDS = frozenset(",;)]}")
"""One of these ends a statement inside brackets."""


def outline_by_patterns(source: str, language: str) -> Outline:
    """Return the outline of a source by the patterns of its language; brackets that are not closed end by layout."""
    style = LANGUAGES[language].comments
    lines = source.split("\n")
    code = _Code(source, style)
    if not code.is_balanced:
        code = _Code(close_brackets(source, style), style)
    nesting = Nesting(len(lines) - 1)
    for start, match, pattern in _matches(code, LANGUAGES[language].patterns):
        names = _names(match)
        if nesting.enter(start) and names:
            last = code.tokens[code.last(start, match.end(), pattern)]
            has_owner = bool(match.groupdict().get("owner"))
            item = _item(code, code.rows(start, last), names, pattern.kind, nesting, has_owner=has_owner)
            item.name_row = item.row + code.text.count("\n", start, match.start("name"))
            item.docstring = comment_text(lines[item.first : item.row], style)
            nesting.add(item, last.end)
    return Outline(lines, nesting.finish(), code.depths)


class _Code:
    """The code of a source without its comments, its tokens, and where each bracket is closed."""

    def __init__(self, source: str, style: str) -> None:
        self.tokens = list(tokens(source, style))
        self.starts = [token.start for token in self.tokens]
        self.text = "".join(self._without_comments(source))
        self._rows = list(zip(source.split("\n"), self.text.split("\n"), strict=True))
        self.is_balanced = True
        self._closers: dict[int, int] = {}  # number of the opening token -> that of the closing one
        self._around: list[int] = []  # number of the token that opens the brackets around each, -1 outside
        stack: list[int] = []
        for number, token in enumerate(self.tokens):
            self._around.append(stack[-1] if stack else -1)
            if token.text in CLOSERS:
                stack.append(number)
            elif token.text in CLOSERS.values():
                if stack and CLOSERS[self.tokens[stack[-1]].text] == token.text:
                    self._closers[stack.pop()] = number
                else:
                    self.is_balanced = False
        self.is_balanced = self.is_balanced and not stack

    def _without_comments(self, source: str) -> Iterator[str]:
        end = 0
        for token in self.tokens:
            yield _NOT_BREAK.sub(" ", source[end : token.start])
            yield token.text
            end = token.end
        yield _NOT_BREAK.sub(" ", source[end:])

    def rows(self, start: int, last: Token) -> tuple[int, int]:
        """Return the rows from the token at ``start`` to ``last``, a string in which may have several."""
        return self.tokens[bisect_left(self.starts, start)].row, last.row + last.text.count("\n")

    def is_comment(self, row: int) -> bool:
        """Return whether there is nothing but comments in a row."""
        source, code = self._rows[row]
        return bool(source.strip()) and not code.strip()

    def call_around(self, start: int) -> str | None:
        """Return the name of the call whose argument starts at ``start``, or ``None`` if there is no argument."""
        number = self._around[bisect_left(self.starts, start)]
        return self.tokens[number - 1].text if number > 0 and self.tokens[number].text == "(" else None

    def last(self, start: int, end: int, pattern: Pattern) -> int:
        """Return the number of the last token of the definition whose pattern matched from ``start`` to ``end``."""
        number, after = bisect_left(self.starts, start), bisect_left(self.starts, end)
        while number < after and not pattern.is_whole:
            closer = self._closer(number)
            if closer >= after:
                return self._last_of_body(closer + 1) if pattern.has_body else closer
            number = closer + 1
        return after - 1

    def _closer(self, number: int) -> int:
        """Return the number of the token that closes a bracket; of another token, its own."""
        return self._closers.get(number, len(self.tokens) - 1 if self.tokens[number].text in CLOSERS else number)

    def _last_of_body(self, first: int) -> int:
        number = first
        while number < len(self.tokens):
            token = self.tokens[number]
            if token.text in _ENDS or (
                number > first and token.is_first and self.tokens[number - 1].text not in _UNFINISHED
            ):
                break
            number = self._closer(number) + 1
            if token.text == "{":
                break
        return number - 1

    def depths(self) -> dict[int, int]:
        """Return how many brackets are open where the code of a row starts, without rows that close one."""
        depths: dict[int, int] = {}
        depth = 0
        for token in self.tokens:
            if token.text in CLOSERS.values():
                depth -= 1
            elif token.is_first:
                depths[token.row] = depth
            depth += token.text in CLOSERS
        return depths


def _matches(code: _Code, patterns: Sequence[Pattern]) -> Iterator[tuple[int, re.Match[str], Pattern]]:
    """Yield where the code of each match starts, and the match, in the order of the file: one at each place."""
    found: dict[int, tuple[int, re.Match[str], Pattern]] = {}
    starts = set(code.starts)  # what starts elsewhere is inside a string
    for pattern in patterns:
        for match in re.finditer(pattern.expression, code.text, re.MULTILINE):
            start = match.end() - len(match[0].lstrip())
            call = None if pattern.calls is None or start not in starts else code.call_around(start)
            if start in starts and (call is None or call in (pattern.calls or ())):
                found.setdefault(start, (start, match, pattern))
    for start in sorted(found):
        yield found[start]


def _names(match: re.Match[str]) -> list[str]:
    """Return the parts of the qualified name of a match, its own name last; none if it has no name."""
    groups = {group: unquoted(_IN_BRACKETS.sub(r"\1", text)) for group, text in match.groupdict().items() if text}
    name = " ".join(filter(None, (groups.get("call"), groups.get("name"))))
    return [*filter(None, (groups.get("owner"), groups.get("qualifier"))), name] if groups.get("name") else []


def _item(
    code: _Code, rows: tuple[int, int], names: Sequence[str], kind: str, nesting: Nesting, *, has_owner: bool
) -> Item:
    """Return the item of a definition, with the comments directly above it."""
    row, last = rows
    first = row
    while first - 1 > nesting.floor and code.is_comment(first - 1):
        first -= 1
    item = Item(
        nesting.kind("class" if kind == "module" else kind, names if has_owner else names[-1:]),
        names[-1],
        nesting.scope(names),
        first,
        min(last, nesting.parent.last),
        nesting.parent,
        row=row,
        holds_methods=kind == "class",
    )
    if first < row:
        item.doc_rows = [(first, row - 1)]
    return item
