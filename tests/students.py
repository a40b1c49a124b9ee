"""Query encoders of tiny teachers, as after a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llamaindex_code_retrieval import Encoder
from llamaindex_code_retrieval.training.checkpoints import save_query_encoder
from llamaindex_code_retrieval.training.config import AdapterConfig, StudentConfig
from llamaindex_code_retrieval.training.students import Student, new_student

QUERIES = ["read a file", "x", "how to sum all numbers of a list", "def add(a, b)", "stack push item " * 8]
STUDENTS: dict[str, tuple[StudentConfig, AdapterConfig]] = {
    "static": (StudentConfig(kind="static", table_rank=8, buckets=32, hidden=8), AdapterConfig()),
    "lora": (StudentConfig(kind="layers", layers=(1,)), AdapterConfig(rank=2)),
    "full": (StudentConfig(kind="layers", layers=(1,)), AdapterConfig(method="full")),
    "transformer": (StudentConfig(kind="transformer", width=32, depth=1), AdapterConfig()),
}


def torch_encoder(folder: Path, adapter: Path | None = None) -> Encoder:
    return Encoder.from_pretrained(folder, adapter=adapter, precision="fp32")


def trained_student(name: str, teacher: Encoder) -> Student:
    """Return a student whose trained parameters differ from the initial ones, as after a training."""
    config, adapter = STUDENTS[name]
    model: Any = new_student(teacher, config, adapter, max_tokens=16)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    student: Student = model
    return student


def save_student(name: str, student: Student, teacher: Encoder, folder: Path) -> Path:
    teacher_record = {
        "name": teacher.name,
        "adapter": str(teacher.adapter or "none"),
        "fingerprint": teacher.fingerprint,
    }
    save_query_encoder(student, folder, STUDENTS[name][0], teacher=teacher_record, max_tokens=16)
    return folder
