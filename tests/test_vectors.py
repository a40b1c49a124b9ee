from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import faiss
import fsspec
import numpy as np
import pytest
from conftest import is_killed_at_step
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from numpy.typing import NDArray

from llamaindex_code_retrieval import CodeEmbedding, FaissStore


def _unit(n: int, dim: int = 8, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _names(n: int) -> list[str]:
    return [f"n{i}" for i in range(n)]


def _store(n: int) -> FaissStore:
    store = FaissStore(8)
    store.add_vectors(_names(n), _unit(n), [f"d{i}" for i in range(n)])
    return store


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


@pytest.mark.parametrize("size", [0, 1, 40, 700])
def test_a_cut_file_is_damaged(size: int, tmp_path: Path) -> None:
    path = tmp_path / "store"
    _store(9).persist(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"store is not a FAISS index, or damaged: .*; build the index again"):
        FaissStore.from_persist_path(path)


@pytest.mark.parametrize("count", [0, 9])
def test_files_of_the_older_format_are_read(count: int, tmp_path: Path) -> None:
    """It had a flat FAISS index in one file and the ids in a second one."""
    path, store, vectors = tmp_path / "vectors.faiss", _store(count), _unit(count)
    flat = faiss.IndexIDMap2(faiss.IndexFlatIP(8))
    flat.add_with_ids(vectors, np.arange(count))
    faiss.write_index(flat, str(path))
    nodes = [[f"n{i}", i, f"d{i}"] for i in range(count)]
    header = {"dim": 8, "exact_limit": 100_000, "next": count, "trained_on": 0, "nodes": nodes}
    (tmp_path / "vectors.faiss.ids.json").write_text(json.dumps(header))
    again = FaissStore.from_persist_path(path)
    np.testing.assert_array_equal(again.vectors(_names(count)), vectors)
    query = _unit(1, seed=3)[0]
    assert _search(again, query, 9) == _search(store, query, 9)
    again.delete("d3")
    again.persist(path)
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.faiss"]
    assert len(FaissStore.from_persist_path(path)) == max(count - 1, 0)


def test_a_kill_while_persisting_leaves_the_old_store_or_the_new_one(tmp_path: Path) -> None:
    path, new = tmp_path / "vectors.faiss", _store(5)
    _store(9).persist(path)
    step = 1
    while is_killed_at_step(step, lambda: new.persist(path)):
        step += 1
        assert len(FaissStore.from_persist_path(path)) in (5, 9)
    assert step > 2
    assert len(FaissStore.from_persist_path(path)) == 5


def test_a_search_sees_the_store_before_or_after_a_change() -> None:
    """Two thousand changes, each of which replaces all nodes, while two threads search."""
    old, new, vectors = _names(20), [f"m{i}" for i in range(20)], _unit(20)
    store = FaissStore(8)
    store.add_vectors(old, vectors, old)
    mixed: list[list[str]] = []
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            ids = _search(store, vectors[0], 20)
            if set(ids) not in (set(old), set(new)):
                mixed.append(ids)

    with ThreadPoolExecutor() as pool:
        searches = [pool.submit(search) for _ in range(2)]
        for _ in range(1_000):
            store.add_vectors(new, vectors, new, delete=old)
            store.add_vectors(old, vectors, old, delete=new)
        stop.set()
        for each in searches:
            each.result()
    assert not mixed


def test_a_copy_does_not_follow_the_original() -> None:
    store = _store(9)
    twin = copy.deepcopy(store)
    store.delete_nodes(["n0"])
    twin.delete_nodes(["n1", "n2"])
    store.add_vectors(["x"], _unit(1), ["d"])
    assert ("x" in store, "n1" in store, len(store)) == (True, True, 9)
    assert ("x" in twin, "n0" in twin, len(twin)) == (False, True, 7)


# --- LlamaIndex's interface ------------------------------------------------------------------------------------------

METADATA: list[dict[str, Any]] = [
    {"language": "go", "lines": 3, "tags": ["a", "b"]},
    {"language": "go", "lines": 30, "tags": []},
    {"language": "java", "lines": 7, "tags": ["b"]},
    {"lines": 8, "tags": ["c"], "language": ""},
]
FILTERS = [
    *(("language", "go", operator) for operator in ("==", "!=", "text_match", "text_match_insensitive")),
    *(("lines", 7, operator) for operator in (">", ">=", "<", "<=", "==")),
    *(("language", ["go", "c"], operator) for operator in ("in", "nin")),
    *(("tags", ["b", "c"], operator) for operator in ("any", "all")),
    ("tags", "b", "contains"),
    ("language", None, "is_empty"),
    ("absent", "x", "!="),
]


@pytest.mark.parametrize(("key", "value", "operator"), FILTERS)
def test_metadata_filters_as_in_llamaindex_own_store(key: str, value: Any, operator: str) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=FilterOperator(operator))])
    nodes = [
        TextNode(id_=f"n{i}", metadata=metadata, embedding=vector.tolist())
        for i, (metadata, vector) in enumerate(zip(METADATA, _unit(4), strict=True))
    ]
    store, reference = FaissStore(8), SimpleVectorStore()
    for each in (store, reference):
        each.add(nodes)
    query = VectorStoreQuery(query_embedding=_unit(1, seed=5)[0].tolist(), similarity_top_k=4, filters=filters)
    assert store.query(query).ids == reference.query(query).ids
    store.delete_nodes(filters=filters)
    reference.delete_nodes(filters=filters)
    everything = VectorStoreQuery(query_embedding=query.query_embedding, similarity_top_k=4)
    assert store.query(everything).ids == reference.query(everything).ids


