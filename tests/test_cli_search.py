"""The command search."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import Shell
from llama_index.core.schema import TextNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeReranker
from llamaindex_code_retrieval.index import caches
from llamaindex_code_retrieval.index.folder import read_settings
from llamaindex_code_retrieval.index.storage import DATABASE, Storage
from llamaindex_code_retrieval.models.catalog import DEFAULT_RERANKER
from llamaindex_code_retrieval.models.locate import locate_reranker
from llamaindex_code_retrieval.ranking.features import FEATURES
from llamaindex_code_retrieval.ranking.model import RankingModel


@pytest.mark.usefixtures("embedded_model")
def test_index_and_search_with_the_embedded_model(shell: Shell, repository: Path) -> None:
    out = shell("index", repository)
    assert "3" in out
    assert "java 2, python 6" in out
    out = shell("search", "send an email to the customer", "--top-n", 2)
    first = out.splitlines()[0]
    assert "shop/src/mail.py:4" in first  # from here
    assert "send_receipt" in first
    assert "smtplib.SMTP" in out
    assert out.count(". shop/") == 2
    hits = shell("search", "sum of all prices in the cart", "--json", "--mode", "dense")
    assert hits[0]["scope"] == "Cart.total"
    assert hits[0]["rank"] == 1
    assert Path(hits[0]["file"]).read_text().splitlines()[hits[0]["start_line"] - 1] == "    def total(self):"
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_rerank(shell: Shell, indexed: Path, bert_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cross-encoder"
    BertForSequenceClassification(BertConfig.from_pretrained(bert_folder, num_labels=1)).save_pretrained(folder)
    BertTokenizerFast.from_pretrained(bert_folder).save_pretrained(folder)
    hits = shell("search", "total", "--index", indexed, "--rerank", folder, "--top-n", 3, "--json")
    assert len(hits) == 3
    assert all(0 < hit["score"] < 1 for hit in hits)
    weighted = ["--rerank-weight", 0.1, "--top-n", 1]
    assert len(shell("search", "total", "--index", indexed, "--rerank", *weighted, "--json")) == 1  # on another base
    shell("search", "total", "--index", indexed, "--rerank", "nowhere", code=2)
    assert "unknown reranker 'nowhere'" in shell.err
    shell("search", "total", "--index", indexed, "--rerank", "--early-exit", 0.5, code=2)
    assert "cannot stop at confidence 0.5: it was calibrated at 0.8, 0.9, 0.95, 0.99" in shell.err


def test_the_default_reranker_keeps_the_order_and_is_not_loaded(
    shell: Shell, indexed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search = ["search", "total", "--index", indexed, "--top-n", 2, "--json"]
    first_stage = shell(*search)
    copy = tmp_path / "copy"
    shutil.copytree(locate_reranker(DEFAULT_RERANKER), copy)
    (copy / "head.safetensors").write_bytes(b"damaged")  # read when the reranker is loaded
    for name in (DEFAULT_RERANKER, copy):
        caplog.clear()
        assert shell(*search, "--rerank", name, "--early-exit", 0.9) == first_stage
        [record] = caplog.records
        assert record.levelname == "WARNING"
        assert record.getMessage().startswith(f"{name} keeps the order of these hits: they are parts of files")
        assert record.getMessage().endswith("search --rerank-weight 0.1")
    shell.fails(*search, "--rerank", copy, "--rerank-weight", 0.1, says="head.safetensors")


@pytest.mark.usefixtures("embedded_model")
def test_the_default_reranker_ranks_nodes_without_a_path(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    index = CodeIndex(CodeEmbedding())
    codes = {"a": "def total(cart): return sum(cart)", "b": "def send(mail): smtp.send(mail)"}
    index.update_nodes([TextNode(id_=id_, text=code) for id_, code in codes.items()])
    index.save("idx")
    query = "sum of all prices"
    hits = shell("search", query, "--index", "idx", "--rerank", "--json")
    reranked = CodeReranker(embedding=index.embedding).postprocess_nodes(index.search(query), query_str=query)
    assert [(hit["text"], hit["score"]) for hit in hits] == [(hit.get_content(), hit.score) for hit in reranked]
    assert caplog.records == []


def test_nodes_of_another_parser_have_no_place(shell: Shell, bert_folder: Path) -> None:
    """An index that was made in Python, of nodes without path, line, scope, kind and language."""
    index = CodeIndex(CodeEmbedding(str(bert_folder)))
    index.update_nodes([TextNode(id_="first", text="def total(): pass")])
    index.save("idx")
    assert "first:1" in shell("search", "total", "--index", "idx")
    [hit] = shell("search", "total", "--index", "idx", "--json")
    assert (hit["file"], hit["text"]) == (None, "def total(): pass")


def test_lines_of_a_notebook_are_those_of_its_cell(shell: Shell, bert_folder: Path) -> None:
    """Not those of the file, where each line of a cell is a string of JSON."""
    code = "import math\n\n\ndef total(cart):\n    return math.fsum(cart)\n"
    cells = [new_markdown_cell("# Prices\n\nThe sums of carts."), new_code_cell(code)]
    Path("book.ipynb").write_text(nbformat.writes(new_notebook(cells=cells)))
    shell("index", ".", "--out", "idx", "--model", bert_folder)
    lines = shell("search", "total of a cart", "--mode", "bm25", "--top-n", 1, "--index", "idx").splitlines()
    assert lines[0].startswith(" 1. book.ipynb#cell 2:4 ")
    assert lines[1:] == ["❱ 4 def total(cart):", "❱ 5     return math.fsum(cart)"]


def test_no_hit_is_exit_code_1(shell: Shell, indexed: Path) -> None:
    assert shell("search", "zzzzzz", "--mode", "bm25", "--index", indexed, code=1) == ""
    assert shell.err == "code-retrieval: no hit\n"


def test_index_of_a_changed_model(shell: Shell, repository: Path, bert_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(bert_folder, model)
    shell("index", repository, "--out", "idx", "--model", model)
    old = read_settings("idx")["fingerprint"]
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"layer_norm_eps": 0.1}))
    shell.fails("search", "x", "--index", "idx", says=f"fingerprint {old}, but this model has fingerprint")
    assert f"rebuild it with: code-retrieval index {repository}" in shell.err
    shutil.rmtree(model)
    shell.fails("search", "x", "--index", "idx", says=f"folder {model} does not exist")


def test_damaged_index(shell: Shell, indexed: Path) -> None:
    (indexed / DATABASE).write_bytes((indexed / DATABASE).read_bytes()[:10_000])
    for command in (["search", "x"], ["search", "x", "--mode", "bm25"], ["update"], ["info"]):
        shell.fails(*command, "--index", indexed, says=f"the index in {indexed} is damaged")
        assert "remove the folder and build the index again with `code-retrieval index`" in shell.err


def test_an_index_without_a_setting(shell: Shell, indexed: Path) -> None:
    connection = sqlite3.connect(indexed / DATABASE)
    connection.execute("DELETE FROM settings WHERE name = 'parser'")
    connection.commit()
    connection.close()
    for command in (["search", "x"], ["update"], ["info"]):
        shell.fails(*command, "--index", indexed, says="is damaged (it lacks the setting 'parser'); remove the folder")


def test_no_faiss_installed(shell: Shell, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is needed as soon as there is a file of vectors."""
    monkeypatch.setattr(caches, "_FEW_VECTORS", 0)
    shell("update", "--index", indexed)
    monkeypatch.setitem(sys.modules, "faiss", None)
    shell.fails("search", "x", "--index", indexed, says="pip install faiss-cpu")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--top-n", "0"], "argument --top-n: must be at least 1, got 0"),
        (["--lines", "x"], "argument --lines: must be a whole number of at least 1, got 'x'"),
        (["--mode", "sparse"], "invalid choice: 'sparse'"),
        (["--candidates", "20"], "--candidates has no effect without --rerank"),
        (["--early-exit", "0.9"], "--early-exit has no effect without --rerank"),
        (["--rerank-precision", "auto"], "--rerank-precision has no effect without --rerank"),
        (["--early-exit", "0.9", "--candidates", "9"], "--candidates and --early-exit have no effect without --rerank"),
        (["--rerank-weight", "0.1"], "--rerank-weight has no effect without --rerank"),
        (["--rerank", "--rerank-weight", "0"], "--rerank-weight must be a number over 0, got 0.0; try 0.1"),
        (["--rerank", "--rerank-weight", "nan"], "--rerank-weight must be a number over 0, got nan"),
        (
            ["--rerank", "--rerank-weight", "1", "--early-exit", "0.9"],
            "--early-exit has no effect with --rerank-weight",
        ),
        (["--rerank", "--candidates", "5"], "--candidates 5 is less than --top-n 10"),
        (["--fast-query", "--mode", "bm25"], "--fast-query has no effect with --mode bm25"),
        (["--device", "cpu", "--mode", "bm25"], "--device has no effect with --mode bm25"),
        (["--json", "--lines", "3"], "--lines has no effect with --json"),
    ],
)
def test_wrong_arguments_are_refused_before_the_index_is_looked_for(
    shell: Shell, arguments: list[str], says: str
) -> None:
    shell.fails("search", "x", *arguments, says=says)


