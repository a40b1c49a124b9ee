"""Chunking: what is found in each language, and the law that no line is lost or changed."""

from __future__ import annotations

import hashlib
import inspect
import json
import random
import subprocess
import sys
import sysconfig
import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import Document, TextNode
from nodes import assert_law, lines_of, parse, parse_document, path_for, rows
from snippets import SAMPLES, SNIPPETS

from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.languages.outline import KINDS
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES

SHOP = """\
import os

RATE = 2


class Cart:
    '''A cart.'''

    size = 0

    def total(self):
        '''The sum.'''
        return self.size * RATE

    limit = 9

    class Line:
        def save(self):
            self.saved = True
            return self


def rate(items):
    def one(item):
        return item.rate

    return map(one, items)


print(rate([]))
"""


def test_nodes_of_a_python_file() -> None:
    assert rows(parse(SHOP)) == [
        ("module", "", 1, 3, ""),
        ("class", "Cart", 6, 9, "A cart."),
        ("method", "Cart.total", 11, 15, "The sum."),  # with the line after it
        ("class", "Cart.Line", 17, 17, ""),
        ("method", "Cart.Line.save", 18, 20, ""),
        ("function", "rate", 23, 27, ""),  # with the function inside
        ("module", "", 30, 30, ""),
    ]


def test_closing_lines_go_with_the_node_before() -> None:
    text = """\
#ifdef API
#define SIZE 9

struct Point {
  Point() {
    x = SIZE;
  }

  int x;

  void move() {
    x++;
  }
};
#elif defined(OLD)
int start() {
  return 0;
}
#endif  // API
"""
    assert rows(parse(text, "a.cc")) == [
        ("module", "", 1, 2, ""),
        ("class", "Point", 4, 4, ""),
        ("method", "Point.Point", 5, 9, ""),
        ("method", "Point.move", 11, 15, ""),
        ("function", "start", 16, 19, ""),
    ]
    ruby = "module A\n  def f\n    1\n  end\n\n  private\n\n  def g\n    2\n  end\nend\n"
    assert lines_of(parse(ruby, "a.rb")) == [(1, 1), (2, 6), (8, 11)]


def test_the_short_header_of_a_test_group_goes_with_its_first_test() -> None:
    tests = "".join(f"    it('does {i}', () => {{\n      f({i})\n    }})\n\n" for i in range(3))
    text = f"describe('cart', () => {{\n  describe('total', () => {{\n{tests}  }})\n}})\n"
    assert rows(parse(text, "a.test.js")) == [
        ("function", "describe cart.describe total.it does 0", 1, 5, ""),
        ("function", "describe cart.describe total.it does 1", 7, 9, ""),
        ("function", "describe cart.describe total.it does 2", 11, 16, ""),
    ]
    assert lines_of(parse(text, "a.test.js", max_lines=4)) == [(1, 1), (2, 5), (7, 9), (11, 13), (15, 16)]
    longer = text.replace("{\n  describe", "{\n  const a = 1\n  const b = 2\n  describe")
    assert lines_of(parse(longer, "a.test.js"))[:2] == [(1, 3), (4, 7)]


def test_a_closing_line_does_not_make_a_node_too_large() -> None:
    body = "".join(f"    int a{i} = {i};\n" for i in range(8))
    text = f"class A {{\n  void f() {{\n{body}  }}\n}}\n"
    assert lines_of(parse(text, "A.java", max_lines=11)) == [(1, 1), (2, 12)]
    assert lines_of(parse(text, "A.java", max_lines=10)) == [(1, 1), (2, 11), (12, 12)]


def test_prototypes_without_a_comment_stay_with_the_code_around_them() -> None:
    text = """\
interface Cart {
  size(): number;
  /** The sum. */
  total(): number;
  rate(): number;
}
"""
    assert rows(parse(text, "cart.ts")) == [
        ("class", "Cart", 1, 2, ""),
        ("method", "Cart.total", 3, 6, "The sum."),
    ]


def test_class_on_one_line_is_one_node() -> None:
    assert rows(parse("class A { int f() { return 1; } int g() { return 2; } }", "A.java")) == [
        ("class", "A", 1, 1, "")
    ]
    assert rows(parse("class A {\n  f() {} g() {}\n}\n", "a.js")) == [
        ("class", "A", 1, 1, ""),
        ("method", "A.f, g", 2, 3, ""),
    ]
    nodes = parse("".join(f"function f{i}() {{}} " for i in range(500)), "a.js")
    assert {node.metadata["symbol"][:6] for node in nodes} == {"f0, f1"}
    assert len(nodes[0].metadata["symbol"]) <= 103
    # a member that starts on the first line of a class of several lines leaves it a header of that line
    assert rows(parse("class A { int f() {\n return 1; }\n int x;\n int y;\n}", "A.java")) == [
        ("class", "A", 1, 1, ""),
        ("method", "A.f", 1, 2, ""),
        ("class", "A", 3, 5, ""),
    ]


