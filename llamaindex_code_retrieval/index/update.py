"""Update an index: parse changed files, embed new nodes, and build the next snapshot."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from llama_index.core.node_parser import get_leaf_nodes
from llama_index.core.schema import Document, TextNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import Progress
from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding, node_language
from llamaindex_code_retrieval.index.embedders import Embedder, fingerprint_of
from llamaindex_code_retrieval.index.faiss_store import FaissStore
from llamaindex_code_retrieval.index.file_state import text_digest
from llamaindex_code_retrieval.index.records import (
    FileRecord,
    NodeRecord,
    embedded_text,
    keep_ids_of_relations,
    to_record,
)
from llamaindex_code_retrieval.index.snapshot import Snapshot
from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.index.words import LexicalIndex
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES

_EMBED_AT_ONCE = 256  # nodes between two writes to the cache: an interruption loses no more


@dataclass(slots=True)
class IndexReport:
    """Counts of a build or an update. ``files``, ``nodes`` and ``unparsed_files`` count the whole index."""

    files: int = 0
    nodes: int = 0
    added: int = 0
    """Nodes that were not in the index before, or had another text."""
    removed: int = 0
    """Nodes that are no longer in it."""
    embedded: int = 0
    """Nodes that went to the embedding model or its cache: their text was not in the index before, or their language
    has another adapter now."""
    truncated: int = 0
    """Nodes of this run's ``embedded`` that are longer than the model's token limit: nodes that were given to
    ``update_nodes`` or made by a parser with another ``max_tokens``."""
    unparsed_files: int = 0
    """Files of a known language that could not be parsed and are indexed by line windows."""
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    """Files that were left out: by reason, then by extension."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Files of no known kind, read as plain text: by extension."""
    encodings: dict[str, dict[str, int]] = field(default_factory=dict)
    """Files that are not UTF-8: by how their encoding was found ("byte order mark", "declared", "guessed"), then by
    encoding; "replaced" counts those with U+FFFD in place of the bytes that are not UTF-8."""
    seconds: float = 0.0


def bounded_parser(parser: CodeNodeParser, embedder: Embedder) -> CodeNodeParser:
    """Return a parser whose nodes the embedding reads to their end, unless ``parser`` has a bound of its own."""
    if parser.max_tokens is None and isinstance(embedder, CodeEmbedding):
        return parser.with_token_bound(embedder.max_code_tokens, embedder.tokenize_code)
    return parser


def parse_texts(
    texts: Mapping[str, str],
    parser: CodeNodeParser,
    *,
    languages: Mapping[str, str],
    known: Mapping[str, FileRecord],
    progress: Progress,
) -> tuple[dict[str, FileRecord], list[TextNode]]:
    """Parse the texts, source by path, that differ from the ``known`` ones; return all files and the new nodes.

    ``languages`` has the language of a path where the parser is not to find it itself. Parents of nodes are left out,
    because an index embeds and returns all of its nodes.
    """
    files: dict[str, FileRecord] = {}
    nodes: list[TextNode] = []
    for done, path in enumerate(sorted(texts), start=1):
        language = languages.get(path)
        digest = text_digest(texts[path], language)
        if path in known and known[path]["sha256"] == digest:
            files[path] = known[path]
        else:
            metadata = {"path": path} if language is None else {"path": path, "language": language}
            document = Document(text=texts[path], id_=path, metadata=metadata)
            leaves = get_leaf_nodes(parser.get_nodes_from_documents([document]))
            parsed = [node for node in leaves if isinstance(node, TextNode)]
            for node in parsed:
                keep_ids_of_relations(node)
            files[path] = {
                "sha256": digest,
                "nodes": [node.node_id for node in parsed],
                "parsed": not any(_is_unparsed(node) for node in parsed),
            }
            nodes += parsed
        progress("parse", done, len(texts))
    return files, nodes


def files_of_nodes(nodes: Sequence[TextNode]) -> dict[str, FileRecord]:
    """Return a file record for each node.

    Raises:
        ValueError: two nodes have the same id.
    """
    files: dict[str, FileRecord] = {
        node.node_id: {"sha256": text_digest(node.text), "nodes": [node.node_id], "parsed": True} for node in nodes
    }
    if len(files) != len(nodes):
        raise ValueError(f"{len(nodes) - len(files)} of {len(nodes)} nodes repeat the id of another one")
    return files


