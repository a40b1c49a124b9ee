"""Runs of suites: what is measured, what is kept of an interrupted run, and what is refused before any work."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamaindex_code_retrieval import Encoder
from llamaindex_code_retrieval.eval.gate import IncomparableError, compare
from llamaindex_code_retrieval.eval.runner import run_suite
from llamaindex_code_retrieval.eval.suite import load_suite


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
    write_suite: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes come out of the cache the second time, queries do not."""
    calls: list[str] = []
    encode = Encoder.encode

    def counted(self: Encoder, texts: Any, *, side: Any) -> Any:
        calls.extend([side] * len(texts))
        return encode(self, texts, side=side)

    monkeypatch.setattr(Encoder, "encode", counted)
    suite = load_suite(write_suite())
    for codes in (24, 0):
        calls.clear()
        run_suite(suite, cache_folder=tmp_path / "cache")
        assert (calls.count("code"), calls.count("query")) == (codes, 24)


# --- what fails, fails before anything is measured -------------------------------------------------------------------


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sides of all texts that an encoder is given, which stays empty if nothing is measured."""
    sides: list[str] = []
    encode = Encoder.encode

    def record(self: Encoder, texts: Any, *, side: Any) -> Any:
        sides.append(side)
        return encode(self, texts, side=side)

    monkeypatch.setattr(Encoder, "encode", record)
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
        ('[[generation]]\nname="g"\nkind="code"\ntask="own"\nwriter="gpt"', "unknown writer 'gpt'; use one of"),
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
