"""The questions of ``chat_questions.jsonl``, and a check of their places against the code.

``chat_questions.md`` names the repositories and their revisions. FOLDER has a checkout of each, under its name:

    python benchmarks/chat_questions.py FOLDER    # exit with 1 if a place is not in the code
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from llamaindex_code_retrieval.eval.chat.questions import ChatQuestion, load_chat_questions

FILE = Path(__file__).with_suffix(".jsonl")


def missing_places(questions: Sequence[ChatQuestion], folder: Path) -> Iterator[str]:
    """Yield what is wrong with the places: a file that is missing, or lines that are, or that begin or end blank."""
    for question in questions:
        for place in question.targets:
            file = folder / question.repository / place.path
            if not file.is_file():
                yield f"{question.id}: there is no file {file}"
                continue
            lines = file.read_text(encoding="utf-8").splitlines()
            ends = [lines[number - 1 : number] for number in (place.start_line, place.end_line) if number]
            if not all(line and line[0].strip() for line in ends):
                yield f"{question.id}: {place} begins or ends at a line that is blank or missing"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the checkouts")
    questions = load_chat_questions(FILE)
    wrong = list(missing_places(questions, parser.parse_args().folder))
    print(*wrong, f"{len(questions)} questions, {len(wrong)} wrong places", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
