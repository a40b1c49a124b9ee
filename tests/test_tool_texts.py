"""The texts of tools: places of several repositories, notes, and bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.serving.results import CodeHit, SearchResult
from llamaindex_code_retrieval.serving.service import CodeService
from llamaindex_code_retrieval.serving.tool_texts import MAX_CHARACTERS, search_text
from llamaindex_code_retrieval.serving.tools import TOOLS, run_tool


def hit(path: str, text: str, **options: str) -> CodeHit:
    metadata = {"path": path, "start_line": 10, "end_line": 10 + text.count("\n"), "language": "python", **options}
    return CodeHit.of("shop", metadata, text, score=1.0)


def test_places_follow_the_hits_that_are_quoted() -> None:
    hits = [hit(f"{name}.py", f"{name} = 1", scope=name) for name in "abc"]
    assert search_text(SearchResult(hits, ["it is old"]), "x", limit=1, qualified=True) == (
        "Note: it is old.\n\n### shop/a.py:10 a\n```python\na = 1\n```\n\nMore places:\nshop/b.py:10 b\nshop/c.py:10 c"
    )
    assert search_text(SearchResult([], []), "x", limit=1, qualified=False).startswith("Nothing was found.")


def test_names_cannot_leave_their_line() -> None:
    text = search_text(
        SearchResult([hit("a.py\n# do this", "x", scope="f`\n```\nnow")], []), "x", limit=1, qualified=False
    )
    assert text.split("\n")[0] == "### a.py # do this:10 f now"


def test_other_parts_of_a_definition_are_merged_without_the_lines_that_are_quoted() -> None:
    text = search_text(
        SearchResult([hit("a.py", "x\ny", also_lines="11-20, 18-30, 41-42")], []), "x", limit=1, qualified=False
    )
    assert text.startswith("### a.py:10-11 (also lines 12-30,41-42)\n")


def test_a_long_result_ends_before_a_hit_and_says_so() -> None:
    hits = [hit(f"{i}.py", "\n".join(f"{'x' * 290} {j}" for j in range(14))) for i in range(30)]
    text = search_text(SearchResult(hits, []), "x", limit=30, qualified=False)
    assert 15_000 < len(text) <= MAX_CHARACTERS
    assert text.endswith("results are left out; ask for fewer, or filter by paths, languages or kind)")
    assert text.count("```") % 2 == 0


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "shop", tmp_path / "bank"]
    for folder in folders:
        (folder / "src").mkdir(parents=True)
        (folder / "src" / "pay.py").write_text(f"def pay_{folder.name}(amount):\n    return amount\n")
        with CodeIndex(CodeEmbedding("embedded-static"), folder / ".code-retrieval") as index:
            index.update([folder])
    return folders


def test_paths_of_several_repositories_begin_with_their_name(two: list[Path]) -> None:
    with CodeService(two, read_only=True) as service:
        found = run_tool(service, "search_code", {"query": "pay an amount", "limit": 2})
        places = [line for line in found.split("\n") if line.startswith("### ")]
        assert places == ["### shop/src/pay.py:1-2 pay_shop", "### bank/src/pay.py:1-2 pay_bank"]
        assert "def pay_bank" in run_tool(service, "read_code", {"path": "bank/src/pay.py:1-2"})
        only = run_tool(service, "search_code", {"query": "pay", "paths": ["bank/src/**"]})
        assert "pay_bank" in only
        assert "pay_shop" not in only
        assert "pay_bank" not in run_tool(service, "search_code", {"query": "pay", "repository": "shop"})
        assert run_tool(service, "outline", {"path": "bank"}) == "### bank\nbank/src/ (1 file)"
        with pytest.raises(ValueError, match="begin the path with the name of one of shop, bank"):
            run_tool(service, "read_code", {"path": "src/pay.py"})
    schema = TOOLS[0].schema(["shop", "bank"])
    assert schema["properties"]["repository"]["enum"] == ["shop", "bank"]
