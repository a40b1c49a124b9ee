"""The command ``benchmark``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.cli.console import print_json, print_table, print_text, progress_bars
from llamaindex_code_retrieval.cli.options import (
    cache_folder,
    common_options,
    natural,
    parse_source_options,
    positive,
    refuse_without_effect,
    source_options,
)

if TYPE_CHECKING:
    from llamaindex_code_retrieval.eval.results import RetrievalResult

_SPLIT = "test"
_WORST = 3


def add_benchmark(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``benchmark``."""
    parser = commands.add_parser(
        "benchmark",
        help="measure questions about a repository, or write a benchmark of the documented functions in folders",
    )
    parser.add_argument("sources", nargs="+", metavar="PATH", help="folder with source code")
    measured = parser.add_argument_group("measuring questions")
    measured.add_argument(
        "--questions",
        metavar="FILE",
        help="questions about the repository PATH in JSON; or a folder in the layout of semble's benchmark, "
        "then PATH is the folder with the checkouts",
    )
    measured.add_argument(
        "--worst",
        type=natural,
        metavar="N",
        help=f"questions to show, those with the lowest nDCG@10 (default: {_WORST})",
    )
    written = parser.add_argument_group("writing a benchmark")
    written.add_argument("--out", metavar="DIR", help="new folder, written in BEIR's layout")
    written.add_argument("--split", metavar="NAME", help=f"of the queries (default: {_SPLIT})")
    written.add_argument("--queries", type=positive, metavar="N", help="sample size of the queries (default: all)")
    source_options(parser)
    common_options(parser)
    parser.set_defaults(run=run_benchmark)


def run_benchmark(options: argparse.Namespace) -> int:
    """Measure questions, or write a benchmark."""
    if options.questions is not None:
        refuse_without_effect(options, ("out", "split", "queries"), "with --questions")
        return _measure(options)
    refuse_without_effect(options, ("worst", "device", "cache"), "without --questions")
    if parse_source_options(options).given():
        raise ValueError(
            "--only, --include, --exclude, --ext and --max-file-size have no effect without --questions; set them in "
            "[tool.code-retrieval] of the folder's pyproject.toml"
        )
    if options.out is None:
        raise ValueError("name --questions FILE to measure questions, or --out DIR to write a benchmark")
    return _write(options)


def _measure(options: argparse.Namespace) -> int:
    """Ask the questions with the default settings of a search, and print how many of their targets are found."""
    if len(options.sources) != 1:
        raise ValueError(f"--questions are about one PATH, got {len(options.sources)}; name one folder")
    check_installed("ir_measures", "scipy", extra="eval", purpose="measuring questions")
    from llamaindex_code_retrieval.embedding import CodeEmbedding
    from llamaindex_code_retrieval.eval.loading import load_repositories
    from llamaindex_code_retrieval.eval.repository_retrieval import (
        describe_worst,
        evaluate_questions,
        index_sources_once,
    )
    from llamaindex_code_retrieval.eval.results import TOP
    from llamaindex_code_retrieval.retriever import CodeRetriever

    repositories = load_repositories(options.questions, options.sources[0], parse_source_options(options))
    questions = [each.questions for each in repositories]
    embedding = CodeEmbedding(device=options.device, cache_folder=cache_folder(options))
    with progress_bars() as progress:
        sources = {each.questions.name: each.sources for each in repositories}
        index_of = index_sources_once(sources, embedding, on_progress=progress)
        result = evaluate_questions(
            lambda repository: CodeRetriever(index_of(repository), top_k=TOP),
            questions,
            system="default",
            task=Path(options.questions).name,
            on_progress=lambda done, total: progress("evaluate", done, total),
        )
    if options.json:
        print_json(_figures(result))
    else:
        _print_means(result)
        count = _WORST if options.worst is None else options.worst
        for text in describe_worst(result, questions, count=count):
            print_text(text)
    return 0


def _print_means(result: RetrievalResult) -> None:
    from llamaindex_code_retrieval.eval.significance import interval

    first, *others = result.values
    rows = []
    for name, part in {"all": result, **result.by_category()}.items():
        low, high = interval(list(part.values[first].values()))
        means = (f"{part.means[each]:.4f}" for each in (first, *others))
        rows.append((name, f"{len(part.queries):,}", *means, f"{low:.4f} to {high:.4f}"))
    numeric = ["number", first, *others]
    headings = ["questions", *numeric, f"95 % interval of {first}"]
    print_table(f"{result.task}: {result.codes:,} nodes", rows, headings=headings, numeric=numeric)


def _figures(result: RetrievalResult) -> dict[str, Any]:
    """Return the means of all questions and of each category, and the values of each question."""
    from llamaindex_code_retrieval.eval.significance import interval

    return {
        "nodes": result.codes,
        "means": {
            name: {
                "questions": len(part.queries),
                **part.means,
                "intervals": {metric: interval(list(values.values())) for metric, values in part.values.items()},
            }
            for name, part in {"all": result, **result.by_category()}.items()
        },
        "questions": [
            {
                "id": id_,
                "query": query,
                "category": result.categories[id_],
                **{metric: values[id_] for metric, values in result.values.items()},
                "found": result.top[id_],
            }
            for id_, query in result.queries.items()
        ],
    }


def _write(options: argparse.Namespace) -> int:
    """Write a benchmark: each function is a code, the summary of its docstring a query."""
    from llamaindex_code_retrieval.eval.datasets import documented_functions, save_beir
    from llamaindex_code_retrieval.index.sources import read_sources

    out, split = Path(options.out), _SPLIT if options.split is None else options.split
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already; name a new folder")
    if not re.fullmatch(r"[\w.-]+", split):
        raise ValueError(f"--split {split!r} must be of letters, digits, '.', '_' and '-': it names a file")
    benchmark = documented_functions(read_sources(map(Path, options.sources)), name=out.name)
    if options.queries is not None:
        benchmark = benchmark.sample(options.queries)
    save_beir(benchmark, out, split=split)
    codes, queries = len(benchmark.corpus), len(benchmark.queries)
    if options.json:
        print_json({"folder": str(out), "codes": codes, "queries": queries, "fingerprint": benchmark.fingerprint})
    else:
        print_text(f"{codes:,} codes and {queries:,} queries in {out}, fingerprint {benchmark.fingerprint}")
    return 0