@pytest.mark.parametrize("option", ["--rerank", "--fast-query"])
def test_a_question_taken_for_the_value_of_an_option(shell: Shell, option: str) -> None:
    shell.fails(
        "search", option, "where is a file read?", says=f"'where is a file read?' was read as the value of {option}"
    )
    shell.fails("search", option, says="the question is missing; say in words")


def test_wrong_names_are_refused_before_a_model_is_loaded(shell: Shell, indexed: Path, tmp_path: Path) -> None:
    """The index's model is gone, so that loading it would be the error."""
    storage = Storage(indexed)
    with storage.writing() as writing:
        embedding = writing.settings("embedding")["embedding"]
        writing.put_settings({"embedding": embedding | {"model_name": str(tmp_path / "gone")}})
    storage.close()
    search = ["search", "x", "--index", indexed]
    shell.fails(*search, says="gone does not exist")
    assert "total" in shell("search", "total", "--index", indexed, "--mode", "bm25")  # needs no model
    shell.fails("search", "  ", "--index", indexed, says="the question is empty")
    shell.fails(*search, "--rerank", "nowhere", says="'nowhere'")
    shell.fails(*search, "--rerank", tmp_path, says="holds neither reranker.json nor config.json")
    shell.fails(*search, "--rerank", "./nowhere", says="folder ./nowhere does not exist")
    shell.fails(
        *search, "--rerank", "--early-exit", 0.5, says="cannot stop at confidence 0.5: it was calibrated at 0.8"
    )
    shell.fails(*search, "--fast-query", "nowhere", says="'nowhere'")
    shell.fails(*search, "--fast-query", tmp_path, says="holds no query_encoder.json")
    shell.fails(*search, "--fast-query", says="no query encoder comes with the package for the fingerprint")
    shell.fails(*search, "--fast-query", "embedded-general-static", says="was distilled from 'embedded'")


