"""Benchmarks: a corpus of codes, queries and the judgements between them, read from disk or made from source code."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

from llamaindex_code_retrieval._io import short_hash, write_atomically
from llamaindex_code_retrieval.eval.beir import read_split
from llamaindex_code_retrieval.eval.metrics import Qrels
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.languages.table import language_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Codes to search, queries to search with, and which code answers which query.

    Raises:
        ValueError: an empty corpus, no queries, queries and qrels that name different ids, a judged id that the corpus
            lacks, a query without a relevant code (score over 0).
    """

    name: str
    corpus: Mapping[str, str]  # corpus id -> code
    queries: Mapping[str, str]  # query id -> text, each with a relevant code
    qrels: Qrels
    languages: Mapping[str, str] = field(default_factory=dict)  # corpus id -> language, where it is known

    def __post_init__(self) -> None:
        if not self.corpus:
            raise ValueError(f"benchmark {self.name!r} has an empty corpus; there is nothing to search")
        if not self.queries:
            raise ValueError(f"benchmark {self.name!r} has no query with a relevant code; there is nothing to measure")
        for query in sorted(self.queries.keys() ^ self.qrels.keys()):
            raise ValueError(f"benchmark {self.name!r} has query {query!r} in only one of queries and qrels")
        for query, judged in self.qrels.items():
            for code in judged:
                if code not in self.corpus:
                    raise ValueError(f"benchmark {self.name!r} judges code {code!r}, which its corpus lacks")
            if not any(score > 0 for score in judged.values()):
                raise ValueError(f"benchmark {self.name!r} has no relevant code for query {query!r}; leave it out")
        for code in sorted(self.languages.keys() - self.corpus.keys()):
            raise ValueError(f"benchmark {self.name!r} has a language for code {code!r}, which its corpus lacks")

    @property
    def fingerprint(self) -> str:
        """16 hex digits over codes, queries and judgements, whatever their order: equal ones are comparable."""
        return short_hash(json.dumps(part, sort_keys=True) for part in (self.corpus, self.queries, self.qrels))

    @property
    def query_languages(self) -> dict[str, str]:
        """Query id -> language of its relevant codes, where all of them have the same."""
        found: dict[str, str] = {}
        for query, judged in self.qrels.items():
            languages = {self.languages.get(code, "") for code, score in judged.items() if score > 0}
            if len(languages) == 1 and "" not in languages:
                found[query] = languages.pop()
        return found

    def representatives(self) -> dict[str, str]:
        """Return corpus id -> the first id whose code is the same but for white space."""
        first: dict[str, str] = {}
        return {id_: first.setdefault(" ".join(code.split()), id_) for id_, code in self.corpus.items()}

    def sample(self, queries: int, *, seed: int = 0) -> Benchmark:
        """Return a benchmark of so many of the queries, drawn by chance, over the same codes."""
        if not 0 < queries <= len(self.queries):
            raise ValueError(f"benchmark {self.name!r} has {len(self.queries)} queries, so 1 to as many can be drawn")
        drawn = set(random.Random(seed).sample(sorted(self.queries), queries))
        return replace(
            self,
            name=f"{self.name}, {queries} queries (seed {seed})",
            queries={query: text for query, text in self.queries.items() if query in drawn},
            qrels={query: judged for query, judged in self.qrels.items() if query in drawn},
        )

    def pools(self, size: int = 1000, *, seed: int = 0) -> list[Benchmark]:
        """Return benchmarks of ``size`` codes each, every query in one of them: SPENCER's protocol.

        Queries are dealt out by chance, as many to a pool as have all their judged codes fit in; codes drawn by chance
        fill it up. (Gu et al. 2024, section 4: a query ranks 1,000 codes.)
        """
        if not 1 < size <= len(self.corpus):
            raise ValueError(f"a pool of {size} codes cannot be drawn of the {len(self.corpus)} of {self.name!r}")
        rng = random.Random(seed)
        waiting = sorted(self.queries)
        rng.shuffle(waiting)
        pools: list[Benchmark] = []
        while waiting:
            codes: set[str] = set()
            asked: list[str] = []
            while waiting and len(codes | self.qrels[waiting[-1]].keys()) <= size:
                asked.append(waiting.pop())
                codes |= self.qrels[asked[-1]].keys()
            if not asked:
                raise ValueError(f"query {waiting[-1]!r} has more than {size} judged codes; take larger pools")
            others = sorted(self.corpus.keys() - codes)
            codes |= set(rng.sample(others, size - len(codes)))
            pools.append(
                Benchmark(
                    name=f"{self.name}, pool {len(pools) + 1}",
                    corpus={code: text for code, text in self.corpus.items() if code in codes},
                    queries={query: self.queries[query] for query in sorted(asked)},
                    qrels={query: self.qrels[query] for query in sorted(asked)},
                    languages={code: language for code, language in self.languages.items() if code in codes},
                )
            )
        return pools


