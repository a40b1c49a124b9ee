"""The systems that ``index_scale.py`` compares, on the same nodes and vectors: ours, LlamaIndex's parts, LanceDB."""

from __future__ import annotations

import importlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import BaseRetriever, QueryFusionRetriever
from llama_index.core.schema import BaseNode, MetadataMode, QueryBundle, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from pydantic import PrivateAttr
from scale_workload import ENCODER, FILTERED_PART, TOP_K, VectorCache, Vectors, Workload, load_encoder, parse

from llamaindex_code_retrieval import CodeIndex, CodeNodeParser, NodeFilter
from llamaindex_code_retrieval.ranking.fusion import CANDIDATES

Mode = Literal["dense", "words", "fused"]
Search = Callable[[str, Vectors], list[str]]
"""Returns the embedded texts of the hits, best first, of a query and its vector."""

_FILTERED_LANGUAGE = "python"
_ROWS = 5000  # that LanceDB is given at once
_LEAST_ROWS_FOR_IVF = 20_000

for _variable in ("LANCE_LOG", "LANCEDB_LOG"):  # each search that selects columns prints a warning
    os.environ.setdefault(_variable, "error")


class CachedEmbedding(BaseEmbedding):
    """A static encoder whose vectors of the workload's texts are read from a file; ``seconds`` is what it took."""

    _cache: VectorCache = PrivateAttr()
    _encoder: Any = PrivateAttr()
    _seconds: float = PrivateAttr(default=0.0)

    def __init__(self, folder: Path) -> None:
        super().__init__(model_name=ENCODER, embed_batch_size=1024)
        self._cache = VectorCache(folder)
        self._encoder = load_encoder()

    @classmethod
    def class_name(cls) -> str:
        """Return the name that an index saves."""
        return "CachedEmbedding"

    @property
    def seconds(self) -> float:
        """Time of all calls."""
        return self._seconds

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._cache.dim

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        start = time.perf_counter()
        vectors = [self._cache.get(text) for text in texts]
        new = [text for text, vector in zip(texts, vectors, strict=True) if vector is None]
        computed = iter(self._encoder.encode_queries(new) if new else ())
        result = [(next(computed) if vector is None else vector).tolist() for vector in vectors]
        self._seconds += time.perf_counter() - start
        return result

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embeddings([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


class System(ABC):
    """An index on disk of the code base of a workload. The packages of a system are imported when it is made."""

    packages: tuple[str, ...]
    distribution: str

    def __init__(self, workload: Workload, folder: Path, embedding: CachedEmbedding) -> None:
        self.workload = workload
        self.folder = folder
        self.embedding = embedding
        for package in self.packages:
            importlib.import_module(package)

    @classmethod
    def missing(cls) -> str:
        """Return why this system cannot be measured; empty if it can."""
        try:
            for package in cls.packages:
                importlib.import_module(package)
        except ImportError as error:
            return f"{error}; pip install {cls.distribution}"
        return ""

    @abstractmethod
    def build(self) -> None:
        """Read all files and write the index."""

    @abstractmethod
    def open(self) -> None:
        """Open the index for the methods below."""

    @abstractmethod
    def search(self, mode: Mode, *, filtered: bool) -> Search:
        """Return a search; ``filtered`` keeps Python files below one of the ten top folders."""

    @abstractmethod
    def update(self, paths: Sequence[str]) -> None:
        """Bring the index on disk up to date; the peers need the ``paths`` of the files that changed."""


class Ours(System):
    """``CodeIndex``; it finds out what changed by itself."""

    packages = ("faiss", "tantivy")
    distribution = "llamaindex-code-retrieval"
    _index: CodeIndex[CachedEmbedding]

    def build(self) -> None:
        """Read all files and write the index."""
        with CodeIndex(self.embedding, self.folder) as index:
            index.update([self.workload.root])

    def open(self) -> None:
        """Open the index."""
        self._index = CodeIndex.open(self.folder, embedding=self.embedding)

    def search(self, mode: Mode, *, filtered: bool) -> Search:
        """Return a search; ``filtered`` keeps Python files below one of the ten top folders."""
        filters = NodeFilter(languages=(_FILTERED_LANGUAGE,), paths=(f"{FILTERED_PART}/**",)) if filtered else None
        retriever = self._index.as_retriever(top_k=TOP_K, mode="bm25" if mode == "words" else mode, filters=filters)
        return _texts_of(retriever)

    def update(self, paths: Sequence[str]) -> None:
        """Bring the index up to date."""
        self._index.update([self.workload.root])


class LlamaIndexParts(System):
    """``VectorStoreIndex`` on ``SimpleVectorStore``, ``BM25Retriever`` and ``QueryFusionRetriever``, persisted.

    ``BM25Retriever`` cannot be changed, so an update makes another one of all nodes.
    """

    packages = ("llama_index.retrievers.bm25",)
    distribution = "llama-index-retrievers-bm25"
    _index: VectorStoreIndex
    _bm25: Any

    def build(self) -> None:
        """Read all files and write the index."""
        nodes = list(_nodes(self.workload, self.workload.paths()))
        self._index = VectorStoreIndex(nodes, embed_model=self.embedding)
        self._bm25 = self._words(nodes)
        self._persist()

    def open(self) -> None:
        """Read the whole index."""
        from llama_index.retrievers.bm25 import BM25Retriever

        storage = StorageContext.from_defaults(persist_dir=str(self.folder))
        index = load_index_from_storage(storage, embed_model=self.embedding)
        assert isinstance(index, VectorStoreIndex)
        self._index = index
        self._bm25 = BM25Retriever.from_persist_dir(str(self.folder / "bm25"))

    def search(self, mode: Mode, *, filtered: bool) -> Search:
        """Return a search; ``filtered`` keeps Python files below one of the ten top folders."""
        filters = None
        if filtered:
            conditions = {"language": _FILTERED_LANGUAGE, "part": FILTERED_PART}
            filters = MetadataFilters(filters=[MetadataFilter(key=key, value=conditions[key]) for key in conditions])
        depth = CANDIDATES if mode == "fused" else TOP_K
        words = self._bm25
        if filtered and mode != "dense":
            words = self._words(list(self._index.docstore.docs.values()), filters)
        words.similarity_top_k = depth
        dense = self._index.as_retriever(similarity_top_k=depth, filters=filters)
        if mode == "dense":
            return _texts_of(dense)
        if mode == "words":
            return _texts_of(words)
        fused = QueryFusionRetriever(
            [dense, words],
            similarity_top_k=TOP_K,
            num_queries=1,
            mode="reciprocal_rerank",  # type: ignore[arg-type]
            use_async=False,
            llm=MockLLM(),
        )
        return _texts_of(fused)

    def update(self, paths: Sequence[str]) -> None:
        """Replace the nodes of the files and write the index again."""
        changed = set(paths)
        old = [id_ for id_, node in self._index.docstore.docs.items() if node.metadata["path"] in changed]
        self._index.delete_nodes(old, delete_from_docstore=True)
        self._index.insert_nodes(list(_nodes(self.workload, paths)))
        self._bm25 = self._words(list(self._index.docstore.docs.values()))
        self._persist()

    def _words(self, nodes: Sequence[BaseNode], filters: MetadataFilters | None = None) -> Any:
        from llama_index.retrievers.bm25 import BM25Retriever

        return BM25Retriever.from_defaults(nodes=list(nodes), similarity_top_k=TOP_K, filters=filters)

    def _persist(self) -> None:
        self._index.storage_context.persist(str(self.folder))
        self._bm25.persist(str(self.folder / "bm25"))


class LanceDb(System):
    """A LanceDB table with its indexes of vectors and of words; hybrid search fuses by reciprocal rank.

    A small table has no index of the vectors, as LanceDB advises; a larger one has IVF with product quantisation in its
    default settings, and compares ten times the hits with the exact vectors.
    """

    packages = ("lancedb", "lancedb.rerankers")
    distribution = "lancedb"
    _table: Any

    def build(self) -> None:
        """Read all files and write the table."""
        import lancedb
        import pyarrow as pa

        text = ["id", "text", "embedded", "path", "language", "part", "symbol"]
        schema = pa.schema(
            [(name, pa.string()) for name in text]
            + [("start_line", pa.int32()), ("end_line", pa.int32())]
            + [("vector", pa.list_(pa.float32(), self.embedding.dim))]
        )
        table = lancedb.connect(str(self.folder)).create_table("nodes", schema=schema)
        batch: list[TextNode] = []
        for node in _nodes(self.workload, self.workload.paths()):
            batch.append(node)
            if len(batch) == _ROWS:
                table.add(self._rows(batch))
                batch.clear()
        if batch:
            table.add(self._rows(batch))
        table.optimize()
        table.create_fts_index("text")
        table.create_scalar_index("path")
        if table.count_rows() >= _LEAST_ROWS_FOR_IVF:
            table.create_index(metric="cosine")

    def open(self) -> None:
        """Open the table."""
        import lancedb

        self._table = lancedb.connect(str(self.folder)).open_table("nodes")

    def search(self, mode: Mode, *, filtered: bool) -> Search:
        """Return a search; ``filtered`` keeps Python files below one of the ten top folders."""
        condition = f"language = '{_FILTERED_LANGUAGE}' AND part = '{FILTERED_PART}'"
        indexed = self._table.count_rows() >= _LEAST_ROWS_FOR_IVF

        def search(query: str, vector: Vectors) -> list[str]:
            if mode == "words":
                request = self._table.search(query, query_type="fts").limit(TOP_K)
            elif mode == "dense":
                request = self._table.search(vector).distance_type("cosine").limit(TOP_K)
            else:
                request = self._table.search(query_type="hybrid").vector(vector).text(query).limit(CANDIDATES)
                request = request.distance_type("cosine")
            if indexed and mode != "words":
                request = request.refine_factor(10)
            if filtered:
                request = request.where(condition)
            rows = request.select(["id", "text", "embedded", "path", "start_line"]).to_list()
            return [row["embedded"] for row in rows[:TOP_K]]

        return search

    def update(self, paths: Sequence[str]) -> None:
        """Replace the rows of the files and bring the indexes up to date."""
        for start in range(0, len(paths), 100):
            quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths[start : start + 100])
            self._table.delete(f"path IN ({quoted})")
        self._table.add(self._rows(list(_nodes(self.workload, paths))))
        self._table.optimize()

    def _rows(self, nodes: Sequence[TextNode]) -> list[dict[str, Any]]:
        texts = [node.get_content(MetadataMode.EMBED) for node in nodes]
        vectors = self.embedding.get_text_embedding_batch(texts)
        names = ("path", "language", "part", "symbol", "start_line", "end_line")
        return [
            {
                "id": node.node_id,
                "text": node.text,
                "embedded": text,
                **{name: node.metadata.get(name, "") for name in names},
                "vector": vector,
            }
            for node, text, vector in zip(nodes, texts, vectors, strict=True)
        ]


SYSTEMS: dict[str, type[System]] = {"ours": Ours, "llama-index": LlamaIndexParts, "lancedb": LanceDb}


def _nodes(workload: Workload, paths: Sequence[str]) -> Iterator[TextNode]:
    """Yield the nodes of files for a peer; ``part`` is the top folder, because the peers' filters know no globs."""
    parser = CodeNodeParser()
    for path in paths:
        for node in parse(path, (workload.root / path).read_text(encoding="utf-8"), parser):
            node.metadata["part"] = path.partition("/")[0]
            node.excluded_embed_metadata_keys.append("part")
            yield node


def _texts_of(retriever: BaseRetriever) -> Search:
    def search(query: str, vector: Vectors) -> list[str]:
        hits = retriever.retrieve(QueryBundle(query_str=query, embedding=vector.tolist()))
        return [hit.node.get_content(MetadataMode.EMBED) for hit in hits]

    return search
