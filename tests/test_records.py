from __future__ import annotations

import copy
from datetime import datetime
from pathlib import Path

import pytest
from indexes import vectors_of
from llama_index.core.schema import (
    Document,
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)

from llamaindex_code_retrieval import (
    CodeEmbedding,
    CodeIndex,
)

OWN_NODES = [
    TextNode(id_="bare", text="def f(): pass"),
    TextNode(
        id_="full",
        text="def g(): pass",
        metadata={"repo": "shop", "secret": "x", "lines": 3, "tags": ["a", "b"]},
        excluded_llm_metadata_keys=["secret"],
        excluded_embed_metadata_keys=["secret", "lines"],
        metadata_separator=" | ",
        metadata_template="{key}=>{value}",
        text_template="<<{metadata_str}>>{content}",
        mimetype="text/x-python",
        start_char_idx=3,
        end_char_idx=16,
        relationships={
            NodeRelationship.SOURCE: RelatedNodeInfo(node_id="document", metadata={"kind": "file"}, hash="h"),
            NodeRelationship.PARENT: RelatedNodeInfo(node_id="bare", node_type=ObjectType.TEXT),
            NodeRelationship.CHILD: [RelatedNodeInfo(node_id="a"), RelatedNodeInfo(node_id="b")],
            NodeRelationship.NEXT: RelatedNodeInfo(node_id="index"),
        },
    ),
    TextNode(id_="odd", text="x \ud800", metadata={"path": "caf\udce9", "language": "java"}),
    IndexNode(id_="index", text="the billing code base", index_id="billing"),
    ImageNode(id_="image", text="a plan of the code", image_url="https://example.org/plan.png"),
]


def test_own_nodes_come_back_whole(embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(embedding)
    index.update_nodes(OWN_NODES)
    index.save(tmp_path)
    for each in (index, CodeIndex.open(tmp_path, embedding=embedding), copy.deepcopy(index)):
        for node in OWN_NODES:
            again = each.node(node.node_id)
            assert type(again) is type(node)
            assert again.model_dump() == node.model_dump()
            assert again.ref_doc_id == node.ref_doc_id
            for metadata_mode in MetadataMode:
                assert again.get_content(metadata_mode) == node.get_content(metadata_mode)
    assert all(node.embedding is None for node in OWN_NODES)  # the caller's nodes are left alone
    again.metadata["repo"] = "changed"
    assert index.node(again.node_id).metadata.get("repo") != "changed"


def test_own_nodes_are_embedded_with_the_metadata_that_is_not_excluded(embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    index.update_nodes(OWN_NODES)
    vectors = vectors_of(index)
    for node in OWN_NODES:
        expected = embedding.get_text_embedding(node.get_content(MetadataMode.EMBED))
        assert vectors[node.node_id] == pytest.approx(expected, abs=1e-3)
    changed = [node.model_copy(deep=True) for node in OWN_NODES]
    changed[1].metadata["secret"] = "y"  # not embedded
    assert index.update_nodes(changed).embedded == 0
    assert index.node("full").metadata["secret"] == "y"
    changed[1].metadata["repo"] = "mall"
    report = index.update_nodes(changed)
    assert (report.embedded, report.added, report.removed) == (1, 1, 0)


class _OwnNode(TextNode):
    pass


@pytest.mark.parametrize(
    ("node", "error", "message"),
    [
        (Document(text="x"), TypeError, "nodes of the classes TextNode, IndexNode, ImageNode, got a Document"),
        (_OwnNode(text="x"), TypeError, "got a _OwnNode"),
        (IndexNode(id_="i", text="x", index_id="b", obj=TextNode()), ValueError, "object of IndexNode 'i' cannot be"),
        (TextNode(id_="n", text="x", metadata={"t": datetime(2020, 1, 1)}), TypeError, "node 'n' cannot be saved as"),
    ],
)
def test_a_node_that_cannot_be_saved_is_refused_at_once(
    node: TextNode, error: type[Exception], message: str, embedding: CodeEmbedding
) -> None:
    index = CodeIndex(embedding)
    with pytest.raises(error, match=message):
        index.update_nodes([node], on_progress=lambda *_: pytest.fail("embedded"))