def save_beir(benchmark: Benchmark, folder: str | Path, *, split: str = "test") -> None:
    """Write a benchmark in BEIR's layout, for :func:`load_beir` to read: a set that stays as it is while code moves."""
    folder = Path(folder)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [
        {"_id": id_, "text": code, **({"language": benchmark.languages[id_]} if id_ in benchmark.languages else {})}
        for id_, code in benchmark.corpus.items()
    ]
    queries = [{"_id": id_, "text": text} for id_, text in benchmark.queries.items()]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        write_atomically(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    judged = [f"{query}\t{code}\t{score}" for query, codes in benchmark.qrels.items() for code, score in codes.items()]
    write_atomically(folder / "qrels" / f"{split}.tsv", "\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")


def load_beir(path: str | Path, *, split: str) -> Benchmark:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` from the folder ``path``, in BEIR's layout.

    A split named ``<split>-<language>`` is searched in that language's codes only. Queries whose judged codes all score
    0 are left out; the score 0 rows of other queries stay. Fields other than ``_id``, ``text`` and ``language`` are
    not read.

    Raises:
        FileNotFoundError: the folder, a file or the split is missing.
        ValueError: a line that is not what the layout asks for, an id or judgement given twice, a judged id that
            corpus or queries lack, an empty corpus, no relevant code at all.
    """
    judged = read_split(path, split)
    qrels = {query: scores for query, scores in judged.qrels.items() if any(score > 0 for score in scores.values())}
    if not qrels:
        raise ValueError(f"{judged.file} names no relevant code (score over 0), so there is nothing to measure")
    return Benchmark(
        name=f"{Path(path).resolve().name}/{split}",
        corpus=judged.corpus,
        queries={query: judged.queries[query] for query in qrels},
        qrels=qrels,
        languages=judged.languages,
    )


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


def documented_functions(
    files: Iterable[tuple[str, str]], *, min_query_words: int = 3, name: str = "documented-functions"
) -> Benchmark:
    """Make a benchmark out of ``(path, source)`` pairs: a docstring asks for the function that it was taken from.

    This is the construction of CodeSearchNet (Husain et al. 2019, arXiv:1909.09436): the query is the first paragraph
    of the docstring, and the code is the function or method without its docstring. The corpus is every documented one,
    of equal codes (and of several on one line) the first. Some of them have no query: those described in fewer than
    ``min_query_words`` words, and those whose description is another's as well, which has no one right answer.
    Unlike there, short functions, tests and constructors stay. Files in unknown languages are passed over.
    Ids are ``path:start_line`` for codes and queries alike.

    Raises:
        ValueError: ``min_query_words`` under 1, a path given twice, no documented function, or none with a query.
    """
    if min_query_words < 1:
        raise ValueError(f"min_query_words must be at least 1, got {min_query_words}")
    corpus: dict[str, str] = {}
    languages: dict[str, str] = {}
    described: dict[str, str] = {}
    codes_seen: set[str] = set()
    paths: set[str] = set()
    for path, source in files:
        if path in paths:
            raise ValueError(f"{path} is given twice, and ids are made of paths; give each file once")
        paths.add(path)
        language = language_of(path)
        if language is None:
            continue
        for definition in definitions(source, language):
            id_ = f"{path}:{definition.start_line}"
            code = definition.code_without_docstring.strip()
            query = _first_paragraph(definition.docstring or "")
            if definition.kind not in ("function", "method") or not query or code in codes_seen or id_ in corpus:
                continue
            codes_seen.add(code)
            corpus[id_] = code
            languages[id_] = language
            described[id_] = query
    times = Counter(described.values())
    queries = {
        id_: query for id_, query in described.items() if len(query.split()) >= min_query_words and times[query] == 1
    }
    return Benchmark(
        name=name,
        corpus=corpus,
        queries=queries,
        qrels={id_: {id_: 1} for id_ in queries},
        languages=languages,
    )


def _first_paragraph(docstring: str) -> str:
    """Return the lines before the first blank one as one line.

    >>> _first_paragraph("Read a file,\\n  whole.\\n\\nArgs: path")
    'Read a file, whole.'
    """
    lines = (line.split() for line in docstring.strip().splitlines())
    return " ".join(word for words in takewhile(bool, lines) for word in words)
