"""Outlines: the tree of definitions or sections of a file, as rows of its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(slots=True, eq=False)
class Item:
    """A definition or a section with its rows (from 0, both ends included); the root is the whole file.

    ``scope`` is the qualified name. A prototype declares a function without its body.
    """

    kind: str
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


def descendants(item: Item) -> Iterator[Item]:
    """Yield the items below ``item`` in the order of the file, each before those nested in it."""
    for child in item.children:
        yield child
        yield from descendants(child)
