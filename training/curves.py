"""Draw a run's loss and validation scores; write TensorBoard events."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval.training.assistant_search import AssistantSearch

_SCORES = {"mrr": "MRR", "accuracy": "accuracy"}
"""Validation scores that are drawn, the first that a run has; with their labels."""


def curves_svg(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the loss of each step and, where there was a validation, its MRR or accuracy, over the steps."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    validations = [(entry["step"], entry["validation"]) for entry in history if "validation" in entry]
    metric = next((name for name in _SCORES if validations and name in validations[0][1]), "")
    scores = [(step, values[metric]) for step, values in validations if metric]
    with rc_context({"svg.hashsalt": "code-retrieval", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        left = figure.add_subplot()
        left.plot(*zip(*losses, strict=True), color="#4477aa", linewidth=0.8, label="loss")
        left.set_xlabel("step")
        left.set_ylabel("loss", color="#4477aa")
        left.set_ylim(bottom=0)
        left.grid(alpha=0.3)
        if scores:
            right = left.twinx()
            right.plot(*zip(*scores, strict=True), color="#ee6677", marker="o", markersize=3, label=_SCORES[metric])
            right.set_ylabel(f"validation {_SCORES[metric]}", color="#ee6677")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def search_svg(search: AssistantSearch) -> bytes:
    """Draw the students of a search: layers against MRR, with a line from each student to the model that taught it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    scores = {each.lineage: each.mrr for each in search.tried}
    scores |= {each.teachers: search.teacher_mrr for each in search.tried if len(each.teachers) == 1}
    with rc_context({"svg.hashsalt": "code-retrieval", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        for lineage, mrr in scores.items():
            layers = [len(each) for each in lineage]
            if len(lineage) > 1:
                axes.plot(layers[-2:], [scores[lineage[:-1]], mrr], color="#4477aa", linewidth=0.8)
            chosen = search.chosen is not None and lineage == search.chosen.lineage
            axes.plot(layers[-1], mrr, "o", color="#ee6677" if chosen else "#4477aa", markersize=9 if chosen else 5)
            label = "-".join(map(str, layers))
            axes.annotate(label, (layers[-1], mrr), textcoords="offset points", xytext=(6, 4), fontsize=8)
        axes.set_xlabel("layers (6-4-2: 2 layers, taught by a student with 4 that the teacher with 6 taught)")
        axes.set_ylabel("validation MRR")
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def write_tensorboard(history: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the history as TensorBoard events, if TensorBoard is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for entry in history:
            values = {**entry, **{f"validation/{k}": v for k, v in entry.get("validation", {}).items()}}
            for name, value in values.items():
                if isinstance(value, int | float) and name != "step":
                    writer.add_scalar(name, value, entry["step"])
