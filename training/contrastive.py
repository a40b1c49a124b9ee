"""Contrastive training of an adapter: symmetric InfoNCE over batches without false negatives, GradCache, resume."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import resource
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import reduce
from safetensors import safe_open
from torch import Tensor

from llamaindex_code_retrieval.encoder import Encoder, Precision, resolve_precision, token_budget_batches
from llamaindex_code_retrieval.files import write_atomically
from llamaindex_code_retrieval.training.adapters import AdapterConfig, attach_adapter, mean_rank, trained_share
from llamaindex_code_retrieval.training.negatives import hard_negatives
from llamaindex_code_retrieval.training.pairs import Pair, hard_positive, rewrite_query

logger = logging.getLogger(__name__)

STATE = "state.safetensors"
"""The file of an unfinished run that ``resume`` reads."""

Validate = Callable[[Encoder], Mapping[str, float]]
"""Scores the encoder as it is; ``mrr`` decides which step is the best one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of one contrastive run, saved in ``train_config.json`` beside the adapter."""

    epochs: float = 1.0
    batch_size: int = 64
    """Pairs a step, over all processes together."""
    learning_rate: float = 1e-3
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises; it then falls to zero linearly."""
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    temperature: float = 0.05
    learn_temperature: bool = False
    grad_cache: bool = False
    """Embed twice, so that memory holds one forward pass and not the whole batch (Gao et al. 2021)."""
    forward_tokens: int = 2048
    """Padded tokens of one forward pass; 2,048 is fastest on a CPU, a GPU wants many times that."""
    length_step: int = 0
    """Texts are padded to a multiple of this many tokens, so that few shapes occur; 0 is 16 in bf16, and none in fp32,
    where padding costs more than new shapes do."""
    hard_negatives: int = 0
    """Mined codes a query, embedded with the batch."""
    refresh_steps: int = 200
    """Steps between two minings with the model as it then is."""
    neighbours: int = 1
    """Codes come into a batch in blocks of this many nearest neighbours, by their vectors when last embedded, so that
    in-batch negatives are hard at no cost; 1 leaves it to chance, as the first epoch always does."""
    memory: bool = False
    """All codes, by their vectors when last embedded, are negatives of each query: as many as there are codes at no
    cost (cross-batch memory: Wang et al. 2020, section 3.2)."""
    margin: float = 0.05
    """A code nearer than the positive's cosine less this is taken for an answer, not for a negative."""
    judged_negatives: int = 1
    """Codes a query, and queries a code, of those that were judged not to match."""
    hard_positives: float = 0.0
    """Share of codes shown without signature and return statements (Zhang et al. 2024, section 3.2)."""
    hardness: float = 0.0
    """Negatives weigh by exp(hardness * cosine), of mean one (Robinson et al. 2021; CodeSage: 1/temperature)."""
    rewritten_queries: float = 0.0
    """Share of queries with one word deleted, copied or switched (CoCLR: Huang et al. 2021, section 4.2)."""
    precision: Precision = "auto"
    """Of the arithmetic; weights are fp32 either way."""
    validate_steps: int = 0
    """Steps between two validations; 0 is a fifth of the run."""
    patience: int = 0
    """Validations without a better MRR after which to stop; 0 is never."""
    save_steps: int = 50
    max_seconds: float | None = None
    """A time budget, validations included: after five steps the schedule is cut to what fits. Such a run cannot be
    repeated exactly."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 to have in-batch negatives, got {self.batch_size}")
        for name in (
            "epochs",
            "learning_rate",
            "temperature",
            "forward_tokens",
            "refresh_steps",
            "save_steps",
            "neighbours",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be over 0, got {getattr(self, name)}")
        for name in ("warmup", "hard_positives", "rewritten_queries"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, from 0 to 1, got {getattr(self, name)}")
        for name in (
            "hard_negatives",
            "judged_negatives",
            "hardness",
            "length_step",
            "validate_steps",
            "patience",
            "weight_decay",
            "margin",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(slots=True, kw_only=True)
class TrainResult:
    """A finished run: ``encoder`` has the weights of ``best_step``."""

    encoder: Encoder
    steps: int
    best_step: int
    history: list[dict[str, Any]]
    """One entry a step (loss, learning rate, …) and one a validation (its scores)."""
    trained: int
    base: int
    seconds: float
    peak_bytes: int
    """Largest resident memory of the process, or device memory on CUDA."""


@dataclass(frozen=True, slots=True)
class Batch:
    """``target[i]`` is the row in ``codes`` that answers ``queries[i]``; the rest on either side are negatives."""

    queries: list[str]
    codes: list[str]
    target: list[int]


def contrastive_loss(
    queries: Tensor, codes: Tensor, target: Tensor, *, temperature: Tensor | float = 0.05, hardness: float = 0.0
) -> Tensor:
    """Return the symmetric InfoNCE of unit vectors: each query against all codes, each code against all queries.

    ``queries`` (n + rejected, dim), ``codes`` (m, dim), ``target`` (n). A code may answer several queries: for each of
    them the others are left out of its softmax. Rows of ``queries`` beyond n, and codes that answer none, are
    negatives only. With ``hardness`` each negative weighs by exp(hardness * cosine), divided by the mean of that.
    """
    n = len(target)
    cosines = queries @ codes.T  # (queries, codes)
    own = F.one_hot(target, len(codes)).bool()  # (n, codes)
    to_code = cosines[:n] / temperature + _log_weights(cosines[:n], own, hardness)
    loss = F.cross_entropy(to_code, target)
    from_code = cosines.T[target]  # (n, queries): the row of each query's code
    same = torch.zeros(n, len(queries), dtype=torch.bool, device=target.device)
    same[:, :n] = target[:, None] == target[None, :]
    itself = torch.zeros_like(same)
    itself[:, :n].fill_diagonal_(True)
    logits = from_code / temperature + _log_weights(from_code, same, hardness)
    logits = logits.masked_fill(same & ~itself, -math.inf)
    return (loss + F.cross_entropy(logits, torch.arange(n, device=target.device))) / 2


def _log_weights(cosines: Tensor, positive: Tensor, hardness: float) -> Tensor:
    """Return log of each negative's weight, 0 for positives; weights of a row's negatives have mean 1."""
    if hardness == 0:
        return torch.zeros_like(cosines)
    logits = (hardness * cosines.detach()).masked_fill(positive, -math.inf)
    negatives = (~positive).sum(1, keepdim=True).clamp(min=1)
    weights = torch.log_softmax(logits, dim=1) + negatives.log()
    return weights.masked_fill(positive, 0.0)


class Batches:
    """An endless stream of batches: no two codes of a batch are equal or near-duplicates, no two queries are equal.

    A code goes with all its queries at once, so that it is embedded once for all of them.
    """

    def __init__(self, pairs: Sequence[Pair], config: TrainConfig, clusters: Sequence[int] | None = None) -> None:
        if len(pairs) < config.batch_size:
            raise ValueError(
                f"{len(pairs)} pairs are fewer than a batch of {config.batch_size}; lower batch_size or give more pairs"
            )
        self.pairs = list(pairs)
        self.config = config
        self.codes = list(dict.fromkeys(pair.code for pair in pairs))
        self.row = {code: row for row, code in enumerate(self.codes)}
        by_code: dict[str, list[int]] = {}
        cluster = {pair.code: i if clusters is None else clusters[i] for i, pair in enumerate(pairs)}
        for i, pair in enumerate(pairs):
            by_code.setdefault(pair.code, []).append(i)
        self.clusters = [cluster[code] for code in self.codes]
        self._answers: dict[str, set[int]] = {}  # query -> rows of all codes that answer it
        for pair in pairs:
            self._answers.setdefault(pair.query, set()).add(self.row[pair.code])
        if len(set(self.clusters)) < 2:
            raise ValueError("all codes are one and the same (or near-duplicates): there are no in-batch negatives")
        most = max(1, config.batch_size // 4)  # of one code in a batch
        self._groups = [rows[i : i + most] for rows in by_code.values() for i in range(0, len(rows), most)]
        self._cluster_of_pair = [cluster[pair.code] for pair in pairs]
        self._rejected: dict[str, list[str]] = {}
        for pair in pairs:
            self._rejected.setdefault(pair.code, []).extend(pair.negative_queries)
        self.mined: list[list[int]] = []  # pair -> rows of hard negative codes
        self.vectors: Tensor | None = None  # of all codes, when last embedded
        self.epoch = 0
        self.waiting: deque[list[int]] = deque()  # groups of pairs of one code, in the order of this epoch

    def next(self) -> list[int]:
        """Return the pairs of the next batch, by their positions."""
        batch = self._take()
        if len(batch) < self.config.batch_size // 2:  # what is left of an epoch is little, or clashes
            self.waiting = deque(self._order())
            self.epoch += 1
            batch = self._take()
        return batch

    def _order(self) -> list[list[int]]:
        """Return the groups of an epoch: in chance order, or by blocks of neighbours in chance order."""
        rng = random.Random(f"{self.config.seed}-{self.epoch}")
        groups = list(self._groups)
        rng.shuffle(groups)
        if self.config.neighbours == 1 or self.vectors is None:
            return groups
        vectors = self.vectors[[self.row[self.pairs[group[0]].code] for group in groups]]
        free = torch.ones(len(groups), dtype=torch.bool)
        ordered: list[list[int]] = []
        for i in range(len(groups)):
            if free[i]:
                free[i] = False
                cosines = (vectors @ vectors[i]).masked_fill(~free, -2.0)
                nearest = cosines.topk(min(self.config.neighbours - 1, int(free.sum()))).indices
                free[nearest] = False
                ordered.extend(groups[j] for j in (i, *nearest.tolist()))
        return ordered

    def remember(self, codes: Sequence[str], vectors: Tensor) -> None:
        """Keep the vectors, (codes, dim), of those codes that are codes of pairs as they stand."""
        if self.config.neighbours == 1 and not self.config.memory:
            return
        if self.vectors is None:
            self.vectors = torch.zeros(len(self.codes), vectors.shape[1])
        known = [(self.row[code], i) for i, code in enumerate(codes) if code in self.row]
        self.vectors[[row for row, _ in known]] = vectors[[i for _, i in known]].detach().float().cpu()

    def remembered(self, positions: Sequence[int]) -> Tensor:
        """Return the kept vectors, (codes, dim), of what is a negative for all queries of a batch.

        Left out are codes not embedded yet, all that answer one of its queries, and their near-duplicates.
        """
        if not self.config.memory or self.vectors is None:
            return torch.zeros(0, 0)
        answers = {self.clusters[row] for i in positions for row in self._answers[self.pairs[i].query]}
        free = torch.tensor([cluster not in answers for cluster in self.clusters])
        return self.vectors[free & self.vectors.any(dim=1)]

    def _take(self) -> list[int]:
        batch: list[int] = []
        clusters: set[int] = set()
        queries: set[str] = set()
        kept_back: list[list[int]] = []
        while self.waiting and len(batch) < self.config.batch_size:
            group = self.waiting.popleft()
            cluster = self._cluster_of_pair[group[0]]
            own = [self.pairs[i].query for i in group]
            if cluster in clusters or queries.intersection(own) or len(set(own)) < len(own):
                if len(set(own)) < len(own):
                    kept_back.extend([i] for i in group)  # one query twice for one code: apart from now on
                else:
                    kept_back.append(group)
                continue
            room = self.config.batch_size - len(batch)
            batch.extend(group[:room])
            if group[room:]:
                kept_back.append(group[room:])
            clusters.add(cluster)
            queries.update(own)
        self.waiting.extendleft(reversed(kept_back))
        return batch

    def texts(self, positions: Sequence[int], step: int) -> Batch:
        """Return the texts of a batch; all chance in it is drawn from (seed, step)."""
        config, rng = self.config, random.Random(f"{self.config.seed}-texts-{step}")
        rows: dict[int, int] = {}  # row of all codes -> row of this batch
        target = [rows.setdefault(self.row[self.pairs[i].code], len(rows)) for i in positions]
        languages = {self.row[self.pairs[i].code]: self.pairs[i].language for i in positions}
        codes = [
            hard_positive(self.codes[row], languages[row]) if rng.random() < config.hard_positives else self.codes[row]
            for row in rows
        ]
        queries = [self.pairs[i].query for i in positions]
        queries = [rewrite_query(query, rng) if rng.random() < config.rewritten_queries else query for query in queries]
        taken = {self.clusters[row] for row in rows}
        more: dict[str, None] = {}
        for i in positions:
            judged = list(self.pairs[i].negatives)
            more.update(dict.fromkeys(rng.sample(judged, min(config.judged_negatives, len(judged)))))
            mined = [row for row in (self.mined[i] if self.mined else []) if self.clusters[row] not in taken]
            more.update(dict.fromkeys(self.codes[row] for row in mined[: config.hard_negatives]))
        codes.extend(code for code in more if code not in self.row or self.row[code] not in rows)
        asked = set(queries)
        for row in rows:
            rejected = [query for query in self._rejected[self.codes[row]] if query not in asked]
            queries.extend(rng.sample(rejected, min(config.judged_negatives, len(rejected))))
        return Batch(queries, codes, target)


@dataclass(slots=True)
class _Progress:
    """What a run knows beside its tensors; saved as the state's metadata."""

    step: int = 0
    total: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_mrr: float = -math.inf
    worse: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def train_adapter(
    encoder: Encoder,
    pairs: Sequence[Pair],
    adapter: AdapterConfig,
    config: TrainConfig,
    *,
    validate: Validate | None = None,
    clusters: Sequence[int] | None = None,
    folder: str | Path | None = None,
    start: str | Path | None = None,
    resume: bool = False,
    on_step: Callable[[int, int, Mapping[str, Any]], object] | None = None,
) -> TrainResult:
    """Train ``adapter`` on ``encoder``'s base and return the best encoder; ``encoder`` stays as it is.

    ``clusters[i]`` numbers the near-duplicates of ``pairs[i].code`` (:func:`near_duplicate_clusters`). ``validate`` is
    asked before the first step, then every ``validate_steps``, and decides which step is best; without it the last is.
    ``start`` names an adapter to go on from. With ``folder`` the run's state is kept there, and ``resume`` goes on from
    it: on a CPU the result is bit for bit that of a run without interruption. Under ``accelerate launch`` each process
    embeds its part of every batch and all see all negatives; the gradient is that of one process.

    Raises:
        ValueError: fewer pairs than a batch; ``resume`` without a state, or with one of other settings or pairs.
        FloatingPointError: the loss or a gradient is not finite; the state before that step is kept.
    """
    if config.max_seconds is not None and adapter.method == "adalora":
        raise ValueError("AdaLoRA prunes by a schedule of known length; give epochs and leave max_seconds out")
    processes = PartialState(cpu=encoder.device.type == "cpu")
    batches = Batches(pairs, config, clusters)
    total = max(1, round(config.epochs * len(pairs) / config.batch_size))
    with torch.random.fork_rng(devices=[encoder.device] if encoder.device.type == "cuda" else []):
        model = attach_adapter(encoder, adapter, total_steps=total, start=start, seed=config.seed)
        out = None if folder is None else Path(folder)
        run = _Run(model, batches, adapter, config, total, processes, out, on_step, start is not None)
        if resume:
            run.load()
        run.go(validate)
    trained, base = trained_share(model)
    run.restore_best()
    return TrainResult(
        encoder=model,
        steps=run.at.step,
        best_step=run.at.best_step,
        history=run.at.history,
        trained=trained,
        base=base,
        seconds=run.at.seconds,
        peak_bytes=_peak_bytes(model.device),
    )


