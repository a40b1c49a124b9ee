"""Questions about repositories for a chat, with reference answers and the places of the code that answer them.

A file has one JSON object a line, in the layout of SWE-QA::

    {"_id": "app-1", "repo": "app", "question": "How are lines read?", "answer": "…", "targets": ["src/read.py:1-20"]}

``answer`` and ``targets`` are optional. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import json_hash
from llamaindex_code_retrieval.eval.targets import Target
from llamaindex_code_retrieval.index.places import Place
from llamaindex_code_retrieval.ranking.places import find_places

_REQUIRED = ("_id", "repo", "question")
_OPTIONAL = ("answer", "targets")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatQuestion:
    """A question about a repository."""

    id: str
    repository: str
    """The name of its checkout."""
    text: str
    answer: str = ""
    """The reference; empty if there is none."""
    targets: tuple[Target, ...] = ()
    """Places that answer the question, the most important first; empty if they are not known."""


def load_chat_questions(file: Path) -> list[ChatQuestion]:
    """Read a file of questions.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no questions, or a line is not a question; the message names the line and the rule.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there are no questions in {file}, which is missing; name a file of JSON lines")
    questions: dict[str, ChatQuestion] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            question = _question(json.loads(line))
            if question.id in questions:
                raise ValueError(f"_id must differ from all others, and {question.id!r} is given twice")
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
        questions[question.id] = question
    if not questions:
        raise ValueError(f"{file} has no questions; write one JSON object a line, with {', '.join(_REQUIRED)}")
    return list(questions.values())


def _question(row: object) -> ChatQuestion:
    if not isinstance(row, dict):
        raise ValueError(f"it must be a JSON object with {', '.join(_REQUIRED)}, got {row!r:.80}")
    if unknown := sorted(row.keys() - {*_REQUIRED, *_OPTIONAL}):
        raise ValueError(f"there is no key {unknown[0]!r}; the keys are {', '.join((*_REQUIRED, *_OPTIONAL))}")
    texts: dict[str, Any] = {key: row.get(key) for key in (*_REQUIRED, "answer") if key in _REQUIRED or key in row}
    for key, value in texts.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{key} must be a text that is not blank, got {value!r:.80}")
    targets = row.get("targets", [])
    if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
        raise ValueError(f"targets must be a list of places such as src/app.py:10-20, got {targets!r:.80}")
    return ChatQuestion(
        id=texts["_id"],
        repository=texts["repo"],
        text=texts["question"],
        answer=texts.get("answer", ""),
        targets=tuple(map(_target, targets)),
    )


def _target(text: str) -> Target:
    place = Place.parse(text)
    if place.cell is not None:
        raise ValueError(f"targets must name lines of a file and no cells, got {text!r}")
    return Target(place.path, place.first, place.last)


def with_targets(questions: Sequence[ChatQuestion], sources: Mapping[str, str]) -> list[ChatQuestion]:
    """Return questions about one repository with the targets that they lack taken from their reference answers.

    ``sources`` are the files of the repository; see :func:`places_in_answer`.

    Raises:
        ValueError: a given target is not in the sources.
    """
    for question in questions:
        for target in question.targets:
            _check_target(target, question, sources)
    return [
        each if each.targets else replace(each, targets=tuple(places_in_answer(each.answer, sources)))
        for each in questions
    ]


def _check_target(target: Target, question: ChatQuestion, sources: Mapping[str, str]) -> None:
    place = f"question {question.id!r} has the target {str(target)!r}"
    if target.path not in sources:
        raise ValueError(
            f"{place}, which is none of the {len(sources)} files that are read in the checkout of "
            f"{question.repository!r}; correct the path, or check out the revision that the questions are about"
        )
    lines = len(sources[target.path].splitlines())
    if target.end_line is not None and target.end_line > lines:
        raise ValueError(
            f"{place}, and the file has {lines} lines; check out the revision that the questions are about"
        )


def places_in_answer(answer: str, sources: Mapping[str, str]) -> Iterator[Target]:
    """Yield the places that a reference answer names by file and lines, each once, in their order.

    The file must be in ``sources`` and have these lines, not all of them blank. A path may lack folders if one file
    alone ends with it, or one alone of those that the answer names in full. Lines without a file beside them and files
    without lines are not used.

    >>> sources = {"src/app.py": "a\\nb\\nc", "src/cli.py": "d"}
    >>> answer = "See `src/app.py` (lines 1-2), cli.py:9 and line 3 of app.py."
    >>> [str(each) for each in places_in_answer(answer, sources)]
    ['src/app.py:1-2', 'src/app.py:3-3']
    """
    places, _ = find_places(answer)
    in_full = {place.path for place in places} & sources.keys()
    seen: set[Target] = set()
    for place in places:
        if not place.line:
            continue
        files = [place.path] if place.path in sources else [each for each in sources if each.endswith(f"/{place.path}")]
        if len(files) > 1:
            files = [each for each in files if each in in_full]
        first, last = place.line, place.end_line or place.line
        lines = sources[files[0]].splitlines() if len(files) == 1 else []
        if first <= last <= len(lines) and any(map(str.strip, lines[first - 1 : last])):
            target = Target(files[0], first, last)
            if target not in seen:
                seen.add(target)
                yield target


def fingerprint_of_questions(questions: Sequence[ChatQuestion]) -> str:
    """Return 16 hex digits over the questions, with their answers and targets."""
    return json_hash([asdict(question) for question in questions])
