"""Divide a source into spans of rows: one for each function, and others for the code between functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llamaindex_code_retrieval.languages.bounds import Measure
from llamaindex_code_retrieval.languages.outline import Item, Outline, joined_names

_DEFINITIONS = ("function", "method", "class")
_FEW_LINES = 3  # a function inside a function, and the code between definitions inside one, is no span if it has fewer
# Lines that mean nothing alone: closing brackets, perhaps with a call or a comment, end tags, labels, `#endif`.
_CLOSING_LINE = re.compile(
    r"""(?: [^\w'"`#@$<\\/*]+ (?: \([\w$.,\s()]*\)+;? | while\s*\(.*\); )? \s* (?: //.* | /\*.*\*/ )? )?
      | (?: </[\w:.-]+> \s* )+
      | (?: end [\s);,]* | else | begin | private | protected | public ) \s* :? \s* (?: \#.* )?
      | \# \s* (?: if | ifdef | ifndef | elif | else | endif | undef ) \b .*""",
    re.VERBOSE,
)


@dataclass(slots=True)
class Span:
    """Rows (from 0, both ends included) that become a node, or several if they are too many.

    ``item`` is the definition that they are part of, the root outside definitions; with ``is_start`` it starts here.
    """

    first: int
    last: int
    item: Item
    is_start: bool


def spans_of(outline: Outline, measure: Measure) -> list[Span]:
    """Return the spans of a source in the order of their rows; some may be too large for a node.

    Definitions of the same rows make one span, and one item with the names of all that are not nested. A function of
    more than ``max_lines`` lines that contains functions is divided into them and the code between. A prototype without
    a doc comment belongs to the code around it.
    """
    spans: list[Span] = []
    for span in _divide(outline.top, measure.bounds.max_lines, in_function=False):
        rows = measure.without_blank_ends(span.first, span.last)
        if rows is None:
            continue
        span.first, span.last = rows
        before = spans[-1] if spans else None
        if before is not None and _belongs_to(before, span, measure):
            before.last = max(before.last, span.last)
        elif before is None or (before.first, before.last) != rows:
            spans.append(span)
        elif span.item.parent is before.item.parent:
            prefix = before.item.scope.removesuffix(before.item.symbol)
            before.item.symbol = joined_names(before.item.symbol, span.item.symbol)
            before.item.scope = prefix + before.item.symbol
    return _with_short_headers(spans, measure)


def _divide(item: Item, max_lines: int, *, in_function: bool) -> Iterator[Span]:
    """Yield the spans of a definition: those of the definitions inside it, and the rows between them."""
    is_top = item.parent is None
    in_function = in_function or item.kind in ("function", "method")
    children = [child for child in item.children if child.docstring or not child.is_prototype]
    if in_function:
        children = [child for child in children if child.docstring or child.last - child.first + 1 >= _FEW_LINES]
        if item.last - item.first < max_lines or not any(map(_contains_function, children)):
            children = []
    row = item.first
    for child in children:
        if row < child.first:
            yield Span(row, child.first - 1, item, not is_top and row == item.first)
        elif row == item.first and item.kind in _DEFINITIONS:  # a member that starts on the first line of its class
            yield Span(row, row, item, True)
        yield from _divide(child, max_lines, in_function=in_function)
        row = max(row, child.last + 1)
    if row <= item.last:
        yield Span(row, item.last, item, not is_top and row == item.first)


def _contains_function(item: Item) -> bool:
    return item.kind != "class" or any(map(_contains_function, item.children))


def _belongs_to(before: Span, span: Span, measure: Measure) -> bool:
    """Return whether rows that mean little alone go with the span before them."""
    if span.is_start:
        return False
    is_little = span.item.kind in ("function", "method", "class") and span.last - span.first + 1 < _FEW_LINES
    if not is_little and not all(map(_is_closing_line, measure.lines[span.first : span.last + 1])):
        return False
    return measure.fits(before.first, span.last) or not measure.fits(before.first, before.last)


def _with_short_headers(spans: list[Span], measure: Measure) -> list[Span]:
    """Join the short header of a module or test group, as ``describe('cart', () => {``, with what follows in it."""
    kept: list[Span] = []
    for span in reversed(spans):
        item = span.item
        is_header = span.is_start and item.kind == "class" and not item.holds_methods and not item.docstring
        after = kept[-1] if kept else None
        if (
            is_header
            and span.last - span.first + 1 < _FEW_LINES
            and after is not None
            and after.is_start
            and span.last < after.first <= item.last
            and measure.fits(span.first, after.last)
        ):
            after.first = span.first
        else:
            kept.append(span)
    return kept[::-1]


def _is_closing_line(line: str) -> bool:
    line = line.strip()
    return len(line) < 100 and _CLOSING_LINE.fullmatch(line) is not None