def next_snapshot(
    old: Snapshot,
    files: Mapping[str, FileRecord],
    nodes: Sequence[TextNode],
    *,
    embedder: Embedder,
    store: BasePydanticVectorStore,
    roots: tuple[str, ...],
    sources: SourceOptions,
    parser_settings: Mapping[str, Any],
    progress: Progress,
) -> tuple[Snapshot, IndexReport]:
    """Build a snapshot of the nodes that ``files`` lists, from ``nodes`` and ``old``, and store the new vectors.

    A node whose text is unchanged keeps its vector but not its record: its class may have been renamed. Nodes that are
    no longer listed are deleted from a :class:`FaissStore`, but not from another store, where searches in the old
    snapshot still need them.
    """
    embedder = copy.deepcopy(embedder)  # use_adapter may change it meanwhile
    new_records = {node.node_id: to_record(node) for node in nodes}
    records = {
        node_id: new_records.get(node_id) or old.records[node_id]
        for path in sorted(files)
        for node_id in files[path]["nodes"]
    }
    repeated = sum(len(file["nodes"]) for file in files.values()) - len(records)
    if repeated:
        raise ValueError(f"{repeated} nodes repeat the id of another one; the parser's id_func must make ids unique")
    added = [node_id for node_id in new_records if not _has_equal_text(old, node_id, new_records[node_id])]
    removed = [node_id for node_id in old.records if node_id not in records]
    changed = [*added, *_with_outdated_vector(old, records, added, embedder, store)]
    report = IndexReport(files=len(files), nodes=len(records), added=len(added), removed=len(removed))
    report.unparsed_files = sum(not file["parsed"] for file in files.values())
    vectors = _vectors(old, changed, records, embedder, report, progress)
    words = old.words
    if added or removed or tuple(records) != old.order:
        words = LexicalIndex.build([record["text"] for record in records.values()])
    by_id = {node.node_id: node for node in nodes}
    changed_nodes = [by_id.get(node_id) or old.node(node_id) for node_id in changed]
    _store(store, changed_nodes, vectors, replaced=old.records.keys() & set(changed), removed=removed)
    snapshot = Snapshot(
        vectors=stable_copy(store),
        embedder=embedder,
        files=files,
        records=records,
        words=words,
        roots=roots,
        sources=sources,
        parser_settings=parser_settings,
        updated=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return snapshot, report


def _has_equal_text(old: Snapshot, node_id: str, record: NodeRecord) -> bool:
    before = old.records.get(node_id)
    return before is not None and before["text"] == record["text"] and embedded_text(before) == embedded_text(record)


def _with_outdated_vector(
    old: Snapshot,
    records: Mapping[str, NodeRecord],
    added: Collection[str],
    embedder: Embedder,
    store: BasePydanticVectorStore,
) -> list[str]:
    """Return the kept nodes whose vector is missing, or whose language has another adapter now."""
    old_fingerprints, new_fingerprints = old.embedder.fingerprints, embedder.fingerprints
    has_one_adapter = old_fingerprints == new_fingerprints and len(new_fingerprints) == 1
    added = set(added)
    outdated = []
    for node_id in sorted(records.keys() - added):
        is_lost = node_id in old.without_vector or (isinstance(store, FaissStore) and node_id not in store)
        if is_lost or (
            not has_one_adapter
            and fingerprint_of(old_fingerprints, old.records[node_id]["metadata"])
            != fingerprint_of(new_fingerprints, records[node_id]["metadata"])
        ):
            outdated.append(node_id)
    return outdated


def _vectors(
    old: Snapshot,
    node_ids: Sequence[str],
    records: Mapping[str, NodeRecord],
    embedder: Embedder,
    report: IndexReport,
    progress: Progress,
) -> NDArray[np.float32]:
    """Return the nodes' vectors, shape ``(nodes, dim)``; vectors of equal texts by the same adapter are reused."""
    fingerprints = embedder.fingerprints
    known: dict[tuple[str, str], str] = {}  # (fingerprint, text) -> node id
    if node_ids and isinstance(old.vectors, FaissStore):
        old_fingerprints = old.embedder.fingerprints
        known = {
            (fingerprint_of(old_fingerprints, record["metadata"]), embedded_text(record)): node_id
            for node_id, record in old.records.items()
            if node_id not in old.without_vector
        }
    vectors = np.empty((len(node_ids), embedder.dim), dtype=np.float32)
    to_embed: list[int] = []
    for row, node_id in enumerate(node_ids):
        record = records[node_id]
        same = known.get((fingerprint_of(fingerprints, record["metadata"]), embedded_text(record)))
        if same is None:
            to_embed.append(row)
        elif isinstance(old.vectors, FaissStore):
            vectors[row] = old.vectors.vectors([same])[0]
    for start in range(0, len(to_embed), _EMBED_AT_ONCE):
        rows = to_embed[start : start + _EMBED_AT_ONCE]
        part = [records[node_ids[row]] for row in rows]
        codes = [embedded_text(record) for record in part]
        vectors[rows] = embedder.embed_codes(codes, [node_language(record["metadata"]) for record in part])
        report.truncated += embedder.truncated_codes(codes)
        report.embedded += len(part)
        progress("embed", report.embedded, len(to_embed))
    return vectors


def _store(
    store: BasePydanticVectorStore,
    nodes: Sequence[TextNode],
    vectors: NDArray[np.float32],
    *,
    replaced: Collection[str],
    removed: Collection[str],
) -> None:
    if isinstance(store, FaissStore):  # in one step, so that a search sees both or neither
        documents = [node.ref_doc_id or node.node_id for node in nodes]
        store.add_vectors([node.node_id for node in nodes], vectors, documents, delete=removed)
        return
    if replaced:
        store.delete_nodes(sorted(replaced))
    if nodes:
        rows = zip(nodes, vectors.tolist(), strict=True)
        store.add([node.model_copy(update={"embedding": vector}) for node, vector in rows])


def stable_copy(store: BasePydanticVectorStore) -> BasePydanticVectorStore:
    """Return an independent copy of a :class:`FaissStore`; return another store itself."""
    return copy.deepcopy(store) if isinstance(store, FaissStore) else store


def _is_unparsed(node: TextNode) -> bool:
    return node.metadata["kind"] == "window" and node_language(node.metadata) in CODE_LANGUAGES
