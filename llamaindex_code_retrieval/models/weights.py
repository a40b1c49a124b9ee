"""Read and check weights: each expected tensor is present, of its shape and finite, and there are no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

if TYPE_CHECKING:  # a query encoder that is a table works without torch, which is slow to import
    from torch import Tensor, nn

Array = NDArray[Any]
Shapes = Mapping[str, Sequence[int]]
"""The shape of each tensor by its name."""


_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "I8": "i1", "BOOL": "?"}
"""NumPy's names of safetensors' types."""


def read_weights(path: Path, *, remedy: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        ValueError: the file is missing or damaged; the message ends with ``remedy``.
    """
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {remedy}") from error


def read_arrays(path: Path, *, remedy: str) -> dict[str, Array]:
    """Return the tensors of a safetensors file as NumPy arrays, those in bf16 as fp32; see :func:`read_weights`.

    Raises:
        TypeError: a tensor in another type that NumPy lacks.
    """
    from safetensors.numpy import load_file

    try:
        try:
            return load_file(path)
        except (AttributeError, TypeError):  # NumPy has no such type
            tensors: list[tuple[str, dict[str, Any]]] = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
            return {name: _array(**tensor) for name, tensor in tensors}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {remedy}") from error


def _array(dtype: str, shape: Sequence[int], data: bytes) -> Array:
    """Return an array of a tensor that safetensors has read."""
    if dtype == "BF16":  # the upper half of the bits of an fp32 number
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if dtype not in _TYPES:
        raise TypeError(dtype)
    return np.frombuffer(data, dtype=_TYPES[dtype]).reshape(shape)


def load_weights(module: nn.Module, path: Path, *, remedy: str) -> None:
    """Copy the tensors of a safetensors file into the parameters of ``module``.

    Raises:
        ValueError: the file cannot be read, or does not fit the module; see :func:`check_weights`.
    """
    weights = read_weights(path, remedy=remedy)
    parameters = dict(module.named_parameters())
    check_weights(weights, {name: tensor.shape for name, tensor in parameters.items()}, source=path, remedy=remedy)
    for name, parameter in parameters.items():
        parameter.data.copy_(weights[name])


def check_weights(
    weights: Mapping[str, Tensor] | Mapping[str, Array], expected: Shapes, *, source: Path, remedy: str
) -> None:
    """Check that ``weights`` are exactly the ``expected`` tensors.

    Raises:
        ValueError: a tensor is missing, unexpected, of another shape or not finite. The message names ``source`` and
            the first tensors of each kind, and ends with ``remedy``.
    """
    faults = []
    if missing := expected.keys() - weights.keys():
        faults.append(f"{len(missing)} of {len(expected)} tensors are missing: {name_some(missing)}")
    if unexpected := weights.keys() - expected.keys():
        faults.append(f"{len(unexpected)} tensors are unexpected: {name_some(unexpected)}")
    shapes = {name: (tuple(weights[name].shape), tuple(expected[name])) for name in weights.keys() & expected.keys()}
    if wrong := {f"{name} is {got}, expected {want}" for name, (got, want) in shapes.items() if got != want}:
        faults.append(f"{len(wrong)} tensors have another shape: {name_some(wrong)}")
    if faults:
        raise ValueError(f"the weights in {source} do not fit this model: {'; '.join(faults)}; {remedy}")
    check_finite(weights, source=source, remedy=remedy)


def check_finite(weights: Mapping[str, Tensor] | Mapping[str, Array], *, source: Path, remedy: str) -> None:
    """Raise a ValueError that names the tensors with NaN or infinite values, if there are any."""
    if broken := {name for name, tensor in weights.items() if not _is_finite(tensor)}:
        raise ValueError(
            f"the weights in {source} hold NaN or infinite values in {len(broken)} tensors: {name_some(broken)}; "
            f"{remedy}"
        )


def _is_finite(tensor: Tensor | Array) -> bool:
    if isinstance(tensor, np.ndarray):
        return tensor.dtype.kind != "f" or bool(np.isfinite(tensor).all())
    # A sum takes a tenth of the time. It also overflows where half-precision values are large, so it proves one side.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def name_some(names: set[str], *, count: int = 3) -> str:
    """Return the first ``count`` names in order, and an ellipsis for the others.

    >>> name_some({"b", "a", "c"}, count=2)
    'a, b, …'
    """
    return ", ".join([*sorted(names)[:count], *(["…"] if len(names) > count else [])])
