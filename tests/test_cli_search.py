"""The command search."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import Shell
from llama_index.core.schema import TextNode
from llamaindex_code_retrieval.index.manifest import read_manifest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex


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
    default = shell("search", "total", "--index", indexed, "--rerank", "--top-n", 1, "--early-exit", 0.9, "--json")
    assert len(default) == 1  # on a base of its own: the index has another one
    shell("search", "total", "--index", indexed, "--rerank", "nowhere", code=2)
    assert "unknown reranker 'nowhere'" in shell.err
    shell("search", "total", "--index", indexed, "--rerank", "--early-exit", 0.5, code=2)
    assert "cannot stop at confidence 0.5: it was calibrated at 0.8, 0.9, 0.95, 0.99" in shell.err


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
    old = read_manifest("idx")["fingerprint"]
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"layer_norm_eps": 0.1}))
    shell.fails("search", "x", "--index", "idx", says=f"fingerprint {old}, but this model has fingerprint")
    assert f"rebuild it with: code-retrieval index {repository}" in shell.err
    shutil.rmtree(model)
    shell.fails("search", "x", "--index", "idx", says=f"folder {model} does not exist")


def test_damaged_index(shell: Shell, indexed: Path) -> None:
    [file] = indexed.rglob("nodes.jsonl")
    file.write_bytes(file.read_bytes()[:100])
    shell.fails("search", "x", "--index", indexed, says="damaged or half copied")
    shell.fails("update", "--index", indexed, says="rebuild it with: code-retrieval index")


def test_no_faiss_installed(shell: Shell, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    manifest = read_manifest(indexed)
    manifest["embedding"]["model_name"] = str(tmp_path / "gone")
    (indexed / "manifest.json").write_text(json.dumps(manifest))
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
