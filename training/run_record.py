"""What a training run leaves beside its weights: settings, log, curves and model card."""

from __future__ import annotations

import json
import logging
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from llamaindex_code_retrieval._io import check_writable, read_json, write_atomically
from llamaindex_code_retrieval._optional import installed_version
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import TRAIN_CONFIG
from llamaindex_code_retrieval.training.adapters import save_adapter
from llamaindex_code_retrieval.training.checkpoints import load_trained
from llamaindex_code_retrieval.training.config import AdapterConfig, LoopConfig
from llamaindex_code_retrieval.training.curves import curves_svg, write_tensorboard
from llamaindex_code_retrieval.training.loop import STATE, Loop, peak_bytes
from llamaindex_code_retrieval.training.model_card import model_card, query_card, reranker_card, static_card
from llamaindex_code_retrieval.training.pairs import Pair, pairs_fingerprint

logger = logging.getLogger(__name__)

LOG = "log.jsonl"
"""One JSON object per step and per validation of a run."""

M = TypeVar("M")
N = TypeVar("N")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun(Generic[M]):
    """A finished training run; ``model`` has the weights of ``best_step``."""

    model: M
    steps: int
    best_step: int
    history: list[dict[str, Any]]
    """One entry per step (loss, learning rate, ...) and one per validation (its scores)."""
    trained_parameters: int
    base_parameters: int
    """Parameters of the base; what an adapter or a head adds is not counted."""
    seconds: float
    peak_bytes: int
    """Largest resident memory of the process, or device memory on CUDA."""
    folder: Path | None = None
    """Where the run is saved; ``None`` while it is not."""
    record: dict[str, Any] = field(default_factory=dict)
    """What ``train_config.json`` holds: settings, data, sizes, scores, versions. Empty while the run is not saved."""

    @classmethod
    def of_loop(
        cls, loop: Loop, model: M, *, trained_parameters: int, base_parameters: int, device: torch.device
    ) -> TrainingRun[M]:
        """Return the run of a loop that has ended."""
        return cls(
            model=model,
            steps=loop.progress.step,
            best_step=loop.progress.best_step,
            history=loop.progress.history,
            trained_parameters=trained_parameters,
            base_parameters=base_parameters,
            seconds=loop.progress.seconds,
            peak_bytes=peak_bytes(device),
        )

    @classmethod
    def load(cls, folder: str | Path, model: M) -> TrainingRun[M]:
        """Read the record and the history of a run that was saved in ``folder``, whose model is already loaded."""
        folder = Path(folder)
        record = read_json(folder / TRAIN_CONFIG, remedy="train anew in another folder", keys=_RUN_KEYS)
        history = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
        return cls(
            model=model, history=history, folder=folder, record=record, **{key: record[key] for key in _RUN_KEYS}
        )

    def with_model(self, model: N) -> TrainingRun[N]:
        """Return the same run with its model in another form, such as merged or quantized for use."""
        changed: Any = replace
        run: TrainingRun[N] = changed(self, model=model)
        return run

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the saved model; empty while the run is not saved."""
        return str(self.record.get("fingerprint", ""))

    @property
    def before(self) -> dict[str, float] | None:
        """Validation scores before the training; ``None`` without validation."""
        return self.record.get("validation_before")

    @property
    def after(self) -> dict[str, float] | None:
        """Validation scores in the weights of ``best_step``; ``None`` without validation."""
        return self.record.get("validation_best")


_RUN_KEYS = ("steps", "best_step", "trained_parameters", "base_parameters", "seconds", "peak_bytes")


def public_name(name_or_path: str | Path) -> str:
    """Return a name that says nothing about this machine: the last part of a path, any other name as it is.

    >>> public_name("/home/me/data/pairs.jsonl"), public_name("cosqa:dev"), public_name("org/model")
    ('pairs.jsonl', 'cosqa:dev', 'org/model')
    """
    text = str(name_or_path)
    folder, colon, split = text.rpartition(":")
    if colon and _is_path(folder):
        return f"{Path(folder).expanduser().resolve().name}:{split}"
    is_path = isinstance(name_or_path, Path) or _is_path(text)
    return Path(text).expanduser().resolve().name if is_path else text


def _is_path(text: str) -> bool:
    path = Path(text).expanduser()
    return path.is_absolute() or text.startswith(("./", "../")) or path.exists()


def free_folder(folder: str | Path, *, resume: bool, resumable: Sequence[str] = (STATE,)) -> Path:
    """Return the folder as a path if a training may write there.

    There is a run to resume if the folder has at least one of the files ``resumable``.

    Raises:
        ValueError: it cannot be written, it is not empty and ``resume`` is false, or there is no run to resume.
    """
    out = Path(folder).expanduser()
    check_writable(out)
    if resume and not any((out / name).exists() for name in resumable):
        raise ValueError(f"there is no unfinished run in {out}; start one without resume")
    if not resume and out.is_dir() and any(out.iterdir()):
        way = "resume that run (--resume)" if (out / STATE).is_file() else "remove it"
        raise ValueError(f"{out} is not empty; choose another folder, or {way}")
    return out


def save_run(
    run: TrainingRun[Encoder],
    folder: str | Path,
    record: Mapping[str, Any],
    card: Callable[[Mapping[str, Any]], str] | None = None,
) -> TrainingRun[Encoder]:
    """Write adapter, ``train_config.json``, ``log.jsonl``, ``curves.svg`` and ``README.md``; return the saved run.

    ``record`` comes from :func:`run_record`, and ``card`` makes the README of it, by default that of an adapter. The
    adapter's own configuration is written after its weights and settings, so that a kill leaves no half adapter.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_record(folder, record)
    save_adapter(run.model, folder)
    return _finish(
        run, folder, {**record, "fingerprint": load_trained(run.model, folder).fingerprint}, card or model_card
    )


