"""Questions put to real indexes: which places are found, and how they are measured."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeReranker, CodeRetriever
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestion, RepositoryQuestions
from llamaindex_code_retrieval.eval.repository_retrieval import (
    RankedPlaces,
    describe_worst,
    evaluate_questions,
    index_sources_once,
    measure_places,
    question_sources,
    rank_places,
)
from llamaindex_code_retrieval.eval.results import RetrievalResult
from llamaindex_code_retrieval.eval.targets import Place, Target
from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.models.calibration import Calibration
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder


def questions(*rows: tuple[str, str, tuple[Target, ...]], name: str = "shop", root: str = ".") -> RepositoryQuestions:
    made = tuple(
        RepositoryQuestion(query=query, category=category, relevant=targets) for query, category, targets in rows
    )
    return RepositoryQuestions(name=name, questions=made, root=root, language="python")


FOUND = ("read_line", "symbol", (Target("shop/read.py", 1, 3),))
ELSEWHERE = ("sort_tree", "symbol", (Target("shop/count.py"), Target("shop/sort.py")))
NOT_FOUND = ("open_word", "semantic", (Target("shop/read.py", 100, 200),))


@pytest.fixture
def embedding(bert_folder: Path) -> CodeEmbedding:
    return CodeEmbedding(str(bert_folder))


def test_the_files_under_the_root_are_read(shop: Path) -> None:
    (shop.parent / "other.py").write_text("x = 1\n")
    below = question_sources(questions(FOUND, root="shop"), shop.parent)
    assert "read.py" in below
    assert "other.py" not in below
    assert {"other.py", "shop/read.py"} <= question_sources(questions(FOUND), shop.parent).keys()
    only = question_sources(questions(FOUND), shop.parent, SourceOptions(only=("/shop/re*.py",)))
    assert list(only) == ["shop/read.py"]


def test_a_reranker_of_weight_0_measures_as_the_first_stage(
    shop: Path, embedding: CodeEmbedding, tmp_path: Path
) -> None:
    reranker = CrossEncoder.on(embedding.torch_encoder, max_tokens=64)
    shutil.copytree(embedding.model_name, tmp_path / "reranker")
    reranker.calibration = Calibration(repository_weight=0.0)
    reranker.save(tmp_path / "reranker")
    asked = questions(FOUND, ELSEWHERE, root="shop")
    sources = {"shop": question_sources(asked, shop.parent)}
    retriever = CodeRetriever(index_sources_once(sources, embedding)(asked), top_k=10)

    def measure(*rerankers: CodeReranker) -> RetrievalResult:
        return evaluate_questions(lambda _: retriever, [asked], system="s", task="t", postprocessors=rerankers)

    first_stage = measure()
    kept = measure(CodeReranker(tmp_path / "reranker"))
    assert (kept.top, kept.values) == (first_stage.top, first_stage.values)
    assert measure(CodeReranker(tmp_path / "reranker", repository_weight=1)).top != first_stage.top


def test_a_target_that_is_in_no_file_is_refused(shop: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"question shop/1 \('sort_tree'\) has the target 'shop/count.py', which is none of the 1 files that are "
        "read in .*; correct the path",
    ):
        question_sources(questions(ELSEWHERE), shop.parent, SourceOptions(only=("/shop/re*.py",)))


@pytest.mark.parametrize("root", [".", "shop"])
def test_places_are_relative_to_the_repository(root: str, shop: Path, embedding: CodeEmbedding) -> None:
    """Whether the index holds the repository or the folder ``root`` of it, targets are found at the same ranks."""
    asked = questions(FOUND, ELSEWHERE, NOT_FOUND, root=root)
    with CodeIndex(embedding) as index:
        index.update([shop.parent / root])
        ranked = rank_places(CodeRetriever(index, top_k=10, mode="bm25"), asked)
    assert ranked.places["shop/1"][0] == Place("shop/read.py", 1, 3)
    assert ranked.places["shop/2"][0].path == "shop/sort.py"
    assert len(ranked.seconds["total"]) == 3

    result = measure_places(ranked, [asked], system="words", task="own", metrics=["nDCG@10", "MRR"])
    assert result.values["MRR"] == {"shop/1": 1.0, "shop/2": 1.0, "shop/3": 0.0}
    count = next(rank for rank, place in enumerate(ranked.places["shop/2"], start=1) if place.path == "shop/count.py")
    assert result.ranks == {"shop/1": 1, "shop/2": 1, "shop/3": None}
    assert 1 < count <= 10
    assert 1 > result.values["nDCG@10"]["shop/2"] > 1 / (1 + 0.6309298)
    assert result.categories == {"shop/1": "symbol", "shop/2": "symbol", "shop/3": "semantic"}
    assert result.languages["shop/1"] == "python"
    assert result.top["shop/1"][0] == "shop/read.py:1-3"


def test_the_same_is_measured_from_texts_as_from_files(shop: Path, embedding: CodeEmbedding) -> None:
    asked = questions(FOUND, ELSEWHERE, NOT_FOUND)
    with CodeIndex(embedding) as index:
        index.update([shop.parent])
        from_files = rank_places(CodeRetriever(index), asked)
    sources = {"shop": question_sources(asked, shop.parent)}
    index_of = index_sources_once(sources, embedding)
    assert index_of(asked) is index_of(asked)
    assert rank_places(CodeRetriever(index_of(asked)), asked).places == from_files.places


def test_all_repositories_are_one_result(shop: Path, embedding: CodeEmbedding) -> None:
    one, two = questions(FOUND, name="one"), questions(ELSEWHERE, NOT_FOUND, name="two")
    sources = {each.name: question_sources(each, shop.parent) for each in (one, two)}
    index_of = index_sources_once(sources, embedding)
    seen: list[tuple[int, int]] = []
    result = evaluate_questions(
        lambda each: CodeRetriever(index_of(each), mode="bm25"),
        [one, two],
        system="words",
        task="own",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert list(result.queries) == ["one/1", "two/1", "two/2"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert result.codes == len(index_of(one)) + len(index_of(two)) > 0
    assert result.values["R@10"] == {"one/1": 1.0, "two/1": 1.0, "two/2": 0.0}
    assert {category: part.means["R@10"] for category, part in result.by_category().items()} == {
        "semantic": 0.0,
        "symbol": 1.0,
    }


def test_categories_are_told_apart_if_there_are_several() -> None:
    places = {"shop/1": [Place("shop/read.py", 1, 3)], "shop/2": [], "shop/3": []}
    asked = questions(FOUND, ELSEWHERE, NOT_FOUND)
    result = measure_places(RankedPlaces(places), [asked], system="x", task="own")
    parts = result.by_category()
    assert list(parts) == ["semantic", "symbol"]
    assert parts["symbol"].task == "own (symbol)"
    assert parts["symbol"].values["nDCG@10"] == {"shop/1": 1.0, "shop/2": 0.0}
    assert parts["symbol"].queries.keys() == parts["symbol"].ranks.keys() == parts["symbol"].top.keys()
    alike = questions(FOUND, ELSEWHERE)
    assert measure_places(RankedPlaces(places), [alike], system="x", task="own").by_category() == {}


def test_the_worst_questions_are_described() -> None:
    places = {
        "shop/1": [Place("a.py", 1, 2), Place("shop/read.py", 1, 3)],
        "shop/2": [],
        "shop/3": [Place("a.py", 1, 2)] * 4,
    }
    asked = questions(FOUND, ("sort", "symbol", (Target("shop/sort.py"),)), ("a", "symbol", (Target("a.py"),)))
    result = measure_places(RankedPlaces(places), [asked], system="x", task="own")
    assert describe_worst(result, [asked], count=5) == [
        "0.000 shop/2 (symbol): sort\n  expected shop/sort.py\n  found    nothing",
        "0.631 shop/1 (symbol): read_line\n  expected shop/read.py:1-3\n  found    a.py:1-2, shop/read.py:1-3",
    ]
    assert len(describe_worst(result, [asked], count=1)) == 1


class Nodes(BaseRetriever):
    """Returns given nodes."""

    def __init__(self, *metadata: dict[str, object]) -> None:
        super().__init__()
        self.nodes = [NodeWithScore(node=TextNode(text="x", metadata=each), score=1.0) for each in metadata]

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.nodes


def test_any_retriever_of_nodes_with_places_is_measured() -> None:
    asked = questions(FOUND)
    retriever = Nodes({"path": "shop/read.py", "start_line": 2, "end_line": 2})
    assert rank_places(retriever, asked).places == {"shop/1": [Place("shop/read.py", 2, 2)]}
    with pytest.raises(ValueError, match=r"a hit has the path 'a.py' and the lines None to None, .* use nodes of a"):
        rank_places(Nodes({"path": "a.py"}), asked)
