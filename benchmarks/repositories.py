"""Questions about whole repositories: NDCG@10 by category, language and repository, beside published figures.

The questions are those of semble's public benchmark: a folder with ``repos.json``, ``annotations/NAME.json`` and
``published.json``. The repositories are checkouts at the revisions that ``repos.json`` names, a folder for each name;
those that are missing are skipped:

    python benchmarks/repositories.py QUESTIONS [REPOSITORIES] [--repository NAME …] [--mode fused …] [--worst N]

With ``--rerank WEIGHT`` the default reranker also reorders the first hits of the mode "fused", with WEIGHT as the
``repository_weight`` of ``CodeReranker``:

    python benchmarks/repositories.py QUESTIONS [REPOSITORIES] --mode fused --rerank 0.02 --rerank 0.1 --rerank 1
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from checkouts import add_question_options
from report import add_result_option, report

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeReranker, CodeRetriever, NodeFilter
from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.cli.options import natural
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestions, load_questions
from llamaindex_code_retrieval.eval.repository_retrieval import (
    RankedPlaces,
    describe_worst,
    measure_places,
    rank_places,
)
from llamaindex_code_retrieval.eval.results import RetrievalResult
from llamaindex_code_retrieval.eval.significance import interval
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES
from llamaindex_code_retrieval.models.catalog import EMBEDDED
from llamaindex_code_retrieval.models.locate import is_static_model
from llamaindex_code_retrieval.ranking.fusion import DENSE_WEIGHT

MODES: Mapping[str, Mapping[str, Any]] = {
    "fused": {},
    "fused, code only": {"filters": NodeFilter(languages=tuple(CODE_LANGUAGES))},
    "reciprocal ranks": {"dense_weight": DENSE_WEIGHT},
    "dense": {"mode": "dense"},
    "bm25": {"mode": "bm25"},
}
"""Options of the retriever. The answers to the benchmark's questions are code; documents are never relevant."""
METRIC = "nDCG@10"
_DEPTH = 10
_CANDIDATES = 20
"""First hits that a reranker reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The mean NDCG@10 over some of the questions."""

    kind: str
    """``all``, ``category``, ``language`` or ``repository``."""
    name: str
    questions: int
    ours: Mapping[str, tuple[float, float, float]]
    """Mode -> mean, and its 95 % interval over questions."""
    published: Mapping[str, float]
    """System -> mean, where there is a figure for all of the repositories."""


def rank_modes(
    repository: RepositoryQuestions,
    folder: Path,
    ranked: Mapping[str, RankedPlaces],
    weights: Mapping[str, float] | None = None,
    *,
    model: str = EMBEDDED,
) -> dict[str, Any]:
    """Index the folder of a repository that the questions are about, and add the hits of each mode to ``ranked``.

    ``weights`` are those of the reranker, by mode.
    """
    embedding = CodeEmbedding(model)
    with CodeIndex(embedding) as index:
        start = time.perf_counter()
        counts = index.update([folder / repository.root])
        seconds = time.perf_counter() - start
        index.embedding = embedding.uncached()  # so that every mode embeds the queries
        for mode, places in ranked.items():
            if weights and mode in weights:
                shared = None if is_static_model(model) else embedding
                reranker = CodeReranker(embedding=shared, top_n=_DEPTH, repository_weight=weights[mode])
                retriever = CodeRetriever(index, top_k=_CANDIDATES)
                found = rank_places(retriever, repository, postprocessors=[reranker])
            else:
                found = rank_places(CodeRetriever(index, top_k=_DEPTH, **MODES[mode]), repository)
            places.add(found)
            mean = fmean(measured(found, [repository], mode).values[METRIC].values())
            print(f"{repository.name}, {mode}: {mean:.4f}", file=sys.stderr)
    return {"files": counts.files, "nodes": counts.nodes, "seconds": round(seconds, 1)}


def measured(ranked: RankedPlaces, repositories: Sequence[RepositoryQuestions], mode: str) -> RetrievalResult:
    """Return the NDCG@10 of each question."""
    return measure_places(ranked, repositories, system=mode, task="repositories", depth=_DEPTH, metrics=[METRIC])


