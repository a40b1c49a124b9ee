"""Parse texts into nodes, describe them, and check the law that holds for the nodes of every text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.schema import BaseNode, Document, MetadataMode, TextNode

from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.languages.bounds import CHARACTERS_PER_LINE, MAX_LINE_PARTS
from llamaindex_code_retrieval.languages.table import LANGUAGES


def parse(text: str, path: str = "a.py", **options: Any) -> list[TextNode]:
    """Return the nodes of a file."""
    return parse_document(Document(text=text, metadata={"path": path}), **options)


def parse_document(*documents: BaseNode, **options: Any) -> list[TextNode]:
    """Return the nodes of documents."""
    nodes = CodeNodeParser(**options)(documents)
    assert all(isinstance(node, TextNode) for node in nodes)
    return [node for node in nodes if isinstance(node, TextNode)]


def path_for(language: str) -> str:
    """Return the path of a file of a language."""
    row = LANGUAGES[language]
    return f"a.{row.extensions[0]}" if row.extensions else row.file_names[0]


def rows(nodes: Sequence[BaseNode]) -> list[tuple[str, str, int, int, str]]:
    """Return kind, scope, first line, last line and docstring of nodes."""
    return [tuple(n.metadata[key] for key in ("kind", "scope", "start_line", "end_line", "docstring")) for n in nodes]


def lines_of(nodes: Sequence[BaseNode]) -> list[tuple[int, int]]:
    """Return first and last line of nodes."""
    return [(node.metadata["start_line"], node.metadata["end_line"]) for node in nodes]


def assert_law(text: str, path: str, **options: Any) -> list[TextNode]:
    """No line is lost or changed and no node exceeds the bounds; ids differ, characters are exact.

    A node is whole lines, or a part of one line that is too long. Of a line of more than 50 parts 50 are kept.
    """
    nodes = parse(text, path, **options)
    max_lines = options.get("max_lines", 60)
    lines = text.split("\n")
    starts = [sum(len(line) + 1 for line in lines[:number]) for number in range(len(lines))] if len(lines) < 50 else []
    tokenize: Callable[[str], Sequence[Any]] = options.get("tokenizer", lambda _: "")
    covered: set[int] = set()
    cut: dict[int, list[str]] = defaultdict(list)
    for node in nodes:
        start, end = node.metadata["start_line"], node.metadata["end_line"]
        assert node.text == text[node.start_char_idx : node.end_char_idx]
        assert node.text.strip()
        assert end - start < max_lines
        assert len(node.text) <= CHARACTERS_PER_LINE * max_lines
        assert len(tokenize(node.get_content(MetadataMode.EMBED))) <= options.get("max_tokens", 0)
        whole = "\n".join(lines[start - 1 : end])
        if node.text == whole:
            assert lines[start - 1].strip()
            assert lines[end - 1].strip()
            covered.update(range(start, end + 1))
        else:
            assert start == end
            assert node.text in whole
            if starts:
                assert starts[start - 1] <= (node.start_char_idx or 0) <= starts[start - 1] + len(whole)
            cut[start].append(node.text)
    for number, parts in cut.items():
        characters = "".join("".join(parts).split())
        line = "".join(lines[number - 1].split())
        assert len(parts) <= MAX_LINE_PARTS
        assert line == characters if len(parts) < MAX_LINE_PARTS else line.startswith(characters)
    assert covered | cut.keys() >= {number for number, line in enumerate(lines, start=1) if line.strip()}
    assert len({node.node_id for node in nodes}) == len(nodes)
    return nodes
