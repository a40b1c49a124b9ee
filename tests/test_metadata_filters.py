from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from llamaindex_code_retrieval.index.filters import Condition
from llamaindex_code_retrieval.index.metadata_filters import condition_of

COLUMNS = ("language", "kind", "symbol", "scope")


def database(nodes: Sequence[dict[str, Any]]) -> sqlite3.Connection:
    """Return a database of nodes with these metadata, numbered from 0."""
    connection = sqlite3.connect(":memory:")
    columns = ", ".join(f"{name} TEXT NOT NULL" for name in COLUMNS)
    connection.execute(f"CREATE TABLE nodes(number INTEGER PRIMARY KEY, {columns}, metadata TEXT)")
    for number, metadata in enumerate(nodes):
        texts = [value if isinstance(value := metadata.get(name), str) else "" for name in COLUMNS]
        connection.execute("INSERT INTO nodes VALUES(?, ?, ?, ?, ?, ?)", (number, *texts, json.dumps(metadata)))
    return connection


def selected(connection: sqlite3.Connection, where: Condition) -> list[int]:
    query = f"SELECT n.number FROM nodes n WHERE {where.sql} ORDER BY n.number"
    with where.registered(connection):
        return [number for (number,) in connection.execute(query, where.parameters)]


def reference(metadata: dict[str, Any], filters: MetadataFilters) -> bool:
    """Decide as LlamaIndex does; for nested filters, which it refuses, by the same rule at each level."""
    if not filters.filters:
        return True
    met = [
        reference(metadata, each)
        if isinstance(each, MetadataFilters)
        else build_metadata_filter_fn({"": metadata}.__getitem__, MetadataFilters(filters=[each]))("")
        for each in filters.filters
    ]
    if filters.condition is FilterCondition.NOT:
        return not any(met)
    return any(met) if filters.condition is FilterCondition.OR else all(met)


KEYS = st.sampled_from([*COLUMNS, "path", "year", "tags", "a.b", 'a"b', "a\\b", "é", "$", "", "x]", "a'b;--"])
TEXTS = st.sampled_from(
    ["", "a", "ab", "b", "A", "É", "é", "go", "5", "null", "a\0", "a\0b", "𝄞", "\uffff", "'", '"', "%"]
)
INTEGERS = st.sampled_from([0, 1, 2, 5, -1, 2**53, 2**53 + 1, 2**63, -(2**63), 10**30])
FLOATS = st.sampled_from([0.0, -0.0, 0.1, 1.0, 5.0, 2.0**53, 0.30000000000000004, 1e300, float("inf"), float("nan")])
SCALARS = TEXTS | INTEGERS | FLOATS
VALUES = (
    st.none() | SCALARS | st.lists(TEXTS, max_size=3) | st.lists(INTEGERS, max_size=3) | st.lists(FLOATS, max_size=3)
)
METADATA = st.dictionaries(KEYS, VALUES | st.booleans() | st.dictionaries(TEXTS, SCALARS, max_size=2), max_size=6)
LEAVES = st.builds(MetadataFilter, key=KEYS, value=VALUES, operator=st.sampled_from(FilterOperator))


def groups(filters: st.SearchStrategy[Any]) -> st.SearchStrategy[MetadataFilters]:
    conditions = st.sampled_from([*FilterCondition, None])
    return st.builds(MetadataFilters, filters=st.lists(filters, max_size=4), condition=conditions)


def is_accepted(leaf: MetadataFilter) -> bool:
    try:
        condition_of(MetadataFilters(filters=[leaf]))
    except TypeError:
        return False
    return True


ACCEPTED = LEAVES.filter(is_accepted)


@settings(max_examples=400, deadline=None)
@given(nodes=st.lists(METADATA, min_size=1, max_size=4), filters=groups(ACCEPTED | groups(ACCEPTED | groups(ACCEPTED))))
def test_it_decides_as_llamaindex_does(nodes: list[dict[str, Any]], filters: MetadataFilters) -> None:
    where = condition_of(filters)
    for metadata in nodes:
        connection = database([metadata])
        try:
            expected = reference(metadata, filters)
        except TypeError:
            continue
        assert selected(connection, where) == [0] * expected, metadata


