"""``CodeIndex``: nodes, vectors, BM25 and a manifest in one folder that is always whole."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseNode, Document, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery

from llamaindex_code_retrieval._io import Progress, no_progress, sha256, write_atomically
from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding, language_of
from llamaindex_code_retrieval.index.faiss_store import FaissStore
from llamaindex_code_retrieval.index.sources import Skips, SourceFile, walk
from llamaindex_code_retrieval.index.storage import (
    _MANIFEST,
    _OWN,
    FORMAT,
    _check_place,
    _damaged,
    _other_model,
    read_manifest,
)
from llamaindex_code_retrieval.index.words import LexicalIndex

logger = logging.getLogger(__name__)
_EMBED_AT_ONCE = 256  # nodes between two cache writes: what an interruption can cost


@dataclass(slots=True)
class IndexReport:
    """What a build or an update did. Counts are of the whole index unless they say otherwise."""

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
    """Nodes of this run's ``embedded`` that are longer than the model's token limit."""
    unparsed_files: int = 0
    """Files of a known language that could not be parsed and are indexed by line windows."""
    replaced_files: int = 0
    """Files that are not valid UTF-8, read with U+FFFD in place of the bad bytes."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Files left out, by reason."""
    seconds: float = 0.0


class CodeIndex:
    """A searchable code base: build it, update it, save it, load it; ``CodeRetriever`` asks it.

    >>> from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeRetriever
    >>> index = CodeIndex(CodeEmbedding())
    >>> report = index.update_texts({"greet.py": "def hello(name):\\n    return f'Hello, {name}!'\\n"})
    >>> CodeRetriever(index).retrieve("say hello")[0].node.metadata["scope"]
    'hello'

    ``vector_store`` may be any LlamaIndex vector store; the default is a :class:`FaissStore`. Another store keeps its
    vectors where it keeps them (``save`` then writes all but the vectors), and is passed again to :meth:`load`.

    With an adapter for each language every node has a vector of its language's, and the index remembers which. After
    ``embedding.use_adapter(…)`` it is searched and saved as it was until the next update, which embeds the nodes of
    that language anew and no others.
    """

    def __init__(
        self,
        embedding: CodeEmbedding,
        *,
        parser: CodeNodeParser | None = None,
        vector_store: BasePydanticVectorStore | None = None,
    ) -> None:
        self.embedding = embedding
        self.parser = parser or CodeNodeParser()
        self.vector_store: BasePydanticVectorStore = FaissStore(embedding.dim) if vector_store is None else vector_store
        self.roots: list[str] = []
        self.updated = ""
        self._files: dict[str, dict[str, Any]] = {}  # path -> sha256, node ids, whether it was parsed
        self._records: dict[str, dict[str, Any]] = {}  # node id -> what is saved of a node
        self._order: list[str] = []  # node ids in the order of the BM25 rows
        self._lexical = LexicalIndex.build([])
        self._by_language: dict[str, list[str]] = {}  # node ids
        self._made_by = copy.deepcopy(embedding)  # the adapters that made the vectors: use_adapter does not reach it

    def __len__(self) -> int:
        return len(self._records)

    @property
    def files(self) -> int:
        """Number of files indexed."""
        return len(self._files)

    @property
    def languages(self) -> dict[str, int]:
        """Number of nodes by language."""
        return {language: len(ids) for language, ids in sorted(self._by_language.items())}

    # --- filling -----------------------------------------------------------------------------------------------------

    def update(self, roots: Sequence[str | Path] | None = None, *, on_progress: Progress | None = None) -> IndexReport:
        """Bring the index in line with the folders ``roots``; without them, with those of the last time.

        Only what changed is embedded: files by content hash, and inside a changed file the nodes whose text is new.
        Nodes of files that are gone are removed. With several roots a path begins with its root's folder name.

        Raises:
            ValueError: no roots, a root that is not a folder, or no source file in them.
        """
        folders = [Path(root).expanduser().resolve() for root in (roots if roots is not None else self.roots)]
        if not folders:
            raise ValueError("there is nothing to index: name at least one folder")
        skips = Skips()
        texts: dict[str, str] = {}
        for prefix, folder in zip(_prefixes(folders), folders, strict=True):
            texts.update((prefix + file.path, file.text) for file in walk(folder, skips))
        if not texts:
            seen = ", ".join(f"{count} {reason}" for reason, count in skips.reasons.items()) or "no files at all"
            raise ValueError(f"no source file in {', '.join(map(str, folders))} ({seen}); see README for the languages")
        report = self.update_texts(texts, on_progress=on_progress)
        report.replaced_files = skips.replaced
        report.skipped = dict(sorted(skips.reasons.items()))
        self.roots = [str(folder) for folder in folders]
        return report

    def update_texts(self, texts: Mapping[str, str], *, on_progress: Progress | None = None) -> IndexReport:
        """Bring the index in line with ``texts``, source by path: all of it, so that other paths are removed."""
        start = time.perf_counter()
        progress = on_progress or no_progress
        files: dict[str, dict[str, Any]] = {}
        parsed: dict[str, TextNode] = {}
        for done, path in enumerate(sorted(texts), start=1):
            digest = _text_digest(texts[path])
            known = self._files.get(path)
            if known is not None and known["sha256"] == digest:
                files[path] = known
            else:
                nodes = self._parse(SourceFile(path, texts[path]))
                files[path] = {
                    "sha256": digest,
                    "nodes": [node.node_id for node in nodes],
                    "parsed": all(node.metadata["kind"] != "window" for node in nodes),
                }
                parsed.update((node.node_id, node) for node in nodes)
            progress("parse", done, len(texts))
        report = self._apply(files, parsed, progress)
        report.seconds = time.perf_counter() - start
        return report

    def update_nodes(self, nodes: Sequence[TextNode], *, on_progress: Progress | None = None) -> IndexReport:
        """Bring the index in line with nodes of your own making, each its own file: other nodes are removed.

        Only nodes whose id or text is new are embedded; other changes to a node are taken over as they are.
        """
        start = time.perf_counter()
        files = {
            node.node_id: {"sha256": _text_digest(node.text), "nodes": [node.node_id], "parsed": True} for node in nodes
        }
        if len(files) != len(nodes):
            raise ValueError(f"{len(nodes) - len(files)} of {len(nodes)} nodes repeat the id of another one")
        report = self._apply(files, {node.node_id: node for node in nodes}, on_progress or no_progress)
        report.seconds = time.perf_counter() - start
        return report

    def _apply(self, files: dict[str, dict[str, Any]], parsed: dict[str, TextNode], progress: Progress) -> IndexReport:
        """Add the ``parsed`` nodes that are new, remove those that ``files`` no longer names, index the words of all.

        A parsed node that is here already keeps its vector but not its record: its class may have another name now. A
        kept node whose language has another adapter since gets a new vector.
        """
        embedding = copy.deepcopy(self.embedding)  # one state of the adapters, whatever is swapped meanwhile
        before = {node_id: record["text"] for node_id, record in self._records.items()}
        new = {node_id: node for node_id, node in parsed.items() if before.get(node_id) != node.text}
        kept = {node_id for file in files.values() for node_id in file["nodes"]}
        removed = [node_id for node_id in self._records if node_id not in kept]
        stale = self._stale(kept - new.keys(), parsed, embedding)
        report = IndexReport(files=len(files), nodes=len(kept), added=len(new), removed=len(removed))
        report.unparsed_files = sum(not file["parsed"] for file in files.values())
        self._add([*new.values(), *stale], embedding, report, progress)
        self._made_by = embedding
        self._delete(removed)
        self._files = files
        self._records.update((node_id, _record(node)) for node_id, node in parsed.items())
        if new or removed:
            self._order = [node_id for path in sorted(files) for node_id in files[path]["nodes"]]
            self._lexical = LexicalIndex.build([self._records[node_id]["text"] for node_id in self._order])
        self._group_by_language()
        self.updated = datetime.now(UTC).isoformat(timespec="seconds")
        return report

    def _parse(self, file: SourceFile) -> list[TextNode]:
        document = Document(text=file.text, id_=file.path, metadata={"path": file.path})
        return [node for node in self.parser.get_nodes_from_documents([document]) if isinstance(node, TextNode)]

    def _stale(
        self, node_ids: Collection[str], parsed: Mapping[str, TextNode], embedding: CodeEmbedding
    ) -> list[TextNode]:
        """Return those of the nodes whose vector ``embedding`` would make with another adapter."""
        made_by, fingerprints = self._made_by.fingerprints, embedding.fingerprints
        if made_by == fingerprints and len(fingerprints) == 1:
            return []
        stale = []
        for node_id in sorted(node_ids):
            was = self._records[node_id]["metadata"]
            now = parsed[node_id].metadata if node_id in parsed else was
            if _maker(made_by, was) != _maker(fingerprints, now):
                stale.append(parsed.get(node_id) or self.node(node_id))
        return stale

    def _add(self, nodes: list[TextNode], embedding: CodeEmbedding, report: IndexReport, progress: Progress) -> None:
        """Give each node its vector, from the index where a node had the same text and adapter, and store it."""
        store = self.vector_store
        old: dict[tuple[str, str], str] = {}
        if isinstance(store, FaissStore):
            made_by = self._made_by.fingerprints
            for node_id, record in self._records.items():
                old[_maker(made_by, record["metadata"]), record["text"]] = node_id
        now = embedding.fingerprints
        to_embed = [node for node in nodes if (_maker(now, node.metadata), node.text) not in old]
        for start in range(0, len(to_embed), _EMBED_AT_ONCE):
            part = to_embed[start : start + _EMBED_AT_ONCE]
            codes = [node.text for node in part]
            vectors = embedding.embed_codes(codes, [language_of(node.metadata) for node in part]).tolist()
            for node, vector in zip(part, vectors, strict=True):
                node.embedding = vector
            report.truncated += embedding.truncated_codes(codes)
            report.embedded += len(part)
            progress("embed", report.embedded, len(to_embed))
        if isinstance(store, FaissStore):
            for node in nodes:
                if node.embedding is None:
                    node.embedding = store.vectors([old[_maker(now, node.metadata), node.text]])[0].tolist()
        else:  # a FaissStore replaces by itself
            replaced = [node.node_id for node in nodes if node.node_id in self._records]
            if replaced:
                store.delete_nodes(replaced)
        if nodes:
            store.add(list(nodes))

    def _group_by_language(self) -> None:
        groups: dict[str, list[str]] = {}
        for node_id in self._order:
            groups.setdefault(language_of(self._records[node_id]["metadata"]), []).append(node_id)
        self._by_language = groups

    def _delete(self, node_ids: list[str]) -> None:
        if node_ids:
            self.vector_store.delete_nodes(node_ids)
        for node_id in node_ids:
            del self._records[node_id]

    # --- asking ------------------------------------------------------------------------------------------------------

    def node(self, node_id: str) -> TextNode:
        """Return the node as the parser made it; an unknown id is a KeyError."""
        record = self._records[node_id]
        relationships: dict[NodeRelationship, Any] = {
            NodeRelationship.SOURCE: RelatedNodeInfo(node_id=record["metadata"].get("path", node_id))
        }
        for name, related in record["relationships"].items():
            infos = [RelatedNodeInfo(node_id=other) for other in related]
            relationships[NodeRelationship[name]] = infos if name == "CHILD" else infos[0]
        return TextNode(
            id_=node_id,
            text=record["text"],
            metadata=dict(record["metadata"]),
            excluded_embed_metadata_keys=list(record["metadata"]),
            excluded_llm_metadata_keys=record["hidden"],
            relationships=relationships,
            start_char_idx=record["start_char_idx"],
            end_char_idx=record["end_char_idx"],
        )

    def nodes(self) -> Iterator[TextNode]:
        """Yield all nodes by path and line."""
        return (self.node(node_id) for node_id in self._order)

    def file_of(self, path: str) -> Path:
        """Return where the file of a node's ``path`` lies on this machine."""
        folders = [Path(root) for root in self.roots]
        for prefix, folder in zip(_prefixes(folders), folders, strict=True):
            if path.startswith(prefix):
                return folder / path.removeprefix(prefix)
        return Path(path)

    def partitions(self, languages: Collection[str] | None = None) -> list[tuple[CodeEmbedding, list[str]]]:
        """Return each adapter in use, as an embedding with it alone, and the languages whose vectors it made.

        Only vectors of one partition can be compared with each other and with a query embedded by its adapter.
        ``languages`` leaves out all others.
        """
        made_by, fingerprints = self._made_by, self._made_by.fingerprints
        groups: dict[str, list[str]] = {}
        for language in sorted(self._by_language):
            if languages is None or language in languages:
                groups.setdefault(fingerprints.get(language, fingerprints[""]), []).append(language)
        found = []
        for fingerprint, group in groups.items():
            embedding = self.embedding.for_language(group[0])
            swapped = embedding.fingerprint != fingerprint
            found.append((made_by.for_language(group[0]) if swapped else embedding, group))
        return found

    def search_vectors(
        self, query: list[float], *, top_k: int, languages: Collection[str] | None = None
    ) -> list[tuple[str, float]]:
        """Return (node id, cosine) of the ``top_k`` nearest nodes, best first, ties by node id.

        With ``languages`` those of these languages only. The query's vector must come from the adapter that made
        theirs, see :meth:`partitions`. A :class:`FaissStore` searches among them alone; another store, which may not
        filter, is asked for more until there are ``top_k`` of them.
        """
        if languages is None or self._by_language.keys() <= set(languages):
            return self._nearest(VectorStoreQuery(query_embedding=query, similarity_top_k=top_k))[0]
        allowed = [node_id for language in sorted(set(languages)) for node_id in self._by_language.get(language, [])]
        if not allowed:
            return []
        if isinstance(self.vector_store, FaissStore):
            return self._nearest(VectorStoreQuery(query_embedding=query, similarity_top_k=top_k, node_ids=allowed))[0]
        wanted = set(allowed)
        asked = top_k
        while True:
            asked *= 4
            hits, answered = self._nearest(VectorStoreQuery(query_embedding=query, similarity_top_k=asked))
            among = [hit for hit in hits if hit[0] in wanted][:top_k]
            if len(among) == min(top_k, len(wanted)) or answered < asked:
                return among

    def _nearest(self, query: VectorStoreQuery) -> tuple[list[tuple[str, float]], int]:
        """Return the hits that are nodes of this index, and how many the store answered with."""
        result = self.vector_store.query(query)
        ids = result.ids if result.ids is not None else [node.node_id for node in result.nodes or []]
        scores = result.similarities if result.similarities is not None else [0.0] * len(ids)
        hits = [(node_id, float(score)) for node_id, score in zip(ids, scores, strict=True) if node_id in self._records]
        if result.similarities is not None:
            hits.sort(key=lambda hit: (-hit[1], hit[0]))
        return hits, len(ids)

    def search_words(
        self, query: str, *, top_k: int, languages: Collection[str] | None = None
    ) -> list[tuple[str, float]]:
        """Return (node id, BM25 score) of the ``top_k`` best nodes that share a word with the query, best first.

        With ``languages`` those of these languages only.
        """
        if languages is None or self._by_language.keys() <= set(languages):
            return [(self._order[row], score) for row, score in self._lexical.search(query, top_k=top_k)]
        wanted = {node_id for language in languages for node_id in self._by_language.get(language, [])}
        hits = ((self._order[row], score) for row, score in self._lexical.search(query, top_k=len(self._order)))
        return [hit for hit in hits if hit[0] in wanted][:top_k]

    # --- keeping -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the index into ``folder``, atomically.

        All files go to a new subfolder; then one rename of ``manifest.json`` makes it the index. A kill at any moment
        leaves the old index or the new one. Hold :func:`update_lock` when another process may save to this folder.
        """
        target = Path(folder)
        _check_place(target)
        target.mkdir(parents=True, exist_ok=True)
        generation = f"data-{secrets.token_hex(8)}"
        data = target / generation
        (data / "bm25").mkdir(parents=True)
        with (data / "nodes.jsonl").open("w", encoding="utf-8") as file:
            for node_id in self._order:
                file.write(json.dumps({"id": node_id, **self._records[node_id]}) + "\n")
        (data / "files.json").write_text(json.dumps(self._files), encoding="utf-8")
        self._lexical.save(data / "bm25")
        if isinstance(self.vector_store, FaissStore):
            self.vector_store.persist(str(data / "vectors.faiss"))
        manifest = {
            "format": FORMAT,
            "generation": generation,
            "fingerprint": self._made_by.fingerprint,
            "adapters": {language: made for language, made in self._made_by.fingerprints.items() if language},
            "dim": self._made_by.dim,
            "embedding": self._made_by.to_dict(),
            "parser": {"max_lines": self.parser.max_lines, "overlap_lines": self.parser.overlap_lines},
            "vector_store": self.vector_store.class_name(),
            "roots": self.roots,
            "files": len(self._files),
            "nodes": len(self._records),
            "updated": self.updated,
            "contents": {
                path.relative_to(data).as_posix(): sha256(path) for path in sorted(data.rglob("*")) if path.is_file()
            },
        }
        write_atomically(target / _MANIFEST, json.dumps(manifest, indent=1))
        for old in target.glob("data-*"):
            if old.name != generation and _OWN.fullmatch(old.name):
                shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        embedding: CodeEmbedding | None = None,
        vector_store: BasePydanticVectorStore | None = None,
        query_encoder: str | Path | None = None,
        cache_folder: str | Path | None = None,
        device: str | None = None,
    ) -> CodeIndex:
        """Read an index; without ``embedding`` the model that it was built with is loaded, with ``query_encoder``.

        Raises:
            ValueError: no index in ``folder``, one of another format, damaged or only half copied, or built by a
                model with another fingerprint than ``embedding`` (both are named, and the command that rebuilds it);
                a query encoder that is no student of the index's model.
        """
        target = Path(folder)
        manifest = read_manifest(target)
        store_name = manifest["vector_store"]
        if vector_store is None and store_name != FaissStore.class_name():
            raise ValueError(f"{target} keeps its vectors in a {store_name}; pass it as vector_store")
        if embedding is not None and query_encoder is not None:
            raise ValueError("give query_encoder to the embedding, or leave the embedding out")
        if embedding is not None and embedding.fingerprint != manifest["fingerprint"]:
            raise ValueError(_other_model(target, manifest, embedding))
        while True:
            try:
                return cls._read(target, manifest, embedding, vector_store, query_encoder, cache_folder, device)
            except (OSError, ValueError) as error:
                newer = read_manifest(target)
                if newer["generation"] == manifest["generation"]:
                    if isinstance(error, FileNotFoundError):
                        raise ValueError(_damaged(target, manifest, f"{error.filename} is missing")) from error
                    raise
                manifest = newer  # an update replaced the files while they were read: read the new ones

    @classmethod
    def _read(
        cls,
        target: Path,
        manifest: dict[str, Any],
        embedding: CodeEmbedding | None,
        vector_store: BasePydanticVectorStore | None,
        query_encoder: str | Path | None,
        cache_folder: str | Path | None,
        device: str | None,
    ) -> CodeIndex:
        data = target / manifest["generation"]
        for name, digest in manifest["contents"].items():
            if sha256(data / name) != digest:
                raise ValueError(_damaged(target, manifest, f"{data / name} is not what was written"))
        if vector_store is None:
            vector_store = FaissStore.from_persist_path(data / "vectors.faiss")
        if embedding is None:
            saved = {
                key: value for key, value in manifest["embedding"].items() if key not in ("precision", "query_encoder")
            }
            if query_encoder is None:  # which model it is now shall be said below
                del saved["fingerprint"]
            embedding = CodeEmbedding(**saved, query_encoder=query_encoder, cache_folder=cache_folder, device=device)
            if embedding.fingerprint != manifest["fingerprint"]:
                raise ValueError(_other_model(target, manifest, embedding))
        index = cls(embedding, parser=CodeNodeParser(**manifest["parser"]), vector_store=vector_store)
        index.roots, index.updated = manifest["roots"], manifest["updated"]
        index._files = json.loads((data / "files.json").read_text(encoding="utf-8"))
        with (data / "nodes.jsonl").open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                node_id = record.pop("id")
                index._records[node_id] = record
                index._order.append(node_id)
        index._lexical = LexicalIndex.load(data / "bm25", size=len(index._order))
        index._group_by_language()
        return index


def _prefixes(folders: Sequence[Path]) -> list[str]:
    """Return what a path of each root begins with: nothing for a single root, else a name that tells them apart.

    >>> _prefixes([Path("/a/lib"), Path("/b/lib"), Path("/c/app")])
    ['lib/', 'lib-2/', 'app/']
    """
    if len(folders) == 1:
        return [""]
    prefixes: list[str] = []
    for folder in folders:
        name, number = folder.name, 1
        while f"{name}/" in prefixes:
            number += 1
            name = f"{folder.name}-{number}"
        prefixes.append(f"{name}/")
    return prefixes


def _record(node: BaseNode) -> dict[str, Any]:
    relationships: dict[str, list[str]] = {}
    for kind, related in node.relationships.items():
        if kind != NodeRelationship.SOURCE:
            infos = related if isinstance(related, list) else [related]
            relationships[kind.name] = [info.node_id for info in infos]
    return {
        "text": node.get_content(),
        "metadata": node.metadata,
        "hidden": node.excluded_llm_metadata_keys,
        "relationships": relationships,
        "start_char_idx": getattr(node, "start_char_idx", None),
        "end_char_idx": getattr(node, "end_char_idx", None),
    }


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _maker(fingerprints: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """Return the fingerprint of the encoder for a node's language."""
    return fingerprints.get(language_of(metadata), fingerprints[""])
