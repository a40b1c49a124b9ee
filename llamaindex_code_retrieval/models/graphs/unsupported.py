"""What a graph cannot express: torch runs such a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def fitting_weights() -> Iterator[None]:
    """Raise an ``UnsupportedModelError`` where a graph is built of weights that lack a tensor or have other shapes."""
    try:
        yield
    except KeyError as error:
        raise UnsupportedModelError(f"a checkpoint without {error}") from error
    except RuntimeError as error:  # of OpenVINO, for shapes
        raise UnsupportedModelError("weights that do not fit their config.json") from error


def activation_of(name: str) -> Activation:
    """Return the activation that transformers calls ``name``.

    Raises:
        UnsupportedModelError: it is another one.
    """
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(f"the activation {name!r}")
    return _ACTIVATIONS[name]
