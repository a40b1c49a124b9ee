"""An index whose vectors are in a LlamaIndex vector store."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from indexes import SOURCES, hits_of, node_in
from llama_index.core.schema import QueryBundle
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llamaindex_code_retrieval import (
    CodeEmbedding,
    CodeIndex,
    CodeRetriever,
    FaissStore,
)
from llamaindex_code_retrieval.index.filters import NodeFilter


def test_another_vector_store(repository: Path, embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(embedding, vector_store=SimpleVectorStore())
    reference = CodeIndex(embedding)
    for each in (index, reference):
        each.update([repository])
    (repository / "Tax.java").unlink()
    for each in (index, reference):
        each.update()
    hits = [CodeRetriever(each).retrieve("total of all prices") for each in (index, reference)]
    assert [hit.node_id for hit in hits[0]] == [hit.node_id for hit in hits[1]]
    index.save(tmp_path / "index")
    with pytest.raises(ValueError, match="keeps its vectors in a SimpleVectorStore; pass it"):
        CodeIndex.open(tmp_path / "index", embedding=embedding)
    again = CodeIndex.open(tmp_path / "index", embedding=embedding, vector_store=index.vector_store)
    assert [hit.node_id for hit in CodeRetriever(again).retrieve("total of all prices")] == [h.node_id for h in hits[0]]


def test_a_store_that_holds_nothing_of_the_index_is_refused(embedding: CodeEmbedding, tmp_path: Path) -> None:
    store, other = SimpleVectorStore(), SimpleVectorStore()
    index = CodeIndex(embedding, vector_store=store)
    index.update_texts(SOURCES)
    index.save(tmp_path)
    CodeIndex(embedding, vector_store=other).update_texts({"z.py": "z = 1\n"})
    for wrong in (SimpleVectorStore(), other, FaissStore(embedding.dim)):
        with pytest.raises(ValueError, match=r"holds none of the \d nodes of the index in .*; pass the store that"):
            CodeIndex.open(tmp_path, embedding=embedding, vector_store=wrong)
    again = CodeIndex.open(tmp_path, embedding=embedding, vector_store=store)
    assert hits_of(again.as_retriever(), QueryBundle("add")) == hits_of(index.as_retriever(), QueryBundle("add"))


def test_a_store_of_another_dimension_is_refused(embedding: CodeEmbedding, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"store has 8 dimensions, the embedding 32; pass FaissStore\(32\)"):
        CodeIndex(embedding, vector_store=FaissStore(8))
    CodeIndex(embedding, tmp_path, vector_store=FaissStore(32)).close()
    with pytest.raises(ValueError, match=r"store has 8 dimensions, the embedding 32; pass FaissStore\(32\)"):
        CodeIndex.open(tmp_path, embedding=embedding, vector_store=FaissStore(8))


def test_an_index_with_its_own_vectors_takes_no_store(embedding: CodeEmbedding, tmp_path: Path) -> None:
    CodeIndex(embedding, tmp_path).close()
    with pytest.raises(ValueError, match="keeps its vectors itself; leave vector_store out"):
        CodeIndex.open(tmp_path, embedding=embedding, vector_store=FaissStore(32))


@pytest.mark.parametrize("store", [SimpleVectorStore(), FaissStore(32)])
def test_two_indexes_in_one_store(store: BasePydanticVectorStore, embedding: CodeEmbedding) -> None:
    large, small = (CodeIndex(embedding, vector_store=store) for _ in range(2))
    small.update_texts(SOURCES)
    large.update_texts({f"f{i}.py": f"def f{i}(a, b):\n    return a + b + {i}\n" for i in range(30)})
    small.update_texts(SOURCES | {"d.go": "package d\n"})
    alone = CodeIndex(embedding)
    alone.update_texts(SOURCES | {"d.go": "package d\n"})
    for mode in ("dense", "fused"):
        for languages in (None, ("go", "java")):
            filters = None if languages is None else NodeFilter(languages=languages)
            retrievers = [each.as_retriever(mode=mode, top_k=4, filters=filters) for each in (small, alone)]
            hits = [hits_of(retriever, QueryBundle("return a + b")) for retriever in retrievers]
            assert hits[0] == hits[1]


def test_a_store_that_lost_nodes_is_named_and_searched_without_them(
    embedding: CodeEmbedding, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a crash between an update, which writes to the store, and the persistence of the store."""
    store = SimpleVectorStore()
    CodeIndex(embedding, tmp_path / "old", vector_store=store).update_texts({"a.py": SOURCES["a.py"]})
    index = CodeIndex.open(tmp_path / "old", embedding=embedding, vector_store=copy.deepcopy(store))
    index.update_texts(SOURCES)
    assert caplog.text == ""
    again = CodeIndex.open(tmp_path / "old", embedding=embedding, vector_store=store)
    assert "lacks 4 of the 6 nodes of the index" in caplog.text
    assert "remove the index and build it again" in caplog.text
    hits = again.as_retriever(mode="dense").retrieve("add")
    assert {hit.node.metadata["path"] for hit in hits} == {"a.py"}
    assert len(again.as_retriever(mode="bm25").retrieve("add")) == 3


@pytest.mark.parametrize("store", [None, FaissStore(32), FaissStore(32, exact_limit=40), SimpleVectorStore()])
def test_search_among_languages(store: BasePydanticVectorStore | None, embedding: CodeEmbedding) -> None:
    """Exactly the ranking over all, with the others taken out; in any vector store."""
    index = CodeIndex(embedding, vector_store=store)
    languages = ["python", "java", "go"]
    nodes = [node_in(f"{i}", f"return {i} + {i % 7}", languages[min(i % 20, 2)]) for i in range(60)]
    index.update_nodes(nodes)
    query = embedding.get_query_embedding("return 4 + 4")
    is_exact = getattr(store, "is_exact", True)
    with index.view() as view:
        nearest = index.nearest_in(view)
        everything, everything_in_words = nearest(query, top_k=60), view.matching("return 4", top_k=60)
        assert len(everything) == 60 or not is_exact
        for wanted in (["python"], ["java"], ["python", "java"], ["cobol"], languages):
            condition = NodeFilter(languages=tuple(wanted)).where()
            among = [hit for hit in everything if index.node(hit.id).metadata["language"] in wanted]
            for top_k in (1, 2, 5, 60):
                got = nearest(query, top_k=top_k, condition=condition)
                if is_exact:
                    assert got == among[:top_k]
                assert all(index.node(hit.id).metadata["language"] in wanted for hit in got)
            among = [hit for hit in everything_in_words if index.node(hit.id).metadata["language"] in wanted]
            assert view.matching("return 4", top_k=2, condition=condition) == among[:2]


def test_adapters_with_another_vector_store(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    embedding = CodeEmbedding(str(bert_folder), adapters={"python": adapter_folders["lora"]})
    indexes = [CodeIndex(embedding), CodeIndex(embedding, vector_store=SimpleVectorStore())]
    for swap in (None, adapter_folders["ia3"]):
        embedding.use_adapter("java", swap)
        for index in indexes:
            index.update_texts(SOURCES)
        hits = [CodeRetriever(index, mode="dense", top_k=3).retrieve("add two numbers") for index in indexes]
        assert [hit.node_id for hit in hits[0]] == [hit.node_id for hit in hits[1]]
        assert [hit.score for hit in hits[0]] == [hit.score for hit in hits[1]]