def test_no_index(shell: Shell) -> None:
    shell.fails("search", "x", says="there is no index in .code-retrieval; build one with: code-retrieval index PATH")
    assert not Path(".code-retrieval").exists()


def place_of(hits: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(hit["path"], hit["scope"]) for hit in hits]


def test_the_index_is_found_from_a_subfolder(
    shell: Shell, repository: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("index", repository, "--out", repository / ".code-retrieval", "--model", bert_folder)
    monkeypatch.chdir(repository / "src")
    hits = shell("search", "total", "--mode", "bm25", "--json")
    assert place_of(hits) == [("src/cart.py", "Cart.total")]
    assert hits[0]["file"] == str(repository / "src" / "cart.py")
    assert shell("search", "total", "--mode", "bm25").startswith(" 1. cart.py:10 ")
    (repository / "docs").mkdir()
    monkeypatch.chdir(repository / "docs")
    assert shell("search", "total", "--mode", "bm25").startswith(" 1. ../src/cart.py:10 ")
    monkeypatch.chdir(repository / "src")
    (repository / "src" / "cart.py").unlink()
    assert shell("update", "--json")["files"] == 2
    assert shell("info", "--json")["files"] == 2
    assert not (repository / "src" / ".code-retrieval").exists()


def test_an_index_may_be_moved_with_its_folder(shell: Shell, repository: Path, bert_folder: Path) -> None:
    shell("index", repository, "--out", repository / ".code-retrieval", "--model", bert_folder)
    moved = repository.rename(repository.with_name("moved"))
    index = moved / ".code-retrieval"
    [hit] = shell("search", "total", "--mode", "bm25", "--json", "--index", index)
    assert shell.err == ""  # no file has changed
    assert hit["file"] == str(moved / "src" / "cart.py")
    (moved / "src" / "mail.py").unlink()
    report = shell("update", "--index", index, "--json")
    assert (report["files"], report["embedded"]) == (2, 0)


@pytest.mark.parametrize("mode", ["dense", "bm25", "fused"])
@pytest.mark.parametrize(
    ("options", "paths"),
    [
        (["--path", "src/**"], {"src/cart.py", "src/mail.py"}),
        (["--path", "src/**", "--not-path", "mail.*"], {"src/cart.py"}),
        (["--language", "java", "--language", "go"], {"Tax.java"}),
        (["--kind", "function"], {"src/mail.py", "tests/test_cart.py"}),
        (["--tests"], {"tests/test_cart.py"}),
        (["--no-tests", "--language", "python"], {"src/cart.py", "src/mail.py"}),
        (["--since", "2d", "--no-tests"], {"Tax.java", "src/mail.py"}),
    ],
)
def test_filters(mode: str, options: list[str], paths: set[str], shell: Shell, filtered: Path) -> None:
    words = "cart mail tax items price total"  # each file has one of them
    hits = shell("search", words, "--index", filtered, "--mode", mode, "--top-n", 50, *options, "--json")
    assert {hit["path"] for hit in hits} == paths


@pytest.fixture
def filtered(shell: Shell, repository: Path, bert_folder: Path) -> Path:
    """An index in which a file is a test, and one, with the test, is old."""
    (repository / "tests").mkdir()
    (repository / "tests" / "test_cart.py").write_text("def test_total():\n    assert Cart().total() == 0\n")
    for name in ("tests/test_cart.py", "src/cart.py"):
        os.utime(repository / name, (1_000_000_000, 1_000_000_000))
    shell("index", repository, "--out", "idx", "--model", bert_folder)
    return Path("idx")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--kind", "klass"], "--kind: unknown kind 'klass'; known are"),
        (["--since", "lately"], "--since: a time is a date, an ISO 8601 time or an age in m, h, d or w"),
        (["--path", "[a"], "--path: the glob '[a' matches nothing"),
        (["--not-path", ""], "--not-path: the glob '' matches nothing"),
        (["--language", "cobol"], "unknown language 'cobol'; the index has java, python; known are"),
    ],
)
@pytest.mark.parametrize("mode", ["fused", "bm25"])
def test_wrong_filters(mode: str, options: list[str], says: str, shell: Shell, indexed: Path) -> None:
    shell.fails("search", "x", "--index", indexed, "--mode", mode, *options, says=says)


