"""The README's example, and the pieces together as LlamaIndex uses them."""

from __future__ import annotations

from pathlib import Path

import pytest
from llama_index.core import Document, SimpleDirectoryReader, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.response_synthesizers import ResponseMode

from llamaindex_code_retrieval import CodeEmbedding, CodeNodeParser, CodeReranker, FaissStore


@pytest.mark.usefixtures("embedded_model")
def test_query_engine_with_all_parts(repository: Path) -> None:
    embedding = CodeEmbedding()
    documents = SimpleDirectoryReader(str(repository), recursive=True, required_exts=[".py", ".java"]).load_data()
    nodes = IngestionPipeline(transformations=[CodeNodeParser(), embedding]).run(documents=documents)
    store = FaissStore(embedding.dim)
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(nodes, storage_context=context, embed_model=embedding)
    assert len(store) == len(nodes)
    hits = index.as_retriever(similarity_top_k=1).retrieve("send an email to the customer")
    assert hits[0].node.metadata["scope"] == "send_receipt"

    engine = index.as_query_engine(
        llm=MockLLM(),
        similarity_top_k=5,
        node_postprocessors=[CodeReranker(embedding=embedding, top_n=2)],
        response_mode=ResponseMode.COMPACT,
    )
    response = engine.query("send an email to the customer")
    assert len(response.source_nodes) == 2
    scores = [node.score for node in response.source_nodes]
    assert scores == sorted(scores, reverse=True)
    assert "send_receipt" in [node.metadata["scope"] for node in response.source_nodes]
    assert response.source_nodes[0].node.get_content() in str(response)  # MockLLM repeats its prompt


def test_ingestion_cache_notices_a_changed_embedding(bert_folder: Path) -> None:
    documents = [Document(text="def f():\n    return 1\n", metadata={"path": "f.py"}, id_="f.py")]
    pipeline = IngestionPipeline(transformations=[CodeNodeParser(), CodeEmbedding(str(bert_folder))])
    first = pipeline.run(documents=documents)[0].embedding
    changed = CodeEmbedding(str(bert_folder), pooling="cls")
    pipeline.transformations = [CodeNodeParser(), changed]
    second = pipeline.run(documents=documents)[0].embedding
    assert second == changed.get_text_embedding("def f():\n    return 1")
    assert second != first
