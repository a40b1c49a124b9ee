"""The README's example, and the pieces together as LlamaIndex uses them."""

from __future__ import annotations

from pathlib import Path

import pytest
from llama_index.core import SimpleDirectoryReader, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import Document, ImageDocument, MediaResource, MetadataMode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from nodes import parse_document

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeNodeParser, CodeReranker, FaissStore


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
    assert second == changed.get_text_embedding("names: f\n\ndef f():\n    return 1")
    assert second != first


def shown(node: TextNode) -> list[str]:
    """Return the metadata that an LLM sees."""
    return node.get_metadata_str(mode=MetadataMode.LLM).split("\n")


def test_an_llm_sees_the_place_and_what_the_user_set_and_names_are_embedded_instead_of_the_place() -> None:
    metadata = {"file_path": "src/a.py", "file_name": "a.py", "repository": "shop", "kind": "y", "owner": "x"}
    document = Document(text="def f():\n    return 1\n", metadata=metadata, excluded_embed_metadata_keys=["owner"])
    [node] = parse_document(document)
    assert shown(node) == ["repository: shop", "owner: x", "path: src/a.py", "scope: f", "start_line: 1", "end_line: 2"]
    assert node.get_content(metadata_mode=MetadataMode.EMBED) == (
        "repository: shop\nnames: src a f\n\ndef f():\n    return 1"
    )
    assert (node.metadata["kind"], node.metadata["file_name"]) == ("function", "a.py")
    assert node.ref_doc_id == document.node_id


def test_excluded_keys_and_templates_are_those_of_the_document() -> None:
    document = Document(
        text="def f():\n    return 1\n",
        metadata={"repository": "shop", "url": "https://example.org/a.py", "file_path": "/a.py"},
        excluded_llm_metadata_keys=["url", "file_path"],
        excluded_embed_metadata_keys=["url"],
        metadata_template="{key}=>{value}",
        metadata_separator="; ",
        text_template="<<{metadata_str}>>\n{content}",
    )
    [node] = parse_document(document)
    # the path is hidden under its own name too
    assert node.get_content(MetadataMode.LLM) == (
        "<<repository=>shop; scope=>f; start_line=>1; end_line=>2>>\ndef f():\n    return 1"
    )
    assert node.get_content(MetadataMode.EMBED) == "<<repository=>shop; names=>a f>>\ndef f():\n    return 1"
    [by_sentence] = SentenceSplitter().get_nodes_from_documents([document])
    for name in ("metadata_template", "metadata_separator", "text_template"):
        assert getattr(node, name) == getattr(by_sentence, name) == getattr(document, name)
    assert document.excluded_embed_metadata_keys == ["url"]


def test_without_metadata_nodes_have_the_keys_of_the_parser_only() -> None:
    metadata = {"file_path": "a.py", "repository": "shop", "scope": "z"}
    [node] = parse_document(Document(text="def f(): pass", metadata=metadata), include_metadata=False)
    assert node.metadata.keys() == {
        *("path", "language", "symbol", "scope", "kind", "start_line", "end_line", "docstring", "names"),
    }
    assert shown(node) == ["path: a.py", "scope: f", "start_line: 1", "end_line: 1"]


def test_a_code_index_embeds_names_and_code(bert_folder: Path) -> None:
    index: CodeIndex = CodeIndex(CodeEmbedding(str(bert_folder)), parser=CodeNodeParser(max_tokens=200, tokenizer=list))
    index.update_texts({"shop/a.py": "def f():\n    return 1\n"})
    [node] = index.nodes()
    assert node.get_content(MetadataMode.EMBED) == "names: shop a f\n\ndef f():\n    return 1"
    assert shown(node) == ["path: shop/a.py", "scope: f", "start_line: 1", "end_line: 2"]


