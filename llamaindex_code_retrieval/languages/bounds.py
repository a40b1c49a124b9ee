"""Bounds of nodes: measure the rows of a source in lines, characters and tokens, and cut what is too large."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

CHARACTERS_PER_LINE = 100
"""A node has at most so many characters for each line that it may have."""
MAX_LINE_PARTS = 50
"""A line that would be cut into more parts is data, and only so many parts of it are kept."""
_CHARACTERS_PER_TOKEN = 4  # of the first attempt to cut a line
_OVERLAP_SHARE = 4  # parts overlap by at most a quarter of the bound
_NOT_A_STATEMENT = 1 << 30  # deeper than any statement
_BREAK = re.compile(r"\s|[^\w\s](?=\w)")

Tokenizer = Callable[[str], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The size that no node exceeds. ``tokenizer`` must be given with ``max_tokens``."""

    max_lines: int
    overlap_lines: int
    max_tokens: int | None = None
    tokenizer: Tokenizer | None = None

    @property
    def max_characters(self) -> int:
        """Bounds what has few lines and tokens: a tokenizer may make one token of any long word."""
        return CHARACTERS_PER_LINE * self.max_lines


class Part(NamedTuple):
    """The characters from ``start`` to before ``end``: the rows from ``first`` to ``last``, or a part of one row."""

    first: int
    last: int
    start: int
    end: int


