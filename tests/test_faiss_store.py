"""What LlamaIndex tests of its ``SimpleVectorStore``, for ``FaissStore``: exact, in cells and loaded from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import NodeRelationship, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from llamaindex_code_retrieval import FaissStore

AND, OR, NOT = FilterCondition.AND, FilterCondition.OR, FilterCondition.NOT
EVERYTHING = ["both", "first", "second"]
"""By similarity to the query [2, 1]."""


def _nodes() -> list[TextNode]:
    rows: list[tuple[str, list[float], dict[str, Any]]] = [
        ("first", [1.0, 0.0], {"stars": 1.0, "grade": "a", "tags": ["io", "net"], "name": "readFile"}),
        ("second", [0.0, 1.0], {"stars": 2.0, "grade": "c", "tags": ["io"], "name": "READ_LINE"}),
        ("both", [1.0, 1.0], {"stars": 3.0, "grade": "c", "tags": ["cli", "io", "net"], "name": "open_file"}),
    ]
    return [
        TextNode(
            id_=id_,
            embedding=embedding,
            metadata=metadata,
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document of {id_}")},
        )
        for id_, embedding, metadata in rows
    ]


@pytest.fixture(params=["exact", "in cells", "persisted", "to_dict"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FaissStore:
    store = FaissStore(2, exact_limit=1 if request.param == "in cells" else 100)
    store.add(_nodes())
    assert store.is_exact == (request.param != "in cells")
    if request.param == "persisted":
        store.persist(tmp_path / "store")
        return FaissStore.from_persist_path(tmp_path / "store")
    return FaissStore.from_dict(store.to_dict()) if request.param == "to_dict" else store


def _leaf(key: str, operator: str, value: Any) -> MetadataFilter:
    return MetadataFilter(key=key, operator=FilterOperator(operator), value=value)


def _found(store: FaissStore, top_k: int = 3, **conditions: Any) -> list[str]:
    result = store.query(VectorStoreQuery(query_embedding=[2.0, 1.0], similarity_top_k=top_k, **conditions))
    assert result.ids is not None
    assert result.similarities is not None
    assert len(result.ids) == len(result.similarities)
    return result.ids


def test_without_filters_all_nodes_by_similarity(store: FaissStore) -> None:
    assert _found(store) == EVERYTHING
    assert _found(store, top_k=2) == EVERYTHING[:2]
    result = store.query(VectorStoreQuery(query_embedding=[2.0, 1.0], similarity_top_k=3))
    assert result.similarities == pytest.approx([3 / 10**0.5, 2 / 5**0.5, 1 / 5**0.5])


OPERATORS = [
    ("stars", "==", 1.0, ["first"]),
    ("stars", "!=", 1.0, ["both", "second"]),
    ("stars", ">", 1.5, ["both", "second"]),
    ("stars", ">=", 2.0, ["both", "second"]),
    ("stars", "<", 2.0, ["first"]),
    ("stars", "<=", 2.0, ["first", "second"]),
    ("grade", "in", ["a", "b"], ["first"]),
    ("grade", "nin", ["a", "b"], ["both", "second"]),
    ("tags", "contains", "net", ["both", "first"]),
    ("tags", "any", ["net", "cli"], ["both", "first"]),
    ("tags", "all", ["net", "cli"], ["both"]),
    ("name", "text_match", "File", ["first"]),
    ("name", "text_match_insensitive", "read", ["first", "second"]),
    ("missing", "is_empty", None, EVERYTHING),
    ("grade", "is_empty", None, []),
    ("missing", "==", "a", []),
    ("missing", "!=", "a", EVERYTHING),
    ("missing", "nin", ["a"], EVERYTHING),
]


def test_all_operators_are_tested() -> None:
    assert {operator for _, operator, _, _ in OPERATORS} == {operator.value for operator in FilterOperator}


@pytest.mark.parametrize(("key", "operator", "value", "expected"), OPERATORS)
def test_operators(store: FaissStore, key: str, operator: str, value: Any, expected: list[str]) -> None:
    filters = MetadataFilters(filters=[_leaf(key, operator, value)])
    assert _found(store, filters=filters) == expected
    assert _found(store, top_k=1, filters=filters) == expected[:1]
    store.delete_nodes(filters=filters)
    assert _found(store) == [node_id for node_id in EVERYTHING if node_id not in expected]


GRADE_C, ONE_STAR, TWO_STARS = _leaf("grade", "==", "c"), _leaf("stars", "==", 1.0), _leaf("stars", "==", 2.0)


@pytest.mark.parametrize(
    ("leaves", "condition", "expected"),
    [
        ([GRADE_C, TWO_STARS], AND, ["second"]),
        ([GRADE_C, TWO_STARS], None, ["second"]),
        ([ONE_STAR, TWO_STARS], AND, []),
        ([GRADE_C, ONE_STAR], OR, EVERYTHING),
        ([ONE_STAR, TWO_STARS], OR, ["first", "second"]),
        ([ONE_STAR, TWO_STARS], NOT, ["both"]),
        ([GRADE_C], NOT, ["first"]),
        ([], AND, EVERYTHING),
        ([MetadataFilters(filters=[ONE_STAR, TWO_STARS], condition=OR), GRADE_C], AND, ["second"]),
        ([MetadataFilters(filters=[GRADE_C, TWO_STARS]), ONE_STAR], OR, ["first", "second"]),
        ([MetadataFilters(filters=[ONE_STAR, TWO_STARS], condition=NOT)], NOT, ["first", "second"]),
        ([MetadataFilters(filters=[]), ONE_STAR], AND, ["first"]),
    ],
)
def test_conditions_and_nested_filters(
    store: FaissStore, leaves: list[Any], condition: FilterCondition | None, expected: list[str]
) -> None:
    assert _found(store, filters=MetadataFilters(filters=leaves, condition=condition)) == expected


@pytest.mark.parametrize("operator", ["text_match", "text_match_insensitive"])
def test_texts_do_not_match_numbers(store: FaissStore, operator: str) -> None:
    with pytest.raises(TypeError, match="should be strings"):
        _found(store, filters=MetadataFilters(filters=[_leaf("stars", operator, "1")]))


def test_nodes_documents_and_filters_intersect(store: FaissStore) -> None:
    filters = MetadataFilters(filters=[GRADE_C])
    assert _found(store, node_ids=["both", "first", "unknown"]) == ["both", "first"]
    assert _found(store, node_ids=["both", "first"], filters=filters) == ["both"]
    assert _found(store, doc_ids=["document of first", "document of both"], filters=filters) == ["both"]
    assert _found(store, doc_ids=["document of first"], node_ids=["both"]) == []
    assert _found(store, doc_ids=["unknown"]) == _found(store, doc_ids=[]) == _found(store, node_ids=[]) == []


def test_delete_and_delete_nodes(store: FaissStore) -> None:
    store.delete("document of second")
    assert _found(store) == ["both", "first"]
    store.delete("unknown")
    store.delete_nodes(["unknown"])
    store.delete_nodes(["both", "first"], filters=MetadataFilters(filters=[ONE_STAR]))
    assert _found(store) == ["both"]
    store.delete_nodes(["both"])
    assert _found(store) == []
    assert len(store) == 0


def test_clear_and_add_again(store: FaissStore) -> None:
    store.clear()
    assert _found(store) == []
    assert store.add(_nodes()) == ["first", "second", "both"]
    assert _found(store) == EVERYTHING


def test_a_node_that_is_added_again_is_replaced(store: FaissStore) -> None:
    store.add([TextNode(id_="second", embedding=[2.0, 1.0], metadata={"grade": "b"})])
    assert _found(store) == ["second", "both", "first"]
    assert _found(store, filters=MetadataFilters(filters=[_leaf("grade", "==", "b")])) == ["second"]


@pytest.mark.parametrize("protocol", [None, "file", "memory"])
def test_persist_and_load_again(store: FaissStore, protocol: str | None, tmp_path: Path) -> None:
    fs = None if protocol is None else fsspec.filesystem(protocol)
    path = f"{tmp_path}/a folder/default__vector_store.json"
    store.persist(path, fs=fs)
    assert Path(path).exists() == (protocol != "memory")
    again = FaissStore.from_persist_dir(f"{tmp_path}/a folder", fs=fs)
    again.add([TextNode(id_="third", embedding=[2.0, 1.0], metadata={"stars": 4})])
    again.persist(path, fs=fs)
    loaded = FaissStore.from_persist_path(path, fs=fs)
    assert _found(loaded, top_k=9) == ["third", *EVERYTHING]
    assert _found(loaded, filters=MetadataFilters(filters=[_leaf("stars", ">", 2)])) == ["third", "both"]
    names = ["third", *EVERYTHING]
    np.testing.assert_array_equal(loaded.vectors(names), again.vectors(names))


@pytest.mark.parametrize(
    ("documents", "expected"), [(None, EVERYTHING), ([], []), (["?"], []), (["document of both"], ["both"])]
)
def test_a_retriever_is_limited_to_documents(documents: list[str] | None, expected: list[str]) -> None:
    context = StorageContext.from_defaults(vector_store=FaissStore(2))
    index = VectorStoreIndex(_nodes(), storage_context=context, embed_model=MockEmbedding(embed_dim=2))
    retriever = index.as_retriever(doc_ids=documents, similarity_top_k=10)
    assert [hit.node_id for hit in retriever.retrieve(QueryBundle("x", embedding=[2.0, 1.0]))] == expected


def test_other_modes_are_refused(store: FaissStore) -> None:
    query = VectorStoreQuery(query_embedding=[2.0, 1.0], mode=VectorStoreQueryMode.MMR)
    with pytest.raises(ValueError, match="FaissStore answers query mode 'default' only, got 'mmr'"):
        store.query(query)
