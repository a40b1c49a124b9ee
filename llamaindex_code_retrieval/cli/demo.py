"""The command ``demo``: index part of Python's standard library, search it and measure retrieval on it."""

from __future__ import annotations

import argparse
import sysconfig
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from llamaindex_code_retrieval._io import Progress, no_progress
from llamaindex_code_retrieval.cli.console import print_json, print_parts, print_table, print_text, progress_bars
from llamaindex_code_retrieval.cli.options import cache_folder, common_options

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

    from llamaindex_code_retrieval.eval.datasets import Benchmark
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.rank import Mode
    from llamaindex_code_retrieval.reranker import CodeReranker

MODULES = (
    "argparse contextlib copy csv dataclasses datetime filecmp fileinput fnmatch functools getpass glob gzip heapq "
    "html http json linecache logging mimetypes netrc os pathlib posixpath queue random secrets shlex shutil smtplib "
    "socket statistics string subprocess tarfile tempfile textwrap threading timeit tokenize urllib zipapp zipfile"
).split()
"""Modules of the standard library that are indexed, about 3,500 nodes."""

QUESTIONS = (
    "copy a whole directory tree",
    "quote a string so that the shell takes it literally",
    "guess the file type from its name",
    "parse an ISO 8601 date string",
    "download a file from a URL",
)

RERANKED = "reranked"
RERANKED_QUERIES, RERANKED_HITS = 100, 20
"""Benchmark queries that the reranker is measured on, and hits of each query that it scores."""

SHOWN_HITS = 3

Answer = Mapping[str, Sequence[tuple[str, str]]]
"""The hits of a question by retrieval mode: (path:line, symbol), best first."""

OnAnswer = Callable[[str, Answer], object]
"""Called with a question and its hits: by words alone while vectors are made, and by all modes when they are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """The result of the demo; ranks and scores depend on the Python version, whose standard library is indexed."""

    python: str
    nodes: int
    seconds: dict[str, float]
    """Time from the start to ``first_answer``, and wall time of ``index`` and ``measure``."""
    answers: dict[str, dict[str, list[tuple[str, str]]]]
    """By question: the hits of the finished index by retrieval mode, see ``Answer``."""
    documented: int
    """Functions in the benchmark: those with a docstring."""
    metrics: dict[str, dict[str, float]]
    """By retrieval mode."""
    reranked: dict[str, dict[str, float]]
    """With and without the reranker, on a sample of the queries; the functions have no path, see ``CodeReranker``."""
    sampled_queries: int
    """Size of that sample."""
    folder: str
    """Folder of the index."""


def add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``demo``."""
    parser = commands.add_parser(
        "demo", help="index part of Python's standard library, search it and measure retrieval"
    )
    common_options(parser)
    parser.set_defaults(run=run_demo_command)


def run_demo_command(options: argparse.Namespace) -> int:
    """Run the demo and print its answers as they are found, then its metrics."""
    settings = {"cache_folder": cache_folder(options), "device": options.device}
    if options.json:
        with progress_bars() as progress:
            demo = run_demo(**settings, on_progress=progress)
        print_json(asdict(demo))
        return 0
    with DemoPrinter() as printer:
        demo = run_demo(**settings, on_progress=printer.show_progress, on_answer=printer.print_answer)
    print_metrics(demo)
    return 0


