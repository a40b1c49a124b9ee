"""One state of an index, and the searches in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery

from llamaindex_code_retrieval.embedding import node_language
from llamaindex_code_retrieval.index.embedders import Embedder
from llamaindex_code_retrieval.index.faiss_store import FaissStore
from llamaindex_code_retrieval.index.records import FileRecord, NodeRecord, to_node
from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.index.words import LexicalIndex


class AdapterGroup(NamedTuple):
    """The languages whose vectors one adapter made. Vectors of two groups cannot be compared with each other."""

    embedder: Embedder
    """Embeds queries with this adapter."""
    languages: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One state of an index. It never changes: a search that reads one snapshot from beginning to end sees one state.

    If the index has a :class:`FaissStore`, ``vectors`` is a copy of it. Another store may change later; hits that the
    snapshot does not contain are skipped.
    """

    vectors: BasePydanticVectorStore
    embedder: Embedder
    """The model and the adapters that made the vectors."""
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    """By path."""
    records: Mapping[str, NodeRecord] = field(default_factory=dict)
    """By node id, in the order of paths and lines, which is that of the rows in ``words``."""
    words: LexicalIndex = field(default_factory=lambda: LexicalIndex.build([]))
    without_vector: frozenset[str] = frozenset()
    """Nodes whose vectors are missing in the store. The next update embeds them again."""
    roots: tuple[str, ...] = ()
    sources: SourceOptions = field(default_factory=SourceOptions)
    """How the files of the roots were selected and read."""
    parser_settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings and version of the parser that made the nodes."""
    updated: str = ""
    """Time of the last update, ISO 8601 in UTC."""
    order: tuple[str, ...] = field(init=False)
    """The node ids by row."""
    by_language: Mapping[str, Sequence[str]] = field(init=False)
    """The node ids of each language."""

    def __post_init__(self) -> None:
        groups: dict[str, list[str]] = {}
        for node_id, record in self.records.items():
            groups.setdefault(node_language(record["metadata"]), []).append(node_id)
        object.__setattr__(self, "order", tuple(self.records))
        object.__setattr__(self, "by_language", dict(sorted(groups.items())))

    def node(self, node_id: str) -> TextNode:
        """Return a copy of a node; an unknown id is a KeyError."""
        return to_node(node_id, self.records[node_id])

    def nodes(self) -> Iterator[TextNode]:
        """Yield all nodes by path and line."""
        return (self.node(node_id) for node_id in self.order)

    def adapter_groups(self, current: Embedder, languages: Collection[str] | None = None) -> list[AdapterGroup]:
        """Group the index's languages (those of ``languages``, if given) by the adapter that made their vectors.

        Queries of a group are embedded by ``current``, unless its adapter was replaced after the last update.
        """
        fingerprints = self.embedder.fingerprints
        groups: dict[str, list[str]] = {}
        for language in self.by_language:
            if languages is None or language in languages:
                groups.setdefault(fingerprints.get(language, fingerprints[""]), []).append(language)
        result = []
        for fingerprint, group in groups.items():
            embedder = current.for_language(group[0])
            is_swapped = embedder.fingerprint != fingerprint
            result.append(AdapterGroup(self.embedder.for_language(group[0]) if is_swapped else embedder, group))
        return result

    def search_vectors(
        self, query: list[float], *, top_k: int, languages: Collection[str] | None = None
    ) -> list[tuple[str, float]]:
        """Return (node id, cosine) of the ``top_k`` nearest nodes, of ``languages`` if given; ties by node id.

        The query's vector must come from the adapter that made theirs, see :meth:`adapter_groups`.
        """
        wanted: Collection[str] = self.records.keys()
        if languages is not None and not self.by_language.keys() <= set(languages):
            wanted = {node_id for language in languages for node_id in self.by_language.get(language, ())}
        if not wanted:
            return []
        if isinstance(self.vectors, FaissStore):
            if len(wanted) == len(self.vectors):
                hits, _ = search_store(self.vectors, query, top_k=top_k)
                if all(node_id in wanted for node_id, _ in hits):
                    return hits
            return search_store(self.vectors, query, top_k=top_k, node_ids=list(wanted))[0]
        return search_among(self.vectors, query, top_k=top_k, wanted=wanted)

    def search_words(
        self, query: str, *, top_k: int, languages: Collection[str] | None = None
    ) -> list[tuple[str, float]]:
        """Return (node id, BM25 score) of the ``top_k`` best nodes that share a word with the query, best first.

        With ``languages`` those of these languages only.
        """
        if languages is None or self.by_language.keys() <= set(languages):
            return [(self.order[row], score) for row, score in self.words.search(query, top_k=top_k)]
        wanted = {node_id for language in languages for node_id in self.by_language.get(language, ())}
        hits = ((self.order[row], score) for row, score in self.words.search(query, top_k=len(self.order)))
        return [hit for hit in hits if hit[0] in wanted][:top_k]


def search_store(
    store: BasePydanticVectorStore, query: list[float], *, top_k: int, node_ids: list[str] | None = None
) -> tuple[list[tuple[str, float]], bool]:
    """Return the hits of a store, best first and ties by id, and whether there may be more."""
    result = store.query(VectorStoreQuery(query_embedding=query, similarity_top_k=top_k, node_ids=node_ids))
    ids = result.ids if result.ids is not None else [node.node_id for node in result.nodes or []]
    scores = result.similarities if result.similarities is not None else [0.0] * len(ids)
    hits = [(node_id, float(score)) for node_id, score in zip(ids, scores, strict=True)]
    if result.similarities is not None:
        hits.sort(key=lambda hit: (-hit[1], hit[0]))
    return hits, len(ids) >= top_k


def search_among(
    store: BasePydanticVectorStore, query: list[float], *, top_k: int, wanted: Collection[str]
) -> list[tuple[str, float]]:
    """Return the ``top_k`` best hits among ``wanted`` from a store that may hold other nodes and may not filter.

    The number of requested hits grows until enough of them are wanted.
    """
    depth = top_k
    while True:
        hits, has_more = search_store(store, query, top_k=depth)
        among = [hit for hit in hits if hit[0] in wanted][:top_k]
        if len(among) == min(top_k, len(wanted)) or not has_more:
            return among
        depth *= 4
