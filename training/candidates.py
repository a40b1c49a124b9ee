"""Sample what a cross-encoder compares: a query's answer against hard, in-batch and judged negatives."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.training.config import MatchConfig
from llamaindex_code_retrieval.training.negatives import hard_negatives
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.sampling import check_batch


@dataclass(frozen=True, slots=True)
class CandidateBatch:
    """The pairs of a query and a code that one step scores: ``queries[row]`` with ``codes[row]``."""

    queries: list[str]
    codes: list[str]
    lists: list[list[int]]
    """For each query the rows of its answer, first, and of its negatives."""
    rejected: list[int]
    """Rows of pairs that were judged not to match; they belong to no list."""


class CandidateSampler:
    """The codes of all pairs and the distractors, and which of them are candidates of a query."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        config: MatchConfig,
        *,
        clusters: Sequence[int] | None = None,
        distractors: Mapping[str, str] | None = None,
    ) -> None:
        """Index the codes; :meth:`mine` has to be called before :meth:`sample`.

        Args:
            pairs: queries with their answers.
            config: how many negatives of each kind a query has.
            clusters: for each pair the number of its code's cluster of near-duplicates.
            distractors: code -> language of codes that answer no query.

        Raises:
            ValueError: fewer pairs than a batch, or no query that has both an answer and a negative.
        """
        check_batch(pairs, config.batch_size)
        self.pairs = list(pairs)
        self.config = config
        self.distractors = dict(distractors or {})
        answers = dict.fromkeys(pair.code for pair in pairs)
        self.codes = [*answers, *(code for code in self.distractors if code not in answers)]
        self.row = {code: row for row, code in enumerate(self.codes)}
        self.languages = {**self.distractors, **{pair.code: pair.language for pair in pairs}}
        cluster = {pair.code: i if clusters is None else clusters[i] for i, pair in enumerate(pairs)}
        self.clusters = [cluster.get(code, -1 - row) for row, code in enumerate(self.codes)]
        answers_of: dict[str, set[int]] = {}
        for pair in pairs:
            answers_of.setdefault(pair.query, set()).add(self.row[pair.code])
        self.answers = [frozenset(answers_of[pair.query]) for pair in self.pairs]
        """For each pair the rows of all codes that answer its query."""
        self.mined: list[list[int]] = []
        """For each pair the rows of its hard negatives, nearest first."""
        self._check_negatives()

    def _check_negatives(self) -> None:
        distinct = set(self.clusters)
        if len(distinct) < 2:
            raise ValueError(
                "all codes are equal or near-duplicates, so no query has a negative; give pairs with other codes"
            )
        judged = self.config.judged_negatives and any(pair.negatives or pair.negative_queries for pair in self.pairs)
        if not judged and all({self.clusters[row] for row in rows} == distinct for rows in set(self.answers)):
            raise ValueError(
                "every code answers every query, so no query has a negative; give pairs with other queries"
            )

    def mine(self, retriever: CodeEmbedding, *, device: torch.device | str = "cpu") -> None:
        """Retrieve the hard negatives of every pair, once: the retriever does not change while the model is trained.

        ``device`` computes the cosines.
        """
        if self.config.hard_negatives and not self.mined:
            self.mined = hard_negatives(
                retriever.embed_queries([pair.query for pair in self.pairs]),
                retriever.embed_codes(self.codes, [self.languages[code] for code in self.codes]),
                [self.row[pair.code] for pair in self.pairs],
                per_query=self.config.depth,
                margin=-2.0,  # no limit: a reranker has to learn what the retriever ranks above the answer
                depth=self.config.depth,
                clusters=self.clusters,
                answers=self.answers,
                device=device,
            )

    def sample(self, positions: Sequence[int], step: int) -> CandidateBatch:
        """Return the candidates of the pairs at ``positions``; the draw depends on (seed, step) alone."""
        rng = random.Random(f"{self.config.seed}-candidates-{step}")
        rows: list[tuple[str, str]] = []  # (query, code)
        lists: list[list[int]] = []
        rejected: list[int] = []
        for i in positions:
            pair = self.pairs[i]
            codes = [pair.code, *self._negatives(i, positions, rng)]
            lists.append(list(range(len(rows), len(rows) + len(codes))))
            rows += [(pair.query, code) for code in codes]
            judged = min(self.config.judged_negatives, len(pair.negative_queries))
            rejected += range(len(rows), len(rows) + judged)
            rows += [(query, pair.code) for query in rng.sample(pair.negative_queries, judged)]
        return CandidateBatch([query for query, _ in rows], [code for _, code in rows], lists, rejected)

    def _negatives(self, i: int, positions: Sequence[int], rng: random.Random) -> list[str]:
        """Return distinct codes that do not answer the query of pair ``i``: hard, in-batch, then judged ones."""
        config, pair = self.config, self.pairs[i]
        mined = self.mined[i] if self.mined else []
        negatives = [self.codes[row] for row in rng.sample(mined, min(config.hard_negatives, len(mined)))]
        excluded = {self.clusters[row] for row in self.answers[i]}
        in_batch = sorted({self.row[self.pairs[j].code] for j in positions})
        in_batch = [row for row in in_batch if self.clusters[row] not in excluded and self.codes[row] not in negatives]
        wanted = config.in_batch_negatives + config.hard_negatives - len(negatives)  # fewer may have been mined
        negatives += [self.codes[row] for row in rng.sample(in_batch, min(wanted, len(in_batch)))]
        negatives += rng.sample(pair.negatives, min(config.judged_negatives, len(pair.negatives)))
        return list(dict.fromkeys(negatives))
