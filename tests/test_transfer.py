"""Bases that travel in bf16, and the script that trains everything on a machine without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.reranker import CodeReranker
from llamaindex_code_retrieval.training import Pair, TrainConfig, train_adapter
from llamaindex_code_retrieval.training.pairs import write_pairs
from llamaindex_code_retrieval.training.recipes import Recipe
from llamaindex_code_retrieval.training.transfer import adopt, pack_base

ROOT = Path(__file__).parents[1]
TEXTS = ["read the file", "def add(a, b):\n    return a + b"]


def test_a_packed_base_has_half_the_size_and_nearly_the_vectors(bert_folder: Path, tmp_path: Path) -> None:
    pack_base(str(bert_folder), tmp_path / "packed")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (bert_folder, tmp_path / "packed")]
    assert sizes[1] < 0.6 * sizes[0]
    whole, packed = (Encoder.from_pretrained(f, precision="fp32") for f in (bert_folder, tmp_path / "packed"))
    np.testing.assert_allclose(packed.encode_codes(TEXTS), whole.encode_codes(TEXTS), atol=0.01)
    with pytest.raises(ValueError, match="unknown model 'nonsense'"):
        pack_base("nonsense", tmp_path / "x")


def test_an_adapter_of_a_packed_base_is_adopted_by_the_base(bert_folder: Path, tmp_path: Path) -> None:
    pack_base(str(bert_folder), tmp_path / "packed")
    pairs = [Pair(query=f"read file {i}", code=f"def read_{i}(file):\n    return file", path=f"{i}") for i in range(8)]
    limits = {"max_query_tokens": 32, "max_code_tokens": 48}
    recipe = Recipe(base=str(tmp_path / "packed"), train=TrainConfig(batch_size=2), **limits)
    model = train_adapter(pairs, tmp_path / "adapter", recipe=recipe).model
    base = Encoder.from_pretrained(bert_folder, precision="fp32")
    with pytest.raises(ValueError, match="was trained on 'packed' with base fingerprint"):
        base.with_adapter(tmp_path / "adapter")
    adopt(tmp_path / "adapter", str(bert_folder))
    adopted = base.with_adapter(tmp_path / "adapter")
    np.testing.assert_allclose(adopted.encode_codes(TEXTS), model.encode_codes(TEXTS), atol=0.01)
    assert {tensor.dtype for tensor in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()} == {
        torch.float16
    }
    record = json.loads((tmp_path / "adapter" / "train_config.json").read_text())
    embedding = CodeEmbedding(str(bert_folder), adapter=str(tmp_path / "adapter"), precision="fp32", **limits)
    assert record["fingerprint"] == embedding.fingerprint
    assert f"`{embedding.fingerprint}`" in (tmp_path / "adapter" / "README.md").read_text()


@pytest.mark.timeout(900)  # starts ten processes
@pytest.mark.skipif(shutil.which("xz") is None, reason="the parts are compressed by xz")
def test_the_script_trains_all_models_and_brings_them_home(bert_folder: Path, tmp_path: Path) -> None:
    """With tiny bases, 20 steps each, on a CPU, in a copy of the checkout."""
    checkout = tmp_path / "checkout"
    (checkout / "training").mkdir(parents=True)
    shutil.copy(ROOT / "training" / "gpu.sh", checkout / "training")
    verbs, nouns = "read sort add close find merge print split".split(), "file list tree table line word".split()
    pairs = [
        Pair(query=f"{v} the {n} {i}", code=f"def {v}_{n}_{i}({n}):\n    return {n}.{v}({i})", repository=f"{v}{i}")
        for i in range(3)
        for v in verbs
        for n in nouns
    ]
    write_pairs(tmp_path / "pairs.jsonl", [*pairs, pairs[0]])
    short = "--set held_out=0.3 --set precision=fp32"
    settings = {
        "PYTHON": sys.executable,
        "TARGET_PYTHON": "none",
        "PYTHONPATH": str(ROOT),
        "LARGE": str(bert_folder),
        "SMALL": str(bert_folder),
        "PART": "30k",
        "KINDS": "",
        "DEVICE": "cpu",
        "TRAIN_OPTIONS": f"{short} --set max_code_tokens=48 --set max_query_tokens=48 --set dimensions=[8]",
        "LARGE_OPTIONS": "--batch-size 6 --epochs 1.2 --set rank=2 --set grad_cache=true",
        "SMALL_OPTIONS": "--batch-size 6 --epochs 1.2 --set rank=4 --set from_repository=3",
        "RERANKER_OPTIONS": f"{short} --batch-size 6 --epochs 1.2 --set max_tokens=48 --set calibration_depth=5",
        "STUDENT_OPTIONS": f"{short} --batch-size 6 --epochs 1.2 --layers 1",
        "OMP_NUM_THREADS": "1",
    }

    def script(*arguments: str | Path) -> str:
        command = ["bash", str(checkout / "training" / "gpu.sh"), *map(str, arguments)]
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    work = checkout / "build" / "gpu"
    assert "145 of 145 pairs" in script("prepare", tmp_path / "pairs.jsonl")
    parts = sorted(work.glob("part.*"))
    assert len(parts) > 1
    assert all(part.stat().st_size <= 30 * 1024 for part in parts)
    table = script("run")
    rows = {line.split()[0]: line.split() for line in table.splitlines()}
    names = ("large", "small", "small-reranker", "large-reranker", "small-layers")
    assert set(names) == rows.keys() - {"model"}
    assert all(15 <= int(rows[name][1]) <= 30 for name in names), table
    assert script("run") == table  # nothing is trained twice
    shutil.copytree(work / "out-files", work / "received")
    script("receive")
    small = CodeEmbedding(str(bert_folder), adapter=str(work / "trained" / "small"))
    assert small.adapter.endswith("small")
    student = CodeEmbedding(
        str(bert_folder), adapter=str(work / "trained" / "small"), query_encoder=str(work / "trained" / "small-layers")
    )
    assert student.embed_queries(TEXTS).shape == (2, 32)
    for size in ("small", "large"):
        CodeReranker(model=str(work / "trained" / f"{size}-reranker"))
    record = json.loads((work / "trained" / "small" / "train_config.json").read_text())
    assert (record["base"]["name"], record["teachers"][0]["name"]) == (str(bert_folder), "large")