def test_long_function_is_split_between_statements() -> None:
    body = [f"    if a > {i}:\n        a = f(\n            {i},\n        )" for i in range(6)]  # four lines each
    text = "def g(a):\n    '''Go.'''\n" + "\n".join(body) + "\n    return a\n"
    parts = parse(text, max_lines=12, overlap_lines=3)
    # 27 lines need 3 parts of 11, of which 3 are the part before's; the `if`s start in lines 3, 7, 11, 15, 19 and 23
    assert lines_of(parts) == [(1, 10), (8, 18), (16, 27)]
    assert [(n.metadata["part"], n.metadata["parts"], n.metadata["scope"]) for n in parts] == [
        (1, 3, "g"),
        (2, 3, "g"),
        (3, 3, "g"),
    ]
    assert {n.metadata["docstring"] for n in parts} == {"Go."}
    assert [n.next_node.node_id for n in parts[:-1] if n.next_node] == [n.node_id for n in parts[1:]]
    assert [n.prev_node.node_id for n in parts[1:] if n.prev_node] == [n.node_id for n in parts[:-1]]
    assert "part" not in parse("def g(): pass")[0].metadata


def test_long_function_with_functions_inside_is_opened() -> None:
    inner = "\n".join(f"    def f{i}():\n        a = {i}\n        return a\n" for i in range(3))
    text = f"def outer():\n    'Doc.'\n    x = 1\n\n{inner}\n    y = 2\n\n    def short(): return 3\n\n    return x\n"
    assert rows(parse(text, max_lines=100)) == [("function", "outer", 1, 21, "Doc.")]
    assert rows(parse(text, max_lines=8, overlap_lines=2)) == [
        ("function", "outer", 1, 3, "Doc."),
        ("function", "outer.f0", 5, 7, ""),
        ("function", "outer.f1", 9, 11, ""),
        ("function", "outer.f2", 13, 15, ""),
        ("function", "outer", 17, 21, ""),  # with a function of one line
    ]


def test_a_class_inside_an_opened_function_is_one_node() -> None:
    model = "    class Model:\n        def a(self):\n            x = 1\n            return x\n\n        b = 2\n"
    text = f"def f():\n    x = 1\n    y = 2\n    z = 3\n{model}    g(Model)\n\n{model}    return 1\n"
    assert rows(parse(text, max_lines=7, overlap_lines=1)) == [
        ("function", "f", 1, 4, ""),
        ("class", "f.Model", 5, 11, ""),  # with a line of the function after it
        ("class", "f.Model", 13, 19, ""),
    ]


@pytest.mark.parametrize("language", CODE_LANGUAGES)
def test_definitions_of_each_language_become_nodes(language: str) -> None:
    document = Document(text=SNIPPETS[language], metadata={"path": path_for(language), "language": language})
    scopes = {node.metadata["scope"] for node in parse_document(document)}
    assert scopes & {definition.scope for definition in definitions(SNIPPETS[language], language)}


def test_the_kinds_of_nodes_are_those_that_filters_know() -> None:
    samples = [sample for sample in SAMPLES if sample.stem == "sample"]
    kinds = {node.metadata["kind"] for sample in samples for node in parse(sample.read_text("utf-8"), sample.name)}
    assert kinds | {"window"} == set(KINDS)


def test_unknown_language_and_broken_code_become_windows() -> None:
    text = "\n".join(f"line {i}" for i in range(1, 21))
    nodes = parse(text, "notes.unknown", max_lines=10, overlap_lines=4)
    assert {(n.metadata["kind"], n.metadata["language"], n.metadata["scope"]) for n in nodes} == {
        ("window", "text", "")
    }
    broken = "@@ ) = {\n" * 20
    assert {n.metadata["kind"] for n in parse(broken, "a.go")} == {"window"}
    assert definitions(broken, "go") == []
    # one bad line is no reason to give up
    one_bad = SHOP.replace("limit = 9", "limit = = 9")
    assert "Cart.Line.save" in {n.metadata["scope"] for n in parse(one_bad)}


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
        ({"max_tokens": 8, "tokenizer": str.split}, "max_tokens must be at least 16, got 8"),
        ({"max_tokens": 99}, "max_tokens=99 needs the tokenizer that counts them; pass tokenizer="),
        ({"tokenizer": str.split}, "tokenizer has no effect without max_tokens; pass max_tokens=, or leave it out"),
        ({"max_parent_lines": 60}, r"max_parent_lines must be more than max_lines \(60\), got 60"),
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


def test_equal_texts_have_their_own_places() -> None:
    text = "class A:\n    def f(self): pass\n\nclass B:\n    def f(self): pass\n\nx = 1\nclass A:\n    y = 2\n"
    # `class A:` is the text of a node and the beginning of another
    for path in ("a.py", "a.txt"):
        assert_law(text, path)
    places = [n.start_char_idx for n in parse(text) if n.metadata["symbol"] == "f"]
    assert places == [text.index("    def"), text.rindex("    def")]


