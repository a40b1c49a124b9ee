"""Small sources and what an index of them holds."""

from __future__ import annotations

from llama_index.core.schema import QueryBundle

from llamaindex_code_retrieval import CodeIndex, CodeRetriever, FaissStore

SOURCES = {
    "a.py": "def read_file(path):\n    return open(path).read()\n\n\ndef add(a, b):\n    return a + b\n",
    "B.java": "class B {\n  int add(int a, int b) { return a + b; }\n}\n",
    "c.go": "package c\n\nfunc Add(a int, b int) int {\n\treturn a + b\n}\n",
}


def vectors_of(index: CodeIndex) -> dict[str, list[float]]:
    store = index.vector_store
    assert isinstance(store, FaissStore)
    return {node.node_id: store.vectors([node.node_id])[0].tolist() for node in index.nodes()}


def hits_of(retriever: CodeRetriever, query: QueryBundle) -> list[tuple[str, str]]:
    return [(hit.node_id, hit.node.get_content()) for hit in retriever.retrieve(query)]


def scopes_of(index: CodeIndex) -> set[str]:
    return {node.metadata["scope"] for node in index.nodes()}
