from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.llms import MockLLM
from llama_index.core.schema import MetadataMode, QueryBundle, TextNode
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeRetriever
from llamaindex_code_retrieval.index.filters import NodeFilter
from llamaindex_code_retrieval.ranking.features import FEATURES
from llamaindex_code_retrieval.ranking.fusion import reciprocal_rank_fusion
from llamaindex_code_retrieval.ranking.model import RankingModel
from llamaindex_code_retrieval.retriever import Mode


def _node(node_id: str, text: str, **metadata: str) -> TextNode:
    return TextNode(id_=node_id, text=text, metadata=metadata, excluded_embed_metadata_keys=list(metadata))


@pytest.fixture(scope="module")
def index(bert_folder: Path) -> CodeIndex:
    index = CodeIndex(CodeEmbedding(str(bert_folder)))
    texts = ["def readFile(path): pass", "def write_file(path): pass", "def add(a, b): return a + b", "x = 1", "y = 2"]
    index.update_nodes([_node(f"n{i}", text, path="p") for i, text in enumerate(texts)])
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
    fused = CodeRetriever(index, mode="fused", dense_weight=0.75).retrieve(query)
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


def test_the_embedding_of_the_query_bundle_is_used(index: CodeIndex) -> None:
    vector = index.vectors(["n3"])[0].tolist()
    hit = CodeRetriever(index, mode="dense", top_k=1).retrieve(QueryBundle("anything", embedding=vector))[0]
    assert hit.node_id == "n3"
    assert hit.score == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("mode", ["dense", "bm25", "fused"])
def test_custom_texts_are_embedded_in_place_of_the_query(mode: Mode, index: CodeIndex) -> None:
    texts = ["def add(a, b)", "sum = x + y"]
    retriever = CodeRetriever(index, mode=mode)
    bundle = QueryBundle("read path", custom_embedding_strs=texts)
    mean = index.embedding.get_agg_embedding_from_queries(texts)
    by_mean = QueryBundle("read path", embedding=None if mode == "bm25" else mean)
    hits, reference = retriever.retrieve(bundle), retriever.retrieve(by_mean)
    assert [(hit.node_id, hit.score) for hit in hits] == [(hit.node_id, hit.score) for hit in reference]
    again = asyncio.run(retriever.aretrieve(bundle))
    assert [(hit.node_id, hit.score) for hit in again] == [(hit.node_id, hit.score) for hit in hits]


def test_custom_texts_rank_as_in_a_vector_store_index(index: CodeIndex) -> None:
    """With the texts of LlamaIndex's HyDE: an answer that the LLM makes up, and the query."""
    bundle = HyDEQueryTransform(llm=MockLLM(), include_original=True).run("add two numbers")
    assert len(bundle.embedding_strs) == 2
    reference = VectorStoreIndex(list(index.nodes()), embed_model=index.embedding).as_retriever(similarity_top_k=5)
    hits = CodeRetriever(index, mode="dense").retrieve(bundle)
    assert [hit.node_id for hit in hits] == [hit.node_id for hit in reference.retrieve(bundle)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"candidates": 0}, "candidates"),
        ({"mode": "magic"}, "mode must be"),
        ({"dense_weight": -1.0}, "weights"),
        ({"dense_weight": 0.0, "bm25_weight": 0.0}, "weights"),
        ({"rank_constant": -1}, "rank_constant"),
        (
            {"mode": "dense", "bm25_weight": 0.5, "candidates": 9},
            "mode 'dense' does not use bm25_weight and candi",
        ),
        ({"mode": "bm25", "rank_constant": 5}, "mode 'bm25' does not use rank_constant"),
        (
            {"filters": NodeFilter(languages=("python", "pyhton"))},
            "unknown language 'pyhton'; the index has none; known are python, java",
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, index: CodeIndex) -> None:
    with pytest.raises(ValueError, match=message):
        CodeRetriever(index, **options)


def test_ranking_needs_a_vector_for_each_adapter(index: CodeIndex) -> None:
    with pytest.raises(ValueError, match="the query's vector by 1 adapters in use, got 0"):
        CodeRetriever(index).rank("add", [])


