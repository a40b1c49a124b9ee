"""The words of path and scope that are embedded with the code of a node."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.node_parser import HierarchicalNodeParser
from llama_index.core.schema import Document, MetadataMode
from nodes import parse, parse_document

from llamaindex_code_retrieval import CodeNodeParser
from llamaindex_code_retrieval.chunking.names import Names
from llamaindex_code_retrieval.chunking.source import Source

CODE = "class HTTPAdapter:\n    retries = 3\n    def send(self):\n        return 1\n"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("src/requests/adapters.py", "requests adapters"),
        ("/home/ann/requests/adapters.py", "requests adapters"),
        ("C:\\work\\requests\\adapters.py", "requests adapters"),
        ("adapters.py", "adapters"),
        ("/adapters.py", "adapters"),
        ("web//parseHTTP_utf8.test.js", "web parse http utf 8 test"),
        (".github/Makefile", "github makefile"),
        ("home/.bashrc", "home bashrc"),
        ("größe/读取配置.py", "größe 读取 取配 配置"),
        ("a/a.py", "a"),
        ("x\ud800y/" + "z" * 50 + ".py", "x y"),  # a word of 50 letters is data
        ("/", ""),
    ],
)
def test_the_words_of_a_path_are_those_of_its_last_two_parts(path: str, words: str) -> None:
    [node] = parse_document(Document(text="x = 1", metadata={"path": path, "language": "python"}))
    assert node.metadata["scope"] == ""
    assert node.metadata.get("names", "") == words


def test_names_are_embedded_with_the_code_and_not_shown_to_an_llm() -> None:
    nodes = parse(CODE, "requests/adapters.py")
    assert [node.metadata["names"] for node in nodes] == [
        "requests adapters http adapter",
        "requests adapters http adapter send",
    ]
    for node in nodes:
        assert node.get_content(MetadataMode.EMBED) == f"names: {node.metadata['names']}\n\n{node.text}"
        assert "names" not in node.get_content(MetadataMode.LLM)


def test_at_most_twenty_words() -> None:
    [node] = parse("x = 1", "_".join(f"part{chr(97 + i)}" for i in range(26)) + "/x.py")
    assert len(node.metadata["names"].split()) == 20


def test_a_document_may_exclude_names() -> None:
    document = Document(text=CODE, metadata={"path": "a.py"}, excluded_embed_metadata_keys=["names"])
    for node in parse_document(document):
        assert "names" not in node.metadata
        assert node.get_content(MetadataMode.EMBED) == node.text


def test_names_of_the_user_stay_theirs() -> None:
    document = Document(text="x = 1", metadata={"path": "a.py", "names": "Ann, Bob"})
    [node] = parse_document(document)
    assert node.get_content(MetadataMode.EMBED) == "names: Ann, Bob\n\nx = 1"
    assert node.get_content(MetadataMode.LLM).startswith("path: a.py\nnames: Ann, Bob\n")
    [again] = parse_document(node)
    assert again.metadata["names"] == "Ann, Bob"
    other = Document(text="x = 1", metadata={"path": "a.py", "names": "Cid"})
    assert parse_document(other)[0].node_id != node.node_id
    [without] = parse_document(document, include_metadata=False)
    assert without.metadata["names"] == "a"


def test_a_random_id_is_not_embedded() -> None:
    """Neither with a document without a path, nor with the nodes of its nodes, whose path it is."""
    [node] = parse_document(Document(text="x = 1"))
    assert uuid.UUID(node.metadata["path"]).version == 4
    [again] = parse_document(node)
    for each in (node, again):
        assert each.get_content(MetadataMode.EMBED) == "x = 1"
    [function] = parse_document(Document(text="def f(): pass", metadata={"language": "python"}))
    assert function.metadata["names"] == "f"


def test_nodes_that_are_divided_further_have_names_of_their_own() -> None:
    large, small = CodeNodeParser(max_lines=60), CodeNodeParser(max_lines=4)
    parser = HierarchicalNodeParser.from_defaults(
        node_parser_ids=["large", "small"], node_parser_map={"large": large, "small": small}
    )
    body = "".join(f"        x = {i}\n" for i in range(9))
    text = f"class Adapter:\n    def send(self):\n{body}    def close(self):\n        return 2\n"
    nodes = parser.get_nodes_from_documents([Document(text=text, metadata={"path": "http/core.py"})])
    names = [node.metadata["names"] for node in nodes]
    assert set(names) == {f"http core adapter{method}" for method in ("", " send", " close")}
    assert len(nodes) > len(large.get_nodes_from_documents([Document(text=text, metadata={"path": "http/core.py"})]))


@pytest.mark.parametrize("max_tokens", [16, 29, 30, 40, 50, 100])
def test_names_are_a_tenth_of_the_tokens_at_most(max_tokens: int) -> None:
    """Of words: "names:", and those of the path before those of the scope."""
    code = "\n".join(["one two three four five"] * 60)
    nodes = parse(code, "requests/http_adapters.txt", max_tokens=max_tokens, tokenizer=str.split)
    expected = "requests http adapters".split()[: max(0, max_tokens // 10 - 2)]
    counts = [len(node.get_content(MetadataMode.EMBED).split()) for node in nodes]
    names = {node.metadata.get("names", "") for node in nodes}
    assert max(counts) <= max_tokens
    assert names == {" ".join(expected)}


def test_without_room_for_a_word_the_code_has_all_tokens() -> None:
    document = Document(text="x", metadata={"path": "a.py"})
    source = Source(document, default_language=None, include_metadata=True)
    assert Names(source, 19, str.split).max_code_tokens == 19  # "names: a" are two
    assert Names(source, 20, str.split).max_code_tokens == 18
    assert Names(source, None, None).max_code_tokens is None


def test_a_node_whose_tokens_grow_with_names_has_fewer_of_them() -> None:
    def more_beside_names(text: str) -> Sequence[Any]:
        """Each word of the code is two tokens behind a name that begins with "z"."""
        return text.split() * (2 if " z" in text else 1)

    text = "\n".join(["one two three"] * 30)
    nodes = parse(text, "abc/zed.txt", max_tokens=100, tokenizer=more_beside_names)
    assert {node.metadata["names"] for node in nodes if len(node.text.split()) > 50} == {"abc"}
    assert max(len(more_beside_names(node.get_content(MetadataMode.EMBED))) for node in nodes) <= 100
