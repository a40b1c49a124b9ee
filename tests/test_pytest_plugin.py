"""The pytest plugin: each metric of a baseline is a test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import worsen

from llamaindex_code_retrieval.eval.runner import run_suite
from llamaindex_code_retrieval.eval.suite import load_suite


@pytest.fixture
def run_pytest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run pytest in a folder without tests, in this process, so that torch is not imported again."""
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        # The plugin unraisableexception collects garbage five times at the end of a session.
        plugins = ["-p", "no:cacheprovider", "-p", "no:unraisableexception"]
        code = pytest.main([*plugins, "-q", "--rootdir", str(folder), *arguments, str(folder)])
        printed = capsys.readouterr()
        return int(code), printed.out + printed.err

    return run


def test_each_metric_of_a_baseline_is_a_test(
    write_suite: Callable[..., Path], run_pytest: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    baseline, suite = tmp_path / "baseline.json", write_suite()
    run_suite(load_suite(suite)).report.slim().save(baseline)
    options = ["--code-retrieval-baseline", str(baseline), "--code-retrieval-suite", str(suite)]
    code, text = run_pytest(*options)
    assert code == 0, text
    assert "4 passed" in text
    assert "inconclusive" not in text

    suite.write_text(suite.read_text() + "[gate]\nalpha = 1e-9\n")  # so small that no drop of 24 queries is significant
    worsen(suite, suite)
    code, text = run_pytest(*options)
    assert code == 0, text
    assert "code-retrieval: inconclusive drops" in text
    assert "MRR of 'words' on 'own' fell from" in text
    assert "24 queries are too few to tell a drop of" in text

    suite.write_text(suite.read_text().replace("alpha = 1e-9", "alpha = 0.05"))
    code, text = run_pytest(*options, "-m", "code_retrieval")
    assert code == 1
    assert "words / own / MRR" in text
    assert "MRR of 'words' on 'own' fell from" in text
    assert "Traceback" not in text

    code, text = run_pytest("--code-retrieval-suite", str(suite))
    assert code == 4
    assert "need each other; give both" in text


def test_categories_of_questions_are_tests_of_their_own(
    write_suite: Callable[..., Path], run_pytest: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """Two systems on the benchmark, one on the questions and on each of their two categories, by two metrics."""
    rows = [{"query": f"{verb} line", "category": verb, "relevant": [f"{verb}.py"]} for verb in ("read", "write")]
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    task = '[[task]]\nname="asked"\nquestions="questions.json"\nrepository=["shop"]\nsystems=["words"]\n'
    baseline, suite = tmp_path / "baseline.json", write_suite(task + "[gate]\ncategories = true")
    run_suite(load_suite(suite)).report.slim().save(baseline)
    code, text = run_pytest("--code-retrieval-baseline", str(baseline), "--code-retrieval-suite", str(suite))
    assert code == 0, text
    assert "10 passed" in text


def test_names_in_a_suite_cannot_act_on_the_terminal(
    write_suite: Callable[..., Path], run_pytest: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    baseline, suite = tmp_path / "baseline.json", write_suite('[gate]\nmetrics = ["MRR"]\ngeneration_metrics = []\n')
    hostile = suite.read_text().replace('name = "words"', r'name = "\u001b]0;owned\u0007\u202e"')
    hostile = hostile.replace('name = "own"', r'name = "own\u001b[2J"')
    suite.write_text(hostile)
    run_suite(load_suite(suite)).report.slim().save(baseline)
    worsen(suite, suite)
    options = ["--code-retrieval-baseline", str(baseline), "--code-retrieval-suite", str(suite)]
    code, text = run_pytest(*options, "--verbose", "-rA", "--color=no")
    assert code == 1, text
    assert r"\x1b]0;owned\x07\u202e / own\x1b[2J / MRR" in text
    assert "fell from" in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text)

    suite.write_text(suite.read_text().replace('mode = "dense"', r'mode = "\u001b[2J"'))
    code, text = run_pytest(*options, "--color=no")
    assert code == 4
    assert "mode must be" in text
    assert "\x1b" not in text


def test_the_plugin_is_registered_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, pytest; pytest.main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--code-retrieval-suite" in done.stdout
