"""The demo on one small module."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.cli.demo import Demo, print_demo, run_demo


@pytest.fixture(scope="module")
def demo(embedded_model: tuple[CodeEmbedding, ...]) -> Demo:
    cache = Path(os.environ["CODE_RETRIEVAL_CACHE"])
    return run_demo(cache_folder=cache, modules=("shlex",), questions=("quote a string for the shell",))


def test_demo_searches_and_measures(demo: Demo) -> None:
    [(question, answers)] = demo.answers.items()
    assert question == "quote a string for the shell"
    assert list(answers) == ["dense", "bm25", "fused"]
    assert {len(hits) for hits in answers.values()} == {3}
    [place] = [place for place, symbol in answers["fused"] if symbol == "quote"]
    path, line = place.split(":")
    assert path == "shlex.py"
    index = CodeIndex.open(demo.folder)
    assert [node.metadata["start_line"] for node in index.nodes() if node.metadata["scope"] == "quote"] == [int(line)]
    assert len(index) == demo.nodes
    assert list(demo.metrics) == ["dense", "bm25", "fused"]
    assert list(demo.reranked) == ["fused", "fused, reranked"]
    for metrics in (*demo.metrics.values(), *demo.reranked.values()):
        assert 0.3 < metrics["MRR"] <= 1
    assert demo.sampled_queries == demo.documented


@pytest.mark.parametrize("columns", ["20", "80"])
def test_places_are_readable_at_any_width(
    demo: Demo, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    place = "a/very/long/path/of/a/package/module.py:1234"
    hits = [("shlex.py:325", "quote"), (place, "Class.method")]
    print_demo(replace(demo, answers={"a question": {"dense": hits, "bm25": [], "fused": [hits[1], hits[0]]}}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "a question",
        "  dense  bm25  fused",
        f"      2            1  {place}  Class.method",
        "      1            2  shlex.py:325  quote",
    ]
    assert any(f"{demo.documented} documented functions" in line for line in lines)
    assert any(f"{demo.metrics['fused']['MRR']:.3f}" in line for line in lines)
