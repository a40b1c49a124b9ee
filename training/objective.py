"""The interface between the training loop and what it minimises: a loss with its batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

Entry = dict[str, Any]
"""One line of the log: the numbers of a step, or the scores of a validation."""


class Objective(Protocol):
    """What a training minimises, with all of its state except the trained parameters."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The trained parameters: clipped together, and kept in the state of the best step."""

    @property
    def extras(self) -> Mapping[str, Tensor]:
        """Further trained tensors, neither clipped nor decayed, such as a temperature."""

    @property
    def rate_factors(self) -> Mapping[str, float]:
        """Factors of the learning rate by parameter name; 1 for a name that is missing."""

    @property
    def ready(self) -> bool:
        """Whether the model in its current state may be the best one."""

    def prepare(self, step: int) -> None:
        """Run what precedes a step, such as mining."""

    def backward(self, step: int) -> tuple[float, str]:
        """Add the gradients of the next batch to the parameters; return its loss and its name for an error message."""

    def rewind(self) -> None:
        """Make the batch of the last ``backward`` the next one again."""

    def finish(self, step: int) -> Entry:
        """Run what follows the update of a step; return additions to the log entry."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the JSON values that a resumed run needs."""

    def restore(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
