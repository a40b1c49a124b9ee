"""Small sources, an embedding model without weights, and what an index of them holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import QueryBundle, TextNode
from pydantic import PrivateAttr

from llamaindex_code_retrieval import CodeIndex, CodeRetriever

SOURCES = {
    "a.py": "def read_file(path):\n    return open(path).read()\n\n\ndef add(a, b):\n    return a + b\n",
    "B.java": "class B {\n  int add(int a, int b) { return a + b; }\n}\n",
    "c.go": "package c\n\nfunc Add(a int, b int) int {\n\treturn a + b\n}\n",
}


class HashEmbedding(BaseEmbedding):
    """Random vectors that depend on the text, the ``seed`` and nothing else; two names are two models."""

    model_name: str = "hash"
    seed: int = 0
    dim: int = 16
    _before_call: Callable[[int], object] | None = PrivateAttr(default=None)
    _texts: list[str] = PrivateAttr(default_factory=list)
    _calls: int = PrivateAttr(default=0)

    def before_call(self, call: Callable[[int], object]) -> None:
        """Call ``call`` with 1, 2, … before each batch of nodes is embedded."""
        self._before_call, self._calls = call, 0

    def embedded(self) -> list[str]:
        """Return the texts that were embedded since the last time."""
        texts, self._texts = self._texts, []
        return texts

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self._calls += 1
        if self._before_call is not None:
            self._before_call(self._calls)
        self._texts += texts
        return list(map(self._get_text_embedding, texts))

    def _get_text_embedding(self, text: str) -> list[float]:
        content = f"{self.model_name}\0{self.seed}\0{text}".encode("utf-8", "surrogatepass")
        seed = int.from_bytes(hashlib.sha256(content).digest()[:8])
        vector = np.random.default_rng(seed).normal(size=self.dim)
        return list((vector / np.linalg.norm(vector)).tolist())

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def node_in(node_id: str, text: str, language: str) -> TextNode:
    """Return a node whose language is not part of the embedded text."""
    return TextNode(id_=node_id, text=text, metadata={"language": language}, excluded_embed_metadata_keys=["language"])


def vectors_of(index: CodeIndex) -> dict[str, list[float]]:
    """Return all vectors by node id; they are kept in half precision."""
    ids = [node.node_id for node in index.nodes()]
    return dict(zip(ids, index.vectors(ids).tolist(), strict=True))


def hits_of(retriever: CodeRetriever, query: QueryBundle) -> list[tuple[str, str]]:
    return [(hit.node_id, hit.node.get_content()) for hit in retriever.retrieve(query)]


def scopes_of(index: CodeIndex) -> set[str]:
    return {node.metadata["scope"] for node in index.nodes()}
