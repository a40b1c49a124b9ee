"""The processes of a training that ``accelerate launch`` started; without it there is one."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from llamaindex_code_retrieval._optional import require

_PURPOSE = "training an adapter"


def is_main_process() -> bool:
    """Return whether this process is the one that writes files and prints."""
    return os.environ.get("RANK", "0") == "0"


def check_one_process(purpose: str) -> None:
    """Refuse ``accelerate launch`` with several processes, which would all write the same files.

    Raises:
        ValueError: this process is one of several.
    """
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ValueError(f"{purpose} takes one process, and this is one of {count}; start it without accelerate launch")


@dataclass(frozen=True, slots=True)
class Processes:
    """All processes of a training, and which of them this one is."""

    count: int
    index: int

    @classmethod
    def join(cls, *, cpu: bool) -> Processes:
        """Connect to the other processes and, unless ``cpu``, let ``"cuda"`` mean the GPU of this process.

        Raises:
            ImportError: the package ``accelerate`` is missing.
        """
        accelerate = require("accelerate", extra="train", purpose=_PURPOSE)
        state = accelerate.PartialState(cpu=cpu or not torch.cuda.is_available())
        return cls(count=state.num_processes, index=state.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.index == 0

    def add(self, tensor: Tensor) -> Tensor:
        """Return the sum of what all processes pass to this call."""
        if self.count == 1:
            return tensor
        total: Tensor = require("accelerate.utils", extra="train", purpose=_PURPOSE).reduce(tensor, "sum")
        return total
