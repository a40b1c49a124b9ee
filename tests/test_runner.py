"""Runs of suites: what is measured, what is kept of an interrupted run, and what is refused before any work."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamaindex_code_retrieval import CodeEmbedding
from llamaindex_code_retrieval.eval.gate import IncomparableError, compare
from llamaindex_code_retrieval.eval.runner import run_suite
from llamaindex_code_retrieval.eval.suite import load_suite
from llamaindex_code_retrieval.models.text_encoder import TextEncoder


def test_a_suite_measures_all_systems_on_all_tasks(write_suite: Callable[..., Path], tmp_path: Path) -> None:
    more = """
[[task]]
name = "absent"
set = "no-such-set"
[[task]]
name = "missing"
package = ["no.such.package"]
[[system]]
name = "gone"
model = "./no-such-folder"
optional = true
[[generation]]
name = "write"
kind = "code"
task = "own"
top_n = 1
[[generation]]
name = "describe"
kind = "docstring"
task = "own"
systems = ["words"]
questions = 5
[[published]]
system = "theirs"
task = "own"
metric = "MRR"
value = 0.5
source = "a paper"
"""
    suite = load_suite(write_suite(more))
    outcome = run_suite(suite, out=tmp_path / "out", cache_folder=tmp_path / "cache")
    report = outcome.report
    assert [(each.system, each.task) for each in report.retrieval] == [("dense", "own"), ("words", "own")]
    assert set(report.skipped) == {"absent", "missing", "gone"}
    assert report.skipped["missing"] == "the package no.such.package is not installed"
    words = report.retrieval[1]
    assert words.means["R@5"] > 0.9
    assert (words.codes, len(words.queries), words.depth, words.languages["shop/count.py:1"]) == (24, 24, 24, "python")
    conditions = [(each.task, each.condition, each.system) for each in report.generation]
    assert conditions[:4] == [
        ("write", "gold", ""),
        ("write", "retrieved", "dense"),
        ("write", "retrieved", "words"),
        ("write", "none", ""),
    ]
    gold, dense, quoted, none = (each.means["rougeL"] for each in report.generation[:4])
    assert gold == 1.0
    assert none == 0.0
    assert none < dense < quoted <= 1.0
    assert len(report.generation[4].answers) == 5
    assert report.published[0].value == 0.5
    assert not (tmp_path / "out" / "unfinished").exists()
    assert outcome.codes["own"]["shop/count.py:1"].startswith("def count_line")


QUESTION_TASK = """
[[task]]
name = "asked"
questions = "questions.json"
repository = ["."]
only = ["/shop/"]
systems = ["words"]
"""


def write_questions(folder: Path, *rows: dict[str, Any]) -> Path:
    default = [
        {
            "query": "read_line",
            "category": "symbol",
            "relevant": [{"path": "shop/read.py", "start_line": 1, "end_line": 3}],
        },
        {"query": "count_tree", "category": "symbol", "relevant": ["shop/count.py"]},
        {"query": "close all of the node", "category": "semantic", "relevant": ["shop/read.py"]},
    ]
    (folder / "questions.json").write_text(json.dumps(rows or default))
    return folder / "questions.json"


def test_questions_about_a_repository_are_a_task(write_suite: Callable[..., Path], tmp_path: Path) -> None:
    write_questions(tmp_path)
    suite = load_suite(write_suite(QUESTION_TASK))
    report = run_suite(suite, out=tmp_path / "out").report
    assert [(each.system, each.task) for each in report.retrieval] == [
        ("dense", "own"),
        ("words", "own"),
        ("words", "asked"),
    ]
    asked = report.retrieval[2]
    assert asked.values["nDCG@10"]["questions/1"] == asked.values["nDCG@10"]["questions/2"] == 1.0
    assert asked.top["questions/1"][0] == "shop/read.py:1-3"
    assert {name: part.means["R@1"] for name, part in asked.by_category().items()} == {"semantic": 0.0, "symbol": 1.0}
    assert compare(report, run_suite(suite, baseline=report).report)  # measured alike, so comparable


def test_a_change_of_the_code_is_comparable_and_a_change_of_the_questions_is_not(
    write_suite: Callable[..., Path], shop: Path, tmp_path: Path, stages: list[str]
) -> None:
    path = write_suite(QUESTION_TASK)
    path.write_text(path.read_text().replace('[[task]]\nname = "own"\nrepository = ["shop"]\n', ""))
    write_questions(tmp_path)
    baseline = run_suite(load_suite(path)).report
    (shop / "more.py").write_text("def read_line_again():\n    return 1\n")
    report = run_suite(load_suite(path), baseline=baseline).report
    assert report.retrieval[0].codes == baseline.retrieval[0].codes + 1
    assert compare(report, baseline)
    write_questions(tmp_path, {"query": "read_line", "relevant": ["shop/more.py"]})
    stages.clear()
    with pytest.raises(IncomparableError, match=r"another benchmark \(asked; codes, queries or judgements differ"):
        run_suite(load_suite(path), baseline=baseline)
    assert stages == []


def test_an_interrupted_run_asks_again_if_the_code_has_changed(
    write_suite: Callable[..., Path], shop: Path, tmp_path: Path
) -> None:
    """The questions are done, the run is not: their result is kept for the same files only."""
    write_questions(tmp_path)
    path = write_suite(QUESTION_TASK.replace('["words"]', '["words", "dense"]'))
    path.write_text(path.read_text().replace('[[task]]\nname = "own"\nrepository = ["shop"]\n', ""))
    asked: list[int] = []

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "evaluate":
            asked.append(done)
            if len(asked) == 4:
                raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_suite(load_suite(path), out=tmp_path / "out", on_progress=stop)
        assert asked == [1, 2, 3, 1]
        asked.clear()
        (shop / "more.py").write_text("x = 1\n")


def test_questions_are_refused_or_skipped_before_anything_is_measured(
    write_suite: Callable[..., Path], tmp_path: Path, stages: list[str]
) -> None:
    write_questions(tmp_path, {"query": "where", "relevant": ["shop/nowhere.py"]})
    with pytest.raises(ValueError, match=r"question questions/1 \('where'\) has the target 'shop/nowhere.py'"):
        run_suite(load_suite(write_suite(QUESTION_TASK)))
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        run_suite(load_suite(write_suite(QUESTION_TASK.replace("questions.json", "absent.json"))))
    assert stages == []
    suite = load_suite(write_suite(QUESTION_TASK.replace('["."]', '["absent"]')))
    assert run_suite(suite).report.skipped == {
        "asked": f"there is no folder {tmp_path / 'absent'} with the repository of {tmp_path / 'questions.json'}"
    }


def test_questions_about_several_repositories_are_one_task(
    write_suite: Callable[..., Path], shop: Path, tmp_path: Path
) -> None:
    (tmp_path / "annotations").mkdir()
    write_questions(tmp_path).rename(tmp_path / "annotations" / "one.json")
    write_questions(tmp_path).rename(tmp_path / "annotations" / "two.json")
    (tmp_path / "repos.json").write_text('[{"name": "one"}, {"name": "two", "benchmark_root": "shop"}]')
    for name in ("one", "two"):
        shutil.copytree(shop, tmp_path / "checkouts" / name / "shop")
    task = (
        QUESTION_TASK.replace("questions.json", ".").replace('["."]', '["checkouts"]').replace('only = ["/shop/"]', "")
    )
    asked = run_suite(load_suite(write_suite(task))).report.retrieval[2]
    assert list(asked.queries) == ["one/1", "one/2", "one/3", "two/1", "two/2", "two/3"]
    assert [asked.values["MRR"][f"{name}/{i}"] for name in ("one", "two") for i in (1, 2)] == [1.0] * 4


def test_an_interrupted_suite_goes_on(
    write_suite: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = load_suite(write_suite())
    calls: list[int] = []

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "evaluate":
            calls.append(done)
            if len(calls) == 30:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, out=tmp_path / "out", on_progress=stop)
    assert len(list((tmp_path / "out" / "unfinished").iterdir())) == 1  # the first system is done
    report = run_suite(suite, out=tmp_path / "out", on_progress=stop).report
    assert len(calls) == 30 + 24  # the second one anew, the first not again
    whole = run_suite(suite).report
    assert [each.ranks for each in report.retrieval] == [each.ranks for each in whole.retrieval]


def test_a_query_is_timed_with_its_embedding(
    write_suite: Callable[..., Path], bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes come out of the cache the second time, queries do not."""
    CodeEmbedding(str(bert_folder))  # compares its graph with torch, if no test has done so
    calls: list[str] = []
    encode = TextEncoder.encode

    def counted(self: TextEncoder, texts: Any, *, side: Any, **options: Any) -> Any:
        calls.extend([side] * len(texts))
        return encode(self, texts, side=side, **options)

    monkeypatch.setattr(TextEncoder, "encode", counted)
    suite = load_suite(write_suite())
    for codes in (24, 0):
        calls.clear()
        run_suite(suite, cache_folder=tmp_path / "cache")
        assert (calls.count("code"), calls.count("query")) == (codes, 24)


