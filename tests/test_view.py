"""Searches in one state of an index agree with a comparison of everything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from indexes import HashEmbedding
from llama_index.core.schema import TextNode

from llamaindex_code_retrieval import CodeIndex
from llamaindex_code_retrieval.index import caches
from llamaindex_code_retrieval.index.filters import NodeFilter
from llamaindex_code_retrieval.index.view import View

WORDS = "alpha beta gamma delta epsilon".split()
LANGUAGES = ["python", "go", "java"]


def _nodes(contents: Sequence[int | None]) -> list[TextNode]:
    """Return a node for each content; equal contents are equal texts, with equal vectors."""
    return [
        TextNode(
            id_=f"{i:03}",
            text=f"{WORDS[content % 5]} {content // 2}",
            metadata={"path": f"{i // 3}.x", "language": LANGUAGES[i % 3]},
            excluded_embed_metadata_keys=["path", "language"],
        )
        for i, content in enumerate(contents)
        if content is not None
    ]


def _brute_force(index: CodeIndex, query: Sequence[float], languages: Sequence[str] | None) -> dict[str, float]:
    nodes = [node for node in index.nodes() if languages is None or node.metadata["language"] in languages]
    vectors = index.vectors([node.node_id for node in nodes])
    return {node.node_id: float(score) for node, score in zip(nodes, vectors @ np.asarray(query), strict=True)}


def _assert_is_best(view: View, index: CodeIndex, languages: tuple[str, ...] | None) -> None:
    condition = None if languages is None else NodeFilter(languages=languages).where()
    query = index.embedding.get_query_embedding("some query")
    scores = _brute_force(index, query, languages)
    # fp16 vectors of equal texts are equal, so that only their ids decide.
    expected = sorted(scores, key=lambda node_id: (-round(scores[node_id], 4), node_id))
    for top_k in (1, 4, 100):
        hits = view.nearest(query, top_k=top_k, condition=condition)
        assert [hit.id for hit in hits] == expected[:top_k]
        assert [hit.score for hit in hits] == pytest.approx([scores[hit.id] for hit in hits], abs=1e-3)
    nodes = [node for node in index.nodes() if languages is None or node.metadata["language"] in languages]
    for word in WORDS:
        found = {node.node_id for node in nodes if word in node.text}
        assert {hit.id for hit in view.matching(word, top_k=100, condition=condition)} == found
        first = view.matching(word, top_k=100, condition=condition)[:3]
        assert view.matching(word, top_k=3, condition=condition) == first


CONTENTS = st.lists(st.none() | st.integers(0, 40), min_size=1, max_size=60)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=st.lists(CONTENTS, min_size=1, max_size=4))
def test_a_search_with_newer_and_removed_rows_equals_a_comparison_of_all(
    states: list[list[int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is in the file of vectors, newer than it, or removed since."""
    monkeypatch.setattr(caches, "_FEW_VECTORS", 12)
    with CodeIndex(HashEmbedding()) as index:
        for contents in states:
            index.update_nodes(_nodes(contents))
            with index.view() as view:
                for languages in (None, ("go",), ("go", "python"), ("rust",)):
                    _assert_is_best(view, index, languages)


def test_ties_are_broken_by_id_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are in another order than the numbers of the nodes, in the file of vectors and without one."""
    ids = [f"{(7 * i) % 200:03}" for i in range(200)]
    for few in (10, 1000):
        monkeypatch.setattr(caches, "_FEW_VECTORS", few)
        with CodeIndex(HashEmbedding()) as index:
            index.update_nodes([TextNode(id_=id_, text="same words", metadata={"path": "a.x"}) for id_ in ids])
            query = index.embedding.get_query_embedding("words")
            with index.view() as view:
                assert (view.settings.get("vectors") is not None) == (few == 10)
                for found in (view.nearest(query, top_k=5), view.matching("words", top_k=5)):
                    assert [hit.id for hit in found] == ["000", "001", "002", "003", "004"]


def test_a_view_without_words_refuses_to_match_them(tmp_path: Path) -> None:
    with CodeIndex(HashEmbedding(), tmp_path) as index, index.view(words=False) as view:
        assert view.nearest(index.embedding.get_query_embedding("x"), top_k=3) == []
        with pytest.raises(ValueError, match="opened without words"):
            view.matching("x", top_k=3)
        with pytest.raises(ValueError, match="opened without words"):
            view.with_all_words("x", field="body", top_k=3)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([1.0] * 15, "the query has 15 dimensions, the index 16; embed it with the same model"),
        ([1.0] * 15 + [float("nan")], "holds NaN or infinity; the embedding model is broken"),
    ],
)
def test_a_wrong_query_is_refused(query: list[float], message: str) -> None:
    with CodeIndex(HashEmbedding()) as index, index.view() as view, pytest.raises(ValueError, match=message):
        view.nearest(query, top_k=1)


def test_parts_of_one_definition_are_one_hit_with_their_lines() -> None:
    body = "".join(f"    total = total + value_{i}\n" for i in range(200))
    sources = {"long.py": f"def long_sum(total):\n{body}    return total\n", "short.py": "def total():\n    return 1\n"}
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts(sources)
        parts = [node for node in index.nodes() if node.metadata["path"] == "long.py"]
        assert len(parts) > 3
        hits = index.search("total", mode="bm25", top_k=5)
        assert sorted(hit.node.metadata["path"] for hit in hits) == ["long.py", "short.py"]
        [hit] = [hit for hit in hits if hit.node.metadata["path"] == "long.py"]
        others = [part.metadata for part in parts if part.node_id != hit.node_id]
        lines = ", ".join(f"{each['start_line']}-{each['end_line']}" for each in others)
        assert hit.node.metadata["also_lines"] == lines
        assert "also_lines" not in index.node(hit.node_id).metadata
