"""Train a static embedding model: a table of token vectors that embeds queries and codes without a transformer."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from llamaindex_code_retrieval._io import Progress, no_progress
from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.static_encoder import quantize_rows
from llamaindex_code_retrieval.models.static_model import StaticModel, WordTokens, repetition_weights
from llamaindex_code_retrieval.training.batches import Batches
from llamaindex_code_retrieval.training.checkpoints import save_static_model
from llamaindex_code_retrieval.training.config import StaticConfig, TrainConfig
from llamaindex_code_retrieval.training.loop import Loop
from llamaindex_code_retrieval.training.losses import contrastive_loss
from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
from llamaindex_code_retrieval.training.pairs import Pair, pairs_fingerprint
from llamaindex_code_retrieval.training.processes import check_one_process
from llamaindex_code_retrieval.training.run_record import (
    TrainingRun,
    describe_pairs,
    free_folder,
    run_record,
    save_static_run,
)
from llamaindex_code_retrieval.training.sampling import check_trainable, split_by_repository
from llamaindex_code_retrieval.training.students import token_vectors
from llamaindex_code_retrieval.training.validation import Validation, score, split_held_out

_FREQUENT = 1e-3
"""Share of all tokens at which a token's vector starts at half its length (SIF: Arora et al. 2017, section 3)."""


def train_static_model(
    pairs: Sequence[Pair],
    folder: str | Path,
    *,
    config: StaticConfig | None = None,
    validation_pairs: Sequence[Pair] = (),
    resume: bool = False,
    sources: Sequence[str | Path] = (),
    on_progress: Progress = no_progress,
) -> TrainingRun[StaticModel]:
    """Train a table on pairs, measure it on held-out queries and save it in ``folder`` for ``CodeEmbedding``.

    The table starts from the vectors that a transformer has for single tokens, the frequent ones shortened. Pairs are
    held out, and an interrupted run is continued, as by :func:`.train_adapter`.

    Args:
        pairs: queries with their codes.
        folder: a new folder for the model and its records.
        config: settings of the table and of its training.
        validation_pairs: pairs to hold out in place of some of ``pairs``.
        resume: continue the unfinished run in ``folder``.
        sources: names of the pairs' sources, for the record and the model card.
        on_progress: called with the stages "compare" and "train".

    Raises:
        ImportError: a package of the extra ``train`` is missing.
        ValueError: settings or pairs that do not fit, a base that is none, or a folder in use.
        FloatingPointError: the loss or a gradient is not finite.
    """
    check_installed("datasketch", "matplotlib", extra="train", purpose="training a static model")
    check_one_process("training a static model")
    out, config = free_folder(folder, resume=resume), config or StaticConfig()
    train, held_out = list(pairs), list(validation_pairs)
    if not held_out:
        train, held_out = split_by_repository(train, held_out=config.held_out, seed=config.seed)
    check_trainable(train, config.batch_size)
    clusters = near_duplicate_clusters([pair.code for pair in train])
    on_progress("compare", len(train), len(train))
    teacher = CodeEmbedding(config.base, device="cpu", precision="fp32", runtime="torch").torch_encoder
    table = StaticTable(teacher, train, dim=config.dim, max_tokens=config.max_tokens)
    validation = split_held_out(held_out, train, seed=config.seed)
    before = score(table.to_static_model(), validation.report)
    loop = Loop(
        TableContrastive(table, train, config, clusters),
        config,
        total=config.total_steps(len(train)),
        identity={
            "base": teacher.fingerprint,
            "pairs": pairs_fingerprint(train),
            "validation": pairs_fingerprint(held_out),
            "settings": json.dumps(config.resume_settings(), sort_keys=True),
        },
        folder=out,
        on_step=lambda step, total, entry: on_progress("train", step, total),
    )
    if resume:
        loop.load()
    loop.run(lambda: score(table.to_static_model(), validation.selection))
    loop.restore_best()
    return _save(loop, table, teacher, out, config, pairs=train, sources=sources, validation=validation, before=before)


def _save(
    loop: Loop,
    table: StaticTable,
    teacher: Encoder,
    folder: Path,
    config: StaticConfig,
    *,
    pairs: Sequence[Pair],
    sources: Sequence[str | Path],
    validation: Validation,
    before: Mapping[str, float],
) -> TrainingRun[StaticModel]:
    """Save the table of a loop that has ended, in the form for use and measured in it."""
    save_static_model(folder, table.tokenizer, table.table(), max_tokens=config.max_tokens)
    model = StaticModel.load(folder)
    run = TrainingRun.of_loop(
        loop,
        model,
        trained_parameters=table.weights.weight.numel(),
        base_parameters=sum(parameter.numel() for parameter in teacher.base.parameters()),
        device=torch.device("cpu"),
    )
    record = run_record(
        run,
        teacher,
        data=describe_pairs(pairs, sources),
        config=config,
        max_query_tokens=config.max_tokens,
        max_code_tokens=config.max_tokens,
        validation_before=before,
        validation_best=score(model, validation.report),
        validation_queries=len(validation.selection.queries),
        report_queries=None if validation.is_shared else len(validation.report.queries),
    )
    return save_static_run(run, folder, {**record, "fingerprint": model.fingerprint})


