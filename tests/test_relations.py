"""Headers, parents and neighbours of nodes, and LlamaIndex's parsers and retrievers that follow relations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.node_parser import HierarchicalNodeParser, SentenceSplitter, get_leaf_nodes, get_root_nodes
from llama_index.core.postprocessor import PrevNextNodePostprocessor
from llama_index.core.retrievers import AutoMergingRetriever
from llama_index.core.schema import BaseNode, Document, NodeWithScore, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from nodes import lines_of, parse, path_for, rows
from snippets import SNIPPETS

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeNodeParser, CodeRetriever

SHOP = """\
import os


class Cart:
    '''A cart.'''

    def add(self, item):
        self.items.append(item)

    def total(self):
        return sum(self.items)

    class Line:
        def save(self):
            os.remove("cart")
            return 1

    limit = 3
    rate = 2
    name = "cart"


def checkout(cart):
    return cart.total()
"""


def by_place(nodes: Sequence[BaseNode]) -> dict[tuple[int, int], BaseNode]:
    return dict(zip(lines_of(nodes), nodes, strict=True))


def test_a_node_names_the_node_with_the_header_of_its_definition() -> None:
    nodes = by_place(parse(SHOP))
    assert list(nodes) == [(1, 1), (4, 5), (7, 8), (10, 11), (13, 13), (14, 16), (18, 20), (23, 24)]
    headers = {place: node.metadata.get("header_id") for place, node in nodes.items()}
    cart, line = nodes[4, 5].node_id, nodes[13, 13].node_id
    assert [headers[place] for place in nodes] == [None, None, cart, cart, cart, line, cart, None]
    assert all(node.parent_node is None and node.child_nodes is None for node in nodes.values())


def test_the_header_of_a_later_part_is_the_first_part() -> None:
    body = "".join(f"        x = {i}\n" for i in range(20))
    first, *parts = parse(f"class A:\n    y = 1\n\n    def f(self):\n{body}", max_lines=8, overlap_lines=0)
    assert [part.metadata["header_id"] for part in parts] == [first.node_id, *[parts[0].node_id] * (len(parts) - 1)]


def test_parents_have_the_whole_text() -> None:
    nodes = parse(SHOP, max_parent_lines=61)
    parent, leaves = nodes[0], nodes[1:]
    assert rows([parent]) == [("class", "Cart", 4, 20, "A cart.")]
    assert parent.text == "\n".join(SHOP.split("\n")[3:20])
    assert parent.prev_node is parent.next_node is parent.parent_node is None
    assert get_leaf_nodes(nodes) == leaves  # type: ignore[arg-type]
    assert [leaf.node_id for leaf in leaves] == [node.node_id for node in parse(SHOP)]
    assert lines_of(get_root_nodes(nodes)) == [(4, 20), (1, 1), (23, 24)]  # type: ignore[arg-type]
    members = leaves[1:-1]  # those of the nested class too
    assert [child.node_id for child in parent.child_nodes or []] == [node.node_id for node in members]
    assert {node.parent_node.node_id for node in members if node.parent_node} == {parent.node_id}


def test_parents_are_the_outermost_definitions_that_are_short_enough() -> None:
    body = "".join(f"        x = {i}\n" for i in range(20))
    text = f"class A:\n    def f(self):\n{body}\n    def g(self):\n        return 1\n"
    bounds = {"max_lines": 8, "overlap_lines": 0}
    assert rows(parse(text, max_parent_lines=25, **bounds))[:2] == [
        ("class", "A", 1, 25, ""),
        ("class", "A", 1, 1, ""),
    ]
    assert rows(parse(text, max_parent_lines=24, **bounds))[:2] == [
        ("method", "A.f", 2, 22, ""),
        ("class", "A", 1, 1, ""),
    ]
    assert lines_of(parse(text, max_parent_lines=20, **bounds)) == lines_of(parse(text, **bounds))
    words = "a\n" * 20
    assert lines_of(parse(words, "a.unknown", max_parent_lines=99, **bounds)) == [(1, 20), (1, 7), (8, 13), (14, 20)]


def test_relations_name_nodes_that_exist() -> None:
    for language, text in SNIPPETS.items():
        nodes = parse(text, path_for(language), max_lines=6, overlap_lines=1, max_parent_lines=40)
        ids = {node.node_id for node in nodes}
        assert len(ids) == len(nodes)
        for node in nodes:
            related = [node.parent_node, node.prev_node, node.next_node, *(node.child_nodes or [])]
            headers = {node.metadata["header_id"]} if "header_id" in node.metadata else set()
            assert {each.node_id for each in related if each} | headers <= ids - {node.node_id}
        leaves = get_leaf_nodes(nodes)  # type: ignore[arg-type]
        assert [leaf.next_node.node_id for leaf in leaves[:-1] if leaf.next_node] == [n.node_id for n in leaves[1:]]


def test_no_links_between_documents_and_none_on_request() -> None:
    documents = [Document(text="x = 1\n", metadata={"path": name}) for name in ("a.py", "b.py")]
    assert {node.prev_node or node.next_node for node in CodeNodeParser()(documents)} == {None}
    nodes = CodeNodeParser(include_prev_next_rel=False)([Document(text=SHOP, metadata={"path": "a.py"})])
    assert {node.prev_node or node.next_node for node in nodes} == {None}


def test_neighbours_are_fetched_by_the_postprocessor() -> None:
    nodes = parse(SHOP)
    store = SimpleDocumentStore()
    store.add_documents(nodes)
    fetch = PrevNextNodePostprocessor(docstore=store, num_nodes=1, mode="both")
    found = fetch.postprocess_nodes([NodeWithScore(node=nodes[2], score=1.0)])
    assert [each.node_id for each in found] == [node.node_id for node in nodes[1:4]]


@pytest.fixture
def embedding(bert_folder: Path) -> CodeEmbedding:
    return CodeEmbedding(str(bert_folder), max_code_tokens=64)


def merged(nodes: Sequence[BaseNode], embedding: CodeEmbedding, query: str, *, top_k: int) -> list[tuple[int, int]]:
    """Return the lines of what an AutoMergingRetriever finds, by line."""
    context = StorageContext.from_defaults(docstore=SimpleDocumentStore())
    context.docstore.add_documents(nodes)
    index = VectorStoreIndex(get_leaf_nodes(list(nodes)), storage_context=context, embed_model=embedding)
    retriever = AutoMergingRetriever(index.as_retriever(similarity_top_k=top_k), context)
    return sorted(lines_of([hit.node for hit in retriever.retrieve(query)]))


def test_auto_merging_returns_whole_definitions(embedding: CodeEmbedding) -> None:
    assert merged(parse(SHOP, max_parent_lines=61), embedding, "total", top_k=8) == [(1, 1), (4, 20), (23, 24)]
    # nodes without parents stay as they are: merging never replaces methods by the header of their class
    assert merged(parse(SHOP), embedding, "total", top_k=8) == lines_of(parse(SHOP))


def test_auto_merging_needs_most_members(embedding: CodeEmbedding) -> None:
    nodes = by_place(parse(SHOP, max_parent_lines=61))
    context = StorageContext.from_defaults(docstore=SimpleDocumentStore())
    context.docstore.add_documents(list(nodes.values()))

    def found(*places: tuple[int, int]) -> list[tuple[int, int]]:
        index = VectorStoreIndex([nodes[place] for place in places], embed_model=embedding)
        retriever = AutoMergingRetriever(index.as_retriever(similarity_top_k=9), context)
        return sorted(lines_of([hit.node for hit in retriever.retrieve("total")]))

    assert found((4, 5), (10, 11), (23, 24)) == [(4, 5), (10, 11), (23, 24)]  # two of the class's six nodes
    assert found((4, 5), (7, 8), (13, 13), (18, 20)) == [(4, 20)]


def test_auto_merging_over_a_code_index(embedding: CodeEmbedding) -> None:
    parser = CodeNodeParser(max_parent_lines=61)
    index = CodeIndex(embedding, parser=parser)
    index.update_texts({"a.py": SHOP})
    nodes = parser.with_token_bound(embedding.max_code_tokens, embedding.tokenize_code)(
        [Document(text=SHOP, id_="a.py", metadata={"path": "a.py"})]
    )
    context = StorageContext.from_defaults(docstore=SimpleDocumentStore())
    context.docstore.add_documents(nodes)
    retriever = AutoMergingRetriever(CodeRetriever(index, top_k=99, mode="dense"), context)  # type: ignore[arg-type]
    assert sorted(lines_of([hit.node for hit in retriever.retrieve("total")])) == [(1, 1), (4, 20), (23, 24)]


def test_nodes_of_a_parser_are_divided_further_at_their_place() -> None:
    body = "".join(f"        x = {i}\n" for i in range(12))
    text = f"import os\n\n\nclass A:\n    '''Doc.'''\n\n    def f(self):\n{body}\n    def g(self):\n        return 1\n"
    document = Document(text=text, metadata={"path": "a.py"})
    parser = HierarchicalNodeParser.from_defaults(
        node_parser_ids=["large", "small"],
        node_parser_map={"large": CodeNodeParser(), "small": CodeNodeParser(max_lines=8, overlap_lines=0)},
    )
    nodes = parser.get_nodes_from_documents([document])
    assert len({node.node_id for node in nodes}) == len(nodes)
    assert [n.node_id for n in nodes] == [n.node_id for n in parser.get_nodes_from_documents([document])]
    roots, leaves = get_root_nodes(nodes), get_leaf_nodes(nodes)
    assert lines_of(roots) == [(1, 1), (4, 5), (7, 19), (21, 22)]
    assert [(n.metadata["kind"], n.metadata["scope"]) for n in leaves] == [
        ("module", ""),
        ("class", "A"),
        ("method", "A.f"),
        ("method", "A.f"),
        ("method", "A.g"),
    ]
    for leaf in leaves:
        assert isinstance(leaf, TextNode)
        assert leaf.text == text[leaf.start_char_idx : leaf.end_char_idx]
        start, end = leaf.metadata["start_line"], leaf.metadata["end_line"]
        assert leaf.text == "\n".join(text.split("\n")[start - 1 : end])
        assert leaf.ref_doc_id == document.node_id
    first, second = leaves[2:4]
    assert [(n.metadata["part"], n.metadata["parts"]) for n in (first, second)] == [(1, 2), (2, 2)]
    assert "part" not in leaves[4].metadata
    assert first.metadata["header_id"] == roots[1].node_id  # the class
    assert second.metadata["header_id"] == first.node_id


def test_functions_inside_a_divided_node_keep_its_scope() -> None:
    inner = "".join(f"        def f{i}():\n            a = {i}\n            return a\n\n" for i in range(3))
    text = f"class A:\n    def make(self):\n        x = 1\n\n{inner}        return x\n"
    [method] = (node for node in parse(text) if node.metadata["kind"] == "method")
    nodes = CodeNodeParser(max_lines=6, overlap_lines=0)([method])
    assert [(n.metadata["scope"], *lines_of([n])[0]) for n in nodes] == [
        ("A.make", 2, 3),
        ("A.make.f0", 5, 7),
        ("A.make.f1", 9, 11),
        ("A.make.f2", 13, 17),
    ]


def test_hierarchy_with_another_parser() -> None:
    """Nodes of parsers that do not give lines count from their own beginning."""
    parser = HierarchicalNodeParser.from_defaults(
        node_parser_ids=["sentences", "code"],
        node_parser_map={"sentences": SentenceSplitter(chunk_size=1000), "code": CodeNodeParser()},
    )
    nodes = parser.get_nodes_from_documents([Document(text=SHOP, metadata={"path": "a.py"})])
    assert lines_of(get_leaf_nodes(nodes)) == lines_of(parse(SHOP))