def test_changed_files_are_read_before_a_search_with_a_model(shell: Shell, indexed: Path, repository: Path) -> None:
    search = ["search", "brand new thing", "--index", indexed, "--top-n", 1, "--json"]
    (repository / "new.py").write_text("def brand_new_thing():\n    return 1\n")
    assert place_of(shell(*search, "--no-refresh")) != [("new.py", "brand_new_thing")]
    assert shell.err == ""
    assert place_of(shell(*search)) == [("new.py", "brand_new_thing")]
    assert "changed" not in shell.err
    (repository / "new.py").unlink()
    assert shell(*search, "--mode", "bm25", "--refresh", code=1) == []


def test_a_search_says_how_many_files_have_changed(shell: Shell, indexed: Path, repository: Path) -> None:
    """By words no model is loaded; with one, more files than are embedded in a moment."""
    for number in range(21):
        (repository / f"new{number}.py").write_text(f"def brand_new_thing_{number}():\n    return {number}\n")
        if number == 0:
            shell("search", "total", "--mode", "bm25", "--index", indexed)
            assert shell.err == (
                "code-retrieval: 1 file has changed since the last update; bring the index up to date with: "
                f"code-retrieval update --index {indexed}\n"
            )
    before = read_settings(indexed)
    for options in (["--mode", "bm25"], []):
        shell("search", "total", "--index", indexed, *options)
        assert "21 files have changed since the last update; bring the index up to date with:" in shell.err
        shell("search", "total", "--index", indexed, *options, "--no-refresh")
        assert "changed" not in shell.err
    assert read_settings(indexed) == before
    assert len(shell("search", "brand new", "--index", indexed, "--refresh", "--path", "new*", "--json")) == 10


