"""Citations of an answer: found, checked against the passages and the code, and measured against gold places."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_index.core.schema import NodeWithScore, TextNode

from llamaindex_code_retrieval import CodeIndex
from llamaindex_code_retrieval.chat import Citations, check_citations
from llamaindex_code_retrieval.chat.citations import citation_precision, citation_recall
from llamaindex_code_retrieval.index.places import Place
from tests.indexes import HashEmbedding

SOURCES = {
    "src/app.py": "import json\n\n\ndef load_app(path):\n    return json.loads(path.read_text())\n",
    "src/mail.py": "def send_receipt(address):\n    return address\n",
}


@pytest.fixture(scope="module")
def index() -> Iterator[CodeIndex[HashEmbedding]]:
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts(SOURCES)
        yield index


def passage(number: int, path: str, *lines: list[int], text: str | None = None) -> NodeWithScore:
    if text is None:
        text = "\n...\n".join("\n" * (last - first) for first, last in lines)
    return NodeWithScore(node=TextNode(text=text, metadata={"path": path, "lines": list(lines), "citation": number}))


PASSAGES = [passage(1, "src/app.py", [10, 14], [40, 66]), passage(2, "src/mail.py", [1, 2])]


def test_citations_of_passages() -> None:
    assert str(Citations.of(PASSAGES)) == "[1] src/app.py:10-14,40-66\n[2] src/mail.py:1-2"


@pytest.mark.parametrize(
    ("answer", "cited"),
    [
        ("It loads [1].", ["[1] src/app.py:10-14,40-66"]),
        ("It loads [1, 2] and [2].", ["[1] src/app.py:10-14,40-66", "[2] src/mail.py:1-2"]),
        ("It loads [1][2].", ["[1] src/app.py:10-14,40-66", "[2] src/mail.py:1-2"]),
        ("It loads [1-2].", ["[1] src/app.py:10-14,40-66", "[2] src/mail.py:1-2"]),
        ("It loads `[2]`.", ["[2] src/mail.py:1-2"]),
        ("See src/app.py:12-14.", ["src/app.py:12-14"]),
        ("See `app.py:12`.", ["app.py:12"]),
        ("See src/app.py#L12-L14", ["src/app.py:12-14"]),
        ("See src/app.py (lines 40-50).", ["src/app.py:40-50"]),
        ("See src/app.py:10-14,40-66 there", ["src/app.py:10-14", "src/app.py:40-66"]),
        ("See src/mail.py.", ["src/mail.py"]),
        ("It loads [^2].", ["[2] src/mail.py:1-2"]),
        ("Since [2024] the list [0] has it.", []),
        ("`items[1]`, items[1] and\n```python\nx = [1]\n```\nare code.", []),
        ("Create config.toml and src/other.py.", []),
        ("", []),
    ],
)
def test_citations_in_an_answer(answer: str, cited: list[str]) -> None:
    check = check_citations(answer, PASSAGES)
    assert [str(each) for each in check.cited] == cited
    assert check
    assert check.messages() == []


@pytest.mark.parametrize(
    ("answer", "unknown"),
    [
        ("It loads [3].", "[3]"),
        ("See src/app.py:12-15.", "src/app.py:12-15"),  # line 15 was not quoted
        ("See src/app.py:14-40.", "src/app.py:14-40"),
        ("See src/other.py:1.", "src/other.py:1"),
    ],
)
def test_unknown_citations(answer: str, unknown: str) -> None:
    check = check_citations(answer, PASSAGES)
    assert not check
    assert check.cited == ()
    assert check.messages() == [f"not in the passages: {unknown}"]


@pytest.mark.parametrize(
    ("answer", "unknown"),
    [
        ("`foo_bar` is called", ["foo_bar"]),
        ("`foo_bar()` and `foo_bar(1, 'x')`", ["foo_bar"]),
        ("`load_app` calls `json.loads(path)`", []),
        ("`Mail.send_receipt`", ["Mail.send_receipt"]),
        ("`os.path.join`, `self`, `None`, `isinstance(x, str)`, `str.format`, `nil`", []),
        ("`pip install foo`, `a + b`, `--frob`, `/etc/frob`, `load_app(frob).frob + 1`", []),
        ("`app.py`, `src/app.py` and `src/other.py`", ["src/other.py"]),
        ("`self.foo_bar`, `nullptr` and `self.load_app`", ["self.foo_bar"]),
        ("```python\nfoo_bar()\n```", []),
        ("foo_bar without a code span", []),
        ("`asked_for` and `quoted_name`", []),
        ("`mail`, `src`, `ail` and `Mail.frob`", ["ail", "Mail.frob"]),  # a part of a path is a name only as a whole
    ],
)
def test_names_in_code_spans(index: CodeIndex[HashEmbedding], answer: str, unknown: list[str]) -> None:
    quoted = [passage(1, "src/app.py", [1, 1], text="x = quoted_name")]
    check = check_citations(answer, quoted, index, question="What is asked_for?")
    assert list(check.unknown_names) == unknown
    assert check.messages() == [f"not found in the code: `{name}`" for name in unknown]


def test_paths_that_contain_a_text_are_those_of_indexed_files(tmp_path: Path) -> None:
    for name, content in {"src/app.py": "x = 1", "app.txt": "x", "apps/data.bin": "\0"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    with CodeIndex(HashEmbedding()) as index:
        index.update([tmp_path])
        with index.view() as view:
            assert view.reading.file("apps/data.bin") is not None  # listed as binary
            for text in ("app", "App", "%", "src/", "/app.py", ""):
                assert view.reading.paths(containing=text) == [each for each in view.reading.paths() if text in each]


@pytest.mark.parametrize("garbage", ["`" * 50_001, "`a` " * 20_000, "`` ` " * 20_000, "[1" * 50_000, "```\n" * 20_001])
def test_a_long_answer_of_garbage(index: CodeIndex[HashEmbedding], garbage: str) -> None:
    assert check_citations(garbage, PASSAGES, index).unknown_names == ()


def test_names_are_not_checked_without_an_index() -> None:
    assert check_citations("`foo_bar`", PASSAGES).unknown_names == ()


def test_precision_and_recall() -> None:
    gold = [Place("src/app.py", 60, 70), Place("src/app.py", 20, 30), Place("other.py", 1, 2)]
    check = check_citations("[1], app.py:12, src/mail.py:1 and [9]", PASSAGES)
    assert citation_precision(check, gold) == 1 / 4  # only [1] touches a gold place
    assert citation_recall(check, gold) == 1 / 3
    nothing = check_citations("no idea", PASSAGES)
    assert citation_precision(nothing, gold) is None
    assert citation_recall(nothing, gold) == 0.0
    assert citation_recall(check, []) is None
