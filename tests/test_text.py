"""Outlines of documents, configuration, markup and plain text: samples of every format, and laws for any text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llama_index.core.schema import Document
from snippets import SAMPLES, describe_outline, describe_sample, outline_file

from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.languages.outline import Item, descendants
from llamaindex_code_retrieval.languages.pages import page_outline
from llamaindex_code_retrieval.languages.syntax import parse
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, LANGUAGES, language_of
from llamaindex_code_retrieval.languages.text import outline_text

TEXT_LANGUAGES = tuple(name for name in LANGUAGES if name not in CODE_LANGUAGES)
TEXT_SAMPLES = [sample for sample in SAMPLES if sample.parent.name in TEXT_LANGUAGES]
SOURCES = {sample: sample.read_bytes().decode() for sample in TEXT_SAMPLES}


def scopes(source: str, language: str) -> list[str]:
    return [item.scope for item in descendants(outline_text(source, language).top) if item.symbol]


@pytest.mark.parametrize("sample", TEXT_SAMPLES, ids=lambda sample: f"{sample.parent.name}/{sample.name}")
def test_outline_of_every_format(sample: Path) -> None:
    assert describe_sample(sample) == outline_file(sample).read_text(encoding="utf-8")


def test_every_format_has_a_sample_and_says_what_divides_it() -> None:
    assert {sample.parent.name for sample in TEXT_SAMPLES} == set(TEXT_LANGUAGES)
    assert {language_of(sample) for sample in TEXT_SAMPLES} == set(TEXT_LANGUAGES)
    divided = {name for name, language in LANGUAGES.items() if "definitions" in language.divided_by}
    assert divided == {*CODE_LANGUAGES, "notebook"}


def assert_nested(item: Item, lines: int) -> None:
    assert 0 <= item.first <= item.last < lines
    row = item.first
    for child in item.children:
        assert child.parent is item
        assert row <= child.first <= child.last <= item.last
        assert child.scope.endswith(child.symbol)
        row = child.last + 1
        assert_nested(child, lines)


PARTS = st.one_of(
    st.sampled_from(sorted(SOURCES.values())).flatmap(
        lambda text: st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(
            lambda cut: text[min(cut) : max(cut)]
        )
    ),
    st.text(max_size=30),
    st.sampled_from(
        ["# ", "\n===\n", "- ", "a: |\n", "```\n", "<!--", "/*", '"', "{", "]", "<a", "</a>", "\n\n", "\r\n"]
    ),
)


@settings(max_examples=300, deadline=None)
@given(text=st.lists(PARTS, max_size=5).map("".join), language=st.sampled_from(TEXT_LANGUAGES))
def test_items_are_nested_and_every_line_is_in_a_node(text: str, language: str) -> None:
    outline = outline_text(text, language)
    assert outline.lines == text.split("\n")
    assert (outline.top.first, outline.top.last) == (0, len(outline.lines) - 1)
    assert_nested(outline.top, len(outline.lines))
    assert all(0 <= row < len(outline.lines) and depth >= 0 for row, depth in outline.depths.items())
    if language != "notebook":
        document = Document(text=text, metadata={"path": "file", "language": language})
        covered: set[int] = set()
        for node in CodeNodeParser().get_nodes_from_documents([document]):
            covered.update(range(node.metadata["start_line"], node.metadata["end_line"] + 1))
        assert covered >= {number for number, line in enumerate(outline.lines, start=1) if line.strip()}


@pytest.mark.parametrize(
    "line", ["#", "[", "<!--", "a: {", "- ", "/*", "```", "====", "\\", '"', "<", "'''", "FROM <<A"]
)
def test_a_text_of_one_line_that_is_repeated(line: str) -> None:
    for language in TEXT_LANGUAGES:
        for separator in ("", " ", "\n", "\n\n"):
            outline = outline_text(separator.join([line] * 500), language)
            assert_nested(outline.top, len(outline.lines))


PAGES = [sample.read_text(encoding="utf-8") for sample in SAMPLES if sample.parent.name == "html"]
PAGE_PARTS = st.one_of(
    st.sampled_from(PAGES).flatmap(
        lambda text: st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(
            lambda cut: text[min(cut) : max(cut)]
        )
    ),
    st.sampled_from(
        ["<h1>A</h1>", "<h2>\n", "</h2>", "<script>", "function f() {\n}", "</script>", "<!--", "-->", "<p>", "<div>"]
    ),
    st.sampled_from(["\n", " ", "text", "<style>", "</div>", "<br>", "\r\n", "class A {\n  f() {}\n}\n"]),
)


@settings(max_examples=200, deadline=None)
@given(text=st.lists(PAGE_PARTS, max_size=8).map("".join))
def test_pages_have_their_definitions_inside_sections(text: str) -> None:
    covered: set[int] = set()
    document = Document(text=text, metadata={"path": "a.html"})
    for node in CodeNodeParser(max_lines=8).get_nodes_from_documents([document]):
        covered.update(range(node.metadata["start_line"], node.metadata["end_line"] + 1))
    assert covered >= {number for number, line in enumerate(text.split("\n"), start=1) if line.strip()}
    parsed = parse(text, "html")
    assume(parsed is not None)
    assert parsed is not None
    scopes = [item.scope for item in descendants(parsed.top)]
    page = page_outline(parsed)
    assert_nested(page.top, len(page.lines))
    assert [item.scope for item in descendants(page.top) if item.kind not in ("section", "text")] == scopes
    assert all(0 <= row < len(page.lines) and depth >= 0 for row, depth in page.depths.items())


@pytest.mark.parametrize("piece", ["<h1>", "<h1>a", "<h1>a</h1>", "<script>", "<!--", "<p>", "<div>", "</div>", "<a "])
def test_a_piece_of_a_page_that_is_repeated(piece: str) -> None:
    for separator in ("", "\n"):
        parsed = parse(separator.join([piece] * 500), "html")
        assert parsed is not None
        page = page_outline(parsed)
        assert_nested(page.top, len(page.lines))


LONG = "A sentence with enough words to be a section of its own, were it not so short as this. " * 3


def test_heading_without_text_is_part_of_the_next_section() -> None:
    text = f"# A\n\n## B\n\n### C\n\n{LONG}\n\n{LONG}\n\n### D\n\n{LONG}\n\n## E\n"
    assert describe_outline(outline_text(text, "markdown")) == (
        "1-16 text\n  1-10 section A > B > C\n  11-14 section A > B > D\n  15-16 section A > E\n"
    )


def test_headings_that_are_none() -> None:
    for text in (
        "#no space",
        "####### seven",
        "    # indented",
        "a | b\n--|--",
        "- item\n---",
        "> quote\n---",
        "\\# a",
    ):
        assert scopes(text, "markdown") == []
    assert scopes("# a #b#\n", "markdown") == ["a #b#"]
    assert scopes("Title\n=\n", "restructuredtext") == []
    assert scopes("=x\n\n ==\n", "asciidoc") == []


def test_places_to_cut_are_outermost_where_something_starts() -> None:
    rows = [
        "# A",
        "",
        "Text",
        "on two lines.",
        "",
        "- item",
        "  - nested",
        "",
        "```",
        "code",
        "",
        "code",
        "```",
        "",
        "End.",
    ]
    depths = outline_text("\n".join(rows), "markdown").depths
    assert depths[0] < depths[2] == depths[8] == depths[14] < depths[5] < depths[6] < depths[11]
    assert not {3, 9, 12} & depths.keys()


def test_values_are_not_keys() -> None:
    assert scopes("a: 'x\n\n  b: 1'\nc:\n  d: e\n   f: g", "yaml") == ["a, c"]
    assert scopes("a:\n- b\n-\n  c: 1\n? d\n: e\nhttp://f: g\n", "yaml") == ["a, http://f"]
    assert scopes('{"a": "b: {", "c": 1}', "json") == ["a"]
    assert scopes("a = '''\nb = 1\n'''\nc = [\n  'd = 1',\n]\n", "toml") == ["a, c"]
    assert scopes("<a><!-- <b> --><c/></a>", "xml") == ["a"]


def test_text_that_is_not_prose_is_a_window() -> None:
    assert outline_text("MOV AX, [BX+8]\nINT 21h\n", "text").top.kind == "window"
    assert outline_text("Copy the files into a folder.\n", "text").top.kind == "text"
    assert outline_text("購物車保存顧客的商品直到付款為止。\n", "text").top.kind == "text"
    assert outline_text("[1, 2, 3]", "json").top.kind == "window"
    assert outline_text("", "markdown").top.kind == "window"
