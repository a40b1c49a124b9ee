"""Batches of pairs for contrastive training, without false negatives."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llamaindex_code_retrieval.training.augmentation import hard_positive, rewrite_query
from llamaindex_code_retrieval.training.config import TrainConfig
from llamaindex_code_retrieval.training.pairs import Pair


@dataclass(frozen=True, slots=True)
class Batch:
    """``target[i]`` is the row in ``codes`` that answers ``queries[i]``; the rest on either side are negatives."""

    queries: list[str]
    codes: list[str]
    target: list[int]


class Batches:
    """An endless stream of batches: no two codes of a batch are equal or near-duplicates, no two queries are equal.

    A code goes with all its queries at once, so that it is embedded once for all of them.
    """

    def __init__(self, pairs: Sequence[Pair], config: TrainConfig, clusters: Sequence[int] | None = None) -> None:
        if len(pairs) < config.batch_size:
            raise ValueError(
                f"{len(pairs)} pairs are fewer than a batch of {config.batch_size}; lower batch_size or give more pairs"
            )
        self.pairs = list(pairs)
        self.config = config
        self.codes = list(dict.fromkeys(pair.code for pair in pairs))
        self.row = {code: row for row, code in enumerate(self.codes)}
        by_code: dict[str, list[int]] = {}
        cluster = {pair.code: i if clusters is None else clusters[i] for i, pair in enumerate(pairs)}
        for i, pair in enumerate(pairs):
            by_code.setdefault(pair.code, []).append(i)
        self.clusters = [cluster[code] for code in self.codes]
        self._answers: dict[str, set[int]] = {}  # query -> rows of all codes that answer it
        for pair in pairs:
            self._answers.setdefault(pair.query, set()).add(self.row[pair.code])
        if len(set(self.clusters)) < 2:
            raise ValueError("all codes are one and the same (or near-duplicates): there are no in-batch negatives")
        most = max(1, config.batch_size // 4)  # of one code in a batch
        self._groups = [rows[i : i + most] for rows in by_code.values() for i in range(0, len(rows), most)]
        self._cluster_of_pair = [cluster[pair.code] for pair in pairs]
        self._rejected: dict[str, list[str]] = {}
        for pair in pairs:
            self._rejected.setdefault(pair.code, []).extend(pair.negative_queries)
        self.mined: list[list[int]] = []  # pair -> rows of hard negative codes
        self.vectors: Tensor | None = None  # of all codes, when last embedded
        self.epoch = 0
        self.waiting: deque[list[int]] = deque()  # groups of pairs of one code, in the order of this epoch

    def next(self) -> list[int]:
        """Return the pairs of the next batch, by their positions."""
        batch = self._take()
        if len(batch) < self.config.batch_size // 2:  # what is left of an epoch is little, or clashes
            self.waiting = deque(self._order())
            self.epoch += 1
            batch = self._take()
        return batch

    def _order(self) -> list[list[int]]:
        """Return the groups of an epoch: in chance order, or by blocks of neighbours in chance order."""
        rng = random.Random(f"{self.config.seed}-{self.epoch}")
        groups = list(self._groups)
        rng.shuffle(groups)
        if self.config.neighbours == 1 or self.vectors is None:
            return groups
        vectors = self.vectors[[self.row[self.pairs[group[0]].code] for group in groups]]
        free = torch.ones(len(groups), dtype=torch.bool)
        ordered: list[list[int]] = []
        for i in range(len(groups)):
            if free[i]:
                free[i] = False
                cosines = (vectors @ vectors[i]).masked_fill(~free, -2.0)
                nearest = cosines.topk(min(self.config.neighbours - 1, int(free.sum()))).indices
                free[nearest] = False
                ordered.extend(groups[j] for j in (i, *nearest.tolist()))
        return ordered

    def remember(self, codes: Sequence[str], vectors: Tensor) -> None:
        """Keep the vectors, (codes, dim), of those codes that are codes of pairs as they stand."""
        if self.config.neighbours == 1 and not self.config.memory:
            return
        if self.vectors is None:
            self.vectors = torch.zeros(len(self.codes), vectors.shape[1])
        known = [(self.row[code], i) for i, code in enumerate(codes) if code in self.row]
        self.vectors[[row for row, _ in known]] = vectors[[i for _, i in known]].detach().float().cpu()

    def remembered(self, positions: Sequence[int]) -> Tensor:
        """Return the kept vectors, (codes, dim), of what is a negative for all queries of a batch.

        Left out are codes not embedded yet, all that answer one of its queries, and their near-duplicates.
        """
        if not self.config.memory or self.vectors is None:
            return torch.zeros(0, 0)
        answers = {self.clusters[row] for i in positions for row in self._answers[self.pairs[i].query]}
        free = torch.tensor([cluster not in answers for cluster in self.clusters])
        return self.vectors[free & self.vectors.any(dim=1)]

    def _take(self) -> list[int]:
        batch: list[int] = []
        clusters: set[int] = set()
        queries: set[str] = set()
        kept_back: list[list[int]] = []
        while self.waiting and len(batch) < self.config.batch_size:
            group = self.waiting.popleft()
            cluster = self._cluster_of_pair[group[0]]
            own = [self.pairs[i].query for i in group]
            if cluster in clusters or queries.intersection(own) or len(set(own)) < len(own):
                if len(set(own)) < len(own):
                    kept_back.extend([i] for i in group)  # one query twice for one code: apart from now on
                else:
                    kept_back.append(group)
                continue
            room = self.config.batch_size - len(batch)
            batch.extend(group[:room])
            if group[room:]:
                kept_back.append(group[room:])
            clusters.add(cluster)
            queries.update(own)
        self.waiting.extendleft(reversed(kept_back))
        return batch

    def texts(self, positions: Sequence[int], step: int) -> Batch:
        """Return the texts of a batch; all chance in it is drawn from (seed, step)."""
        config, rng = self.config, random.Random(f"{self.config.seed}-texts-{step}")
        rows: dict[int, int] = {}  # row of all codes -> row of this batch
        target = [rows.setdefault(self.row[self.pairs[i].code], len(rows)) for i in positions]
        languages = {self.row[self.pairs[i].code]: self.pairs[i].language for i in positions}
        codes = [
            hard_positive(self.codes[row], languages[row]) if rng.random() < config.hard_positives else self.codes[row]
            for row in rows
        ]
        queries = [self.pairs[i].query for i in positions]
        queries = [rewrite_query(query, rng) if rng.random() < config.rewritten_queries else query for query in queries]
        taken = {self.clusters[row] for row in rows}
        more: dict[str, None] = {}
        for i in positions:
            judged = list(self.pairs[i].negatives)
            more.update(dict.fromkeys(rng.sample(judged, min(config.judged_negatives, len(judged)))))
            mined = [row for row in (self.mined[i] if self.mined else []) if self.clusters[row] not in taken]
            more.update(dict.fromkeys(self.codes[row] for row in mined[: config.hard_negatives]))
        codes.extend(code for code in more if code not in self.row or self.row[code] not in rows)
        asked = set(queries)
        for row in rows:
            rejected = [query for query in self._rejected[self.codes[row]] if query not in asked]
            queries.extend(rng.sample(rejected, min(config.judged_negatives, len(rejected))))
        return Batch(queries, codes, target)


class Epochs:
    """Positions of ``n`` things in batches: each once an epoch, in an order drawn from (seed, epoch)."""

    def __init__(self, n: int, size: int, seed: int) -> None:
        self._n, self._size, self._seed = n, size, seed
        self._epoch, self._order = -1, list[int]()

    def batch(self, step: int) -> list[int]:
        """Return the positions of a step, whichever was asked for before; a batch may reach into the next epoch."""
        places = range(step * self._size, (step + 1) * self._size)
        return [self._at(*divmod(place, self._n)) for place in places]

    def _at(self, epoch: int, place: int) -> int:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self._n))
            random.Random(f"{self._seed}-{epoch}").shuffle(self._order)
        return self._order[place]
