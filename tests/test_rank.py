"""Hits of both searches ranked by the model: what is ranked by it, why, and for which questions."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from indexes import HashEmbedding
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from llamaindex_code_retrieval import CodeIndex, CodeRetriever
from llamaindex_code_retrieval.index.filters import NodeFilter
from llamaindex_code_retrieval.index.rank import QueryVector, Ranking, candidate_features
from llamaindex_code_retrieval.ranking.features import FEATURES
from llamaindex_code_retrieval.ranking.fusion import reciprocal_rank_fusion
from llamaindex_code_retrieval.ranking.model import RankingModel, default_model
from llamaindex_code_retrieval.ranking.question import Question

SHOP = {
    "shop/cart.py": (
        'class Cart:\n    """Holds what is bought."""\n\n    def add(self, item):\n        self.items += [item]\n\n'
        "    def total(self):\n        return sum(item.price for item in self.items)\n"
    ),
    "shop/mail.py": "def send_receipt(address):\n    connect().send(address)\n\n\ndef connect():\n    return SMTP()\n",
    "bank/cart.py": "def total(accounts):\n    return sum(accounts)\n\n\ndef pay(account):\n    account.clear()\n",
    "tests/test_cart.py": "def test_total():\n    assert Cart().total() == 0\n",
    "docs/shop.md": "# Receipts\n\nThe shop sends a receipt by mail.\n",
    "shop/numbers.py": "def numbers():\n" + "".join(f"    yield cart_{number}\n" for number in range(200)),
    **{f"lib/{name}/__init__.py": f"def start_{name}():\n    pass\n\n\n{name} = 1\n" for name in map(str, range(30))},
}


def model(*, file_penalty: float = 0.0, **weights: float) -> RankingModel:
    """Return a model in which all weights are 0 except those that are given."""
    all_weights = dict.fromkeys(FEATURES, 0.0) | weights
    return RankingModel(weights={"sentence": all_weights, "name": all_weights}, file_penalty=file_penalty)


@pytest.fixture(scope="module")
def shop() -> Iterator[CodeIndex]:
    """Cosines are random and small, so that what the question says of names, places and words decides."""
    with CodeIndex(HashEmbedding(dim=512)) as index:
        index.update_texts(SHOP)
        yield index


def names(hits: list[NodeWithScore]) -> list[tuple[str, str]]:
    return [(hit.node.metadata["path"], hit.node.metadata["scope"]) for hit in hits]


def scored(hits: list[NodeWithScore]) -> list[tuple[str, float | None]]:
    return [(hit.node_id, hit.score) for hit in hits]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Cart.total", ("shop/cart.py", "Cart.total")),
        ("send_receipt", ("shop/mail.py", "send_receipt")),
        ("shop/mail.py:6", ("shop/mail.py", "connect")),
        (r"C:\work\shop\mail.py line 6", ("shop/mail.py", "connect")),
        ("bank/cart.py:5", ("bank/cart.py", "pay")),
        ("why does lib/29/__init__.py:2 fail", ("lib/29/__init__.py", "start_29")),
        (
            'Traceback (most recent call last):\n  File "/srv/shop/mail.py", line 5, in connect\nOSError: refused',
            ("shop/mail.py", "connect"),
        ),
    ],
)
def test_the_default_model_finds_names_and_places(question: str, expected: tuple[str, str], shop: CodeIndex) -> None:
    assert names(shop.search(question))[0] == expected


def test_nodes_at_a_place_are_candidates_even_if_no_search_finds_them(shop: CodeIndex) -> None:
    """Each search returns one hit: with the nodes of the three files of this name there are more."""
    question = "lib/29/__init__.py:2"
    hits = CodeRetriever(shop, candidates=1, top_k=1).retrieve(question)
    assert names(hits) == [("lib/29/__init__.py", "start_29")]
    only_tests = CodeRetriever(shop, candidates=1, top_k=1, filters=NodeFilter(paths=("tests/",))).retrieve(question)
    assert [path for path, _ in names(only_tests)] == ["tests/test_cart.py"]
    assert only_tests[0].score == 1  # the share of the only candidate


def test_a_model_ranks_by_its_weighted_features(shop: CodeIndex) -> None:
    question = "how is the total of a cart summed"
    chooser = model(word_rank=2.0, scope_cover=3.0, test=-1.0)
    vector = QueryVector(None, shop.embedding.get_query_embedding(question))
    with shop.view() as view:
        read = Question.of(question)
        found = Ranking().search(view, read, [vector], depth=200)
        candidates, features = candidate_features(view, read, found)
    sums = features @ chooser.vector("sentence")
    total = sum(math.exp(value) for value in sums)
    best: dict[tuple[int, int], tuple[float, str]] = {}
    for value, candidate in sorted(zip(sums, candidates, strict=True), key=lambda each: (-each[0], each[1].id)):
        best.setdefault(candidate.definition, (-value, candidate.id))
    expected = sorted(best.values())[:10]
    hits = CodeRetriever(shop, ranking_model=chooser).retrieve(question)
    assert [hit.node_id for hit in hits] == [id_ for _, id_ in expected]
    assert [hit.score for hit in hits] == pytest.approx([math.exp(-value) / total for value, _ in expected])


def test_a_weight_of_the_fusion_replaces_the_model(shop: CodeIndex) -> None:

    def found(**options: Any) -> list[tuple[str, float | None]]:
        filters = NodeFilter(not_paths=("shop/numbers.py",))  # a definition of several parts
        return scored(CodeRetriever(shop, top_k=100, filters=filters, **options).retrieve("total of the cart"))

    rankings = [[node_id for node_id, _ in found(mode=mode)] for mode in ("dense", "bm25")]
    fused = reciprocal_rank_fusion(rankings, weights=[0.75, 0.25], rank_constant=5)
    for option in ({"dense_weight": 0.75}, {"bm25_weight": 0.25}, {"rank_constant": 5}):
        assert found(**option) == fused
    assert found() != fused


def test_nodes_without_paths_and_symbols_are_fused_by_rank() -> None:
    texts = ["def read_file(path): pass", "def write_file(path): pass", "x = 1"]
    with CodeIndex(HashEmbedding()) as index:
        index.update_nodes([TextNode(id_=f"n{number}", text=text) for number, text in enumerate(texts)])
        by_weight = CodeRetriever(index, dense_weight=0.75).retrieve("read a file")
        assert scored(index.search("read a file")) == scored(by_weight)
        index.update_nodes([TextNode(id_="n3", text="y", metadata={"symbol": "read_file"})])
        assert index.search("read_file")[0].node_id == "n3"


def test_a_ranking_model_may_be_a_file(shop: CodeIndex, tmp_path: Path) -> None:
    chooser = model(symbol_words=1.0, documented=0.01)
    chooser.save(tmp_path / "ranking.json")
    expected = scored(CodeRetriever(shop, ranking_model=chooser).retrieve("total of the cart"))
    assert expected != scored(shop.search("total of the cart"))
    for file in (tmp_path / "ranking.json", str(tmp_path / "ranking.json")):
        assert scored(CodeRetriever(shop, ranking_model=file).retrieve("total of the cart")) == expected
    with pytest.raises(ValueError, match=r"none\.json cannot be read .*leave it out to use the default"):
        CodeRetriever(shop, ranking_model=tmp_path / "none.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dense_weight": 1.0, "ranking_model": model()},
            "dense_weight asks for reciprocal rank fusion, which ranking_",
        ),
        (
            {"bm25_weight": 1.0, "rank_constant": 5, "explain": True},
            "bm25_weight and rank_constant asks for reciprocal rank fusion, which explain has no part in",
        ),
        ({"mode": "dense", "ranking_model": model()}, "mode 'dense' does not use ranking_model; leave that out"),
        ({"mode": "bm25", "ranking_model": "ranking.json"}, "mode 'bm25' does not use ranking_model"),
        ({"mode": "dense", "explain": True}, "mode 'dense' does not use explain"),
        ({"mode": "bm25", "explain": True, "candidates": 9}, "mode 'bm25' does not use candidates and explain"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str, shop: CodeIndex) -> None:
    with pytest.raises(ValueError, match=message):
        CodeRetriever(shop, **options)


def test_a_ranking_by_one_score_takes_no_model() -> None:
    with pytest.raises(ValueError, match="mode 'bm25' uses no ranking model; leave it out, or use mode 'fused'"):
        Ranking(mode="bm25", model=default_model())


def test_reasons_say_by_how_much_a_feature_changes_the_score(shop: CodeIndex) -> None:
    """Without a penalty, the sums of the reasons of two hits differ as the logarithms of their scores."""
    question = "total of the cart"
    vector = QueryVector(None, shop.embedding.get_query_embedding(question))
    weights = default_model().weights
    with shop.view() as view:
        ranked = Ranking(model=RankingModel(weights=weights), explain=True).rank(view, question, [vector])
        plain = Ranking(model=RankingModel(weights=weights)).rank(view, question, [vector])
    assert plain == [hit._replace(reasons={}) for hit in ranked]
    sums = [sum(hit.reasons.values()) - math.log(hit.score) for hit in ranked]
    assert sums == pytest.approx([sums[0]] * len(ranked))
    assert len(ranked) == 10


def test_explained_hits_have_reasons_that_no_model_reads(shop: CodeIndex) -> None:
    plain = shop.search("Cart.total", top_k=5)
    hits = CodeRetriever(shop, top_k=5, explain=True).retrieve("Cart.total")
    assert scored(hits) == scored(plain)
    for hit, without in zip(hits, plain, strict=True):
        why = hit.node.metadata["why"]
        assert why.keys() <= set(FEATURES)
        assert list(why.values()) == sorted(why.values(), key=lambda value: -abs(value))
        assert min(map(abs, why.values())) >= 0.05
        assert "why" not in without.node.metadata
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert hit.node.get_content(mode) == without.node.get_content(mode)
    assert hits[0].node.metadata["why"]["qualified_name"] > 1


def test_async_agrees_and_fewer_hits_are_the_first_of_more(shop: CodeIndex) -> None:
    """With more than there is, every definition comes once."""
    for question in ("Cart.total", "how is the total summed", "shop/mail.py"):
        every = CodeRetriever(shop, top_k=1_000).retrieve(question)
        for top_k in (1, 3, 10):
            retriever = CodeRetriever(shop, top_k=top_k)
            hits = retriever.retrieve(question)
            assert scored(hits) == scored(every)[:top_k]
            assert scored(asyncio.run(retriever.aretrieve(question))) == scored(hits)
        assert set(names(every)) == {(node.metadata["path"], node.metadata["scope"]) for node in shop.nodes()}
        assert [path for path, _ in names(every)].count("shop/numbers.py") == 1
        assert sum(hit.get_score() for hit in every) <= 1 + 1e-9


ODD = {
    "nothing": "",
    "one letter": "x",
    "1 MB of one word": "x" * 1_000_000,
    "1 MB of many words": " ".join(f"w{number}" for number in range(150_000)),
    "many quoted texts": " ".join(f'"total {number}"' for number in range(2_000)),
    "many places": " ".join(f"shop/mail.py:{number}" for number in range(2_000)),
    "stop words": "to be or not to be, that is what it is",
    "punctuation": "?!... ---",
    "Chinese": "购物车的总价如何计算",
    "German": "Wie wird die Summe des Warenkorbs größer?",
    "regular expression": r"^(.*[a-z]+){1,}\d?$|(?P<x>total)\b([^)",
    "wildcards": "%_/mail%.py:1 \\%.py [!a]*.py",
    "NUL": "total\0of shop/ma\0il.py:3 \0",
    "lone surrogates": 'total \ud800 shop/\udfff.py:2 "the \udc80 cart"',
    "huge line": "shop/mail.py:99999999",
}


@pytest.mark.parametrize("question", ODD.values(), ids=ODD)
@pytest.mark.parametrize("mode", ["fused", "dense", "bm25"])
def test_odd_questions(mode: Any, question: str, shop: CodeIndex) -> None:
    hits = CodeRetriever(shop, mode=mode).retrieve(question)
    assert len(hits) == 10 if mode != "bm25" else len(hits) <= 10
    assert len({hit.node_id for hit in hits}) == len(hits)
    assert all(math.isfinite(hit.get_score()) for hit in hits)


def test_the_words_after_the_first_20_000_characters_are_not_searched(shop: CodeIndex) -> None:
    question = "total " * 4_000 + "send_receipt"
    assert scored(shop.search(question, mode="bm25")) == scored(shop.search(question[:20_000], mode="bm25"))


@pytest.mark.parametrize("question", ["Receipts", "how is a receipt sent", "a.txt:1", "x", ""])
def test_an_index_of_texts_alone(question: str) -> None:
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts({f"{name}.txt": f"{name}\n\nA receipt is sent by {name}.\n" for name in "abc"})
        hits = index.search(question)
        assert {path for path, _ in names(hits)} == {"a.txt", "b.txt", "c.txt"}
        if question == "a.txt:1":
            assert names(hits)[0][0] == "a.txt"


def test_nothing_is_found() -> None:
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts({"a.py": "def total():\n    return 1\n"})
        empty = CodeRetriever(index, filters=NodeFilter(paths=("b.py",)))
        for question in ("total", "a.py:1", 'the "return 1"'):
            assert empty.retrieve(question) == []
