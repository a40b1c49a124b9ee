"""Chunking: what is found in each language, and the law that no line is lost or changed."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import BaseNode, Document, MetadataMode, NodeRelationship, TextNode
from snippets import SNIPPETS

from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.languages.table import LANGUAGES


def parse(text: str, path: str = "a.py", **options: int) -> list[TextNode]:
    nodes = CodeNodeParser(**options).get_nodes_from_documents([Document(text=text, metadata={"path": path})])  # type: ignore[arg-type]
    return [node for node in nodes if isinstance(node, TextNode)]


def path_for(language: str) -> str:
    return f"a.{LANGUAGES[language].extensions[0]}"


def rows(nodes: Sequence[BaseNode]) -> list[tuple[str, str, int, int, str]]:
    return [tuple(n.metadata[key] for key in ("kind", "scope", "start_line", "end_line", "docstring")) for n in nodes]


def assert_law(text: str, path: str, **options: int) -> None:
    """No line is lost or changed, none is in a node of more than max_lines; ids differ, characters are exact."""
    nodes = parse(text, path, **options)
    lines = text.split("\n")
    covered: set[int] = set()
    for node in nodes:
        start, end = node.metadata["start_line"], node.metadata["end_line"]
        assert node.text == "\n".join(lines[start - 1 : end])
        assert node.text == text[node.start_char_idx : node.end_char_idx]
        assert lines[start - 1].strip()
        assert lines[end - 1].strip()
        assert end - start < options.get("max_lines", 60)
        covered.update(range(start, end + 1))
    assert covered >= {number for number, line in enumerate(lines, start=1) if line.strip()}
    assert len({node.node_id for node in nodes}) == len(nodes)


def test_nodes_of_a_python_file() -> None:
    assert rows(parse(SNIPPETS["python"])) == [
        ("module", "", 1, 4, ""),
        ("class", "Cart", 7, 13, "A cart.\n\nHolds items."),
        ("method", "Cart.__init__", 15, 16, ""),
        ("method", "Cart.total", 18, 21, "Sum of \\d prices."),
        ("class", "Cart", 23, 23, ""),
        ("class", "Cart.Line", 25, 25, ""),
        ("method", "Cart.Line.save", 26, 26, ""),
        ("function", "rate", 29, 36, ""),  # with the function inside
        ("module", "", 39, 39, ""),
        ("function", "drive", 41, 41, ""),
    ]


def test_closing_lines_go_with_the_node_before() -> None:
    assert rows(parse(SNIPPETS["cpp"], "a.cc")) == [
        ("module", "", 1, 3, ""),
        ("class", "Point", 5, 8, "A point."),
        ("method", "Point.Point", 9, 9, ""),
        ("class", "Point", 10, 10, ""),
        ("method", "Point.length", 12, 15, "The length."),
        ("method", "Point.operator==", 17, 17, ""),
        ("class", "Point", 19, 21, ""),
        ("method", "Point.~Point", 23, 25, ""),
        ("class", "Box", 27, 27, ""),
        ("method", "Box.at", 28, 29, ""),
        ("module", "", 31, 31, ""),
        ("function", "start", 32, 36, ""),
    ]
    assert rows(parse(SNIPPETS["ruby"], "a.rb"))[-1] == ("function", "helper", 33, 36, "")


def test_class_header_is_the_parent() -> None:
    nodes = {(n.metadata["scope"], n.metadata["start_line"]): n for n in parse(SNIPPETS["python"])}
    cart, line, save = nodes["Cart", 7], nodes["Cart.Line", 25], nodes["Cart.Line.save", 26]
    members = [nodes["Cart.__init__", 15], nodes["Cart.total", 18], nodes["Cart", 23], line]
    assert cart.parent_node is None
    assert [child.node_id for child in cart.child_nodes or []] == [node.node_id for node in members]
    assert {node.parent_node.node_id for node in members if node.parent_node} == {cart.node_id}
    assert save.parent_node is not None
    assert save.parent_node.node_id == line.node_id
    assert nodes["rate", 29].parent_node is None


def test_class_on_one_line_is_one_node() -> None:
    assert rows(parse("class A { int f() { return 1; } int g() { return 2; } }", "A.java")) == [
        ("class", "A", 1, 1, "")
    ]
    assert rows(parse("function f() {} function g() {}\n", "a.js")) == [("function", "f", 1, 1, "")]
    # a member that starts on the first line of a class of several lines leaves it a header of that line
    assert rows(parse("class A { int f() {\n return 1; }\n int x;\n}", "A.java")) == [
        ("class", "A", 1, 1, ""),
        ("method", "A.f", 1, 2, ""),
        ("class", "A", 3, 4, ""),
    ]


def test_long_function_is_split_between_statements() -> None:
    body = [f"    if a > {i}:\n        a = f(\n            {i},\n        )" for i in range(6)]  # four lines each
    text = "def g(a):\n    '''Go.'''\n" + "\n".join(body) + "\n    return a\n"
    parts = parse(text, max_lines=12, overlap_lines=3)
    # windows of 12 lines from 1, 8 and 16; the last `if` in the later half of each starts at 11, 19 and 27 (`return`)
    assert [(n.metadata["start_line"], n.metadata["end_line"]) for n in parts] == [(1, 10), (8, 18), (16, 27)]
    assert [(n.metadata["part"], n.metadata["parts"], n.metadata["scope"]) for n in parts] == [
        (1, 3, "g"),
        (2, 3, "g"),
        (3, 3, "g"),
    ]
    assert {n.metadata["docstring"] for n in parts} == {"Go."}
    assert [n.next_node.node_id for n in parts[:-1] if n.next_node] == [n.node_id for n in parts[1:]]
    assert [n.prev_node.node_id for n in parts[1:] if n.prev_node] == [n.node_id for n in parts[:-1]]
    assert "part" not in parse("def g(): pass")[0].metadata


def test_text_without_statements_is_cut_hard() -> None:
    text = "x = '''\n" + "a\n" * 18 + "'''"
    nodes = parse(text, max_lines=8, overlap_lines=2)
    assert [(n.metadata["start_line"], n.metadata["end_line"]) for n in nodes] == [(1, 8), (7, 14), (13, 20)]


def test_long_function_with_functions_inside_is_opened() -> None:
    inner = "\n".join(f"    def f{i}():\n        return {i}\n" for i in range(4))
    text = f"def outer():\n    'Doc.'\n    x = 1\n\n{inner}\n    return x\n"
    assert rows(parse(text, max_lines=100)) == [("function", "outer", 1, 17, "Doc.")]
    assert rows(parse(text, max_lines=8, overlap_lines=2)) == [
        ("function", "outer", 1, 3, "Doc."),
        ("function", "outer.f0", 5, 6, ""),
        ("function", "outer.f1", 8, 9, ""),
        ("function", "outer.f2", 11, 12, ""),
        ("function", "outer.f3", 14, 15, ""),
        ("function", "outer", 17, 17, ""),
    ]


def test_unknown_language_and_broken_code_become_windows() -> None:
    text = "\n".join(f"line {i}" for i in range(1, 21))
    nodes = parse(text, "notes.txt", max_lines=10, overlap_lines=4)
    assert [(n.metadata["start_line"], n.metadata["end_line"]) for n in nodes] == [(1, 10), (7, 16), (13, 20)]
    assert {(n.metadata["kind"], n.metadata["language"], n.metadata["scope"]) for n in nodes} == {
        ("window", "text", "")
    }
    broken = "@@ ) = {\n" * 20
    assert {n.metadata["kind"] for n in parse(broken, "a.go")} == {"window"}
    assert definitions(broken, "go") == []
    # one bad line is no reason to give up
    one_bad = SNIPPETS["java"].replace("private int rate = 2;", "private int = = 2;")
    assert "Tax.withTax" in {n.metadata["scope"] for n in parse(one_bad, "A.java")}


def test_language_from_metadata_then_path_then_field() -> None:
    parser = CodeNodeParser(language="ruby")
    code = "def f\nend\n"

    def languages(**metadata: object) -> set[str]:
        nodes = parser.get_nodes_from_documents([Document(text=code, metadata=metadata)])
        return {node.metadata["language"] for node in nodes}

    assert languages() == {"ruby"}
    assert languages(file_name="a.go") == {"go"}
    assert languages(file_path="a.go", language="php") == {"php"}
    assert languages(path="a.go", file_path="a.py", language="English") == {"go"}
    document = Document(text=code, doc_id="some-id")
    assert parser.get_nodes_from_documents([document])[0].metadata["path"] == "some-id"


@pytest.mark.parametrize(("max_lines", "overlap"), [(2, 0), (4, 1), (10, 2), (23, 5), (24, 6), (60, 6), (1000, 6)])
def test_the_default_overlap_follows_from_max_lines(max_lines: int, overlap: int) -> None:
    assert CodeNodeParser(max_lines=max_lines).overlap_lines == overlap


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_lines": 1}, "max_lines must be at least 2, got 1"),
        ({"max_lines": 10, "overlap_lines": 5}, r"overlap_lines must be .* \(10 // 2\), got 5; lower it or raise max"),
        ({"max_lines": 10, "overlap_lines": -1}, "overlap_lines must be at least 0 .* got -1"),
        ({"max_lines": "ten"}, "max_lines.* a valid integer, got 'ten'"),
        ({"language": "cobol"}, "unknown language 'cobol'; known are python, java"),
        ({"id_func": {"id_func_name": "mine"}}, "id_func: 'mine' cannot be restored from its name; pass id_func="),
    ],
)
def test_wrong_settings_are_refused_in_plain_words(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        CodeNodeParser(**settings)
    assert type(caught.value) is ValueError
    assert "pydantic" not in str(caught.value)


def test_settings_are_frozen_and_known() -> None:
    with pytest.raises(ValueError, match="max_lines cannot be changed afterwards") as caught:
        CodeNodeParser().max_lines = 1
    assert "pydantic" not in str(caught.value)
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_line'"):
        CodeNodeParser(**{"max_line": 10})
    with pytest.raises(ValueError, match="unknown language 'cobol'; known are python, java"):
        definitions("", "cobol")


def test_embedded_text_is_the_code_and_the_document_keeps_its_metadata() -> None:
    document = Document(text="def f():\n    return 1\n", metadata={"file_path": "src/a.py", "team": "x", "kind": "y"})
    [node] = CodeNodeParser().get_nodes_from_documents([document])
    assert node.metadata["team"] == "x"
    assert (node.metadata["kind"], node.metadata["path"]) == ("function", "src/a.py")
    assert node.get_content(metadata_mode=MetadataMode.EMBED) == "def f():\n    return 1"
    assert sorted(node.get_metadata_str(mode=MetadataMode.LLM).split("\n")) == [
        "end_line: 2",
        "path: src/a.py",
        "scope: f",
        "start_line: 1",
    ]
    assert node.source_node is not None
    assert node.source_node.node_id == document.node_id


def test_equal_texts_have_their_own_places() -> None:
    text = "class A:\n    def f(self): pass\n\nclass B:\n    def f(self): pass\n\nx = 1\nclass A:\n    y = 2\n"
    # `class A:` is the text of a node and the beginning of another
    for path in ("a.py", "a.txt"):
        assert_law(text, path)
    places = [n.start_char_idx for n in parse(text) if n.metadata["symbol"] == "f"]
    assert places == [text.index("    def"), text.rindex("    def")]


def test_ids_depend_on_the_file_alone() -> None:
    first, second = parse(SNIPPETS["go"], "a.go"), parse(SNIPPETS["go"], "a.go")
    assert [n.node_id for n in first] == [n.node_id for n in second]
    assert not {n.node_id for n in first} & {n.node_id for n in parse(SNIPPETS["go"], "b.go")}
    # sha256(b"a.py\0" b"1\0" b"1\0" b"x = 1")[:16], by hashlib
    assert parse("x = 1\n")[0].node_id == "c32852e1-6c01-cf69-ecf5-c1e3e9c66fd5"
    own = CodeNodeParser(id_func=lambda i, document: f"{document.node_id}-{i}")
    nodes = own.get_nodes_from_documents(
        [Document(text="x = 1\ndef f(): pass\n", doc_id="d", metadata={"path": "a.py"})]
    )
    assert [n.node_id for n in nodes] == ["d-0", "d-1"]


def test_pipeline_and_serialisation() -> None:
    parser = CodeNodeParser(max_lines=20, overlap_lines=2, language="go")
    again = CodeNodeParser.from_dict(parser.to_dict())
    assert parser.class_name() == parser.to_dict()["class_name"] == "CodeNodeParser"
    assert (again.max_lines, again.overlap_lines, again.language) == (20, 2, "go")
    assert CodeNodeParser.from_json(parser.to_json()).to_dict() == parser.to_dict()
    with pytest.raises(ValueError, match="pass id_func="):
        CodeNodeParser.from_dict({**parser.to_dict(), "id_func": {"id_func_name": "mine", "title": "id_func"}})
    documents = [Document(text=SNIPPETS[name], metadata={"path": path_for(name)}) for name in SNIPPETS]
    nodes = IngestionPipeline(transformations=[parser]).run(documents=documents)
    assert [n.node_id for n in nodes] == [n.node_id for n in again.get_nodes_from_documents(documents)]
    assert {n.metadata["language"] for n in nodes} == set(SNIPPETS)
    assert [TextNode.from_dict(n.to_dict()) for n in nodes] == nodes
    # a node of another transformation is as good as a document
    [node] = parser([TextNode(text="x = 1", metadata={"path": "a.py"})])
    assert node.get_content(metadata_mode=MetadataMode.NONE) == "x = 1"


ODD = {
    "empty": "",
    "blank": " \n\t\n\x0c\n",
    "null": "def f():\n\0\0 pass\n",
    "surrogate": "def f():\n  '''\ud800'''\n  return '\udfff'\n",
    "crlf": "def f():\r\n    return 1\r\n",
    "cr": "def f():\r    return 1\r",
    "form feed": "\x0cdef f():\n  pass\n\x0c\nx\x0b\x85 = 1\u2028y = 2",
    "long line": "x = " + "1+" * 50_000 + "1",
    "word": "a" * 100_000,
    "parentheses": "(" * 20_000 + ")" * 20_000,
    "parentheses on lines": "(\n" * 5_000,
    "classes": "class A {\n" * 1_500 + "}\n" * 1_500,
    "functions": "function a() {\n" * 1_500 + "}\n" * 1_500,
    "closers": "}" + ")" * 300 + "x\n" + " " * 2_000 + "\n}" * 50,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_inputs(name: str) -> None:
    for language in ("python", "javascript", "go", "cpp"):
        definitions(ODD[name], language)
        assert_law(ODD[name], path_for(language))
    assert_law(ODD[name], "a.txt")


def test_blank_files_have_no_nodes() -> None:
    for path in ("a.py", "a.rb", "a.txt"):
        assert parse("", path) == parse(ODD["blank"], path) == []


PARTS = st.one_of(
    st.sampled_from(sorted(SNIPPETS.values())).flatmap(
        lambda text: st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(
            lambda c: text[min(c) : max(c)]
        )
    ),
    st.text(max_size=30),
    st.sampled_from(["}\n", "{", "\n\n", "class A { int f() {", "*/", "'''", "end\n", "\r\n", "\0", "#endif\n"]),
)


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(PARTS, max_size=5).map("".join),
    language=st.sampled_from(sorted(SNIPPETS)),
    lines=st.sampled_from([(2, 0), (7, 2), (60, 6)]),
)
@example(text="def f(): pass\n\n\n\n\n\n\n\n\nx\n", language="python", lines=(2, 0))
def test_no_line_is_lost_or_changed(text: str, language: str, lines: tuple[int, int]) -> None:
    assert_law(text, path_for(language), max_lines=lines[0], overlap_lines=lines[1])
    for definition in definitions(text, language):
        assert 1 <= definition.start_line <= definition.end_line <= text.count("\n") + 1
        assert definition.symbol


@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_no_line_of_any_text_is_lost(text: str) -> None:
    for path in ("a.py", "a.php", "a.txt"):
        assert_law(text, path, max_lines=4, overlap_lines=1)


def test_real_files() -> None:
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    files = random.Random(0).sample(sorted(library.glob("*.py")), 40)
    files += [library / name for name in ("typing.py", "argparse.py", "turtle.py")]
    for pattern in ("sklearn/**/*.cpp", "sklearn/**/*.js", "numpy/**/*.h", "numpy/**/*.c", "torch/include/c10/**/*.h"):
        found = sorted(packages.glob(pattern))
        files += random.Random(0).sample(found, min(8, len(found)))
    for file in files:
        assert_law(file.read_text(encoding="utf-8", errors="replace"), str(file))


def test_standard_library_functions_are_found() -> None:
    source = inspect.getsource(textwrap)
    nodes = {n.metadata["scope"]: n for n in parse(source, "textwrap.py")}
    for function in (textwrap.wrap, textwrap.dedent, textwrap.indent, textwrap.TextWrapper.fill):
        lines, start = inspect.getsourcelines(function)
        node = nodes[function.__qualname__]
        assert node.metadata["docstring"][:2000] == inspect.getdoc(function)
        assert node.metadata["start_line"] == start
        assert node.text.strip() == "".join(lines).strip()


def test_grammars_are_loaded_on_first_use() -> None:
    code = "import sys, llamaindex_code_retrieval.chunking; print([m for m in sys.modules if 'tree_sitter_' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_relations_name_nodes_that_exist() -> None:
    for language, text in SNIPPETS.items():
        nodes = parse(text, path_for(language), max_lines=6, overlap_lines=1)
        ids = {n.node_id for n in nodes}
        for node in nodes:
            related = [node.parent_node, node.prev_node, node.next_node, *(node.child_nodes or [])]
            assert {each.node_id for each in related if each} <= ids - {node.node_id}
        assert NodeRelationship.PREVIOUS not in nodes[0].relationships