@pytest.mark.usefixtures("embedded_model")
def test_a_fast_query_says_how_many_files_have_changed(shell: Shell, repository: Path) -> None:
    shell("index", repository)
    (repository / "src" / "mail.py").unlink()
    search = ["search", "send an email to the customer", "--fast-query", "--top-n", 1, "--json"]
    assert place_of(shell(*search)) == [("src/mail.py", "send_receipt")]
    assert "1 file has changed since the last update" in shell.err
    assert place_of(shell(*search, "--no-refresh")) == [("src/mail.py", "send_receipt")]
    assert shell.err == ""
    assert place_of(shell(*search, "--refresh")) != [("src/mail.py", "send_receipt")]


def test_a_search_needs_no_write_access_and_no_sources(shell: Shell, indexed: Path, repository: Path) -> None:
    expected = shell("search", "total", "--index", indexed, "--json")
    shutil.rmtree(repository)
    assert shell("search", "total", "--index", indexed, "--json") == expected
    assert shell("search", "total", "--index", indexed, "--mode", "bm25", "--json")


# --- the ranking -----------------------------------------------------------------------------------------------------


def save_ranking(file: str, **weights: float) -> None:
    """Write a ranking file in which all weights are 0 except those that are given."""
    all_weights = dict.fromkeys(FEATURES, 0.0) | weights
    RankingModel(weights={"sentence": all_weights, "name": all_weights}).save(file)


@pytest.mark.usefixtures("embedded_model")
@pytest.mark.parametrize("fast", [[], ["--fast-query"]])
def test_a_ranking_file_orders_the_hits(fast: list[str], shell: Shell, repository: Path) -> None:
    shell("index", repository)
    search = ["search", "send an email to the customer", *fast, "--top-n", 3, "--json"]
    assert place_of(shell(*search))[0] == ("src/mail.py", "send_receipt")
    save_ranking("own.json", **{"class": 5.0, "documented": 1.0})
    hits = shell(*search, "--ranking", "own.json")
    assert place_of(hits)[0] == ("src/cart.py", "Cart")
    assert {hit["kind"] for hit in hits[:2]} == {"class"}
    assert "why" not in hits[0]


@pytest.mark.usefixtures("embedded_model")
@pytest.mark.parametrize("fast", [[], ["--fast-query"]])
def test_explained_hits_say_what_raises_and_lowers_them(fast: list[str], shell: Shell, repository: Path) -> None:
    shell("index", repository)
    save_ranking("own.json", symbol=2.0, documented=-0.5, qualified_name=1.0)
    search = ["search", "Cart.total", *fast, "--ranking", "own.json"]
    plain = shell(*search, "--json")
    explained = shell(*search, "--explain", "--json")
    assert [{**hit, "why": None} for hit in explained] == [{**hit, "why": None} for hit in plain]
    assert place_of(explained)[0] == ("src/cart.py", "Cart.total")
    assert {name for hit in explained for name in hit["why"]} == {"symbol", "documented", "qualified_name"}
    why = explained[0]["why"]
    others = len(explained) - 1
    assert why["symbol"] == pytest.approx(2 * others / len(explained), abs=0.01)
    assert why["qualified_name"] == pytest.approx(others / len(explained), abs=0.01)
    first = shell(*search, "--explain", "--top-n", 1).splitlines()[0]
    assert f"symbol +{why['symbol']:.2f}  qualified_name +{why['qualified_name']:.2f}" in first
    assert "symbol" not in shell(*search, "--top-n", 1).splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ranking", "none.json"], "ranking file none.json cannot be read"),
        (["--ranking", "wrong.json"], "make one with code-retrieval train-ranking, or leave it out to use the default"),
        (["--ranking", "own.json", "--mode", "bm25"], "--ranking has no effect with --mode bm25, which ranks by one"),
        (["--explain", "--mode", "dense"], "--explain has no effect with --mode dense, which ranks by one score"),
        (["--ranking", "own.json", "--explain", "--mode", "dense"], "--ranking and --explain have no effect with"),
    ],
)
def test_rankings_without_effect_and_wrong_files(arguments: list[str], says: str, shell: Shell) -> None:
    """They are refused before the index is looked for."""
    save_ranking("own.json")
    Path("wrong.json").write_text('{"format": 0, "weights": {}, "file_penalty": 0}')
    shell.fails("search", "x", *arguments, says=says)
