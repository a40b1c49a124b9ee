"""Batches of pairs for contrastive training, without false negatives."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llamaindex_code_retrieval.training.augmentation import hard_positive, rewrite_query
from llamaindex_code_retrieval.training.config import TrainConfig
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.sampling import check_batch


@dataclass(frozen=True, slots=True)
class Batch:
    """The texts of a batch. ``codes[target[i]]`` answers ``queries[i]``; all other texts are negatives.

    There may be more queries than targets, and codes that are the target of none.
    """

    queries: list[str]
    codes: list[str]
    target: list[int]


class Batches:
    """An endless stream of batches without false negatives.

    No two codes of a batch are equal or near-duplicates, and no two queries are equal. A code comes with its queries,
    so that it is embedded once for all of them.
    """

    def __init__(self, pairs: Sequence[Pair], config: TrainConfig, clusters: Sequence[int] | None = None) -> None:
        """Group the pairs; ``clusters`` numbers the cluster of near-duplicates of each pair's code.

        Raises:
            ValueError: there are fewer pairs than a batch, or all codes are near-duplicates.
        """
        check_batch(pairs, config.batch_size)
        self.pairs = list(pairs)
        self.config = config
        self.codes = list(dict.fromkeys(pair.code for pair in pairs))
        self.row = {code: row for row, code in enumerate(self.codes)}
        """Code -> its place in ``codes``."""
        cluster_of_code = {pair.code: i if clusters is None else clusters[i] for i, pair in enumerate(pairs)}
        self.clusters = [cluster_of_code[code] for code in self.codes]
        if len(set(self.clusters)) < 2:
            raise ValueError("all codes are equal or near-duplicates, so there are no in-batch negatives")
        self._groups = self._group_by_code(limit=max(1, config.batch_size // 4))
        self._answers: dict[str, set[int]] = {}  # query -> rows of all codes that answer it
        self._rejected: dict[str, list[str]] = {}  # code -> queries that were judged not to match
        for pair in pairs:
            self._answers.setdefault(pair.query, set()).add(self.row[pair.code])
            self._rejected.setdefault(pair.code, []).extend(pair.negative_queries)
        self.mined: list[list[int]] = []
        """Rows of the hard negatives of each pair."""
        self.vectors: Tensor | None = None
        """Vectors of ``codes`` when they were last embedded, ``(codes, dim)``; zero before."""
        self.epoch = 0
        self.waiting: deque[list[int]] = deque()
        """Groups of pairs of one code that are still to come in this epoch."""

    def _group_by_code(self, *, limit: int) -> list[list[int]]:
        """Return the positions of the pairs of each code, in groups of at most ``limit``."""
        by_code: dict[str, list[int]] = {}
        for position, pair in enumerate(self.pairs):
            by_code.setdefault(pair.code, []).append(position)
        return [group[i : i + limit] for group in by_code.values() for i in range(0, len(group), limit)]

    def next(self) -> list[int]:
        """Return the positions of the pairs of the next batch.

        A batch holds at least half of ``batch_size``: with less left of an epoch the next one begins.
        """
        batch = self._take_batch()
        if len(batch) < self.config.batch_size // 2:
            self.waiting = deque(self._order())
            self.epoch += 1
            batch = self._take_batch()
        return batch

    def _order(self) -> list[list[int]]:
        """Return the groups of an epoch in random order, each followed by others of its repository if they are wanted,
        or by its nearest neighbours."""
        rng = random.Random(f"{self.config.seed}-{self.epoch}")
        groups = list(self._groups)
        rng.shuffle(groups)
        if self.config.from_repository > 1:
            groups = self._in_blocks(groups, rng)
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

    def _in_blocks(self, groups: Sequence[list[int]], rng: random.Random) -> list[list[int]]:
        """Return the groups in blocks of one repository; those without a repository are blocks of one."""
        size = self.config.from_repository
        by_repository: dict[str, list[list[int]]] = {}
        for group in groups:
            by_repository.setdefault(self.pairs[group[0]].repository, []).append(group)
        blocks = [[group] for group in by_repository.pop("", [])]
        for members in by_repository.values():
            blocks += [members[start : start + size] for start in range(0, len(members), size)]
        rng.shuffle(blocks)
        return [group for block in blocks for group in block]

    def remember(self, codes: Sequence[str], vectors: Tensor) -> None:
        """Store the vectors, ``(codes, dim)``, of those ``codes`` that are the unchanged codes of pairs."""
        if self.config.neighbours == 1 and not self.config.memory:
            return
        if self.vectors is None:
            self.vectors = torch.zeros(len(self.codes), vectors.shape[1])
        known = [(self.row[code], i) for i, code in enumerate(codes) if code in self.row]
        self.vectors[[row for row, _ in known]] = vectors[[i for _, i in known]].detach().float().cpu()

    def remembered(self, positions: Sequence[int]) -> Tensor:
        """Return the stored vectors, ``(codes, dim)``, of the codes that are negatives of all queries of a batch.

        These are the codes that have been embedded, except the answers of its queries and their near-duplicates.
        """
        if not self.config.memory or self.vectors is None:
            return torch.zeros(0, 0)
        answers = {self.clusters[row] for i in positions for row in self._answers[self.pairs[i].query]}
        free = torch.tensor([cluster not in answers for cluster in self.clusters])
        return self.vectors[free & self.vectors.any(dim=1)]

    def _take_batch(self) -> list[int]:
        """Take groups from ``waiting`` that do not clash; those that clash stay first in line."""
        batch: list[int] = []
        clusters: set[int] = set()
        queries: set[str] = set()
        postponed: list[list[int]] = []
        while self.waiting and len(batch) < self.config.batch_size:
            group = self.waiting.popleft()
            cluster = self.clusters[self.row[self.pairs[group[0]].code]]
            group_queries = [self.pairs[i].query for i in group]
            if len(set(group_queries)) < len(
                group_queries
            ):  # the same query twice for one code: from now on in different batches
                postponed.extend([i] for i in group)
                continue
            if cluster in clusters or queries.intersection(group_queries):
                postponed.append(group)
                continue
            room = self.config.batch_size - len(batch)
            batch.extend(group[:room])
            if group[room:]:
                postponed.append(group[room:])
            clusters.add(cluster)
            queries.update(group_queries)
        self.waiting.extendleft(reversed(postponed))
        return batch

    def texts(self, positions: Sequence[int], step: int) -> Batch:
        """Return the texts of a batch; everything random in it is drawn from the seed and the step."""
        config, rng = self.config, random.Random(f"{self.config.seed}-texts-{step}")
        rows: dict[int, int] = {}  # row in self.codes -> row in the batch
        target = [rows.setdefault(self.row[self.pairs[i].code], len(rows)) for i in positions]
        languages = {self.row[self.pairs[i].code]: self.pairs[i].language for i in positions}
        codes = [
            hard_positive(self.codes[row], languages[row]) if rng.random() < config.hard_positives else self.codes[row]
            for row in rows
        ]
        queries = [self.pairs[i].query for i in positions]
        queries = [rewrite_query(query, rng) if rng.random() < config.rewritten_queries else query for query in queries]
        codes += self._negative_codes(positions, rows, rng)
        queries += self._rejected_queries(rows, queries, rng)
        return Batch(queries, codes, target)

    def _negative_codes(self, positions: Sequence[int], rows: Collection[int], rng: random.Random) -> list[str]:
        """Return judged and mined negatives of the pairs of a batch whose codes have the given ``rows``."""
        in_batch = {self.clusters[row] for row in rows}
        negatives: dict[str, None] = {}
        for i in positions:
            judged = list(self.pairs[i].negatives)
            negatives.update(dict.fromkeys(rng.sample(judged, min(self.config.judged_negatives, len(judged)))))
            mined = [row for row in (self.mined[i] if self.mined else []) if self.clusters[row] not in in_batch]
            negatives.update(dict.fromkeys(self.codes[row] for row in mined[: self.config.hard_negatives]))
        return [code for code in negatives if code not in self.row or self.row[code] not in rows]

    def _rejected_queries(self, rows: Collection[int], queries: Sequence[str], rng: random.Random) -> list[str]:
        """Return queries that were judged not to match the codes with the given ``rows``."""
        in_batch, drawn = set(queries), list[str]()
        for row in rows:
            rejected = [query for query in self._rejected[self.codes[row]] if query not in in_batch]
            drawn += rng.sample(rejected, min(self.config.judged_negatives, len(rejected)))
        return drawn


class Epochs:
    """Batches of positions from 0 to ``count - 1``: each position once per epoch, in an order drawn from the seed."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        self._count, self._size, self._seed = count, size, seed
        self._epoch, self._order = -1, list[int]()

    def batch(self, step: int) -> list[int]:
        """Return the positions of a step, in any order of steps; a batch may reach into the next epoch."""
        places = range(step * self._size, (step + 1) * self._size)
        return [self._position(*divmod(place, self._count)) for place in places]

    def _position(self, epoch: int, place: int) -> int:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self._count))
            random.Random(f"{self._seed}-{epoch}").shuffle(self._order)
        return self._order[place]
