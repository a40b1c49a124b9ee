"""``Encoder``: texts to unit vectors, by a transformer backbone that ``backbone.py`` loads."""

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
from torch.nn.utils.rnn import pad_sequence

from llamaindex_code_retrieval._io import clean_text, read_json
from llamaindex_code_retrieval.models.backbone import load_backbone, load_tokenizer, special_tokens
from llamaindex_code_retrieval.models.batching import batch_budget, even_batches, token_budget_batches
from llamaindex_code_retrieval.models.catalog import EMBEDDED, Pooling, Precision, Side, hub_name
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, DAMAGED, TRAIN_CONFIG
from llamaindex_code_retrieval.models.locate import is_hub_name, locate, locate_adapter
from llamaindex_code_retrieval.models.modify import load_adapter, merge_adapter, quantize, virtual_tokens
from llamaindex_code_retrieval.models.packed_attention import Packing, packing_for
from llamaindex_code_retrieval.models.parallel import in_threads, workers_on
from llamaindex_code_retrieval.models.spec import (
    EncoderSpec,
    _adapter_facts,
    _check_room,
    _facts,
    _hash,
    _plan,
    resolve_device,
    resolve_precision,
)

logger = logging.getLogger(__name__)


class Encoder(nn.Module):
    """A bi-encoder: maps a query or a code to a unit vector, so that a dot product is a cosine.

    Build one with :meth:`from_pretrained`; ``encode_queries`` and ``encode_codes`` are for use, ``forward`` to train.
    Vectors do not depend on what else is in the batch (to 1e-5 in fp32), and several threads may call at once.
    """

    def __init__(
        self,
        backbone: Any,
        tokenizer: Any,
        plan: EncoderSpec,
        *,
        facts: dict[str, Any],
        precision: Literal["fp32", "bf16"],
        name: str,
        folder: Path,
        base: Any = None,
        adapter: Path | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.precision = precision
        self.name = name
        self.folder = folder
        self.adapter = adapter
        self.architecture = plan.architecture
        self._base = (backbone if base is None else base,)  # in a tuple: it is no part of this module
        self._facts = facts
        self.fingerprint: str = _hash(facts if adapter is None else facts | {"adapter": _adapter_facts(adapter)})
        """16 hex digits over all that decides a vector, except the arithmetic's precision and the device.

        Precision stays out on purpose: an index built in bf16 on a GPU answers queries that a laptop encodes in fp32.
        """
        self.pooling = plan.pooling
        self.max_query_tokens = plan.max_query_tokens
        self.max_code_tokens = plan.max_code_tokens
        self._plan = plan
        self._tokenizer = tokenizer
        self._prefix, self._suffix = special_tokens(tokenizer, plan.architecture)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._virtual_tokens = virtual_tokens(backbone)
        self._packing = None if self._virtual_tokens else packing_for(backbone)
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

        ``adapter`` is a folder or hub name in PEFT's format; for ``merge_adapter`` see :meth:`with_adapter`.
        ``precision="auto"`` takes bf16 where the device computes it natively and fp32 elsewhere (a CPU without bf16
        instructions emulates it a hundred times slower).
        Pooling and token limits default to the table of known bases, then to the checkpoint's sentence-transformers
        files, then to masked mean and as many tokens as the model has positions, at most 512.

        Raises:
            ValueError: unknown name, unknown architecture, weights missing or not in safetensors, wrong SHA-256 of
                the embedded model, an adapter that does not fit.
        """
        folder = locate(name_or_path)
        plan = _plan(
            folder,
            name=str(name_or_path),
            pooling=pooling,
            max_query_tokens=max_query_tokens,
            max_code_tokens=max_code_tokens,
        )
        chosen_device = resolve_device(device)
        chosen_precision = resolve_precision(precision, chosen_device)
        if adapter is not None:
            adapter = locate_adapter(adapter)  # fails before the weights are read
        backbone = load_backbone(folder, plan.architecture)
        backbone = backbone.to(
            device=chosen_device, dtype=torch.bfloat16 if chosen_precision == "bf16" else torch.float32
        )
        encoder = cls(
            backbone,
            load_tokenizer(folder, plan.architecture),
            plan,
            facts=_facts(folder, plan),
            precision=chosen_precision,
            name=str(name_or_path),
            folder=folder,
        )
        encoder.eval()
        return encoder if adapter is None else encoder.with_adapter(adapter, merge=merge_adapter)

    def with_adapter(self, adapter: str | Path, *, merge: bool = True) -> Self:
        """Return an encoder of the same base with another adapter; this one stays as it is.

        Both share the base's weights and nothing is loaded again. LoRA, AdaLoRA and (IA)3 are merged into copies of the
        weights that they change, so a further adapter costs those copies. Without ``merge`` it costs its own few
        weights alone, as prompt tuning always does, and inference is slower by a fifth or more.

        Raises:
            ValueError: no adapter there, one that does not fit, or one that ``train_config.json`` beside it says was
                trained on another base or for another pooling.
        """
        folder = locate_adapter(adapter)
        encoder = self.with_peft(folder, merge=merge)
        _check_room(encoder.backbone, self._plan)
        return encoder

    def with_peft(
        self,
        folder: Path,
        *,
        merge: bool = True,
        int8: bool = False,
        prepare: Callable[[nn.Module], nn.Module] = lambda base: base,
    ) -> Self:
        """Return an encoder of the same base with what PEFT saved in ``folder``, whatever it is for.

        For ``merge`` see :meth:`with_adapter`; with ``int8`` it is merged in any case. ``prepare`` changes the base
        first, as :meth:`with_backbone` says.
        """
        self.check_trained_for_this(folder)

        def change(backbone: nn.Module) -> nn.Module:
            backbone = load_adapter(prepare(backbone), folder)
            return merge_adapter(backbone) if merge or int8 else backbone

        return self.with_backbone(change, adapter=folder, int8=int8)

    def without_adapter(self) -> Self:
        """Return an encoder of the same base with no adapter; it shares the base's weights."""
        return self.with_backbone(lambda backbone: backbone)

    def with_backbone(
        self, change: Callable[[nn.Module], nn.Module], *, adapter: Path | None = None, int8: bool = False
    ) -> Self:
        """Return an encoder whose backbone is ``change(base)``, with ``int8`` quantized and in fp32 otherwise.

        ``change`` may wrap and add modules, but not edit weights: it gets modules of its own with the parameters
        of the base, without any adapter.
        """
        (base,) = self._base
        shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
        backbone = change(copy.deepcopy(base, shared))
        if int8:
            backbone = quantize(backbone)
        else:
            backbone = backbone.to(
                device=self.device, dtype=torch.bfloat16 if self.precision == "bf16" else torch.float32
            )
        encoder = type(self)(
            backbone,
            self._tokenizer,
            self._plan,
            facts=self._facts,
            precision="fp32" if int8 else self.precision,
            name=self.name,
            folder=self.folder,
            base=base,
            adapter=adapter,
        )
        encoder.eval()
        return encoder

    def check_trained_for_this(self, folder: Path) -> None:
        """Raise a ValueError if the files of an adapter say that it was trained on another base or pooling.

        ``train_config.json`` says it of our adapters, ``base_model_name_or_path`` of others where it is a hub name.
        """
        if not (folder / TRAIN_CONFIG).is_file():
            made_for = read_json(folder / ADAPTER_CONFIG, remedy=DAMAGED).get("base_model_name_or_path") or ""
            names = [hub_name(name.partition("@")[0]) for name in (made_for, self.name)]
            if all(map(is_hub_name, names)) and names[0] != names[1]:
                raise ValueError(
                    f"the adapter in {folder} was made for {made_for!r}, not for {self.name!r}; load that base, or "
                    "correct base_model_name_or_path in its adapter_config.json if both are the same model"
                )
            return
        base = read_json(folder / TRAIN_CONFIG, remedy=DAMAGED).get("base", {})
        if base.get("pooling", self.pooling) != self.pooling:
            raise ValueError(
                f"the adapter in {folder} was trained for pooling {base['pooling']!r}, this base pools by "
                f"{self.pooling!r}; pass pooling={base['pooling']!r}"
            )
        if base.get("fingerprint", self.base_fingerprint) != self.base_fingerprint:
            raise ValueError(
                f"the adapter in {folder} was trained on {base.get('name')!r} with base fingerprint "
                f"{base['fingerprint']}, but this base, {self.folder}, has {self.base_fingerprint}; "
                "load that base, or train an adapter for this one"
            )

    @property
    def base(self) -> nn.Module:
        """The backbone without any adapter; its parameters are shared by all encoders made from this one."""
        base: nn.Module = self._base[0]
        return base

    @property
    def base_fingerprint(self) -> str:
        """16 hex digits over the base's weights, tokenizer and pooling, whatever the adapter and the token limits."""
        limits = ("max_query_tokens", "max_code_tokens")
        plan = {name: value for name, value in self._facts["plan"].items() if name not in limits}
        return _hash(self._facts | {"plan": plan})

    def pair_layout(self) -> tuple[list[int], list[int], list[int]]:
        """Return the ids that stand before, between and after two texts that are read as one."""
        if self.architecture == "codesage":  # its tokenizer puts nothing between two texts
            return [], self._suffix, self._suffix
        text = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        pair = self._tokenizer("a", "a")["input_ids"]
        first, second = (i for i in range(len(pair)) if pair[i : i + len(text)] == text)
        return self._prefix, list(pair[first + len(text) : second]), list(pair[second + len(text) :])

    @property
    def positions(self) -> int | None:
        """How many tokens the backbone can read at most; ``None`` where it knows no limit."""
        return self._plan.positions

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, a fast one of transformers."""
        return self._tokenizer

    @property
    def packs(self) -> bool:
        """Whether texts are computed without padding them to each other: BERT's kind of backbone, on a CPU, in use."""
        return self._packing is not None and not self.training and self.device.type == "cpu"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.backbone.parameters()).device
        return device

    def forward(self, texts: Sequence[str], *, side: Side) -> Tensor:
        """Return unit vectors of shape ``(texts, dim)`` as one differentiable batch in fp32."""
        return self.embed(self.tokenize(texts, side=side))

    def tokenize(self, texts: Sequence[str], *, side: Side) -> list[list[int]]:
        """Return the token ids of each text, cut to the side's limit, special tokens included."""
        return self._tokenize(texts, side)[0]

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(queries, dim)`` in the order given."""
        return self.encode(queries, side="query")

    def encode_codes(self, codes: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(codes, dim)`` in the order given."""
        return self.encode(codes, side="code")

    def is_truncated(self, texts: Sequence[str], *, side: Side) -> NDArray[np.bool_]:
        """Tell for each text whether its end lies beyond the token limit, so that it is not embedded."""
        return self._tokenize(texts, side)[1]

    def count_tokens(self, texts: Sequence[str], *, side: Side) -> int:
        """Return how many tokens are read of all texts together, special tokens included."""
        return sum(len(row) for row in self.tokenize(texts, side=side))

    def encode(
        self,
        texts: Sequence[str],
        *,
        side: Side,
        token_budget: int | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> NDArray[np.float32]:
        """Encode without gradient, in batches of at most ``token_budget`` tokens, padded ones included.

        ``on_progress`` is called after each batch with the number of texts in it. The default budget, 2,048 tokens on
        a CPU and 65,536 on a GPU, is where throughput stops growing: larger batches fall out of a CPU's cache.
        """
        ids, truncated = self._tokenize(texts, side)
        lengths = [len(row) for row in ids]
        limit = token_budget or (2048 if self.device.type == "cpu" else 65536)
        workers = workers_on(self.device)
        if self.packs:
            batches = even_batches(lengths, limit, workers=workers)
        else:
            batches = list(token_budget_batches(lengths, batch_budget(limit, sum(lengths), workers=workers)))
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        with closing(in_threads(lambda batch: self.embed([ids[i] for i in batch]), batches, self.device)) as embedded:
            for batch, found in zip(batches, embedded, strict=True):
                vectors[batch] = found.cpu().numpy()
                if on_progress is not None:
                    on_progress(len(batch))
        if truncated.any() and not self._warned:
            self._warned = True
            limit = self.max_query_tokens if side == "query" else self.max_code_tokens
            logger.warning(
                "%d of %d texts are longer than %d tokens; what is beyond is not embedded (said once per encoder)",
                truncated.sum(),
                len(texts),
                limit,
            )
        return vectors

    def _tokenize(self, texts: Sequence[str], side: Side) -> tuple[list[list[int]], NDArray[np.bool_]]:
        if not texts:
            return [], np.zeros(0, dtype=np.bool_)
        prompt = self._plan.query_prompt if side == "query" else self._plan.code_prompt
        limit = self.max_query_tokens if side == "query" else self.max_code_tokens
        room = limit - len(self._prefix) - len(self._suffix)
        # A lone surrogate (a byte that was no UTF-8) has no place in the tokenizer's UTF-8 strings.
        clean = [clean_text(prompt + text) for text in texts]
        rows = self._tokenizer(
            clean, add_special_tokens=False, truncation=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        truncated = np.fromiter((len(row) > room for row in rows), dtype=np.bool_, count=len(rows))
        return [[*self._prefix, *row[:room], *self._suffix] for row in rows], truncated

    def embed(self, ids: Sequence[Sequence[int]], *, length: int = 0) -> Tensor:
        """Return unit vectors of token rows, shape ``(rows, dim)``, differentiable.

        Where rows are padded, then to ``length`` at least.
        """
        if not ids:
            return torch.empty(0, self.dim, device=self.device)
        if (packing := self._packing_for(ids)) is not None:
            texts = self._packed_states(packing, ids)
            pooled = torch.stack([states[0] if self.pooling == "cls" else states.mean(0) for states in texts])
        else:
            hidden, mask = self.hidden_states(ids, length=length)
            if self.pooling == "cls":
                pooled = hidden[:, 0]
            else:
                weights = mask.unsqueeze(-1).to(hidden.dtype)  # (batch, tokens, 1)
                pooled = (hidden * weights).sum(1) / weights.sum(1)
        projection = getattr(self.backbone, "proj", None)
        if projection is not None:
            pooled = projection(pooled.to(torch.bfloat16 if self.precision == "bf16" else torch.float32)).float()
        return F.normalize(pooled, dim=-1)

    def hidden_states(
        self, ids: Sequence[Sequence[int]], *, starts: Sequence[int] | None = None, length: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the last hidden states in fp32, ``(rows, tokens, width)``, and the mask of text tokens.

        ``starts`` says at which token the second text of each row begins, where a backbone tells two texts apart.
        """
        if (packing := self._packing_for(ids)) is not None:
            texts = self._packed_states(packing, ids, starts)
            ones = [torch.ones(len(states), dtype=torch.long) for states in texts]
            return pad_sequence(texts, batch_first=True), pad_sequence(ones, batch_first=True)
        length = max(length, *(len(row) for row in ids))
        tokens = torch.full((len(ids), length), self._pad, dtype=torch.long)  # (batch, tokens)
        mask = torch.zeros((len(ids), length), dtype=torch.long)
        types = torch.zeros((len(ids), length), dtype=torch.long)
        for i, row in enumerate(ids):
            tokens[i, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[i, : len(row)] = 1
            if starts is not None:
                types[i, starts[i] : len(row)] = 1
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        second = {"token_type_ids": types.to(self.device)} if starts is not None and self._tells_two_apart else {}
        hidden = self.backbone(input_ids=tokens, attention_mask=mask, **second).last_hidden_state
        # Prompt tuning prepends virtual tokens; what is read is the text.
        return hidden[:, self._virtual_tokens :].float(), mask

    def _packing_for(self, ids: Sequence[Sequence[int]]) -> Packing | None:
        """Return how to pack these rows, ``None`` where they are padded or have nothing to pad."""
        return self._packing if self.packs and len({len(row) for row in ids}) > 1 else None

    def _packed_states(
        self, packing: Packing, ids: Sequence[Sequence[int]], starts: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the last hidden states of each row in fp32, ``(tokens, width)``; see :meth:`hidden_states`."""
        lengths = [len(row) for row in ids]
        second = starts if starts is not None and self._tells_two_apart else lengths
        types = [[0] * start + [1] * (length - start) for start, length in zip(second, lengths, strict=True)]
        (hidden,) = self.backbone(**packing.inputs(ids, types)).last_hidden_state  # (tokens of all, width)
        return list(torch.split(hidden.float(), lengths))

    @property
    def _tells_two_apart(self) -> bool:
        return getattr(self.backbone.config, "type_vocab_size", 0) > 1
