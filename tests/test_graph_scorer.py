"""Rerankers as OpenVINO graphs: the log-odds of torch, without torch; rerankers that torch has to compute."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import CODES
from test_cross_encoder import made_cross_encoder, save_cross_encoder
from test_reranker import save_checkpoint
from transformers import (
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from llamaindex_code_retrieval import CodeEmbedding, CodeReranker, Encoder
from llamaindex_code_retrieval._io import default_cache_folder
from llamaindex_code_retrieval.models.catalog import Runtime
from llamaindex_code_retrieval.models.checkpoint_scorer import CheckpointScorer
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.graph_scorer import GraphScorer
from llamaindex_code_retrieval.models.reranker_config import Head, Variant
from llamaindex_code_retrieval.models.reranker_graph import MAX_DIFFERENCE, largest_difference
from llamaindex_code_retrieval.training.config import Method

QUERY = "read a file line by line"
TEXTS = [*CODES, "for line in open(path):\n    print(line)", "def add(a, b):\n    return a + b"]


def load(folder: Path | str, runtime: Runtime, *, embedding: CodeEmbedding | None = None) -> CodeReranker:
    return CodeReranker(folder, runtime=runtime, precision="fp32", embedding=embedding)


def assert_equal_log_odds(graph: CodeReranker, reference: CodeReranker, texts: Sequence[str] = TEXTS) -> None:
    assert isinstance(graph._scorer, GraphScorer)
    assert isinstance(reference._scorer, CrossEncoder | CheckpointScorer)
    expected = reference.log_odds(QUERY, texts)
    assert graph.log_odds(QUERY, texts) == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.005  # otherwise the line above says little
    assert graph.fingerprint == reference.fingerprint
    assert (graph.max_tokens, graph.calibration) == (reference.max_tokens, reference.calibration)


@pytest.mark.parametrize("base", ["bert_folder", "roberta_folder", "unixcoder_folder", "t5_folder", "codesage_folder"])
@pytest.mark.parametrize("head", ["interaction", "mlp"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_graph_has_the_log_odds_and_the_fingerprint_of_torch(
    base: str, head: Head, method: Method, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    encoder = Encoder.from_pretrained(request.getfixturevalue(base), precision="fp32")
    model = made_cross_encoder(encoder, method=method, head=head)
    folder = save_cross_encoder(model, tmp_path / "unixcoder" if "unixcoder" in base else tmp_path / "out")
    assert_equal_log_odds(load(folder, "openvino"), load(folder, "torch"))


@pytest.mark.parametrize("variant", ["adapters", "shared"])
def test_a_graph_on_the_base_of_an_embedding(variant: Variant, bert_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(bert_folder, precision="fp32")
    model = made_cross_encoder(encoder, method="lora" if variant == "adapters" else "full")
    model.variant = variant
    folder = save_cross_encoder(model, tmp_path / "out")
    base = str(bert_folder if variant == "adapters" else folder)
    by_graph, by_torch = (
        CodeEmbedding(base, runtime=runtime, precision="fp32", max_code_tokens=40) for runtime in ("openvino", "torch")
    )
    graph = load(folder, "auto", embedding=by_graph)
    assert_equal_log_odds(graph, load(folder, "auto", embedding=by_torch))
    assert_equal_log_odds(graph, load(folder, "torch", embedding=by_graph))
    with pytest.raises(ValueError, match="cannot use the weights of an embedding that torch computes; leave runtime"):
        load(folder, "openvino", embedding=by_torch)
    with pytest.raises(ValueError, match="the embedding computes in fp32, so a reranker on its base cannot in bf16"):
        CodeReranker(folder, embedding=by_graph, precision="bf16")
    with pytest.raises(ValueError, match="the embedding is on cpu, so a reranker on its base cannot be on 'meta'"):
        CodeReranker(folder, embedding=by_graph, device="meta")


def test_a_graph_on_another_base_is_refused(bert_folder: Path, roberta_folder: Path, tmp_path: Path) -> None:
    folder = save_cross_encoder(
        made_cross_encoder(Encoder.from_pretrained(bert_folder, precision="fp32")), tmp_path / "out"
    )
    with pytest.raises(ValueError, match=r"was trained on the base .* but this base, .* leave the embedding out"):
        CodeReranker(folder, embedding=CodeEmbedding(str(roberta_folder), runtime="openvino"))
    settings = json.loads((folder / "reranker.json").read_text())
    settings["base"]["fingerprint"] = "0" * 16
    (folder / "reranker.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="that base has changed: train the reranker again"):
        CodeReranker(folder, runtime="openvino")


def test_the_graph_of_the_shipped_reranker_equals_torch() -> None:
    """It is loaded without a comparison, because this test makes it."""
    texts = [*TEXTS, *(file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.glob("test_g*.py")))]
    assert_equal_log_odds(load("embedded-reranker", "openvino"), load("embedded-reranker", "torch"), texts)
    on_it = load("embedded-reranker", "auto", embedding=CodeEmbedding(precision="fp32"))
    assert_equal_log_odds(on_it, load("embedded-reranker", "torch"), texts)


def test_the_shipped_reranker_scores_without_torch_and_transformers() -> None:
    code = (
        "import sys; from llamaindex_code_retrieval import CodeEmbedding, CodeReranker\n"
        "for reranker in (CodeReranker(), CodeReranker(embedding=CodeEmbedding())):\n"
        "    assert len(reranker.score('read a file', ['x', 'y'])) == 2\n"
        "print({'torch', 'transformers', 'peft'} & sys.modules.keys())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_checkpoint_has_the_log_odds_and_the_fingerprint_of_torch(kind: str, labels: int, tmp_path: Path) -> None:
    if kind == "bert":
        folder = save_checkpoint(tmp_path, labels=labels, cls=BertForSequenceClassification)
    else:
        folder = save_checkpoint(tmp_path, labels=labels, cls=RobertaForSequenceClassification, config=RobertaConfig)
    graph, reference = load(folder, "openvino"), load(folder, "torch")
    assert_equal_log_odds(graph, reference)
    assert graph._scorer.room(10**9) == reference._scorer.room(10**9)


def test_log_odds_depend_neither_on_the_batch_nor_on_the_budget(bert_folder: Path, tmp_path: Path) -> None:
    model = made_cross_encoder(Encoder.from_pretrained(bert_folder, precision="fp32"))
    reranker = load(save_cross_encoder(model, tmp_path / "out"), "openvino")
    alone = [value for text in TEXTS for value in reranker.log_odds(QUERY, [text])]
    for budget in (1, 70, 4096):
        reranker.token_budget = budget
        assert reranker.log_odds(QUERY, TEXTS) == pytest.approx(alone, abs=1e-5)
    first, *_, last = reranker.log_odds(QUERY, ["x", *TEXTS, "x"])
    assert first == last


def test_threads_and_tasks_get_what_one_gets_alone(bert_folder: Path, tmp_path: Path) -> None:
    model = made_cross_encoder(Encoder.from_pretrained(bert_folder, precision="fp32"))
    reranker = load(save_cross_encoder(model, tmp_path / "out"), "openvino")
    queries = ["read the file", "sum", "x", "add two numbers"] * 3
    expected = [reranker.log_odds(query, TEXTS) for query in queries]

    async def score_all() -> list[list[float]]:
        return await asyncio.gather(*(asyncio.to_thread(reranker.log_odds, query, TEXTS) for query in queries))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda query: reranker.log_odds(query, TEXTS), queries)) == expected
    assert asyncio.run(score_all()) == expected


def test_torch_scores_what_a_graph_cannot_express(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, cls=DistilBertForSequenceClassification, config=DistilBertConfig)
    assert isinstance(CodeReranker(folder)._scorer, CheckpointScorer)
    with pytest.raises(ValueError, match="cannot express a checkpoint of the type 'distilbert'; leave runtime out"):
        CodeReranker(folder, runtime="openvino")


def test_a_graph_is_compared_once_and_refused_if_it_differs(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE_RETRIEVAL_CACHE", str(tmp_path / "cache"))
    model = made_cross_encoder(Encoder.from_pretrained(bert_folder, precision="fp32"))
    folder = save_cross_encoder(model, tmp_path / "out")
    assert isinstance(CodeReranker(folder)._scorer, GraphScorer)
    (record,) = (default_cache_folder() / "graphs").iterdir()
    assert 0 <= json.loads(record.read_text())["difference"] <= MAX_DIFFERENCE
    record.write_text('{"difference": 0.5}')  # as if the graph differed
    assert isinstance(CodeReranker(folder)._scorer, CrossEncoder)
    with pytest.raises(ValueError, match=r"whose graph differs \(log-odds by 0.5, at most 0.001\)"):
        CodeReranker(folder, runtime="openvino")


def test_models_that_score_differently_are_not_alike(bert_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(bert_folder, precision="fp32")
    one, other = (
        load(save_cross_encoder(made_cross_encoder(encoder, head=head), tmp_path / head), runtime)._scorer
        for head, runtime in (("interaction", "openvino"), ("mlp", "torch"))
    )
    assert largest_difference(one, one) == 0
    assert largest_difference(one, other) > 0.1
    shorter = save_checkpoint(tmp_path / "shorter", positions=32)
    assert largest_difference(one, load(shorter, "torch")._scorer) == float("inf")


def test_int8_is_torchs(bert_folder: Path, tmp_path: Path) -> None:
    model = made_cross_encoder(Encoder.from_pretrained(bert_folder, precision="fp32"))
    folder = save_cross_encoder(model, tmp_path / "out")
    embedding = CodeEmbedding(str(bert_folder), runtime="openvino", precision="fp32")
    eight = CodeReranker(folder, precision="int8", embedding=embedding)
    assert isinstance(eight._scorer, CrossEncoder)
    assert eight.log_odds(QUERY, TEXTS) == pytest.approx(load(folder, "torch").log_odds(QUERY, TEXTS), abs=2)
    with pytest.raises(ValueError, match="runtime 'openvino' cannot use int8; leave runtime out, and torch serves"):
        CodeReranker(folder, precision="int8", runtime="openvino")


def test_wrong_runtimes_are_refused_and_the_runtime_stays_on_its_machine(bert_folder: Path, tmp_path: Path) -> None:
    model = made_cross_encoder(Encoder.from_pretrained(bert_folder, precision="fp32"))
    folder = save_cross_encoder(model, tmp_path / "out")
    with pytest.raises(ValueError, match=r"runtime must be .*openvino.*, got '?onnx"):
        CodeReranker(folder, runtime="onnx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="runtime 'openvino' cannot use the device 'cpu:0'"):
        CodeReranker(folder, runtime="openvino", device="cpu:0")
    reranker = CodeReranker(folder, runtime="torch")
    assert "runtime" not in reranker.to_dict()
    make, arguments = reranker.__reduce__()
    assert make(*arguments).runtime == "torch"


def test_damaged_files_are_refused_by_name(bert_folder: Path, tmp_path: Path) -> None:
    model = made_cross_encoder(Encoder.from_pretrained(bert_folder, precision="fp32"))
    with torch.no_grad():
        model.head.out.bias.fill_(torch.nan)
    folder = save_cross_encoder(model, tmp_path / "out")
    with pytest.raises(ValueError, match=r"head.safetensors hold NaN or infinite values in 1 tensors: out.bias; train"):
        CodeReranker(folder, runtime="openvino")
    (folder / "head.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"head.safetensors cannot be read .* train the reranker again"):
        CodeReranker(folder, runtime="openvino")
