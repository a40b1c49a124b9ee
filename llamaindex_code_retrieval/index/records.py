"""Records: the form in which an index stores nodes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from llama_index.core.schema import ImageNode, IndexNode, MetadataMode, RelatedNodeInfo, TextNode

from llamaindex_code_retrieval.index.tables import NodeRow

_NODE_CLASSES: dict[str, type[TextNode]] = {each.class_name(): each for each in (TextNode, IndexNode, ImageNode)}
_SEPARATE_FIELDS = {"id_", "text", "metadata", "embedding", "obj"}
_COMMON_FIELDS = frozenset(
    "class_name excluded_embed_metadata_keys excluded_llm_metadata_keys metadata_template metadata_seperator "
    "text_template mimetype".split()
)
"""Fields that have equal values in many nodes."""


def to_row(node: TextNode, *, path: str, position: int, model: str) -> NodeRow:
    """Return the row of a node, without a number; :func:`to_node` restores the node, without its vector.

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
    try:
        metadata, fields = json.loads(json.dumps([node.metadata, fields]))
    except TypeError as error:
        raise TypeError(f"node {node.node_id!r} cannot be saved as JSON: {error}; store text or numbers") from error
    embedded = node.get_content(MetadataMode.EMBED)
    part = node.metadata.get("part", 1)
    return NodeRow(
        number=0,
        id=node.node_id,
        path=path,
        position=position,
        part=part if isinstance(part, int) else 1,
        model=model,
        digest=text_digest(embedded),
        form={name: value for name, value in fields.items() if name in _COMMON_FIELDS},
        relations={name: value for name, value in fields.items() if name not in _COMMON_FIELDS},
        metadata=metadata,
        embedded=None if embedded == node.text else embedded,
        text=node.text,
    )


def to_node(row: NodeRow) -> TextNode:
    """Return the node of a row.

    Raises:
        sqlite3.DatabaseError: the row is not one that :func:`to_row` made.
    """
    fields: dict[str, Any] = {**row.form, **row.relations}
    try:
        node_class = _NODE_CLASSES[fields.pop("class_name")]
        return node_class(id_=row.id, text=row.text, metadata=dict(row.metadata), **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise sqlite3.DatabaseError(f"the node {row.id!r} has other fields than were saved") from error


def annotated_node(row: NodeRow, metadata: Mapping[str, Any]) -> TextNode:
    """Return the node of a row with other metadata; its new keys are neither embedded nor shown to an LLM."""
    node = to_node(row._replace(metadata=dict(metadata)))
    added = [name for name in metadata if name not in row.metadata]
    if added:
        node.excluded_embed_metadata_keys = [*node.excluded_embed_metadata_keys, *added]
        node.excluded_llm_metadata_keys = [*node.excluded_llm_metadata_keys, *added]
    return node


def embedded_text(row: NodeRow) -> str:
    """Return the text that is embedded: the node's ``get_content(MetadataMode.EMBED)``."""
    return row.text if row.embedded is None else row.embedded


def text_digest(text: str) -> int:
    """Return 63 bits of the hash of a text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) >> 1


def keep_ids_of_relations(node: TextNode) -> None:
    """Reduce the node's relations to ids: the metadata that LlamaIndex copies into them would triple the index."""
    for relation, related in node.relationships.items():
        if isinstance(related, list):
            node.relationships[relation] = [RelatedNodeInfo(node_id=each.node_id) for each in related]
        else:
            node.relationships[relation] = RelatedNodeInfo(node_id=related.node_id)