def test_any_mix_of_documents() -> None:
    documents = [
        Document(text="def f(): pass", metadata={"file_path": "/x/a.py"}),
        Document(text="# Shop\n\nSells things.", metadata={"file_name": "README.md"}),
        Document(text="#!/bin/sh\nf() {\n  ls\n}\n", metadata={"path": "bin/tool"}),
        Document(text="Dear all,\n\nhello.", metadata={"language": "English"}),
        Document(text="x = 1", metadata={"path": "", "language": "", "file_name": None}, id_="thread-1"),
        Document(text_resource=MediaResource(text="key: 1\n"), metadata={"path": "a.yaml"}),
        Document(text=""),
        Document(),
        ImageDocument(image=b"GIF89a"),
        TextNode(text="int x;", metadata={"path": "a.c"}),
    ]
    nodes = parse_document(*documents)
    assert [(node.metadata["path"], node.metadata["language"]) for node in nodes] == [
        ("/x/a.py", "python"),
        ("README.md", "markdown"),
        ("bin/tool", "bash"),
        (documents[3].node_id, "text"),
        ("thread-1", "text"),
        ("a.yaml", "yaml"),
        ("a.c", "c"),
    ]


def test_a_folder_of_mixed_files(tmp_path: Path) -> None:
    texts = {
        "a.py": "def f():\n    return 1\n",
        "sub/README.md": "# Shop\n\nSells things.\n",
        "b.ipynb": '{"cells": [{"cell_type": "code", "source": ["x = 1"]}], "nbformat": 4, "metadata": {}}',
        "Dockerfile": "FROM scratch\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    documents = SimpleDirectoryReader(str(tmp_path), recursive=True).load_data()
    nodes = parse_document(*documents)
    assert {Path(node.metadata["path"]).relative_to(tmp_path).as_posix() for node in nodes} == set(texts)
    for node in nodes:
        assert node.get_content(MetadataMode.EMBED) == f"names: {node.metadata['names']}\n\n{node.text}"
    assert all(shown(node)[0] == f"path: {node.metadata['file_path']}" for node in nodes)
    again = SimpleDirectoryReader(str(tmp_path), recursive=True).load_data()
    assert [node.node_id for node in parse_document(*again)] == [node.node_id for node in nodes]
    assert all(document.node_id != new.node_id for document, new in zip(documents, again, strict=True))


def test_a_pipeline_replaces_the_nodes_of_changed_documents(bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder))
    parser = CodeNodeParser(max_tokens=embedding.max_code_tokens, tokenizer=embedding.tokenize_code)
    store = SimpleVectorStore()
    pipeline = IngestionPipeline(
        transformations=[parser, embedding], docstore=SimpleDocumentStore(), vector_store=store
    )

    def run(**texts: str) -> list[str]:
        documents = [
            Document(text=text, id_=f"{name}.py", metadata={"path": f"{name}.py"}) for name, text in texts.items()
        ]
        return [node.metadata["scope"] for node in pipeline.run(documents=documents)]

    assert run(a="def f(): pass\n\n\ndef g(): pass\n", b="def h(): pass\n") == ["f", "g", "h"]
    assert run(a="def f(): pass\n\n\ndef g(): pass\n", b="def i(): pass\n") == ["i"]
    assert run(a="def f(): pass\n") == ["f"]
    assert {store.data.text_id_to_ref_doc_id[id_] for id_ in store.data.embedding_dict} == {"a.py", "b.py"}
    assert len(store.data.embedding_dict) == 2


def test_equal_files_of_two_repositories_are_both_found(bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder))
    documents = [
        Document(text="def f():\n    return 1\n", metadata={"file_name": "a.py", "repository": name})
        for name in ("one", "two")
    ]
    for store in (SimpleVectorStore(), FaissStore(embedding.dim)):
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex(parse_document(*documents), embed_model=embedding, storage_context=context)
        hits = index.as_retriever(similarity_top_k=9).retrieve("f")
        assert {hit.node.metadata["repository"] for hit in hits} == {"one", "two"}
