"""Parse sources with tree-sitter, with an amount of work that their sizes bound."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tree_sitter

from llamaindex_code_retrieval.languages.grammars import load_grammar

# The unit of work is a byte that the parser reads, about 5 ns; a scanner may read the same bytes many times. Work is
# counted, and not time, so that the result does not depend on the machine. A parse of a real file needs up to 150 for
# each byte, and all its repairs up to a seventh of the limit of a source.
_READ = 150  # work of a call that gives bytes to the parser
_REPORT = 5_000  # work of a hundred steps of the parser, after which it reports
_PER_BYTE = 2_000  # most work for each byte of a source
_PER_PARSE = 25_000_000  # most work of one parse, besides that for each byte
_PER_SOURCE = 100_000_000  # the same for all parses of a source and its repairs
_LONGEST_PIECE = 4096  # bytes that the parser reads at once
_SHORTEST_PIECE = 64

_FOUR_BYTES = re.compile(rb"[\xf0-\xf4][\x80-\xbf]{3}")
_TWO_LETTERS = "ªª".encode()


class BoundedParser:
    """Parses a source of ``size`` bytes and its repairs with a bounded amount of work.

    The time of tree-sitter is not linear in the size of a source: the scanners of some grammars read on to its end from
    each token, for example to see whether a string is closed, and the recovery from errors may never leave a place.
    """

    def __init__(self, size: int) -> None:
        self.work_left = _PER_SOURCE + _PER_BYTE * size
        """Work that may still be done; if none is left, nothing more is parsed."""

    def parse(self, raw: bytes, grammar: str, ranges: Sequence[tree_sitter.Range] = ()) -> tree_sitter.Node | None:
        """Return the root of the syntax tree of ``raw``, or of ``ranges`` of it; ``None`` if it takes too much work."""
        if self.work_left <= 0:
            return None
        size = sum(each.end_byte - each.start_byte for each in ranges) if ranges else len(raw)
        most = min(self.work_left, _PER_PARSE + _PER_BYTE * size)
        reader = _Reader(readable(raw))

        def is_too_much(_offset: int, _has_error: bool) -> bool:
            reader.work += _REPORT
            return reader.work > most

        parser = tree_sitter.Parser(load_grammar(grammar), included_ranges=list(ranges) or None)
        try:
            with _filling_a_buffer(reader):
                return parser.parse(reader, progress_callback=is_too_much).root_node
        except ValueError:  # stopped
            return None
        finally:
            self.work_left -= reader.work


def readable(raw: bytes) -> bytes:
    """Return a source of the same length, in which two letters stand for each character of four bytes.

    The scanners of some grammars, such as Bash's, call C's ``isdigit`` and the like, which read beyond their tables for
    a character over 255. That is outside the mapped memory for many characters of four bytes: the process may crash.

    >>> readable("s = '😀é'".encode()).decode()
    "s = 'ªªé'"
    """
    return _FOUR_BYTES.sub(_TWO_LETTERS, raw)


class _Reader:
    """Gives a source to the parser in pieces, and counts the work.

    Pieces end at multiples of powers of two: a scanner that starts at any byte soon reads long pieces.

    tree-sitter's Python binding (0.25, 0.26) never releases an object that it gets while it parses, and no longer uses
    its bytes when it asks for the next ones. So a parse gets every piece in one ``buffer``, which later parses use too.
    """

    def __init__(self, raw: bytes) -> None:
        self.work = 0
        self.buffer: bytearray | None = None
        """Set while a parse reads."""
        self._raw = raw

    def __call__(self, offset: int, _point: tree_sitter.Point | None) -> bytes | bytearray:
        alignment = offset & -offset or _LONGEST_PIECE  # the largest power of two that divides the offset
        length = min(alignment, _LONGEST_PIECE)
        if alignment < _SHORTEST_PIECE:
            length = _SHORTEST_PIECE - offset % _SHORTEST_PIECE
        piece = self._raw[offset : offset + length]
        self.work += _READ + len(piece)
        if self.buffer is None:  # the text of a node must be bytes
            return piece
        self.buffer[:] = piece
        return self.buffer


_buffers: list[bytearray] = []
"""Those that no parse uses; parses in other threads have others."""


@contextmanager
def _filling_a_buffer(reader: _Reader) -> Iterator[None]:
    try:
        reader.buffer = buffer = _buffers.pop()
    except IndexError:
        reader.buffer = buffer = bytearray(_LONGEST_PIECE)
    try:
        yield
    finally:
        reader.buffer = None
        _buffers.append(buffer)
