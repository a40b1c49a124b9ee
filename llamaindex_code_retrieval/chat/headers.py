"""The first lines of a definition: its signature, and the beginning of its documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from llamaindex_code_retrieval.index.related import has_name, names_of

_COMMENT = re.compile(r"\s*(?:\*|//|/\*|--|;|%|#(?!\w|\[)|\"\"\"|''')")
_ATTRIBUTE = re.compile(r"\s*(?:@|#?\[)")
_EMPTY_COMMENT = re.compile(r"\s*(?:\*|//+!?|#+|--+|;+)?\s*")
_DOCSTRING = re.compile(r"\s*[rRuU]?(\"\"\"|''')")
_OPEN, _CLOSE = re.compile(r"[(\[]"), re.compile(r"[)\]]")
_END = re.compile(r"(?:[:{;=]|=>|\bdo|\bthen|\S\s+where|\bis)\s*(?://.*|#.*|/\*.*\*/)?\Z")
_CONTINUED = re.compile(r"\s*(?:extends|implements|permits|where|with|throws|returns|:|\{|=>|->)")
_LONGEST_SIGNATURE = 12  # lines
_DECORATORS = 3
_LONGEST_DOCS = 8


def signature_lines(lines: Mapping[int, str], numbers: Sequence[int], symbol: str) -> list[int]:
    """Return the numbers of the lines that declare ``symbol``, with its first three decorators.

    >>> code = ["# Add them.", "@cached", "def add(", "    a, b", "):", "    return a + b"]
    >>> signature_lines(dict(enumerate(code, start=1)), range(1, 7), "add")
    [2, 3, 4, 5]
    """
    start = _declaration(lines, numbers, symbol)
    before = [number for number in numbers if number < start and _ATTRIBUTE.match(lines.get(number, ""))]
    return [*before[:_DECORATORS], *_declared(lines, start, numbers[-1])]


def header_lines(lines: Mapping[int, str], numbers: Sequence[int], symbol: str) -> list[int]:
    """Return :func:`signature_lines` with the first paragraph of the comment before them or the docstring after them.

    >>> code = ["/**", " * A cart.", " *", " * Long.", " */", "class Cart {", "  int n;"]
    >>> header_lines(dict(enumerate(code, start=1)), range(1, 8), "Cart")
    [1, 2, 6]
    """
    signature = signature_lines(lines, numbers, symbol)
    before = (number for number in numbers if number < signature[-1] and number not in signature)
    comment = [number for number in before if _COMMENT.match(lines.get(number, ""))]
    after = range(signature[-1] + 1, numbers[-1] + 1)
    docs = _first_paragraph(lines, comment) if comment else _docstring(lines, after)
    return sorted({*signature, *docs})


def _declaration(lines: Mapping[int, str], numbers: Sequence[int], symbol: str) -> int:
    """Return the number of the first line, comments and decorators apart, that has the symbol."""
    code = [
        number
        for number in numbers
        if lines.get(number, "").strip() and not _COMMENT.match(lines[number]) and not _ATTRIBUTE.match(lines[number])
    ]
    names = names_of(symbol)
    named = (number for number in code if any(has_name(lines[number], name) for name in names))
    return next(named, code[0] if code else numbers[0])


def _declared(lines: Mapping[int, str], start: int, last: int) -> Iterator[int]:
    """Yield the numbers of the lines of a declaration: to where its brackets are closed and its body begins."""
    depth = 0
    for number in range(start, min(last, start + _LONGEST_SIGNATURE - 1) + 1):
        line = lines.get(number, "")
        depth += len(_OPEN.findall(line)) - len(_CLOSE.findall(line))
        yield number
        following = lines.get(number + 1, "")
        is_open = line.rstrip().endswith((",", "where")) or _CONTINUED.match(following)
        if depth <= 0 and (_END.search(line.rstrip()) or not is_open):
            return


def _docstring(lines: Mapping[int, str], numbers: Sequence[int]) -> Iterator[int]:
    opening = _DOCSTRING.match(lines.get(numbers[0], "")) if numbers else None
    if opening is None:
        return
    for number in numbers[:_LONGEST_DOCS]:
        line = lines.get(number, "")
        if not line.strip():
            return
        yield number
        rest = line[opening.end() :] if number == numbers[0] else line
        if opening[1] in rest:
            return


def _first_paragraph(lines: Mapping[int, str], numbers: Sequence[int]) -> Iterator[int]:
    for number in numbers[:_LONGEST_DOCS]:
        if number > numbers[0] and _EMPTY_COMMENT.fullmatch(lines[number]):
            return
        yield number
