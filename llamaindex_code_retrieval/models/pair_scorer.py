"""``PairScorer``: a model that scores pairs of query and code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llamaindex_code_retrieval.models.calibration import Calibration


class PairScorer(Protocol):
    """A cross-encoder, whatever computes it: a ``GraphScorer``, a ``CrossEncoder`` or a ``CheckpointScorer``."""

    calibration: Calibration
    max_tokens: int
    """Tokens of a pair, if the caller sets no other limit."""

    @property
    def fingerprint(self) -> str:
        """Hash over all that decides a score, except the runtime and the precision."""

    def room(self, max_tokens: int) -> int:
        """Return how many tokens are left to query and code."""

    def log_odds_of(self, query: str, codes: Sequence[str], *, max_tokens: int, token_budget: int) -> list[float]:
        """Return the log-odds of each code, in the order given, by batches of ``token_budget`` tokens at most.

        A batch holds one pair at least.
        """
