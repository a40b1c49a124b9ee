"""Encoders as OpenVINO graphs: the vectors of torch, without torch; models that a graph cannot express."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CODES, fork, write_adapter
from graphs import graph_of, torch_of
from numpy.typing import NDArray
from peft import LoraConfig, TaskType
from transformers import AutoModel

from llamaindex_code_retrieval import CodeEmbedding
from llamaindex_code_retrieval._io import default_cache_folder
from llamaindex_code_retrieval.models.catalog import DEFAULT_ADAPTERS, EMBEDDED
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.graph_encoder import GraphEncoder, padded
from llamaindex_code_retrieval.models.runtime import MIN_COSINE, compare
from llamaindex_code_retrieval.models.shared import SharedBase
from llamaindex_code_retrieval.models.text_encoder import TextEncoder


@pytest.mark.parametrize("adapter", ["none", DEFAULT_ADAPTERS[EMBEDDED]])
def test_graphs_of_the_models_of_this_package_equal_torch(adapter: str) -> None:
    """They are loaded without a comparison, because this test makes it."""
    graph, reference = graph_of("embedded", adapter), torch_of("embedded", adapter)
    texts = [*CODES, *(file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.glob("test_g*.py")))]
    assert graph.tokenize(texts, side="code", truncate=False) == reference.tokenize(texts, side="code", truncate=False)
    np.testing.assert_allclose(graph.encode_codes(texts), reference.encode_codes(texts), atol=1e-4)
    assert compare(graph, reference) > 0.99999


def test_a_vector_depends_neither_on_the_batch_nor_on_the_budget(bert_folder: Path) -> None:
    graph = graph_of(bert_folder)
    alone = np.concatenate([graph.encode_codes([code]) for code in CODES])
    for budget in (1, 70, 4096):
        together = graph.encode(CODES * 3, side="code", token_budget=budget)
        np.testing.assert_allclose(together, np.tile(alone, (3, 1)), atol=1e-5)


def test_rows_are_padded_to_a_common_multiple_of_eight() -> None:
    batch = padded([[5, 6, 7], [8] * 9])
    assert batch["ids"].shape == (2, 16)
    assert batch["ids"][0].tolist() == [5, 6, 7] + [0] * 13
    assert batch["lengths"].tolist() == [3, 9]


def test_threads_get_the_same_vectors(bert_folder: Path) -> None:
    graph = graph_of(bert_folder)
    expected = graph.encode_codes(CODES)
    found: list[NDArray[np.float32]] = []
    threads = [threading.Thread(target=lambda: found.append(graph.encode_codes(CODES))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(np.array_equal(vectors, expected) for vectors in found)


def test_a_forked_process_is_told_what_it_lacks_and_gets_torch(bert_folder: Path) -> None:
    graph = graph_of(bert_folder)

    def check() -> None:
        with pytest.raises(RuntimeError, match="forked from one that embeds with OpenVINO"):
            graph.encode_codes(["x"])
        assert isinstance(CodeEmbedding(str(bert_folder), max_code_tokens=45).encoder, Encoder)

    assert os.waitstatus_to_exitcode(os.waitpid(fork(check), 0)[1]) == 0


def test_the_default_model_embeds_without_torch_and_transformers() -> None:
    code = (
        "import sys; from llamaindex_code_retrieval import CodeEmbedding\n"
        "assert len(CodeEmbedding().get_query_embedding('read a file')) == 384\n"
        "print({'torch', 'transformers', 'peft'} & sys.modules.keys())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("activation", "adapter", "named"),
    [
        ("silu", None, "the activation 'silu'"),
        ("gelu", {"use_dora": True}, "an adapter with use_dora=True"),
        ("gelu", {}, "an adapter that is not merged"),
    ],
)
def test_torch_serves_what_a_graph_cannot_express_and_says_so_once(
    activation: str,
    adapter: dict[str, bool] | None,
    named: str,
    bert_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": activation}))
    settings: dict[str, Any] = {"merge_adapter": adapter != {}}
    if adapter is not None:
        lora = LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, target_modules=["query"], **adapter)
        settings["adapter"] = write_adapter(AutoModel.from_pretrained(folder), lora, tmp_path / "adapter")
    with pytest.raises(ValueError, match=f"runtime 'openvino' cannot express {named}; leave runtime out"):
        CodeEmbedding(folder, runtime="openvino", **settings)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        assert isinstance(CodeEmbedding(folder, **settings).encoder, Encoder)
    assert sum(named in message for message in caplog.messages) == 1


def test_a_graph_is_compared_once_and_refused_if_it_differs(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE_RETRIEVAL_CACHE", str(tmp_path))
    options = {"max_code_tokens": 44, "max_query_tokens": 44}  # an encoder that no other test shares

    def encoder() -> TextEncoder:
        return CodeEmbedding(str(bert_folder), **options).encoder  # type: ignore[arg-type]

    assert isinstance(encoder(), GraphEncoder)
    (record,) = (default_cache_folder() / "graphs").iterdir()
    assert json.loads(record.read_text())["cosine"] >= MIN_COSINE
    record.write_text('{"cosine": 0.5}')  # as if the graph differed
    assert isinstance(encoder(), Encoder)
    with pytest.raises(ValueError, match=r"whose graph differs \(cosine 0.50000, at least 0.9999\)"):
        CodeEmbedding(str(bert_folder), runtime="openvino", **options)  # type: ignore[arg-type]
    record.write_text("not JSON")
    assert isinstance(encoder(), GraphEncoder)
    assert json.loads(record.read_text())["cosine"] >= MIN_COSINE


def test_a_cache_folder_that_cannot_be_written_is_named(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CODE_RETRIEVAL_CACHE", str(tmp_path / "file"))
    embedding = CodeEmbedding(str(bert_folder), max_code_tokens=43)
    assert isinstance(embedding.encoder, GraphEncoder)
    assert "set CODE_RETRIEVAL_CACHE to a folder that can be written" in caplog.text


def test_encoders_that_read_other_tokens_are_not_alike(bert_folder: Path) -> None:
    graph, reference = graph_of(bert_folder), torch_of(bert_folder)
    assert compare(graph, reference) > MIN_COSINE
    shorter = SharedBase(str(bert_folder), max_code_tokens=8, precision="fp32", runtime="torch")
    assert compare(graph, shorter.torch_encoder("none", merge=True)) == 0


def test_wrong_runtimes_are_refused(bert_folder: Path) -> None:
    with pytest.raises(ValueError, match="runtime must be one of auto, openvino, torch, got 'onnx'"):
        CodeEmbedding(str(bert_folder), runtime="onnx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="runtime 'openvino' cannot use the device 'cpu:0'"):
        CodeEmbedding(str(bert_folder), runtime="openvino", device="cpu:0")
    assert isinstance(CodeEmbedding(str(bert_folder), runtime="torch").encoder, Encoder)
    assert "runtime" not in CodeEmbedding(str(bert_folder), runtime="torch").to_dict()
