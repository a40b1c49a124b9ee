"""Write trained rerankers and query encoders in the form that the runtime loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import CONFIG, QUERY_WEIGHTS, STATIC_CONFIG, STATIC_WEIGHTS, TOKENIZER
from llamaindex_code_retrieval.models.query_encoder_config import QueryEncoderConfig
from llamaindex_code_retrieval.models.static_encoder import quantize_rows
from llamaindex_code_retrieval.models.static_model import FORMAT
from llamaindex_code_retrieval.training.adapters import save_adapter
from llamaindex_code_retrieval.training.config import StudentConfig
from llamaindex_code_retrieval.training.students import StaticStudent, Student


def save_cross_encoder(model: CrossEncoder, folder: str | Path) -> None:
    """Write the weights of a reranker, and its ``reranker.json`` with the calibration that it has.

    An adapter is written last and a base first, because a folder with a base alone is no reranker, and one with an
    adapter alone would be taken for an embedding's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if model.variant == "adapters":
        model.save(folder)
        save_adapter(model.encoder, folder)
    else:
        save_adapter(model.encoder, folder)
        model.save(folder, base=load_trained(model.encoder, folder))


def save_query_encoder(
    student: Student, folder: str | Path, config: StudentConfig, *, teacher: Mapping[str, str], max_tokens: int
) -> None:
    """Write what ``QueryEncoder.load`` reads; ``teacher`` has its name, adapter and fingerprint.

    ``query_encoder.json`` comes before any weights, because a folder with them alone would be taken for something else.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    QueryEncoderConfig(
        kind=config.kind,
        teacher_name=teacher["name"],
        teacher_adapter=teacher["adapter"],
        teacher_fingerprint=teacher["fingerprint"],
        layers=config.layers if config.kind == "layers" else (),
        buckets=config.buckets if config.kind == "static" else 0,
        int8=config.int8 and config.kind != "static",
        max_tokens=max_tokens,
    ).write(folder)
    if isinstance(student, StaticStudent):
        write_atomically(folder / TOKENIZER, student.tokenizer_json())
        write_atomically(folder / QUERY_WEIGHTS, safetensors.numpy.save(student.tensors()))
        return
    backbone: Any = student.backbone
    is_adapted = hasattr(backbone, "peft_config")
    saved = backbone.proj if is_adapted else backbone
    tensors = {
        name: p.detach().cpu().contiguous()
        for name, p in saved.named_parameters()
        if p.requires_grad or not is_adapted  # a projection of the base itself is frozen, and not saved
    }
    if tensors:
        write_atomically(folder / QUERY_WEIGHTS, safetensors.torch.save(tensors))
    if config.kind == "transformer":
        write_atomically(folder / CONFIG, backbone.config.to_json_string())
    elif is_adapted:
        save_adapter(student, folder)


def save_static_model(folder: Path, tokenizer: Tokenizer, table: NDArray[np.float32], *, max_tokens: int) -> None:
    """Write what ``StaticModel.load`` reads; ``static_model.json``, which marks the folder, comes last."""
    rows, scales = quantize_rows(table)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TOKENIZER, tokenizer.to_str())
    write_atomically(folder / STATIC_WEIGHTS, safetensors.numpy.save({"table": rows, "scales": scales}))
    write_atomically(folder / STATIC_CONFIG, json.dumps({"format": FORMAT, "max_tokens": max_tokens}) + "\n")


def load_trained(encoder: Encoder, folder: Path) -> Encoder:
    """Load the adapter, or the whole weights, that ``save_adapter`` wrote of a trained encoder."""
    if hasattr(encoder.backbone, "peft_config"):
        return encoder.with_adapter(folder)
    return Encoder.from_pretrained(
        folder,
        precision="fp32",
        max_query_tokens=encoder.max_query_tokens,
        max_code_tokens=encoder.max_code_tokens,
    )
