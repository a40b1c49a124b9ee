"""The commands eval and benchmark: what is refused before anything is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import Shell

from llamaindex_code_retrieval.eval.datasets import load_beir


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
