"""Leave out the blocks of a source that do not parse, so that one broken line costs one function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_MAX_BYTES = 200_000
_MAX_WORK = 4  # times that the bytes of a source are parsed in the search
_MAX_LEVEL = 3  # blocks of blocks that are searched
_MAX_JOINED = 3  # blocks that may belong to a broken one above them, such as the rest of a string
_MIN_ROWS = 8  # of a block that is divided
# rows that do not start a block but continue or end the one above
_CONTINUED = re.compile(
    rb"[)\]}>{]|(?:end|fi|done|esac|else|elif|elsif|elseif|catch|except|finally|rescue|ensure|then|do|begin)\b"
)
_CONFLICT = re.compile(rb"(?:<{7}|={7}|>{7}|\|{7})(?:\s|$)")
_DIRECTIVE = re.compile(rb"\s*#\s*(?:if|ifdef|ifndef|elif|else|endif)\b")
_NOT_BREAK = re.compile(rb"[^\r\n]")


def without_broken_blocks(raw: bytes, parses: Callable[[bytes], bool]) -> tuple[bytes, int]:
    """Replace what does not parse by spaces, block by block; return the result and how many rows of code are lost.

    A block is a row with the rows below it that are indented more, up to the row that closes it. Of a block that does
    not parse, only the blocks inside it that do not parse are left out, or the rows around those, if that is enough.
    The marks of a merge conflict are left out too. Sources over 200,000 bytes stay as they are.
    """
    rows = raw.split(b"\n")
    if len(raw) > _MAX_BYTES:
        return raw, 0
    first = 1 if rows[0].startswith(b"<?") else 0  # the code of PHP starts below its tag
    broken = {row for row, line in enumerate(rows) if _CONFLICT.match(line)} if b"<<<<<<< " in raw else set()
    tested = [b"" if row in broken or _DIRECTIVE.match(line) else line for row, line in enumerate(rows)]
    search = _Search(tested, parses, _MAX_WORK * len(raw))
    broken.update(row for row in search.broken_rows(_Place(range(first, len(rows)), rows[:first])) if rows[row].strip())
    for row in broken:
        rows[row] = _NOT_BREAK.sub(b" ", rows[row])
    return b"\n".join(rows), len(broken)


@dataclass(frozen=True, slots=True)
class _Place:
    """Rows, and the code around them without which they do not parse."""

    rows: range
    head: Sequence[bytes] = ()
    tail: Sequence[bytes] = ()
    level: int = 0


@dataclass(slots=True)
class _Search:
    rows: Sequence[bytes]
    parses: Callable[[bytes], bool]
    left: int
    """Bytes that may still be parsed; without any, nothing more is taken for broken."""

    def broken_rows(self, place: _Place) -> Iterator[int]:
        """Yield the rows to leave out so that the others parse."""
        blocks = self._blocks(place.rows)
        number = 0
        while number < len(blocks):
            block = blocks[number]
            number += 1
            if self._parse(block, place):
                continue
            joined = self._joined(blocks[number - 1 :], place)
            if joined:
                number += joined
            elif number < len(blocks) and self._is_cut(block, blocks[number], place):
                yield blocks[number].start
                number += 1
            else:
                yield from self._broken_rows_of(block, place)

    def _broken_rows_of(self, block: range, place: _Place) -> Iterable[int]:
        inner = self._inner(block)
        above, below = range(block.start, inner.start), range(inner.stop, block.stop)
        outer = [*above, *below]
        is_long = len(block) > _MIN_ROWS and place.level < _MAX_LEVEL
        if not inner or not self._parse(outer, place):
            return outer if is_long and inner and self._parse(inner, place) else block
        if not is_long:
            return inner
        head = [*place.head, *(self.rows[row] for row in above)]
        tail = [*(self.rows[row] for row in below), *place.tail]
        return list(self.broken_rows(_Place(inner, head, tail, place.level + 1))) or inner

    def _parse(self, rows: Iterable[int], place: _Place) -> bool:
        source = b"\n".join([*place.head, *(self.rows[row] for row in rows), *place.tail, b""])
        self.left -= len(source)
        return self.left < 0 or self.parses(source)

    def _is_cut(self, block: range, below: range, place: _Place) -> bool:
        """Return whether a block goes on below a broken row that is indented less than the block."""
        return not self._parse(below, place) and self._parse([*block, *below[1:]], place)

    def _joined(self, blocks: Sequence[range], place: _Place) -> int:
        """Return how many blocks below the first make it parse, 0 if none do."""
        for count, block in enumerate(blocks[1 : 1 + _MAX_JOINED], start=1):
            if self._parse(range(blocks[0].start, block.stop), place):
                return count
        return 0

    def _blocks(self, rows: range) -> list[range]:
        """Divide rows at those that are indented no more than the first one and do not continue others."""
        starts = [row for row in rows if self.rows[row].strip() and not _CONTINUED.match(self.rows[row].lstrip())]
        starts = [row for row in starts if self._indent(row) <= self._indent(starts[0])]
        bounds = [rows.start, *starts[1:], rows.stop]
        return [range(first, last) for first, last in pairwise(bounds)]

    def _inner(self, block: range) -> range:
        """Return the rows of a block that are indented more than its first one, and those between them."""
        code = [row for row in block if self.rows[row].strip()]
        deep = [row for row in code if self._indent(row) > self._indent(code[0])]
        return range(deep[0], deep[-1] + 1) if deep else range(block.stop, block.stop)

    def _indent(self, row: int) -> int:
        line = self.rows[row].expandtabs(4)
        return len(line) - len(line.lstrip())
