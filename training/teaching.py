"""Prepare the data of a distillation: queries, codes, and the teacher's vectors of both, for training and testing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import Progress, short_hash
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.metrics import COSINE_TOLERANCE, mean_reciprocal_rank, pessimistic_rank
from llamaindex_code_retrieval.training.config import DistilConfig
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.queries import sample_queries
from llamaindex_code_retrieval.training.recipes import QueryRecipe
from llamaindex_code_retrieval.training.sampling import sample_pool, select_languages, split_by_repository

VALIDATION_QUERIES = 500
"""Largest number of held-out queries that choose the best step; they are half of all where these are few."""
TEST_QUERIES = 500
"""Largest number of held-out queries that have no part in any choice; the figures in the record are theirs."""
POOL = 10_000
"""Largest number of codes that the held-out queries search."""
_CHUNK = 1024
"""Texts that are embedded between two reports of progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySelection:
    """The queries that a student learns from and those that are held out, before anything is embedded."""

    queries: list[str]
    pairs: list[Pair]
    """The pairs that are not held out; their codes answer some of ``queries``."""
    answers: dict[str, set[str]]
    """The held-out queries with the codes that answer them."""
    pool: list[str]
    """The codes that the held-out queries search."""
    languages: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachingSet:
    """What a student learns from: queries, their target vectors, and a code to compare each with."""

    queries: Sequence[str]
    targets: NDArray[np.float32]
    """``(queries, dim)``: unit vectors by the teacher, or by an assistant in its place."""
    codes: NDArray[np.float32]
    """``(codes, dim)``: unit vectors by the teacher."""
    code_rows: NDArray[np.int64]
    """``(queries,)``: the row in ``codes`` of the query's answer, or of the nearest code where no answer is known."""
    answered: NDArray[np.bool_]
    """``(queries,)``: whether that code is known to answer the query."""
    fingerprint: str
    """Hash of queries and codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutVectors:
    """Queries that no student learns from, with the teacher's vectors of them and of the codes that they search."""

    queries: list[str]
    targets: NDArray[np.float32]
    """``(queries, dim)``."""
    codes: NDArray[np.float32]
    """``(codes, dim)``."""
    answers: list[list[int]]
    """For each query the rows in ``codes`` of its answers."""

    def ranks(self, vectors: NDArray[np.float32]) -> list[int | None]:
        """Return the rank of the first answer of each query, by the cosines of ``vectors`` (queries, dim)."""
        return [
            pessimistic_rank(self.codes @ vector, answers, tolerance=COSINE_TOLERANCE)
            for vector, answers in zip(vectors, self.answers, strict=True)
        ]

    def teacher_mrr(self) -> float:
        """Return the MRR of the teacher."""
        return mean_reciprocal_rank(self.ranks(self.targets))

    def metrics(self, vectors: NDArray[np.float32]) -> dict[str, float]:
        """Return MRR and R@1 of a student's ``vectors``, and their mean cosine with the teacher's."""
        ranks = self.ranks(vectors)
        return {
            "mrr": mean_reciprocal_rank(ranks),
            "r@1": fmean(rank == 1 for rank in ranks),
            "cosine": float((vectors * self.targets).sum(axis=1).mean()),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationData:
    """A teacher, and the data that its students learn from and are measured on."""

    teacher: CodeEmbedding
    pairs: list[Pair]
    teaching: TeachingSet
    validation: HeldOutVectors
    """Chooses the best step, and the student where several are tried."""
    test: HeldOutVectors
    """Has no part in any choice: the share of MRR that a student retains is measured on it."""


def select_queries(
    pairs: Sequence[Pair], queries: Sequence[str], recipe: QueryRecipe, validation_pairs: Sequence[Pair]
) -> QuerySelection:
    """Hold out some of ``pairs``, or ``validation_pairs``; a student learns from the other queries and ``queries``.

    Raises:
        ValueError: no pair to hold out; no query left to learn from, or fewer than a batch; fewer than two held-out
            queries or codes; a loss that compares with codes, and none to learn from.
    """
    train, held_out = select_languages(list(pairs), recipe.languages), list(validation_pairs)
    if not train and not held_out:
        raise ValueError("there are no pairs to compare student and teacher on; give --pairs, or --validate")
    if not held_out:
        train, held_out = split_by_repository(train, held_out=recipe.held_out, seed=recipe.train.seed)
    if (recipe.train.dual or recipe.train.contrastive) and not train:
        raise ValueError(
            "dual and contrastive compare queries with codes, and there are none to learn from; give --pairs, or "
            "--set dual=0"
        )
    excluded = {pair.query for pair in held_out}
    candidates = [query for query in (*(pair.query for pair in train), *queries) if query not in excluded]
    if not candidates:
        raise ValueError(
            "there is no query to learn from that is not held out; give --queries (a search log, one a line) or pairs"
        )
    learned = sample_queries(candidates, recipe.most_queries or len(candidates), seed=recipe.train.seed)
    answer_of = {pair.query: pair.code for pair in reversed(train)}
    check_sizes(len(learned), len({answer_of[query] for query in learned if query in answer_of}), recipe.train)
    codes = [pair.code for pair in train] or [held_out[0].code]
    answers, pool = sample_pool(
        held_out, codes, queries=VALIDATION_QUERIES + TEST_QUERIES, codes=POOL, seed=recipe.train.seed
    )
    if len(pool) < 2 or len(answers) < 2:
        raise ValueError(
            f"{len(answers)} held-out queries and {len(pool)} codes are too few to compare student and teacher on; "
            "give more pairs, or --validate"
        )
    languages = {pair.code: pair.language for pair in (*train, *held_out)}
    return QuerySelection(queries=learned, pairs=train, answers=answers, pool=pool, languages=languages)


def check_sizes(queries: int, answers: int, config: DistilConfig) -> None:
    """Refuse fewer queries than a batch, and for the contrastive loss fewer than two distinct codes that answer one.

    Raises:
        ValueError: there are too few of either.
    """
    if queries < config.batch_size:
        raise ValueError(
            f"{queries} queries are fewer than a batch of {config.batch_size}; lower batch_size or give more with "
            "--queries"
        )
    if config.contrastive and answers < 2:
        raise ValueError(
            f"contrastive compares the answers of queries, and {answers} codes are known to answer one; give pairs, or "
            "set contrastive to 0"
        )


def embed_selection(selection: QuerySelection, teacher: CodeEmbedding, on_progress: Progress) -> DistillationData:
    """Embed all queries and codes by the teacher."""

    def embed_codes(codes: Sequence[str]) -> NDArray[np.float32]:
        return teacher.embed_codes(codes, [selection.languages[code] for code in codes])

    codes = list(dict.fromkeys(pair.code for pair in selection.pairs)) or selection.pool[:1]
    targets = embed_in_chunks(teacher.embed_queries, selection.queries, "teach", on_progress)
    code_vectors = embed_in_chunks(embed_codes, codes, "embed", on_progress)
    code_rows, answered = _codes_to_compare(selection, codes, targets, code_vectors)
    held_out = HeldOutVectors(
        queries=list(selection.answers),
        targets=teacher.embed_queries(list(selection.answers)),
        codes=embed_in_chunks(embed_codes, selection.pool, "embed", on_progress),
        answers=_rows_of_answers(selection),
    )
    choosing = min(VALIDATION_QUERIES, len(held_out.queries) // 2)
    return DistillationData(
        teacher=teacher,
        pairs=selection.pairs,
        teaching=TeachingSet(
            queries=selection.queries,
            targets=targets,
            codes=code_vectors,
            code_rows=code_rows,
            answered=answered,
            fingerprint=short_hash("\n".join([*selection.queries, *codes])),
        ),
        validation=_slice(held_out, slice(choosing)),
        test=_slice(held_out, slice(choosing, None)),
    )


def embed_in_chunks(
    encode: Callable[[Sequence[str]], NDArray[np.float32]], texts: Sequence[str], stage: str, on_progress: Progress
) -> NDArray[np.float32]:
    """Return the vectors of ``texts``, ``(texts, dim)``, reporting progress after every 1,024 of them."""
    chunks = []
    for start in range(0, len(texts), _CHUNK):
        chunks.append(encode(texts[start : start + _CHUNK]))
        on_progress(stage, min(start + _CHUNK, len(texts)), len(texts))
    return np.concatenate(chunks)


def _codes_to_compare(
    selection: QuerySelection, codes: Sequence[str], targets: NDArray[np.float32], code_vectors: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return for each query the row of its first answer, or else of the nearest code; and whether it is an answer."""
    row_of = {code: row for row, code in enumerate(codes)}
    answer = {pair.query: row_of[pair.code] for pair in reversed(selection.pairs)}
    rows = np.array([answer.get(query, -1) for query in selection.queries], dtype=np.int64)
    answered = rows >= 0
    unanswered = np.flatnonzero(~answered)
    for start in range(0, len(unanswered), _CHUNK):
        chunk = unanswered[start : start + _CHUNK]
        rows[chunk] = (targets[chunk] @ code_vectors.T).argmax(axis=1)
    return rows, answered


def _rows_of_answers(selection: QuerySelection) -> list[list[int]]:
    row_of = {code: row for row, code in enumerate(selection.pool)}
    return [[row_of[code] for code in sorted(codes)] for codes in selection.answers.values()]


def _slice(held_out: HeldOutVectors, part: slice) -> HeldOutVectors:
    return HeldOutVectors(
        queries=held_out.queries[part],
        targets=held_out.targets[part],
        codes=held_out.codes,
        answers=held_out.answers[part],
    )
