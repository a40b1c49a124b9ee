"""``Encoder``: texts to unit vectors, by a body that ``bodies.py`` loads."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from llamaindex_code_retrieval.batching import batch_budget, even_batches, token_budget_batches
from llamaindex_code_retrieval.bodies import (
    attached,
    load_body,
    load_tokenizer,
    merged,
    quantized,
    special_tokens,
    virtual_tokens,
)
from llamaindex_code_retrieval.checkpoints import (
    ADAPTER_WEIGHTS,
    TRAIN_CONFIG,
    locate,
    locate_adapter,
    read_json,
    sha256_of,
)
from llamaindex_code_retrieval.models import BASES, EMBEDDED, Architecture, Pooling, architecture_of
from llamaindex_code_retrieval.packing import Packing, packing_of
from llamaindex_code_retrieval.parallel import in_threads, workers_on

logger = logging.getLogger(__name__)

Side = Literal["query", "code"]
Precision = Literal["auto", "fp32", "bf16"]

_PREPROCESSING_VERSION = 1  # part of the fingerprint: raise it when equal files start to give other vectors
_VOLATILE_CONFIG_KEYS = frozenset(
    "_name_or_path architectures auto_map dtype gradient_checkpointing torch_dtype transformers_version use_cache "
    "base_model_name_or_path inference_mode revision peft_version".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a checkpoint's files say about how to turn its hidden states into vectors."""

    architecture: Architecture
    pooling: Pooling
    max_query_tokens: int
    max_code_tokens: int
    positions: int | None  # None: no limit
    query_prompt: str = ""
    code_prompt: str = ""