class StaticTable(nn.Module):
    """A trainable table of token vectors; :meth:`to_static_model` returns the form for use."""

    def __init__(self, teacher: Encoder, pairs: Sequence[Pair], *, dim: int, max_tokens: int) -> None:
        """Start from the principal components of the teacher's vectors of single tokens, by their frequency."""
        super().__init__()
        self.tokenizer = Tokenizer.from_str(teacher.tokenizer.backend_tokenizer.to_str())
        self._max_tokens = max_tokens
        self._tokens = WordTokens(self.tokenizer)
        vectors = token_vectors(teacher)
        centred = vectors - vectors.mean(0)
        _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        counts = np.ones(len(vectors))
        for text in (text for pair in pairs for text in (pair.query, pair.code)):
            np.add.at(counts, self.rows(text)[0], 1)
        shares = torch.from_numpy(counts / counts.sum()).float()
        start = centred @ axes[:dim].T * (_FREQUENT / (_FREQUENT + shares))[:, None]
        self.weights = nn.EmbeddingBag.from_pretrained(start, freeze=False, mode="sum")  # (tokens, dim)

    def rows(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the distinct tokens of a text and the weight of each by its repetitions."""
        (ids,) = self._tokens.ids([text])
        return repetition_weights(ids[: self._max_tokens])

    def embed(self, rows: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> Tensor:
        """Return unit vectors of shape ``(texts, dim)``."""
        starts = np.cumsum([0, *(len(ids) for ids, _ in rows)])[:-1]
        ids, weights = (torch.from_numpy(np.concatenate(part)) for part in zip(*rows, strict=True))
        return F.normalize(self.weights(ids, torch.from_numpy(starts), per_sample_weights=weights), dim=1)

    def table(self) -> NDArray[np.float32]:
        """Return the vectors of the tokens, ``(tokens, dim)``."""
        table: NDArray[np.float32] = self.weights.weight.detach().numpy()
        return table

    def to_static_model(self) -> StaticModel:
        """Return the table in the form for use."""
        return StaticModel(
            self.tokenizer,
            *quantize_rows(self.table()),
            name="",
            fingerprint="",
            max_query_tokens=self._max_tokens,
            max_code_tokens=self._max_tokens,
        )


class TableContrastive:
    """InfoNCE of a table's vectors; an :class:`~llamaindex_code_retrieval.training.objective.Objective`."""

    ready = True

    def __init__(
        self, table: StaticTable, pairs: Sequence[Pair], config: StaticConfig, clusters: Sequence[int] | None = None
    ) -> None:
        self.table = table
        self.parameters: Mapping[str, Tensor] = dict(table.named_parameters())
        self.extras: Mapping[str, Tensor] = {}
        self.rate_factors: Mapping[str, float] = {}
        self._temperature = config.temperature
        settings = TrainConfig(batch_size=config.batch_size, seed=config.seed)
        self._batches = Batches(pairs, settings, clusters)
        self._rows: dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
        self._before: tuple[int, deque[list[int]]] = (0, deque())

    def prepare(self, step: int) -> None:
        """Do nothing."""

    def backward(self, step: int) -> tuple[float, str]:
        """Add the gradients of the next batch; return its loss and what to call the batch in an error."""
        self._before = (self._batches.epoch, self._batches.waiting.copy())
        batch = self._batches.texts(self._batches.next(), step)
        queries, codes = (self.table.embed([*map(self._rows_of, texts)]) for texts in (batch.queries, batch.codes))
        loss = contrastive_loss(queries, codes, torch.tensor(batch.target), temperature=self._temperature)
        torch.autograd.backward(loss)
        return float(loss.detach()), f"the batch that begins with the query {batch.queries[0][:60]!r}"

    def _rows_of(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if text not in self._rows:
            self._rows[text] = self.table.rows(text)
        return self._rows[text]

    def rewind(self) -> None:
        """Make the last batch the next one again."""
        self._batches.epoch, self._batches.waiting = self._before

    def finish(self, step: int) -> dict[str, Any]:
        """Log nothing."""
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the order of the batches."""
        return {}, {"epoch": self._batches.epoch, "waiting": list(self._batches.waiting)}

    def restore(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self._batches.epoch, self._batches.waiting = values["epoch"], deque(values["waiting"])