def run_demo(
    *,
    cache_folder: Path,
    device: str | None = None,
    modules: Collection[str] = MODULES,
    questions: Sequence[str] = QUESTIONS,
    on_progress: Progress | None = None,
    on_answer: OnAnswer | None = None,
) -> Demo:
    """Index ``modules`` of the standard library, answer ``questions`` and measure retrieval.

    The index stays in ``cache_folder``/demo.
    """
    from llamaindex_code_retrieval.embedding import CodeEmbedding
    from llamaindex_code_retrieval.eval.datasets import documented_functions
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.reranker import CodeReranker

    start = time.perf_counter()
    texts = library_sources(modules)
    embedding = CodeEmbedding(device=device, cache_folder=cache_folder)
    index = CodeIndex(embedding, cache_folder / "demo")
    questioner = _Questioner(index, questions, on_progress or no_progress, on_answer)
    loaded = time.perf_counter()
    index.update_texts(texts, on_progress=questioner.show_progress)
    indexed = time.perf_counter()
    answers = questioner.ask("dense", "bm25", "fused")
    answered = time.perf_counter()
    benchmark = documented_functions(texts.items())
    sample = benchmark.sample(min(RERANKED_QUERIES, len(benchmark.queries)))
    reranker = CodeReranker(embedding=embedding, top_n=RERANKED_HITS)
    metrics, reranked = _measure(index, reranker, benchmark, sample, on_progress)
    return Demo(
        python=sysconfig.get_python_version(),
        nodes=len(index),
        seconds={
            "first_answer": (questioner.first_answer or indexed) - start,
            "index": indexed - loaded,
            "measure": time.perf_counter() - answered,
        },
        answers=answers,
        documented=len(benchmark.corpus),
        metrics=metrics,
        reranked=reranked,
        sampled_queries=len(sample.queries),
        folder=str(cache_folder / "demo"),
    )


def library_sources(modules: Collection[str]) -> dict[str, str]:
    """Return the text of each source file of ``modules`` by its path, without tests."""
    from llamaindex_code_retrieval.index.file_state import SourceCounts
    from llamaindex_code_retrieval.index.source_options import SourceOptions
    from llamaindex_code_retrieval.index.sources import walk

    library = Path(sysconfig.get_path("stdlib"))
    return {
        file.path: file.text
        for file in walk(library, SourceCounts(), SourceOptions(only=("*.py",)))
        if file.path.split("/", 1)[0].removesuffix(".py") in modules and "/test" not in file.path
    }


class _Questioner:
    """Asks the questions by words when all nodes are written, before their vectors are made, and again at the end."""

    def __init__(
        self, index: CodeIndex, questions: Sequence[str], on_progress: Progress, on_answer: OnAnswer | None
    ) -> None:
        self._index = index
        self._questions = questions
        self._on_progress = on_progress
        self._on_answer = on_answer
        self.first_answer: float | None = None
        """When the first question was answered."""

    def show_progress(self, stage: str, done: int, total: int) -> None:
        if stage == "embed" and self.first_answer is None:
            self.ask("bm25")
        self._on_progress(stage, done, total)

    def ask(self, *modes: Mode) -> dict[str, dict[str, list[tuple[str, str]]]]:
        """Return the hits of the questions in these modes."""
        from llamaindex_code_retrieval.retriever import CodeRetriever

        retrievers = [CodeRetriever(self._index, top_k=SHOWN_HITS, mode=mode) for mode in modes]
        answers = {}
        for question in self._questions:
            answer: dict[str, list[tuple[str, str]]] = {
                each.mode: [_place_and_symbol(hit) for hit in each.retrieve(question)] for each in retrievers
            }
            answers[question] = answer
            self.first_answer = self.first_answer or time.perf_counter()
            if self._on_answer is not None:
                self._on_answer(question, answer)
        return answers


def _place_and_symbol(hit: NodeWithScore) -> tuple[str, str]:
    metadata = hit.node.metadata
    return f"{metadata['path']}:{metadata['start_line']}", metadata["scope"] or metadata["kind"]