class Encoder(nn.Module):
    """A bi-encoder: maps a query or a code to a unit vector, so that a dot product is a cosine.

    Build one with :meth:`from_pretrained`; ``encode_queries`` and ``encode_codes`` are for use, ``forward`` to train.
    Vectors do not depend on what else is in the batch (to 1e-5 in fp32), and several threads may call at once.
    """

    def __init__(
        self,
        body: Any,
        tokenizer: Any,
        plan: _Plan,
        *,
        facts: dict[str, Any],
        precision: Literal["fp32", "bf16"],
        name: str,
        folder: Path,
        base: Any = None,
        adapter: Path | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.precision = precision
        self.name = name
        self.folder = folder
        self.adapter = adapter
        self.architecture = plan.architecture
        self._base = (body if base is None else base,)  # in a tuple: it is no part of this module
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
        self._virtual_tokens = virtual_tokens(body)
        self._packing = None if self._virtual_tokens else packing_of(body)
        self._warned = False
        projection = getattr(body, "proj", None)
        self.dim: int = projection.out_features if projection is not None else body.config.hidden_size

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
        body = load_body(folder, plan.architecture)
        body = body.to(device=chosen_device, dtype=torch.bfloat16 if chosen_precision == "bf16" else torch.float32)
        encoder = cls(
            body,
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
        _check_room(encoder.body, self._plan)
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
        first, as :meth:`with_body` says.
        """
        self.check_trained_for_this(folder)

        def change(body: nn.Module) -> nn.Module:
            body = attached(prepare(body), folder)
            return merged(body) if merge or int8 else body

        return self.with_body(change, adapter=folder, int8=int8)

    def without_adapter(self) -> Self:
        """Return an encoder of the same base with no adapter; it shares the base's weights."""
        return self.with_body(lambda body: body)

    def with_body(
        self, change: Callable[[nn.Module], nn.Module], *, adapter: Path | None = None, int8: bool = False
    ) -> Self:
        """Return an encoder whose body is ``change(base)``, with ``int8`` quantized and in fp32 otherwise.

        ``change`` may wrap and add modules, but not edit weights: it gets modules of its own with the parameters
        of the base, without any adapter.
        """
        (base,) = self._base
        shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
        body = change(copy.deepcopy(base, shared))
        if int8:
            body = quantized(body)
        else:
            body = body.to(device=self.device, dtype=torch.bfloat16 if self.precision == "bf16" else torch.float32)
        encoder = type(self)(
            body,
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
        """Raise a ValueError if ``train_config.json`` of an adapter says that it was trained on something else."""
        if not (folder / TRAIN_CONFIG).is_file():
            return  # made elsewhere: its shapes have to fit, more is not known
        base = read_json(folder / TRAIN_CONFIG).get("base", {})
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
        """The body without any adapter; its parameters are shared by all encoders made from this one."""
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
        """How many tokens the body can read at most; ``None`` where it knows no limit."""
        return self._plan.positions

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, a fast one of transformers."""
        return self._tokenizer

    @property
    def packs(self) -> bool:
        """Whether texts are computed without padding them to each other: BERT's kind of body, on a CPU, in use."""
        return self._packing is not None and not self.training and self.device.type == "cpu"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.body.parameters()).device
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
        clean = [(prompt + text).encode("utf-8", "replace").decode("utf-8") for text in texts]
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
        projection = getattr(self.body, "proj", None)
        if projection is not None:
            pooled = projection(pooled.to(torch.bfloat16 if self.precision == "bf16" else torch.float32)).float()
        return F.normalize(pooled, dim=-1)

    def hidden_states(
        self, ids: Sequence[Sequence[int]], *, starts: Sequence[int] | None = None, length: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the last hidden states in fp32, ``(rows, tokens, width)``, and the mask of text tokens.

        ``starts`` says at which token the second text of each row begins, where a body tells two texts apart.
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
        hidden = self.body(input_ids=tokens, attention_mask=mask, **second).last_hidden_state
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
        (hidden,) = self.body(**packing.inputs(ids, types)).last_hidden_state  # (tokens of all, width)
        return list(torch.split(hidden.float(), lengths))

    @property
    def _tells_two_apart(self) -> bool:
        return getattr(self.body.config, "type_vocab_size", 0) > 1


def _plan(
    folder: Path,
    *,
    name: str,
    pooling: Pooling | None,
    max_query_tokens: int | None,
    max_code_tokens: int | None,
) -> _Plan:
    config = read_json(folder / "config.json")
    known = BASES.get(name.partition("@")[0])
    architecture: Architecture
    if known is not None:
        architecture = known.architecture
    elif (folder / TRAIN_CONFIG).is_file():  # a base that we trained
        architecture = read_json(folder / TRAIN_CONFIG)["base"]["architecture"]
    else:
        architecture = architecture_of(config.get("model_type", ""), folder_name=Path(name).name)
    positions: int | None = None  # T5's are relative, so it knows no limit
    if architecture not in ("t5", "codet5p-embedding"):
        positions = int(config.get("max_position_embeddings") or config.get("n_positions") or 512)
        if config.get("model_type") in ("roberta", "camembert", "mpnet", "xlm-roberta"):
            positions -= 2  # these count positions from the padding index on
    st_limit, st_pooling, prompts = _sentence_transformers_settings(folder)
    default = min(st_limit or 512, positions or 512)
    queries = max_query_tokens or (known.max_query_tokens if known else default)
    codes = max_code_tokens or (known.max_code_tokens if known else default)
    for field, value in (("max_query_tokens", queries), ("max_code_tokens", codes)):
        if value < 8 or (positions is not None and value > positions):
            limit = "" if positions is None else f" and at most the model's {positions} positions"
            raise ValueError(f"{field} must be at least 8{limit}, got {value}")
    if pooling not in (None, "cls", "mean"):
        raise ValueError(f"pooling must be 'cls' or 'mean', got {pooling!r}")
    by_architecture: Pooling = "cls" if architecture == "codet5p-embedding" else "mean"
    return _Plan(
        architecture=architecture,
        pooling=pooling or (known.pooling if known else st_pooling or by_architecture),
        max_query_tokens=queries,
        max_code_tokens=codes,
        positions=positions,
        query_prompt=prompts.get("query", ""),
        code_prompt=prompts.get("document", prompts.get("passage", "")),
    )


def _sentence_transformers_settings(folder: Path) -> tuple[int | None, Pooling | None, dict[str, str]]:
    """Return token limit, pooling and prompts that a sentence-transformers folder sets; ``None`` where it is silent."""
    modules = read_json(folder / "modules.json") if (folder / "modules.json").is_file() else []
    for module in modules:
        if module["type"].rsplit(".", 1)[-1] not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(
                f"{folder} has a sentence-transformers module {module['type']}, which this package does not apply; "
                "its vectors would differ from the published ones, so it is refused"
            )
    limit: int | None = None
    pooling: Pooling | None = None
    prompts: dict[str, str] = {}
    if (folder / "sentence_bert_config.json").is_file():
        limit = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    if (folder / "1_Pooling" / "config.json").is_file():
        modes = read_json(folder / "1_Pooling" / "config.json")
        if modes.get("pooling_mode_cls_token") or modes.get("pooling_mode") == "cls":
            pooling = "cls"
        elif modes.get("pooling_mode_mean_tokens") or modes.get("pooling_mode") == "mean":
            pooling = "mean"
        else:
            raise ValueError(f"{folder}/1_Pooling/config.json asks for a pooling other than cls or mean: {modes}")
    if (folder / "config_sentence_transformers.json").is_file():
        prompts = read_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    return limit, pooling, prompts


def _check_room(body: Any, plan: _Plan) -> None:
    """Refuse virtual tokens that would push a full-length text beyond the last position."""
    limit, virtual = max(plan.max_query_tokens, plan.max_code_tokens), virtual_tokens(body)
    positions = plan.positions
    if positions is not None and limit + virtual > positions:
        raise ValueError(
            f"{limit} tokens and the adapter's {virtual} virtual ones do not fit the model's {positions} positions; "
            "lower max_query_tokens and max_code_tokens"
        )


def resolve_device(device: str | None) -> torch.device:
    """Return the device by name, CUDA for ``None`` where there is one.

    Raises:
        ValueError: this machine has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        raise ValueError(f"this machine has no device {device!r}; use 'cpu', or leave device out") from error
    return resolved


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision meant by ``auto``: bf16 where the device computes it natively, fp32 elsewhere."""
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision must be 'auto', 'fp32' or 'bf16', got {precision!r}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16" if native else "fp32"


def _facts(folder: Path, plan: _Plan) -> dict[str, Any]:
    """Return all that decides a vector of the base."""
    facts: dict[str, Any] = {
        "version": _PREPROCESSING_VERSION,
        "plan": {name: getattr(plan, name) for name in plan.__slots__ if name != "positions"},  # that is in config
        "config": _stable_json(folder / "config.json"),
        "weights": {file.name: sha256_of(file) for file in sorted(folder.glob("model*.safetensors"))},
    }
    tokenizer = _stable_json(folder / "tokenizer.json") if (folder / "tokenizer.json").is_file() else None
    if tokenizer is not None:
        facts["tokenizer"] = {k: v for k, v in tokenizer.items() if k not in ("truncation", "padding")}
    else:
        names = ("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "added_tokens.json")
        facts["tokenizer"] = {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}
    return facts


def _adapter_facts(adapter: Path) -> dict[str, Any]:
    return {
        "config": _stable_json(adapter / "adapter_config.json"),
        "weights": sha256_of(adapter / ADAPTER_WEIGHTS),
    }


def _hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _stable_json(path: Path) -> dict[str, Any]:
    return {key: value for key, value in read_json(path).items() if key not in _VOLATILE_CONFIG_KEYS}
