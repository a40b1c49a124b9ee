"""Rankings of benchmarks: worked out by hand, by plain functions, by real retrievers, in pools, and with ties."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.schema import NodeWithScore, TextNode
from transformers import BertModel

from llamaindex_code_retrieval import CodeEmbedding, CodeRetriever, Encoder
from llamaindex_code_retrieval.eval.datasets import Benchmark, benchmark_of
from llamaindex_code_retrieval.eval.metrics import evaluate_run, pessimistic_rank
from llamaindex_code_retrieval.eval.retrieval import benchmark_index, evaluate_retrieval, rank_by_cosine, rank_queries

BENCHMARK = Benchmark(
    name="three",
    corpus={"a": "read the file", "b": "write  the file", "c": "write the file", "d": "close it"},
    queries={"q1": "read", "q2": "write", "q3": "close"},
    qrels={"q1": {"a": 1}, "q2": {"c": 1}, "q3": {"d": 1}},
    languages={"a": "python", "b": "java", "c": "java", "d": "python"},
)


def test_a_plain_function_is_measured_by_hand() -> None:
    """q1 finds a at 2, q2 finds c at 1, q3 finds nothing: MRR (1/2 + 1 + 0) / 3."""
    answers = {"read": ["b", "a"], "write": ["c"], "close": []}
    result = evaluate_retrieval(lambda _: answers.__getitem__, BENCHMARK, system="function", metrics=["MRR", "R@1"])
    assert result.means == {"MRR": pytest.approx(0.5), "R@1": pytest.approx(1 / 3)}
    assert result.ranks == {"q1": 2, "q2": 1, "q3": None}
    assert result.top == {"q1": ["b", "a"], "q2": ["c"], "q3": []}
    assert result.languages == {"q1": "python", "q2": "java", "q3": "python"}
    assert set(result.milliseconds) == {"retrieve", "total"}


def test_equal_codes_are_one_where_they_are_collapsed() -> None:
    """b and c are one code: found first where b is, though c alone is marked."""
    answers = {"read": ["a"], "write": ["b", "d", "c"], "close": ["b", "c", "d"]}
    result = evaluate_retrieval(lambda _: answers.__getitem__, BENCHMARK, system="function", metrics=["MRR"])
    assert result.duplicates == 1
    assert result.means["MRR"] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert result.collapsed["MRR"] == pytest.approx((1 + 1 + 1 / 2) / 3)


def test_ties_are_broken_by_id_and_the_order_is_otherwise_kept() -> None:
    hits = [("d", 0.5), ("b", 0.9), ("a", 0.9), ("c", 0.1)]
    ranked = rank_queries(lambda query: hits, BENCHMARK)
    assert ranked.run["q1"] == ["d", "a", "b", "c"]


@pytest.fixture(scope="module")
def collapsed(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """An encoder that returns one vector for every text: its last layer norm ignores its input."""
    folder = tmp_path_factory.mktemp("collapsed")
    shutil.copytree(bert_folder, folder, dirs_exist_ok=True)
    model = BertModel.from_pretrained(bert_folder)
    norm = model.encoder.layer[-1].output.LayerNorm
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    return Encoder.from_pretrained(str(folder), device="cpu")


def test_a_collapsed_encoder_ranks_every_answer_last(collapsed: Encoder) -> None:
    """All cosines are equal, but for the rounding of a matrix product, so that 36 of 37 codes come first."""
    pairs = [(f"query {i}", f"def f{i}(): return {i}") for i in range(20)]
    benchmark = benchmark_of("collapsed", pairs, others=[f"x = {i}" for i in range(17)])
    run = rank_by_cosine(collapsed, benchmark)
    metrics = evaluate_run(run, benchmark.qrels, metrics=["MRR", "R@10"])
    assert metrics == {"MRR": pytest.approx(1 / 37), "R@10": 0.0}
    codes = list(benchmark.corpus)
    vectors = collapsed.encode_codes(list(benchmark.corpus.values()))
    for query, judged in benchmark.qrels.items():
        (cosines,) = collapsed.encode_queries([benchmark.queries[query]]) @ vectors.T
        assert pessimistic_rank(cosines, [codes.index(code) for code in judged], tolerance=1e-6) == 37


def test_cosines_that_differ_keep_their_order(bert_folder: Path) -> None:
    encoder = Encoder.from_pretrained(str(bert_folder), device="cpu")
    cosines = (
        encoder.encode_queries(list(BENCHMARK.queries.values()))
        @ encoder.encode_codes(["read the file", "write  the file", "close it"]).T
    )  # b and c are equal but for white space, which the tokenizer drops: the answer c comes behind b
    run = rank_by_cosine(encoder, BENCHMARK)
    assert [run["q2"].index(code) for code in "bc"] == [run["q2"].index("b"), run["q2"].index("b") + 1]
    for query, row in zip(BENCHMARK.queries, cosines, strict=True):
        expected = [code for _, code in sorted(zip(-row, "abd", strict=True))]
        assert [code for code in run[query] if code != "c"] == expected


def test_no_tie_by_id_or_position_favours_the_answers_of_made_benchmarks() -> None:
    benchmark = benchmark_of("b", [(f"q{i}", f"a{i}") for i in range(3)], others=[f"o{i}" for i in range(9)] + ["a1"])
    assert sorted(benchmark.corpus) == list(benchmark.corpus)
    assert list(benchmark.corpus.values())[9:] == ["a0", "a1", "a2"]


def test_the_best_of_several_nodes_of_one_code_counts() -> None:
    def search(query: str) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(id_=name, text="x")) for name in ("b-1", "a-1", "b-2")]

    assert rank_queries(search, BENCHMARK, id_of=lambda hit: hit.node_id[0]).run["q1"] == ["b", "a"]


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"score of 'a' for query 'q1' is NaN"):
        rank_queries(lambda query: [("a", math.nan)], BENCHMARK)
    with pytest.raises(ValueError, match="query 'q1' found 'z', which the corpus of 'three' lacks"):
        rank_queries(lambda query: ["z"], BENCHMARK)
    with pytest.raises(ValueError, match="postprocessors need nodes"):
        rank_queries(lambda query: ["a"], BENCHMARK, postprocessors=[SimilarityPostprocessor(similarity_cutoff=0.1)])


def test_query_vectors_without_effect_are_refused(bert_folder: Path) -> None:
    with pytest.raises(ValueError, match="query_vectors have an effect with a CodeRetriever only"):
        rank_queries(lambda query: ["a"], BENCHMARK, query_vectors={})
    retriever = CodeRetriever(benchmark_index(BENCHMARK, CodeEmbedding(str(bert_folder))), top_k=4)
    with pytest.raises(ValueError, match="query_vectors lack the query 'q1'"):
        rank_queries(retriever, BENCHMARK, query_vectors={"q2": [], "q3": []})


@pytest.mark.parametrize("mode", ["dense", "bm25", "fused"])
def test_a_retriever_is_ranked_as_it_retrieves(mode: Any, bert_folder: Path) -> None:
    """Without building nodes, with given vectors and through LlamaIndex's interface: one ranking."""
    embedding = CodeEmbedding(str(bert_folder))
    retriever = CodeRetriever(benchmark_index(BENCHMARK, embedding), mode=mode, top_k=4)
    ranked = rank_queries(retriever, BENCHMARK)
    assert set(ranked.seconds) == {"embed", "search", "total"}
    vectors = {query: embedding.get_query_embedding(text) for query, text in BENCHMARK.queries.items()}
    assert rank_queries(retriever, BENCHMARK, query_vectors=vectors).run == ranked.run
    assert rank_queries(lambda query: retriever.retrieve(query), BENCHMARK).run == ranked.run