def rows_of(
    repositories: Sequence[RepositoryQuestions], results: Mapping[str, RetrievalResult], published: Mapping[str, Any]
) -> Iterator[Row]:
    """Yield the means over all questions, and over those of each category, language and repository."""
    groups: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    for each in repositories:
        for id_, question in each.by_id.items():
            kinds = {"all": "all", "category": question.category, "language": each.language, "repository": each.name}
            for key in kinds.items():
                groups.setdefault(key, {})[id_] = (each.name, question.category)
    order = ("all", "category", "language", "repository")
    for (kind, group), questions in sorted(groups.items(), key=lambda group: (order.index(group[0][0]), group[0][1])):
        ours = {mode: [result.values[METRIC][id_] for id_ in questions] for mode, result in results.items()}
        theirs = {
            system: [_published(figures.get(name, {}), kind, category) for name, category in questions.values()]
            for system, figures in published.items()
        }
        yield Row(
            kind=kind,
            name=group,
            questions=len(questions),
            ours={mode: (fmean(values), *interval(values)) for mode, values in ours.items()},
            published={
                system: fmean(value for value in values if value is not None)
                for system, values in theirs.items()
                if None not in values
            },
        )


def _published(figures: Mapping[str, Any], kind: str, category: str) -> float | None:
    """Return the published mean of a repository, or of its questions of a category for a row of that kind, if any."""
    return figures.get("by_category", {}).get(category) if kind == "category" else figures.get("ndcg10")


def figures_of(rows: Sequence[Row], results: Mapping[str, RetrievalResult]) -> dict[str, Any]:
    """Return the means as JSON values; languages are apart, because a repository may have the name of one."""
    means: dict[str, dict[str, float]] = {mode: {} for mode in results}
    languages: dict[str, dict[str, float]] = {mode: {} for mode in results}
    intervals: dict[str, dict[str, list[float]]] = {mode: {} for mode in results}
    for row in rows:
        for mode, (mean, low, high) in row.ours.items():
            (languages if row.kind == "language" else means)[mode][row.name] = round(mean, 4)
            if row.kind in ("all", "category"):
                intervals[mode][row.name] = [round(low, 4), round(high, 4)]
    for mode, result in results.items():
        means[mode]["milliseconds"] = round(result.milliseconds["total"]["p50"], 1)
    published = {system: round(mean, 4) for system, mean in rows[0].published.items()}
    return {"ndcg@10": means, "languages": languages, "intervals": intervals, "published": published}


def table(rows: Sequence[Row]) -> str:
    """Return the rows in Markdown, ours beside the published ones."""
    modes, systems = list(rows[0].ours), list(rows[0].published)
    lines = [f"| | questions | {' | '.join([*modes, *systems])} |", "|---|" + "---:|" * (1 + len(modes) + len(systems))]
    for row in rows:
        ours = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in row.ours.values()]
        theirs = [f"{row.published[system]:.3f}" if system in row.published else "" for system in systems]
        lines.append(f"| {row.name} | {row.questions} | {' | '.join([*ours, *theirs])} |")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_question_options(parser)
    parser.add_argument("--mode", action="append", choices=MODES, help="may be repeated (default: all)")
    parser.add_argument(
        "--rerank",
        action="append",
        type=float,
        default=[],
        metavar="WEIGHT",
        help=f"also rerank the first {_CANDIDATES} hits of mode fused with this weight; may be repeated",
    )
    parser.add_argument(
        "--worst",
        type=natural,
        default=0,
        metavar="N",
        help="print the N worst questions of the first mode (default: 0)",
    )
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    """Measure the repositories that are there."""
    parser = make_parser()
    options = parser.parse_args()
    if options.repositories is None:
        parser.error("name the folder with the checkouts, or set CODE_RETRIEVAL_REPOSITORIES")
    for folder in map(Path, (options.questions, options.repositories)):
        if not folder.is_dir():
            print(f"skipped: there is no folder {folder}", file=sys.stderr)
            return
    known = {each.name: each for each in load_questions(options.questions)}
    names = options.repository or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no questions about {', '.join(unknown)}; there are some about {', '.join(known)}")
    folders = {name: options.repositories / name for name in names}
    skipped = {name: f"there is no folder {folder}" for name, folder in folders.items() if not folder.is_dir()}
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    repositories = [known[name] for name in names if name not in skipped]
    if not repositories:
        return
    weights = {f"fused, reranked with weight {weight:g}": weight for weight in options.rerank}
    ranked = {mode: RankedPlaces() for mode in [*(options.mode or MODES), *weights]}
    indexes = {
        each.name: rank_modes(each, folders[each.name], ranked, weights, model=options.model) for each in repositories
    }
    results = {mode: measured(places, repositories, mode) for mode, places in ranked.items()}
    published = read_json(options.questions / "published.json", remedy="copy it from the benchmark")
    rows = list(rows_of(repositories, results, published))
    report(
        options.result, {"model": options.model, **figures_of(rows, results), "indexes": indexes, "skipped": skipped}
    )
    print(table(rows), file=sys.stderr)
    print(*describe_worst(next(iter(results.values())), repositories, count=options.worst), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
