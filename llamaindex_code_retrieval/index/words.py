"""BM25 over the words of code: in a tantivy index on disk or in memory, of five fields that are weighed."""

from __future__ import annotations

import json
import math
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._code_words import code_words, join_words
from llamaindex_code_retrieval.index.read_only import ReadOnlyFolder

if TYPE_CHECKING:
    import tantivy

FIELD_WEIGHTS: Mapping[str, float] = {"symbol": 1.0, "scope": 0.5, "path": 1.0, "docstring": 0.5, "body": 1.0}
"""Weight of each field's BM25 score.

The scope repeats the symbol, and the docstring the body, so that both count half. On questions about repositories the
choice matters less than that there are fields: equal weights are about as good, and the body alone is much worse.
"""

_FORMAT = 1
"""Version of the fields and of how texts are split into words; an index of another version is built again."""
_FORMAT_FILE = "words.json"
_META_FILE = "meta.json"  # tantivy replaces it with each commit
_HEAP_BYTES = 50_000_000
_SCORE_BITS = 16
_COST_OF_NUMBER = 10
"""Measured: one allowed document in the query takes as long as to fetch and filter so many more hits."""


class WordDocument(NamedTuple):
    """The texts of a node that are searched by words."""

    number: int
    symbol: str
    scope: str
    path: str
    docstring: str
    body: str


class WordIndexError(ValueError):
    """A word index is missing, damaged or of another format. It holds nothing of its own: build it again."""


class WordIndex:
    """BM25 (Robertson; k1 = 1.2, b = 0.75) in tantivy, of documents that are added and removed by number.

    A number belongs to one document at a time: remove it before it is added again. Documents that were removed still
    count in the frequency of their words until tantivy merges the segment that holds them.
    """

    def __init__(
        self, index: tantivy.Index, folder: Path | None = None, *, read_only: ReadOnlyFolder | None = None
    ) -> None:
        index.config_reader("manual")  # else a thread looks for commits; searcher() does that
        self._index = index
        self._folder = folder
        self._read_only = read_only
        self._opstamp = 0
        self._loaded: object = None
        self._lock = threading.Lock()

    @classmethod
    def create(cls, folder: Path, *, token: str = "") -> Self:
        """Make an empty index, named by ``token``, in ``folder``, which is made too and must be empty."""
        import tantivy

        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; name a new folder for the word index")
        index = tantivy.Index(_schema(), path=str(folder), reuse=False)
        (folder / _FORMAT_FILE).write_text(json.dumps({"format": _FORMAT, "token": token}), encoding="utf-8")
        return cls(index, folder)

    @classmethod
    def open(cls, folder: Path, *, token: str = "") -> Self:
        """Open the index in ``folder``; nothing is read before it is searched.

        Raises:
            WordIndexError: it is missing, damaged, of another format, or was created with another ``token``.
        """
        import tantivy

        try:
            saved = json.loads((folder / _FORMAT_FILE).read_text(encoding="utf-8"))
            if saved != {"format": _FORMAT, "token": token}:
                raise WordIndexError(
                    f"word index {folder} is of {saved}, not of format {_FORMAT} and token {token!r}; build it again"
                )
            read_only = None if os.access(folder, os.W_OK) else ReadOnlyFolder(folder)
            path = folder if read_only is None else read_only.path
            return cls(tantivy.Index.open(str(path)), folder, read_only=read_only)
        except FileNotFoundError as error:
            raise WordIndexError(f"no word index in {folder}; build it again") from error
        except WordIndexError:
            raise
        except ValueError as error:
            raise WordIndexError(f"word index {folder} is damaged; build it again ({error})") from error

    @classmethod
    def in_memory(cls) -> Self:
        """Make an empty index that is not saved."""
        import tantivy

        return cls(tantivy.Index(_schema()))

    @property
    def documents(self) -> int:
        """Number of documents in the newest commit."""
        return self.searcher().documents

    def opstamp(self) -> int:
        """Return the number of the newest commit, which is larger than those before; 0 without one."""
        if self._folder is None:
            return self._opstamp
        meta = json.loads((self._folder / _META_FILE).read_text(encoding="utf-8"))
        return int(meta["opstamp"])

    def searcher(self) -> WordSearcher:
        """Return a searcher of the newest commit, by any process. Later commits do not change what it finds."""
        with self._lock:
            newest = self._newest()
            if newest != self._loaded:
                if self._read_only is not None:
                    self._read_only.refresh()
                try:
                    self._index.reload()
                except ValueError as error:
                    raise WordIndexError(f"word index {self._folder} is damaged; build it again ({error})") from error
                self._loaded = newest
            return WordSearcher(self._index.searcher(), self._index.schema)

    @contextmanager
    def writer(self) -> Iterator[WordWriter]:
        """Change the index. What is not committed inside the block is discarded.

        Raises:
            OSError: the index cannot be written, or another writer is open, also one of another process.
        """
        if self._read_only is not None:
            raise PermissionError(f"the word index {self._folder} cannot be written; it was opened to be read only")
        with _write_errors():
            inner = self._index.writer(heap_size=_HEAP_BYTES, num_threads=1)
        writer = WordWriter(inner, self._set_opstamp)
        try:
            yield writer
        finally:
            with suppress(ValueError):  # a writer that failed, on a full disk for one, has nothing to wait for
                if writer.is_changed:
                    inner.rollback()
                    inner.garbage_collect_files()
                inner.wait_merging_threads()
            self._let_others_read()

    def _set_opstamp(self, opstamp: int) -> None:
        self._opstamp = opstamp

    def _let_others_read(self) -> None:
        """Give the files that tantivy makes for its own user the permissions of the others."""
        if self._folder is not None:
            mode = stat.S_IMODE((self._folder / _FORMAT_FILE).stat().st_mode)
            for name in (_META_FILE, ".managed.json"):
                with suppress(OSError):  # those that another user wrote are as they were
                    (self._folder / name).chmod(mode)

    def _newest(self) -> object:
        """Return what differs after each commit."""
        if self._folder is None:
            return self._opstamp
        try:
            file = (self._folder / _META_FILE).stat()
        except FileNotFoundError as error:
            raise WordIndexError(f"no word index in {self._folder}; build it again") from error
        return file.st_ino, file.st_mtime_ns, file.st_size


