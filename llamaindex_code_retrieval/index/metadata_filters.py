"""LlamaIndex's ``MetadataFilters`` as conditions on the nodes of an index.

The reference is LlamaIndex's ``build_metadata_filter_fn``. It is called for each node, because the JSON functions of
SQLite differ from Python in numbers, missing values and quoted keys, and are not even twice as fast. SQLite evaluates
only filters for equality with strings in columns, for which there are indexes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from llamaindex_code_retrieval.index.filters import Condition, SqlFunction, one_of

_COLUMNS = ("language", "kind", "symbol", "scope")
"""Columns that hold the metadata of their name where it is a string, else an empty string."""
_COMPARISONS = (FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT, FilterOperator.LTE)
_LISTS = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)
_TEXTS = (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)


def condition_of(filters: MetadataFilters | None) -> Condition:
    """Return the condition that selects the nodes whose metadata meet ``filters``.

    It decides as LlamaIndex's ``SimpleVectorStore`` does, and takes nested filters too. Where a value in the metadata
    of a node has a type that cannot be compared, the search raises a ``TypeError``, unless another filter has already
    decided about that node.

    Raises:
        TypeError: an operator that cannot take the value of its filter.
    """
    if filters is None or not filters.filters:
        return Condition()
    parts = [condition_of(each) if isinstance(each, MetadataFilters) else _leaf(each) for each in filters.filters]
    if filters.condition is FilterCondition.OR:
        return _joined(parts, "({})", " OR ")
    if filters.condition is FilterCondition.NOT:
        return _joined(parts, "NOT ({})", " OR ")
    return _joined(parts, "({})", " AND ")


def matcher_of(metadata_of: Callable[[str], Mapping[str, Any]], filters: MetadataFilters) -> Callable[[str], bool]:
    """Return LlamaIndex's ``build_metadata_filter_fn`` of node ids, which takes nested filters too."""
    if not any(isinstance(each, MetadataFilters) for each in filters.filters):
        return build_metadata_filter_fn(metadata_of, filters)
    groups = [
        each if isinstance(each, MetadataFilters) else MetadataFilters(filters=[each]) for each in filters.filters
    ]
    parts = [matcher_of(metadata_of, group) for group in groups]
    if filters.condition is FilterCondition.OR:
        return lambda node_id: any(part(node_id) for part in parts)
    if filters.condition is FilterCondition.NOT:
        return lambda node_id: not any(part(node_id) for part in parts)
    return lambda node_id: all(part(node_id) for part in parts)


def _joined(parts: Sequence[Condition], form: str, operator: str) -> Condition:
    return Condition(
        form.format(operator.join(part.sql for part in parts)),
        tuple(value for part in parts for value in part.parameters),
        frozenset().union(*(part.functions for part in parts)),
    )


def _leaf(leaf: MetadataFilter) -> Condition:
    _check(leaf)
    values = _texts(leaf)
    if leaf.key in _COLUMNS and values:
        equal = one_of(f"n.{leaf.key}", values)
        is_negated = leaf.operator in (FilterOperator.NE, FilterOperator.NIN)
        return Condition(f"NOT {equal.sql}", equal.parameters) if is_negated else equal
    return Condition("matches_metadata(n.metadata, ?)", (json.dumps(leaf.model_dump()),), frozenset([_MATCHES]))


def _texts(leaf: MetadataFilter) -> list[str]:
    """Return the strings that a filter compares for equality; empty if there are others, which columns cannot tell.

    An empty string in a column may stand for no string; and the JSON functions of SQLite cut strings at a NUL.
    """
    if leaf.operator in (FilterOperator.EQ, FilterOperator.NE):
        values: Sequence[object] = [leaf.value]
    elif leaf.operator in (FilterOperator.IN, FilterOperator.NIN) and isinstance(leaf.value, list):
        values = leaf.value
    else:
        return []
    texts = [value for value in values if isinstance(value, str) and value and "\0" not in value]
    return texts if len(texts) == len(values) else []


def _check(leaf: MetadataFilter) -> None:
    """Refuse what the reference cannot evaluate for any value."""
    needed = ""
    if leaf.operator in _LISTS and not isinstance(leaf.value, list | str):
        needed = "a list"
    elif leaf.operator in _TEXTS and not isinstance(leaf.value, str):
        needed = "a string"
    elif leaf.operator in _COMPARISONS and leaf.value is None:
        needed = "a number or a string"
    if needed:
        raise TypeError(
            f"the operator {leaf.operator.value!r} on the metadata {leaf.key!r} needs {needed}, got {leaf.value!r}"
        )


@lru_cache(maxsize=64)
def _function_of(leaf: str) -> tuple[MetadataFilter, Callable[[str], bool]]:
    """Return the filter, and the reference as a function of a node's metadata as JSON."""
    parsed = MetadataFilter.model_validate(json.loads(leaf))
    return parsed, build_metadata_filter_fn(_metadata, MetadataFilters(filters=[parsed]))


_metadata = lru_cache(maxsize=1)(json.loads)  # several filters read the metadata of one node after the other


def _matches(metadata: str, leaf: str) -> bool:
    parsed, matches = _function_of(leaf)
    try:
        return matches(metadata)
    except TypeError as error:
        raise TypeError(
            f"the filter {parsed.key!r} {parsed.operator.value} {parsed.value!r} cannot be applied to a node with the "
            f"value {_metadata(metadata)[parsed.key]!r}: {error}; filter by a value of that type"
        ) from error


_MATCHES = SqlFunction("matches_metadata", 2, _matches)
