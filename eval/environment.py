"""Where and with what a report was made: date, machine, package versions, and a hash of this package's code."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import llamaindex_code_retrieval
from llamaindex_code_retrieval._io import short_hash
from llamaindex_code_retrieval._optional import installed_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a report says about the run that made it."""

    date: str
    machine: str
    versions: dict[str, str]


def current_environment() -> Environment:
    """Return the date (UTC), the machine and the versions of the packages that determine results."""
    versions = {"llamaindex-code-retrieval": llamaindex_code_retrieval.__version__}
    versions |= {name: installed_version(name) for name in ("llama-index-core", "torch")}
    return Environment(date=datetime.now(UTC).isoformat(timespec="seconds"), machine=_machine(), versions=versions)


@cache
def code_fingerprint() -> str:
    """Return a hash of this package's code, so that results of another version are measured again."""
    root = Path(llamaindex_code_retrieval.__file__).parent
    return short_hash(file.read_bytes() for file in sorted(root.rglob("*.py")))


def _machine() -> str:
    import torch

    names = [platform.processor() or platform.machine()]
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        model = re.search(r"^model name\s*:\s*(.+)$", cpus.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        names = [model[1]] if model else names
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return f"{', '.join(names)}, {os.cpu_count()} cores, Python {platform.python_version()}"
