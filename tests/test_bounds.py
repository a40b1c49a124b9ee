"""Bounds of nodes: balanced parts, lines that are too long, and tokens as real tokenizers count them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.schema import Document, MetadataMode
from nodes import assert_law, lines_of, parse, parse_document, path_for
from snippets import SNIPPETS

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.languages.bounds import MAX_LINE_PARTS, Bounds, Measure

Tokenizer = Callable[[str], Sequence[Any]]


def cut(text: str, depths: dict[int, int] | None = None, **bounds: Any) -> list[str]:
    """Return the parts of a text."""
    measure = Measure(text, Bounds(**{"max_lines": 60, "overlap_lines": 0, **bounds}))
    parts = measure.parts(0, len(measure.lines) - 1, depths or {})
    return [text[part.start : part.end] for part in parts]


def numbers(count: int) -> str:
    return "\n".join(f"{i}" for i in range(count))


def test_parts_have_similar_sizes() -> None:
    assert [part.count("\n") + 1 for part in cut(numbers(61))] == [30, 31]
    assert [part.count("\n") + 1 for part in cut(numbers(121))] == [40, 40, 41]
    # 61 lines and 6 repeated ones
    assert [part.split("\n")[0] for part in cut(numbers(61), overlap_lines=6)] == ["0", "27"]
    assert [part.split("\n")[-1] for part in cut(numbers(61), overlap_lines=6)] == ["32", "60"]
    assert len(cut(numbers(60))) == 1


def test_a_part_ends_before_the_outermost_statement_near_its_share() -> None:
    assert cut(numbers(70), {25: 2, 30: 1, 40: 1, 48: 1, 60: 0})[0].endswith("\n29")  # 60 would leave 10 lines
    assert cut(numbers(10).replace("4", ""), max_lines=8) == ["0\n1\n2\n3", "5\n6\n7\n8\n9"]  # after a blank line


def test_tokens_bound_the_rows() -> None:
    words = "\n".join(["one two three four"] * 10)
    assert cut(words, max_tokens=16, tokenizer=str.split) == ["\n".join(["one two three four"] * n) for n in (3, 3, 4)]
    # rows of 4 words are a quarter of the bound and may be repeated, rows of 5 may not
    assert cut(words, max_tokens=16, overlap_lines=2, tokenizer=str.split)[1].count("\n") == 3
    words = "\n".join(["one two three four five"] * 6)
    assert cut(words, max_tokens=16, overlap_lines=2, tokenizer=str.split) == ["\n".join(words.split("\n")[:3])] * 2


def test_a_long_line_is_cut_at_spaces_and_punctuation() -> None:
    text = "x = [\n" + "alpha, " * 60 + "\n]"  # 6 characters and a space each
    parts = cut(text, max_lines=2)  # of at most 200 characters
    assert parts[0] == "x = ["
    assert parts[-1] == "]"
    assert [part.count("alpha,") for part in parts[1:-1]] == [28, 28, 4]
    assert all(part.startswith("alpha") and part.endswith(",") for part in parts[1:-1])
    assert [len(part) for part in cut("a" * 450, max_lines=2)] == [200, 200, 50]
    assert cut("a" * 150 + "(b" + "c" * 60, max_lines=2) == ["a" * 150 + "(", "b" + "c" * 60]
    assert cut(" " * 500 + "x", max_lines=2) == ["x"]


def test_of_a_line_of_data_the_first_parts_are_kept() -> None:
    data = "word " * 100_000
    nodes = parse(f"x = 1\n{data}\ny = 2\n", "a.txt", max_tokens=100, tokenizer=str.split)
    parts = [node for node in nodes if node.metadata["start_line"] == 2]
    assert len(parts) == MAX_LINE_PARTS == 50
    assert {node.metadata["end_line"] for node in parts} == {2}
    # 90 words of 100: a tenth is left for the names
    assert {node.start_char_idx for node in parts} == {6 + 360 * i for i in range(50)}
    assert [node.metadata["part"] for node in nodes] == list(range(1, len(nodes) + 1))
    assert "y = 2" in nodes[-1].text


def test_equal_parts_of_a_line_are_all_kept() -> None:
    nodes = assert_law("x = " + "1+" * 5_000 + "1", "a.js", max_tokens=100, tokenizer=list)
    assert len(nodes) == 50
    texts = [node.text for node in nodes]
    assert len(set(texts)) < len(texts)


def test_embedded_metadata_counts() -> None:
    text = "\n".join(["one two three four"] * 10)
    metadata = {"path": "a.txt", "repository": "a b c"}  # "repository: a b c": 4 words
    nodes = parse_document(Document(text=text, metadata=metadata), max_tokens=16, tokenizer=str.split)
    assert {len(node.get_content(MetadataMode.EMBED).split()) for node in nodes} == {4 + 4 * n for n in (2, 3)}
    metadata["repository"] = "word " * 8
    with pytest.raises(ValueError, match=r"metadata of document 'd' .* max_tokens=16; name .* excluded_embed_metadata"):
        parse_document(Document(text=text, metadata=metadata, id_="d"), max_tokens=16, tokenizer=str.split)
    hidden = Document(text=text, metadata=metadata, excluded_embed_metadata_keys=["repository"])
    assert len(parse_document(hidden, max_tokens=16, tokenizer=str.split)) == 3


@pytest.fixture(scope="module", params=["bert", "roberta", "codesage", "t5"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """WordPiece, byte-level BPE with and without special tokens."""
    return CodeEmbedding(str(request.getfixturevalue(f"{request.param}_folder"))).tokenize_code


LINES = st.one_of(
    st.sampled_from([line for text in SNIPPETS.values() for line in text.split("\n")]),
    st.text(max_size=40),
    st.sampled_from(["", "    ", "\t\tx = é你好🙂", "=" * 300, "ﷺ" * 90, "a " * 200, "\ud800x", "# " + "word" * 50]),
)


@settings(max_examples=40, deadline=None)
@given(text=st.lists(LINES, max_size=40).map("\n".join), language=st.sampled_from(["python", "c", "text"]))
def test_no_node_has_more_tokens_than_the_model_reads(tokenizer: Tokenizer, text: str, language: str) -> None:
    for bounds in ({"max_tokens": 16}, {"max_tokens": 60, "max_lines": 12, "overlap_lines": 3}, {"max_tokens": 150}):
        assert_law(text, f"tax/größe/{path_for(language)}", tokenizer=tokenizer, **bounds)


def test_names_fit_beside_the_code(tokenizer: Tokenizer) -> None:
    """Also beside the bound, where the tokens of names and code cannot be added up."""
    for max_tokens in range(160, 260, 10):
        for text in (SNIPPETS["python"], "\n".join(["é你好 (x)"] * 40), "    return a\n" * 100):
            nodes = assert_law(text, "ab/c.py", max_tokens=max_tokens, tokenizer=tokenizer)
            assert all(node.metadata["names"].startswith("ab") for node in nodes)


def test_no_node_of_a_sample_has_more_tokens_than_the_model_reads(tokenizer: Tokenizer) -> None:
    for language, text in random.Random(0).sample(sorted(SNIPPETS.items()), 8):
        assert_law(text, path_for(language), max_tokens=50, tokenizer=tokenizer)


def test_tokens_that_depend_on_other_lines_are_counted_in_the_node() -> None:
    """A tokenizer for which the sum over lines is too low."""

    def quadratic(text: str) -> range:
        return range(len(text.split("\n")) ** 2)

    text = "\n".join(["x" * 30] * 50)
    nodes = assert_law(text, "a.txt", max_tokens=17, tokenizer=quadratic)
    assert max(last - first for first, last in lines_of(nodes)) == 3


def test_a_part_of_a_line_that_is_cut_shorter_may_have_more_tokens() -> None:
    def more_at_a_dash(text: str) -> range:
        return range(len(text) // 4 + 5 * text.endswith("-"))

    nodes = assert_law("abcd-" * 60, "a.txt", max_tokens=16, tokenizer=more_at_a_dash)
    assert nodes[0].text == "abcd-" * 9


def test_the_embedding_and_the_parser_count_alike(bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder), max_code_tokens=40)
    for length in (10, 37, 38, 39, 60):
        code = "( " * length
        count = len(embedding.tokenize_code(code))
        assert count == length + 2  # [CLS] and [SEP]
        assert embedding.truncated_codes([code]) == (count > 40)
