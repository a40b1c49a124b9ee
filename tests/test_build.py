"""The graph of each architecture has the vectors of torch: bases, adapters, kinds of files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import CODES, save_adapter, write_adapter
from graphs import graph_of, torch_of
from peft import IA3Config, LoraConfig, PeftConfig, PromptTuningConfig, TaskType
from safetensors.torch import load_file, save_file
from transformers import GPT2TokenizerFast
from transformers.models.t5.modeling_t5 import T5Attention

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.backbone import load_backbone
from llamaindex_code_retrieval.models.catalog import Side
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import SHARDS, WEIGHTS
from llamaindex_code_retrieval.models.graphs.relative import bias_by_distance, distance_buckets
from llamaindex_code_retrieval.models.weights import read_arrays

TASK = TaskType.FEATURE_EXTRACTION
BASES = (
    "bert_folder roberta_folder unixcoder_folder mpnet_folder distilbert_folder t5_folder gated_t5_folder "
    "codet5p_folder codesage_folder".split()
)


def assert_equals_torch(folder: Path, adapter: Path | str = "none") -> None:
    graph, reference = graph_of(folder, adapter), torch_of(folder, adapter)
    assert graph.fingerprint == reference.fingerprint
    assert graph.base_fingerprint == reference.base_fingerprint
    for side in get_args(Side):
        assert graph.tokenize(CODES, side=side) == reference.tokenize(CODES, side=side)
    np.testing.assert_allclose(graph.encode_codes(CODES), reference.encode_codes(CODES), atol=1e-5)
    assert graph.encode_codes([]).shape == (0, reference.dim)


@pytest.mark.parametrize("base", BASES)
def test_a_graph_has_the_fingerprint_tokens_and_vectors_of_torch(base: str, request: pytest.FixtureRequest) -> None:
    assert_equals_torch(request.getfixturevalue(base))


@pytest.mark.parametrize("kind", ["lora", "adalora", "ia3"])
def test_a_graph_merges_an_adapter_as_peft_does(kind: str, bert_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(kind, bert_folder, tmp_path / kind)
    assert_equals_torch(bert_folder, adapter)
    assert (
        np.abs(graph_of(bert_folder, adapter).encode_codes(CODES) - graph_of(bert_folder).encode_codes(CODES)).max()
        > 0.005
    )


@pytest.mark.parametrize(
    ("base", "config"),
    [
        ("t5_folder", LoraConfig(task_type=TASK, r=2, target_modules=["q", "v", "wi"])),
        ("t5_folder", IA3Config(task_type=TASK, target_modules=["k", "v", "wo"], feedforward_modules=["wo"])),
        ("mpnet_folder", LoraConfig(task_type=TASK, r=2, target_modules=["q", "v", "dense"])),
        ("codesage_folder", LoraConfig(task_type=TASK, r=2, target_modules=["c_attn", "c_fc"])),
        (
            "codesage_folder",
            IA3Config(task_type=TASK, target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"]),
        ),
    ],
)
def test_graphs_of_other_architectures_merge_adapters(
    base: str, config: PeftConfig, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(base)
    backbone = load_backbone(folder, torch_of(folder).architecture)
    adapter = write_adapter(backbone, config, tmp_path / "adapter")
    assert_equals_torch(folder, adapter)
    assert np.abs(graph_of(folder, adapter).encode_codes(CODES) - graph_of(folder).encode_codes(CODES)).max() > 0.005


@pytest.mark.parametrize("base", ["bert_folder", "roberta_folder", "t5_folder", "codet5p_folder", "codesage_folder"])
def test_virtual_tokens_are_read_but_not_pooled(base: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(base)
    backbone = load_backbone(folder, torch_of(folder).architecture)
    adapter = write_adapter(backbone, PromptTuningConfig(task_type=TASK, num_virtual_tokens=4), tmp_path / "adapter")
    settings = {"max_query_tokens": 40, "max_code_tokens": 40, "adapter": adapter, "precision": "fp32"}
    graph = CodeEmbedding(folder, runtime="openvino", **settings)  # type: ignore[arg-type]
    reference = CodeEmbedding(folder, runtime="torch", **settings)  # type: ignore[arg-type]
    vectors = graph.encoder.encode_codes(CODES)
    np.testing.assert_allclose(vectors, reference.encoder.encode_codes(CODES), atol=1e-5)
    bare = CodeEmbedding(folder, runtime="openvino", **settings | {"adapter": "none"})  # type: ignore[arg-type]
    assert np.abs(vectors - bare.encoder.encode_codes(CODES)).max() > 0.005
    if graph.encoder.positions is not None:
        with pytest.raises(ValueError, match="64 tokens and the adapter's 4 virtual ones do not fit the model's 64"):
            CodeEmbedding(folder, runtime="openvino", adapter=adapter)


def test_distances_have_the_buckets_of_transformers() -> None:
    distances = np.arange(-400, 401)
    for buckets, limit in ((32, 128), (32, 20), (16, 64), (64, 300)):
        expected = T5Attention._relative_position_bucket(
            torch.from_numpy(distances), num_buckets=buckets, max_distance=limit
        )
        assert distance_buckets(distances, buckets, max_distance=limit).tolist() == expected.tolist()


def test_distances_beyond_the_limit_have_its_bias() -> None:
    weight = np.arange(8, dtype=np.float32)[:, None]  # four buckets for each direction, two of one distance each
    assert bias_by_distance(weight, max_distance=4).tolist() == [[3, 3, 2, 1, 0, 5, 6, 7, 7]]


def test_shards_are_read_as_one_file(t5_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(t5_folder, tmp_path / "codet5")
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    shards = {name: f"model-0000{number % 2 + 1}-of-00002.safetensors" for number, name in enumerate(weights)}
    for shard in set(shards.values()):
        save_file({name: weights[name] for name in weights if shards[name] == shard}, folder / shard, {"format": "pt"})
    (folder / SHARDS).write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    assert_equals_torch(folder)
    np.testing.assert_array_equal(graph_of(folder).encode_codes(CODES), graph_of(t5_folder).encode_codes(CODES))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_read(dtype: torch.dtype, mpnet_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(mpnet_folder, tmp_path / "mpnet")
    weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    arrays = read_arrays(folder / WEIGHTS, remedy="")
    assert all(np.array_equal(arrays[name], tensor.float().numpy()) for name, tensor in weights.items())
    assert_equals_torch(folder)


def test_weights_of_a_type_that_numpy_lacks_are_left_to_torch(bert_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    weights = load_file(folder / WEIGHTS)
    name = "embeddings.word_embeddings.weight"
    save_file(weights | {name: weights[name].to(torch.float8_e4m3fn)}, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=r"weights of a type that NumPy lacks \(F8_E4M3\)"):
        graph_of(folder)


def test_tokenizers_without_tokenizer_json_are_read(unixcoder_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(unixcoder_folder, tmp_path / "unixcoder")
    (folder / "tokenizer.json").unlink()
    texts = [*CODES, "a <mask> b</s>c <pad>", "<encoder-only> x", "  <s>"]
    assert graph_of(folder).tokenize(texts, side="code") == torch_of(folder).tokenize(texts, side="code")
    assert_equals_torch(folder)


def test_codesage_ends_a_text_with_the_token_that_its_tokenizer_names(codesage_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(codesage_folder, tmp_path / "codesage")
    GPT2TokenizerFast.from_pretrained(folder).save_pretrained(folder)
    assert (folder / "tokenizer.json").is_file()
    assert graph_of(folder).tokenize(["x"], side="code")[0][-1] == 2
    assert_equals_torch(folder)


def test_other_tokenizers_are_left_to_torch(bert_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    (folder / "tokenizer.json").unlink()
    assert isinstance(CodeEmbedding(folder).encoder, Encoder)
    with pytest.raises(ValueError, match=r"cannot express a checkpoint without tokenizer.json"):
        graph_of(folder)
