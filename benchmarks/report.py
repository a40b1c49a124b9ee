"""The environment, the file of figures and the interval of a mean: what all scripts of this folder report alike."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval._optional import require
from llamaindex_code_retrieval.eval.environment import current_environment


def add_result_option(parser: argparse.ArgumentParser, script: str) -> None:
    """Add ``--result``; the default is the JSON file beside ``script``."""
    parser.add_argument(
        "--result",
        type=Path,
        metavar="FILE",
        default=Path(script).with_suffix(".json"),
        help="JSON file that the figures are written to (default: the one beside this script)",
    )


def environment() -> dict[str, Any]:
    """Return ``date``, ``machine`` and ``versions``.

    The machine is the processor with its number of cores, its vector instructions, the precision that it computes
    natively, and the number of threads in use.
    """
    import torch

    from llamaindex_code_retrieval.models.device import resolve_precision

    environment = asdict(current_environment())
    instructions = torch.backends.cpu.get_cpu_capability()
    precision = resolve_precision("auto", torch.device("cpu"))
    environment["machine"] += f", {instructions}, {precision}, torch threads: {torch.get_num_threads()}"
    return environment


def write_figures(file: Path, figures: Mapping[str, Any]) -> None:
    """Write ``figures`` as JSON, atomically."""
    write_atomically(file, json.dumps(figures, indent=1) + "\n")


def report(file: Path, figures: Mapping[str, Any]) -> None:
    """Write the environment and ``figures`` as JSON, and print the same."""
    record = {**environment(), **figures}
    write_figures(file, record)
    print(json.dumps(record, indent=1))


def mean_with_interval(values: Sequence[float]) -> str:
    """Return the mean, and half the 95 % interval of the mean (Student's t) if there is more than one value.

    >>> mean_with_interval([0.5, 0.6, 0.7]), mean_with_interval([0.5])
    ('0.600 ± 0.248', '0.500')
    """
    text = f"{statistics.fmean(values):.3f}"
    if len(values) < 2:
        return text
    quantile = require("scipy.stats", extra="eval", purpose="computing intervals").t.ppf(0.975, len(values) - 1)
    return f"{text} ± {quantile * statistics.stdev(values) / len(values) ** 0.5:.3f}"
