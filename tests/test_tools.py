"""Tools for agents show what the index has, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.llms import MockLLM

from llamaindex_code_retrieval import CodeIndex
from llamaindex_code_retrieval.chat.tools import code_tools
from tests.indexes import HashEmbedding

CART = "import tax\n\n\ndef total(prices):\n    return tax.add(sum(prices))\n\n\n"
CART += "def receipt(cart):\n    return total(cart)\n"


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[dict[str, Any]]:
    root = tmp_path / "shop"
    (root / "src").mkdir(parents=True)
    (root / "src" / "cart.py").write_text(CART)
    (root / "src" / "long.py").write_text("\n".join(f"x{i} = {i}" for i in range(500)) + "\n")
    (tmp_path / "secret.py").write_text("password = 'hush'\n")
    (root / "link.py").symlink_to(tmp_path / "secret.py")
    with CodeIndex(HashEmbedding(), tmp_path / "idx") as index:
        index.update([root])
        yield {tool.metadata.name: tool for tool in code_tools(index, llm=MockLLM())}


def call(tool: Any, *arguments: Any, **options: Any) -> str:
    text = tool.call(*arguments, **options).content
    assert asyncio.run(tool.acall(*arguments, **options)).content == text
    return str(text)


def test_every_tool_says_what_it_is_for_and_takes(tools: dict[str, Any]) -> None:
    assert list(tools) == ["search_code", "read_code", "find_related", "list_files", "ask_code"]
    assert set(tools["search_code"].metadata.get_parameters_dict()["properties"]) == {"question", "top_k"}
    assert "PATH:FIRST-LAST" in tools["read_code"].metadata.description


def test_search_returns_passages_with_places(tools: dict[str, Any]) -> None:
    found = call(tools["search_code"], "total", top_k=20)
    assert found.startswith("[1] src/")
    assert " src/cart.py:1,4-5 total (quoted code)\n" in found
    assert "def total(prices):" in found
    assert call(tools["search_code"], " ").startswith("error: the question is empty")
    assert len(call(tools["search_code"], "x", top_k=10**9)) < 20_000


def test_read_returns_a_definition_lines_or_a_file(tools: dict[str, Any]) -> None:
    read = tools["read_code"]
    assert call(read, "src/cart.py:5") == (
        "src/cart.py:4-5\n    4 def total(prices):\n    5     return tax.add(sum(prices))"
    )
    assert call(read, "src/cart.py:5-8") == (
        "src/cart.py:5-8\n    5     return tax.add(sum(prices))\n    6\n    7\n    8 def receipt(cart):"
    )
    whole = call(read, "src/cart.py").split("\n")
    assert [line[6:] for line in whole[1:]] == CART.rstrip().split("\n")


def test_a_long_file_is_read_in_pieces(tools: dict[str, Any]) -> None:
    text = call(tools["read_code"], "src/long.py")
    assert text.split("\n")[200] == "  200 x199 = 199"
    assert text.endswith("(300 more lines: read src/long.py:201-500)")
    assert call(tools["read_code"], "src/long.py:201-500").split("\n")[1] == "  201 x200 = 200"


@pytest.mark.parametrize("place", ["../secret.py", "/etc/passwd", "link.py", "src/../../secret.py", "none.py", ""])
def test_nothing_outside_the_index_is_read(tools: dict[str, Any], place: str, tmp_path: Path) -> None:
    for text in (call(tools["read_code"], place), call(tools["read_code"], str(tmp_path / "secret.py"))):
        assert text.startswith("error: ")
        assert "hush" not in text


def test_related_names_place_and_reason(tools: dict[str, Any]) -> None:
    assert "src/cart.py:8-9 receipt (" in call(tools["find_related"], "src/cart.py:4")
    assert call(tools["find_related"], "src/nothing.py:1").startswith("error: ")


def test_files_are_listed_by_glob(tools: dict[str, Any]) -> None:
    assert call(tools["list_files"]) == "src/cart.py\nsrc/long.py"
    assert call(tools["list_files"], glob="c*.py") == "src/cart.py"
    assert "no file matches" in call(tools["list_files"], glob="*.go")
    assert call(tools["list_files"], glob="!*.py").startswith("error: ")


def test_a_list_of_many_files_is_cut() -> None:
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts({f"f{i:03}.py": f"x = {i}\n" for i in range(230)})
        [tool] = [tool for tool in code_tools(index) if tool.metadata.name == "list_files"]
        lines = call(tool).split("\n")
    assert (len(lines), lines[-1]) == (201, "(30 more; restrict them by a glob)")
