"""Questions about whole repositories, read from JSON: a file about one repository, or a folder about several.

A file holds a list of questions::

    [{"query": "where are routes registered", "category": "architecture", "relevant": ["src/app.py"],
      "secondary": [{"path": "src/routes.py", "start_line": 10, "end_line": 42}]}]

A folder is in the layout of semble's benchmark: ``repos.json``, a list of repositories with ``name``, ``language``,
``url``, ``revision`` and ``benchmark_root``, and for each such a file, ``annotations/NAME.json``. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import json_hash, read_json
from llamaindex_code_retrieval.eval.targets import Target

NO_CATEGORY = "uncategorized"
"""The category of questions that name none."""
_REPOSITORIES = "repos.json"
_QUESTION_KEYS = ("query", "category", "relevant", "secondary")
_COMMENT_KEYS = ("related", "seed")
"""Keys of questions in semble's benchmark that say how a question was made."""
_TARGET_KEYS = ("path", "start_line", "end_line")
_REPOSITORY_KEYS = ("name", "language", "url", "revision", "benchmark_root")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryQuestion:
    """A question about a repository, and the parts of it that answer the question."""

    query: str
    relevant: tuple[Target, ...]
    secondary: tuple[Target, ...] = ()
    """Parts that help to answer; they count as much as the ``relevant`` ones."""
    category: str = NO_CATEGORY
    """The kind of question, such as ``symbol``, ``semantic`` or ``architecture``."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """All parts that are to be found."""
        return (*self.relevant, *self.secondary)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryQuestions:
    """The questions about one repository."""

    name: str
    questions: tuple[RepositoryQuestion, ...]
    root: str = "."
    """The folder of the repository that is indexed; paths of targets are relative to the repository."""
    language: str = ""
    """The main language, if it is known."""
    url: str = ""
    revision: str = ""
    """The commit that the questions are about."""

    @property
    def by_id(self) -> dict[str, RepositoryQuestion]:
        """Return the questions by their ids: the name and a number from 1, as in ``flask/1``."""
        return {f"{self.name}/{number}": question for number, question in enumerate(self.questions, start=1)}


def load_questions(path: str | Path) -> list[RepositoryQuestions]:
    """Read a file of questions about one repository, or a folder in the layout of semble's benchmark.

    The questions of a file have the file's name without ``.json`` as the name of their repository.

    Raises:
        FileNotFoundError: there is no such file, or a file of the folder is missing.
        ValueError: a file is not JSON, or a value is missing, unknown or wrong; the message names the file, the number
            of the question from 1, the key and its rule.
    """
    path = Path(path)
    if not path.is_dir():
        return [RepositoryQuestions(name=path.stem, questions=_read_questions(path))]
    file = path / _REPOSITORIES
    repositories: dict[str, RepositoryQuestions] = {}
    for number, row in enumerate(_read_list(file), start=1):
        place = f"{file}, repository {number}"
        repository = _read_repository(_checked_fields(row, _REPOSITORY_KEYS, place), place, path / "annotations")
        if repository.name in repositories:
            raise ValueError(f"{place}: name must differ from all others, and {repository.name!r} is given twice")
        repositories[repository.name] = repository
    return list(repositories.values())


def fingerprint_of(repositories: Sequence[RepositoryQuestions]) -> str:
    """Return 16 hex digits over queries, categories and targets.

    The code of the repositories is not in it, so that results before and after a change of the code can be compared.
    """
    return json_hash([[id_, asdict(question)] for each in repositories for id_, question in each.by_id.items()])


def _read_repository(fields: Mapping[str, Any], place: str, annotations: Path) -> RepositoryQuestions:
    name = _text(fields, "name", place)
    if "/" in name or name in (".", ".."):
        raise ValueError(f"{place}: name must be the name of a folder, got {name!r}")
    return RepositoryQuestions(
        name=name,
        questions=_read_questions(annotations / f"{name}.json"),
        root=_text(fields, "benchmark_root", place, default=".").rstrip("/"),
        language=_text(fields, "language", place, default=""),
        url=_text(fields, "url", place, default=""),
        revision=_text(fields, "revision", place, default=""),
    )


def _read_questions(file: Path) -> tuple[RepositoryQuestion, ...]:
    questions: dict[str, RepositoryQuestion] = {}
    for number, row in enumerate(_read_list(file), start=1):
        place = f"{file}, question {number}"
        fields = _checked_fields(row, (*_QUESTION_KEYS, *_COMMENT_KEYS), place)
        query = _text(fields, "query", place)
        if query in questions:
            raise ValueError(f"{place}: query must differ from all others, and {query!r} is given twice; join the two")
        relevant = _targets(fields, "relevant", place)
        if not relevant:
            raise ValueError(f"{place}: relevant must name at least one target; add one, or leave the question out")
        questions[query] = RepositoryQuestion(
            query=query,
            category=_text(fields, "category", place, default=NO_CATEGORY),
            relevant=relevant,
            secondary=_targets(fields, "secondary", place),
        )
    return tuple(questions.values())


def _read_list(file: Path) -> list[Any]:
    """Return the rows of a file, at least one."""
    if not file.exists():
        raise FileNotFoundError(
            f"there are no questions in {file}, which is missing; name a file with a list of questions, or a folder "
            f"with {_REPOSITORIES} and annotations"
        )
    rows: list[Any] = read_json(file, remedy="write a list of objects", kind=list)
    if not rows:
        raise ValueError(f"{file} holds an empty list; write at least one object")
    return rows


def _checked_fields(row: object, known: Sequence[str], place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{place} must be an object with {', '.join(known)}, got {row!r:.80}")
    for key in row:
        if key not in known:
            raise ValueError(f"{place} has the unknown key {key!r}; the keys are {', '.join(known)}")
    return row


def _text(fields: Mapping[str, Any], key: str, place: str, *, default: str | None = None) -> str:
    """Return a text, or ``default`` if the key is missing or null; without a default it is required."""
    if fields.get(key) is None and default is not None:
        return default
    value = fields.get(key)
    if not isinstance(value, str) or not value.strip():
        got = f"got {value!r:.80}" if key in fields else "and it is missing"
        raise ValueError(f"{place}: {key} must be a text that is not blank, {got}")
    return value


def _targets(fields: Mapping[str, Any], key: str, place: str) -> tuple[Target, ...]:
    rows = fields.get(key, [])
    if not isinstance(rows, list):
        raise ValueError(f"{place}: {key} must be a list of targets, got {rows!r:.80}")
    targets = []
    for number, row in enumerate(rows, start=1):
        at = f"{place}, {key} {number}"
        values: Mapping[str, Any] = {"path": row} if isinstance(row, str) else _checked_fields(row, _TARGET_KEYS, at)
        path = _text(values, "path", at)
        start, end = values.get("start_line"), values.get("end_line")
        if any(isinstance(line, bool) or not isinstance(line, int | None) for line in (start, end)):
            raise ValueError(f"{at}: start_line and end_line must be whole numbers, got {start!r} and {end!r}")
        try:
            targets.append(Target(path, start, end))
        except ValueError as error:
            raise ValueError(f"{at}: {error}") from error
    return tuple(targets)
