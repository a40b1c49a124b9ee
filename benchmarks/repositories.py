"""Questions about whole repositories: NDCG@10 by category and by language, with the peers' published figures.

The questions are those of semble's public benchmark: a folder with ``repos.json``, ``annotations/NAME.json`` and
``published.json``. The repositories are checkouts at the revisions that ``repos.json`` names, a folder for each name:

    python benchmarks/repositories.py QUESTIONS [REPOSITORIES] [--repository NAME …] [--mode fused …]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import add_result_option, report

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeRetriever, NodeFilter
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES

MODES: Mapping[str, Mapping[str, Any]] = {
    "fused": {},
    "fused, code only": {"filters": NodeFilter(languages=tuple(CODE_LANGUAGES))},
    "dense": {"mode": "dense"},
    "bm25": {"mode": "bm25"},
}
"""Options of the retriever. The answers to the benchmark's questions are code; documents are never relevant."""
CATEGORIES = ("architecture", "semantic", "symbol")
_DEPTH = 10

Hit = tuple[str, int, int]
Target = str | Mapping[str, Any]


def ndcg(hits: Sequence[Hit], targets: Sequence[Target], *, k: int = _DEPTH) -> float:
    """Return the NDCG@k of hits (path, first line, last line): a target's rank is that of the first hit that covers it.

    Two targets that one hit covers count once, as in the benchmark's own measure.

    >>> round(ndcg([("src/a.py", 1, 20), ("src/b.py", 5, 9)], ["b.py"]), 4)
    0.6309
    """
    gains = [0.0] * k
    for target in targets:
        rank = next((rank for rank, hit in enumerate(hits[:k]) if covers(hit, target)), None)
        if rank is not None:
            gains[rank] = 1 / math.log2(rank + 2)
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(targets))))
    return sum(gains) / ideal if ideal else 0.0


def covers(hit: Hit, target: Target) -> bool:
    """Return whether a hit lies in the target's file and, where the target names lines, touches them."""
    place: Mapping[str, Any] = {"path": target} if isinstance(target, str) else target
    path, first, last = hit
    if not (path == place["path"] or path.endswith(f"/{place['path']}") or place["path"].endswith(f"/{path}")):
        return False
    return place.get("start_line") is None or not (last < place["start_line"] or first > place["end_line"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one mode answered to one question."""

    repository: str
    language: str
    category: str
    mode: str
    ndcg: float
    seconds: float


def measure(
    repository: Mapping[str, Any], questions: Sequence[Mapping[str, Any]], root: Path, modes: Sequence[str]
) -> tuple[list[Answer], dict[str, Any]]:
    """Index the folder of a repository that the questions are about, and ask them."""
    benchmark_root = repository.get("benchmark_root") or "."
    index = CodeIndex(CodeEmbedding())
    start = time.perf_counter()
    counts = index.update([root / benchmark_root])
    seconds = time.perf_counter() - start
    answers = []
    for mode in modes:
        retriever = CodeRetriever(index, top_k=_DEPTH, **MODES[mode])
        for question in questions:
            start = time.perf_counter()
            hits = retriever.retrieve(question["query"])
            elapsed = time.perf_counter() - start
            places = [
                (
                    f"{benchmark_root}/{hit.metadata['path']}".removeprefix("./"),
                    hit.metadata["start_line"],
                    hit.metadata["end_line"],
                )
                for hit in hits
            ]
            answers.append(
                Answer(
                    repository=repository["name"],
                    language=repository["language"],
                    category=question["category"],
                    mode=mode,
                    ndcg=ndcg(places, [*question["relevant"], *question.get("secondary", [])]),
                    seconds=elapsed,
                )
            )
    return answers, {"files": counts.files, "nodes": counts.nodes, "seconds": round(seconds, 1)}


def summarise(answers: Iterable[Answer]) -> dict[str, Any]:
    """Return the mean NDCG@10 of each mode: over all questions, by category, by repository; and the median time."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for group in ("all", answer.category, answer.repository):
            groups[answer.mode, group].append(answer.ndcg)
        seconds[answer.mode].append(answer.seconds)
    return {
        mode: {
            **{group: round(statistics.fmean(scores), 4) for (of, group), scores in groups.items() if of == mode},
            "milliseconds": round(1000 * statistics.median(times), 1),
        }
        for mode, times in seconds.items()
    }


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="folder with repos.json and annotations")
    parser.add_argument(
        "repositories",
        type=Path,
        nargs="?",
        default=os.environ.get("CODE_RETRIEVAL_REPOSITORIES"),
        help="folder with the checkouts (default: CODE_RETRIEVAL_REPOSITORIES)",
    )
    parser.add_argument("--repository", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--mode", action="append", choices=MODES, help="may be repeated (default: all)")
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    """Measure the repositories that are there."""
    parser = make_parser()
    options = parser.parse_args()
    if options.repositories is None:
        parser.error("name the folder with the checkouts, or set CODE_RETRIEVAL_REPOSITORIES")
    known = {each["name"]: each for each in json.loads((options.questions / "repos.json").read_text("utf-8"))}
    names = options.repository or list(known)
    if missing := [name for name in names if name not in known or not (options.repositories / name).is_dir()]:
        parser.error(f"no checkout or no questions for: {', '.join(missing)}")
    answers: list[Answer] = []
    indexes: dict[str, Any] = {}
    for name in names:
        questions = json.loads((options.questions / "annotations" / f"{name}.json").read_text("utf-8"))
        found, indexes[name] = measure(known[name], questions, options.repositories / name, options.mode or list(MODES))
        answers += found
        print(name, indexes[name], {mode: row[name] for mode, row in summarise(found).items()}, file=sys.stderr)
    published = json.loads((options.questions / "published.json").read_text("utf-8"))
    peers = {
        peer: round(
            sum(figures[name]["ndcg10"] * sum(each.repository == name for each in answers) for name in names)
            / len(answers),
            4,
        )
        for peer, figures in published.items()
        if all(name in figures for name in names)
    }
    report(options.result, {"ndcg@10": summarise(answers), "published": peers, "indexes": indexes})


if __name__ == "__main__":
    main()
