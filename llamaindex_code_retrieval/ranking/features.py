"""Features of candidates: numbers that tell how well the nodes that were found fit a question."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._code_words import code_words
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES
from llamaindex_code_retrieval.languages.testing import is_test_path
from llamaindex_code_retrieval.ranking.question import Question

FEATURES = (
    *("cosine", "vector_rank", "bm25", "word_rank"),
    *("symbol", "symbol_case", "symbol_words", "symbol_cover", "qualified_name", "scope_cover"),
    *("file_name", "file_name_words", "file_name_cover", "folder", "folder_cover", "name_cover"),
    *("place", "line", "quoted", "language"),
    *("file_cosine", "file_cosine_3", "file_bm25_3"),
    *("code", "class", "module", "test", "documented", "index_file", "main_symbol"),
)
"""Names of the columns of :func:`feature_matrix`; docs/ranking.md describes them."""

_RANK_CONSTANT = 30
_BEST_OF_FILE = 3
_INDEX_FILES = frozenset("__init__ __main__ index init lib main mod package".split())
"""File names that say nothing: the folder is the name of such a file."""
_SUFFIXES = ("ization", "isation", "ations", "ation", "ings", "ing", "ions", "ion", "ers", "ies", "er", "es", "ed")
_LEAST_STEM = 3  # letters
_NONE: frozenset[str] = frozenset()
_LONGEST_QUESTION = 5_000  # characters whose words are compared with names
_STOP_WORDS = frozenset(
    "a all an and any are as at be by can defined did do does each find for from has have how if implemented in into "
    "is it its no not of on or than that the their them then this to use used using via what when where which who why "
    "with".split()
)


class Candidate(NamedTuple):
    """What the ranking reads of a node."""

    number: int
    id: str
    definition: tuple[int, int]
    """Equal for the parts of one definition."""
    path: str
    symbol: str
    scope: str
    kind: str
    language: str
    start_line: int
    end_line: int
    is_documented: bool


class Scores(NamedTuple):
    """Scores of candidates by one kind of search, best first. A candidate that was not found is not in them."""

    numbers: Sequence[int]
    scores: Sequence[float]


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a question that count, and how much each is worth."""

    weights: Mapping[str, float]
    """By stem, of all words together 1; rare words are worth more."""
    stems: frozenset[str]

    @classmethod
    def of(cls, text: str, rarity: Callable[[str], float]) -> Words:
        """Read a text; ``rarity`` is the inverse document frequency of a word, at least 0."""
        words = code_words(text[:_LONGEST_QUESTION])
        counted = [word for word in words if word not in _STOP_WORDS] or words
        rarities: dict[str, float] = {}
        for word in dict.fromkeys(counted):
            rarities[stem(word)] = max(rarities.get(stem(word), 0.0), rarity(word))
        total = sum(rarities.values()) or 1.0
        return cls({each: value / total for each, value in rarities.items()}, frozenset(rarities))

    def found(self, stems: frozenset[str]) -> frozenset[str]:
        """Return those of these words that are in the question."""
        return _NONE if self.stems.isdisjoint(stems) else self.stems & stems

    def worth(self, found: frozenset[str]) -> float:
        """Return how much words of the question are worth together."""
        return sum([self.weights[each] for each in found]) if found else 0.0


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Return a word without a usual English ending.

    >>> [stem(word) for word in ("registered", "registration", "routes", "bus")]
    ['register', 'registr', 'rout', 'bus']
    """
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _LEAST_STEM:
            return word[: -len(suffix)]
    return word[:-1] if word.endswith(("s", "e")) and len(word) > _LEAST_STEM else word


@lru_cache(maxsize=100_000)
def _stems(text: str) -> frozenset[str]:
    return frozenset(map(stem, code_words(text)))


@lru_cache(maxsize=100_000)
def _outer_stems(scope: str, symbol: str) -> frozenset[str]:
    return _stems(scope) - _stems(symbol)


@lru_cache(maxsize=20_000)
def _names_of_file(path: str) -> tuple[str, str, str, bool]:
    """Return the name of a file without extension, its folder, the folders above it, and whether it is an index file.

    >>> _names_of_file("axum/src/extract/mod.rs")
    ('extract', 'src', 'axum/src', True)
    """
    *folders, name = path.split("/")
    bare = name.rpartition(".")[0] or name
    is_index = bare.lower() in _INDEX_FILES and bool(folders)
    if is_index:
        bare = folders.pop()
    return bare, folders[-1] if folders else "", "/".join(folders), is_index


def feature_matrix(
    question: Question,
    words: Words,
    candidates: Sequence[Candidate],
    *,
    vectors: Sequence[Scores],
    bm25: Scores,
    quoted: Collection[int] = (),
) -> NDArray[np.float64]:
    """Return the features of the candidates, shape ``(candidates, len(FEATURES))``.

    Args:
        question: what is asked for.
        words: the words of the question.
        candidates: nodes that were found.
        vectors: cosines, a ranking for each model whose vectors were searched.
        bm25: BM25 scores.
        quoted: numbers of the candidates that contain a quoted text of the question.
    """
    columns = _search_columns(candidates, vectors, bm25)
    columns |= _file_columns(candidates, columns)
    rows = _Rows(question, words, frozenset(quoted))
    by_node = np.array([rows.of(candidate) for candidate in candidates]).reshape(len(candidates), len(_NODE_FEATURES))
    columns |= {name: by_node[:, place] for place, name in enumerate(_NODE_FEATURES)}
    return np.stack([columns[name] for name in FEATURES], axis=1)


def _search_columns(
    candidates: Sequence[Candidate], vectors: Sequence[Scores], bm25: Scores
) -> dict[str, NDArray[np.float64]]:
    """Return what the searches say. A candidate that a search did not find has the worst cosine, or a BM25 of 0."""
    count = len(candidates)
    places = {candidate.number: place for place, candidate in enumerate(candidates)}
    cosines, vector_ranks = np.full(count, np.nan), np.full(count, np.inf)
    for scores in vectors:  # a node is in one of them at most; cosines of two models have no common scale
        _fill(places, scores, cosines, vector_ranks, best=max(scores.scores, default=0.0))
    worst = np.nanmin(cosines) if np.isfinite(cosines).any() else 0.0
    word_scores, word_ranks = np.zeros(count), np.full(count, np.inf)
    _fill(places, bm25, word_scores, word_ranks, best=0.0)
    return {
        "cosine": np.where(np.isnan(cosines), worst, cosines),
        "vector_rank": _RANK_CONSTANT / (_RANK_CONSTANT + vector_ranks),
        "bm25": word_scores / max(word_scores.max(initial=0.0), 1e-9),
        "word_rank": _RANK_CONSTANT / (_RANK_CONSTANT + word_ranks),
    }


def _fill(
    places: Mapping[int, int],
    scores: Scores,
    values: NDArray[np.float64],
    ranks: NDArray[np.float64],
    *,
    best: float,
) -> None:
    found = [places[number] for number in scores.numbers]
    values[found] = np.asarray(scores.scores, dtype=np.float64) - best
    ranks[found] = np.arange(len(found))


def _file_columns(
    candidates: Sequence[Candidate], columns: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Return what the candidates of a file have in common: their best cosine, and the mean of their best scores."""
    files: dict[str, int] = {}
    numbers = np.array(
        [files.setdefault(candidate.path or candidate.id, len(files)) for candidate in candidates], dtype=np.int64
    )
    cosine, bm25 = columns["cosine"], columns["bm25"]
    cosines = _best_of_files(cosine, numbers, len(files), otherwise=cosine.min(initial=0.0))
    bm25s = _best_of_files(bm25, numbers, len(files), otherwise=0.0)
    return {
        "file_cosine": cosines[numbers, 0],
        "file_cosine_3": cosines[numbers].mean(axis=1),
        "file_bm25_3": bm25s[numbers].mean(axis=1),
    }


