"""Notebooks: what becomes nodes of their cells, and where it stands in the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.schema import BaseNode, Document, MetadataMode, TextNode
from snippets import FOLDER

from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.languages.notebooks import read_notebook
from llamaindex_code_retrieval.languages.outline import descendants

SAMPLE = (FOLDER / "notebook" / "sample.ipynb").read_text(encoding="utf-8")


def notebook(*cells: tuple[str, str], **metadata: Any) -> dict[str, Any]:
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": metadata,
        "cells": [
            {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}
            | ({"outputs": [], "execution_count": None} if kind == "code" else {})
            for kind, source in cells
        ],
    }


def parse(text: str, **options: Any) -> list[BaseNode]:
    return CodeNodeParser(**options).get_nodes_from_documents([Document(text=text, metadata={"path": "a.ipynb"})])


def places(nodes: Sequence[BaseNode]) -> list[tuple[Any, ...]]:
    keys = ("kind", "scope", "start_line", "end_line", "cell", "cell_start_line", "last_cell", "cell_end_line")
    return [tuple(node.metadata[key] for key in keys) for node in nodes]


def definitions(*cells: tuple[str, str], **metadata: Any) -> list[str]:
    found = read_notebook(json.dumps(notebook(*cells, **metadata)))
    assert found is not None
    return [item.scope for item in descendants(found.outline.top) if item.kind in ("function", "method", "class")]


def test_nodes_of_a_notebook() -> None:
    nodes = parse(SAMPLE)
    assert places(nodes) == [
        ("section", "Carts", 8, 10, 1, 1, 1, 3),
        ("cell", "Carts", 20, 23, 2, 1, 2, 4),
        ("cell", "Carts > Totals", 39, 39, 4, 1, 4, 1),
        ("class", "Cart", 58, 59, 5, 1, 5, 2),
        ("method", "Cart.total", 61, 63, 5, 4, 5, 6),
        ("function", "rate", 66, 68, 5, 9, 5, 11),
        ("cell", "Carts > Totals", 70, 70, 5, 13, 5, 13),
        ("cell", "Carts > Totals", 80, 88, 6, 1, 7, 1),
        ("cell", "Carts > Totals", 108, 108, 9, 1, 9, 1),
        ("function", "install", 109, 111, 9, 2, 9, 4),
        ("cell", "Carts > Totals", 121, 121, 10, 1, 10, 1),
    ]
    assert (
        nodes[1]
        .get_content(MetadataMode.LLM)
        .startswith("path: a.ipynb\nscope: Carts\nstart_line: 20\nend_line: 23\ncell: 2\n")
    )


def test_lines_point_into_the_file() -> None:
    lines = SAMPLE.split("\n")
    for node in parse(SAMPLE):
        first, last = node.metadata["start_line"], node.metadata["end_line"]
        text = node.get_content(MetadataMode.NONE).split("\n")
        assert json.dumps(text[0])[1:-1] in lines[first - 1]
        assert json.dumps(text[-1])[1:-1] in lines[last - 1]
        assert (node.start_char_idx, node.end_char_idx) == (None, None) if isinstance(node, TextNode) else False


def test_outputs_and_raw_cells_are_left_out() -> None:
    text = "\n".join(node.get_content(MetadataMode.NONE) for node in parse(SAMPLE))
    assert "left out" not in text
    assert "source: print" not in text


CELLS = st.lists(
    st.tuples(
        st.sampled_from(["code", "markdown", "raw"]),
        st.lists(
            st.sampled_from(
                ["# A", "## B", "text", "def f():", "    return '\"\\\\'", "", "%time x", "\té\u2028", "{", "source"]
            ),
            max_size=6,
        ).map("\n".join),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(cells=CELLS, indent=st.sampled_from([None, 1]), lines=st.sampled_from([2, 60]))
def test_every_line_of_a_cell_is_in_a_node(cells: list[tuple[str, str]], indent: int | None, lines: int) -> None:
    text = json.dumps(notebook(*cells), indent=indent)
    file_lines = text.split("\n")
    left = {
        (number, row)
        for number, (kind, source) in enumerate(cells, start=1)
        for row, line in enumerate(source.split("\n"), start=1)
        if kind != "raw" and line.strip()
    }
    nodes = parse(text, max_lines=lines)
    for node in nodes:
        _, _, start, end, cell, first, last_cell, last = places([node])[0]
        expected: list[str] = []
        for number in range(cell, last_cell + 1):
            kind, source = cells[number - 1]
            rows = source.split("\n")
            row_range = range(first if number == cell else 1, (last if number == last_cell else len(rows)) + 1)
            if kind != "raw" and source.strip():
                expected += (
                    ["", *(rows[row - 1] for row in row_range)] if expected else [rows[row - 1] for row in row_range]
                )
                left -= {(number, row) for row in row_range}
        assert node.get_content(MetadataMode.NONE) == "\n".join(expected)
        assert json.dumps(expected[0])[1:-1] in file_lines[start - 1]
        assert json.dumps(expected[-1])[1:-1] in file_lines[end - 1]
    assert not left
    assert len({node.node_id for node in nodes}) == len(nodes)


def test_magics_do_not_hide_definitions() -> None:
    source = (
        "%load_ext x\n!pip install y\ndef f():\n    %time g()\n    a = !ls\n    g?\n    return a % b\nclass A: pass"
    )
    assert definitions(("code", source)) == ["f", "A"]
    assert definitions(("code", "%%time\ndef f(): pass"), ("code", "%%bash\nrun() {\n  ls\n}")) == ["f", "run"]
    assert definitions(("code", "%%writefile a/b.rb\ndef go\nend"), ("code", "%%writefile notes\ndef f(): pass")) == [
        "go"
    ]


def test_code_is_in_the_language_of_the_kernel() -> None:
    ruby, java = ("code", "def go\nend"), ("code", "class A { }")
    assert definitions(ruby, kernelspec={"language": "ruby"}) == ["go"]
    assert definitions(java, language_info={"name": "Java"}) == ["A"]
    assert definitions(("code", "class A {};"), language_info={"name": "C++17", "file_extension": ".cpp"}) == ["A"]
    assert definitions(("code", "def f(): pass"), kernelspec=None, language_info={"name": "ipython"}) == ["f"]
    assert definitions(("code", "def f(): pass"), kernelspec={"language": "unheard of"}) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"nbformat": 9, "cells": []}',
        '{"nbformat": 4, "nbformat_minor": 5, "cells": null}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": [], "cells": [1, "x", null]}',
        '{"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "heading"}]}]}',
        SAMPLE[: len(SAMPLE) // 2],
        "[" * 100_000,
        "def f():\n    pass\n",
    ],
)
def test_what_is_not_a_notebook_is_read_as_text(text: str) -> None:
    assert read_notebook(text) is None or '"nbformat": 3' in text
    nodes = parse(text)
    assert bool(nodes) == bool(text.strip())


def test_notebook_without_cells_has_no_nodes() -> None:
    assert parse(json.dumps(notebook())) == []
    assert parse(json.dumps(notebook(("code", ""), ("markdown", " \n")))) == []


def test_dividing_a_node_of_a_notebook_keeps_its_place() -> None:
    code = "\n".join(f"x{i} = {i}" for i in range(40))
    [node] = parse(json.dumps(notebook(("markdown", "# A"), ("code", code)), indent=1))
    parts = CodeNodeParser(max_lines=10)([node])
    assert len(parts) > 3
    assert set(places(parts)) == set(places([node])) == {("cell", "A", 10, 56, 1, 1, 2, 40)}


def test_parent_nodes_of_a_notebook() -> None:
    text = json.dumps(
        notebook(("markdown", "# A\n\n" + "Words. " * 20), *[("code", f"a = {i}\nb = {i}") for i in range(3)])
    )
    nodes = parse(text, max_parent_lines=100)
    assert [node.metadata["scope"] for node in nodes] == ["A", "A", "A", "A", "A"]
    assert [child.node_id for child in nodes[0].child_nodes or []] == [node.node_id for node in nodes[1:]]
