"""``query_encoder.json``: the description of a query encoder of this package, saved beside its weights; find one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

from llamaindex_code_retrieval._io import read_json, write_atomically
from llamaindex_code_retrieval.models.files import ARTIFACTS, QUERY_CONFIG
from llamaindex_code_retrieval.models.locate import locate_query_encoder, shipped_query_encoders

Kind = Literal["static", "layers", "transformer"]
KINDS: tuple[Kind, ...] = get_args(Kind)

AUTO = "auto"
"""The name that stands for the static query encoder that comes with the package for a teacher."""

FORMAT = 1
REMEDY = "distil it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryEncoderConfig:
    """The content of ``query_encoder.json``."""

    kind: Kind
    teacher_name: str
    """Name of the teacher's base."""
    teacher_adapter: str
    """Name of the teacher's adapter, or ``none``."""
    teacher_fingerprint: str
    layers: tuple[int, ...] = ()
    """Layers of the teacher's base that the student keeps."""
    buckets: int = 0
    """Rows of a static table for pairs of neighbouring tokens."""
    int8: bool = False
    """Whether torch quantizes the linear layers on a CPU; OpenVINO computes all layers in the precision it is given."""
    max_tokens: int

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file in ``folder``.

        Raises:
            ValueError: it is missing, damaged, incomplete or of another format.
        """
        path = folder / QUERY_CONFIG
        try:
            record = read_json(path, remedy=REMEDY, keys=("format", "kind"))
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error}); {REMEDY}") from error
        if record["format"] != FORMAT or record["kind"] not in KINDS:
            raise ValueError(
                f"{path} has format {record['format']} and kind {record['kind']!r}; this version reads format {FORMAT} "
                f"and {', '.join(KINDS)}: {REMEDY}"
            )
        try:
            return cls(
                kind=record["kind"],
                teacher_name=record["teacher"]["name"],
                teacher_adapter=record["teacher"]["adapter"],
                teacher_fingerprint=record["teacher"]["fingerprint"],
                layers=tuple(record["layers"]),
                buckets=record["buckets"],
                int8=record["int8"],
                max_tokens=record["max_tokens"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is incomplete or damaged ({error!r}); {REMEDY}") from error

    def write(self, folder: Path) -> None:
        """Write the file into ``folder``."""
        record = {
            "format": FORMAT,
            "kind": self.kind,
            "teacher": {
                "name": self.teacher_name,
                "adapter": self.teacher_adapter,
                "fingerprint": self.teacher_fingerprint,
            },
            "layers": list(self.layers),
            "buckets": self.buckets,
            "int8": self.int8,
            "max_tokens": self.max_tokens,
        }
        write_atomically(folder / QUERY_CONFIG, json.dumps(record, indent=1) + "\n")


def find_query_encoder(name_or_path: str | Path, *, teacher: str) -> Path:
    """Return the folder of a query encoder of the teacher with this fingerprint; no model is loaded.

    Raises:
        ValueError: no such query encoder, damaged files, or a student of another teacher.
    """
    folder = locate_query_encoder(_shipped_for(teacher) if str(name_or_path) == AUTO else name_or_path)
    config = QueryEncoderConfig.read(folder)
    if config.teacher_fingerprint != teacher:
        raise ValueError(
            f"the query encoder {name_or_path} was distilled from {config.teacher_name!r} with the adapter "
            f"{config.teacher_adapter!r}, fingerprint {config.teacher_fingerprint}, and the vectors here are of the "
            f"model with fingerprint {teacher}: take a query encoder of that model, or distil one"
        )
    return folder


def _shipped_for(teacher: str) -> str:
    for name in shipped_query_encoders():
        config = QueryEncoderConfig.read(ARTIFACTS / name)
        if config.kind == "static" and config.teacher_fingerprint == teacher:
            return name
    raise ValueError(
        f"no query encoder comes with the package for the fingerprint {teacher}; distil one "
        "(`code-retrieval distil`) and name its folder"
    )