def _best_of_files(
    values: NDArray[np.float64], files: NDArray[np.int64], count: int, *, otherwise: float
) -> NDArray[np.float64]:
    """Return the best three values of each file, best first, shape ``(count, 3)``; missing ones are ``otherwise``."""
    best = np.full((count, _BEST_OF_FILE), otherwise)
    filled = [0] * count
    for place in np.argsort(-values, kind="stable").tolist():
        file = int(files[place])
        if filled[file] < _BEST_OF_FILE:
            best[file, filled[file]] = values[place]
            filled[file] += 1
    return best


_SEARCH_FEATURES = ("cosine", "vector_rank", "bm25", "word_rank", "file_cosine", "file_cosine_3", "file_bm25_3")
_NODE_FEATURES = tuple(name for name in FEATURES if name not in _SEARCH_FEATURES)


class _File(NamedTuple):
    """What the candidates of a file have in common."""

    names: tuple[float, ...]
    """The features from ``file_name`` to ``folder_cover``."""
    found: frozenset[str]
    """The question's words that are in the path."""
    joined: str
    place: float
    is_test: float
    is_index: float


class _Rows:
    """Computes the features that depend on one node and the question."""

    def __init__(self, question: Question, words: Words, quoted: Collection[int]) -> None:
        self._question = question
        self._words = words
        self._quoted = quoted
        self._joined = "".join(code_words(question.text[:_LONGEST_QUESTION]))
        self._exact_names = {identifier.name for identifier in question.identifiers}
        self._names = {name.lower() for name in self._exact_names}
        self._qualified: dict[str, set[str]] = {}
        """The classes or modules with which a name is given."""
        for identifier in question.identifiers:
            if identifier.scope:
                self._qualified.setdefault(identifier.name.lower(), set()).add(identifier.scope[-1].lower())
        self._of_files: dict[str, _File] = {}

    def of(self, candidate: Candidate) -> tuple[float, ...]:
        """Return the values of ``_NODE_FEATURES``."""
        words, symbol, kind = self._words, candidate.symbol, candidate.kind
        of_file = self._of_files.get(candidate.path)
        if of_file is None:
            of_file = self._of_files[candidate.path] = self._of_file(candidate.path)
        stems, lowered = _stems(symbol), symbol.lower()
        found, outer = words.found(stems), words.found(_outer_stems(candidate.scope, symbol))
        return (
            float(lowered in self._names),
            float(symbol in self._exact_names),
            _share(found, stems),
            words.worth(found) if len(found) == len(stems) else 0.0,
            float(lowered in self._qualified and self._is_qualified(candidate)),
            words.worth(outer),
            *of_file.names,
            words.worth(found | outer | of_file.found),
            of_file.place,
            float(of_file.place > 0 and self._has_line(candidate)),
            float(candidate.number in self._quoted),
            float(candidate.language in self._question.languages),
            float(candidate.language in CODE_LANGUAGES),
            float(kind == "class"),
            float(kind in ("module", "window")),
            of_file.is_test,
            float(candidate.is_documented),
            of_file.is_index,
            float(bool(symbol) and _joined(symbol) == of_file.joined),
        )

    def _of_file(self, path: str) -> _File:
        words = self._words
        bare, folder, folders, is_index = _names_of_file(path)
        stems, joined = _stems(bare), _joined(bare)
        found, found_above = words.found(stems), words.found(_stems(folders))
        names = (
            float(len(bare) > 2 and joined in self._joined),
            _share(found, stems),
            words.worth(found) if len(found) == len(stems) else 0.0,
            _share(words.found(_stems(folder)), _stems(folder)),
            words.worth(found_above),
        )
        place = float(any(_is_path(place.path, path) for place in self._question.places))
        return _File(names, found | found_above, joined, place, float(is_test_path(path)), float(is_index))

    def _is_qualified(self, candidate: Candidate) -> bool:
        """Return whether the question gives the name with the class or module in which this definition is."""
        around = {*candidate.scope.lower().split(".")[:-1], _names_of_file(candidate.path)[0].lower()}
        return not around.isdisjoint(self._qualified[candidate.symbol.lower()])

    def _has_line(self, candidate: Candidate) -> bool:
        return any(
            place.line is not None
            and candidate.start_line <= place.line <= candidate.end_line
            and _is_path(place.path, candidate.path)
            for place in self._question.places
        )


def _share(found: frozenset[str], stems: frozenset[str]) -> float:
    return len(found) / len(stems) if stems else 0.0


@lru_cache(maxsize=100_000)
def _joined(name: str) -> str:
    return "".join(code_words(name))


def _is_path(asked: str, path: str) -> bool:
    """Return whether a path in a question may mean a file: one ends with the other, at a folder."""
    asked, path = asked.replace("\\", "/").lower().strip("/"), path.lower()
    return asked == path or path.endswith(f"/{asked}") or asked.endswith(f"/{path}")
