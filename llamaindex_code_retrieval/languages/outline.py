"""Outlines: the tree of definitions or sections of a file, as rows of its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

KINDS = ("function", "method", "class", "module", "section", "cell", "text", "window")
"""Kinds of nodes: definitions; a module is the code outside them; sections, cells of notebooks and the texts outside
them; windows of a text without a structure."""

_MAX_SYMBOL = 100  # characters of joined names
_MAX_DEPTH = 50  # definitions nested deeper are not extracted: bounds the recursion and the length of a scope


@dataclass(slots=True, eq=False)
class Item:
    """A definition or a section with its rows (from 0, both ends included); the root is the whole file.

    ``scope`` is the qualified name. A prototype declares a function without its body, or names a type that is defined
    elsewhere.
    """

    kind: str
    """One of ``KINDS``."""
    symbol: str
    scope: str
    first: int
    last: int
    parent: Item | None = None
    row: int = -1
    """Where the code starts: below the doc comment."""
    name_row: int = -1
    """Where the name stands."""
    docstring: str = ""
    doc_rows: list[tuple[int, int]] = field(default_factory=list)
    """First and last rows of doc comments."""
    is_prototype: bool = False
    holds_methods: bool = False
    """Whether functions in it are methods: not those of a module."""
    children: list[Item] = field(default_factory=list)


@dataclass
class Outline:
    """The lines of a source and its tree of items."""

    lines: list[str]
    top: Item
    find_depths: Callable[[], Mapping[int, int]] = dict

    @cached_property
    def depths(self) -> Mapping[int, int]:
        """Depth of the outermost statement or block that starts in a row; a long item is cut where this is lowest."""
        return self.find_depths()


def joined_names(names: str, name: str) -> str:
    """Append a name to a list of names, which ends with an ellipsis where it gets too long.

    >>> joined_names("size", "total"), joined_names("size, total", "total")
    ('size, total', 'size, total')
    """
    if not name or names.endswith("…") or name == names or names.endswith(f", {name}"):
        return names
    joined = f"{names}, {name}" if names else name
    return joined if len(joined) <= _MAX_SYMBOL else f"{names}, …"


def descendants(item: Item) -> Iterator[Item]:
    """Yield the items below ``item`` in the order of the file, each before those nested in it."""
    for child in item.children:
        yield child
        yield from descendants(child)


class Nesting:
    """Builds the tree of the definitions of a file, which are given in the order of their starts.

    Items of kind "scope" are not in the tree; they are the scope of what they contain.
    """

    def __init__(self, last_row: int) -> None:
        self.top = Item("module", "", "", 0, last_row)
        self._stack: list[tuple[Item, float]] = [(self.top, float("inf"))]

    @property
    def parent(self) -> Item:
        """The innermost item of the tree that has not ended."""
        return next(item for item, _ in reversed(self._stack) if item.kind != "scope")

    @property
    def previous(self) -> Item | None:
        """The item in front of this place, in the same parent."""
        return self.parent.children[-1] if self.parent.children else None

    @property
    def floor(self) -> int:
        """The last row that belongs to code before the next item."""
        return max(self.parent.row, -1 if self.previous is None else self.previous.last)

    def enter(self, start: float) -> bool:
        """Leave the items that end at or before ``start``; return whether an item may be nested there."""
        while self._stack[-1][1] <= start:
            self._stack.pop()
        return len(self._stack) <= _MAX_DEPTH

    def relative(self, names: Sequence[str]) -> Sequence[str]:
        """Return ``names`` without the class around this place, as in ``def Cart.build`` in the class ``Cart``."""
        return names[1:] if len(names) > 1 and names[0] == self._stack[-1][0].symbol else names

    def scope(self, names: Sequence[str]) -> str:
        """Return the qualified name of ``names`` at this place."""
        return ".".join([*filter(None, [self._stack[-1][0].scope]), *names])

    def kind(self, kind: str, names: Sequence[str]) -> str:
        """Return the kind of a definition at this place: a function of a class is a method."""
        return "method" if kind == "function" and (self.parent.holds_methods or len(names) > 1) else kind

    def add(self, item: Item, end: float) -> None:
        """Put ``item`` into the tree; those that start before ``end`` are nested in it."""
        if item.kind != "scope" and item.parent is not None:
            item.parent.children.append(item)
        self.reopen(item, end)

    def reopen(self, item: Item, end: float) -> None:
        """Nest what starts before ``end`` in an item of the tree."""
        self._stack.append((item, end))

    def finish(self) -> Item:
        """Return the root, after dropping the prototypes of functions and types that the same file defines."""
        items = list(descendants(self.top))
        defined = {(item.scope, item.kind == "class") for item in items if not item.is_prototype}
        for item in items:
            if item.is_prototype and (item.scope, item.kind == "class") in defined and item.parent is not None:
                item.parent.children.remove(item)
        return self.top
