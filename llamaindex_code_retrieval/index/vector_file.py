"""``VectorFile``: an immutable, memory-mapped FAISS file of unit vectors by number."""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import Progress, no_progress, open_atomically
from llamaindex_code_retrieval.index.ivf import (
    EXACT_LIMIT,
    copy_to_gpu,
    import_faiss,
    new_index,
    number_of_cells,
    sample_rows,
    search,
    search_on_gpu,
    train,
)

Batches = Callable[[], Iterable[tuple[NDArray[np.int64], NDArray[Any]]]]
"""Returns batches of (ascending numbers, their unit vectors as fp16 or fp32), the same at each call."""

_FORMAT = 1
_MAGIC = b"CRVECTOR"
_FOOTER = struct.Struct("<QI8s")  # length and CRC-32 of the trailer, magic
_MAX_TRAILER = 65_536
_ROWS = 16_384  # vectors that are converted to fp32 at once


@dataclass(frozen=True, slots=True)
class Selection:
    """The vectors of one file that a search may return; see :meth:`VectorFile.select`."""

    mask: NDArray[np.bool_]
    """One value per row of the file."""
    count: int
    _selector: Any  # FAISS's


class VectorFile:
    """Unit vectors by number in a FAISS index, an inverted file (IVF) of fp16 vectors, that is memory-mapped.

    Up to ``exact_limit`` vectors a search compares every one. Above, it compares those in the cells nearest to the
    query, see :mod:`llamaindex_code_retrieval.index.ivf`. It returns ``top_k`` vectors whenever the selection has so
    many. Scores are cosines and differ by about 1e-5, at most 5e-4, from those of fp32 vectors: no need to rescore.

    A file is never changed: a :class:`Selection` leaves out vectors that were deleted. Searches may run in several
    threads and in forked processes. The file may be deleted while it is open.
    """

    def __init__(self, path: Path, index: Any, numbers: NDArray[np.int64], *, token: str, device: str) -> None:
        self.path = path
        self.numbers = numbers
        """The numbers of the vectors, ascending. FAISS's ids are the rows of this array."""
        self.token = token
        self.dim: int = index.d
        self._index = index
        self._gpu_index = copy_to_gpu(index) if device == "cuda" else None
        self._gpu_lock = threading.Lock()  # a GPU index must not be searched by two threads at once

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def is_exact(self) -> bool:
        """Whether a search compares every vector."""
        return bool(self._index.nlist == 1)

    @classmethod
    def open(cls, path: str | Path, *, dim: int, token: str, device: Literal["cpu", "cuda"] = "cpu") -> Self:
        """Open the file that :meth:`build` wrote with this ``dim`` and ``token``.

        The vectors are not read and not checked. With ``device="cuda"`` they are copied to the first GPU; searches
        with a filter that leaves out many of the nearest vectors still run on the CPU.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged, cut off, or of another index; or there is no GPU.
            ImportError: FAISS is not installed.
        """
        path = Path(path)
        with path.open("rb") as file:
            try:
                trailer = _Trailer.read(file)
                trailer.check(file, dim=dim, token=token)
                index = _map_index(file)
            except (RuntimeError, ValueError) as error:  # RuntimeError: FAISS
                reason = str(error).splitlines()[0]
                raise ValueError(f"{path} is not a file of this index's vectors: {reason}; build it again") from error
            numbers: NDArray[np.int64] = np.empty(0, dtype=np.int64)
            if trailer.count:
                offset = trailer.numbers_offset
                numbers = np.asarray(np.memmap(file, np.int64, mode="r", offset=offset, shape=(trailer.count,)))
        return cls(path, index, numbers, token=token, device=device)

    @staticmethod
    def is_whole(path: Path, *, dim: int, token: str) -> bool:
        """Return whether :meth:`open` would open the file."""
        try:
            with path.open("rb") as file:
                _Trailer.read(file).check(file, dim=dim, token=token)
        except (OSError, ValueError):
            return False
        return True

    @classmethod
    def build(
        cls,
        path: str | Path,
        batches: Batches,
        *,
        dim: int,
        count: int,
        token: str,
        exact_limit: int = EXACT_LIMIT,
        on_progress: Progress = no_progress,
    ) -> None:
        """Write a file of ``count`` vectors; a kill or a full disk leaves no part of it.

        ``token`` names the index, for :meth:`open`. Batches are read once, and above ``exact_limit`` vectors three
        times: for the sample that k-means sees, to count the vectors of each cell, and to add them. All vectors as fp16
        are in memory at the end.

        Raises:
            ValueError: the batches do not hold ``count`` vectors of ``dim`` numbers, or their numbers do not ascend.
            OSError: the file cannot be written.
        """
        cells = number_of_cells(count, exact_limit=exact_limit)
        index = new_index(dim, cells, half=True)
        if cells > 1:
            train(index, _sample(batches, sample_rows(count, cells=cells), dim=dim, count=count))
        numbers = _fill(index, batches, dim=dim, count=count, on_progress=on_progress)
        with open_atomically(path) as file:
            import_faiss().write_index(index, import_faiss().PyCallbackIOWriter(file.write))
            trailer = _Trailer.of(file, token=token, dim=dim, count=count, payload=count * (index.code_size + 8))
            file.write(bytes(trailer.numbers_offset - file.tell()))
            file.write(numbers.data)
            trailer.write(file)

    def select(
        self, *, allowed: NDArray[np.int64] | None = None, removed: NDArray[np.int64] | None = None
    ) -> Selection:
        """Return the vectors whose numbers are in ``allowed``, if given, and not in ``removed``.

        Numbers that are not in the file are ignored. Prepare a selection once and search it often.
        """
        mask = np.full(len(self), allowed is None)
        if allowed is not None:
            mask[self._rows(allowed)] = True
        if removed is not None:
            mask[self._rows(removed)] = False
        return Selection(mask, int(mask.sum()), import_faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little")))

    def _rows(self, numbers: NDArray[np.int64]) -> NDArray[np.intp]:
        rows = np.searchsorted(self.numbers, numbers)
        rows, numbers = rows[rows < len(self)], numbers[rows < len(self)]
        present: NDArray[np.intp] = rows[self.numbers[rows] == numbers]
        return present

    def search(
        self, query: NDArray[np.float32], *, top_k: int, selection: Selection | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the numbers and cosines of the ``top_k`` nearest vectors, of a selection if given; ties by number.

        Raises:
            ValueError: the query is not one vector of ``dim`` finite numbers.
        """
        if query.shape != (self.dim,) or not np.isfinite(query).all():
            raise ValueError(f"a query must be {self.dim} finite numbers, got an array of shape {query.shape}")
        query = np.ascontiguousarray(query, dtype=np.float32)
        mask, selector, matching = None, None, len(self)
        if selection is not None:
            mask, selector, matching = selection.mask, selection._selector, selection.count
        hits = None
        if self._gpu_index is not None:
            with self._gpu_lock:
                hits = search_on_gpu(self._gpu_index, query, top_k=top_k, mask=mask)
        if hits is None:
            hits = search(self._index, query, top_k=top_k, selector=selector, matching=matching)
        rows, scores = hits
        numbers: NDArray[np.int64] = self.numbers[rows[:top_k]]
        return numbers, scores[:top_k]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trailer:
    """What stands behind the FAISS index and the numbers: the identity of the file, and how to see that it is whole."""

    token: str
    dim: int
    count: int
    faiss_bytes: int
    head_bytes: int
    """Length of the part that FAISS reads when it opens the file; the vectors and their ids follow."""
    head_crc: int
    format: int = _FORMAT

    @property
    def numbers_offset(self) -> int:
        return -(-self.faiss_bytes // 8) * 8  # NumPy reads aligned numbers faster

    @classmethod
    def of(cls, file: BinaryIO, *, token: str, dim: int, count: int, payload: int) -> Self:
        """Describe a file to which the FAISS index has been written, of which the last ``payload`` bytes are lists."""
        file.flush()
        head_bytes = file.tell() - payload
        with open(file.name, "rb") as written:
            crc = zlib.crc32(written.read(head_bytes))
        return cls(token=token, dim=dim, count=count, faiss_bytes=file.tell(), head_bytes=head_bytes, head_crc=crc)

    def write(self, file: BinaryIO) -> None:
        record = json.dumps(asdict(self)).encode()
        file.write(record + _FOOTER.pack(len(record), zlib.crc32(record), _MAGIC))

    @classmethod
    def read(cls, file: BinaryIO) -> Self:
        """Read the trailer and check that the file is as long as it says; FAISS would crash on one that is cut off."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _FOOTER.size))
        footer = file.read()
        if len(footer) < _FOOTER.size or not footer.endswith(_MAGIC):
            raise ValueError("it is cut off, or was written by another program")
        length, crc, _ = _FOOTER.unpack(footer)
        file.seek(max(0, size - _FOOTER.size - length))
        record = file.read(min(length, _MAX_TRAILER))  # the length may be damaged
        if zlib.crc32(record) != crc:
            raise ValueError("its last bytes are damaged")
        fields = json.loads(record)
        if fields["format"] != _FORMAT:
            raise ValueError(f"its format is {fields['format']}, this version reads {_FORMAT}")
        trailer = cls(**fields)
        expected = trailer.numbers_offset + 8 * trailer.count + length + _FOOTER.size
        if size != expected:
            raise ValueError(f"it has {size} bytes, not {expected}")
        return trailer

    def check(self, file: BinaryIO, *, dim: int, token: str) -> None:
        if self.token != token:
            raise ValueError(f"it belongs to the index {self.token!r}, not {token!r}")
        if self.dim != dim:
            raise ValueError(f"its vectors have {self.dim} dimensions, not {dim}")
        file.seek(0)
        if zlib.crc32(file.read(self.head_bytes)) != self.head_crc:
            raise ValueError("its first bytes are damaged")


def _map_index(file: BinaryIO) -> Any:
    faiss = import_faiss()
    # By descriptor, because the file can be replaced at any time, and FAISS takes no path that is not UTF-8.
    name = f"/dev/fd/{file.fileno()}"
    os.lseek(
        file.fileno(), 0, os.SEEK_SET
    )  # on macOS a file that is opened by descriptor starts where the other stands
    index = faiss.read_index(name if os.path.exists(name) else str(file.name), faiss.IO_FLAG_MMAP)
    lists = faiss.downcast_InvertedLists(index.invlists)
    if isinstance(lists, faiss.OnDiskInvertedLists):
        lists.prefetch_nthread = 0  # FAISS would start 32 threads per search
    return index


def _parts(batches: Batches, *, dim: int, count: int) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (row of the first vector, numbers, vectors) of at most ``_ROWS`` vectors."""
    row, last = 0, -1
    for numbers, vectors in batches():
        if vectors.shape != (len(numbers), dim):
            raise ValueError(f"expected vectors of shape ({len(numbers)}, {dim}), got {vectors.shape}")
        steps = np.diff(numbers, prepend=last)
        if len(numbers) and steps.min() <= 0:
            where = int(np.argmax(steps <= 0))
            before = f"after {numbers[where - 1] if where else last}" if row or where else "first"
            raise ValueError(f"the numbers of vectors must ascend from 0, got {numbers[where]} {before}")
        if row + len(numbers) > count:
            raise ValueError(f"the batches hold more than {count} vectors")
        for start in range(0, len(numbers), _ROWS):
            part = slice(start, start + _ROWS)
            yield row + start, numbers[part], np.ascontiguousarray(vectors[part], dtype=np.float32)
        row, last = row + len(numbers), int(numbers[-1]) if len(numbers) else last
    if row < count:
        raise ValueError(f"the batches hold {row} vectors, not {count}")


def _sample(batches: Batches, chosen: NDArray[np.int64], *, dim: int, count: int) -> NDArray[np.float32]:
    sample = np.empty((len(chosen), dim), dtype=np.float32)
    for row, _, vectors in _parts(batches, dim=dim, count=count):
        first, end = np.searchsorted(chosen, [row, row + len(vectors)])
        sample[first:end] = vectors[chosen[first:end] - row]
    return sample


def _fill(index: Any, batches: Batches, *, dim: int, count: int, on_progress: Progress) -> NDArray[np.int64]:
    """Add all vectors under their rows as ids, and return their numbers."""
    faiss = import_faiss()
    cells = np.zeros(count, dtype=np.int64)
    if index.nlist > 1:
        for row, _, vectors in _parts(batches, dim=dim, count=count):
            cells[row : row + len(vectors)] = index.quantizer.assign(vectors, 1)[:, 0]
            on_progress("cells", row + len(vectors), count)
    for cell, size in enumerate(np.bincount(cells, minlength=index.nlist).tolist()):
        index.invlists.resize(cell, size)  # reserves memory; a list that grows would take up to twice as much
        index.invlists.resize(cell, 0)
    all_numbers = np.empty(count, dtype=np.int64)
    rows = np.arange(count)
    for row, numbers, vectors in _parts(batches, dim=dim, count=count):
        part = slice(row, row + len(vectors))
        all_numbers[part] = numbers
        pointers = (faiss.swig_ptr(array) for array in (vectors, rows[part], cells[part]))
        index.add_core(len(vectors), *pointers)
        on_progress("vectors", part.stop, count)
    return all_numbers