def _measure(
    index: CodeIndex, reranker: CodeReranker, benchmark: Benchmark, sample: Benchmark, on_progress: Progress | None
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Return the metrics of each mode on ``benchmark``, and those without and with the reranker on ``sample``."""
    from llamaindex_code_retrieval.eval.metrics import evaluate_run
    from llamaindex_code_retrieval.eval.retrieval import benchmark_index, rank_queries
    from llamaindex_code_retrieval.retriever import CodeRetriever

    codes = benchmark_index(benchmark, index.embedding, on_progress=on_progress)
    vectors = index.embedding.embed_queries(list(benchmark.queries.values())).tolist()
    query_vectors = dict(zip(benchmark.queries, vectors, strict=True))
    metrics: dict[str, dict[str, float]] = {}
    for retriever in (CodeRetriever(codes, top_k=100, mode=mode) for mode in ("dense", "bm25", "fused")):
        ranked = rank_queries(retriever, benchmark, query_vectors=query_vectors)
        metrics[retriever.mode] = evaluate_run(ranked.run, benchmark.qrels)
    reranked: dict[str, dict[str, float]] = {}
    for name, postprocessors in (("fused", []), (f"fused, {RERANKED}", [reranker])):
        ranked = rank_queries(
            CodeRetriever(codes, top_k=RERANKED_HITS),
            sample,
            postprocessors=postprocessors,
            on_progress=None if on_progress is None else partial(on_progress, "rerank"),
        )
        reranked[name] = evaluate_run(ranked.run, sample.qrels)
    return metrics, reranked


class DemoPrinter:
    """Prints answers when they come, between progress bars; at the end of the ``with`` block the bars are closed."""

    def __init__(self) -> None:
        self._bars = ExitStack()
        self._draw: Progress | None = None
        self._heading = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.close()

    def show_progress(self, stage: str, done: int, total: int) -> None:
        """Draw the bars, again after an answer."""
        if self._draw is None:
            self._draw = self._bars.enter_context(progress_bars())
        self._draw(stage, done, total)

    def print_answer(self, question: str, answer: Answer) -> None:
        """Print the hits of a question with their ranks, the first of its kind under a heading."""
        self._bars.close()  # bars that are drawn would move over the text
        self._draw = None
        heading = "Vectors and words" if "dense" in answer else "Words only, while the vectors are made"
        if heading != self._heading:
            self._heading = heading
            print_text(f"{heading}\n")
        _print_ranks(question, answer)


def print_metrics(demo: Demo) -> None:
    """Print the metrics and times."""
    print_text(
        f"{demo.documented:,} documented functions: the summary of its docstring is the query, the rest of it the code"
    )
    _print_table("Retrieval", demo.metrics)
    _print_table(
        f"Retrieval and reranking of {RERANKED_HITS} hits, on {demo.sampled_queries} of these queries", demo.reranked
    )
    seconds = demo.seconds
    print_text(
        f"{demo.nodes:,} nodes of Python {demo.python}: first answer after {seconds['first_answer']:.1f} s, indexed in "
        f"{seconds['index']:.1f} s (vectors in the embedding cache are not computed again), measured in "
        f"{seconds['measure']:.1f} s"
    )
    print_text(f'Search it yourself: code-retrieval search "your question" --index {demo.folder}')


def _print_ranks(question: str, by_system: Answer) -> None:
    """Print one line per hit: its rank in each system, then its place, which no terminal width cuts."""
    ranks: dict[tuple[str, str], dict[str, int]] = {}
    for system, hits in by_system.items():
        for rank, hit in enumerate(hits, start=1):
            ranks.setdefault(hit, {})[system] = rank
    print_parts((question, "bold"))
    print_parts(("".join(f"  {system}" for system in by_system), "dim"))
    last = SHOWN_HITS + 1
    for (place, symbol), by in sorted(
        ranks.items(), key=lambda each: [each[1].get(system, last) for system in reversed(list(by_system))]
    ):
        cells = "".join(f"  {by.get(system, ''):>{len(system)}}" for system in by_system)
        print_parts((cells, ""), (f"  {place}", "cyan"), (f"  {symbol}", "green"))
    print_text("")


def _print_table(title: str, metrics: Mapping[str, Mapping[str, float]]) -> None:
    names = list(next(iter(metrics.values())))
    rows = [(system, *(f"{values[name]:.3f}" for name in names)) for system, values in metrics.items()]
    print_table(title, rows, headings=("system", *names), numeric=names)
