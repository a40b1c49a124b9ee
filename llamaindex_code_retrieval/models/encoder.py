"""``Encoder``: texts to unit vectors, with a transformer backbone and perhaps an adapter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from llamaindex_code_retrieval.models import adapter as peft_adapter
from llamaindex_code_retrieval.models import states
from llamaindex_code_retrieval.models.adapter_base import check_adapter_base
from llamaindex_code_retrieval.models.backbone import load_backbone
from llamaindex_code_retrieval.models.batching import inference_batches
from llamaindex_code_retrieval.models.catalog import EMBEDDED, Pooling, Precision, Side
from llamaindex_code_retrieval.models.device import resolve_device, resolve_precision
from llamaindex_code_retrieval.models.fingerprint import base_metadata
from llamaindex_code_retrieval.models.locate import locate, locate_adapter
from llamaindex_code_retrieval.models.modify import quantize
from llamaindex_code_retrieval.models.packed_attention import packing_for
from llamaindex_code_retrieval.models.parallel import in_threads, workers_on
from llamaindex_code_retrieval.models.spec import EncoderSpec, check_virtual_tokens, read_spec
from llamaindex_code_retrieval.models.states import Rows
from llamaindex_code_retrieval.models.text_encoder import EncodedBatch, TextEncoder
from llamaindex_code_retrieval.models.tokenization import Tokenization


class Encoder(TextEncoder, nn.Module):
    """A bi-encoder: maps a query or a code to a unit vector, so that a dot product is a cosine.

    Build one with :meth:`from_pretrained`. ``encode_queries`` and ``encode_codes`` are for inference, ``forward`` is
    for training. Vectors do not depend on the other texts of a batch (to 1e-5 in fp32), and several threads may encode
    at once.
    """

    runtime = "torch"

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
        nn.Module.__init__(self)
        self.backbone = backbone
        self.describe(tokenization, spec, metadata, name=name, adapter=adapter)
        self.precision = precision
        self.folder = folder
        self.architecture = spec.architecture
        self._base = (backbone if base is None else base,)  # a tuple, so that the base is not a submodule
        self._packing = None if peft_adapter.virtual_tokens(backbone) else packing_for(backbone)
        projection = getattr(backbone, "proj", None)
        self.dim = projection.out_features if projection is not None else backbone.config.hidden_size

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
        check_virtual_tokens(peft_adapter.virtual_tokens(encoder.backbone), self.spec)
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
        check_adapter_base(folder, name=self.name, fingerprint=self.base_fingerprint, pooling=self.pooling)

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
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The fast tokenizer of transformers."""
        pretrained = self.tokenization.pretrained
        assert pretrained is not None  # from_pretrained loads it
        return pretrained

    @property
    def packs(self) -> bool:
        """Whether batches are computed without padding: on a CPU, with BERT's kind of backbone, not in train mode."""
        return self._packing is not None and not self.training and self.device.type == "cpu"

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = next(self.backbone.parameters()).device
        return device

    def _encode_rows(self, rows: Rows, token_budget: int | None) -> Generator[EncodedBatch, None, None]:
        budget = token_budget or (2048 if self.device.type == "cpu" else 65536)
        batches = inference_batches(list(map(len, rows)), budget, workers=workers_on(self.device), packed=self.packs)
        with closing(in_threads(lambda batch: self.embed([rows[i] for i in batch]), batches, self.device)) as embedded:
            for batch, vectors in zip(batches, embedded, strict=True):
                yield batch, vectors.cpu().numpy()

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
