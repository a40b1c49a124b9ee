"""Pretrain a base on source code alone: predict masked tokens and masked names (CodeSage's first stage)."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamaindex_code_retrieval._io import Progress, no_progress, sha256
from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.models.batching import token_budget_batches
from llamaindex_code_retrieval.models.device import resolve_precision
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import ADAPTER_WEIGHTS
from llamaindex_code_retrieval.training.adapters import attach_adapter, locate_start, set_dropout, trained_share
from llamaindex_code_retrieval.training.batches import Epochs
from llamaindex_code_retrieval.training.config import AdapterConfig, PretrainConfig
from llamaindex_code_retrieval.training.loop import Loop, OnStep
from llamaindex_code_retrieval.training.masking import MaskedRow, Masker
from llamaindex_code_retrieval.training.model_card import pretraining_card
from llamaindex_code_retrieval.training.objective import Entry
from llamaindex_code_retrieval.training.processes import check_one_process
from llamaindex_code_retrieval.training.recipes import PretrainRecipe
from llamaindex_code_retrieval.training.run_record import TrainingRun, free_folder, public_name, run_record, save_run
from llamaindex_code_retrieval.training.sampling import choose_groups
from llamaindex_code_retrieval.training.source_texts import (
    SourceText,
    describe_texts,
    read_source_texts,
    texts_fingerprint,
)

VALIDATION_TEXTS = 200
"""Largest number of held-out texts that measure how many masked tokens are predicted."""


def pretrain(
    roots: Sequence[str | Path],
    folder: str | Path,
    *,
    recipe: PretrainRecipe | None = None,
    start: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    on_progress: Progress = no_progress,
) -> TrainingRun[Encoder]:
    """Pretrain a base on the source files under ``roots`` and save what was trained in ``folder``.

    It needs no pairs and no comments. The result cannot retrieve yet: train it on pairs next, with ``start=folder``
    for an adapter and ``base=folder`` for whole weights. Some files are held out, and choose the best step.

    Args:
        roots: folders with source code.
        folder: a new folder for the weights and their records.
        recipe: base, token limit, languages, what is masked, adapter and training.
        start: name or folder of an adapter that the training starts from; ``None`` and ``"none"`` are the base itself.
        device: torch device; by default CUDA if there is one.
        resume: continue the unfinished run in ``folder``.
        on_progress: called with the stages "read" and "train".

    Raises:
        ImportError: a package of the extra ``train`` is missing.
        ValueError: settings or a ``start`` that do not fit, a base without a mask token, too little source code, or a
            folder in use.
        FloatingPointError: the loss or a gradient is not finite; the state before that step is kept.
    """
    check_installed("matplotlib", extra="train", purpose="pretraining")
    check_one_process("pretraining")
    out, recipe = free_folder(folder, resume=resume), recipe or PretrainRecipe()
    encoder = Encoder.from_pretrained(
        recipe.base, device=device, precision="fp32", max_code_tokens=recipe.max_code_tokens
    )
    masker = Masker(encoder, max_tokens=encoder.max_code_tokens)
    start_folder = locate_start(start)
    model = attach_adapter(encoder, recipe.adapter, start=start_folder, seed=recipe.train.seed)
    texts = read_texts(roots, encoder, languages=recipe.languages, on_progress=on_progress)
    train, held_out = hold_out_texts(texts, recipe.held_out, seed=recipe.train.seed)
    check_texts(train, recipe.train)
    run = fit_masked(
        model,
        masker,
        train,
        recipe.adapter,
        recipe.train,
        held_out=held_out,
        identity={"start": "" if start_folder is None else sha256(start_folder / ADAPTER_WEIGHTS)},
        folder=out,
        resume=resume,
        on_step=lambda step, total, entry: on_progress("train", step, total),
    )
    data = describe_texts(train, [public_name(root) for root in roots])
    named = None if start_folder is None else public_name(str(start))
    record = run_record(
        run, model, data=data, adapter=recipe.adapter, config=recipe.train, start=named, validation_texts=len(held_out)
    )
    return save_run(run, out, record, pretraining_card)


def pretrain_in_place(
    model: Encoder,
    texts: Sequence[SourceText],
    adapter: AdapterConfig,
    config: PretrainConfig,
    *,
    on_progress: Progress = no_progress,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Pretrain the adapter of ``model``, which stays in memory, and return a record of it.

    Batches are no larger than the number of texts, and mask tokens alone where too few texts declare a name.

    Raises:
        ValueError, FloatingPointError: as :func:`fit_masked`.
    """
    masker = Masker(model, max_tokens=model.max_code_tokens)
    several = len({text.path for text in texts}) > 1
    train, held_out = hold_out_texts(texts, 0.05 if several else 0.0, seed=config.seed)
    config = config.replace(batch_size=max(2, min(config.batch_size, len(train))))
    if sum(1 for text in train if text.names) < config.batch_size:
        config = config.replace(name_batches=0.0, masked_names=type(config).model_fields["masked_names"].default)
    check_texts(train, config)
    run = fit_masked(
        model,
        masker,
        train,
        adapter,
        config,
        held_out=held_out,
        on_step=lambda step, total, entry: on_progress("pretrain", step, total),
        clock=clock,
    )
    scores = [entry["validation"] for entry in run.history if "validation" in entry]
    return {
        "train": config.model_dump(),
        "texts": len(train),
        "steps": run.steps,
        "seconds": round(run.seconds, 1),
        "accuracy": [scores[0]["accuracy"], max(each["accuracy"] for each in scores)] if scores else None,
    }


