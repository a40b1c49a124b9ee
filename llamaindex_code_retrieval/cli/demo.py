"""The demo: part of Python's standard library indexed, asked and measured."""

from __future__ import annotations

import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from llama_index.core.schema import NodeWithScore
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llamaindex_code_retrieval._io import Progress
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.datasets import documented_functions
from llamaindex_code_retrieval.eval.metrics import evaluate_run
from llamaindex_code_retrieval.eval.retrieval import benchmark_index, rank_queries
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.index.sources import Skips, walk
from llamaindex_code_retrieval.reranker import CodeReranker
from llamaindex_code_retrieval.retriever import CodeRetriever, Mode

MODULES = (
    "argparse contextlib copy csv dataclasses datetime filecmp fileinput fnmatch functools getpass glob gzip heapq "
    "html http json linecache logging mimetypes netrc os pathlib posixpath queue random secrets shlex shutil smtplib "
    "socket statistics string subprocess tarfile tempfile textwrap threading timeit tokenize urllib zipapp zipfile"
).split()
"""What of the standard library is indexed: chosen for the time it takes, about 3,500 nodes."""

QUESTIONS = (
    "copy a whole directory tree",
    "quote a string so that the shell takes it literally",
    "guess the file type from its name",
    "parse an ISO 8601 date string",
    "download a file from a URL",
)

MODES: tuple[Mode, ...] = get_args(Mode)
RERANKED = "reranked"
RERANKED_QUERIES, RERANKED_HITS = 100, 20
"""So many of the measured queries are asked with the reranker as well, and so many of the hits of each are read."""


@dataclass(slots=True)
class Demo:
    """What a run of the demo found; ranks and scores are of this machine's Python."""

    python: str
    nodes: int
    seconds: dict[str, float]
    answers: dict[str, dict[str, list[tuple[str, str]]]]
    """By question and mode, or with the reranker: (path:line, symbol), best first."""
    documented: int
    metrics: dict[str, dict[str, float]]
    reranked: dict[str, dict[str, float]]
    """Without and with the reranker, on some of the queries."""
    asked_again: int
    """How many these are."""
    folder: str

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}

    def print(self, console: Console) -> None:
        """Show the hits side by side and the metrics of each mode."""
        for question, by_mode in self.answers.items():
            table = Table(title=Text(question, style="bold"), title_justify="left")
            for mode in by_mode:
                table.add_column(mode)
            for row in zip(*by_mode.values(), strict=False):
                table.add_row(*(Text(f"{symbol}\n{place}", style="cyan") for place, symbol in row))
            console.print(table)
        console.print(
            f"{self.documented:,} documented functions: docstring summary -> function without its docstring",
            highlight=False,
        )
        console.print(_table(self.metrics))
        console.print(
            f"The same with the reranker, which reads {RERANKED_HITS} hits, on {self.asked_again} of these queries:",
            highlight=False,
        )
        console.print(_table(self.reranked))
        console.print(
            f"{self.nodes:,} nodes of Python {self.python} indexed in {self.seconds['index']:.1f} s, "
            "less what the embedding cache already held; "
            f"measured in {self.seconds['measure']:.1f} s.",
            highlight=False,
        )
        console.print(f'Ask it yourself: code-retrieval search "your question" --index {self.folder}', soft_wrap=True)


def _place(facts: Mapping[str, Any]) -> tuple[str, str]:
    return f"{facts['path']}:{facts['start_line']}", facts["scope"] or facts["kind"]


def _table(metrics: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table()
    table.add_column("")
    for name in next(iter(metrics.values())):
        table.add_column(name, justify="right")
    for system, values in metrics.items():
        table.add_row(system, *(f"{value:.3f}" for value in values.values()))
    return table


def run_demo(*, cache_folder: Path, device: str | None = None, on_progress: Progress | None = None) -> Demo:
    """Index, ask and measure; the index is kept in ``cache_folder``/demo."""
    library = Path(sysconfig.get_path("stdlib"))
    wanted = set(MODULES)
    texts = {
        file.path: file.text
        for file in walk(library, Skips())
        if file.path.split("/", 1)[0].removesuffix(".py") in wanted and "/test" not in file.path
    }
    embedding = CodeEmbedding(device=device, cache_folder=cache_folder)
    index = CodeIndex(embedding)
    start = time.perf_counter()
    index.update_texts(texts, on_progress=on_progress)
    indexed = time.perf_counter()
    index.save(cache_folder / "demo")

    reranker = CodeReranker(embedding=embedding, top_n=RERANKED_HITS)
    answers: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for question in QUESTIONS:
        found: dict[str, list[NodeWithScore]] = {
            mode: CodeRetriever(index, top_k=3, mode=mode).retrieve(question) for mode in MODES
        }
        first = CodeRetriever(index, top_k=RERANKED_HITS).retrieve(question)
        found[RERANKED] = reranker.postprocess_nodes(first, query_str=question)[:3]
        answers[question] = {name: [_place(hit.node.metadata) for hit in hits] for name, hits in found.items()}

    measure = time.perf_counter()
    benchmark = documented_functions(texts.items())
    codes = benchmark_index(benchmark, embedding, on_progress=on_progress)
    vectors = embedding.encoder.encode_queries(list(benchmark.queries.values())).tolist()
    query_vectors = dict(zip(benchmark.queries, vectors, strict=True))
    metrics: dict[str, dict[str, float]] = {}
    for mode in MODES:
        retriever = CodeRetriever(codes, top_k=100, mode=mode)
        metrics[mode] = evaluate_run(
            rank_queries(retriever, benchmark, query_vectors=query_vectors).run, benchmark.qrels
        )
    some = benchmark.sample(min(RERANKED_QUERIES, len(benchmark.queries)))
    reranked: dict[str, dict[str, float]] = {}
    for name, postprocessors in (("fused", []), (f"fused, {RERANKED}", [reranker])):
        run = rank_queries(
            CodeRetriever(codes, top_k=RERANKED_HITS),
            some,
            postprocessors=postprocessors,
            on_progress=None if on_progress is None else partial(on_progress, "rerank"),
        ).run
        reranked[name] = evaluate_run(run, some.qrels)
    return Demo(
        python=sysconfig.get_python_version(),
        nodes=len(index),
        seconds={"index": indexed - start, "measure": time.perf_counter() - measure},
        answers=answers,
        documented=len(benchmark.corpus),
        metrics=metrics,
        reranked=reranked,
        asked_again=len(some.queries),
        folder=str(cache_folder / "demo"),
    )
