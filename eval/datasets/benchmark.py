"""A benchmark: a corpus of codes, queries, and judgements of which code answers which query."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from llamaindex_code_retrieval._io import short_hash
from llamaindex_code_retrieval.eval.metrics import Qrels


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Codes to search, queries to search with, and which code answers which query.

    Raises:
        ValueError: the corpus or the queries are empty, queries and qrels name different ids, a judged id is not in the
            corpus, or a query has no relevant code (score over 0).
    """

    name: str
    corpus: Mapping[str, str]
    """Corpus id -> code."""
    queries: Mapping[str, str]
    """Query id -> text."""
    qrels: Qrels
    languages: Mapping[str, str] = field(default_factory=dict)
    """Corpus id -> language, where it is known."""

    def __post_init__(self) -> None:
        if not self.corpus:
            raise ValueError(f"benchmark {self.name!r} has an empty corpus; there is nothing to search")
        if not self.queries:
            raise ValueError(f"benchmark {self.name!r} has no query with a relevant code; there is nothing to measure")
        for query in sorted(self.queries.keys() ^ self.qrels.keys()):
            raise ValueError(f"benchmark {self.name!r} has query {query!r} in only one of queries and qrels")
        for query, judgements in self.qrels.items():
            for code in judgements:
                if code not in self.corpus:
                    raise ValueError(f"benchmark {self.name!r} judges code {code!r}, which its corpus lacks")
            if not any(score > 0 for score in judgements.values()):
                raise ValueError(f"benchmark {self.name!r} has no relevant code for query {query!r}; leave it out")
        for code in sorted(self.languages.keys() - self.corpus.keys()):
            raise ValueError(f"benchmark {self.name!r} has a language for code {code!r}, which its corpus lacks")

    @property
    def fingerprint(self) -> str:
        """16 hex digits over codes, queries and judgements, regardless of their order.

        Results on benchmarks of the same fingerprint are comparable.
        """
        return short_hash(json.dumps(part, sort_keys=True) for part in (self.corpus, self.queries, self.qrels))

    @property
    def query_languages(self) -> dict[str, str]:
        """Query id -> language of its relevant codes; queries with several or unknown languages are left out."""
        by_query: dict[str, str] = {}
        for query, judgements in self.qrels.items():
            languages = {self.languages.get(code, "") for code, score in judgements.items() if score > 0}
            if len(languages) == 1 and "" not in languages:
                by_query[query] = languages.pop()
        return by_query

    def representatives(self) -> dict[str, str]:
        """Return corpus id -> the first id in the corpus whose code differs at most in white space."""
        first: dict[str, str] = {}
        return {id_: first.setdefault(" ".join(code.split()), id_) for id_, code in self.corpus.items()}

    def sample(self, queries: int, *, seed: int = 0) -> Benchmark:
        """Return a benchmark of ``queries`` queries drawn at random, over the same codes.

        Raises:
            ValueError: ``queries`` is not between 1 and the number of queries.
        """
        if not 0 < queries <= len(self.queries):
            raise ValueError(f"benchmark {self.name!r} has {len(self.queries)} queries, so {queries} cannot be drawn")
        sampled = set(random.Random(seed).sample(sorted(self.queries), queries))
        return replace(
            self,
            name=f"{self.name}, {queries} queries (seed {seed})",
            queries={query: text for query, text in self.queries.items() if query in sampled},
            qrels={query: judgements for query, judgements in self.qrels.items() if query in sampled},
        )

    def pools(self, size: int = 1000, *, seed: int = 0) -> list[Benchmark]:
        """Return benchmarks of ``size`` codes each, with every query in one of them: the protocol of SPENCER.

        Queries are assigned to pools at random, as many as leave room for all their judged codes; each pool is filled
        up with random codes (Gu et al. 2024, section 4).

        Raises:
            ValueError: ``size`` is not between 2 and the number of codes, or a query has more judged codes than that.
        """
        if size < 2:
            raise ValueError(f"a pool must have at least 2 codes, got {size}")
        if size > len(self.corpus):
            raise ValueError(
                f"benchmark {self.name!r} has {len(self.corpus)} codes, so pools of {size} cannot be drawn"
            )
        rng = random.Random(seed)
        remaining = sorted(self.queries)
        rng.shuffle(remaining)
        pools: list[Benchmark] = []
        while remaining:
            codes: set[str] = set()
            queries: list[str] = []
            while remaining and len(codes | self.qrels[remaining[-1]].keys()) <= size:
                queries.append(remaining.pop())
                codes |= self.qrels[queries[-1]].keys()
            if not queries:
                raise ValueError(f"query {remaining[-1]!r} has more than {size} judged codes; use larger pools")
            others = sorted(self.corpus.keys() - codes)
            codes |= set(rng.sample(others, size - len(codes)))
            pools.append(
                Benchmark(
                    name=f"{self.name}, pool {len(pools) + 1}",
                    corpus={code: text for code, text in self.corpus.items() if code in codes},
                    queries={query: self.queries[query] for query in sorted(queries)},
                    qrels={query: self.qrels[query] for query in sorted(queries)},
                    languages={code: language for code, language in self.languages.items() if code in codes},
                )
            )
        return pools


def benchmark_of(name: str, answers: Iterable[tuple[str, str]], *, others: Iterable[str] = ()) -> Benchmark:
    """Return a benchmark of (query, code that answers it) pairs; ``others`` are distractors.

    Equal codes are one, and a query that is given with several codes is answered by each of them. The answers come
    after all distractors in the order of the corpus and of the ids, so that no tie broken by either favours them.

    >>> benchmark_of("two", [("add", "a + b"), ("sum", "a + b")], others=["a - b"]).qrels
    {'q0': {'c1': 1}, 'q1': {'c1': 1}}
    """
    pairs = list(answers)
    answer_codes = dict.fromkeys(code for _, code in pairs)
    ordered = [*(code for code in dict.fromkeys(others) if code not in answer_codes), *answer_codes]
    width = len(str(len(ordered) - 1))  # so that the order by id is the order of the corpus
    codes = {code: f"c{i:0{width}}" for i, code in enumerate(ordered)}
    queries = {query: f"q{i}" for i, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
    qrels: dict[str, dict[str, int]] = {}
    for query, code in pairs:
        qrels.setdefault(queries[query], {})[codes[code]] = 1
    return Benchmark(
        name=name,
        corpus={code_id: code for code, code_id in codes.items()},
        queries={query_id: query for query, query_id in queries.items()},
        qrels=qrels,
    )
