"""What a training run leaves beside its weights: settings, log, curves and model card."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.numpy
import safetensors.torch

from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.locate import QUERY_CONFIG, QUERY_WEIGHTS, TRAIN_CONFIG
from llamaindex_code_retrieval.models.query_encoder import BACKBONE_CONFIG, FORMAT, TOKENIZER
from llamaindex_code_retrieval.training.adapters import AdapterConfig, save_adapter
from llamaindex_code_retrieval.training.config import LoopConfig, StudentConfig
from llamaindex_code_retrieval.training.contrastive import TrainResult
from llamaindex_code_retrieval.training.curves import _tensorboard, curves_svg
from llamaindex_code_retrieval.training.distillation import Distilled
from llamaindex_code_retrieval.training.loop import STATE, Finished
from llamaindex_code_retrieval.training.matching import TrainedReranker
from llamaindex_code_retrieval.training.model_card import model_card, query_card, reranker_card
from llamaindex_code_retrieval.training.pairs import Pair, pairs_fingerprint
from llamaindex_code_retrieval.training.students import StaticStudent, Student


def is_main_process() -> bool:
    """Return whether this process is the one, of those that ``accelerate launch`` started, that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def free_folder(folder: str | Path, *, resume: bool) -> Path:
    """Return the folder as a path if a training may write there."""
    out = Path(folder).expanduser()
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a new folder")
    if not resume and out.is_dir() and any(out.iterdir()):
        way = "resume that run (--resume)" if (out / STATE).is_file() else "remove it"
        raise ValueError(f"{out} is not empty; choose another folder, or {way}")
    return out


_VERSIONS = ("llamaindex-code-retrieval", "torch", "transformers", "peft", "tokenizers", "numpy")


def save_run(result: TrainResult, folder: str | Path, facts: Mapping[str, Any]) -> str:
    """Write adapter, ``train_config.json``, ``log.jsonl``, ``curves.svg`` and ``README.md``; return the fingerprint.

    ``facts`` are those of :func:`run_facts`. The adapter's own configuration comes after its weights and settings, so
    that a kill leaves no half adapter. The state of the unfinished run is removed last.
    """
    folder = Path(folder)
    _write_records(result.history, folder, facts)
    save_adapter(result.encoder, folder)
    fingerprint = _saved(result.encoder, folder).fingerprint
    write_atomically(folder / "README.md", model_card({**facts, "fingerprint": fingerprint}))
    (folder / STATE).unlink(missing_ok=True)
    return fingerprint


def save_reranker(result: TrainedReranker, folder: str | Path, facts: Mapping[str, Any]) -> str:
    """Write a reranker and its records as :func:`save_run` does, and return its fingerprint.

    An adapter is written last and a base first, because a folder with a base alone is no reranker, and one with an
    adapter alone would be taken for an embedding's.
    """
    folder, model = Path(folder), result.cross_encoder
    _write_records(result.history, folder, facts)
    if model.variant == "adapters":
        model.save(folder)
        save_adapter(model.encoder, folder)
    else:
        save_adapter(model.encoder, folder)
        model.save(folder, base=_saved(model.encoder, folder))
    fingerprint = CrossEncoder.load(folder, precision="fp32").fingerprint
    write_atomically(folder / "README.md", reranker_card({**facts, "fingerprint": fingerprint}))
    (folder / STATE).unlink(missing_ok=True)
    return fingerprint


def save_query_encoder(
    student: Student, folder: str | Path, config: StudentConfig, *, teacher: Mapping[str, str], max_tokens: int
) -> None:
    """Write what ``QueryEncoder.load`` reads; ``teacher`` has its name, adapter and fingerprint.

    ``query_encoder.json`` comes before any weights, because a folder with them alone would be taken for something else.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made: Any = student
    facts = {
        "format": FORMAT,
        "kind": config.kind,
        "teacher": dict(teacher),
        "layers": list(config.layers) if config.kind == "layers" else [],
        "buckets": config.buckets if config.kind == "static" else 0,
        "int8": config.int8 and config.kind != "static",
        "max_tokens": max_tokens,
    }
    write_atomically(folder / QUERY_CONFIG, json.dumps(facts, indent=1) + "\n")
    if isinstance(made, StaticStudent):
        write_atomically(folder / TOKENIZER, made.tokenizer_json())
        write_atomically(folder / QUERY_WEIGHTS, safetensors.numpy.save(made.tensors()))
        return
    if hasattr(made.backbone, "peft_config"):
        trained = {
            name: p for name, p in made.backbone.proj.named_parameters() if p.requires_grad
        }  # none: the base's own
    else:
        trained = dict(made.backbone.named_parameters())
    if trained:
        tensors = {name: p.detach().cpu().contiguous() for name, p in trained.items()}
        write_atomically(folder / QUERY_WEIGHTS, safetensors.torch.save(tensors))
    if config.kind == "transformer":
        write_atomically(folder / BACKBONE_CONFIG, made.backbone.config.to_json_string())
    elif hasattr(made.backbone, "peft_config"):
        save_adapter(made, folder)


def save_distillation(result: Distilled, folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Write the records of a student that :func:`save_query_encoder` has saved, and remove the unfinished run's state.

    ``facts`` are those of :func:`run_facts`, with ``teacher``, ``student`` and ``kept``.
    """
    folder = Path(folder)
    _write_records(result.history, folder, facts)
    write_atomically(folder / "README.md", query_card(facts))
    (folder / STATE).unlink(missing_ok=True)


def _write_records(history: Sequence[Mapping[str, Any]], folder: Path, facts: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TRAIN_CONFIG, json.dumps(facts, indent=2) + "\n")
    write_atomically(folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
    write_atomically(folder / "curves.svg", curves_svg(history))
    _tensorboard(history, folder)


def run_facts(
    result: Finished,
    encoder: Encoder,
    *,
    pairs: Sequence[Pair],
    adapter: AdapterConfig,
    config: LoopConfig,
    sources: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return all that a run on ``encoder``'s base was: settings, data, sizes, scores, versions; and ``more`` facts."""
    scores = [entry for entry in result.history if "validation" in entry]
    return {
        "base": {
            "name": encoder.name,
            "fingerprint": encoder.base_fingerprint,
            "pooling": encoder.pooling,
            "architecture": encoder.architecture,
        },
        **more,
        "adapter": asdict(adapter),
        "train": asdict(config),
        "max_query_tokens": encoder.max_query_tokens,
        "max_code_tokens": encoder.max_code_tokens,
        "data": {
            "sources": list(sources),
            "pairs": len(pairs),
            "fingerprint": pairs_fingerprint(pairs),
            "languages": dict(Counter(pair.language for pair in pairs).most_common()),
            "repositories": len({pair.repository for pair in pairs if pair.repository}),
            "licenses": dict(Counter(pair.license for pair in pairs).most_common()),
        },
        "trained_parameters": result.trained,
        "base_parameters": result.base,
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 1),
        "peak_bytes": result.peak_bytes,
        "validation_before": scores[0]["validation"] if scores else None,
        "validation_best": next((e["validation"] for e in scores if e["step"] == result.best_step), None),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, {encoder.device.type}",
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
    }


def _saved(encoder: Encoder, folder: Path) -> Encoder:
    if hasattr(encoder.backbone, "peft_config"):
        return encoder.with_adapter(folder)
    return Encoder.from_pretrained(
        folder,
        precision="fp32",
        max_query_tokens=encoder.max_query_tokens,
        max_code_tokens=encoder.max_code_tokens,
    )