def read_texts(
    roots: Sequence[str | Path], encoder: Encoder, *, languages: Sequence[str] = (), on_progress: Progress = no_progress
) -> list[SourceText]:
    """Return the texts of source files, cut for the token limit of ``encoder``; see :func:`read_source_texts`."""
    return read_source_texts(
        roots,
        max_tokens=encoder.max_code_tokens,
        tokenizer=lambda text: encoder.tokenize([text], side="code", truncate=False)[0],
        languages=languages,
        on_progress=on_progress,
    )


def hold_out_texts(
    texts: Sequence[SourceText], share: float, *, seed: int
) -> tuple[list[SourceText], list[SourceText]]:
    """Return the texts to train on and at most 200 to validate on, which come from other files.

    Raises:
        ValueError: all texts come from one file.
    """
    if not share:
        return list(texts), []
    paths = [text.path for text in texts]
    if len(set(paths)) < 2:
        raise ValueError(f"all texts are from the file {paths[0]}, so none can be held out; set held_out=0")
    chosen = choose_groups(paths, share=share, seed=seed)
    held_out = [text for text in texts if text.path in chosen]
    step = max(1, len(held_out) // VALIDATION_TEXTS)
    return [text for text in texts if text.path not in chosen], held_out[::step][:VALIDATION_TEXTS]


def check_texts(texts: Sequence[SourceText], config: PretrainConfig) -> None:
    """Check that there are enough texts for a batch of each kind that ``config`` asks for.

    Raises:
        ValueError: there are too few texts, or too few that declare a name.
    """
    size, named = config.batch_size, sum(1 for text in texts if text.names)
    if len(texts) < size:
        raise ValueError(
            f"{len(texts)} texts are fewer than a batch of {size}; lower batch_size or give more source code"
        )
    if config.name_batches and named < size:
        raise ValueError(
            f"{named} of {len(texts)} texts declare a name that can be masked, which is less than a batch of {size}; "
            "lower batch_size, or set name_batches=0 to mask tokens alone"
        )


def fit_masked(
    model: Encoder,
    masker: Masker,
    texts: Sequence[SourceText],
    adapter: AdapterConfig,
    config: PretrainConfig,
    *,
    held_out: Sequence[SourceText] = (),
    identity: Mapping[str, str] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> TrainingRun[Encoder]:
    """Train the adapter of ``model`` to predict masked tokens and leave it with the weights of the best step.

    Args:
        model: from :func:`attach_adapter`, with the same ``adapter`` settings.
        masker: for the tokenizer of ``model``.
        texts: what it learns from.
        adapter, config: settings of the adapter and of the training.
        held_out: texts whose masked tokens choose the best step; without any the last step is the best.
        identity: what else must be equal for an unfinished run to be resumed, by name.
        folder: where the state of the unfinished run is saved; ``None`` saves none.
        resume: continue the unfinished run in ``folder``; on a CPU the result is bit for bit that of an unbroken run.
        on_step: called after each step and validation.
        clock: returns seconds, for the time budget and the log.

    Raises:
        ValueError: ``resume`` without a state, or with that of another run; token vectors of another width than the
            hidden states.
        FloatingPointError: the loss or a gradient is not finite; the state before that step is kept.
    """
    objective = Masking(model, masker, texts, config)
    validation = objective.validation_rows(held_out)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        loop = Loop(
            objective,
            config,
            total=config.total_steps(len(texts)),
            identity={
                "base": model.base_fingerprint,
                "token limits": str(model.max_code_tokens),
                "texts": texts_fingerprint(texts),
                "held-out texts": texts_fingerprint(held_out),
                "adapter": json.dumps(adapter.model_dump(), sort_keys=True),
                "settings": json.dumps(config.resume_settings(), sort_keys=True),
                **(identity or {}),
            },
            folder=folder,
            on_step=on_step,
            metric="accuracy",
            clock=clock,
        )
        if resume:
            loop.load()
        loop.run((lambda: objective.score(validation)) if held_out else None)
    loop.restore_best()
    trained, base = trained_share(model)
    return TrainingRun.of_loop(loop, model, trained_parameters=trained, base_parameters=base, device=model.device)


class MaskedTokenHead(nn.Module):
    """Predicts tokens from hidden states by the base's own table of token vectors (tied, as in BERT)."""

    def __init__(self, width: int, table: Tensor, *, seed: int) -> None:
        """Start as the identity, normalised; ``table`` is ``(vocabulary, width)`` and is not part of the head."""
        super().__init__()
        if table.shape[1] != width:
            raise ValueError(
                f"the token vectors of this base have length {table.shape[1]} and its hidden states {width}, so the "
                "head cannot be tied to them; choose a base where both are equal"
            )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.dense = nn.Linear(width, width)
        nn.init.eye_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(len(table)))
        length = float(table.detach().float().norm(dim=1).mean())
        self.scale = min(1.0, 1.0 / max(length, 1e-6))
        """Token vectors longer than 1, as those of T5, would make the first predictions too sure."""

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Return the logits, ``(tokens, vocabulary)``, of hidden states, ``(tokens, width)``."""
        return F.linear(self.norm(self.dense(hidden)), table) * self.scale + self.bias


class Masking:
    """The cross-entropy of masked tokens, an :class:`~llamaindex_code_retrieval.training.objective.Objective`.

    A batch masks either tokens or names, in turn as ``name_batches`` says; its texts and masks follow from its step.
    """

    ready = True

    def __init__(self, model: Encoder, masker: Masker, texts: Sequence[SourceText], config: PretrainConfig) -> None:
        self.model = model
        self.masker = masker
        self.texts = list(texts)
        self.named = [text for text in texts if text.names]
        self.config = config
        table = self.table()
        self.head = MaskedTokenHead(table.shape[1], table, seed=config.seed).to(model.device)
        self.parameters: Mapping[str, Tensor] = {
            **{f"backbone.{name}": p for name, p in model.backbone.named_parameters() if p.requires_grad},
            **{f"head.{name}": p for name, p in self.head.named_parameters()},
        }
        self.extras: Mapping[str, Tensor] = {}
        self.rate_factors: Mapping[str, float] = {}
        self.bf16 = resolve_precision(config.precision, model.device) == "bf16"
        self.length_step = config.length_step or (16 if self.bf16 else 1)
        self._orders = {
            kind: Epochs(len(texts), config.batch_size, config.seed)
            for kind, texts in (("tokens", self.texts), ("names", self.named))
            if texts
        }

    def table(self) -> Tensor:
        """Return the vectors of the tokens, ``(vocabulary, width)``."""
        backbone: Any = self.model.backbone
        weight: Tensor = backbone.get_input_embeddings().weight
        return weight

    def prepare(self, step: int) -> None:
        """Do nothing."""

    def backward(self, step: int) -> tuple[float, str]:
        """Add the gradients of the batch of this step; return its loss and what to call the batch in an error."""
        kind, number = _kind(self.config, step)
        texts = self.named if kind == "names" else self.texts
        batch = [texts[i] for i in self._orders[kind].batch(number)]
        rows = self.mask(batch, kind, seed=f"{self.config.seed}-{step}")
        count = max(1, sum(len(row.labels) for row in rows))
        set_dropout(self.model, True)
        total = 0.0
        for number, chunk in enumerate(self._chunks(rows)):
            torch.manual_seed((self.config.seed * 1_000_003 + step) * 1_009 + number)  # dropout, also after a resume
            logits, labels = self._predict([rows[i] for i in chunk])
            loss = F.cross_entropy(logits, labels, reduction="sum") / count
            torch.autograd.backward(loss)
            total += float(loss.detach())
        set_dropout(self.model, False)
        return total, f"the batch that begins with {batch[0].path}"

    def mask(self, texts: Sequence[SourceText], kind: str, *, seed: str) -> list[MaskedRow]:
        """Return the texts with tokens or names masked; masks follow from the seed."""
        rng = random.Random(seed)
        if kind == "names":
            return [self.masker.mask_names(each.text, each.names, self.config.masked_names, rng) for each in texts]
        return [self.masker.mask_tokens(each.text, self.config.masked_tokens, rng) for each in texts]

    def validation_rows(self, texts: Sequence[SourceText]) -> dict[str, list[MaskedRow]]:
        """Return held-out texts masked in each way that the training uses, the same at every validation."""
        kinds = {_kind(self.config, step)[0] for step in range(self.config.total_steps(len(self.texts)))}
        rows = {
            kind: self.mask([text for text in texts if kind == "tokens" or text.names], kind, seed="validation")
            for kind in sorted(kinds)
        }
        return {kind: masked for kind, masked in rows.items() if any(row.labels for row in masked)}

    def score(self, rows: Mapping[str, Sequence[MaskedRow]]) -> dict[str, float]:
        """Return the share of masked tokens that is predicted, for each kind and their mean as ``accuracy``.

        Raises:
            ValueError: a prediction is not finite.
        """
        scores = {f"{kind}_accuracy": self._accuracy(masked) for kind, masked in rows.items()}
        return {"accuracy": sum(scores.values()) / len(scores) if scores else 0.0, **scores}

    @torch.no_grad()
    def _accuracy(self, rows: Sequence[MaskedRow]) -> float:
        right = total = 0
        for chunk in self._chunks(rows):
            logits, labels = self._predict([rows[i] for i in chunk])
            if not math.isfinite(float(logits.sum())):
                raise ValueError("a predicted score is not finite")
            right += int((logits.argmax(1) == labels).sum())
            total += len(labels)
        return right / max(1, total)

    def _chunks(self, rows: Sequence[MaskedRow]) -> list[list[int]]:
        """Return the places of the rows with a masked token, in forward passes of at most ``forward_tokens``."""
        used = [i for i, row in enumerate(rows) if row.labels]
        lengths = [self._length(rows[i]) for i in used]
        return [[used[i] for i in chunk] for chunk in token_budget_batches(lengths, self.config.forward_tokens)]

    def _length(self, row: MaskedRow) -> int:
        return min(self.model.max_code_tokens, -(-len(row.ids) // self.length_step) * self.length_step)

    def _predict(self, rows: Sequence[MaskedRow]) -> tuple[Tensor, Tensor]:
        """Return the logits of the masked tokens of rows, ``(tokens, vocabulary)`` in fp32, and the tokens."""
        device = self.model.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            hidden, _ = self.model.hidden_states([row.ids for row in rows], length=max(map(self._length, rows)))
            row_of = [i for i, row in enumerate(rows) for _ in row.places]
            places = [place for row in rows for place in row.places]
            logits = self.head(hidden[row_of, places], self.table())
        labels = torch.tensor([label for row in rows for label in row.labels], device=device)
        return logits.float(), labels

    def rewind(self) -> None:
        """Do nothing: a batch depends on its step alone."""

    def finish(self, step: int) -> Entry:
        """Return what the step masked, for the log."""
        return {"masked": _kind(self.config, step)[0]}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return nothing: everything follows from the step."""
        return {}, {}

    def restore(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Do nothing."""


def _kind(config: PretrainConfig, step: int) -> tuple[str, int]:
    """Return what a step masks, "tokens" or "names", and how many steps before it mask the same.

    >>> [_kind(PretrainConfig(name_batches=0.5), step) for step in range(4)]
    [('tokens', 0), ('names', 0), ('tokens', 1), ('names', 1)]
    """
    before, after = (math.floor(number * config.name_batches + 1e-9) for number in (step, step + 1))
    return ("names", before) if after > before else ("tokens", step - before)