@settings(max_examples=400, deadline=None)
@given(metadata=METADATA, leaf=LEAVES)
def test_one_filter_fails_where_llamaindex_fails(metadata: dict[str, Any], leaf: MetadataFilter) -> None:
    filters = MetadataFilters(filters=[leaf])
    expected: bool | None
    try:
        expected = reference(metadata, filters)
    except TypeError:
        expected = None
    found: bool | None
    try:
        found = bool(selected(database([metadata]), condition_of(filters)))
    except TypeError:
        found = None
    if found is None and expected is not None:  # refused whatever the metadata: it fails for any value that is there
        assert metadata.get(leaf.key) is None
        with pytest.raises(TypeError):
            reference({leaf.key: "x"}, filters)
    else:
        assert found == expected


NODES: list[dict[str, Any]] = [
    {"language": "go", "kind": "class", "year": 2020, "tags": ["a", "b"], "owner": "Ann"},
    {"language": "go", "kind": "function", "year": 2024, "tags": []},
    {"language": "python", "kind": "function", "owner": None},
    {"kind": "text", "year": 1999.5, "owner": ""},
]


def one(key: str, operator: str, value: Any) -> MetadataFilter:
    return MetadataFilter(key=key, operator=FilterOperator(operator), value=value)


def all_of(*filters: MetadataFilter | MetadataFilters) -> MetadataFilters:
    return MetadataFilters(filters=list(filters))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (None, [0, 1, 2, 3]),
        (all_of(), [0, 1, 2, 3]),
        (all_of(one("language", "==", "go")), [0, 1]),
        (all_of(one("language", "!=", "go")), [2, 3]),
        (all_of(one("language", "in", ["python", "java"])), [2]),
        (all_of(one("language", "nin", ["python", "java"])), [0, 1, 3]),
        (all_of(one("language", "is_empty", None)), [3]),
        (all_of(one("year", ">", 2000), one("tags", "contains", "a")), [0]),
        (all_of(one("year", "<=", 2020)), [0, 3]),
        (all_of(one("tags", "any", ["b", "c"])), [0]),
        (all_of(one("tags", "all", ["a", "c"])), []),
        (all_of(one("owner", "text_match_insensitive", "ANN")), [0]),
        (all_of(one("owner", "text_match", "ANN")), []),
        (all_of(one("owner", "is_empty", None)), [1, 2, 3]),
        (MetadataFilters(filters=[one("language", "==", "python"), one("year", "<", 2000)], condition="or"), [2, 3]),
        (MetadataFilters(filters=[one("language", "==", "python"), one("year", "<", 2000)], condition="not"), [0, 1]),
        (
            all_of(
                one("kind", "==", "function"),
                MetadataFilters(filters=[one("year", ">", 2000), one("language", "==", "python")], condition="or"),
            ),
            [1, 2],
        ),
    ],
)
def test_filters(filters: MetadataFilters | None, expected: list[int]) -> None:
    assert selected(database(NODES), condition_of(filters)) == expected


@pytest.mark.parametrize(
    ("leaf", "needed"),
    [
        (one("year", "in", 5), "'in' on the metadata 'year' needs a list, got 5"),
        (one("year", "nin", None), "'nin' on the metadata 'year' needs a list, got None"),
        (one("tags", "any", 1.5), "'any' on the metadata 'tags' needs a list, got 1.5"),
        (one("tags", "all", None), "'all' on the metadata 'tags' needs a list, got None"),
        (one("owner", "text_match", 3), "'text_match' on the metadata 'owner' needs a string, got 3"),
        (one("owner", "text_match_insensitive", ["a"]), "'text_match_insensitive' on the metadata 'owner' needs a str"),
        (one("year", ">=", None), "'>=' on the metadata 'year' needs a number or a string, got None"),
    ],
)
def test_operators_that_cannot_take_their_value_are_refused(leaf: MetadataFilter, needed: str) -> None:
    with pytest.raises(TypeError, match=needed):
        condition_of(all_of(leaf))


def test_a_value_that_cannot_be_compared_is_an_error_unless_another_filter_decides() -> None:
    connection = database([{"language": "go", "year": "MMXX"}, {"language": "java", "year": 2020}])
    newer = one("year", ">", 2000)
    with pytest.raises(TypeError, match=r"the filter 'year' > 2000 cannot be applied to a node with the value 'MMXX'"):
        selected(connection, condition_of(all_of(newer)))
    assert selected(connection, condition_of(all_of(one("language", "==", "java"), newer))) == [1]


def test_equal_filters_have_equal_conditions() -> None:
    first, second = (condition_of(all_of(one("year", ">", 2000), one("kind", "==", "class"))) for _ in range(2))
    assert {first: 1}[second] == 1