class _Run:
    """One training in progress."""

    def __init__(
        self,
        model: Encoder,
        batches: Batches,
        adapter: AdapterConfig,
        config: TrainConfig,
        total: int,
        processes: PartialState,
        folder: Path | None,
        on_step: Callable[[int, int, Mapping[str, Any]], object] | None,
        started_elsewhere: bool = False,
    ) -> None:
        self.model = model
        self.started_elsewhere = started_elsewhere
        self.batches = batches
        self.adapter = adapter
        self.config = config
        self.processes = processes
        self.folder = folder
        self.on_step = on_step
        self.at = _Progress(total=total)
        self.parameters = {name: p for name, p in model.body.named_parameters() if p.requires_grad}
        self.log_temperature = torch.tensor(math.log(config.temperature), requires_grad=config.learn_temperature)
        groups: list[dict[str, Any]] = [{"params": list(self.parameters.values())}]
        if config.learn_temperature:
            groups.append({"params": [self.log_temperature], "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.best = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.bf16 = resolve_precision(config.precision, model.device) == "bf16"
        self.length_step = config.length_step or (16 if self.bf16 else 1)
        self.identity = _identity(model, batches, adapter, config)
        self._started = 0.0
        self._validation_seconds = 0.0

    # --- the loop ----------------------------------------------------------------------------------------------------

    def go(self, validate: Validate | None) -> None:
        self._started = time.perf_counter() - self.at.seconds
        if self.at.step == 0 and validate is not None:
            if self.adapter.method == "prompt" and not self.started_elsewhere:
                # Untrained virtual tokens change vectors, so what is compared with is the base itself.
                self._log({"step": 0, "validation": dict(validate(self.model.with_body(lambda base: base)))}, [])
            else:
                self._validate(validate, [])
        with _deferred_interrupt() as interrupt:
            while self.at.step < self.at.total and not self._out_of_patience():
                if self.config.hard_negatives and self.at.step % self.config.refresh_steps == 0:
                    self._mine()
                epoch, waiting = self.batches.epoch, self.batches.waiting.copy()
                try:
                    facts = self._step(self.batches.next())
                except FloatingPointError:
                    self.batches.epoch, self.batches.waiting = epoch, waiting
                    self.save()
                    raise
                self.at.step += 1
                self.at.seconds = time.perf_counter() - self._started
                self._log({"step": self.at.step, **facts, "seconds": round(self.at.seconds, 2)}, interrupt)
                self._fit_into_time()
                every = self.config.validate_steps or max(1, self.at.total // 5)
                if self.at.step % every == 0 or self.at.step == self.at.total:
                    self._validate(validate, interrupt)
                if interrupt or self.at.step % self.config.save_steps == 0:
                    self.save()
                if interrupt:
                    raise KeyboardInterrupt
        if validate is None:
            self._keep_best(-math.inf)
        self.save()

    def _log(self, entry: dict[str, Any], interrupt: list[bool]) -> None:
        self.at.history.append(entry)
        if self.on_step is not None:
            try:
                self.on_step(self.at.step, self.at.total, entry)
            except KeyboardInterrupt:
                interrupt.append(True)  # this step is finished first

    def _step(self, positions: list[int]) -> dict[str, Any]:
        """One update; returns what is logged of it."""
        step, config = self.at.step, self.config
        rate = config.learning_rate * _schedule(step, self.at.total, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.batches.texts(positions, step)
        self.optimizer.zero_grad()
        loss = self.backward(batch, self.batches.remembered(positions))
        if self.processes.num_processes > 1:
            for p in self.parameters.values():  # a process without a chunk has no gradient, but its share is awaited
                p.grad = reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")
        if self.adapter.method == "adalora":
            (self.adapter.orthogonality * _orthogonality(self.parameters)).backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.max_gradient_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            kept = "" if self.folder is None else f"; the state before it is kept in {self.folder / STATE}"
            raise FloatingPointError(
                f"loss {loss} and gradient norm {norm} at step {step + 1}, in the batch that begins with the query "
                f"{batch.queries[0][:60]!r}{kept}; lower the learning rate (now {config.learning_rate}) and start anew"
            )
        self.optimizer.step()
        facts = {"loss": round(loss, 5), "learning_rate": rate, "gradient_norm": round(norm, 4)}
        if config.learn_temperature:
            with torch.no_grad():
                self.log_temperature.clamp_(math.log(0.01), math.log(1.0))
            facts["temperature"] = round(float(self.log_temperature.detach().exp()), 5)
        if self.adapter.method == "adalora":
            body: Any = self.model.body
            body.base_model.update_and_allocate(step)
            facts["mean_rank"] = round(mean_rank(self.model), 3)
        return facts

    def backward(self, batch: Batch, memory: Tensor) -> float:
        """Add this process's part of the batch's gradient to the parameters; return the loss of the whole batch.

        ``memory`` (any, dim) are vectors of further negatives, which get no gradient.
        """
        ids = self.model.tokenize(batch.queries, side="query") + self.model.tokenize(batch.codes, side="code")
        limit = max(self.model.max_query_tokens, self.model.max_code_tokens)
        lengths = [min(limit, -(-len(row) // self.length_step) * self.length_step) for row in ids]
        chunks = list(token_budget_batches(lengths, self.config.forward_tokens))
        chunks = chunks[self.processes.process_index :: self.processes.num_processes]
        self._adapter_dropout(True)
        parts: list[Tensor] = []
        vectors = torch.zeros(len(ids), self.model.dim, device=self.model.device)
        for number, chunk in enumerate(chunks):
            with torch.set_grad_enabled(not self.config.grad_cache):
                part = self._embed(ids, chunk, lengths, number)
            vectors[chunk] = part.detach()
            parts.append(part)
        if self.processes.num_processes > 1:
            vectors = reduce(vectors, "sum")
        vectors.requires_grad_()
        n = len(batch.queries)
        self.batches.remember(batch.codes, vectors[n:])
        target = torch.tensor(batch.target, device=vectors.device)
        temperature = self.log_temperature.exp().to(vectors.device)
        codes = torch.cat([vectors[n:], memory.to(vectors.device)]) if len(memory) else vectors[n:]
        loss = contrastive_loss(vectors[:n], codes, target, temperature=temperature, hardness=self.config.hardness)
        gradient, *of_temperature = torch.autograd.grad(
            loss, [vectors, self.log_temperature] if self.config.learn_temperature else [vectors]
        )
        if of_temperature:
            self.log_temperature.grad = of_temperature[0]
        for number, chunk in enumerate(chunks):
            part = self._embed(ids, chunk, lengths, number) if self.config.grad_cache else parts[number]
            torch.autograd.backward(part, gradient[chunk])
        self._adapter_dropout(False)
        return float(loss.detach())

    def _adapter_dropout(self, on: bool) -> None:
        """Switch the adapter's own dropout; the base's stays off."""
        for name, module in self.model.body.named_modules():
            if "lora_dropout" in name:
                module.train(on)

    def _embed(self, ids: list[list[int]], chunk: list[int], lengths: list[int], number: int) -> Tensor:
        # Dropout of a chunk is the same in both passes of GradCache, and after a resume.
        torch.manual_seed((self.config.seed * 1_000_003 + self.at.step) * 1_009 + number)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model.embed([ids[i] for i in chunk], length=lengths[chunk[0]]).float()

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
        )

    def _validate(self, validate: Validate | None, interrupt: list[bool]) -> None:
        if validate is None:
            return
        started = time.perf_counter()
        scores = dict(validate(self.model))
        self._validation_seconds = time.perf_counter() - started
        self._log({"step": self.at.step, "validation": scores}, interrupt)
        if self.adapter.method == "adalora" and mean_rank(self.model) > self.adapter.rank + 1e-6:
            return  # not within its budget yet: no candidate for the best
        if scores["mrr"] > self.at.best_mrr:
            self._keep_best(scores["mrr"])
        else:
            self.at.worse += 1

    def _keep_best(self, mrr: float) -> None:
        self.at.best_mrr, self.at.best_step, self.at.worse = mrr, self.at.step, 0
        for name, parameter in self.parameters.items():
            self.best[name].copy_(parameter.detach())

    def restore_best(self) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best[name])

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.at.worse

    def _fit_into_time(self) -> None:
        if self.config.max_seconds is None:
            return
        validations = 1 if self.config.validate_steps else 5
        left = self.config.max_seconds - validations * self._validation_seconds - self.at.seconds
        if self.at.step == 5:
            times = [entry["seconds"] for entry in self.at.history if "loss" in entry]
            a_step = max(1e-3, (times[4] - times[0]) / 4)
            self.at.total = min(self.at.total, 5 + max(1, int(left / a_step)))
        elif self.at.step > 5 and self.at.seconds > self.config.max_seconds:
            self.at.total = self.at.step

    # --- saving and resuming -----------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write all that the run needs to go on into one file, atomically."""
        if self.folder is None or not self.processes.is_main_process:
            return
        tensors: dict[str, Tensor] = {}
        for name, parameter in (*self.parameters.items(), ("log_temperature", self.log_temperature)):
            tensors[f"parameter/{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value
        tensors.update((f"best/{name}", tensor) for name, tensor in self.best.items())
        lists = [np.asarray(rows, dtype=np.int64) for rows in self.batches.mined]
        if lists:
            tensors["mined/sizes"] = torch.tensor([len(rows) for rows in lists])
            tensors["mined/rows"] = torch.from_numpy(np.concatenate(lists))
        if self.batches.vectors is not None:
            tensors["vectors"] = self.batches.vectors
        pattern = None
        if self.adapter.method == "adalora":
            body: Any = self.model.body
            for key in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
                for name, value in getattr(body.base_model.rankallocator, key).items():
                    tensors[f"allocator.{key}/{name}"] = value
            pattern = body.peft_config["default"].rank_pattern
        facts = {**asdict(self.at), "identity": self.identity, "rank_pattern": pattern}
        facts |= {"epoch": self.batches.epoch, "waiting": list(self.batches.waiting)}
        data = safetensors.torch.save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"run": json.dumps(facts)},
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / STATE, data)

    def load(self) -> None:
        """Take up the run where its state was saved."""
        path = None if self.folder is None else self.folder / STATE
        if path is None or not path.is_file():
            raise ValueError(f"there is no unfinished run in {self.folder}; start one without resume")
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads(file.metadata()["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
        for key, value in facts.pop("identity").items():
            if self.identity[key] != value:
                raise ValueError(
                    f"the unfinished run in {self.folder} has another {key} than this one ({value} and "
                    f"{self.identity[key]}); resume with the same, or start anew in another folder"
                )
        pattern = facts.pop("rank_pattern")
        self.batches.epoch, self.batches.waiting = facts.pop("epoch"), deque(facts.pop("waiting"))
        self.batches.vectors = tensors.get("vectors")
        self.at = _Progress(**facts)
        with torch.no_grad():
            for name, parameter in (*self.parameters.items(), ("log_temperature", self.log_temperature)):
                parameter.copy_(tensors[f"parameter/{name}"])
                if f"step/{name}" in tensors:
                    self.optimizer.state[parameter] = {
                        "step": tensors[f"step/{name}"],
                        "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                        "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
                    }
        self.best = {name: tensors[f"best/{name}"].to(p.device) for name, p in self.parameters.items()}
        if "mined/sizes" in tensors:
            ends = np.cumsum(tensors["mined/sizes"].numpy())[:-1]
            self.batches.mined = [rows.tolist() for rows in np.split(tensors["mined/rows"].numpy(), ends)]
        if self.adapter.method == "adalora":
            body: Any = self.model.body
            for key in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
                prefix = f"allocator.{key}/"
                values = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                setattr(body.base_model.rankallocator, key, {k: v.to(self.model.device) for k, v in values.items()})
            body.peft_config["default"].rank_pattern = pattern


@contextmanager
def _deferred_interrupt() -> Iterator[list[bool]]:
    """Let the first Ctrl-C wait until a step is finished (the list is then not empty); the second one stops at once."""
    asked: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(signum: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)
        logger.warning("stopping after this step; Ctrl-C again stops at once, and goes back to the last saved state")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _schedule(step: int, total: int, warmup: float) -> float:
    """Return the factor of the learning rate at ``step`` (from 0): a linear rise, then a linear fall.

    >>> [_schedule(step, 4, 0.5) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rise = max(1, round(warmup * total))
    return min((step + 1) / rise, (total - step) / max(1, total - rise), 1.0)


def _orthogonality(parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the mean Frobenius distance of AdaLoRA's singular vectors to orthonormal ones (equation 4)."""
    distances = []
    for name, p in parameters.items():
        if "lora_A" in name or "lora_B" in name:
            gram = p @ p.T if "lora_A" in name else p.T @ p
            distances.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=p.device)))
    return torch.stack(distances).mean()


def _identity(model: Encoder, batches: Batches, adapter: AdapterConfig, config: TrainConfig) -> dict[str, str]:
    """Return what has to be equal for a run to be the same one."""
    settings = {key: value for key, value in asdict(config).items() if key not in ("save_steps", "patience")}
    return {
        "base": model.base_fingerprint,
        "pairs": pairs_fingerprint(batches.pairs),
        "adapter": json.dumps(asdict(adapter), sort_keys=True),
        "settings": json.dumps(settings, sort_keys=True),
    }


def pairs_fingerprint(pairs: Sequence[Pair]) -> str:
    """Return 16 hex digits over all that training reads of the pairs, their order included."""
    digest = hashlib.sha256()
    for pair in pairs:
        fields = (pair.query, pair.code, pair.language, *pair.negatives, "", *pair.negative_queries)
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()[:16]


def languages_of(pairs: Sequence[Pair]) -> dict[str, int]:
    """Return how many pairs each language has, most first."""
    return dict(Counter(pair.language for pair in pairs).most_common())


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
