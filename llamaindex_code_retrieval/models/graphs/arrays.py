"""Read the weights of a checkpoint as NumPy arrays, with a PEFT adapter merged into them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DAMAGED, SHARDS, WEIGHTS
from llamaindex_code_retrieval.models.graphs.unsupported import UnsupportedModelError
from llamaindex_code_retrieval.models.weights import check_finite, read_arrays

Array = NDArray[Any]

_PREFIXES = re.compile(r"^(bert|roberta|mpnet|distilbert|transformer(?=\.(h|wte|wpe|ln_f)\.))\.")
_NOT_OF_AN_ENCODER = re.compile(r"^(decoder|lm_head)\.")
_ADAPTED = re.compile(r"^base_model\.model\.(?P<layer>.+)\.(?P<part>lora_[ABE]|ia3_l)(\.weight)?$")
_FETCH_AGAIN = "the adapter is damaged, fetch or train it again"
_PLAIN_LORA = {
    "bias": "none",
    "layer_replication": None,
    "lora_bias": False,
    "modules_to_save": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_bdlora": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "monteclora_config": None,
    "velora_config": None,
}
"""The values of an adapter's settings of which a merge is the addition of a matrix."""


def read_checkpoint(folder: Path) -> dict[str, Array]:
    """Return the weights in ``folder`` in fp32, by their names within the backbone.

    Raises:
        UnsupportedModelError: no safetensors, or weights in a type that NumPy lacks.
        ValueError: damaged files, or weights that are not finite.
    """
    arrays: dict[str, Array] = {}
    try:
        for file in _weight_files(folder):
            arrays |= read_arrays(file, remedy=DAMAGED)
    except TypeError as error:
        raise UnsupportedModelError(f"weights of a type that NumPy lacks ({error})") from error
    arrays = {_PREFIXES.sub("", name): array for name, array in arrays.items() if not _NOT_OF_AN_ENCODER.match(name)}
    check_finite(arrays, source=folder, remedy=DAMAGED)
    return {name: array.astype(np.float32, copy=False) for name, array in arrays.items() if array.dtype.kind == "f"}


def _weight_files(folder: Path) -> list[Path]:
    """Return the file of the weights, or the files where they are in several."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / SHARDS).is_file():
        raise UnsupportedModelError("weights that are not in safetensors")
    shards = read_json(folder / SHARDS, remedy=DAMAGED, keys=("weight_map",))["weight_map"]
    return [folder / name for name in sorted(set(shards.values()))]


def merge_adapter(arrays: Mapping[str, Array], folder: Path) -> dict[str, Array]:
    """Return the weights with the adapter in ``folder`` merged into those that it changes.

    LoRA adds ``scale * B @ A``, AdaLoRA ``scale * B @ (E * A)`` and (IA)3 multiplies rows or columns.

    Raises:
        UnsupportedModelError: another kind of adapter, one with settings that change more, or tensors that do not fit.
        ValueError: a damaged file.
    """
    config = read_json(folder / ADAPTER_CONFIG, remedy=DAMAGED)
    kind = config.get("peft_type")
    if kind not in ("LORA", "ADALORA", "IA3"):
        raise UnsupportedModelError(f"an adapter of the type {kind}")
    for name, value in _PLAIN_LORA.items():
        if config.get(name, value) not in (value, None, False, []):
            raise UnsupportedModelError(f"an adapter with {name}={config[name]!r}")
    tensors = read_arrays(folder / ADAPTER_WEIGHTS, remedy=_FETCH_AGAIN)
    layers: dict[str, dict[str, Array]] = {}
    for name, tensor in tensors.items():
        match = _ADAPTED.match(name)
        if match is None:
            raise UnsupportedModelError(f"an adapter with the tensor {name}")
        layers.setdefault(match["layer"], {})[match["part"]] = tensor.astype(np.float32)
    merged = dict(arrays)
    for layer, parts in layers.items():
        weight = f"{layer}.weight"
        if weight not in merged:
            raise UnsupportedModelError(f"an adapter on {layer}")
        try:
            if kind == "IA3":
                _scale(merged, layer, parts["ia3_l"], is_input=_is_feedforward(layer, config))
            else:
                merged[weight] = merged[weight] + _delta(layer, parts, config)
        except (KeyError, ValueError) as error:
            raise UnsupportedModelError(f"an adapter that does not fit {layer}") from error
    return merged


def read_virtual_tokens(folder: Path) -> Array | None:
    """Return the embedded tokens that the adapter in ``folder`` puts before a text; ``None`` for other adapters.

    Raises:
        UnsupportedModelError: tokens of another task than embedding, or several sets of them.
    """
    config = read_json(folder / ADAPTER_CONFIG, remedy=DAMAGED)
    if config.get("peft_type") != "PROMPT_TUNING":
        return None
    if config.get("task_type") != "FEATURE_EXTRACTION":
        raise UnsupportedModelError(f"virtual tokens for the task {config.get('task_type')}")
    tensors = read_arrays(folder / ADAPTER_WEIGHTS, remedy=_FETCH_AGAIN)
    virtual = tensors.get("prompt_embeddings")
    if len(tensors) != 1 or virtual is None or len(virtual) != config.get("num_virtual_tokens"):
        raise UnsupportedModelError("virtual tokens that do not fit their settings")
    check_finite(tensors, source=folder, remedy=_FETCH_AGAIN)
    return virtual.astype(np.float32, copy=False)


def _delta(layer: str, parts: Mapping[str, Array], config: Mapping[str, Any]) -> Array:
    """Return what LoRA or AdaLoRA adds to the weight of a layer."""
    rank = _of_layer(config.get("rank_pattern"), layer, config.get("r", 8))
    alpha = _of_layer(config.get("alpha_pattern"), layer, config.get("lora_alpha", 8))
    inner, outer = parts["lora_A"], parts["lora_B"]
    if config["peft_type"] == "ADALORA":
        # PEFT divides by the rank with which the layer began, or to which its saved pattern cuts it.
        inner = inner * parts["lora_E"]
        scale = float(config["lora_alpha"]) / (len(inner) + 1e-5)
    else:
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    delta: Array = (outer @ inner) * scale
    return delta


def _of_layer(pattern: object, layer: str, default: Any) -> Any:
    """Return the value that PEFT's pattern has for a layer: a name matches its end, whole words of it."""
    if isinstance(pattern, dict):
        for name, value in pattern.items():
            if re.match(rf"(.*\.)?({name})$", layer):
                return value
    return default


def _is_feedforward(layer: str, config: Mapping[str, Any]) -> bool:
    modules = config.get("feedforward_modules") or []
    if isinstance(modules, str):
        return re.fullmatch(modules, layer) is not None
    return any(layer == module or layer.endswith(f".{module}") for module in modules)


def _scale(arrays: dict[str, Array], layer: str, factors: Array, *, is_input: bool) -> None:
    """Multiply the input columns of a layer, or its output rows and its bias."""
    weight, bias = f"{layer}.weight", f"{layer}.bias"
    flat = factors.reshape(-1)
    if is_input:
        arrays[weight] = arrays[weight] * flat
    else:
        arrays[weight] = arrays[weight] * flat[:, None]
        if bias in arrays:
            arrays[bias] = arrays[bias] * flat
