"""Follow-up questions of a chat: what is found if they are searched for alone, or together with the question before.

Each line of ``follow_ups.jsonl`` is a question about a repository, a follow-up to it such as "and where is it called?",
and the scopes of the definitions that answer the follow-up. It is searched for alone, after the question, and as a chat
engine does if it recognises it. No language model is used. The rules that recognise follow-ups were written with the
questions about flask and requests; those about the other repositories are new to them.

FOLDER has checkouts of the five repositories under their names: flask, requests, and those of ``chat_questions.md``. It
takes about 8 minutes:

    python benchmarks/follow_ups.py FOLDER [--indexes FOLDER]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkouts import add_index_options, index_opener
from llama_index.core.base.llms.types import ChatMessage
from report import add_result_option, environment, mean_with_interval, write_figures

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.chat.follow_ups import completed, is_follow_up

FILE = Path(__file__).with_suffix(".jsonl")
HITS = 10
GROUPS = {
    "flask, requests": ("flask", "requests"),
    "gunicorn, bbolt, commander.js": ("gunicorn", "bbolt", "commander.js"),
}


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A question, and one that can only be understood after it."""

    id: str
    repo: str
    question: str
    text: str
    scopes: frozenset[str]
    """Of the definitions that answer it."""


SYSTEMS: Mapping[str, Callable[[FollowUp], str]] = {
    "alone": lambda each: each.text,
    "after the question": lambda each: f"{each.question} {each.text}",
    "as a chat engine does": lambda each: completed(each.text, [ChatMessage(content=each.question, role="user")]),
}
"""What is searched for."""


def read_follow_ups(file: Path = FILE) -> list[FollowUp]:
    """Return the follow-up questions of a file in the order of its lines."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        FollowUp(row["_id"], row["repo"], row["question"], row["follow_up"], frozenset(row["scopes"])) for row in rows
    ]


def rank_of(index: CodeIndex[CodeEmbedding], question: str, scopes: frozenset[str]) -> int | None:
    """Return the rank of the first hit with one of the scopes, counted from 1."""
    hits = index.search(question, top_k=HITS)
    return next((rank for rank, hit in enumerate(hits, start=1) if hit.node.metadata["scope"] in scopes), None)


def figures_of(ranks: Sequence[int | None]) -> dict[str, Any]:
    """Return the figures of the ranks of one system.

    >>> figures_of([1, 2, None, 4])
    {'questions': 4, 'hit@1': 1, 'hit@5': 3, 'mrr': '0.438 ± 0.679'}
    """
    return {
        "questions": len(ranks),
        "hit@1": sum(rank == 1 for rank in ranks),
        "hit@5": sum(rank is not None and rank <= 5 for rank in ranks),
        "mrr": mean_with_interval([0.0 if rank is None else 1 / rank for rank in ranks]),
    }


def measure(
    follow_ups: Sequence[FollowUp], open_index: Callable[[str], CodeIndex[CodeEmbedding]]
) -> Iterator[dict[str, Any]]:
    """Yield a row of figures for each group of repositories and each system."""
    for group, repositories in GROUPS.items():
        ranks: dict[str, list[int | None]] = {name: [] for name in SYSTEMS}
        for repository in repositories:
            of_repository = [each for each in follow_ups if each.repo == repository]
            with open_index(repository) as index:
                for name, searched in SYSTEMS.items():
                    ranks[name] += [rank_of(index, searched(each), each.scopes) for each in of_repository]
        for name, found in ranks.items():
            yield {"repositories": group, "searched": name, **figures_of(found)}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_index_options(parser)
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    follow_ups = read_follow_ups()
    rows = list(measure(follow_ups, index_opener(options)))
    recognised = statistics.fmean(is_follow_up(each.text) for each in follow_ups)
    write_figures(options.result, {**environment(), "recognised": round(recognised, 3), "rows": rows})
    print(*rows, f"recognised: {recognised:.3f}", sep="\n")


if __name__ == "__main__":
    main()
