"""Places in the code of an index, such as ``src/cart.py:12``: parse them, and find the nodes that are there."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from llamaindex_code_retrieval.index.source_roots import paths_of
from llamaindex_code_retrieval.index.tables import NodeRow, Reading

_FORMS = "A place is PATH, PATH:LINE or PATH:FIRST-LAST"
_PLACE = re.compile(
    r"(?P<path>.+?)(?:#cell (?P<cell>\d{1,9}))?(?::(?P<first>\d{1,9})(?:-(?P<last>\d{1,9})|:\d+)?)?", re.DOTALL
)
_SUGGESTIONS = 3
_Position = tuple[int, float]
"""A cell and a line in it; or 0 and a line of the file."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file, or lines of it; in a notebook also a cell, or lines of it. All numbers are from 1."""

    path: str
    first: int | None = None
    last: int | None = None
    cell: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the place that a text names. A column after the line, as compilers print it, is ignored.

        >>> Place.parse("src/cart.py:12-20")
        Place(path='src/cart.py', first=12, last=20, cell=None)
        >>> Place.parse("book.ipynb#cell 2:4")
        Place(path='book.ipynb', first=4, last=4, cell=2)

        Raises:
            ValueError: the text is empty, a number is 0, or the last line is before the first one.
        """
        match = _PLACE.fullmatch(text)
        if match is None:
            raise ValueError(f"the place is empty. {_FORMS}")
        cell, first, last = (None if match[name] is None else int(match[name]) for name in ("cell", "first", "last"))
        if 0 in (cell, first, last):
            raise ValueError(f"lines and cells are counted from 1, got {text!r}")
        if first is not None and last is not None and last < first:
            raise ValueError(f"the last line is before the first one in {text!r}. {_FORMS}")
        return cls(match["path"], first, first if last is None else last, cell)

    def __str__(self) -> str:
        """Return the text that :meth:`parse` reads."""
        cell = "" if self.cell is None else f"#cell {self.cell}"
        lines = "" if self.first is None else f":{self.first}" + (f"-{self.last}" if self.last != self.first else "")
        return f"{self.path}{cell}{lines}"

    @property
    def span(self) -> tuple[_Position, _Position]:
        """The first and the last position."""
        cell = self.cell or 0
        return (cell, self.first or 0), (cell, float("inf") if self.last is None else self.last)

    def span_of(self, metadata: Mapping[str, Any]) -> tuple[_Position, _Position]:
        """Return the first and the last position of a node; of one without lines, line 1, which `search` prints."""
        if self.cell is None:
            start = metadata.get("start_line", 1)
            return (0, start), (0, metadata.get("end_line", start))
        cell, start = metadata.get("cell", 0), metadata.get("cell_start_line", 1)
        return (cell, start), (metadata.get("last_cell", cell), metadata.get("cell_end_line", start))

    def touches(self, metadata: Mapping[str, Any]) -> bool:
        """Return whether a node of the file has a line of the place."""
        (first, last), (start, end) = self.span, self.span_of(metadata)
        return start <= last and first <= end


def rows_at(reading: Reading, place: Place, roots: Sequence[Path]) -> list[NodeRow]:
    """Return the nodes of the definitions that a place touches, in their order: of each, all parts.

    The path is that from the working folder, where this lies in one of the indexed folders ``roots``, or else the one
    in the index; or it is absolute.

    Raises:
        ValueError: the index has no such file, or no node there.
    """
    path = _indexed_path(reading, place.path, roots)
    rows = reading.rows_of_file(path)
    touched = {row.position - row.part for row in rows if place.touches(row.metadata)}
    if not touched:
        raise ValueError(_no_node(place, path, rows))
    return [row for row in rows if row.position - row.part in touched]


def _indexed_path(reading: Reading, path: str, roots: Sequence[Path]) -> str:
    states = [state for state in map(reading.file, dict.fromkeys(_candidates(path, roots))) if state is not None]
    found = next((state.path for state in states if not state.left_out), None)
    if found is not None:
        return found
    if states:
        raise ValueError(f"{states[0].path} is not in the index: it is left out ({states[0].left_out})")
    closest = closest_paths(posixpath.normpath(path), reading.paths())
    hint = f"did you mean {' or '.join(closest)}?" if closest else "name it as in the index, or from this folder."
    raise ValueError(f"the index has no file {path!r}; {hint} {_FORMS}")


def _candidates(path: str, roots: Sequence[Path]) -> Iterator[str]:
    absolute = Path(os.path.abspath(path))
    yield from paths_of(absolute, roots)
    if os.path.isabs(path):
        yield from paths_of(absolute.resolve(), roots)  # roots are resolved
    yield path
    yield posixpath.normpath(path)


def closest_paths(path: str, paths: Sequence[str]) -> list[str]:
    """Return the most similar paths of files with this name, or else of files with similar names."""
    name = posixpath.basename(path)
    same = [each for each in paths if posixpath.basename(each) == name]
    if same:
        return get_close_matches(path, same, n=_SUGGESTIONS, cutoff=0)
    by_name = {posixpath.basename(each): each for each in reversed(paths)}
    return [by_name[each] for each in get_close_matches(name, by_name, n=_SUGGESTIONS)]


def _no_node(place: Place, path: str, rows: Sequence[NodeRow]) -> str:
    """Return that no node is at a place, and which are nearest."""
    if not rows:
        return f"{path} is empty; name another file"
    first, last = place.span
    spans = [place.span_of(row.metadata) for row in rows]
    before = max((span for span in spans if span[1] < first), key=lambda span: span[1], default=None)
    after = min((span for span in spans if span[0] > last), default=None)
    nearest = [
        str(
            replace(
                place,
                path=path,
                first=int(start),
                last=int(end) if cell == last_cell else int(start),
                cell=cell or None,
            )
        )
        for (cell, start), (last_cell, end) in filter(None, (before, after))
    ]
    return f"no node of the index is at {place}; name one of the nearest: {' or '.join(nearest)}"