def test_an_edit_changes_the_ids_of_the_nodes_in_which_it_is() -> None:
    text = "def a(): pass\n\n\ndef same(): pass\n\n\ndef same(): pass\n\n\ndef z(): pass\n"
    edited = "import os\n\n\n" + text.replace("def z(): pass", "def z(): return 1")
    before, after = ([node.node_id for node in parse(each)] for each in (text, edited))
    assert len(set(before)) == 4
    assert after[1:4] == before[:3]
    assert after[4] not in before


def test_ids_depend_on_content_and_path() -> None:
    first, second = parse(SHOP), parse(SHOP)
    assert [n.node_id for n in first] == [n.node_id for n in second]
    assert not {n.node_id for n in first} & {n.node_id for n in parse(SHOP, "b.py")}
    # the first 16 bytes of the SHA-256, as a UUID of version 5, of chosen id, path, metadata; whole or not; text
    content = b'["", "a.py", {}]\0False\0x = 1'
    expected = uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=5)
    assert str(expected) == parse("x = 1\n")[0].node_id == "fd76352b-9dd7-59ec-b97a-5db013212ffc"
    own = CodeNodeParser(id_func=lambda i, document: f"{document.node_id}-{i}")
    nodes = own.get_nodes_from_documents(
        [Document(text="x = 1\ndef f(): pass\n", doc_id="d", metadata={"path": "a.py"})]
    )
    assert [n.node_id for n in nodes] == ["d-0", "d-1"]


def ids(*documents: Document) -> list[str]:
    return [node.node_id for node in parse_document(*documents)]


def test_equal_files_of_two_repositories_have_different_ids() -> None:
    text = "def f():\n    return 1\n"
    one, two = (Document(text=text, metadata={"file_name": "a.py", "repository": name}) for name in ("one", "two"))
    assert ids(one) != ids(two)
    assert ids(one, two) == [*ids(one), *ids(two)]
    assert ids(Document(text=text, doc_id="one/a.py")) != ids(Document(text=text, doc_id="two/a.py"))
    # equal in all but their random ids
    first, second = Document(text=text, metadata={"path": "a.py"}), Document(text=text, metadata={"path": "a.py"})
    assert ids(first) == ids(second)
    assert len(set(ids(first, second, first))) == 3
    assert ids(first, second) == ids(second, first)


def test_ids_do_not_depend_on_times() -> None:
    stable = {"file_path": "/src/a.py", "file_type": "text/x-python"}
    names = ("creation_date", "last_modified_date", "last_accessed_date", "file_size")
    old, new = (Document(text="x = 1\n", metadata={**stable, **dict.fromkeys(names, value)}) for value in ("1", "2"))
    assert ids(old) == ids(new)


def test_pipeline_and_serialisation() -> None:
    parser = CodeNodeParser(max_lines=20, overlap_lines=2, language="go")
    again = CodeNodeParser.from_dict(parser.to_dict())
    assert parser.class_name() == parser.to_dict()["class_name"] == "CodeNodeParser"
    assert (again.max_lines, again.overlap_lines, again.language) == (20, 2, "go")
    assert CodeNodeParser.from_json(parser.to_json()).to_dict() == parser.to_dict()
    with pytest.raises(ValueError, match="pass id_func="):
        CodeNodeParser.from_dict({**parser.to_dict(), "id_func": {"id_func_name": "mine", "title": "id_func"}})
    bounded = CodeNodeParser(max_tokens=20, tokenizer=str.split)
    assert json.loads(bounded.to_json())["max_tokens"] == 20
    with pytest.raises(ValueError, match="max_tokens=20 needs the tokenizer"):
        CodeNodeParser.from_dict(bounded.to_dict())
    again = CodeNodeParser.from_dict(bounded.to_dict(), tokenizer=str.split)
    assert (again.to_dict(), again.tokenizer) == (bounded.to_dict(), str.split)
    documents = [Document(text=SNIPPETS[name], metadata={"path": path_for(name)}) for name in SNIPPETS]
    nodes = IngestionPipeline(transformations=[parser]).run(documents=documents)
    assert [n.node_id for n in nodes] == [n.node_id for n in parser.get_nodes_from_documents(documents)]
    assert {n.metadata["language"] for n in nodes} == set(SNIPPETS)
    assert [TextNode.from_dict(n.to_dict()) for n in nodes] == nodes
    # a node of another transformation is as good as a document
    assert [node.text for node in parse_document(TextNode(text="x = 1", metadata={"path": "a.py"}))] == ["x = 1"]


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
    "assignments": "this.a = this.b.c('x', [ " * 800 + " ])" * 800 + "\nfunction f() {}\n",
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
