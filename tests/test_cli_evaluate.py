"""The commands eval and benchmark."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Shell, worsen

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


def test_eval_refuses_a_baseline_that_it_cannot_read_or_write(evaluate: Callable[..., str], tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.toml"], "there is no suite 'nothing.toml'"),
        (["embedded", "--gate"], "--gate has no effect without --baseline FILE"),
        (["embedded", "--update-baseline"], "--update-baseline has no effect without --baseline FILE"),
        (["embedded", "--baseline", "nothing.json", "--gate"], "nothing.json"),
        (["embedded", "--baseline", "x", "--gate", "--update-baseline"], "give one of them"),
        (["embedded", "--out", "shop/Tax.java"], "--out shop/Tax.java is a file; name a folder"),
        (["embedded", "--cache", "shop/Tax.java"], "--cache shop/Tax.java is a file; name a folder"),
        (["cascade", "--rerank-k", "1,x"], "got '1,x'"),
        (["cascade", "--rerank-k", "0"], "a K over 0"),
        (["cascade", "--rerank-k", "5", "--gate"], "--gate has no effect with --rerank-k"),
        (["nothing.toml", "--rerank-k", "5"], "there is no suite 'nothing.toml'"),
    ],
)
def test_eval_refuses(shell: Shell, repository: Path, arguments: list[str], says: str) -> None:
    shell.fails("eval", *arguments, says=says)
    assert not Path("code-retrieval-report").exists()


@pytest.mark.parametrize("more", [[], ["--rerank-k", "5"]])
def test_eval_without_matplotlib_fails_before_it_measures(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    shell.fails("eval", "cascade", *more, says="pip install 'llamaindex-code-retrieval[eval]'")
    assert not Path("code-retrieval-report").exists()


def test_benchmark(shell: Shell, repository: Path) -> None:
    printed = shell("benchmark", repository, "--out", "set")
    benchmark = load_beir("set", split="test")
    assert printed == f"1 codes and 1 queries in set, fingerprint {benchmark.fingerprint}\n"
    assert shell("benchmark", repository, "--out", "two", "--queries", 1, "--split", "dev", "--json")["queries"] == 1
    assert len(load_beir("two", split="dev").queries) == 1


@pytest.fixture
def asked(repository: Path) -> Path:
    """Questions about ``repository``, one of which asks for what is not its answer."""
    rows = [
        {"query": "send_receipt", "category": "symbol", "relevant": ["src/mail.py"]},
        {"query": "withTax", "category": "symbol", "relevant": ["Tax.java"]},
        {
            "query": "value added tax",
            "category": "semantic",
            "relevant": [{"path": "Tax.java", "start_line": 90, "end_line": 91}],
        },
    ]
    file = repository.parent / "questions.json"
    file.write_text(json.dumps(rows))
    return file


@pytest.mark.usefixtures("embedded_model")
def test_benchmark_measures_questions_by_category(shell: Shell, repository: Path, asked: Path) -> None:
    printed = shell("benchmark", repository, "--questions", asked).splitlines()
    assert printed[0].startswith("questions.json: ")
    assert printed[1] == "questions\tnumber\tnDCG@10\tMRR@10\tR@10\t95 % interval of nDCG@10"
    assert printed[2].startswith("all\t3\t0.6667\t0.6667\t0.6667\t0.0000 to 1.0000")
    assert printed[3] == "semantic\t1\t0.0000\t0.0000\t0.0000\t0.0000 to 0.0000"
    assert printed[4] == "symbol\t2\t1.0000\t1.0000\t1.0000\t1.0000 to 1.0000"
    assert printed[5:7] == ["0.000 questions/3 (semantic): value added tax", "  expected Tax.java:90-91"]
    assert printed[7].startswith("  found    Tax.java:2-6, ")
    assert len(printed) == 8
    assert len(shell("benchmark", repository, "--questions", asked, "--worst", 0).splitlines()) == 5


@pytest.mark.usefixtures("embedded_model")
def test_benchmark_of_questions_as_json(shell: Shell, repository: Path, asked: Path) -> None:
    content = shell("benchmark", repository, "--questions", asked, "--json")
    assert content["means"]["symbol"] == {
        "questions": 2,
        "nDCG@10": 1.0,
        "MRR@10": 1.0,
        "R@10": 1.0,
        "intervals": {"nDCG@10": [1.0, 1.0], "MRR@10": [1.0, 1.0], "R@10": [1.0, 1.0]},
    }
    first = content["questions"][0]
    assert (first["id"], first["query"], first["nDCG@10"]) == ("questions/1", "send_receipt", 1.0)
    assert first["found"][0].startswith("src/mail.py:")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["shop", "--questions", "absent.json"], "absent.json"),
        (
            ["absent", "--questions", "questions.json"],
            "there is no folder absent with the repository of questions.json",
        ),
        (["shop", "src", "--questions", "questions.json"], "--questions are about one PATH, got 2; name one folder"),
        (["shop", "--questions", "wrong.json"], "wrong.json, question 1: relevant must name at least one target"),
        (["shop/src", "--questions", "questions.json"], "question questions/2 ('withTax') has the target 'Tax.java'"),
        (["shop", "--questions", "questions.json", "--out", "set"], "--out has no effect with --questions"),
        (["shop", "--questions", "questions.json", "--queries", "5"], "--queries has no effect with --questions"),
        (["shop", "--questions", "questions.json", "--worst", "-1"], "--worst: must be at least 0, got -1"),
        (["shop", "--out", "set", "--worst", "1"], "--worst has no effect without --questions"),
        (["shop", "--out", "set", "--only", "*.py"], "--max-file-size have no effect without --questions"),
        (
            ["shop", "--questions", "questions.json", "--exclude", "*.java"],
            "has the target 'Tax.java', which is none of",
        ),
        (["shop", "--out", "set", "--cache", "x"], "--cache has no effect without --questions"),
        (["shop"], "name --questions FILE to measure questions, or --out DIR to write a benchmark"),
    ],
)
def test_benchmark_refuses_questions(shell: Shell, asked: Path, arguments: list[str], says: str) -> None:
    Path("wrong.json").write_text('[{"query": "why"}]')
    shell.fails("benchmark", *arguments, says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing", "--out", "set"], "missing is not a folder (missing)"),
        (["shop", "--out", "shop"], "shop exists already; name a new folder"),
        (["shop", "--out", "shop/Tax.java"], "shop/Tax.java exists already; name a new folder"),
        (["shop", "--out", "set", "--split", "../x"], "--split '../x' must be of letters"),
        (["shop", "--out", "set", "--queries", "0"], "argument --queries: must be at least 1, got 0"),
        (["shop", "--out", "set", "--queries", "9"], "so 9 cannot be drawn"),
    ],
)
def test_benchmark_refuses(shell: Shell, repository: Path, arguments: list[str], says: str) -> None:
    shell.fails("benchmark", *arguments, says=says)
    assert not Path("set").exists()