def test_the_index_makes_retrievers_and_query_engines(index: CodeIndex) -> None:
    hits = index.as_retriever(top_k=2, mode="bm25").retrieve("read file")
    assert [hit.node_id for hit in hits] == ["n0", "n1"]
    engine = index.as_query_engine(MockLLM(), top_k=2, mode="bm25")
    response = engine.query("read file")
    assert [hit.node_id for hit in response.source_nodes] == ["n0", "n1"]
    assert "def readFile(path): pass" in str(response)
    with pytest.raises(ValueError, match="mode must be"):
        index.as_query_engine(MockLLM(), mode="magic")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="similarity_top_k"):
        index.as_retriever(similarity_top_k=2)  # type: ignore[call-arg]


def test_odd_queries(index: CodeIndex) -> None:
    for query in ("", "漢字 \ud800", "x " * 50_000):
        assert len(CodeRetriever(index, mode="dense").retrieve(query)) == 5
        CodeRetriever(index).retrieve(query)


# --- an adapter for each language ------------------------------------------------------------------------------------


@pytest.fixture
def mixed(bert_folder: Path, adapter_folders: dict[str, Path]) -> CodeIndex:
    """Python by LoRA, Java and Kotlin by (IA)3, Go by the bare base; Ruby has an adapter and no nodes."""
    ia3 = adapter_folders["ia3"]
    adapters = {"python": adapter_folders["lora"], "java": ia3, "rust": ia3, "ruby": adapter_folders["adalora"]}
    index = CodeIndex(CodeEmbedding(str(bert_folder), adapters=adapters, precision="fp32"))
    texts = ["def readFile(path): pass", "def write_file(path): pass", "add(a, b): return a + b", "x = 1", "y = 2"]
    index.update_nodes(
        [
            _node(f"{language}{i}", text, path="p", language=language)
            for language in ("python", "java", "rust", "go")
            for i, text in enumerate(texts)
        ]
    )
    return index


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("mode", ["dense", "fused", "bm25"])
def test_the_query_is_embedded_once_by_each_adapter_in_use(mode: Any, asynchronous: bool, mixed: CodeIndex) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    mixed.embedding.callback_manager = CallbackManager([debug])
    retriever = CodeRetriever(mixed, mode=mode)
    hits = asyncio.run(retriever.aretrieve("add")) if asynchronous else retriever.retrieve("add")
    assert hits
    assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == (0 if mode == "bm25" else 3)
    only = CodeRetriever(mixed, mode=mode, filters=NodeFilter(languages=("java", "rust", "ruby")))
    assert {hit.node.metadata["language"] for hit in only.retrieve("add")} == {"java", "rust"}
    assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == (0 if mode == "bm25" else 4)


def test_rankings_of_several_adapters_are_fused_by_rank(mixed: CodeIndex) -> None:
    query = "add two numbers"
    dense = []
    for group in mixed.adapter_groups():
        vector = np.array(group.embedder.get_query_embedding(query))
        ids = [node.node_id for node in mixed.nodes() if node.metadata["language"] in group.languages]
        scores = (mixed.vectors(ids) @ vector).tolist()
        dense.append(sorted(zip(ids, scores, strict=True), key=lambda hit: (-hit[1], hit[0])))
    cosines = {node_id: score for ranking in dense for node_id, score in ranking}
    rank = {node_id: place for ranking in dense for place, (node_id, _) in enumerate(ranking, start=1)}
    hits = CodeRetriever(mixed, mode="dense", top_k=20).retrieve(query)
    assert [hit.node_id for hit in hits] == sorted(rank, key=lambda i: (rank[i], -cosines[i], i))
    assert [hit.score for hit in hits] == pytest.approx([6 / (5 + rank[hit.node_id]) for hit in hits])
    assert {hit.node.metadata["language"] for hit in hits[:3]} >= {"python", "go"}

    by_words = CodeRetriever(mixed, mode="bm25", top_k=100).retrieve(query)
    words = {hit.node_id: place for place, hit in enumerate(by_words, start=1)}
    for hit in CodeRetriever(mixed, top_k=20, bm25_weight=0.25).retrieve(query):
        bm25 = 0.25 / (5 + words[hit.node_id]) if hit.node_id in words else 0.0
        assert hit.score == pytest.approx(6 * (0.75 / (5 + rank[hit.node_id]) + bm25))


