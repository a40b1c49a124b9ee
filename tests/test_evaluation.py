"""The commands eval and benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import worsen

from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.eval.datasets import load_beir
from llamaindex_code_retrieval.eval.results import Report


@pytest.fixture
def evaluate(
    write_suite: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    write_suite()

    def run(*arguments: str, code: int = 0, suite: str = "suite.toml") -> str:
        capsys.readouterr()
        got = main(["eval", str(tmp_path / suite), "--out", str(tmp_path / "out"), *arguments])
        printed = capsys.readouterr()
        assert got == code, printed.err
        return printed.err if code else printed.out

    return run


def test_eval_writes_its_reports_and_gates(evaluate: Callable[..., str], shop: Path, tmp_path: Path) -> None:
    baseline = str(tmp_path / "baseline.json")
    content = json.loads(evaluate("--json", "--baseline", baseline, "--update-baseline"))
    assert {"retrieval", "generation", "comparisons"} <= content.keys()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json",
        "report.html",
        "report.md",
        "junit.xml",
    }
    assert Report.load(baseline) == Report.load(tmp_path / "out" / "report.json").slim()
    assert "words" in evaluate("--baseline", baseline, "--gate")

    worsen(tmp_path / "suite.toml", tmp_path / "worse.toml")
    error = evaluate("--baseline", baseline, "--gate", code=1, suite="worse.toml")
    assert "regression: MRR of 'words' on 'own' fell from" in error
    assert "first is now shop/" in error
    evaluate("--baseline", baseline, suite="worse.toml")  # without --gate a regression is only shown

    (shop / "more.py").write_text('def f(x):\n    """Another one of the x."""\n    return x\n')
    error = evaluate("--baseline", baseline, "--gate", code=2)
    assert "another benchmark" in error
    assert "--update-baseline" in error
    assert Report.load(tmp_path / "out" / "report.json").retrieval[0].codes == 24  # nothing was measured


def test_eval_refuses_what_it_cannot_do(evaluate: Callable[..., str], tmp_path: Path) -> None:
    assert "--gate has no effect without --baseline FILE" in evaluate("--gate", code=2)
    assert "give one of them" in evaluate("--gate", "--update-baseline", "--baseline", "x", code=2)
    assert "x.json cannot be read" in evaluate("--gate", "--baseline", str(tmp_path / "x.json"), code=2)
    update = ["--update-baseline", "--baseline"]
    assert "is a folder; name a file to write" in evaluate(*update, str(tmp_path), code=2)
    assert "cannot write to the folder" in evaluate(*update, str(tmp_path / "suite.toml" / "b.json"), code=2)
    assert not (tmp_path / "out").exists()


def test_a_benchmark_is_made_of_folders(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert main(["benchmark", str(shop), "--out", str(out), "--queries", "5", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    read = load_beir(out, split="test")
    assert (content["codes"], content["queries"], content["fingerprint"]) == (24, 5, read.fingerprint)
    assert main(["benchmark", str(shop), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