def test_conditions_of_filters_and_ids_combine() -> None:
    store = FaissStore(8)
    nodes = [TextNode(id_=f"n{i}", metadata=metadata) for i, metadata in enumerate(METADATA)]
    for node, vector in zip(nodes, _unit(4), strict=True):
        node.embedding = vector.tolist()
    store.add(nodes)
    go, long = (
        MetadataFilter(key="language", value="go"),
        MetadataFilter(key="lines", value=6, operator=FilterOperator.GT),
    )
    for condition, ids in (("and", {"n1"}), ("or", {"n0", "n1", "n2", "n3"}), ("not", set())):
        filters = MetadataFilters(filters=[go, long], condition=FilterCondition(condition))
        query = VectorStoreQuery(query_embedding=_unit(1)[0].tolist(), similarity_top_k=4, filters=filters)
        assert set(store.query(query).ids or []) == ids
        query.node_ids = ["n0", "n2"]
        assert set(store.query(query).ids or []) == ids & {"n0", "n2"}


def test_without_metadata_it_refuses_to_filter(tmp_path: Path) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key="language", value="go")])
    query = VectorStoreQuery(query_embedding=_unit(1)[0].tolist(), similarity_top_k=1, filters=filters)
    with pytest.raises(ValueError, match="FaissStore has no metadata of node 'n0', so it cannot filter"):
        _store(2).query(query)


def test_vectors_of_any_length_score_by_cosine() -> None:
    vectors = _unit(6)
    scales = np.asarray([0.1, 5, 1, 20, 0.5, 3], dtype=np.float32)[:, None]
    store = FaissStore(8)
    store.add_vectors(_names(6), vectors * scales, _names(6))
    result = store.query(VectorStoreQuery(query_embedding=(7 * vectors[0]).tolist(), similarity_top_k=6))
    expected = sorted(zip((vectors @ vectors[0]).tolist(), _names(6), strict=True), reverse=True)
    assert result.ids == [name for _, name in expected]
    assert result.similarities == pytest.approx([score for score, _ in expected], abs=1e-6)


@pytest.mark.parametrize("fs", [None, LocalFileSystem(), MemoryFileSystem()])
def test_a_storage_context_keeps_and_loads_it(
    fs: fsspec.AbstractFileSystem | None, bert_folder: Path, tmp_path: Path
) -> None:
    embedding = CodeEmbedding(str(bert_folder))
    folder = str(tmp_path / "storage")
    context = StorageContext.from_defaults(vector_store=FaissStore(embedding.dim))
    nodes = [TextNode(id_=f"n{i}", text=text, metadata={"i": i}) for i, text in enumerate(["read", "add", "x y z"])]
    VectorStoreIndex(nodes, storage_context=context, embed_model=embedding)
    context.persist(folder, fs=fs)
    store = FaissStore.from_persist_dir(folder, fs=fs)
    again = StorageContext.from_defaults(vector_store=store, persist_dir=folder, fs=fs)
    index = load_index_from_storage(again, embed_model=embedding)
    filters = MetadataFilters(filters=[MetadataFilter(key="i", value=1, operator=FilterOperator.GTE)])
    hits = index.as_retriever(similarity_top_k=3, filters=filters).retrieve("x y z")
    assert {hit.node_id for hit in hits} == {"n1", "n2"}


def test_metadata_that_is_not_json_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    path, store = tmp_path / "store", _store(2)
    store.persist(path)
    store.add([TextNode(id_="x", metadata={"when": datetime(2020, 1, 1)}, embedding=_unit(1)[0].tolist())])
    with pytest.raises(TypeError, match="metadata of a node cannot be saved as JSON"):
        store.persist(path)
    assert len(FaissStore.from_persist_path(path)) == 2
    assert len(list(tmp_path.iterdir())) == 1


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
    with pytest.raises(ValueError, match="query vector holds NaN"):
        store.query(VectorStoreQuery(query_embedding=[math.nan] * 8, similarity_top_k=1))
    with pytest.raises(ValueError, match="one document, and one metadata if any, for each of the 1 ids"):
        store.add_vectors(["a"], _unit(1), ["d"], metadata=[{}, {}])
    with pytest.raises(TypeError, match=r"write \['n1'\]"):
        store.delete_nodes("n1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dim must be greater than or equal to 1"):
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
        "from llamaindex_code_retrieval.index.faiss_store import FaissStore\n"
        "try:\n    FaissStore(3)\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install faiss-cpu (or faiss-gpu" in done.stdout
