"""On a CUDA device: the same vectors, scores and trainings as on a CPU. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CODES
from test_contrastive import PAIRS, fit, load_encoder
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.scoring import load_scorer, score_pairs
from llamaindex_code_retrieval.training.config import METHODS, AdapterConfig, Method, TrainConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

FOLDERS = ("bert_folder", "roberta_folder", "unixcoder_folder", "t5_folder", "codet5p_folder", "codesage_folder")


@pytest.mark.parametrize("fixture", FOLDERS)
def test_vectors_agree_with_those_of_a_cpu(fixture: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(fixture)
    on_cpu, on_gpu = (Encoder.from_pretrained(folder, device=device, precision="fp32") for device in ("cpu", "cuda"))
    assert on_gpu.fingerprint == on_cpu.fingerprint
    expected = on_cpu.encode_codes(CODES)
    np.testing.assert_allclose(on_gpu.encode_codes(CODES), expected, atol=1e-4)
    rounded = Encoder.from_pretrained(folder, device="cuda", precision="bf16").encode_codes(CODES)
    assert ((rounded * expected).sum(axis=1) > 0.99).all()


@pytest.mark.parametrize("kind", ["lora", "adalora", "ia3", "prompt"])
def test_adapters_agree_with_those_of_a_cpu(kind: str, bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    limits = {"max_query_tokens": 32, "max_code_tokens": 32}
    on_cpu, on_gpu = (
        Encoder.from_pretrained(bert_folder, adapter=adapter_folders[kind], device=device, precision="fp32", **limits)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(on_gpu.encode_codes(CODES), on_cpu.encode_codes(CODES), atol=1e-4)


def test_scores_agree_with_those_of_a_cpu(bert_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(bert_folder, num_labels=1)
    BertForSequenceClassification(config).eval().save_pretrained(tmp_path)
    BertTokenizerFast.from_pretrained(bert_folder).save_pretrained(tmp_path)
    scores = [
        score_pairs(
            load_scorer(str(tmp_path), encoder=None, device=device, precision="fp32"),
            "read a file",
            CODES,
            max_tokens=64,
        )
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-4)
    with pytest.raises(ValueError, match="int8"):
        load_scorer(str(tmp_path), encoder=None, device="cuda", precision="int8")


@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns(method: Method, bert_folder: Path) -> None:
    rates = {"lora": 0.02, "adalora": 0.05, "ia3": 0.05, "prompt": 0.2, "full": 1e-3}
    config = TrainConfig(epochs=6, batch_size=8, learning_rate=rates[method])
    encoder = Encoder.from_pretrained(
        bert_folder, device="cuda", precision="fp32", max_query_tokens=16, max_code_tokens=32
    )
    run = fit(encoder, config, AdapterConfig.preset(method))
    losses = [entry["loss"] for entry in run.history if "loss" in entry]
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    assert run.peak_bytes == torch.cuda.max_memory_allocated()
    assert run.model.encode_queries(["x"]).shape == (1, encoder.dim)


def test_a_training_agrees_with_that_of_a_cpu(bert_folder: Path) -> None:
    config = TrainConfig(epochs=0.5, batch_size=8, learning_rate=0.01, precision="fp32")
    runs = []
    for device in ("cpu", "cuda"):
        encoder = load_encoder(bert_folder) if device == "cpu" else load_encoder(bert_folder).to("cuda")
        runs.append(fit(encoder, config))
    losses = [[entry["loss"] for entry in run.history if "loss" in entry] for run in runs]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    assert len(losses[0]) == config.total_steps(len(PAIRS))
