"""Search one state of an index: by vectors, by words, under conditions."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval.index.filters import Condition
from llamaindex_code_retrieval.index.ivf import has_gpu
from llamaindex_code_retrieval.index.storage import Storage
from llamaindex_code_retrieval.index.tables import NodeRow, Reading
from llamaindex_code_retrieval.index.vector_file import Selection, VectorFile
from llamaindex_code_retrieval.index.words import WordDocument, WordIndex, WordSearcher
from llamaindex_code_retrieval.ranking.features import Candidate

logger = logging.getLogger(__name__)

_BLOCK = 20_000  # vectors that are compared at once
_CONDITIONS = 32  # prepared conditions that are kept
_Neighbours = tuple[NDArray[np.int64], NDArray[np.float32]]


class Hit(NamedTuple):
    """A node that was found."""

    number: int
    id: str
    score: float
    definition: tuple[int, int]
    """Equal for the parts of one definition."""


class _Allowed(NamedTuple):
    """The nodes that a search may return."""

    numbers: NDArray[np.int64] | None
    """Sorted; ``None`` stands for all."""
    selection: Selection | None
    """Of the vectors in the file."""


@dataclass(frozen=True, slots=True)
class _Caches:
    """What searches in one generation have in common."""

    generation: int
    settings: Mapping[str, Any]
    models: Mapping[str, list[str]]
    searcher: WordSearcher | None
    vectors: VectorFile | None
    newer: tuple[NDArray[np.int64], NDArray[np.float16]]
    """Numbers and vectors that the file does not hold."""
    removed: NDArray[np.int64]
    """Numbers in the file that are no nodes any more."""
    allowed: dict[Condition, _Allowed] = field(default_factory=dict)


class IndexReader:
    """Opens states of the index in a folder.

    Nothing is read before it is needed. What searches in one generation have in common is kept for the next search.
    With ``use_gpu`` the vectors are searched on a GPU if FAISS finds one.
    """

    def __init__(self, storage: Storage, *, use_gpu: bool = False) -> None:
        self.storage = storage
        self._use_gpu = use_gpu
        self._caches: _Caches | None = None
        self._words: tuple[str, WordIndex] | None = None
        self._lock = threading.Lock()

    @contextmanager
    def view(self, *, words: bool = True) -> Iterator[View]:
        """Yield the current state; it stays the same to the end of the block. Without ``words`` none can be sought."""
        while True:
            with self.storage.reading() as reading:
                caches = self._caches
                # The words may have been opened after a later transaction: then they may lack what it removed.
                if caches and caches.generation == reading.generation and (caches.searcher is not None or not words):
                    yield View(reading, caches)
                    return
            with suppress(_ReplacedError):
                self._renew(words=words)

    def _renew(self, *, words: bool) -> None:
        with self._lock, self.storage.reading() as reading:
            old = self._caches
            if old is not None and old.generation == reading.generation:
                if words and old.searcher is None:
                    self._caches = replace(old, searcher=self._searcher(reading, old.settings))
                return
            settings = reading.settings()
            searcher = self._searcher(reading, settings) if words else None
            vectors = self._vector_file(reading, settings, old)
            newer = reading.vectors_after(0 if vectors is None else settings["vectors"]["highest"])
            self._caches = _Caches(
                reading.generation, settings, reading.models(), searcher, vectors, newer, reading.removed()
            )

    def _searcher(self, reading: Reading, settings: Mapping[str, Any]) -> WordSearcher:
        saved = settings.get("words")
        try:
            if saved is not None and (self._words is None or self._words[0] != saved["token"]):
                self._words = (saved["token"], open_words(self.storage.folder, saved))
            if saved is not None and self._words is not None:
                return self._words[1].searcher()
        except (OSError, ValueError) as error:
            self._words = None
            self._check_newest(reading)
            logger.warning("%s; until the next update all words are read from the database", error)
        self._check_newest(reading)
        return _words_in_memory(reading).searcher()

    def _vector_file(self, reading: Reading, settings: Mapping[str, Any], old: _Caches | None) -> VectorFile | None:
        saved = settings.get("vectors")
        if saved is None:
            return None
        if old is not None and old.vectors is not None and old.settings.get("vectors") == saved:
            return old.vectors
        try:
            path = vector_path(self.storage.folder, saved["token"])
            device: Literal["cpu", "cuda"] = "cuda" if self._use_gpu and has_gpu() else "cpu"
            return VectorFile.open(path, dim=settings["dim"], token=saved["token"], device=device)
        except (OSError, ValueError) as error:
            self._check_newest(reading)
            logger.warning("%s; until the next update all vectors are read from the database", error)
            return None

    def _check_newest(self, reading: Reading) -> None:
        """Raise if there is a newer state, by which the caches may have been replaced while they were opened."""
        with self.storage.reading() as newest:
            if newest.generation != reading.generation:
                raise _ReplacedError

    def close(self) -> None:
        """Close the database."""
        self._caches = self._words = None
        self.storage.close()


class _ReplacedError(Exception):
    """The caches of a state were replaced before they were opened."""


class View:
    """One state of an index."""

    def __init__(self, reading: Reading, caches: _Caches) -> None:
        self.reading = reading
        self.settings = caches.settings
        self.models = caches.models
        """The languages of the nodes whose vectors each model made, by fingerprint."""
        self._caches = caches

    def nearest(
        self, query: Sequence[float], *, top_k: int, condition: Condition | None = None, model: str | None = None
    ) -> list[Hit]:
        """Return the ``top_k`` nodes of highest cosine, ties by id, that meet ``condition``.

        With ``model`` only nodes whose vectors this model made, which is how the query must have been embedded.

        Raises:
            ValueError: the query has another dimension than the index, or is not finite.
        """
        vector = self._checked(query)
        allowed = self._allowed(condition, model)
        newer = _nearest(*self._caches.newer, vector, top_k=top_k, allowed=allowed.numbers)
        depth = top_k + 1
        while True:
            found = self._nearest_in_file(vector, depth, allowed)
            numbers, scores = np.concatenate((found[0], newer[0])), np.concatenate((found[1], newer[1]))
            hits = self._hits(zip(numbers.tolist(), scores.tolist(), strict=True))
            if len(found[0]) < depth or (len(hits) >= top_k and hits[top_k - 1].score > found[1][-1]):
                return hits[:top_k]
            depth *= 4  # more vectors may tie with the last one: their ids decide

    def _nearest_in_file(self, vector: NDArray[np.float32], top_k: int, allowed: _Allowed) -> _Neighbours:
        if self._caches.vectors is None:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        return self._caches.vectors.search(vector, top_k=top_k, selection=allowed.selection)

    def matching(self, query: str, *, top_k: int, condition: Condition | None = None) -> list[Hit]:
        """Return the ``top_k`` nodes of highest BM25 score, ties by id, that meet ``condition``.

        All of them have a word in common with the query.
        """
        searcher = self._searcher()
        allowed = self.allowed(condition)
        depth = top_k + 16
        while True:
            found = searcher.search(query, top_k=depth, allowed=allowed)
            hits = self._hits(found)
            if len(found) < depth or (len(hits) >= top_k and hits[top_k - 1].score > found[-1][1]):
                return hits[:top_k]
            depth *= 4  # the words may hold more than the nodes of this state, or more may tie with the last hit

    def with_all_words(self, text: str, *, field: str, top_k: int) -> tuple[list[int], int]:
        """Return the numbers of the ``top_k`` best nodes that have all words of a text in one field, and their count.

        Some may be nodes no more. The fields are those of :class:`.WordDocument`.
        """
        return self._searcher().with_all_words(text, field=field, top_k=top_k)

    def _searcher(self) -> WordSearcher:
        if self._caches.searcher is None:
            raise ValueError("this view was opened without words")
        return self._caches.searcher

    def rarity(self, word: str) -> float:
        """Return the inverse document frequency of a word of a question."""
        return self._searcher().rarity(word)

    def nodes_at(self, path: str, line: int | None, *, top_k: int, condition: Condition | None = None) -> list[int]:
        """Return numbers of nodes of the files that a path in a question may mean, those that hold the line first."""
        asked = path.replace("\\", "/").strip("/")
        return self.reading.nodes_at(asked, line, top_k=top_k, condition=condition or Condition())

    def candidates(self, numbers: Collection[int]) -> list[Candidate]:
        """Return what the ranking reads of the nodes of the numbers of hits, by number."""
        candidates = sorted(self.reading.candidates(numbers))
        if [candidate.number for candidate in candidates] != sorted(numbers):
            raise sqlite3.DatabaseError("nodes without a file")
        return candidates

    def rows(self, numbers: Iterable[int]) -> dict[int, NodeRow]:
        """Return the nodes of the numbers of hits."""
        numbers = set(numbers)
        rows = self.reading.rows(numbers)
        if len(rows) < len(numbers):
            raise sqlite3.DatabaseError("nodes without a file")
        return rows

    def _checked(self, query: Sequence[float]) -> NDArray[np.float32]:
        vector = np.asarray(query, dtype=np.float32)
        dim = self.settings["dim"]
        if vector.shape != (dim,):
            raise ValueError(f"the query has {vector.size} dimensions, the index {dim}; embed it with the same model")
        if not np.isfinite(vector).all():
            raise ValueError("the query vector holds NaN or infinity; the embedding model is broken")
        length = float(np.linalg.norm(vector))
        return vector if length == 0 else vector / np.float32(length)

    def allowed(self, condition: Condition | None, model: str | None = None) -> NDArray[np.int64] | None:
        """Return the sorted numbers of the nodes that meet the conditions; ``None`` stands for all."""
        return self._allowed(condition, model).numbers

    def _allowed(self, condition: Condition | None, model: str | None) -> _Allowed:
        condition = condition or Condition()
        if model is not None:
            condition &= Condition("n.model = (SELECT number FROM models WHERE fingerprint = ?)", (model,))
        prepared = self._caches.allowed
        result = prepared.get(condition)
        if result is None:
            removed = self._caches.removed
            numbers = None if condition == Condition() else self.reading.numbers(condition)
            selection = None
            if self._caches.vectors is not None and (numbers is not None or len(removed)):
                selection = self._caches.vectors.select(allowed=numbers, removed=removed)
            result = _Allowed(numbers, selection)
            if len(prepared) >= _CONDITIONS:
                prepared.clear()
            prepared[condition] = result
        return result

    def hits_of(self, scores: Mapping[str, float]) -> list[Hit]:
        """Return the hits of those ids that are nodes, best first and ties by id."""
        numbers = self.reading.numbers_of(scores)
        return self._hits((number, scores[id_]) for id_, number in numbers.items())

    def _hits(self, found: Iterable[tuple[int, float]]) -> list[Hit]:
        scores = dict(found)
        hits = [
            Hit(number, id_, scores[number], (file, first))
            for number, (id_, file, first) in self.reading.ids(scores).items()
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def vector_path(folder: Path, token: str) -> Path:
    """Return the path of the file of vectors with this token."""
    return folder / f"vectors-{token}.faiss"


def words_path(folder: Path, token: str) -> Path:
    """Return the folder of the words with this token."""
    return folder / f"words-{token}"


def open_words(folder: Path, saved: Mapping[str, Any]) -> WordIndex:
    """Return the index of words that the database names.

    Raises:
        OSError: it cannot be read.
        ValueError: it is missing, damaged or older than the database.
    """
    words = WordIndex.open(words_path(folder, saved["token"]), token=saved["token"])
    words.searcher()  # opens all of its files
    if words.opstamp() < saved["opstamp"]:
        raise ValueError(f"the words of the index in {folder} are older than its database")
    return words


def word_document(row: NodeRow) -> WordDocument:
    """Return what the index of words holds of a node."""
    symbol, scope, path, docstring = (
        str(row.metadata.get(name) or "") for name in ("symbol", "scope", "path", "docstring")
    )
    return WordDocument(row.number, symbol, scope, path, docstring, row.text)


def _words_in_memory(reading: Reading) -> WordIndex:
    words = WordIndex.in_memory()
    with words.writer() as writer:
        writer.add(map(word_document, reading.all_rows()))
        writer.commit()
    return words


def _nearest(
    numbers: NDArray[np.int64],
    vectors: NDArray[np.float16],
    query: NDArray[np.float32],
    *,
    top_k: int,
    allowed: NDArray[np.int64] | None,
) -> _Neighbours:
    """Compare the query with every vector; return numbers and cosines of the best, unsorted."""
    if allowed is not None:
        rows = np.flatnonzero(np.isin(numbers, allowed, assume_unique=True))
        numbers, vectors = numbers[rows], vectors[rows]
    scores = np.empty(len(numbers), dtype=np.float32)
    for start in range(0, len(numbers), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float32)
        # Unlike `@`, the same for equal vectors wherever they stand: their ids must decide.
        scores[start : start + _BLOCK] = np.einsum("ij,j->i", block, query)
    if len(numbers) > top_k:
        # All that tie with the last one are kept: their ids decide.
        threshold = np.partition(scores, -top_k)[-top_k]
        rows = np.flatnonzero(scores >= threshold)
        numbers, scores = numbers[rows], scores[rows]
    return numbers, scores