def save_reranker(
    run: TrainingRun[CrossEncoder], folder: str | Path, record: Mapping[str, Any]
) -> TrainingRun[CrossEncoder]:
    """Write the calibration and the records of a reranker that :func:`.save_cross_encoder` has saved."""
    folder, model = Path(folder), run.model
    model.save(folder, base=None if model.variant == "adapters" else load_trained(model.encoder, folder))
    base = model.encoder if model.variant == "adapters" else None  # else the base is in the folder
    fingerprint = CrossEncoder.load(folder, encoder=base, precision="fp32").fingerprint
    return _finish(run, folder, {**record, "fingerprint": fingerprint}, reranker_card)


def save_distillation(run: TrainingRun[M], folder: str | Path, record: Mapping[str, Any]) -> TrainingRun[M]:
    """Write the records of a student that :func:`.save_query_encoder` has saved; return the saved run.

    ``record`` comes from :func:`run_record`, with ``teacher``, ``student``, ``kept`` and ``fingerprint``.
    """
    return _finish(run, Path(folder), record, query_card)


def save_static_run(run: TrainingRun[M], folder: str | Path, record: Mapping[str, Any]) -> TrainingRun[M]:
    """Write the records of a static model that :func:`.save_static_model` has saved; return the saved run."""
    return _finish(run, Path(folder), record, static_card)


def _finish(
    run: TrainingRun[M], folder: Path, record: Mapping[str, Any], card: Callable[[Mapping[str, Any]], str]
) -> TrainingRun[M]:
    """Write the records of a run whose weights are saved, and remove its state last.

    The record and the log must be written; until they are, the run can be resumed. Curves and card are only reported
    if they fail.
    """
    _write_record(folder, record)
    write_atomically(folder / LOG, "".join(json.dumps(entry) + "\n" for entry in run.history))
    extras: dict[str, Callable[[], None]] = {
        "README.md": lambda: write_atomically(folder / "README.md", card(record)),
        "curves.svg": lambda: write_atomically(folder / "curves.svg", curves_svg(run.history)),
        "tensorboard": lambda: write_tensorboard(run.history, folder),
    }
    for name, write in extras.items():
        try:
            write()
        except Exception as error:  # whatever plotting raises: the weights are saved, and the run is complete
            logger.warning("%s could not be written (%r); everything else is saved", folder / name, error)
    (folder / STATE).unlink(missing_ok=True)
    return replace(run, folder=folder, record=dict(record))


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_atomically(folder / TRAIN_CONFIG, json.dumps(record, indent=2) + "\n")


_PACKAGES = ("llamaindex-code-retrieval", "torch", "transformers", "peft", "tokenizers", "numpy")


def describe_pairs(pairs: Sequence[Pair], sources: Sequence[str | Path]) -> dict[str, Any]:
    """Return the entry ``data`` of a record; paths in ``sources`` are recorded by their last part only."""
    return {
        "sources": [public_name(source) for source in sources],
        "pairs": len(pairs),
        "fingerprint": pairs_fingerprint(pairs),
        "kinds": dict(Counter(pair.kind for pair in pairs).most_common()),
        "languages": dict(Counter(pair.language for pair in pairs).most_common()),
        "repositories": len({pair.repository for pair in pairs if pair.repository}),
        "licenses": dict(Counter(pair.license for pair in pairs).most_common()),
    }


def run_record(
    run: TrainingRun[Any],
    encoder: Encoder,
    *,
    data: Mapping[str, Any],
    config: LoopConfig,
    adapter: AdapterConfig | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the record of a run on ``encoder``'s base: settings, data, sizes, scores, versions and ``more``.

    ``data`` describes what it learned from, for pairs by :func:`describe_pairs`. The validation scores are those of the
    history, so the best of several validations, unless ``more`` holds others.
    """
    scores = [entry for entry in run.history if "validation" in entry]
    return {
        "base": {
            "name": public_name(encoder.name),
            "fingerprint": encoder.base_fingerprint,
            "pooling": encoder.pooling,
            "architecture": encoder.architecture,
        },
        **({} if adapter is None else {"adapter": adapter.model_dump()}),
        "train": config.model_dump(),
        "max_query_tokens": encoder.max_query_tokens,
        "max_code_tokens": encoder.max_code_tokens,
        "data": dict(data),
        "trained_parameters": run.trained_parameters,
        "base_parameters": run.base_parameters,
        "steps": run.steps,
        "best_step": run.best_step,
        "seconds": round(run.seconds, 1),
        "peak_bytes": run.peak_bytes,
        "validation_before": scores[0]["validation"] if scores else None,
        "validation_best": next((e["validation"] for e in scores if e["step"] == run.best_step), None),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, {encoder.device.type}",
        "versions": {name: installed_version(name) for name in _PACKAGES},
        **more,
    }
