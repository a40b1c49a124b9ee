"""Cache the activations of the layers below an adapter, which its training does not change."""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.modify import keep_layers, layer_count

_MODEL_TYPES = frozenset(("bert", "camembert", "mpnet", "roberta", "xlm-roberta"))
"""Backbones whose ``embeddings`` are followed by nothing but layers, each of which ends with a layer norm."""

_BYTES = np.dtype(np.float16).itemsize


def check_cacheable(encoder: Encoder) -> None:
    """Raise a ValueError if :func:`above_cached_layers` does not know the backbone of this encoder."""
    model_type = encoder.base.config.model_type  # type: ignore[union-attr]
    if model_type not in _MODEL_TYPES:
        raise ValueError(
            f"activations of a {model_type!r} model cannot be cached, only those of {', '.join(sorted(_MODEL_TYPES))}; "
            "leave activation_gigabytes at 0"
        )


def above_cached_layers(
    model: Encoder, first_layer: int, rows: Iterable[Sequence[int]], *, gigabytes: float, folder: Path | None = None
) -> Encoder:
    """Return the layers of ``model`` from ``first_layer`` on as an encoder of its own, on cached activations.

    It shares all parameters with ``model`` and returns the same vectors up to half precision, so training the one
    trains the other.

    Args:
        model: an encoder with an adapter on the layers from ``first_layer`` on.
        first_layer: number of the layers below.
        rows: the token rows that are expected, which bound the size of the cache; others may come.
        gigabytes: largest size of the cache on disk.
        folder: where the cache is; ``None`` is the folder of temporary files.

    Raises:
        ValueError: a backbone that this function does not know.
        OSError: too little space in ``folder``.
    """
    check_cacheable(model)
    width = model.dim
    expected = sum(map(len, set(map(tuple, rows))))
    cache = ActivationCache(
        model.with_backbone(lambda base: keep_layers(base, range(first_layer))),
        _half_precision_file(min(expected, int(gigabytes * 1e9) // (_BYTES * width)), width, folder),
    )
    shared = {id(tensor): tensor for tensor in (*model.backbone.parameters(), *model.backbone.buffers())}
    upper = copy.deepcopy(model.backbone, shared)
    backbone = upper.get_base_model()
    keep_layers(backbone, range(first_layer, layer_count(backbone)))
    backbone.embeddings = cache
    if backbone.config._attn_implementation != "eager":
        backbone.set_attn_implementation("sdpa")  # not packed, because the cache looks up one text a row
    return model.with_backbone(lambda base: upper)


def _half_precision_file(tokens: int, width: int, folder: Path | None) -> NDArray[np.float16]:
    """Return a memory-mapped array ``(tokens, width)``, whose file disappears with the process, even a killed one."""
    size = max(1, tokens) * width * _BYTES
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk would end the process at a later write
            else:
                file.truncate(size)
        except OSError as error:
            raise OSError(
                f"caching activations needs {size / 1e9:.1f} GB in {folder or tempfile.gettempdir()} "
                f"({error.strerror}); free some space, or lower activation_gigabytes"
            ) from error
        return np.memmap(file, dtype=np.float16, shape=(max(1, tokens), width))[:tokens]


class ActivationCache(nn.Module):
    """The embeddings and lower layers of a backbone; computes each row of tokens once and looks it up afterwards.

    When the file is full, further rows are computed each time.
    """

    def __init__(self, lower: Encoder, file: NDArray[np.float16]) -> None:
        super().__init__()
        self._lower = (lower,)  # a tuple, so that its parameters are not a submodule's
        self._file = file
        self._places: dict[bytes, int] = {}
        self._used = 0

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        """Return the output of the last lower layer, ``(rows, tokens, width)``; zero for padding."""
        (lower,) = self._lower
        rows = [_without_padding(row, lower.tokenization.pad_id) for row in input_ids.cpu().numpy()]
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._places}
        computed = self._compute(new)
        states = np.zeros((*input_ids.shape, self._file.shape[1]), dtype=np.float16)
        for target, key, row in zip(states, keys, rows, strict=True):
            place = self._places.get(key, -1)
            target[: len(row)] = computed[key] if key in computed else self._file[place : place + len(row)]
        return torch.from_numpy(states).to(input_ids.device).float()

    def _compute(self, rows: dict[bytes, NDArray[np.int64]]) -> dict[bytes, NDArray[np.float16]]:
        """Return the activations of new rows, and keep those for which there is room."""
        if not rows:
            return {}
        (lower,) = self._lower
        with torch.no_grad():
            hidden, _ = lower.hidden_states([row.tolist() for row in rows.values()])
        computed: dict[bytes, NDArray[np.float16]] = {}
        for (key, row), states in zip(rows.items(), hidden.half().cpu().numpy(), strict=True):
            computed[key] = states[: len(row)]
            if self._used + len(row) <= len(self._file):
                self._file[self._used : self._used + len(row)] = computed[key]
                self._places[key] = self._used
                self._used += len(row)
        return computed


def _without_padding(row: NDArray[np.int64], pad_id: int) -> NDArray[np.int64]:
    """Return a row up to its last token that is no padding."""
    return row[: np.flatnonzero(row != pad_id)[-1] + 1]
