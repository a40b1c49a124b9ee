"""``QueryEncoder``: a small encoder of queries whose vectors stand in for its teacher's."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import sha256, short_hash
from llamaindex_code_retrieval.models.files import ADAPTER_WEIGHTS, ARTIFACTS, QUERY_CONFIG, QUERY_WEIGHTS
from llamaindex_code_retrieval.models.locate import locate_query_encoder, shipped_query_encoders
from llamaindex_code_retrieval.models.static_encoder import StaticEncoder, static_shapes
from llamaindex_code_retrieval.models.weights import check_weights, load_weights, read_arrays

if TYPE_CHECKING:
    from torch import nn

    from llamaindex_code_retrieval.models.encoder import Encoder

Kind = Literal["static", "layers", "transformer"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FORMAT = 1
TOKENIZER = "tokenizer.json"
BACKBONE_CONFIG = "config.json"
"""Of a small transformer of its own."""
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

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.encoder.dim

    @classmethod
    def load(cls, name_or_path: str | Path, *, teacher: Encoder) -> Self:
        """Load what ``distil`` wrote, for ``teacher``, whose weights it shares where it keeps them.

        Raises:
            ValueError: no such query encoder, damaged files, or one of another teacher.
        """
        if str(name_or_path) == AUTO:
            name_or_path = _shipped_for(teacher.fingerprint)
        folder = find_query_encoder(name_or_path, teacher=teacher.fingerprint)
        facts = read_query_config(folder)
        return cls._of(name_or_path, folder, facts, _load(folder, facts, teacher))

    @classmethod
    def static_of(cls, name_or_path: str | Path, *, teacher: str) -> Self | None:
        """Load a static student of the teacher of this fingerprint, which is not loaded; ``None`` for any other."""
        try:
            name_or_path = _shipped_for(teacher) if str(name_or_path) == AUTO else name_or_path
            folder = locate_query_encoder(name_or_path)
        except ValueError:
            return None  # and :meth:`load` will say why
        facts = read_query_config(folder)
        if facts["kind"] != "static" or facts["teacher"]["fingerprint"] != teacher:
            return None
        return cls._of(name_or_path, folder, facts, _load_static(folder, facts))

    @classmethod
    def _of(
        cls, name_or_path: str | Path, folder: Path, facts: dict[str, Any], encoder: Encoder | StaticEncoder
    ) -> Self:
        return cls(
            name=str(name_or_path),
            kind=facts["kind"],
            teacher=facts["teacher"]["fingerprint"],
            fingerprint=_fingerprint(folder, facts, encoder),
            encoder=encoder,
        )


def find_query_encoder(name_or_path: str | Path, *, teacher: str) -> Path:
    """Return the folder of a query encoder of the teacher with this fingerprint; no model is loaded.

    Raises:
        ValueError: no such query encoder, damaged files, or one of another teacher.
    """
    folder = locate_query_encoder(_shipped_for(teacher) if str(name_or_path) == AUTO else name_or_path)
    of = read_query_config(folder)["teacher"]
    if of["fingerprint"] != teacher:
        raise ValueError(
            f"the query encoder {name_or_path} was distilled from {of['name']!r} with the adapter {of['adapter']!r}, "
            f"fingerprint {of['fingerprint']}, and the vectors here are of the model with fingerprint {teacher}: take "
            "a query encoder of that model, or distil one"
        )
    return folder


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
        facts["layers"], facts["buckets"], facts["int8"], facts["max_tokens"]
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


def _fingerprint(folder: Path, facts: dict[str, Any], encoder: Encoder | StaticEncoder) -> str:
    lasting = {key: facts[key] for key in ("kind", "layers", "buckets", "int8", "max_tokens")}
    lasting["teacher"] = facts["teacher"]["fingerprint"]
    lasting["adapter"] = getattr(encoder, "fingerprint", "")  # its scale is in no weight
    files = [folder / file for file in (QUERY_WEIGHTS, ADAPTER_WEIGHTS, BACKBONE_CONFIG, TOKENIZER)]
    return short_hash([json.dumps(lasting, sort_keys=True), *(sha256(file) for file in files if file.is_file())])


def _load(folder: Path, facts: dict[str, Any], teacher: Encoder) -> Encoder | StaticEncoder:
    if facts["kind"] == "static":
        made = _load_static(folder, facts)
        if made.dim != teacher.dim:
            raise ValueError(
                f"the query encoder in {folder} makes vectors of {made.dim} numbers and its teacher of {teacher.dim}; "
                "distil it again"
            )
        return made
    layers = shortened(facts["layers"]) if facts["kind"] == "layers" else lambda base: _transformer(folder)
    int8 = facts["int8"] and teacher.device.type == "cpu"
    if (folder / "adapter_config.json").is_file():
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise ValueError(f"{folder} holds no {ADAPTER_WEIGHTS}; distil it again")
        project = projected(folder, teacher.dim)
        student = teacher.with_peft(folder, int8=int8, prepare=lambda base: project(layers(base)))
    else:
        project = projected(None, teacher.dim)
        student = teacher.with_backbone(lambda base: _filled(project(layers(base)), folder), int8=int8)
    student.max_query_tokens = facts["max_tokens"]
    return student


def _transformer(folder: Path) -> nn.Module:
    """Return the small backbone that ``config.json`` describes, its weights still to be filled in."""
    import torch
    from transformers import BertConfig, BertModel

    try:
        config = BertConfig.from_dict(json.loads((folder / BACKBONE_CONFIG).read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / BACKBONE_CONFIG} is damaged ({error}); distil it again") from error
    with torch.random.fork_rng():
        backbone: nn.Module = BertModel(config, add_pooling_layer=False)
    return backbone


def _filled(backbone: nn.Module, folder: Path) -> nn.Module:
    """Return a copy of the backbone with the weights in ``folder``; what it shared with the teacher stays as it is."""
    own = copy.deepcopy(backbone)
    load_weights(own, folder / QUERY_WEIGHTS, remedy="distil it again")
    return own


def _load_static(folder: Path, facts: dict[str, Any]) -> StaticEncoder:
    from tokenizers import Tokenizer

    tensors = read_arrays(folder / QUERY_WEIGHTS, remedy="distil it again")
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # tokenizers raises bare exceptions
        raise ValueError(f"{folder / TOKENIZER} is damaged ({error}); distil it again") from error
    expected = static_shapes(tensors, rows=tokenizer.get_vocab_size() + facts["buckets"])
    check_weights(tensors, expected, source=folder / QUERY_WEIGHTS, remedy="distil it again")
    return StaticEncoder(tokenizer, tensors, buckets=facts["buckets"], max_tokens=facts["max_tokens"])


def shortened(kept: Sequence[int]) -> Callable[[nn.Module], nn.Module]:
    """Return a change of a backbone that leaves only the layers ``kept``."""
    from llamaindex_code_retrieval.models.modify import keep_layers

    return lambda base: keep_layers(base, kept)


def projected(folder: Path | None, dim: int) -> Callable[[nn.Module], nn.Module]:
    """Return a change of a backbone that puts a projection to ``dim`` behind it: the saved one, or a new one.

    A new one of equal widths begins by changing nothing. A backbone that has a projection of its own keeps it.
    """
    from torch import nn

    def change(base: nn.Module) -> nn.Module:
        if hasattr(base, "proj"):
            return base
        backbone: Any = base
        layer = nn.Linear(backbone.config.hidden_size, dim)
        if folder is None:
            nn.init.zeros_(layer.bias)
            if layer.in_features == dim:
                nn.init.eye_(layer.weight)
        else:
            load_weights(layer, folder / QUERY_WEIGHTS, remedy="distil it again")
        base.add_module("proj", layer)
        return base

    return change
