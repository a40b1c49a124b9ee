"""Suites as TOML files: what is read, inherited and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamaindex_code_retrieval.eval.suite import load_suite


def test_the_suites_that_come_along_are_whole() -> None:
    for name in ("cascade", "embedded", "leaderboard"):
        assert load_suite(name).name == name


QUESTIONS = '[[system]]\nname="s"\n[[task]]\nname="q"\nquestions="q.json"\nrepository=["."]\n'
SMALL = '[[task]]\nname="t"\nset="a"\n[[system]]\nname="s"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[task", "is not TOML"),
        ("", r"at least one \[\[system\]\] and one \[\[task\]\], \[\[generation\]\] or"),
        ('[[task]]\nname="t"\n[[system]]\nname="s"', "task 't' must have one of set, folder, repository or package"),
        (
            '[[task]]\nname="t"\nset="a"\n[[system]]\nname="s"\nmode="sparse"',
            "system.0: mode must be 'dense'.* got 'sparse'",
        ),
        (SMALL + "speed=1", "system.0: there is no setting 'speed'"),
        (SMALL + '[[system]]\nname="s"', "names system 's' twice"),
        (
            '[[task]]\nname="t"\nset="a"\n[[system]]\nname="s"\n[gate]\nalpha=2',
            "gate: alpha must be less than 1, got 2",
        ),
        (
            '[[task]]\nname="t"\nset="a"\n[[system]]\nname="s"\n[gate]\nsystems=["x"]',
            "the gate names the system 'x'; the suite has s",
        ),
        (
            SMALL + '[[generation]]\nname="g"\nkind="code"\ntask="u"',
            "generation 'g' names the task 'u'; the suite has t",
        ),
        ('[[system]]\nname="s"\n[[generation]]\nname="g"\nkind="sweqa"', "kind 'sweqa' must name its project"),
        (SMALL + "[gate]\ntolerance = nan", "gate: tolerance must be"),
        (SMALL + "[gate]\nmetrics = []", "gate: metrics must .* at least 1 item"),
        (SMALL + '[gate]\nmetrics = ["MRR@3"]', "the gate names the metric 'MRR@3', which the suite does not measure"),
        (SMALL + '[gate]\ngeneration_metrics = ["rougeX"]', "must be 'rouge1', .* got 'rougeX'"),
        ('metrics = ["MRR", "R"]\n' + SMALL, "metrics.1: unknown metric 'R'; use MRR, MRR@k, R@k"),
        ('place = "x"\n' + SMALL, "there is no setting 'place'"),
        (SMALL + 'mode = "bm25"\ndense_weight = 1', "dense_weight would have no effect: system 's' has mode 'bm25'"),
        (SMALL + 'mode = "bm25"\nquery_encoder = "auto"', "query_encoder would have no effect: .* encodes no queries"),
        (SMALL + "dense_weight = 0\nbm25_weight = 0", "system 's' has no weight over 0; set dense_weight or"),
        (SMALL + "dense_weight = inf", "dense_weight must be a finite number, got inf"),
        ('metrics = ["MRR", "MRR"]\n' + SMALL, "metrics: 'MRR' is given twice"),
        (SMALL + '[gate]\nmetrics = ["MRR", "MRR"]', "metrics: 'MRR' is given twice"),
        (SMALL + '[gate]\nsystems = ["s", "s"]', "systems: 's' is given twice"),
        (SMALL + '[[published]]\nsystem="x"\ntask="t"\nmetric="m"\nvalue=nan\nsource="p"', "value must be a finite"),
        (SMALL + "early_exit = 0.9\nrerank_k = 5", "rerank_k and early_exit would have no effect: .* no reranker"),
        ('[[task]]\nname="t"\npackage=["json"]\nsplit="dev"\n[[system]]\nname="s"', "split would have no effect"),
        (SMALL + '[[generation]]\nname="g"\nkind="code"\ntask="t"\nproject="flask"', "project would have no effect"),
        (QUESTIONS + "pool_size=5", "pool_size would have no effect: task 'q' asks all questions"),
        (QUESTIONS + "queries=5", "queries would have no effect: task 'q' asks all questions"),
        (
            QUESTIONS.replace('repository=["."]', 'set="a"'),
            "task 'q' has questions, so repository must name one folder",
        ),
        (QUESTIONS.replace('["."]', '["a", "b"]'), "task 'q' has questions, so repository must name one folder"),
        (SMALL.replace('set="a"', 'set="a"\nonly=["*.py"]'), "only would have no effect: task 't' has no questions"),
        (QUESTIONS + 'systems=["x"]', "task 'q' names the system 'x'; the suite has s"),
        (
            QUESTIONS + '[[generation]]\nname="g"\nkind="code"\ntask="q"',
            "generation 'g' names the task 'q', which has questions and no codes",
        ),
    ],
)
def test_a_suite_refuses_nonsense(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_suite(tmp_path / "bad.toml")
    with pytest.raises(ValueError, match="there is no suite 'absent': it is neither a file nor one of cascade, embedd"):
        load_suite("absent")


def test_a_suite_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('name = "base"\ndepth = 7\n' + SMALL + "[gate]\nalpha = 0.01\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own.toml").write_text(
        'extends = "../base.toml"\nname = "own"\n[[task]]\nname = "u"\nrepository = ["src"]\n[gate]\ntolerance = 0.1\n'
    )
    suite = load_suite(tmp_path / "sub" / "own.toml")
    assert (suite.name, suite.depth, suite.gate.alpha, suite.gate.tolerance) == ("own", 7, 0.01, 0.1)
    assert [(task.name, task.repository) for task in suite.task] == [("u", (str(tmp_path / "sub" / "src"),))]
    assert [system.name for system in suite.system] == ["s"]


def test_questions_and_their_repository_start_at_the_folder_of_the_suite(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(QUESTIONS)
    [task] = load_suite(tmp_path / "s.toml").task
    assert (task.questions, task.repository) == (str(tmp_path / "q.json"), (str(tmp_path),))
