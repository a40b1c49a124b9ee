"""Contrastive training of an adapter: symmetric InfoNCE over batches without false negatives, and GradCache."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llamaindex_code_retrieval.models.batching import token_budget_batches
from llamaindex_code_retrieval.models.device import resolve_precision
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.training.activations import above_cached_layers
from llamaindex_code_retrieval.training.adapters import mean_rank, set_dropout, trained_share
from llamaindex_code_retrieval.training.batches import Batch, Batches
from llamaindex_code_retrieval.training.config import AdapterConfig, TrainConfig
from llamaindex_code_retrieval.training.loop import Loop, OnStep
from llamaindex_code_retrieval.training.losses import distribution_loss, matryoshka_loss, orthogonality_penalty
from llamaindex_code_retrieval.training.negatives import hard_negatives, pack_rows, unpack_rows
from llamaindex_code_retrieval.training.objective import Entry
from llamaindex_code_retrieval.training.pairs import Pair, pairs_fingerprint
from llamaindex_code_retrieval.training.processes import Processes
from llamaindex_code_retrieval.training.run_record import TrainingRun
from llamaindex_code_retrieval.training.teachers import TeacherVectors

ValidateEncoder = Callable[[Encoder], Mapping[str, float]]
"""Returns the validation scores of the encoder in its current state; ``mrr`` decides which step is the best one."""


def fit_adapter(
    model: Encoder,
    pairs: Sequence[Pair],
    adapter: AdapterConfig,
    config: TrainConfig,
    *,
    untrained: Encoder | None = None,
    validate: ValidateEncoder | None = None,
    clusters: Sequence[int] | None = None,
    teachers: TeacherVectors | None = None,
    identity: Mapping[str, str] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> TrainingRun[Encoder]:
    """Train the adapter of ``model`` and leave it with the weights of the best step.

    Under ``accelerate launch`` each process embeds its part of every batch; the gradient is that of one process.

    Args:
        model: from :func:`attach_adapter`, with the same ``adapter`` settings.
        pairs: what it learns from.
        adapter, config: settings of the adapter and of the training.
        untrained: the encoder that the first validation scores, if it is not ``model`` itself.
        validate: runs before the first step and every ``validate_steps``; without it the last step is the best.
        clusters: number of the cluster of near-duplicates of each pair's code (:func:`near_duplicate_clusters`).
        teachers: vectors of all texts, for ``config.teacher_weight``.
        identity: what else must be equal for an unfinished run to be resumed, by name.
        folder: where the state of the unfinished run is saved; ``None`` saves none.
        resume: continue the unfinished run in ``folder``; on a CPU the result is bit for bit that of an unbroken run.
        on_step: called after each step and validation.
        clock: returns seconds, for the time budget and the log.

    Raises:
        ValueError: fewer pairs than a batch; ``resume`` without a state, or with that of another run.
        FloatingPointError: the loss or a gradient is not finite; the state before that step is kept.
    """
    processes = Processes.join(cpu=model.device.type == "cpu")
    batches = Batches(pairs, config, clusters)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        loop = Loop(
            Contrastive(model, batches, adapter, config, processes, teachers=teachers, folder=folder),
            config,
            total=config.total_steps(len(pairs)),
            identity={**_identity(model, pairs, adapter, config), **(identity or {})},
            folder=folder,
            on_step=on_step,
            writes=processes.is_main,
            clock=clock,
        )
        if resume:
            loop.load()
        loop.run(
            None if validate is None else partial(validate, model),
            validate_first=None if validate is None or untrained is None else partial(validate, untrained),
        )
    loop.restore_best()
    trained, base = trained_share(model)
    return TrainingRun.of_loop(loop, model, trained_parameters=trained, base_parameters=base, device=model.device)


def _identity(model: Encoder, pairs: Sequence[Pair], adapter: AdapterConfig, config: TrainConfig) -> dict[str, str]:
    """Return what must be equal for an unfinished run to be resumed."""
    return {
        "base": model.base_fingerprint,
        "token limits": f"{model.max_query_tokens}, {model.max_code_tokens}",
        "pairs": pairs_fingerprint(pairs),
        "adapter": json.dumps(adapter.model_dump(), sort_keys=True),
        "settings": json.dumps(config.resume_settings(), sort_keys=True),
    }


class Contrastive:
    """InfoNCE of the batches, an :class:`~llamaindex_code_retrieval.training.objective.Objective`."""

    def __init__(
        self,
        model: Encoder,
        batches: Batches,
        adapter: AdapterConfig,
        config: TrainConfig,
        processes: Processes,
        *,
        teachers: TeacherVectors | None = None,
        folder: Path | None = None,
    ) -> None:
        """Prepare a run; cached activations are in ``folder``, or among the temporary files."""
        self.model = model
        self.teachers = teachers
        self.trained_part = _trained_part(model, batches.pairs, adapter, config, folder)
        self.batches = batches
        self.adapter = adapter
        self.config = config
        self.processes = processes
        self.parameters = {name: p for name, p in model.backbone.named_parameters() if p.requires_grad}
        self.log_temperature = torch.tensor(math.log(config.temperature), requires_grad=config.learn_temperature)
        self.extras = {"log_temperature": self.log_temperature} if config.learn_temperature else {}
        self.rate_factors: Mapping[str, float] = {}
        self.bf16 = resolve_precision(config.precision, model.device) == "bf16"
        self.length_step = config.length_step or (16 if self.bf16 else 1)
        self._step = 0
        self._before: tuple[int, deque[list[int]]] = (batches.epoch, batches.waiting)

    @property
    def ready(self) -> bool:
        """Whether AdaLoRA has pruned to its budget of ranks; true for other methods."""
        return self.adapter.method != "adalora" or mean_rank(self.model) <= self.adapter.rank + 1e-6

    def prepare(self, step: int) -> None:
        """Mine hard negatives every ``refresh_steps``."""
        if self.config.hard_negatives and step % self.config.refresh_steps == 0:
            self._mine()

    def backward(self, step: int) -> tuple[float, str]:
        """Add the gradient of the next batch, over all processes, to the parameters."""
        self._step = step
        self._before = (self.batches.epoch, self.batches.waiting.copy())
        positions = self.batches.next()
        batch = self.batches.texts(positions, step)
        loss = self.backward_batch(batch, self.batches.remembered(positions))
        if self.processes.count > 1:
            for p in self.parameters.values():  # a process without a chunk has no gradient, but must take part
                p.grad = self.processes.add(torch.zeros_like(p) if p.grad is None else p.grad)
        if self.adapter.method == "adalora":
            torch.autograd.backward(self.adapter.orthogonality * orthogonality_penalty(self.parameters))
        return loss, f"the batch that begins with the query {batch.queries[0][:60]!r}"

    def rewind(self) -> None:
        """Make the last batch the next one again."""
        self.batches.epoch, self.batches.waiting = self._before

    def finish(self, step: int) -> Entry:
        """Keep the temperature in bounds and prune AdaLoRA's ranks; return both for the log."""
        entry: Entry = {}
        if self.config.learn_temperature:
            with torch.no_grad():
                self.log_temperature.clamp_(math.log(0.01), math.log(1.0))
            entry["temperature"] = round(float(self.log_temperature.detach().exp()), 5)
        if self.adapter.method == "adalora":
            backbone: Any = self.model.backbone
            backbone.base_model.update_and_allocate(step)
            entry["mean_rank"] = round(mean_rank(self.model), 3)
        return entry

    def backward_batch(self, batch: Batch, memory: Tensor) -> float:
        """Add this process's part of the batch's gradient to the parameters; return the loss of the whole batch.

        ``memory`` (any, dim) are vectors of further negatives, which get no gradient.
        """
        ids = self.model.tokenize(batch.queries, side="query") + self.model.tokenize(batch.codes, side="code")
        limit = max(self.model.max_query_tokens, self.model.max_code_tokens)
        lengths = [min(limit, -(-len(row) // self.length_step) * self.length_step) for row in ids]
        chunks = list(token_budget_batches(lengths, self.config.forward_tokens))
        chunks = chunks[self.processes.index :: self.processes.count]
        set_dropout(self.trained_part, True)
        parts: list[Tensor] = []
        vectors = torch.zeros(len(ids), self.model.dim, device=self.model.device)
        for number, chunk in enumerate(chunks):
            with torch.set_grad_enabled(not self.config.grad_cache):
                part = self._embed(ids, chunk, lengths, number)
            vectors[chunk] = part.detach()
            parts.append(part)
        vectors = self.processes.add(vectors).requires_grad_()
        n = len(batch.queries)
        self.batches.remember(batch.codes, vectors[n:])
        target = torch.tensor(batch.target, device=vectors.device)
        temperature = self.log_temperature.exp().to(vectors.device)
        codes = torch.cat([vectors[n:], memory.to(vectors.device)]) if len(memory) else vectors[n:]
        loss = matryoshka_loss(
            vectors[:n],
            codes,
            target,
            dimensions=self.config.dimensions,
            temperature=temperature,
            hardness=self.config.hardness,
        )
        if self.teachers is not None:
            loss = torch.lerp(loss, self._teachers_loss(batch, vectors), self.config.teacher_weight)
        gradient, *temperature_gradient = torch.autograd.grad(
            loss, [vectors, self.log_temperature] if self.config.learn_temperature else [vectors]
        )
        if temperature_gradient:
            self.log_temperature.grad = temperature_gradient[0]
        for number, chunk in enumerate(chunks):
            part = self._embed(ids, chunk, lengths, number) if self.config.grad_cache else parts[number]
            torch.autograd.backward(part, gradient[chunk])
        set_dropout(self.trained_part, False)
        return float(loss.detach())

    def _teachers_loss(self, batch: Batch, vectors: Tensor) -> Tensor:
        assert self.teachers is not None
        n = len(batch.queries)
        return distribution_loss(
            vectors[:n],
            vectors[n:],
            [cosines.to(vectors.device) for cosines in self.teachers.cosines(batch.queries, batch.codes)],
            temperature=self.log_temperature.exp().to(vectors.device),
            teacher_temperature=self.config.teacher_temperature,
        )

    def _embed(self, ids: list[list[int]], chunk: list[int], lengths: list[int], number: int) -> Tensor:
        # the seed makes the dropout of a chunk equal in both passes of GradCache, and after a resume
        torch.manual_seed((self.config.seed * 1_000_003 + self._step) * 1_009 + number)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            return self.trained_part.embed([ids[i] for i in chunk], length=lengths[chunk[0]]).float()

    def _mine(self) -> None:
        pairs, codes = self.batches.pairs, self.batches.codes
        rows = [self.batches.row[pair.code] for pair in pairs]
        answers: dict[str, set[int]] = {}
        for pair, row in zip(pairs, rows, strict=True):
            answers.setdefault(pair.query, set()).add(row)
        self.batches.mined = hard_negatives(
            self.model.encode_queries([pair.query for pair in pairs]),
            self.model.encode_codes(codes),
            rows,
            per_query=self.config.hard_negatives,
            margin=self.config.margin,
            clusters=self.batches.clusters,
            answers=[frozenset(answers[pair.query]) for pair in pairs],
            device=self.model.device,
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the order of the batches, the mined negatives, the vectors of codes and AdaLoRA's statistics."""
        tensors = pack_rows(self.batches.mined)
        if self.batches.vectors is not None:
            tensors["vectors"] = self.batches.vectors
        pattern = None
        if self.adapter.method == "adalora":
            backbone: Any = self.model.backbone
            for key in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
                for name, value in getattr(backbone.base_model.rankallocator, key).items():
                    tensors[f"allocator.{key}/{name}"] = value
            pattern = backbone.peft_config["default"].rank_pattern
        return tensors, {
            "rank_pattern": pattern,
            "epoch": self.batches.epoch,
            "waiting": list(self.batches.waiting),
        }

    def restore(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.batches.epoch, self.batches.waiting = values["epoch"], deque(values["waiting"])
        self.batches.vectors = tensors.get("vectors")
        self.batches.mined = unpack_rows(tensors)
        if self.adapter.method == "adalora":
            backbone: Any = self.model.backbone
            for key in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
                prefix = f"allocator.{key}/"
                saved = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                setattr(backbone.base_model.rankallocator, key, {k: v.to(self.model.device) for k, v in saved.items()})
            backbone.peft_config["default"].rank_pattern = values["rank_pattern"]


def _trained_part(
    model: Encoder, pairs: Sequence[Pair], adapter: AdapterConfig, config: TrainConfig, folder: Path | None
) -> Encoder:
    """Return the encoder that the steps compute: ``model``, or its upper layers on cached activations."""
    if not config.activation_gigabytes:
        return model
    rows = model.tokenize(list({pair.query for pair in pairs}), side="query")
    rows += model.tokenize(list({pair.code for pair in pairs}), side="code")
    return above_cached_layers(model, adapter.first_layer, rows, gigabytes=config.activation_gigabytes, folder=folder)
