"""``CrossEncoder``: how well a code answers a query, both read together by a base with an adapter and a head."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self, get_args

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamaindex_code_retrieval._io import clean_text, short_hash, write_atomically
from llamaindex_code_retrieval.models.calibration import Calibration
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import HEAD_WEIGHTS, RERANKER_CONFIG, WEIGHTS
from llamaindex_code_retrieval.models.locate import locate_reranker
from llamaindex_code_retrieval.models.spec import resolve_device, resolve_precision
from llamaindex_code_retrieval.models.weights import load_weights

Head = Literal["interaction", "mlp"]
Variant = Literal["adapters", "separate", "shared"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
RerankPrecision = Literal["auto", "fp32", "bf16", "int8"]

Prepared = tuple[list[int], Callable[[Sequence[int]], Tensor]]
"""The tokens of each pair of a query and a code, and a function from positions to their log-odds."""

FORMAT = 1


class MatchingHead(nn.Module):
    """From the hidden states of a query and a code, read as one text, to the log-odds that the code answers it.

    ``interaction`` compares the means u of the query's and v of the code's tokens: scale * cos(u, v) + bias, to which
    a layer over [u * v, |u - v|] adds, from nothing at first. So it begins with what a bi-encoder knows.
    ``mlp`` is a classification head over the first token (CasCode, section 3).
    """

    def __init__(self, kind: Head, width: int) -> None:
        super().__init__()
        if kind not in get_args(Head):
            raise ValueError(f"head must be one of {', '.join(get_args(Head))}, got {kind!r}")
        self.kind = kind
        self.dense = nn.Linear(2 * width if kind == "interaction" else width, width)
        self.out = nn.Linear(width, 1)
        if kind == "interaction":
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)
            self.scale = nn.Parameter(torch.tensor(20.0))  # a bi-encoder's 1 / temperature

    def forward(self, hidden: Tensor, query: Tensor, code: Tensor) -> Tensor:
        """Return ``(pairs,)`` of ``hidden`` (pairs, tokens, width) and two masks (pairs, tokens)."""
        if self.kind == "mlp":
            first: Tensor = self.out(torch.tanh(self.dense(hidden[:, 0])))
            return first[:, 0]
        u, v = _mean(hidden, query), _mean(hidden, code)  # (pairs, width)
        more = self.out(torch.tanh(self.dense(torch.cat([u * v, (u - v).abs()], dim=1))))[:, 0]
        matched: Tensor = self.scale * F.cosine_similarity(u, v) + more
        return matched


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


class CrossEncoder(nn.Module):
    """An encoder and a head that read a query and a code as one text.

    Tokens: the tokenizer's own layout of a pair. The query is kept whole, the code is cut to what is left; a query that
    leaves nothing is itself cut to half.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: MatchingHead,
        *,
        max_tokens: int = 256,
        calibration: Calibration | None = None,
        variant: Variant = "separate",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head.to(encoder.device)
        self.max_tokens = max_tokens if encoder.positions is None else min(max_tokens, encoder.positions)
        self.calibration = calibration or Calibration()
        self.variant: Variant = variant
        self._layout = encoder.pair_layout()

    @classmethod
    def on(
        cls,
        encoder: Encoder,
        *,
        head: Head = "interaction",
        max_tokens: int = 256,
        variant: Variant = "separate",
        seed: int = 0,
    ) -> Self:
        """Return an untrained one on an encoder as it is."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return cls(encoder, MatchingHead(head, _width(encoder)), max_tokens=max_tokens, variant=variant)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        encoder: Encoder | None = None,
        device: str | None = None,
        precision: RerankPrecision = "auto",
        merge_adapter: bool = False,
    ) -> Self:
        """Load what :meth:`save` wrote.

        ``encoder`` lends its base where the reranker was trained on that one: then there is one copy of it in memory.
        In ``int8`` the linear layers are quantized (CPU only); their adapter is merged first. Otherwise it is computed
        beside the base's weights, unless ``merge_adapter``, see :meth:`Encoder.with_adapter`.

        Raises:
            ValueError: no such reranker; its files are damaged; its adapter is of another base than ``encoder``'s.
        """
        folder = locate_reranker(name_or_path)
        facts = read_config(folder)
        whole = (folder / WEIGHTS).is_file()
        given = encoder
        if given is None or (whole and given.base_fingerprint != facts["base"]["fingerprint"]):
            asked = resolve_precision("fp32" if precision == "int8" else precision, resolve_device(device))
            name = str(folder) if whole else facts["base"]["name"]
            given = Encoder.from_pretrained(name, device=device, precision=asked)
        if not whole:
            if not (folder / "adapter_config.json").is_file():
                raise ValueError(
                    f"{folder} holds neither an adapter nor weights, so its training never ended; resume it"
                )
            if given.base_fingerprint != facts["base"]["fingerprint"]:
                raise ValueError(
                    f"the reranker {name_or_path} is an adapter of the base {facts['base']['name']!r} with fingerprint "
                    f"{facts['base']['fingerprint']}, and this base, {given.name!r}, has {given.base_fingerprint}; "
                    "leave the embedding out, so that it loads its own base, or train one for this base"
                )
            backbone = given.with_peft(folder, merge=merge_adapter, int8=precision == "int8")
        else:
            backbone = given.with_backbone(lambda base: base, int8=precision == "int8")
        head = MatchingHead(facts["head"], _width(backbone))
        load_weights(head, folder / HEAD_WEIGHTS, remedy="train it again")
        made = cls(
            backbone,
            head,
            max_tokens=facts["max_tokens"],
            calibration=Calibration(**facts["calibration"]),
            variant=facts["variant"],
        )
        made.eval()
        return made

    def save(self, folder: str | Path, *, base: Encoder | None = None) -> None:
        """Write head and ``reranker.json`` beside the adapter or weights that ``save_adapter`` writes.

        ``base`` is what was saved, where it is not the base that training began with.
        """
        folder = Path(folder)
        write_atomically(
            folder / HEAD_WEIGHTS,
            safetensors.torch.save({name: tensor.contiguous() for name, tensor in self.head.state_dict().items()}),
        )
        base = base or self.encoder
        facts = {
            "format": FORMAT,
            "variant": self.variant,
            "head": self.head.kind,
            "max_tokens": self.max_tokens,
            "base": {"name": self.encoder.name, "fingerprint": base.base_fingerprint},
            "calibration": asdict(self.calibration),
        }
        write_atomically(folder / RERANKER_CONFIG, json.dumps(facts, indent=1) + "\n")

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that decides log-odds, but the token limit, precision and device."""
        head = sorted(self.head.state_dict().items())
        tensors = (name.encode() + tensor.detach().cpu().numpy().tobytes() for name, tensor in head)
        return short_hash([self.encoder.fingerprint, *tensors])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.device

    @property
    def packs(self) -> bool:
        """Whether a batch is computed without padding."""
        return self.encoder.packs

    def room(self, max_tokens: int) -> int:
        """Return how many tokens of a pair are left to query and code."""
        positions = self.encoder.positions
        limit = max_tokens if positions is None else min(max_tokens, positions)
        return limit - sum(map(len, self._layout))

    def forward(self, queries: Sequence[str], codes: Sequence[str]) -> Tensor:
        """Return the log-odds of pairs, ``(pairs,)``, as one differentiable batch."""
        rows = self.rows(self.token_ids(queries), self.token_ids(codes), self.max_tokens)
        return self.log_odds(rows)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts by themselves, without special tokens."""
        # A lone surrogate (a byte that was no UTF-8) has no place in the tokenizer's UTF-8 strings.
        clean = [clean_text(text) for text in texts]
        if not clean:
            return []
        encoded = self.encoder.tokenizer(clean, add_special_tokens=False, truncation=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def rows(
        self, queries: Sequence[Sequence[int]], codes: Sequence[Sequence[int]], max_tokens: int
    ) -> list[tuple[list[int], int]]:
        """Return for each pair its token ids, and at which of them the code begins."""
        before, between, after = self._layout
        room = self.room(max_tokens)
        rows: list[tuple[list[int], int]] = []
        for query, code in zip(queries, codes, strict=True):
            first = query if len(query) < room else query[: room // 2]
            head = [*before, *first, *between]
            rows.append(([*head, *code[: room - len(first)], *after], len(head)))
        return rows

    def log_odds(self, rows: Sequence[tuple[list[int], int]], *, length: int = 0) -> Tensor:
        """Return the log-odds of ``rows``, ``(rows,)``, differentiable."""
        starts = [start for _, start in rows]
        hidden, mask = self.encoder.hidden_states([ids for ids, _ in rows], starts=starts, length=length)
        place = torch.arange(hidden.shape[1], device=hidden.device)[None, :]
        is_code = (place >= torch.tensor(starts, device=hidden.device)[:, None]) & mask.bool()
        matched: Tensor = self.head(hidden, mask.bool() & ~is_code, is_code)
        return matched

    def prepare(self, query: str, codes: Sequence[str], max_tokens: int) -> Prepared:
        """Tokenize the query with each code."""
        (query_ids,) = self.token_ids([query])
        rows = self.rows([query_ids] * len(codes), self.token_ids(codes), max_tokens)
        return [len(ids) for ids, _ in rows], lambda batch: self.log_odds([rows[i] for i in batch])


def _width(encoder: Encoder) -> int:
    width: int = encoder.base.config.hidden_size  # type: ignore[union-attr, assignment]
    return width


def read_config(folder: Path) -> dict[str, Any]:
    """Return what ``reranker.json`` says.

    Raises:
        ValueError: it is missing, damaged or of another format.
    """
    path = folder / RERANKER_CONFIG
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise ValueError(f"{path} has format {facts['format']}, this version reads {FORMAT}; train it again")
        Calibration(**facts["calibration"])
        facts["base"]["fingerprint"], facts["max_tokens"], facts["head"], facts["variant"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no reranker's ({error!r}); train it again") from error
    return facts