def test_postprocessors_follow_in_their_order(bert_folder: Path) -> None:
    retriever = CodeRetriever(benchmark_index(BENCHMARK, CodeEmbedding(str(bert_folder))), mode="dense", top_k=4)
    cut = SimilarityPostprocessor(similarity_cutoff=2.0)
    ranked = rank_queries(retriever, BENCHMARK, postprocessors=[cut])
    assert ranked.run == {"q1": [], "q2": [], "q3": []}
    assert set(ranked.seconds) == {"embed", "search", "SimilarityPostprocessor", "total"}


def test_pools_are_each_their_own_corpus(bert_folder: Path) -> None:
    embedding, seen = CodeEmbedding(str(bert_folder)), []

    def build(pool: Benchmark) -> CodeRetriever:
        seen.append(set(pool.corpus))
        return CodeRetriever(benchmark_index(pool, embedding), mode="dense", top_k=4)

    result = evaluate_retrieval(build, BENCHMARK, system="dense", pool_size=2, depth=4, metrics=["R@10"])
    assert result.protocol == "pools of 2 (seed 0)"
    assert all(len(pool) == 2 for pool in seen)
    assert result.means["R@10"] == 1.0  # of two codes, one of the first ten is always the right one
    assert list(result.values["R@10"]) == sorted(BENCHMARK.queries)