def test_a_model_ranks_by_the_difference_to_the_best_cosine_of_each_adapter(mixed: CodeIndex) -> None:
    query = "add two numbers"
    differences = {}
    for group in mixed.adapter_groups():
        vector = np.array(group.embedder.get_query_embedding(query))
        ids = [node.node_id for node in mixed.nodes() if node.metadata["language"] in group.languages]
        scores = mixed.vectors(ids) @ vector
        differences |= dict(zip(ids, (scores - scores.max()).tolist(), strict=True))
    weights = dict.fromkeys(FEATURES, 0.0) | {"cosine": 1.0}
    model = RankingModel(weights={"sentence": weights, "name": weights})
    hits = CodeRetriever(mixed, top_k=20, ranking_model=model).retrieve(query)
    total = sum(map(math.exp, differences.values()))
    assert len(hits) == 20
    assert {hit.node_id: hit.score for hit in hits} == pytest.approx(
        {id_: math.exp(value) / total for id_, value in differences.items()}, abs=1e-4
    )
    by_default = CodeRetriever(mixed, top_k=20)
    again = asyncio.run(by_default.aretrieve(query))
    assert [(hit.node_id, hit.score) for hit in by_default.retrieve(query)] == [
        (hit.node_id, hit.score) for hit in again
    ]
    assert {hit.node_id for hit in again} == differences.keys()