class WordWriter:
    """Changes to a :class:`WordIndex`, which searchers see after :meth:`commit`.

    Every method raises OSError when the index cannot be written, as on a full disk.
    """

    def __init__(self, inner: tantivy.IndexWriter, committed: Callable[[int], None]) -> None:
        self._inner = inner
        self._committed = committed
        self.is_changed = False
        """Whether there are changes after the last commit."""

    def add(self, documents: Iterable[WordDocument]) -> None:
        """Add documents, whose numbers are not in the index."""
        import tantivy

        for document in documents:
            fields = tantivy.Document()
            fields.add_integer("number", int(document.number))
            for name in FIELD_WEIGHTS:
                if words := join_words(getattr(document, name)):
                    fields.add_text(name, words)
            self.is_changed = True
            with _write_errors():
                self._inner.add_document(fields)

    def remove(self, numbers: Iterable[int]) -> None:
        """Remove the documents with these numbers; others are ignored."""
        for number in numbers:
            self.is_changed = True
            with _write_errors():
                self._inner.delete_documents_by_term("number", int(number))

    def commit(self) -> int:
        """Make the changes durable and visible, and return the number of this commit."""
        with _write_errors():
            opstamp = self._inner.commit()
        self.is_changed = False
        self._committed(opstamp)
        return opstamp


