"""``QueryEncoder``: a small encoder of queries whose vectors stand in for its teacher's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval.checkpoints import (
    ADAPTER_WEIGHTS,
    ARTIFACTS,
    QUERY_CONFIG,
    QUERY_WEIGHTS,
    WEIGHTS,
    locate_query_encoder,
    sha256_of,
    shipped_query_encoders,
)
from llamaindex_code_retrieval.static_encoder import StaticEncoder

if TYPE_CHECKING:
    from torch import nn

    from llamaindex_code_retrieval.encoder import Encoder

Kind = Literal["static", "layers", "transformer"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FORMAT = 1
TOKENIZER = "tokenizer.json"
AUTO = "auto"
"""What to name for the static query encoder that comes with the package for this teacher."""


@dataclass(frozen=True, slots=True)
class QueryEncoder:
    """A student: it embeds queries so that they find what its teacher's vectors of code answer them with.

    ``static`` looks tokens up in a table, ``layers`` is the teacher with fewer layers, ``transformer`` a small model of
    its own. Code vectors and the index stay as they are.
    """

    name: str
    kind: Kind
    teacher: str
    """Fingerprint of the encoder whose vectors it stands in for."""
    fingerprint: str
    """16 hex digits over all that decides its vectors."""
    encoder: Encoder | StaticEncoder

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(queries, dim)`` in the order given."""
        return self.encoder.encode_queries(queries)

    @classmethod
    def load(cls, name_or_path: str | Path, *, teacher: Encoder) -> Self:
        """Load what ``distil`` wrote, for ``teacher``, whose weights it shares where it keeps them.

        Raises:
            ValueError: no such query encoder, damaged files, or one of another teacher.
        """
        if str(name_or_path) == AUTO:
            name_or_path = _shipped_for(teacher.fingerprint)
        folder = locate_query_encoder(name_or_path)
        facts = read_query_config(folder)
        if facts["teacher"]["fingerprint"] != teacher.fingerprint:
            raise ValueError(
                f"the query encoder {name_or_path} was distilled from {facts['teacher']['name']!r} with the adapter "
                f"{facts['teacher']['adapter']!r}, fingerprint {facts['teacher']['fingerprint']}; the vectors here are "
                f"of {teacher.name!r} with fingerprint {teacher.fingerprint}: take that model, or distil one from this"
            )
        return cls(
            name=str(name_or_path),
            kind=facts["kind"],
            teacher=teacher.fingerprint,
            fingerprint=_fingerprint(folder, facts),
            encoder=_load(folder, facts, teacher),
        )


def read_query_config(folder: Path) -> dict[str, Any]:
    """Return what ``query_encoder.json`` says.

    Raises:
        ValueError: it is missing, damaged or of another format.
    """
    path = folder / QUERY_CONFIG
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT or facts["kind"] not in KINDS:
            raise ValueError(
                f"{path} has format {facts['format']} and kind {facts['kind']!r}; this version reads format {FORMAT} "
                f"and {', '.join(KINDS)}: distil it again"
            )
        facts["teacher"]["fingerprint"], facts["teacher"]["name"], facts["teacher"]["adapter"]
        facts["layers"], facts["buckets"], facts["max_tokens"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no query encoder's ({error!r}); distil it again") from error
    return facts


def _shipped_for(teacher: str) -> str:
    for name in shipped_query_encoders():
        facts = read_query_config(ARTIFACTS / name)
        if facts["kind"] == "static" and facts["teacher"]["fingerprint"] == teacher:
            return name
    raise ValueError(
        f"no query encoder comes with the package for the fingerprint {teacher}; distil one "
        "(`code-retrieval distil`) and name its folder"
    )


def _fingerprint(folder: Path, facts: dict[str, Any]) -> str:
    lasting = {key: facts[key] for key in ("kind", "teacher", "layers", "buckets", "max_tokens")}
    digest = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode())
    for file in (QUERY_WEIGHTS, ADAPTER_WEIGHTS, WEIGHTS, TOKENIZER):
        if (folder / file).is_file():
            digest.update(sha256_of(folder / file).encode())
    return digest.hexdigest()[:16]


def _load(folder: Path, facts: dict[str, Any], teacher: Encoder) -> Encoder | StaticEncoder:
    if facts["kind"] == "static":
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        try:
            tensors = load_file(folder / QUERY_WEIGHTS)
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            made = StaticEncoder(tokenizer, tensors, buckets=facts["buckets"], max_tokens=facts["max_tokens"])
        except Exception as error:  # tokenizers raises bare exceptions
            raise ValueError(f"{folder} is damaged ({error}); distil it again") from error
        _check_dim(folder, made.dim, teacher.dim)
        return made
    from llamaindex_code_retrieval.encoder import load_body

    project = projected(folder, teacher.dim)
    if (folder / WEIGHTS).is_file():
        architecture = teacher.architecture if facts["kind"] == "layers" else "bert"
        student = teacher.with_body(lambda base: project(load_body(folder, architecture)))
    else:
        layers = shortened(facts["layers"])
        student = teacher.with_peft(folder, prepare=lambda base: project(layers(base)))
    student.max_query_tokens = facts["max_tokens"]
    return student


def shortened(kept: Sequence[int]) -> Callable[[nn.Module], nn.Module]:
    """Return a change of a body that leaves only the layers ``kept``."""
    from llamaindex_code_retrieval.encoder import kept_layers

    return lambda base: kept_layers(base, kept)


def projected(folder: Path | None, dim: int) -> Callable[[nn.Module], nn.Module]:
    """Return a change of a body that puts a projection to ``dim`` behind it: the saved one, or a new one.

    A new one of equal widths begins by changing nothing. A body that has a projection of its own keeps it.
    """
    from safetensors.torch import load_file
    from torch import nn

    def change(base: nn.Module) -> nn.Module:
        if hasattr(base, "proj"):
            return base
        body: Any = base
        layer = nn.Linear(body.config.hidden_size, dim)
        if folder is None:
            nn.init.zeros_(layer.bias)
            if layer.in_features == dim:
                nn.init.eye_(layer.weight)
        else:
            try:
                layer.load_state_dict(load_file(folder / QUERY_WEIGHTS))
            except (OSError, RuntimeError) as error:
                raise ValueError(
                    f"{folder / QUERY_WEIGHTS} does not fit a student of width {body.config.hidden_size} and a teacher "
                    f"of width {dim} ({error}); distil it again"
                ) from error
        base.add_module("proj", layer)
        return base

    return change


def _check_dim(folder: Path, student: int, teacher: int) -> None:
    if student != teacher:
        raise ValueError(
            f"the query encoder in {folder} makes vectors of {student} numbers and its teacher of {teacher}; "
            "distil it again"
        )
