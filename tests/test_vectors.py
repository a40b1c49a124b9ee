from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery
from numpy.typing import NDArray

from llamaindex_code_retrieval import CodeEmbedding, FaissStore


def _unit(n: int, dim: int = 8, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _names(n: int) -> list[str]:
    return [f"n{i}" for i in range(n)]


def _search(store: FaissStore, vector: NDArray[np.float32], k: int, **limits: list[str]) -> list[str]:
    result = store.query(VectorStoreQuery(query_embedding=vector.tolist(), similarity_top_k=k, **limits))
    assert result.ids is not None
    assert result.similarities is not None
    assert result.similarities == sorted(result.similarities, reverse=True)
    return result.ids


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["add", "delete"]), st.integers(0, 9)), max_size=40))
def test_behaves_like_a_dictionary_of_vectors(steps: list[tuple[str, int]]) -> None:
    """Also after deletions and replacements, where LlamaIndex's FaissMapVectorStore mixes nodes up."""
    store, model = FaissStore(8), {}
    for number, (step, name) in enumerate(steps):
        if step == "add":
            vector = _unit(1, seed=number)
            store.add_vectors([f"n{name}"], vector, ["d"])
            model[f"n{name}"] = vector[0]
        else:
            store.delete_nodes([f"n{name}"])
            model.pop(f"n{name}", None)
    assert len(store) == len(model)
    query = _unit(1, seed=999)[0]
    expected = sorted(model, key=lambda name: (-float(model[name] @ query), name))
    assert _search(store, query, 20) == expected
    if model:
        np.testing.assert_array_equal(store.vectors(list(model)), np.stack(list(model.values())))


def test_ties_go_by_id() -> None:
    store = FaissStore(8)
    vector = _unit(1)
    store.add_vectors(["b", "c", "a"], np.repeat(vector, 3, axis=0), ["d"] * 3)
    assert _search(store, vector[0], 3) == ["a", "b", "c"]


def test_large_stores_search_cells_and_still_delete() -> None:
    vectors = _unit(3_000, dim=16)
    store = FaissStore(16, exact_limit=2_000)
    store.add_vectors(_names(3_000)[:2_000], vectors[:2_000], ["d"] * 2_000)
    assert store.is_exact
    store.add_vectors(_names(3_000)[2_000:], vectors[2_000:], ["d"] * 1_000)
    assert not store.is_exact
    assert [_search(store, vectors[i], 1)[0] for i in range(0, 3_000, 100)] == [f"n{i}" for i in range(0, 3_000, 100)]
    store.delete_nodes([f"n{i}" for i in range(0, 3_000, 100)])
    assert len(store) == 2_970
    assert _search(store, vectors[100], 1) != ["n100"]
    store.add_vectors(["n100"], vectors[100:101], ["d"])
    assert _search(store, vectors[100], 1) == ["n100"]
    np.testing.assert_array_equal(store.vectors(["n100", "n7"]), vectors[[100, 7]])


@pytest.mark.parametrize("exact_limit", [100, 20])
def test_persist_round_trip(exact_limit: int, tmp_path: Path) -> None:
    vectors = _unit(60)
    store = FaissStore(8, exact_limit=exact_limit)
    store.add_vectors(_names(60), vectors, [f"d{i % 3}" for i in range(60)])
    store.delete_nodes(["n5"])
    store.persist(str(tmp_path / "vectors.faiss"))
    again = FaissStore.from_persist_path(tmp_path / "vectors.faiss")
    assert again.is_exact == store.is_exact == (exact_limit == 100)
    assert _search(again, vectors[7], 10) == _search(store, vectors[7], 10)
    again.add_vectors(["new"], vectors[5:6], ["d9"])
    assert _search(again, vectors[5], 1) == ["new"]
    assert len(store) == 59
    again.delete("d0")
    assert len(again) == 40
    assert not list(tmp_path.glob("*.tmp"))
    (tmp_path / "vectors.faiss").write_bytes(b"not an index")
    with pytest.raises(ValueError, match="not a FAISS index"):
        FaissStore.from_persist_path(tmp_path / "vectors.faiss")


def test_limits_to_nodes_and_documents() -> None:
    vectors = _unit(10)
    store = FaissStore(8)
    store.add_vectors(_names(10), vectors, [f"d{i % 2}" for i in range(10)])
    assert set(_search(store, vectors[0], 10, doc_ids=["d1"])) == {"n1", "n3", "n5", "n7", "n9"}
    assert set(_search(store, vectors[0], 10, node_ids=["n1", "n2", "gone"])) == {"n1", "n2"}
    assert _search(store, vectors[0], 10, doc_ids=["none"]) == []


def test_wrong_calls() -> None:
    store = FaissStore(8)
    assert _search(store, _unit(1)[0], 5) == []
    with pytest.raises(ValueError, match="3 dimensions, the store 8"):
        store.query(VectorStoreQuery(query_embedding=[0.0, 1.0, 0.0], similarity_top_k=1))
    with pytest.raises(ValueError, match="NaN"):
        store.add_vectors(["a"], np.full((1, 8), np.nan, dtype=np.float32), ["d"])
    with pytest.raises(ValueError, match="shape"):
        store.add_vectors(["a"], _unit(2), ["d"])
    with pytest.raises(ValueError, match="twice"):
        store.add_vectors(["a", "a"], _unit(2), ["d", "d"])
    filters = MetadataFilters(filters=[MetadataFilter(key="k", value="v")])
    with pytest.raises(ValueError, match="metadata"):
        store.query(VectorStoreQuery(query_embedding=[0.0] * 8, similarity_top_k=1, filters=filters))
    with pytest.raises(ValueError, match="at least 1"):
        FaissStore(0)
    assert len(store) == 0


def test_inside_a_vector_store_index(bert_folder: Path) -> None:
    embedding = CodeEmbedding(str(bert_folder))
    store = FaissStore(embedding.dim)
    nodes = [
        TextNode(
            id_=f"n{i}",
            text=text,
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc{i}")},
        )
        for i, text in enumerate(["read the file", "add two numbers", "x y z"])
    ]
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(nodes, storage_context=context, embed_model=embedding)
    assert index.as_retriever(similarity_top_k=1).retrieve("x y z")[0].node_id == "n2"
    index.delete_ref_doc("doc2")
    assert index.as_retriever(similarity_top_k=3).retrieve("x y z")[0].node_id != "n2"
    assert len(store) == 2


def test_no_faiss_installed_names_both_packages() -> None:
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from llamaindex_code_retrieval.index.vectors import FaissStore\n"
        "try:\n    FaissStore(3)\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install faiss-cpu (or faiss-gpu" in done.stdout
