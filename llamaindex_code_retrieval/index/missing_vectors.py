"""``MissingVectors``: make the vectors that nodes of an index lack, while files are read and written."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import Progress
from llamaindex_code_retrieval.index.embedders import Embedder
from llamaindex_code_retrieval.index.node_vectors import NodeVectors, embed_nodes, vector_key
from llamaindex_code_retrieval.index.records import embedded_text
from llamaindex_code_retrieval.index.storage import Storage
from llamaindex_code_retrieval.index.tables import NodeRow

_BATCH_NODES = 512
"""Nodes of one call of the model: so many that those of like length are many, whatever files they come from."""
_BATCHES = 2
"""Batches at once: the second one waits for the model, so that the model does not wait for the database."""


class _Batch(NamedTuple):
    """Nodes with different texts that are embedded at once."""

    keys: list[bytes]
    made: Future[NodeVectors]


class MissingVectors:
    """Makes the vectors of the nodes that were written without one.

    The model runs in a thread of its own. The database is read and written in the caller's, by :meth:`advance` and
    :meth:`finish`. Nodes are taken in the order of their numbers, and equal texts are embedded once. A kill loses the
    two batches under way; the setting ``unembedded`` says from which number on nodes may have no vector.

    At the end of the ``with`` block the thread has ended; after an error it does not finish the batches under way.
    """

    def __init__(
        self, storage: Storage, embedder: Embedder, *, on_progress: Progress, on_write: Callable[[], object]
    ) -> None:
        self._storage = storage
        self._embedder = embedder
        self._on_progress = on_progress
        self._on_write = on_write
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="code-retrieval-embed")
        self._is_stopped = threading.Event()
        self._batches: deque[_Batch] = deque()
        self._waiting: dict[bytes, list[int]] = {}
        """Numbers of the nodes in the batches by the key of their vector."""
        self._last = 0
        """The highest number that was taken into a batch."""
        self.embedded = 0
        """Number of nodes whose vectors the model has made."""
        self.truncated = 0
        """Number of those that are longer than the model reads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def advance(self) -> None:
        """Write the vectors that are ready, and take whole batches of further nodes, without waiting for the model."""
        while self._batches and self._batches[0].made.done():
            self._write()
        while len(self._batches) < _BATCHES and self._take(is_last=False):
            pass

    def finish(self) -> None:
        """Make the vectors of all nodes that have none."""
        with self._storage.reading() as reading:
            if reading.settings("unembedded").get("unembedded") is None:
                return
            total = self.embedded + len(reading.unembedded())
        self._on_progress("embed", self.embedded, total)
        while True:
            while len(self._batches) < _BATCHES and self._take(is_last=True):
                pass
            if not self._batches:
                break
            self._write()
            self._on_progress("embed", self.embedded, total)
        with self._storage.writing() as writing:
            writing.put_settings({"unembedded": None})

    def _take(self, *, is_last: bool) -> bool:
        """Have further nodes embedded; return whether there were any.

        Unless this ``is_last``, fewer than a batch wait for the nodes that are written next.
        """
        with self._storage.reading() as reading:
            numbers = reading.unembedded(above=self._last, limit=_BATCH_NODES)
            if not numbers or (len(numbers) < _BATCH_NODES and not is_last):
                return False
            known: dict[int, NDArray[np.float32]] = {}
            new: dict[bytes, NodeRow] = {}
            for number, row in sorted(reading.rows(numbers).items()):
                key = vector_key(row)
                vector = reading.vector_of(row.digest, embedded_text(row), row.model)
                if vector is not None:
                    known[number] = vector
                elif key in self._waiting:
                    self._waiting[key].append(number)
                else:
                    self._waiting[key], new[key] = [number], row
        self._last = numbers[-1]
        if known:
            self._put(known)
        if new:
            context = contextvars.copy_context()  # LlamaIndex keeps its instrumentation there
            self._batches.append(_Batch(list(new), self._pool.submit(context.run, self._embed, list(new.values()))))
        return True

    def _embed(self, rows: Sequence[NodeRow]) -> NodeVectors:
        try:
            self._check_stopped()
            return embed_nodes(self._embedder, rows, on_batch=self._check_stopped)
        except BaseException:
            self._is_stopped.set()
            raise

    def _check_stopped(self, _: int = 0) -> None:
        """Stop after Ctrl-C between two calls of the model, not after hundreds of nodes."""
        if self._is_stopped.is_set():
            raise CancelledError

    def _write(self) -> None:
        """Write the vectors of the first batch, when they are made."""
        keys, made = self._batches.popleft()
        vectors, truncated = made.result()
        by_number = {
            number: vector for key, vector in zip(keys, vectors, strict=True) for number in self._waiting.pop(key)
        }
        self._put(by_number)
        self.embedded += len(by_number)
        self.truncated += truncated

    def _put(self, vectors: Mapping[int, NDArray[np.float32]]) -> None:
        first = min((numbers[0] for numbers in self._waiting.values()), default=self._last + 1)
        with self._storage.writing() as writing:
            nodes = writing.ids(vectors)  # those of a file that was written since may be gone
            writing.put_vectors({number: vector for number, vector in vectors.items() if number in nodes})
            writing.put_settings({"unembedded": first})
        self._on_write()