def test_the_adapter_of_the_vectors_embeds_the_query(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    """A query equal to a code has cosine 1 with it when both come from one adapter, and not when they do not."""
    embedding = CodeEmbedding(str(bert_folder), adapters={"python": adapter_folders["lora"]}, precision="fp32")
    index = CodeIndex(embedding)
    texts = [f"{word} ( {number} )" for number, word in enumerate(["file", "read", "add", "numbers", "line", "return"])]
    index.update_nodes([_node(text, text, language="python") for text in texts])
    for text in texts:
        hits = CodeRetriever(index, mode="dense").retrieve(text)
        assert {hit.node_id: hit.score for hit in hits}[text] == pytest.approx(1.0, abs=1e-3)
        by_default = embedding.get_query_embedding(text)
        with index.view(words=False) as view:
            assert view.nearest(by_default, top_k=1)[0].score < 0.9


def test_the_embedding_of_the_query_bundle_is_used_with_one_adapter_only(mixed: CodeIndex) -> None:
    vector = mixed.vectors(["python3"])[0].tolist()
    bundle = QueryBundle("add two numbers", embedding=vector)
    one = CodeRetriever(mixed, mode="dense", filters=NodeFilter(languages=("python",))).retrieve(bundle)
    ids = [f"python{i}" for i in range(5)]
    cosines = (mixed.vectors(ids) @ np.array(vector)).tolist()
    assert {hit.node_id: hit.score for hit in one} == pytest.approx(dict(zip(ids, cosines, strict=True)), abs=1e-3)
    retriever = CodeRetriever(mixed, mode="dense")
    hits = [retriever.retrieve(each) for each in (bundle, QueryBundle("add two numbers"))]
    assert [(hit.node_id, hit.score) for hit in hits[0]] == [(hit.node_id, hit.score) for hit in hits[1]]


def test_custom_texts_are_embedded_by_each_adapter(mixed: CodeIndex) -> None:
    texts = ["def add(a, b)", "x = 1"]
    bundle = QueryBundle("anything", custom_embedding_strs=texts)
    for language in ("python", "java"):
        retriever = CodeRetriever(mixed, mode="dense", filters=NodeFilter(languages=(language,)))
        mean = np.array(mixed.embedding.for_language(language).get_agg_embedding_from_queries(texts))
        ids = [f"{language}{i}" for i in range(5)]
        cosines = (mixed.vectors(ids) @ (mean / np.linalg.norm(mean))).tolist()
        scores = {hit.node_id: hit.score for hit in retriever.retrieve(bundle)}
        assert scores == pytest.approx(dict(zip(ids, cosines, strict=True)), abs=1e-3)


def test_languages(mixed: CodeIndex, index: CodeIndex) -> None:
    def found(index: CodeIndex, *languages: str) -> list[str]:
        retriever = CodeRetriever(index, filters=NodeFilter(languages=languages), top_k=50)
        return [hit.node_id for hit in retriever.retrieve("add")]

    assert sorted(found(mixed, "rust", "ruby")) == [f"rust{i}" for i in range(5)]
    assert found(index, "python") == []  # its nodes name no language
    assert len(found(index, "")) == 5
    with pytest.raises(ValueError, match="unknown language 'cobol'; the index has go, java, python, rust; known are"):
        found(mixed, "rust", "cobol")


@pytest.mark.parametrize(
    "options", [{"dense_weight": float("nan")}, {"bm25_weight": float("inf")}, {"rank_constant": float("nan")}]
)
def test_numbers_that_would_spoil_the_order_are_refused(options: dict[str, Any], index: CodeIndex) -> None:
    with pytest.raises(ValueError, match="must be >= 0"):
        CodeRetriever(index, **options)


# --- definitions of several nodes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dense", "bm25", "fused"])
def test_the_parts_of_a_long_definition_are_one_hit(mode: Any, bert_folder: Path) -> None:
    long = "def long_total(cart):\n" + "".join(f"    total = cart.total({line})\n" for line in range(300))
    short = "".join(f"\n\ndef short_total_{number}(cart):\n    return cart.total({number})\n" for number in range(20))
    with CodeIndex(CodeEmbedding(str(bert_folder))) as index:
        index.update_texts({"a.py": long + short, "b.py": long})
        parts = {
            path: sorted(
                (node.metadata["start_line"], node.metadata["end_line"])
                for node in index.nodes()
                if (node.metadata["path"], node.metadata["scope"]) == (path, "long_total")
            )
            for path in ("a.py", "b.py")
        }
        assert all(len(each) > 5 for each in parts.values())
        for top_k in (1, 3, 10):
            hits = index.search("total of the cart", mode=mode, top_k=top_k)
            assert len({(hit.metadata["path"], hit.metadata["scope"]) for hit in hits}) == len(hits) == top_k
        hits = index.search("total of the cart", mode=mode, top_k=50)
        assert len(hits) == 22
        for hit in hits:
            lines = [(hit.metadata["start_line"], hit.metadata["end_line"])]
            others = [
                tuple(map(int, each.split("-"))) for each in hit.metadata.get("also_lines", "").split(", ") if each
            ]
            assert others == sorted(others)
            is_long = hit.metadata["scope"] == "long_total"
            assert sorted(lines + others) == (parts[hit.metadata["path"]] if is_long else lines)
            assert "also_lines" not in hit.node.get_content(MetadataMode.EMBED)
            assert "also_lines" not in index.node(hit.node_id).metadata


def test_overloads_do_not_take_the_places_of_others(bert_folder: Path) -> None:
    stubs = "".join(f"@overload\ndef convert(value: T{n}) -> int: ...\n\n\n" for n in range(12))
    python = f"from typing import overload\n\n\n{stubs}def convert(value):\n    return int(value)\n"
    signatures = "".join(f"export function convert(value: T{n}): number;\n" for n in range(12))
    typescript = f"{signatures}export function convert(value: any): number {{\n  return Number(value);\n}}\n"
    others = "".join(f"def convert_{name}(value):\n    return {name}(value)\n\n\n" for name in ("str", "float", "bool"))
    with CodeIndex(CodeEmbedding(str(bert_folder))) as index:
        index.update_texts({"a.py": python, "b.ts": typescript, "c.py": others})
        hits = index.search("convert value", mode="bm25", filters=NodeFilter(kinds=("function",)))
        places = [(hit.metadata["path"], hit.metadata["scope"]) for hit in hits]
        assert sorted(places) == [
            ("a.py", "convert"),
            ("b.ts", "convert"),
            *[("c.py", f"convert_{name}") for name in ("bool", "float", "str")],
        ]
        assert {hit.node.text.splitlines()[-1] for hit in hits} >= {"    return int(value)", "}"}


# --- filters ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(bert_folder: Path) -> CodeIndex:
    """Thirty nodes in two languages and three folders."""
    index: CodeIndex = CodeIndex(CodeEmbedding(str(bert_folder)))
    texts = {}
    for folder in ("src", "lib", "tests"):
        for number in range(5):
            texts[f"{folder}/{number}.py"] = f"class Shelf{number}:\n    def add_{folder}(self, book):\n        pass\n"
            texts[f"{folder}/{number}.go"] = f"package a\n\nfunc Add{number}(book int) int {{\n\treturn {number}\n}}\n"
    index.update_texts(texts)
    return index


def _equals(**values: str) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value) for key, value in values.items()])


