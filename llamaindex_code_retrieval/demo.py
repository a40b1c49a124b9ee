"""The demo: part of Python's standard library indexed, asked and measured."""

from __future__ import annotations

import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.datasets import documented_functions
from llamaindex_code_retrieval.eval.metrics import evaluate_run
from llamaindex_code_retrieval.eval.retrieval import benchmark_index, rank_queries
from llamaindex_code_retrieval.index import CodeIndex
from llamaindex_code_retrieval.retriever import CodeRetriever, Mode
from llamaindex_code_retrieval.sources import Skips, walk

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


@dataclass(slots=True)
class Demo:
    """What a run of the demo found; ranks and scores are of this machine's Python."""

    python: str
    nodes: int
    seconds: dict[str, float]
    answers: dict[str, dict[str, list[tuple[str, str]]]]
    """By question and mode: (path:line, symbol), best first."""
    documented: int
    metrics: dict[str, dict[str, float]]
    folder: str

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}

    def print(self, console: Console) -> None:
        """Show the hits side by side and the metrics of each mode."""
        for question, by_mode in self.answers.items():
            table = Table(title=Text(question, style="bold"), title_justify="left")
            for mode in MODES:
                table.add_column(mode)
            for row in zip(*(by_mode[mode] for mode in MODES), strict=False):
                table.add_row(*(Text(f"{symbol}\n{place}", style="cyan") for place, symbol in row))
            console.print(table)
        console.print(
            f"{self.documented:,} documented functions: docstring summary -> function without its docstring",
            highlight=False,
        )
        table = Table()
        table.add_column("")
        names = list(next(iter(self.metrics.values())))
        for name in names:
            table.add_column(name, justify="right")
        for name_of_mode, values in self.metrics.items():
            table.add_row(name_of_mode, *(f"{values[name]:.3f}" for name in names))
        console.print(table)
        console.print(
            f"{self.nodes:,} nodes of Python {self.python} indexed in {self.seconds['index']:.1f} s, "
            "less what the embedding cache already held; "
            f"measured in {self.seconds['measure']:.1f} s.",
            highlight=False,
        )
        console.print(f'Ask it yourself: code-retrieval search "your question" --index {self.folder}', soft_wrap=True)


def run_demo(
    *, cache_folder: Path, device: str | None = None, on_progress: Callable[[str, int, int], object] | None = None
) -> Demo:
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

    answers: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for question in QUESTIONS:
        answers[question] = {}
        for mode in MODES:
            hits = CodeRetriever(index, top_k=3, mode=mode).retrieve(question)
            facts = [hit.node.metadata for hit in hits]
            answers[question][mode] = [(f"{f['path']}:{f['start_line']}", f["scope"] or f["kind"]) for f in facts]

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
    return Demo(
        python=sysconfig.get_python_version(),
        nodes=len(index),
        seconds={"index": indexed - start, "measure": time.perf_counter() - measure},
        answers=answers,
        documented=len(benchmark.corpus),
        metrics=metrics,
        folder=str(cache_folder / "demo"),
    )