# --- what fails, fails before anything is measured -------------------------------------------------------------------


@pytest.fixture
def stages(bert_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sides of all texts that an encoder is given, which stays empty if nothing is measured."""
    CodeEmbedding(str(bert_folder))  # compares its graph with torch, if no test has done so
    sides: list[str] = []
    encode = TextEncoder.encode

    def record(self: TextEncoder, texts: Any, *, side: Any, **options: Any) -> Any:
        sides.append(side)
        return encode(self, texts, side=side, **options)

    monkeypatch.setattr(TextEncoder, "encode", record)
    return sides


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[[system]]\nname="x"\nmodel="embeded"', "system 'x': unknown model 'embeded'"),
        ('[[system]]\nname="x"\nadapter="embedded-generl"', "system 'x': unknown adapter 'embedded-generl'"),
        ('[[system]]\nname="x"\nrerank="embeded"', "system 'x': unknown reranker 'embeded'"),
        ('[[system]]\nname="x"\nquery_encoder="fast"', "system 'x': unknown query encoder 'fast'"),
        (
            '[[system]]\nname="x"\nmodel="MODEL"\nadapters={pyton="none"}',
            "system 'x' has an adapter for the unknown language 'pyton'; known are .*python",
        ),
        ('[[task]]\nname="t"\nrepository=["shop"]\nqueries=99', "has 24 queries, so 99 cannot be drawn"),
        ('[[task]]\nname="t"\nrepository=["shop"]\npool_size=99', "has 24 codes, so pools of 99 cannot be drawn"),
        ('[[task]]\nname="t"\nfolder="nowhere"', "nowhere is not a folder"),
        ('[[generation]]\nname="g"\nkind="code"\ntask="own"\nwriter="gpt"', "unknown LLM 'gpt'; use one of"),
        ('[[generation]]\nname="g"\nkind="code"\ntask="own"\nquestions=99', "asks for 99 questions, and there are 24"),
    ],
)
def test_a_wrong_name_or_number_is_refused_before_anything_is_measured(
    more: str, message: str, write_suite: Callable[..., Path], bert_folder: Path, stages: list[str]
) -> None:
    more = more.replace("MODEL", str(bert_folder))
    suite = load_suite(write_suite(more))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_suite(suite)
    assert stages == []


def test_a_baseline_of_something_else_is_refused_before_anything_is_measured(
    write_suite: Callable[..., Path], tmp_path: Path, stages: list[str]
) -> None:
    path = write_suite()
    baseline = run_suite(load_suite(path)).report
    stages.clear()
    text = path.read_text()
    for old, new, message in (
        ('name = "dense"', 'name = "renamed"', "the baseline has 'dense' on 'own', which this run lacks"),
        ("depth = 24", "depth = 12", "another depth than its baseline: 12 and 24"),
        ("depth = 24", 'depth = 24\nmetrics = ["MRR"]', "has no metric 'R@10', only MRR"),
        ('repository = ["shop"]', 'repository = ["shop"]\npool_size = 6', "another protocol than its baseline"),
        ('repository = ["shop"]', 'repository = ["shop"]\nqueries = 6', "another benchmark .*queries"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(IncomparableError, match=message):
            run_suite(load_suite(path), baseline=baseline)
    path.write_text(text)
    with pytest.raises(IncomparableError, match="no system and task in common"):
        run_suite(load_suite(path), baseline=replace(baseline, retrieval=[]))
    assert stages == []
    assert compare(run_suite(load_suite(path), baseline=baseline).report, baseline)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    write_suite: Callable[..., Path], tmp_path: Path, stages: list[str]
) -> None:
    suite = load_suite(write_suite())
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OSError, match=f"cannot write to the folder {out} .*name another one"):
            run_suite(suite, out=out)
    assert stages == []


def test_missing_packages_are_named_before_anything_is_measured(
    write_suite: Callable[..., Path], stages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_suite()
    baseline = run_suite(load_suite(path)).report
    stages.clear()
    write_suite('[[generation]]\nname="g"\nkind="code"\ntask="own"')
    for package, purpose in (
        ("ir_measures", "computing metrics"),
        ("sacrebleu", "scoring answers"),
        ("scipy", "comparing with a baseline"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)  # Python's own way to make an import fail
            with pytest.raises(ImportError, match=rf"{purpose} needs {package}: pip install .*\[eval\]"):
                run_suite(load_suite(path), baseline=baseline)
    assert stages == []


def test_a_checkout_without_package_metadata_is_measured(
    write_suite: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    report = run_suite(load_suite(write_suite())).report
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert report.versions == {
        "llamaindex-code-retrieval": project["version"],
        "llama-index-core": "unknown",
        "torch": "unknown",
    }


def test_more_passages_than_a_result_keeps_are_retrieved(write_suite: Callable[..., Path]) -> None:
    """A result keeps ten hits a query; a writer that is shown twelve gets twelve."""
    more = '[[generation]]\nname="g"\nkind="code"\ntask="own"\ntop_n=12\nsystems=["dense"]'
    suite = load_suite(write_suite(more))
    retrieved = run_suite(suite).report.generation[1]
    assert {len(answer.passages) for answer in retrieved.answers.values()} == {12}


def test_sweqa_shows_the_nodes_of_the_index(
    write_suite: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedding reads only parts of functions, which are not passages of the task."""
    (tmp_path / "sweqa").mkdir()
    row = {"_id": "q", "repo": "shop", "question": "How are lines read?", "answer": "`read_line` in `read.py` does."}
    (tmp_path / "sweqa" / "answers.jsonl").write_text(json.dumps(row))
    monkeypatch.setenv("CODE_RETRIEVAL_DATA", str(tmp_path))
    more = '[[generation]]\nname = "g"\nkind = "sweqa"\nproject = "shop"\nrepository = "shop"\nsystems = ["dense"]\n'
    file = write_suite(more)
    file.write_text(file.read_text().replace('mode = "dense"', 'mode = "dense"\nmax_code_tokens = 24'))
    gold, retrieved, _ = (each.answers["q"] for each in run_suite(load_suite(file)).report.generation)
    assert len(gold.passages) == 1
    assert len(retrieved.passages) == 5
    assert gold.answer.startswith("def read_line(line):")
    sources = [file.read_text() for file in (tmp_path / "shop").iterdir()]
    assert all(any(part in source for source in sources) for part in retrieved.answer.split("\n\n"))


def test_a_suite_of_which_nothing_is_at_hand_says_so(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODE_RETRIEVAL_DATA", raising=False)
    text = f'[[task]]\nname="t"\nset="cosqa"\n[[system]]\nname="s"\nmodel="{bert_folder}"'
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ValueError, match=r"nothing of the suite 's' can be run here \(t: there is no cosqa/"):
        run_suite(load_suite(tmp_path / "s.toml"))
