"""``Encoder``: texts to unit vectors, with a transformer backbone and perhaps an adapter."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from llamaindex_code_retrieval._io import json_hash
from llamaindex_code_retrieval._settings import check_is_list
from llamaindex_code_retrieval.models import adapter as peft_adapter
from llamaindex_code_retrieval.models import states
from llamaindex_code_retrieval.models.backbone import load_backbone
from llamaindex_code_retrieval.models.batching import inference_batches
from llamaindex_code_retrieval.models.catalog import EMBEDDED, SIDES, Pooling, Precision, Side
from llamaindex_code_retrieval.models.device import resolve_device, resolve_precision
from llamaindex_code_retrieval.models.fingerprint import adapter_metadata, base_metadata, without_token_limits
from llamaindex_code_retrieval.models.locate import locate, locate_adapter
from llamaindex_code_retrieval.models.modify import quantize
from llamaindex_code_retrieval.models.packed_attention import packing_for
from llamaindex_code_retrieval.models.parallel import in_threads, workers_on
from llamaindex_code_retrieval.models.spec import EncoderSpec, read_spec
from llamaindex_code_retrieval.models.states import Rows
from llamaindex_code_retrieval.models.tokenization import Tokenization

logger = logging.getLogger(__name__)


class Encoder(nn.Module):
    """A bi-encoder: maps a query or a code to a unit vector, so that a dot product is a cosine.

    Build one with :meth:`from_pretrained`. ``encode_queries`` and ``encode_codes`` are for inference, ``forward`` is
    for training. Vectors do not depend on the other texts of a batch (to 1e-5 in fp32), and several threads may encode
    at once.
    """

    def __init__(
        self,
        backbone: Any,
        tokenization: Tokenization,
        spec: EncoderSpec,
        *,
        metadata: dict[str, Any],
        precision: Literal["fp32", "bf16"],
        name: str,
        folder: Path,
        base: Any = None,
        adapter: Path | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenization = tokenization
        self.spec = spec
        self.precision = precision
        self.name = name
        self.folder = folder
        self.adapter = adapter
        self.architecture = spec.architecture
        self.pooling = spec.pooling
        self.max_query_tokens = spec.max_query_tokens
        self.max_code_tokens = spec.max_code_tokens
        self.fingerprint: str = json_hash(
            metadata if adapter is None else metadata | {"adapter": adapter_metadata(adapter)}
        )
        """16 hex digits over all that decides a vector, except the precision and the device.

        An index built in bf16 on a GPU answers queries that a laptop encodes in fp32.
        """
        self._metadata = metadata
        self._base = (backbone if base is None else base,)  # a tuple, so that the base is not a submodule
        self._packing = None if peft_adapter.virtual_tokens(backbone) else packing_for(backbone)
        self._warned = False
        projection = getattr(backbone, "proj", None)
        self.dim: int = projection.out_features if projection is not None else backbone.config.hidden_size

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = EMBEDDED,
        *,
        adapter: str | Path | None = None,
        device: str | None = None,
        precision: Precision = "auto",
        pooling: Pooling | None = None,
        max_query_tokens: int | None = None,
        max_code_tokens: int | None = None,
        merge_adapter: bool = True,
    ) -> Self:
        """Load a base by known name, hub name (``org/name`` or ``org/name@revision``) or folder.

        ``adapter`` is a shipped name, folder or hub name in PEFT's format; for ``merge_adapter`` see
        :meth:`with_adapter`. ``precision="auto"`` means bf16 where the device computes it natively and fp32 elsewhere
        (a CPU without bf16 instructions emulates it a hundred times slower). Pooling and token limits default to the
        table of known bases, then to the checkpoint's sentence-transformers files, then to the mean over as many tokens
        as the model has positions, at most 512.

        Raises:
            ValueError: unknown name or architecture, weights that are missing, not in safetensors or not finite, a
                wrong SHA-256 of the embedded model, an adapter that does not fit.
        """
        folder = locate(name_or_path)
        spec = read_spec(
            folder,
            name=str(name_or_path),
            pooling=pooling,
            max_query_tokens=max_query_tokens,
            max_code_tokens=max_code_tokens,
        )
        resolved_device = resolve_device(device)
        resolved_precision = resolve_precision(precision, resolved_device)
        if adapter is not None:
            adapter = locate_adapter(adapter)  # a wrong name fails before the weights are read
        backbone = load_backbone(folder, spec.architecture)
        encoder = cls(
            backbone.to(device=resolved_device, dtype=_dtype(resolved_precision)),
            Tokenization.load(folder, spec.architecture),
            spec,
            metadata=base_metadata(folder, spec),
            precision=resolved_precision,
            name=str(name_or_path),
            folder=folder,
        )
        encoder.eval()
        return encoder if adapter is None else encoder.with_adapter(adapter, merge=merge_adapter)

    def with_adapter(self, adapter: str | Path, *, merge: bool = True) -> Self:
        """Return an encoder of the same base with another adapter; this one stays as it is.

        Both share the base's weights. LoRA, AdaLoRA and (IA)3 are merged into copies of the weights that they change.
        Without ``merge`` an adapter costs its own few weights only, as prompt tuning always does, and inference is
        slower by a fifth or more.

        Raises:
            ValueError: no such adapter, or one that does not fit the base, its pooling or its positions.
        """
        folder = locate_adapter(adapter)
        encoder = self.with_peft(folder, merge=merge)
        peft_adapter.check_virtual_tokens(encoder.backbone, self.spec)
        return encoder

    def with_peft(
        self,
        folder: Path,
        *,
        merge: bool = True,
        int8: bool = False,
        prepare: Callable[[nn.Module], nn.Module] = lambda base: base,
    ) -> Self:
        """Return an encoder of the same base with the PEFT adapter in ``folder``, also one of a reranker or student.

        ``int8`` quantizes the backbone, with the adapter merged. ``prepare`` changes the base before the adapter is
        added, as ``change`` of :meth:`with_backbone` does.
        """
        self.check_adapter_base(folder)

        def change(base: nn.Module) -> nn.Module:
            adapted = peft_adapter.load_adapter(prepare(base), folder)
            return peft_adapter.merge_adapter(adapted) if merge or int8 else adapted

        return self.with_backbone(change, adapter=folder, int8=int8)

    def check_adapter_base(self, folder: Path) -> None:
        """Raise a ValueError if an adapter's files say that it was trained on another base or for another pooling."""
        peft_adapter.check_adapter_base(folder, name=self.name, fingerprint=self.base_fingerprint, pooling=self.pooling)

    def without_adapter(self) -> Self:
        """Return an encoder of the same base without an adapter; it shares the base's weights."""
        return self.with_backbone(lambda base: base)

    def with_backbone(
        self, change: Callable[[nn.Module], nn.Module], *, adapter: Path | None = None, int8: bool = False
    ) -> Self:
        """Return an encoder whose backbone is ``change(base)``, quantized and otherwise in fp32 with ``int8``.

        ``change`` gets modules of its own that share the parameters of the base. It may wrap, add and remove modules,
        but must not edit parameters in place.
        """
        (base,) = self._base
        shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
        backbone = change(copy.deepcopy(base, shared))
        encoder = type(self)(
            quantize(backbone) if int8 else backbone.to(device=self.device, dtype=_dtype(self.precision)),
            self.tokenization,
            self.spec,
            metadata=self._metadata,
            precision="fp32" if int8 else self.precision,
            name=self.name,
            folder=self.folder,
            base=base,
            adapter=adapter,
        )
        encoder.eval()
        return encoder

    @property
    def base(self) -> nn.Module:
        """The backbone without an adapter; all encoders made from this one share its parameters."""
        base: nn.Module = self._base[0]
        return base

    @property
    def base_fingerprint(self) -> str:
        """16 hex digits over the base's weights, tokenizer and pooling, without the adapter and the token limits."""
        return json_hash(without_token_limits(self._metadata))

    @property
    def positions(self) -> int | None:
        """The largest number of tokens that the backbone reads; ``None`` where it has no limit."""
        return self.spec.positions

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The fast tokenizer of transformers."""
        return self.tokenization.tokenizer

    @property
    def packs(self) -> bool:
        """Whether batches are computed without padding: on a CPU, with BERT's kind of backbone, not in training."""
        return self._packing is not None and not self.training and self.device.type == "cpu"

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = next(self.backbone.parameters()).device
        return device

    def tokenize(self, texts: Sequence[str], *, side: Side, truncate: bool = True) -> list[list[int]]:
        """Return the token ids of each text, special tokens included, truncated to the limit of the side."""
        return self._tokenize(texts, side, truncate=truncate)[0]

    def is_truncated(self, texts: Sequence[str], *, side: Side) -> NDArray[np.bool_]:
        """Return for each text whether it is longer than the token limit, so that its end is not embedded."""
        return self._tokenize(texts, side)[1]

    def count_tokens(self, texts: Sequence[str], *, side: Side) -> int:
        """Return the number of tokens that are read of all texts together, special tokens included."""
        return sum(map(len, self.tokenize(texts, side=side)))

    def _tokenize(
        self, texts: Sequence[str], side: Side, *, truncate: bool = True
    ) -> tuple[list[list[int]], NDArray[np.bool_]]:
        check_is_list(texts, "texts")
        if side not in SIDES:
            raise ValueError(f"side must be 'query' or 'code', got {side!r}")
        prompt = self.spec.query_prompt if side == "query" else self.spec.code_prompt
        return self.tokenization.rows(texts, max_tokens=self._max_tokens(side) if truncate else None, prompt=prompt)

    def _max_tokens(self, side: Side) -> int:
        return self.max_query_tokens if side == "query" else self.max_code_tokens

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(queries, dim)`` in the order given."""
        return self.encode(queries, side="query")

    def encode_codes(self, codes: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(codes, dim)`` in the order given."""
        return self.encode(codes, side="code")

    def encode(
        self,
        texts: Sequence[str],
        *,
        side: Side,
        token_budget: int | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(texts, dim)``, without gradient.

        Batches have at most ``token_budget`` tokens, padding included. The default, 2,048 on a CPU and 65,536 on a GPU,
        is where throughput stops growing: larger batches do not fit a CPU's cache. ``on_progress`` is called after each
        batch with its number of texts.
        """
        if token_budget is not None and token_budget < 1:
            raise ValueError(f"token_budget must be at least 1, got {token_budget}")
        rows, truncated = self._tokenize(texts, side)
        self._warn_once(truncated, side)
        lengths = [len(row) for row in rows]
        budget = token_budget or (2048 if self.device.type == "cpu" else 65536)
        workers = workers_on(self.device)
        batches = inference_batches(lengths, budget, workers=workers, packed=self.packs)
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        with closing(in_threads(lambda batch: self.embed([rows[i] for i in batch]), batches, self.device)) as embedded:
            for batch, batch_vectors in zip(batches, embedded, strict=True):
                vectors[batch] = batch_vectors.cpu().numpy()
                if on_progress is not None:
                    on_progress(len(batch))
        return vectors

    def _warn_once(self, truncated: NDArray[np.bool_], side: Side) -> None:
        if truncated.any() and not self._warned:
            self._warned = True
            message = "%d of %d texts are longer than %d tokens; their end is not embedded (logged once per encoder)"
            logger.warning(message, truncated.sum(), len(truncated), self._max_tokens(side))

    def forward(self, texts: Sequence[str], *, side: Side) -> Tensor:
        """Return unit vectors of shape ``(texts, dim)`` in fp32 as one differentiable batch."""
        return self.embed(self.tokenize(texts, side=side))

    def embed(self, ids: Rows, *, length: int = 0) -> Tensor:
        """Return unit vectors of token rows, shape ``(rows, dim)``, differentiable; padded to ``length`` at least."""
        if not ids:
            return torch.empty(0, self.dim, device=self.device)
        pooled = states.pooled_states(
            self.backbone,
            ids,
            pooling=self.pooling,
            packing=self._packing if self.packs else None,
            length=length,
            pad_id=self.tokenization.pad_id,
        )
        projection = getattr(self.backbone, "proj", None)
        if projection is not None:
            pooled = projection(pooled.to(_dtype(self.precision))).float()
        return F.normalize(pooled, dim=-1)

    def hidden_states(
        self, ids: Rows, *, starts: Sequence[int] | None = None, length: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the last hidden states in fp32, ``(rows, tokens, width)``, and the mask of text tokens.

        ``starts`` are the positions at which the second text of each row begins, for backbones with token types.
        """
        return states.hidden_states(
            self.backbone,
            ids,
            starts=starts,
            packing=self._packing if self.packs else None,
            length=length,
            pad_id=self.tokenization.pad_id,
        )


def _dtype(precision: Literal["fp32", "bf16"]) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32
