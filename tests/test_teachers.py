"""An embedding model that learns the similarities of larger ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.training import Pair, train_adapter
from llamaindex_code_retrieval.training.config import TrainConfig
from llamaindex_code_retrieval.training.losses import distribution_loss
from llamaindex_code_retrieval.training.recipes import Recipe
from llamaindex_code_retrieval.training.teachers import TeacherVectors, load_teachers

PAIRS = [
    Pair(query=f"{verb} the {noun}", code=f"def {verb}_{noun}(x):\n    return x.{verb}({i})", path=f"{i}.py")
    for i, (verb, noun) in enumerate((v, n) for v in ("read", "sort", "add", "close") for n in ("file", "list", "tree"))
]
QUERIES, CODES = [pair.query for pair in PAIRS], [pair.code for pair in PAIRS]


def units(rows: int, dim: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_the_loss_by_hand() -> None:
    """One query, two codes: the divergence of (q, 1 - q) from the mean of two teachers' distributions."""
    queries, codes = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    teachers = [torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])]
    softmax = torch.tensor([1.0, 0.0]).softmax(0)
    target = (torch.tensor([0.5, 0.5]) + softmax) / 2
    to_codes = float((target * (target.log() - softmax.log())).sum())
    loss = distribution_loss(queries, codes, teachers, temperature=1.0, teacher_temperature=1.0)
    assert float(loss) == pytest.approx(to_codes / 2, abs=1e-6)  # a code's distribution over one query is always 1


def test_a_student_that_agrees_with_its_teacher_has_no_loss() -> None:
    queries, codes = units(4, 6, 0), units(5, 6, 1)
    assert float(distribution_loss(queries, codes, [queries @ codes.T])) == pytest.approx(0.0, abs=1e-6)
    other = distribution_loss(queries, codes, [units(4, 3, 2) @ units(5, 3, 3).T])
    assert float(other) > 0.1


def test_vectors_are_computed_once_and_kept(bert_folder: Path, t5_folder: Path, tmp_path: Path) -> None:
    pairs = [*PAIRS, Pair(query="q", code="c", negatives=("n",), negative_queries=("nq",))]
    teachers = [CodeEmbedding(folder) for folder in (bert_folder, t5_folder)]
    vectors = TeacherVectors(teachers, pairs, cache_folder=tmp_path)
    cosines = vectors.cosines(["nq", *QUERIES], [*CODES, "n"])
    for teacher, each in zip(teachers, cosines, strict=True):
        expected = teacher.embed_queries(["nq", *QUERIES]) @ teacher.embed_codes([*CODES, "n"], [""] * 13).T
        np.testing.assert_allclose(each.numpy(), expected, atol=3e-3)  # half precision
    embedded: list[int] = []
    for teacher in teachers:  # a second time nothing is embedded, so a teacher that cannot embed does
        teacher.encoder.encode = lambda *texts, **options: embedded.append(1)  # type: ignore[method-assign]
    again = TeacherVectors(teachers, pairs, cache_folder=tmp_path)
    assert embedded == []
    torch.testing.assert_close(again.cosines(QUERIES, CODES), vectors.cosines(QUERIES, CODES))
    assert again.fingerprints == [teacher.fingerprint for teacher in teachers]


def test_a_student_comes_nearer_to_its_teacher(
    bert_folder: Path, roberta_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE_RETRIEVAL_CACHE", str(tmp_path / "cache"))
    teacher = TeacherVectors(load_teachers([str(roberta_folder)]), PAIRS).cosines(QUERIES, CODES)
    distances = {}
    for weight in (0.0, 1.0):
        config = TrainConfig(batch_size=12, epochs=20, learning_rate=0.02, teacher_weight=weight, precision="fp32")
        recipe = Recipe(
            base=str(bert_folder),
            max_query_tokens=16,
            max_code_tokens=32,
            held_out=0.0,
            teachers=(str(roberta_folder),) if weight else (),
            train=config,
        )
        run = train_adapter(PAIRS, tmp_path / str(weight), recipe=recipe)
        assert [each["name"] for each in run.record["teachers"]] == [roberta_folder.name] * bool(weight)
        encoder = Encoder.from_pretrained(bert_folder, adapter=tmp_path / str(weight), precision="fp32")
        vectors = encoder(QUERIES, side="query").detach(), encoder(CODES, side="code").detach()
        distances[weight] = float(distribution_loss(*vectors, teacher))
    assert distances[1.0] < 0.5 * distances[0.0]


def test_refuses_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="teachers and teacher_weight go together"):
        Recipe(teachers=("embedded",))
    with pytest.raises(ValueError, match="teachers and teacher_weight go together"):
        Recipe(train=TrainConfig(teacher_weight=0.5))
    with pytest.raises(ValueError, match="change texts, of which teachers have no vectors"):
        Recipe(teachers=("embedded",), train=TrainConfig(teacher_weight=0.5, rewritten_queries=0.1))
    for name in ("=adapter", "embedded=", ""):
        with pytest.raises(ValueError, match=r"a teacher is named BASE or BASE=ADAPTER, got"):
            load_teachers([name])
    with pytest.raises(ValueError, match="unknown adapter 'nonsense'"):
        load_teachers(["embedded=nonsense"])
