"""``reranker.json``: the description of a cross-encoder of this package, saved beside its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self, get_args

from llamaindex_code_retrieval._io import read_json, write_atomically
from llamaindex_code_retrieval.models.calibration import Calibration
from llamaindex_code_retrieval.models.files import RERANKER_CONFIG

Head = Literal["interaction", "mlp"]
HEADS: tuple[Head, ...] = get_args(Head)
Variant = Literal["adapters", "separate", "shared"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

RerankPrecision = Literal["auto", "fp32", "bf16", "int8"]
PRECISIONS: tuple[RerankPrecision, ...] = get_args(RerankPrecision)

USUAL_MAX_TOKENS = 512
"""Tokens of a pair, for a checkpoint that says nothing about them."""

FORMAT = 1
_REMEDY = "train the reranker again"


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerConfig:
    """The content of ``reranker.json``."""

    variant: Variant
    head: Head
    max_tokens: int
    base_name: str
    base_fingerprint: str
    """Base fingerprint of the encoder under the head, see :attr:`Encoder.base_fingerprint`."""
    calibration: Calibration

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file in ``folder``.

        Raises:
            ValueError: it is missing, damaged, incomplete or of another format.
        """
        path = folder / RERANKER_CONFIG
        try:
            record = read_json(path, remedy=_REMEDY, keys=("format",))
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error}); {_REMEDY}") from error
        if record["format"] != FORMAT:
            raise ValueError(f"{path} has format {record['format']}, this version reads {FORMAT}; {_REMEDY}")
        try:
            config = cls(
                variant=record["variant"],
                head=record["head"],
                max_tokens=record["max_tokens"],
                base_name=record["base"]["name"],
                base_fingerprint=record["base"]["fingerprint"],
                calibration=Calibration(**record["calibration"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is incomplete or damaged ({error!r}); {_REMEDY}") from error
        for name, value, known in (("variant", config.variant, VARIANTS), ("head", config.head, HEADS)):
            if value not in known:
                raise ValueError(f"{path}: {name} must be one of {', '.join(known)}, got {value!r}; {_REMEDY}")
        return config

    def write(self, folder: Path) -> None:
        """Write the file into ``folder``."""
        record = {
            "format": FORMAT,
            "variant": self.variant,
            "head": self.head,
            "max_tokens": self.max_tokens,
            "base": {"name": self.base_name, "fingerprint": self.base_fingerprint},
            "calibration": asdict(self.calibration),
        }
        write_atomically(folder / RERANKER_CONFIG, json.dumps(record, indent=1) + "\n")
