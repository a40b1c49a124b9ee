"""``CrossEncoder``: an encoder and a matching head that read a query and a code as one text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from torch import Tensor, nn

from llamaindex_code_retrieval._io import short_hash, write_atomically
from llamaindex_code_retrieval.models.calibration import Calibration
from llamaindex_code_retrieval.models.device import resolve_device, resolve_precision
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import HEAD_WEIGHTS
from llamaindex_code_retrieval.models.matching_head import MatchingHead
from llamaindex_code_retrieval.models.pair_batches import log_odds_in_batches
from llamaindex_code_retrieval.models.pair_layout import PairRow
from llamaindex_code_retrieval.models.reranker_base import CrossEncoderFiles
from llamaindex_code_retrieval.models.reranker_config import Head, RerankerConfig, RerankPrecision, Variant
from llamaindex_code_retrieval.models.weights import load_weights


class CrossEncoder(nn.Module):
    """An encoder and a head that score a query and a code, read as one text in the tokenizer's layout of a pair.

    The query is kept whole and the code is cut to the remaining tokens. A query that leaves none is cut to half.
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
        self._layout = encoder.tokenization.pair_layout()

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
        """Return a cross-encoder with a randomly initialised head on ``encoder``, which is used as it is."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return cls(encoder, MatchingHead(head, _hidden_size(encoder)), max_tokens=max_tokens, variant=variant)

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

        With ``encoder`` the reranker uses its base weights, so that there is one copy of them in memory; ``device``
        and, except for int8, ``precision`` are then the encoder's. In ``int8`` the linear layers are quantized (CPU
        only), after an adapter is merged. Otherwise an adapter is computed beside the base's weights, unless
        ``merge_adapter``; see :meth:`Encoder.with_adapter`.

        Raises:
            ValueError: no such reranker; damaged files; a base or a precision that is not the one of ``encoder``.
        """
        files = CrossEncoderFiles.read(name_or_path)
        files.check_complete()
        folder, config = files.folder, files.config
        if encoder is not None:
            files.check_precision(precision, encoder)
            files.check_base(encoder)
        else:
            encoder = Encoder.from_pretrained(
                files.base,
                device=device,
                precision=resolve_precision("fp32" if precision == "int8" else precision, resolve_device(device)),
            )
            files.check_own_base(encoder.name, encoder.base_fingerprint)
        int8 = precision == "int8"
        if files.has_own_weights:
            adapted = encoder.with_backbone(lambda backbone: backbone, int8=int8)
        else:
            adapted = encoder.with_peft(folder, merge=merge_adapter, int8=int8)
        head = MatchingHead(config.head, _hidden_size(adapted))
        load_weights(head, folder / HEAD_WEIGHTS, remedy="train the reranker again")
        model = cls(
            adapted,
            head,
            max_tokens=config.max_tokens,
            calibration=config.calibration,
            variant=config.variant,
        )
        model.eval()
        return model

    def save(self, folder: str | Path, *, base: Encoder | None = None) -> None:
        """Write head and ``reranker.json`` beside the adapter or weights that ``save_adapter`` writes.

        ``base`` is the base that was saved, if training changed the one it began with.
        """
        folder = Path(folder)
        weights = {name: tensor.contiguous() for name, tensor in self.head.state_dict().items()}
        write_atomically(folder / HEAD_WEIGHTS, safetensors.torch.save(weights))
        RerankerConfig(
            variant=self.variant,
            head=self.head.kind,
            max_tokens=self.max_tokens,
            base_name=self.encoder.name,
            base_fingerprint=(base or self.encoder).base_fingerprint,
            calibration=self.calibration,
        ).write(folder)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that decides log-odds, except the token limit, precision and device."""
        head = sorted(self.head.state_dict().items())
        tensors = (name.encode() + tensor.detach().cpu().numpy().tobytes() for name, tensor in head)
        return short_hash([self.encoder.fingerprint, *tensors])

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.encoder.device

    @property
    def packs(self) -> bool:
        """Whether a batch is computed without padding."""
        return self.encoder.packs

    def room(self, max_tokens: int) -> int:
        """Return how many tokens of a pair are left to query and code."""
        positions = self.encoder.positions
        limit = max_tokens if positions is None else min(max_tokens, positions)
        return limit - self._layout.special_tokens

    def forward(self, queries: Sequence[str], codes: Sequence[str]) -> Tensor:
        """Return the log-odds of pairs, ``(pairs,)``, as one differentiable batch."""
        rows = self.rows(self.token_ids(queries), self.token_ids(codes), self.max_tokens)
        return self.log_odds(rows)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, each by itself and without special tokens."""
        return self.encoder.tokenization.ids(texts)

    def rows(self, queries: Sequence[Sequence[int]], codes: Sequence[Sequence[int]], max_tokens: int) -> list[PairRow]:
        """Return for each pair its token ids and the position of the code's first token."""
        room = self.room(max_tokens)
        return [self._layout.row(query, code, room=room) for query, code in zip(queries, codes, strict=True)]

    def log_odds(self, rows: Sequence[PairRow], *, length: int = 0) -> Tensor:
        """Return the log-odds of ``rows``, ``(rows,)``, differentiable; padded to ``length`` tokens at least."""
        starts = [start for _, start in rows]
        hidden, mask = self.encoder.hidden_states([ids for ids, _ in rows], starts=starts, length=length)
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None, :]
        is_code = (positions >= torch.tensor(starts, device=hidden.device)[:, None]) & mask.bool()
        log_odds: Tensor = self.head(hidden, mask.bool() & ~is_code, is_code)
        return log_odds

    def log_odds_of(self, query: str, codes: Sequence[str], *, max_tokens: int, token_budget: int) -> list[float]:
        """Return the log-odds of each code, in the order given, without gradient."""
        (query_ids,) = self.token_ids([query])
        rows = self.rows([query_ids] * len(codes), self.token_ids(codes), max_tokens)
        return log_odds_in_batches(self.log_odds, rows, token_budget=token_budget, device=self.device, packs=self.packs)


def _hidden_size(encoder: Encoder) -> int:
    base: Any = encoder.base
    return int(base.config.hidden_size)
