"""The demo on one small module."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.cli.demo import Answer, Demo, DemoPrinter, print_metrics, run_demo

MODES = ["dense", "bm25", "fused"]


@pytest.fixture(scope="module")
def events() -> list[tuple[object, ...]]:
    """What the demo reported, in order: ("answer", modes, nodes without a vector) or (stage, done)."""
    return []


@pytest.fixture(scope="module")
def demo(embedded_model: tuple[CodeEmbedding, ...], events: list[tuple[object, ...]]) -> Demo:
    cache = Path(os.environ["CODE_RETRIEVAL_CACHE"])

    def on_answer(question: str, answer: Answer) -> None:
        with CodeIndex.open(cache / "demo", words_only=True) as index:
            events.append(("answer", list(answer), index.missing_vectors))

    return run_demo(
        cache_folder=cache,
        modules=("shlex",),
        questions=("quote a string for the shell",),
        on_progress=lambda stage, done, total: events.append((stage, done)),
        on_answer=on_answer,
    )


def test_demo_answers_by_words_before_vectors_and_before_it_measures(
    demo: Demo, events: list[tuple[object, ...]]
) -> None:
    answers = [place for place, event in enumerate(events) if event[0] == "answer"]
    assert [events[place] for place in answers] == [("answer", ["bm25"], demo.nodes), ("answer", MODES, 0)]
    measuring = next(place for place, event in enumerate(events) if event[0] == "rerank")
    assert answers[0] < events.index(("embed", demo.nodes)) < answers[1] < measuring
    assert 0 < demo.seconds["first_answer"] < sum(demo.seconds.values())


def test_demo_searches_and_measures(demo: Demo) -> None:
    [(question, answers)] = demo.answers.items()
    assert question == "quote a string for the shell"
    assert list(answers) == MODES
    assert {len(hits) for hits in answers.values()} == {3}
    [place] = [place for place, symbol in answers["fused"] if symbol == "quote"]
    path, line = place.split(":")
    assert path == "shlex.py"
    index = CodeIndex.open(demo.folder)
    assert [node.metadata["start_line"] for node in index.nodes() if node.metadata["scope"] == "quote"] == [int(line)]
    assert len(index) == demo.nodes
    assert list(demo.metrics) == MODES
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
    with DemoPrinter() as printer:
        printer.print_answer("a question", {"bm25": hits})
        printer.print_answer("a question", {"dense": hits, "bm25": [], "fused": [hits[1], hits[0]]})
    print_metrics(demo)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:14] == [
        "Words only, while the vectors are made",
        "",
        "a question",
        "  bm25",
        "     1  shlex.py:325  quote",
        f"     2  {place}  Class.method",
        "",
        "Vectors and words",
        "",
        "a question",
        "  dense  bm25  fused",
        f"      2            1  {place}  Class.method",
        "      1            2  shlex.py:325  quote",
        "",
    ]
    assert any(f"{demo.documented} documented functions" in line for line in lines)
    assert any(f"{demo.metrics['fused']['MRR']:.3f}" in line for line in lines)


def test_answers_are_printed_to_stdout_between_progress_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # draw bars, which capture what is printed while they are shown
    with DemoPrinter() as printer:
        printer.show_progress("parse", 1, 2)
        printer.print_answer("a question", {"bm25": [("shlex.py:325", "quote")]})
        printer.show_progress("embed", 1, 2)
    printed = capsys.readouterr()
    assert "a question" in printed.out
    assert "a question" not in printed.err
    assert "parsing files" in printed.err
    assert "embedding nodes" in printed.err
