"""``CrossEncoderFiles``: the files of a cross-encoder of this package, and the base that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, WEIGHTS
from llamaindex_code_retrieval.models.locate import locate_reranker
from llamaindex_code_retrieval.models.reranker_config import RerankerConfig, RerankPrecision
from llamaindex_code_retrieval.models.text_encoder import TextEncoder


@dataclass(frozen=True, slots=True)
class CrossEncoderFiles:
    """The folder of a cross-encoder: a head beside an adapter or beside weights of its own."""

    name: str
    folder: Path
    config: RerankerConfig

    @classmethod
    def read(cls, name_or_path: str | Path) -> Self:
        """Read the description of a cross-encoder.

        Raises:
            ValueError: no such reranker, or a damaged description.
        """
        folder = locate_reranker(name_or_path)
        return cls(str(name_or_path), folder, RerankerConfig.read(folder))

    @property
    def has_own_weights(self) -> bool:
        """Whether the folder is a base of its own, without an adapter."""
        return (self.folder / WEIGHTS).is_file()

    @property
    def base(self) -> str | Path:
        """The name or the folder of the base to load."""
        return self.folder if self.has_own_weights else self.config.base_name

    def check_complete(self) -> None:
        """Raise a ValueError if there are no weights to load."""
        if not self.has_own_weights and not (self.folder / ADAPTER_CONFIG).is_file():
            raise ValueError(
                f"{self.folder} holds neither an adapter nor weights, so its training never ended; resume it"
            )

    def check_precision(self, precision: RerankPrecision, encoder: TextEncoder) -> None:
        """Raise a ValueError if a reranker on the base of ``encoder`` cannot have this precision."""
        if precision not in ("auto", "int8", encoder.precision):
            raise ValueError(
                f"the embedding computes in {encoder.precision}, so a reranker on its base cannot in {precision}; "
                "leave precision out, or leave the embedding out"
            )

    def check_base(self, encoder: TextEncoder) -> None:
        """Raise a ValueError if the base of an embedding is not the one that the reranker was trained on."""
        remedy = "leave the embedding out, so that the reranker loads its own base"
        self._check(encoder.name, encoder.base_fingerprint, remedy=remedy)

    def check_own_base(self, name: str, fingerprint: str) -> None:
        """Raise a ValueError if the base that the reranker names has changed since its training."""
        if not self.has_own_weights:
            self._check(name, fingerprint, remedy="that base has changed: train the reranker again")

    def _check(self, name: str, fingerprint: str, *, remedy: str) -> None:
        if fingerprint != self.config.base_fingerprint:
            raise ValueError(
                f"the reranker {self.name} was trained on the base {self.config.base_name!r} with fingerprint "
                f"{self.config.base_fingerprint}, but this base, {name!r}, has {fingerprint}; {remedy}"
            )
