"""Records: the form in which an index keeps and saves nodes and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from llama_index.core.schema import ImageNode, IndexNode, MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode

_NODE_CLASSES: dict[str, type[TextNode]] = {each.class_name(): each for each in (TextNode, IndexNode, ImageNode)}
_SEPARATE_FIELDS = {"id_", "text", "metadata", "embedding", "obj"}


class NodeRecord(TypedDict):
    """A node as JSON values."""

    text: str
    metadata: dict[str, Any]
    fields: dict[str, Any]
    """``class_name``, and the node's other fields that differ from their defaults."""
    embedded: NotRequired[str]
    """The text that is embedded, where it is not ``text``."""


class FileRecord(TypedDict):
    """An indexed file, or a node that was added without one."""

    sha256: str
    nodes: list[str]
    """Ids of its nodes in the order of the file."""
    parsed: bool
    """Whether its language's parser could read it; if not, its nodes are line windows."""


def to_record(node: TextNode) -> NodeRecord:
    """Return the record of a node; :func:`to_node` restores the node, without its vector.

    Raises:
        TypeError: the node is of a class that cannot be restored, or its metadata is not JSON.
        ValueError: an ``IndexNode`` holds an object, which cannot be saved.
    """
    if type(node) not in _NODE_CLASSES.values():
        known = ", ".join(_NODE_CLASSES)
        raise TypeError(
            f"an index can save and restore nodes of the classes {known}, got a {type(node).__name__}; "
            "turn documents into nodes with CodeNodeParser"
        )
    if isinstance(node, IndexNode) and node.obj is not None:
        raise ValueError(
            f"the object of IndexNode {node.node_id!r} cannot be saved with the index; "
            f"leave obj out and look the object up by its index_id {node.index_id!r}"
        )
    fields = node.model_dump(exclude_defaults=True, exclude=_SEPARATE_FIELDS)
    fields.pop("obj", None)  # IndexNode adds it whatever is excluded
    record: NodeRecord = {"text": node.text, "metadata": dict(node.metadata), "fields": fields}
    try:
        json.dumps(record)
    except TypeError as error:
        raise TypeError(f"node {node.node_id!r} cannot be saved as JSON: {error}; store text or numbers") from error
    embedded = node.get_content(MetadataMode.EMBED)
    if embedded != node.text:
        record["embedded"] = embedded
    return record


def to_node(node_id: str, record: NodeRecord) -> TextNode:
    """Return the node of a record."""
    fields = dict(record["fields"])
    node_class = _NODE_CLASSES[fields.pop("class_name")]
    return node_class(id_=node_id, text=record["text"], metadata=dict(record["metadata"]), **fields)


def embedded_text(record: NodeRecord) -> str:
    """Return the text that is embedded: the node's ``get_content(MetadataMode.EMBED)``."""
    return record.get("embedded", record["text"])


def upgrade_record(node_id: str, saved: Mapping[str, Any]) -> NodeRecord:
    """Convert the record of a node from index format 2, which had only the ids of its relations."""
    relations: dict[NodeRelationship, Any] = {
        NodeRelationship.SOURCE: RelatedNodeInfo(node_id=saved["metadata"].get("path", node_id))
    }
    for name, ids in saved["relationships"].items():
        infos = [RelatedNodeInfo(node_id=id_) for id_ in ids]
        relations[NodeRelationship[name]] = infos if name == "CHILD" else infos[0]
    return to_record(
        TextNode(
            id_=node_id,
            text=saved["text"],
            metadata=saved["metadata"],
            excluded_embed_metadata_keys=list(saved["metadata"]),
            excluded_llm_metadata_keys=saved["hidden"],
            relationships=relations,
            start_char_idx=saved["start_char_idx"],
            end_char_idx=saved["end_char_idx"],
        )
    )


def keep_ids_of_relations(node: TextNode) -> None:
    """Reduce the node's relations to ids: the metadata that LlamaIndex copies into them would triple the index."""
    for relation, related in node.relationships.items():
        if isinstance(related, list):
            node.relationships[relation] = [RelatedNodeInfo(node_id=each.node_id) for each in related]
        else:
            node.relationships[relation] = RelatedNodeInfo(node_id=related.node_id)
