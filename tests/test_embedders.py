from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from indexes import SOURCES, hits_of, vectors_of
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import (
    MetadataMode,
    QueryBundle,
)
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llamaindex_code_retrieval import (
    CodeEmbedding,
    CodeIndex,
)
from llamaindex_code_retrieval.index.folder import read_settings


class LetterCounts(BaseEmbedding):
    """Counts letters: vectors that are not of length 1, of a model that is not ours."""

    model_name: str = "letter-counts"
    first: str = "a"

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(text.lower().count(chr(ord(self.first) + i))) for i in range(20)]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@pytest.mark.parametrize("store", [None, SimpleVectorStore()])
def test_any_llamaindex_embedding(store: BasePydanticVectorStore | None, tmp_path: Path) -> None:
    model = LetterCounts()
    index = CodeIndex(model, vector_store=store)
    assert index.embedding is model
    assert index.update_texts(SOURCES).embedded == len(index)
    query = "read file"
    cosines = {}
    for node in index.nodes():
        a, b = (
            np.asarray(model.get_text_embedding(node.get_content(MetadataMode.EMBED))),
            np.asarray(model.get_query_embedding(query)),
        )
        cosines[node.node_id] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    expected = sorted(cosines.items(), key=lambda item: -item[1])
    retriever = index.as_retriever(mode="dense")
    for hits in (retriever.retrieve(query), asyncio.run(retriever.aretrieve(query))):
        assert [hit.node_id for hit in hits] == [node_id for node_id, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([cosine for _, cosine in expected], abs=1e-3)

    index.save(tmp_path)
    settings = read_settings(tmp_path)
    assert settings["embedding"] == {"class_name": model.class_name(), "model_name": "letter-counts"}
    again = CodeIndex.open(tmp_path, embedding=model, vector_store=store)
    assert again.embedding is model
    assert again.update_texts(SOURCES).embedded == 0
    assert hits_of(again.as_retriever(), QueryBundle(query)) == hits_of(index.as_retriever(), QueryBundle(query))


def test_an_index_of_another_embedding_needs_that_one(embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(LetterCounts())
    index.update_texts(SOURCES)
    index.save(tmp_path)
    with pytest.raises(ValueError, match=r"built with the model 'letter-counts' of the class .*; pass that model"):
        CodeIndex.open(tmp_path)
    for other in (embedding, LetterCounts(model_name="other")):
        with pytest.raises(ValueError, match="built by model 'letter-counts' with fingerprint"):
            CodeIndex.open(tmp_path, embedding=other)
    with pytest.raises(ValueError, match=r"has fingerprint \w+ but computes other vectors; rebuild it with"):
        CodeIndex.open(tmp_path, embedding=LetterCounts(first="c"))
    with pytest.raises(TypeError, match="must be a LlamaIndex embedding model, got a str"):
        CodeIndex("embedded")  # type: ignore[type-var]


def test_the_embedding_may_be_replaced(embedding: CodeEmbedding, adapter_folders: dict[str, Path]) -> None:
    index = CodeIndex(embedding)
    index.update_texts(SOURCES)
    query = QueryBundle("add")
    before = hits_of(index.as_retriever(mode="dense"), query)
    index.embedding = CodeEmbedding(embedding.model_name, adapter=adapter_folders["lora"], precision="fp32")
    assert hits_of(index.as_retriever(mode="dense"), query) == before  # by the old one until the update
    assert index.update_texts(SOURCES).embedded == len(index)
    for node in index.nodes():
        assert vectors_of(index)[node.node_id] == pytest.approx(index.embedding.get_text_embedding(node.text), abs=1e-3)
    index.embedding = LetterCounts()  # type: ignore[assignment]
    assert index.update_texts(SOURCES).embedded == len(index)
    assert {len(vector) for vector in vectors_of(index).values()} == {20}
    other = CodeIndex(embedding, vector_store=SimpleVectorStore())
    with pytest.raises(ValueError, match="have 32 dimensions, those of the new embedding 20; build another index"):
        other.embedding = LetterCounts()  # type: ignore[assignment]
