"""Questions about repositories as JSON: what is read, and what is refused with file, question, key and rule."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llamaindex_code_retrieval.eval.repository_questions import (
    RepositoryQuestion,
    RepositoryQuestions,
    fingerprint_of,
    load_questions,
)
from llamaindex_code_retrieval.eval.targets import Target

QUESTION = {"query": "how is mail sent", "relevant": ["src/mail.py"]}


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def write_folder(folder: Path, *repositories: dict[str, Any]) -> Path:
    write(folder / "repos.json", list(repositories))
    for each in repositories:
        write(folder / "annotations" / f"{each['name']}.json", [QUESTION])
    return folder


def test_a_file_holds_the_questions_about_one_repository(tmp_path: Path) -> None:
    rows = [
        {
            "query": "how is mail sent",
            "category": "semantic",
            "relevant": ["src/mail.py", {"path": "src/app.py", "start_line": 3, "end_line": 9}],
            "secondary": [{"path": "README.md"}],
        },
        QUESTION | {"query": "SMTP", "seed": {"path": "a.py", "line": 3}, "related": ["b.py"]},
    ]
    [repository] = load_questions(write(tmp_path / "own.json", rows))
    assert (repository.name, repository.root, repository.language) == ("own", ".", "")
    assert list(repository.by_id) == ["own/1", "own/2"]
    first, second = repository.questions
    assert first.targets == (Target("src/mail.py"), Target("src/app.py", 3, 9), Target("README.md"))
    assert (first.category, second.category, second.secondary) == ("semantic", "uncategorized", ())


def test_a_folder_holds_the_questions_about_several_repositories(tmp_path: Path) -> None:
    one = {"name": "one", "language": "go", "url": "https://x/one", "revision": "abc", "benchmark_root": "src/"}
    folder = write_folder(tmp_path / "set", one, {"name": "two", "benchmark_root": None})
    first, second = load_questions(folder)
    assert first == RepositoryQuestions(
        name="one",
        questions=(RepositoryQuestion(query="how is mail sent", relevant=(Target("src/mail.py"),)),),
        root="src",
        language="go",
        url="https://x/one",
        revision="abc",
    )
    assert (second.name, second.root, list(second.by_id)) == ("two", ".", ["two/1"])


def test_the_fingerprint_is_that_of_queries_categories_and_targets(tmp_path: Path) -> None:
    def fingerprint(**changes: Any) -> str:
        return fingerprint_of(load_questions(write(tmp_path / "q.json", [QUESTION | changes])))

    changes: list[dict[str, Any]] = [
        {},
        {"query": "other"},
        {"category": "symbol"},
        {"relevant": ["src/app.py"]},
        {"secondary": ["src/app.py"]},
    ]
    fingerprints = [fingerprint(**each) for each in changes]
    assert len(set(fingerprints)) == len(changes)
    assert fingerprint() == fingerprints[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("{", "is not valid JSON"),
        ({}, "must hold a JSON list, not a dict"),
        ([], "holds an empty list; write at least one object"),
        (["why"], ", question 1 must be an object with query, category, relevant, secondary"),
        (
            [QUESTION, QUESTION | {"secondry": []}],
            ", question 2 has the unknown key 'secondry'; the keys are query, cat",
        ),
        ([{"relevant": ["a.py"]}], ", question 1: query must be a text that is not blank, and it is missing"),
        ([QUESTION | {"query": " "}], ", question 1: query must be a text that is not blank, got ' '"),
        ([QUESTION | {"query": 3}], ", question 1: query must be a text that is not blank, got 3"),
        ([QUESTION | {"category": ""}], ", question 1: category must be a text that is not blank, got ''"),
        (
            [QUESTION, QUESTION],
            ", question 2: query must differ from all others, and 'how is mail sent' is given twice",
        ),
        ([{"query": "why"}], ", question 1: relevant must name at least one target"),
        ([QUESTION | {"relevant": "a.py"}], ", question 1: relevant must be a list of targets, got 'a.py'"),
        ([QUESTION | {"relevant": [3]}], ", question 1, relevant 1 must be an object with path, start_line, end_line"),
        ([QUESTION | {"secondary": [{"file": "a.py"}]}], ", question 1, secondary 1 has the unknown key 'file'"),
        ([QUESTION | {"secondary": ["a.py", {"start_line": 1}]}], ", question 1, secondary 2: path must be a text"),
        ([QUESTION | {"relevant": ["/a.py"]}], ", question 1, relevant 1: path must be relative to the repository"),
        (
            [QUESTION | {"relevant": [{"path": "a.py", "start_line": "1", "end_line": 2}]}],
            ", question 1, relevant 1: start_line and end_line must be whole numbers, got '1' and 2",
        ),
        (
            [QUESTION | {"relevant": [{"path": "a.py", "start_line": True, "end_line": 2}]}],
            "start_line and end_line must be whole numbers, got True and 2",
        ),
        (
            [QUESTION | {"relevant": [{"path": "a.py", "start_line": 5, "end_line": 2}]}],
            ", question 1, relevant 1: start_line must be at least 1 and end_line not before it, got 5 and 2",
        ),
    ],
)
def test_wrong_questions_are_refused(rows: Any, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "q.json", rows)
    with pytest.raises(ValueError, match=re.escape(f"{file}") + ".*" + re.escape(message)):
        load_questions(file)


@pytest.mark.parametrize(
    ("repositories", "message"),
    [
        ([], "repos.json holds an empty list"),
        ([{"language": "go"}], "repos.json, repository 1: name must be a text that is not blank, and it is missing"),
        ([{"name": "../x"}], "repos.json, repository 1: name must be the name of a folder, got '../x'"),
        ([{"name": "a", "root": "src"}], "repos.json, repository 1 has the unknown key 'root'"),
        ([{"name": "a"}, {"name": "a"}], "repos.json, repository 2: name must differ from all others"),
    ],
)
def test_wrong_repositories_are_refused(repositories: list[Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "annotations" / "a.json", [QUESTION])
    write(tmp_path / "repos.json", repositories)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_questions(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json, which is missing; name a file"):
        load_questions(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=re.escape("repos.json")):
        load_questions(tmp_path)
    write(tmp_path / "repos.json", [{"name": "a"}])
    with pytest.raises(FileNotFoundError, match=re.escape("annotations/a.json")):
        load_questions(tmp_path)
