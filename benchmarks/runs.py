"""Runs of a script or command in processes of their own, so that each has its own peak memory and seed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import environment, write_figures

from llamaindex_code_retrieval._io import read_json

Runs = dict[str, dict[str, Any]]
"""``VARIANT-SEED`` -> environment, settings and figures of that run."""


def run_in_process(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run ``script`` and return the JSON object in the last line that it prints.

    Raises:
        CalledProcessError: it fails.
    """
    finished = subprocess.run([sys.executable, script, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return result


@dataclass(frozen=True, slots=True)
class Command:
    """A command that has ended."""

    stdout: str
    seconds: float
    """Wall time, from the start of the process to its end."""
    peak_mib: int
    """VmHWM of the process, read every 5 ms; ``ru_maxrss`` would start at the memory of the process that started it."""


def run_command(command: Sequence[str]) -> Command:
    """Run a command; what it writes to stderr is dropped unless it fails.

    Raises:
        CalledProcessError: it fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peaks, ended = [0], threading.Event()
    sampler = threading.Thread(target=_sample_peak, args=(process.pid, peaks, ended))
    sampler.start()
    stdout, stderr = process.communicate()
    seconds = time.perf_counter() - start
    ended.set()
    sampler.join()
    if process.returncode:
        print(stderr, file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return Command(stdout, seconds, peaks[-1])


def _sample_peak(pid: int, peaks: list[int], ended: threading.Event) -> None:
    while not ended.wait(0.005):
        peaks.append(max(peaks[-1], peak_memory_mib(pid)))


def peak_memory_mib(pid: int | str = "self") -> int:
    """Return VmHWM of a process, or 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def complete_runs(
    script: str, file: Path, wanted: Iterable[tuple[str, int]], *, arguments: Sequence[str], settings: Mapping[str, Any]
) -> Runs:
    """Do the runs (variant, seed) that ``file`` lacks and return all that it holds then.

    A run is ``script`` with ``arguments``, ``--run VARIANT`` and ``--seed SEED``. Each is saved as soon as it is done.

    Raises:
        ValueError: the file holds runs with other ``settings``.
    """
    runs: Runs = read_json(file, remedy="name another file with --result") if file.is_file() else {}
    for key, run in runs.items():
        if run.get("settings", settings) != settings:
            raise ValueError(f"{file} holds the run {key} with the settings {run['settings']}; name another --result")
    for variant, seed in wanted:
        key = f"{variant}-{seed}"
        if key not in runs:
            print(f"{variant}, seed {seed}", file=sys.stderr, flush=True)
            figures = run_in_process(script, [*arguments, "--run", variant, "--seed", str(seed)])
            runs[key] = {**environment(), "settings": dict(settings), **figures}
            write_figures(file, runs)
    return runs


def runs_of(runs: Runs, variant: str) -> list[dict[str, Any]]:
    """Return the runs of a variant, one for each seed."""
    return [run for key, run in runs.items() if key.rpartition("-")[0] == variant]


def seeds(count: int) -> str:
    """Return ``1 seed`` or ``N seeds``.

    >>> seeds(1), seeds(3)
    ('1 seed', '3 seeds')
    """
    return "1 seed" if count == 1 else f"{count} seeds"