_PATHS = MetadataFilters(
    filters=[
        MetadataFilter(key="path", value="lib/", operator=FilterOperator.TEXT_MATCH),
        MetadataFilter(key="start_line", value=2, operator=FilterOperator.GTE),
    ],
    condition=FilterCondition.OR,
)


@pytest.mark.parametrize(
    ("filters", "is_allowed"),
    [
        (NodeFilter(languages=("go",)), lambda data: data["language"] == "go"),
        (
            NodeFilter(paths=("src/",), not_paths=("*0.py",)),
            lambda data: data["path"][:3] == "src" and "0.py" not in data["path"],
        ),
        (
            NodeFilter(tests=False, kinds=("class",)),
            lambda data: data["path"][:5] != "tests" and data["kind"] == "class",
        ),
        (NodeFilter(doc_ids=("lib/3.go", "gone")), lambda data: data["path"] == "lib/3.go"),
        (_equals(language="go", path="src/2.go"), lambda data: data["path"] == "src/2.go"),
        (_PATHS, lambda data: "lib/" in data["path"] or data["start_line"] >= 2),
        (_equals(language="cobol"), lambda data: False),
    ],
)
@pytest.mark.parametrize("top_k", [3, 100])
def test_filters_leave_what_brute_force_leaves(
    top_k: int, filters: Any, is_allowed: Callable[[dict[str, Any]], bool], shelf: CodeIndex
) -> None:
    query = "add a book"
    allowed = {node.node_id for node in shelf.nodes() if is_allowed(node.metadata)}
    vector = np.array(shelf.embedding.get_query_embedding(query))
    ids = [node.node_id for node in shelf.nodes()]
    cosines = dict(zip(ids, (shelf.vectors(ids) @ vector).tolist(), strict=True))
    words = [hit.node_id for hit in shelf.search(query, mode="bm25", top_k=1000) if hit.node_id in allowed]
    near = sorted(allowed, key=lambda id_: (-cosines[id_], id_))

    def found(mode: Any, **options: Any) -> list[str]:
        retriever = CodeRetriever(shelf, mode=mode, top_k=top_k, filters=filters, **options)
        hits = retriever.retrieve(query)
        again = asyncio.run(retriever.aretrieve(query))
        assert [(hit.node_id, hit.score) for hit in hits] == [(hit.node_id, hit.score) for hit in again]
        return [hit.node_id for hit in hits]

    assert found("bm25") == words[:top_k]
    dense = found("dense")
    assert set(dense) <= allowed
    assert [cosines[id_] for id_ in dense] == pytest.approx([cosines[id_] for id_ in near[:top_k]], abs=1e-3)
    all_dense = CodeRetriever(shelf, mode="dense", top_k=1000, filters=filters).retrieve(query)
    ranking = [hit.node_id for hit in all_dense]
    fused = reciprocal_rank_fusion([ranking, words], weights=[0.75, 0.25], rank_constant=5)
    assert found("fused", dense_weight=0.75) == [id_ for id_, _ in fused][:top_k]
    by_model = found("fused")
    assert set(by_model) <= allowed
    assert len(set(by_model)) == len(by_model) == len(dense)


# --- threads ---------------------------------------------------------------------------------------------------------


def test_every_search_during_updates_sees_one_state(bert_folder: Path) -> None:
    def texts(version: int) -> dict[str, str]:
        return {f"{name}.py": f"def total(cart):\n    return cart.total_{version}\n" for name in "abcd"}

    with CodeIndex(CodeEmbedding(str(bert_folder))) as index:
        index.update_texts(texts(0))
        is_done = threading.Event()

        def search(mode: Any) -> list[set[str]]:
            states = []
            while not is_done.is_set():
                hits = index.search("cart total", mode=mode)
                assert len(hits) == 4
                states.append({hit.node.text.split("_")[1].strip() for hit in hits})
            return states

        with ThreadPoolExecutor(3) as pool:
            searches = [pool.submit(search, mode) for mode in ("dense", "bm25", "fused")]
            try:
                for version in range(1, 9):
                    index.update_texts(texts(version))
            finally:
                is_done.set()
            for each in searches:
                assert all(len(state) == 1 for state in each.result())
                assert each.result()
        assert {hit.node.text.split("_")[1].strip() for hit in index.search("cart total")} == {"8"}
