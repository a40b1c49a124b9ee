"""Divide a source into spans of lines: one for each function, and others for the code between functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llamaindex_code_retrieval.languages.outline import Item, Outline

# Lines that mean nothing alone: closing brackets, perhaps with a call or a comment after them, labels, `#endif`.
_CLOSING_LINE = re.compile(
    r"""(?: [^\w'"`#@$<\\/*]+ (?: \([\w$.,\s()]*\)+;? | while\s*\(.*\); )? \s* (?: //.* | /\*.*\*/ )? )?
      | (?: end | else | begin | private | protected | public ) \s* :? \s* (?: \#.* )?
      | \# \s* (?: endif | else ) \b .*""",
    re.VERBOSE,
)


@dataclass(slots=True)
class Span:
    """Rows (from 0, both ends included) that become a node, or several if they are too many.

    ``item`` is the definition that they are part of, ``None`` outside definitions; with ``is_start`` it starts here.
    """

    first: int
    last: int
    item: Item | None
    kind: str
    is_start: bool


def line_windows(lines: Sequence[str], *, max_lines: int, overlap_lines: int) -> list[Span]:
    """Return windows of ``max_lines`` lines, each overlapping the one before it by ``overlap_lines``."""
    windows: list[Span] = []
    for first in range(0, len(lines), max_lines - overlap_lines):
        rows = _without_blank_ends(lines, first, min(first + max_lines, len(lines)) - 1)
        if rows and not (windows and rows[1] <= windows[-1].last):
            windows.append(Span(*rows, None, "window", False))
    return windows


def spans_of(outline: Outline, *, max_lines: int) -> list[Span]:
    """Return the spans of a source in the order of their lines, unsplit; two spans may have the same lines.

    A function longer than ``max_lines`` that contains functions is divided into them and the code between.
    """
    spans: list[Span] = []
    for span in _divide(outline.top, max_lines):
        rows = _without_blank_ends(outline.lines, span.first, span.last)
        if rows is None:
            continue
        first, last = rows
        if spans and not span.is_start and all(map(_is_closing_line, outline.lines[first : last + 1])):
            spans[-1].last = max(spans[-1].last, last)
        else:
            spans.append(Span(first, last, span.item, span.kind, span.is_start))
    return spans


def split_span(span: Span, outline: Outline, *, max_lines: int, overlap_lines: int) -> list[tuple[int, int]]:
    """Return the first and last rows of the parts of a span, each at most ``max_lines`` long.

    A part ends before an outermost statement in its second half, or after ``max_lines`` lines if none starts there.
    """
    parts: list[tuple[int, int]] = []
    first = span.first
    while span.last - first >= max_lines:
        window = range(first + max_lines // 2 + 1, first + max_lines + 1)
        cut = min(reversed(window), key=lambda row: outline.depths.get(row, 1 << 30))
        parts.append((first, cut - 1))
        first = cut - overlap_lines
    parts.append((first, span.last))
    return [rows for part in parts if (rows := _without_blank_ends(outline.lines, *part))]


def _divide(item: Item, max_lines: int) -> Iterator[Span]:
    """Yield the spans of a definition: those of the definitions inside it, and the rows between them."""
    is_top = item.parent is None
    owner = None if is_top else item
    children = item.children
    is_long = item.last - item.first >= max_lines
    if item.kind in ("function", "method") and not (is_long and any(map(_contains_function, children))):
        children = []
    row = item.first
    for child in children:
        if row < child.first:
            yield Span(row, child.first - 1, owner, item.kind, not is_top and row == item.first)
        elif row == item.first and not is_top:  # a member that starts on the first line of its class
            yield Span(row, row, owner, item.kind, True)
        yield from _divide(child, max_lines)
        row = max(row, child.last + 1)
    if row <= item.last:
        yield Span(row, item.last, owner, item.kind, not is_top and row == item.first)


def _contains_function(item: Item) -> bool:
    return item.kind != "class" or any(map(_contains_function, item.children))


def _is_closing_line(line: str) -> bool:
    line = line.strip()
    return len(line) < 100 and _CLOSING_LINE.fullmatch(line) is not None


def _without_blank_ends(lines: Sequence[str], first: int, last: int) -> tuple[int, int] | None:
    """Return the rows without the blank ones at both ends, ``None`` if all are blank."""
    while first <= last and not lines[first].strip():
        first += 1
    while first <= last and not lines[last].strip():
        last -= 1
    return (first, last) if first <= last else None
