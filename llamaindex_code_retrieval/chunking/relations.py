"""Relations between the nodes of a document: neighbours, headers, parts and parents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from llama_index.core.schema import NodeRelationship, ObjectType, RelatedNodeInfo, TextNode

from llamaindex_code_retrieval.chunking.source import HEADER_ID
from llamaindex_code_retrieval.languages.outline import Item, descendants


class Leaf(NamedTuple):
    """A node with the item that it is part of, the root outside definitions; with ``is_start`` the item starts here."""

    node: TextNode
    item: Item
    is_start: bool


def link_neighbours(leaves: Sequence[Leaf]) -> None:
    """Link each node to the one before it and the one after it."""
    for before, after in pairwise(leaves):
        before.node.relationships[NodeRelationship.NEXT] = _reference(after.node)
        after.node.relationships[NodeRelationship.PREVIOUS] = _reference(before.node)


def set_headers(leaves: Sequence[Leaf], *, outer: str | None) -> None:
    """Set in each node the id of its header: where its own definition starts, else where the one around it does.

    ``outer`` is the header of what is outside all definitions.
    """
    starts: dict[int, TextNode] = {}  # by id() of the item
    for node, item, is_start in leaves:
        if is_start:
            starts.setdefault(id(item), node)
    for node, item, _ in leaves:
        header: TextNode | None = None
        around: Item | None = item
        while around is not None and (header is None or header is node):
            header = starts.get(id(around))
            around = around.parent
        if header is not None and header is not node:
            node.metadata[HEADER_ID] = header.node_id
        elif outer is not None:
            node.metadata[HEADER_ID] = outer


def add_parents(
    top: Item, leaves: Sequence[Leaf], *, max_lines: int, whole_node: Callable[[Item], TextNode]
) -> list[TextNode]:
    """Return nodes with the whole text of the outermost items of up to ``max_lines`` lines, linked to their nodes.

    An item has one if its text is divided into at least two nodes. The file is an item only if nothing is nested in it.
    Parents have no parents: an ``AutoMergingRetriever`` would return both a class and the file around it if nodes of
    one file had different numbers of ancestors.
    """
    own: dict[int, list[tuple[int, TextNode]]] = {}  # by id() of the item: its nodes with their numbers in the file
    for number, (node, item, _) in enumerate(leaves):
        own.setdefault(id(item), []).append((number, node))
    parents: list[TextNode] = []
    waiting = top.children[::-1] or [top]
    while waiting:
        item = waiting.pop()
        if item.last - item.first >= max_lines:
            waiting += item.children[::-1]
            continue
        below = (numbered for each in (item, *descendants(item)) for numbered in own.get(id(each), []))
        children = [node for _, node in sorted(below, key=lambda numbered: numbered[0])]
        if len(children) > 1:
            parent = whole_node(item)
            parent.relationships[NodeRelationship.CHILD] = [_reference(child) for child in children]
            for child in children:
                child.relationships[NodeRelationship.PARENT] = _reference(parent)
            parents.append(parent)
    return parents


def _reference(node: TextNode) -> RelatedNodeInfo:
    return RelatedNodeInfo(node_id=node.node_id, node_type=ObjectType.TEXT)