class WordSearcher:
    """What a :class:`WordIndex` held at one commit."""

    def __init__(self, inner: tantivy.Searcher, schema: tantivy.Schema) -> None:
        self._inner = inner
        self._schema = schema

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self._inner.num_docs

    def search(
        self,
        query: str,
        *,
        top_k: int,
        allowed: NDArray[np.int64] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> list[tuple[int, float]]:
        """Return (number, score) of the best documents that share a word with the query, best first.

        Equal scores are in the order of numbers. A score is the sum of the fields' BM25 scores by their weights; a word
        that is twice in the query counts twice. Scores are rounded to 16 bits, since tantivy adds the same terms in
        different orders.

        Args:
            query: a text; its words are found by :func:`code_words`.
            top_k: largest number of hits.
            allowed: sorted numbers of the documents to search; None: all.
            weights: weight of each field, at least 0, and 0 for those that are left out; None: ``FIELD_WEIGHTS``.

        Raises:
            ValueError: ``top_k`` is under 1, or a weight is of no field or negative.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        weights = FIELD_WEIGHTS if weights is None else _checked(weights)
        words = Counter(code_words(query))
        if not words or not self.documents or (allowed is not None and not len(allowed)):
            return []
        terms = self._any_of(words, weights)
        limit = 2 * top_k
        if allowed is not None:
            limit *= max(1, self.documents // len(allowed))
        while True:
            if allowed is not None and limit > _COST_OF_NUMBER * len(allowed):
                terms, allowed, limit = self._restricted(terms, allowed), None, 2 * top_k
            limit = min(limit, self.documents)
            numbers, scores = self._fetch(terms, limit)
            least = scores[-1] if len(scores) == limit < self.documents else -np.inf
            if allowed is not None:
                kept = _is_in(numbers, allowed)
                numbers, scores = numbers[kept], scores[kept]
            best = np.lexsort((numbers, -scores))[:top_k]
            # What was not fetched scores at most `least`: an equal score could come first by its number.
            if least == -np.inf or (len(best) == top_k and scores[best[-1]] > least):
                return [(int(numbers[place]), float(scores[place])) for place in best]
            limit *= 4

    def with_all_words(self, text: str, *, field: str, top_k: int) -> tuple[list[int], int]:
        """Return the ``top_k`` best documents that have all words of a text in one field, and how many have them.

        Without a word in the text there are none.

        Raises:
            ValueError: ``field`` is not a field of the index.
        """
        from tantivy import Occur, Query

        words = dict.fromkeys(code_words(text))
        [name] = _checked({field: 1.0})
        if not words or not self.documents:
            return [], 0
        terms = [(Occur.Must, _term(self._schema, name, word)) for word in words]
        found = self._inner.search(Query.boolean_query(terms), top_k, count=True)
        return self._numbers(found.hits).tolist(), found.count  # type: ignore[attr-defined]  # not in its stub

    def numbers_above(self, number: int) -> list[int]:
        """Return the numbers of the documents that are larger than ``number``, in order."""
        from tantivy import FieldType, Query

        if not self.documents:
            return []
        above = Query.range_query(self._schema, "number", FieldType.Integer, lower_bound=number, include_lower=False)
        return sorted(self._numbers(self._inner.search(above, self.documents, count=False).hits).tolist())

    def rarity(self, word: str) -> float:
        """Return the inverse document frequency of a word in BM25, by the bodies and paths that contain it."""
        found = max(self._inner.doc_freq(name, word) for name in ("body", "path"))
        documents = max(self.documents, found)  # removed documents still count in the frequency of their words
        return math.log(1 + (documents - found + 0.5) / (found + 0.5))

    def _any_of(self, words: Mapping[str, int], weights: Mapping[str, float]) -> tantivy.Query:
        """Return a flat union of terms, the only kind in which tantivy skips what cannot be among the best."""
        from tantivy import Occur, Query

        return Query.boolean_query(
            [
                (Occur.Should, Query.boost_query(_term(self._schema, name, word), weight * count))
                for word, count in words.items()
                for name, weight in weights.items()
                if weight
            ]
        )

    def _restricted(self, terms: tantivy.Query, allowed: NDArray[np.int64]) -> tantivy.Query:
        from tantivy import Occur, Query

        numbers = Query.const_score_query(Query.term_set_query(self._schema, "number", allowed.tolist()), 0.0)
        return Query.boolean_query([(Occur.Must, numbers), (Occur.Must, terms)])

    def _fetch(self, query: tantivy.Query, limit: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the numbers and scores of the best ``limit`` hits."""
        hits = self._inner.search(query, limit, count=False).hits
        return self._numbers(hits), _rounded(np.array([score for score, _ in hits], dtype=np.float64))

    def _numbers(self, hits: Sequence[tuple[Any, tantivy.DocAddress]]) -> NDArray[np.int64]:
        return np.array(self._inner.fast_field_values("number", [place for _, place in hits]), dtype=np.int64)


def _schema() -> tantivy.Schema:
    import tantivy

    builder = tantivy.SchemaBuilder()
    for name in FIELD_WEIGHTS:
        builder.add_text_field(name, stored=False, tokenizer_name="whitespace", index_option="freq")
    # An unsigned field takes Python's int as signed, and the thread that indexes it panics.
    builder.add_integer_field("number", stored=False, indexed=True, fast=True)
    return builder.build()


def _term(schema: tantivy.Schema, field: str, word: str) -> tantivy.Query:
    from tantivy import Query

    return Query.term_query(schema, field, word, index_option="freq")


@contextmanager
def _write_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # tantivy's Python API has no other
        raise OSError(f"the word index cannot be written: {error}") from error


def _checked(weights: Mapping[str, float]) -> Mapping[str, float]:
    for name, weight in weights.items():
        if name not in FIELD_WEIGHTS:
            raise ValueError(f"{name!r} is no field of a word index; the fields are {', '.join(FIELD_WEIGHTS)}")
        if not weight >= 0:
            raise ValueError(f"the weight of a field must be at least 0, got {weight} for {name}")
    return weights


def _rounded(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    mantissas, exponents = np.frexp(scores)
    rounded: NDArray[np.float64] = np.ldexp(np.round(np.ldexp(mantissas, _SCORE_BITS)), exponents - _SCORE_BITS)
    return rounded


def _is_in(numbers: NDArray[np.int64], allowed: NDArray[np.int64]) -> NDArray[np.bool_]:
    places = np.searchsorted(allowed, numbers)
    found: NDArray[np.bool_] = allowed[np.minimum(places, len(allowed) - 1)] == numbers
    return found
