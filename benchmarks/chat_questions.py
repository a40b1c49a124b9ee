"""The questions of ``chat_questions.jsonl``, and a check of their places against the code.

``chat_questions.md`` names the repositories and their revisions. FOLDER has a checkout of each, under its name:

    python benchmarks/chat_questions.py FOLDER    # exit with 1 if a place is not in the code
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamaindex_code_retrieval.index.places import Place

FILE = Path(__file__).with_suffix(".jsonl")


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """A question about a repository, with a reference answer and the places of the code that it rests on."""

    id: str
    repo: str
    """The name of the checkout."""
    text: str
    answer: str
    targets: tuple[Place, ...]


def read_chat_questions(file: Path = FILE) -> list[ChatQuestion]:
    """Return the questions of a file in the order of its lines."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        ChatQuestion(row["_id"], row["repo"], row["question"], row["answer"], tuple(map(Place.parse, row["targets"])))
        for row in rows
    ]


def missing_places(questions: Sequence[ChatQuestion], folder: Path) -> Iterator[str]:
    """Yield what is wrong with the places: a file that is missing, or lines that are, or that begin or end blank."""
    for question in questions:
        for place in question.targets:
            file = folder / question.repo / place.path
            if not file.is_file():
                yield f"{question.id}: there is no file {file}"
                continue
            lines = file.read_text(encoding="utf-8").splitlines()
            ends = [lines[number - 1 : number] for number in (place.first, place.last) if number is not None]
            if not all(line and line[0].strip() for line in ends):
                yield f"{question.id}: {place} begins or ends at a line that is blank or missing"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the checkouts")
    questions = read_chat_questions()
    wrong = list(missing_places(questions, parser.parse_args().folder))
    print(*wrong, f"{len(questions)} questions, {len(wrong)} wrong places", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
