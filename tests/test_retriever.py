from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.schema import QueryBundle, TextNode

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeRetriever
from llamaindex_code_retrieval.retriever import reciprocal_rank_fusion


@pytest.fixture(scope="module")
def index(bert_folder: Path) -> CodeIndex:
    index = CodeIndex(CodeEmbedding(str(bert_folder)))
    texts = ["def readFile(path): pass", "def write_file(path): pass", "def add(a, b): return a + b", "x = 1", "y = 2"]
    index.update_nodes([TextNode(id_=f"n{i}", text=text, metadata={"path": "p"}) for i, text in enumerate(texts)])
    return index


def test_fusion_by_hand() -> None:
    fused = dict(reciprocal_rank_fusion([["a", "b", "c"], ["c", "a"]], weights=[2.0, 1.0], rank_constant=1))
    best = (2 + 1) / 2
    assert fused == pytest.approx({"a": (2 / 2 + 1 / 3) / best, "b": (2 / 3) / best, "c": (2 / 4 + 1 / 2) / best})


def test_a_weight_changes_the_order_and_zero_switches_off() -> None:
    rankings = [["a", "b"], ["b", "a"]]
    assert reciprocal_rank_fusion(rankings, weights=[2.0, 1.0])[0][0] == "a"
    assert reciprocal_rank_fusion(rankings, weights=[1.0, 2.0])[0][0] == "b"
    assert [name for name, _ in reciprocal_rank_fusion(rankings, weights=[1.0, 1.0])] == ["a", "b"]  # a tie: by id
    assert reciprocal_rank_fusion([["b"], ["a"]], weights=[1.0, 0.0]) == [("b", 1.0), ("a", 0.0)]


def test_modes(index: CodeIndex) -> None:
    query = "read file"
    dense = CodeRetriever(index, mode="dense").retrieve(query)
    bm25 = CodeRetriever(index, mode="bm25").retrieve(query)
    fused = CodeRetriever(index, mode="fused").retrieve(query)
    assert len(dense) == len(fused) == 5
    assert [hit.node_id for hit in bm25] == ["n0", "n1"]
    rankings = [[hit.node_id for hit in dense], [hit.node_id for hit in bm25]]
    expected = reciprocal_rank_fusion(rankings, weights=[0.75, 0.25], rank_constant=5)
    assert [(hit.node_id, hit.score) for hit in fused] == expected
    only_dense = CodeRetriever(index, bm25_weight=0, top_k=3).retrieve(query)
    assert [hit.node_id for hit in only_dense] == [hit.node_id for hit in dense[:3]]


def test_sync_and_async_agree_and_events_come_once(index: CodeIndex) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    retriever = CodeRetriever(index, top_k=2, callback_manager=CallbackManager([debug]))
    hits = retriever.retrieve("add two numbers")
    again = asyncio.run(retriever.aretrieve("add two numbers"))
    assert [(h.node_id, h.score) for h in hits] == [(h.node_id, h.score) for h in again]
    assert len(hits) == 2
    assert len(debug.get_event_pairs(CBEventType.RETRIEVE)) == 2


def test_a_given_embedding_is_used(index: CodeIndex) -> None:
    vector = index.vector_store.vectors(["n3"])[0].tolist()  # type: ignore[attr-defined]
    hit = CodeRetriever(index, mode="dense", top_k=1).retrieve(QueryBundle("anything", embedding=vector))[0]
    assert hit.node_id == "n3"
    assert hit.score == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"candidates": 0}, "candidates"),
        ({"mode": "magic"}, "mode must be"),
        ({"dense_weight": -1.0}, "weights"),
        ({"dense_weight": 0.0, "bm25_weight": 0.0}, "weights"),
        ({"rank_constant": -1}, "rank_constant"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, index: CodeIndex) -> None:
    with pytest.raises(ValueError, match=message):
        CodeRetriever(index, **options)


def test_odd_queries(index: CodeIndex) -> None:
    for query in ("", "漢字 \ud800", "x " * 50_000):
        assert len(CodeRetriever(index, mode="dense").retrieve(query)) == 5
        CodeRetriever(index).retrieve(query)
