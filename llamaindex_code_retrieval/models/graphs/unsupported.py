"""What a graph cannot express: torch runs such a model."""

from __future__ import annotations

from typing import Literal

Activation = Literal["gelu", "gelu_tanh", "relu"]

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


class UnsupportedModelError(Exception):
    """The model cannot be written as a graph; the message says what is missing, as a noun phrase."""


def activation_of(name: str) -> Activation:
    """Return the activation that transformers calls ``name``.

    Raises:
        UnsupportedModelError: it is another one.
    """
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(f"the activation {name!r}")
    return _ACTIVATIONS[name]
