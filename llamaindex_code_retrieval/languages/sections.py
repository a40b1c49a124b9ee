"""Sections of a text: join the small ones, divide the large ones, and make an outline of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate

from llamaindex_code_retrieval.languages.outline import Item, Outline, joined_names

_MIN_LINE = 25  # characters that a line counts at least: sixty short lines are as much to read as 1,500 characters
_MAX_LEVEL = 12  # sections nested deeper are part of the section around them
_PARAGRAPH_DEPTH = 10  # of a line below a blank one, which is a better place to cut than the middle of a paragraph
_JOINED_KINDS = ("section", "cell", "text")


@dataclass(frozen=True, slots=True)
class SectionStart:
    """The heading of a section, the key of a value or the like; the section ends before the next of its level."""

    row: int
    """First row, with the comments above that belong to it."""
    level: int
    """1 for the outermost."""
    name: str = ""
    content: int = -1
    """First row of the content, below the heading; a key is content itself."""
    kind: str = "section"
    """A definition is not joined or divided; all else is."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The sections of a text and where it may be cut (``Outline.depths``)."""

    starts: Sequence[SectionStart]
    depths: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionSize:
    """How sections become items: in characters, where a short line counts as 25."""

    join: int
    """Neighbours are joined as long as they are no more than this together."""
    divide: int
    """A section with subsections is divided into them if it is larger than this."""
    tiny: int
    """What is no larger, headings not counted, becomes part of the next item or of the last one."""
    separator: str = "."
    """Stands between the names of a scope."""


DOCUMENT = SectionSize(join=250, divide=500, tiny=60, separator=" > ")
"""Of sections with headings."""
KEYS = SectionSize(join=500, divide=1200, tiny=120)
"""Of keys and elements."""


@dataclass(slots=True)
class _Section:
    start: SectionStart
    last: int = -1
    scope: str = ""
    subsections: list[_Section] = field(default_factory=list)


def outline_of_sections(lines: list[str], layout: Layout, size: SectionSize, *, kind: str = "text") -> Outline:
    """Return the outline of a text; what stands before the first section is of ``kind``.

    A section becomes an item with the subsections inside it. Small neighbours become one item, whose symbol lists
    their names. What has only a heading, or little else, becomes part of its first subsection or of the next item.
    """
    return _OutlineBuilder(lines, size).build(layout, kind)


def comments_above(lines: Sequence[str], row: int, comment: re.Pattern[str]) -> int:
    """Return the first row of the comments directly above ``row``, or ``row`` if there are none."""
    while row and comment.match(lines[row - 1]):
        row -= 1
    return row


class _OutlineBuilder:
    def __init__(self, lines: list[str], size: SectionSize) -> None:
        self.lines = lines
        self.size = size
        weights = (max(len(text), _MIN_LINE) if (text := line.strip()) else 0 for line in lines)
        self.before = list(accumulate(weights, initial=0))  # characters before each row

    def build(self, layout: Layout, kind: str) -> Outline:
        top = Item(kind, "", "", 0, len(self.lines) - 1)
        root = self._tree(layout.starts)
        top.children = self._items_below(root)
        if top.children and _is_section(top.children[0]) and self._size(0, top.children[0].first - 1) <= self.size.tiny:
            top.children[0].first = 0
        _set_parents(top)
        return Outline(self.lines, top, lambda: self._depths(layout))

    def _depths(self, layout: Layout) -> dict[int, int]:
        rows = range(1, len(self.lines))
        depths = {row: _PARAGRAPH_DEPTH for row in rows if not self.lines[row - 1].strip()}
        depths.update(layout.depths)
        depths.update((start.row, start.level - 1) for start in reversed(layout.starts))
        return depths

    def _size(self, first: int, last: int) -> int:
        return self.before[last + 1] - self.before[first] if first <= last else 0

    def _tree(self, starts: Iterable[SectionStart]) -> _Section:
        """Return the root of the sections; of several that start in a row, the first is taken."""
        last_row = len(self.lines) - 1
        root = _Section(SectionStart(0, 0), last_row)
        stack = [root]
        for start in starts:
            if start.level > _MAX_LEVEL or (start.row <= stack[-1].start.row and stack[-1] is not root):
                continue
            while stack[-1].start.level >= start.level:
                stack.pop().last = start.row - 1
            section = _Section(start, last_row, self._scope(stack[-1].scope, start.name))
            stack[-1].subsections.append(section)
            stack.append(section)
        return root

    def _items_below(self, section: _Section) -> list[Item]:
        """Return the items of the subsections of ``section``."""
        items: list[Item] = []
        can_join = False  # whether the last item is a section without items inside it
        for each in section.subsections:
            new = self._items(each)
            is_leaf = len(new) == 1 and _is_leaf(new[0]) and new[0].scope == each.scope
            if is_leaf and can_join and self._size(items[-1].first, each.last) <= self.size.join:
                items[-1].last = each.last
                items[-1].symbol = joined_names(items[-1].symbol, each.start.name)
                items[-1].scope = self._scope(section.scope, items[-1].symbol)
            else:
                items += new
            can_join = is_leaf
        return self._without_tiny(items, section.scope)

    def _items(self, section: _Section) -> list[Item]:
        """Return the item of a section, or those of its subsections if it has hardly any text of its own."""
        start = section.start
        content = max(start.content, start.row)
        item = Item(start.kind, start.name, section.scope, start.row, section.last, row=content)
        if not _is_section(item) or self._size(start.row, section.last) <= self.size.divide:
            return [item]
        item.children = self._items_below(section)
        if (
            item.children
            and self._size(content, item.children[0].first - 1) <= self.size.tiny
            and _is_section(item.children[0])
        ):
            item.children[0].first = start.row
            return item.children
        return [item]

    def _without_tiny(self, items: list[Item], scope: str) -> list[Item]:
        """Make tiny items part of the next one; at the end, of the one before if it is of the same level."""
        kept: list[Item] = []
        tiny: list[Item] = []
        for item in items:
            if _is_leaf(item) and self._content([*tiny, item]) <= self.size.tiny:
                tiny.append(item)
                continue
            if tiny and not _is_section(item):
                kept.append(self._merged(tiny, tiny[0], scope))
                tiny = []
            kept.append(self._merged([*tiny, item], item, scope))
            tiny = []
        if tiny and kept and self._are_leaves(kept[-1:], scope):
            tiny.insert(0, kept.pop())
        return [*kept, self._merged(tiny, tiny[0], scope)] if tiny else kept

    def _merged(self, items: Sequence[Item], item: Item, scope: str) -> Item:
        """Return ``item`` with the rows of its neighbours, and with their names if all are of the same level."""
        if len(items) > 1:
            item.first, item.last = items[0].first, items[-1].last
            if self._are_leaves(items, scope):
                item.symbol = reduce(joined_names, [each.symbol for each in items])
                item.scope = self._scope(scope, item.symbol)
        return item

    def _are_leaves(self, items: Iterable[Item], scope: str) -> bool:
        """Return whether items are sections of the scope without items inside them."""
        return all(_is_leaf(item) and item.scope == self._scope(scope, item.symbol) for item in items)

    def _content(self, items: Sequence[Item]) -> int:
        return sum(self._size(item.row, item.last) for item in items)

    def _scope(self, *names: str) -> str:
        return self.size.separator.join(name for name in names if name)


def _is_section(item: Item) -> bool:
    return item.kind in _JOINED_KINDS


def _is_leaf(item: Item) -> bool:
    return _is_section(item) and not item.children


def _set_parents(item: Item) -> None:
    for child in item.children:
        child.parent = item
        _set_parents(child)
