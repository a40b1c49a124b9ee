"""Sections of HTML pages: their headings or, without any, their elements, around the definitions of their scripts."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from llamaindex_code_retrieval.languages.documents import first_anchor
from llamaindex_code_retrieval.languages.markup import without_raw_content
from llamaindex_code_retrieval.languages.nesting import element_layout
from llamaindex_code_retrieval.languages.outline import Item, Outline
from llamaindex_code_retrieval.languages.sections import DOCUMENT, KEYS, Layout, SectionStart, outline_of_sections

_MAX_NAME = 120  # characters of a heading
_MAX_HEADING = 1000  # characters of a heading with its markup
_HEADING = re.compile(rf"<h([1-6])\b[^<>]*>(?s:(.{{0,{_MAX_HEADING}}}?))</h\1\s*>", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
# rows above a heading that belong to it: elements that start there, link targets and comments
_LEAD = re.compile(r"\s*(?:<!--[^\n]*?-->\s*|<a\b[^<>]*>\s*</a>\s*|<(?!h[1-6]\b)[a-z][^<>]*(?<!/)>\s*)+", re.IGNORECASE)


def page_outline(parsed: Outline) -> Outline:
    """Return the outline of a page whose scripts are parsed; a page without elements keeps its outline.

    >>> from llamaindex_code_retrieval.languages.syntax import parse
    >>> page = page_outline(parse("<h1>Cart</h1>\\n<script>\\nfunction add() {}\\n</script>\\n", "html"))
    >>> page.top.children[0].scope, page.top.children[0].children[0].scope
    ('Cart', 'add')
    """
    source = "\n".join(parsed.lines)
    size, starts = DOCUMENT, _headings(without_raw_content(source, comments=True).split("\n"))
    if not starts:
        lines = without_raw_content(source, comments=False).split("\n")
        size, starts = KEYS, list(element_layout(lines, is_html=True).starts)
    inside = {row for item in parsed.top.children for row in range(item.first + 1, item.last + 1)}
    starts = [start for start in starts if start.row not in inside]
    if not starts:
        return parsed
    page = outline_of_sections(parsed.lines, Layout(starts), size)
    for item in parsed.top.children:
        _add(item, page.top)
    page.find_depths = lambda: {**parsed.depths, **{start.row: start.level - 1 for start in reversed(starts)}}
    return page


def _headings(lines: Sequence[str]) -> list[SectionStart]:
    """Return the headings; one starts with the elements around it, if they start directly above it."""
    text = "\n".join(lines)
    starts: list[SectionStart] = []
    row = end = 0
    for match in _HEADING.finditer(text):
        row += text.count("\n", end, match.start())
        end = match.start()
        name = " ".join(html.unescape(_TAG.sub("", match[2])).split())[:_MAX_NAME]
        if name:
            first = first_anchor(lines, row, _LEAD)
            starts.append(SectionStart(first, int(match[1]), name, row + match[0].count("\n") + 1))
    return starts


def _add(item: Item, holder: Item) -> None:
    """Put a definition into the innermost section that contains it."""
    while inner := next(
        (each for each in holder.children if each.first <= item.first and item.last <= each.last), None
    ):
        holder = inner
    item.parent = holder
    holder.children = sorted([*holder.children, item], key=lambda each: each.first)
