"""Load PEFT adapters into backbones and merge them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.models.backbone import quiet_transformers
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DAMAGED
from llamaindex_code_retrieval.models.modify import copy_parameters
from llamaindex_code_retrieval.models.weights import check_weights, read_weights

if TYPE_CHECKING:
    from peft import PeftConfig


def load_adapter(backbone: nn.Module, folder: Path) -> nn.Module:
    """Wrap the backbone, in place, with the adapter that PEFT saved in ``folder``, and return the wrapped model.

    Raises:
        ValueError: the adapter does not fit the backbone, see :func:`load_adapter_weights`.
    """
    from peft import TaskType, get_peft_model

    config = _read_config(folder)
    if config.is_prompt_learning and config.task_type != TaskType.FEATURE_EXTRACTION:
        raise ValueError(
            f"{folder} holds virtual tokens for task {config.task_type!r}; an encoder needs FEATURE_EXTRACTION"
        )
    if getattr(config, "bias", "none") != "none":  # PEFT loads these biases into those that the encoders share
        for module in backbone.modules():
            copy_parameters(module, [name for name, _ in module.named_parameters(recurse=False) if name == "bias"])
    base_name, config.base_model_name_or_path = config.base_model_name_or_path, None
    config.inference_mode = True
    try:
        with quiet_transformers():
            adapted: nn.Module = get_peft_model(backbone, config)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the adapter in {folder} does not fit this base: {reason}; it was made for {base_name!r}"
        ) from error
    load_adapter_weights(adapted, folder, remedy=f"the adapter was made for {base_name!r}")
    return adapted.eval()


def load_adapter_weights(adapted: Any, folder: Path, *, remedy: str) -> None:
    """Load the weights in ``folder`` into the adapter of a model that PEFT has wrapped, in place.

    Raises:
        ValueError: a tensor of the adapter is missing, unexpected, of another shape or not finite; nothing is loaded.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    path = folder / ADAPTER_WEIGHTS
    weights = read_weights(path, remedy="the adapter is damaged, fetch or train it again")
    parameters = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if len(weights) > len(parameters):
        # PEFT also saves the base's embeddings where an adapter changes them, and would load them into the weights
        # that all encoders share. They are left out if they are equal to this base's, else they are unexpected below.
        base = {name: tensor for name, tensor in adapted.state_dict().items() if name not in parameters}
        weights = {name: w for name, w in weights.items() if name not in base or not _is_equal(w, base[name])}
    check_weights(weights, {name: tensor.shape for name, tensor in parameters.items()}, source=path, remedy=remedy)
    set_peft_model_state_dict(adapted, weights)


def _is_equal(weight: Tensor, base_weight: Tensor) -> bool:
    return torch.equal(weight.to(device=base_weight.device, dtype=base_weight.dtype), base_weight)


def merge_adapter(backbone: Any) -> nn.Module:
    """Return the backbone with its adapter merged into copies of the weights that it changes, computed in fp32.

    An adapter that PEFT cannot merge, such as prompt tuning, stays beside the weights.
    """
    from peft import PeftType
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged: nn.Module = backbone
    if backbone.active_peft_config.peft_type in (PeftType.LORA, PeftType.ADALORA, PeftType.IA3):
        for module in backbone.modules():
            if isinstance(module, BaseTunerLayer):
                layer = module.get_base_layer()
                copy_parameters(layer, [name for name, _ in layer.named_parameters(recurse=False)])
        merged = backbone.merge_and_unload()
    return merged


def virtual_tokens(backbone: nn.Module) -> int:
    """Return how many tokens prompt tuning puts before a text."""
    config = getattr(backbone, "active_peft_config", None)
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


def _read_config(folder: Path) -> PeftConfig:
    from peft import PeftConfig

    path = folder / ADAPTER_CONFIG
    read_json(path, remedy=DAMAGED, keys=("peft_type",))
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not configure an adapter that this version of PEFT knows ({error!r})") from error