class Measure:
    """Measures spans of a source's rows against bounds, and cuts those that exceed them.

    ``embedded`` makes the text that is embedded, whose tokens are counted, of the code of a node.
    """

    def __init__(self, text: str, bounds: Bounds, *, embedded: Callable[[str], str] | None = None) -> None:
        self.text = text
        self.lines = text.split("\n")
        self.bounds = bounds
        self._embedded = embedded
        self._offsets = list(accumulate((len(line) + 1 for line in self.lines), initial=0))
        self._line_tokens: dict[str, int] = {}
        self._fitting: dict[tuple[int, int], bool] = {}
        self.tokens_without_code = self._count("")

    def fits(self, first: int, last: int) -> bool:
        """Return whether these rows may become one node."""
        if last - first >= self.bounds.max_lines or self._characters(first, last) > self.bounds.max_characters:
            return False
        if self.bounds.max_tokens is None:
            return True
        if (first, last) not in self._fitting:
            self._fitting[first, last] = self._fits_tokens(first, last, self.bounds.max_tokens)
        return self._fitting[first, last]

    def whole(self, first: int, last: int) -> Part:
        """Return the rows as one part."""
        return Part(first, last, self._offsets[first], self._offsets[last + 1] - 1)

    def has_at_most(self, tokens: int, part: Part) -> bool:
        """Return whether the tokens of a part of whole rows, added up, are at most so many; ``False`` for others."""
        code = self.text[part.start : part.end]
        if len(code) + 1 + self.tokens_without_code <= tokens and code.isascii():
            return True
        if part != self.whole(part.first, part.last):
            return False
        return self.tokens_without_code + sum(map(self._tokens, range(part.first, part.last + 1))) <= tokens

    def parts(self, first: int, last: int, depths: Mapping[int, int]) -> list[Part]:
        """Cut rows into parts of similar size that fit.

        A part ends before an outermost statement or block (``depths``), or else before a row of any kind. It repeats
        the last ``overlap_lines`` rows of the part before it, if they are not more than a quarter of the bound. A row
        that does not fit is cut at spaces or punctuation, without overlap.
        """
        if self.fits(first, last):
            return [self.whole(first, last)]
        parts: list[Part] = []
        start = first
        for row in range(first, last + 2):
            if row <= last and self.fits(row, row):
                continue
            if start < row:
                parts += self._cut_rows(start, row - 1, depths)
            if row <= last:
                parts += self._cut_line(row)
            start = row + 1
        return parts

    def without_blank_ends(self, first: int, last: int) -> tuple[int, int] | None:
        """Return the rows without the blank ones at both ends, ``None`` if all are blank."""
        while first <= last and not self.lines[first].strip():
            first += 1
        while first <= last and not self.lines[last].strip():
            last -= 1
        return (first, last) if first <= last else None

    def _characters(self, first: int, last: int) -> int:
        return self._offsets[last + 1] - 1 - self._offsets[first]

    def _count(self, code: str) -> int:
        if self.bounds.tokenizer is None:
            return 0
        return len(self.bounds.tokenizer(code if self._embedded is None else self._embedded(code)))

    def _fits_tokens(self, first: int, last: int, max_tokens: int) -> bool:
        part = self.whole(first, last)
        code = self.text[part.start : part.end]
        # An ASCII character is at most one token; a tokenizer may add one for the start of the text.
        if len(code) + 1 + self.tokens_without_code <= max_tokens and code.isascii():
            return True
        # The sum over rows is exact where a line break separates tokens; elsewhere the whole is counted as well.
        if self.tokens_without_code + sum(map(self._tokens, range(first, last + 1))) > max_tokens:
            return False
        return self._count(code) <= max_tokens

    def _tokens(self, row: int) -> int:
        """Return the tokens that a row adds to a text; a row too long for a node is not tokenized."""
        line = self.lines[row]
        if line not in self._line_tokens:
            is_too_long = len(line) > self.bounds.max_characters
            count = (self.bounds.max_tokens or 0) + 1 if is_too_long else self._count(line + "\n")
            self._line_tokens[line] = count - self.tokens_without_code
        return self._line_tokens[line]

    def _cut_rows(self, first: int, last: int, depths: Mapping[int, int]) -> Iterator[Part]:
        """Yield parts of rows each of which fits."""
        sizes = _Sizes(self, first, last)
        while not self.fits(first, last):
            cut = sizes.best_cut(first, last, depths)
            while cut > first + 1 and not self.fits(first, cut - 1):  # the sum of the rows' tokens was too low
                cut -= max(1, (cut - first) // 8)
            yield from self._trimmed(first, cut - 1)
            first = cut - sizes.overlap(first, cut)
        yield from self._trimmed(first, last)

    def _trimmed(self, first: int, last: int) -> Iterator[Part]:
        rows = self.without_blank_ends(first, last)
        if rows is not None:
            yield self.whole(*rows)

    def _cut_line(self, row: int) -> Iterator[Part]:
        """Yield the first ``MAX_LINE_PARTS`` parts of a row."""
        start, end = self._offsets[row], self._offsets[row + 1] - 1
        for _ in range(MAX_LINE_PARTS):
            while start < end and self.text[start].isspace():
                start += 1
            if start == end:
                return
            stop = self._end_of_part(start, end)
            yield Part(row, row, start, start + len(self.text[start:stop].rstrip()))
            start = stop

    def _end_of_part(self, start: int, end: int) -> int:
        """Return where a part of a line ends: behind a space or before a word in its second half, if there is one."""
        max_tokens = self.bounds.max_tokens
        size = min(end - start, self.bounds.max_characters)
        if max_tokens is not None:
            size = min(size, _CHARACTERS_PER_TOKEN * max_tokens)
        while True:
            while max_tokens is not None and size > 1 and (tokens := self._tokens_between(start, size)) > max_tokens:
                size = max(1, min(size - 1, size * max_tokens // tokens))
            stop = self._last_break(start, start + size, end)
            # a shorter text may have more tokens, where its last word is not whole
            if max_tokens is None or size == 1 or self._tokens_between(start, stop - start) <= max_tokens:
                return stop
            size = max(1, stop - start - 1)

    def _tokens_between(self, start: int, size: int) -> int:
        return self._count(self.text[start : start + size].rstrip())

    def _last_break(self, start: int, stop: int, end: int) -> int:
        if stop == end:
            return end
        breaks = [match.end() for match in _BREAK.finditer(self.text, (start + stop) // 2, stop)]
        return breaks[-1] if breaks else stop


class _Sizes:
    """Sizes of rows in the measure that bounds them most: lines, characters or tokens."""

    def __init__(self, measure: Measure, first: int, last: int) -> None:
        bounds = measure.bounds
        rows = range(first, last + 1)
        self._lines = measure.lines
        self._first = first
        self._overlap_lines = bounds.overlap_lines
        self._measures = [
            (bounds.max_lines, list(range(len(rows) + 1))),
            (bounds.max_characters + 1, _sums(len(measure.lines[row]) + 1 for row in rows)),
        ]
        if bounds.max_tokens is not None:
            room = bounds.max_tokens - measure.tokens_without_code
            self._measures.append((room, _sums(map(measure._tokens, rows))))

    def best_cut(self, first: int, last: int, depths: Mapping[int, int]) -> int:
        """Return the row before which to cut: of the rows near a fair share, the outermost, then the nearest to it."""
        bound, sums = max(self._measures, key=lambda each: self._size(each[1], first, last + 1) / each[0])
        total = self._size(sums, first, last + 1)
        overlap = min(self._overlap_lines * total / (last + 1 - first), bound / _OVERLAP_SHARE)
        parts = max(2, math.ceil((total - overlap) / (bound - overlap)))
        share = (total + (parts - 1) * overlap) / parts
        best, largest = None, first + 1
        for cut in range(first + 1, last + 1):
            if any(self._size(each, first, cut) > limit for limit, each in self._measures):
                break
            largest = cut
            size = self._size(sums, first, cut)
            if share / 2 <= size <= share * 1.5:
                is_after_text = bool(self._lines[cut - 1].strip())
                rank = (depths.get(cut, _NOT_A_STATEMENT), is_after_text, abs(size - share), cut)
                best = rank if best is None else min(best, rank)
        return largest if best is None else best[-1]

    def overlap(self, first: int, cut: int) -> int:
        """Return how many of the rows before ``cut`` the next part repeats."""
        count = min(self._overlap_lines, (cut - first) // 2)
        while count and any(
            _OVERLAP_SHARE * self._size(sums, cut - count, cut) > bound for bound, sums in self._measures[1:]
        ):
            count -= 1
        return count

    def _size(self, sums: Sequence[int], first: int, end: int) -> int:
        return sums[end - self._first] - sums[first - self._first]


def _sums(sizes: Iterator[int] | map[int]) -> list[int]:
    return list(accumulate(sizes, initial=0))
