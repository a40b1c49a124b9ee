"""Distillation of query encoders: a student learns its teacher's vectors of queries; those of code stay (SPENCER)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from llamaindex_code_retrieval.batching import token_budget_batches
from llamaindex_code_retrieval.encoder import Encoder
from llamaindex_code_retrieval.query_encoder import projected, shortened
from llamaindex_code_retrieval.static_encoder import StaticEncoder, static_tensors, table_rows
from llamaindex_code_retrieval.training.adapters import AdapterConfig, attach_adapter
from llamaindex_code_retrieval.training.batches import Epochs
from llamaindex_code_retrieval.training.contrastive import contrastive_loss
from llamaindex_code_retrieval.training.loop import Finished, Loop, OnStep, peak_bytes
from llamaindex_code_retrieval.training.settings import DistilConfig, StudentConfig


class Student(Protocol):
    """What an encoder and a table have in common while they learn."""

    def tokenize(self, texts: Sequence[str], *, side: Any) -> list[list[int]]:
        """Return what ``embed`` reads of each text."""

    def embed(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Return unit vectors, ``(texts, dim)``, differentiable."""

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, ``(queries, dim)``, without gradient."""


ValidateStudent = Callable[[Student], Mapping[str, float]]
"""Scores the student as it is; ``mrr`` decides which step is the best one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What a student learns from: queries, the teacher's vectors of them, and codes to compare both with."""

    texts: Sequence[str]
    targets: NDArray[np.float32]
    """(queries, dim): unit vectors of the teacher, or of an assistant in its place."""
    codes: NDArray[np.float32]
    """(codes, dim): unit vectors of the teacher."""
    code: NDArray[np.int64]
    """(queries,): the row in ``codes`` to compare the query with: its answer or else the nearest one."""
    is_answer: NDArray[np.bool_]
    """(queries,): whether that code is known to answer the query."""
    fingerprint: str
    """Over texts and codes."""


@dataclass(slots=True, kw_only=True)
class Distilled(Finished):
    """A finished run: ``student`` has the weights of ``best_step``."""

    student: Student


class StaticStudent(nn.Module):
    """A table of token vectors that learns; :meth:`frozen` is its quick form."""

    def __init__(self, teacher: Encoder, config: StudentConfig, *, max_tokens: int, seed: int) -> None:
        """Begin with the teacher's vectors of single tokens, in as many principal components as the table has."""
        super().__init__()
        self._tokenizer = teacher.tokenizer.backend_tokenizer.__class__.from_str(
            teacher.tokenizer.backend_tokenizer.to_str()
        )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens = max_tokens
        self.buckets = config.buckets
        self.words = len(teacher.tokenizer)
        vectors = _token_vectors(teacher)
        centred = vectors - vectors.mean(0)
        rank = min(config.table_rank, *centred.shape)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        rows = torch.zeros(self.words + self.buckets, rank)
        rows[: self.words] = centred @ axes[:rank].T
        self.table = nn.EmbeddingBag.from_pretrained(rows, freeze=False, mode="sum")
        self.projection = nn.Parameter(axes[:rank].clone())  # (rank, dim)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner = nn.Linear(rank, config.hidden)
        self.outer = nn.Parameter(torch.zeros(config.hidden, teacher.dim))  # begins by adding nothing

    def tokenize(self, texts: Sequence[str], *, side: Any = "query") -> list[list[int]]:
        """Return the table's rows of each text."""
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        found = self._tokenizer.encode_batch(clean, add_special_tokens=False)
        return [table_rows(each.ids[: self.max_tokens], words=self.words, buckets=self.buckets) for each in found]

    def embed(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Return unit vectors, ``(texts, dim)``."""
        flat = torch.tensor([row for rows in ids for row in rows], dtype=torch.long)
        starts = np.cumsum([0, *(len(rows) for rows in ids)])[:-1]
        sums = self.table(flat, torch.from_numpy(starts))  # (texts, rank)
        vectors = sums @ self.projection
        if len(self.outer):
            directions = F.normalize(sums, dim=1) * sums.shape[1] ** 0.5
            lengths = sums.norm(dim=1, keepdim=True)
            vectors = vectors + lengths * (F.gelu(self.inner(directions), approximate="tanh") @ self.outer)
        return F.normalize(vectors, dim=1)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, ``(queries, dim)``."""
        with torch.inference_mode():
            return self.embed(self.tokenize(queries)).numpy()

    def frozen(self) -> StaticEncoder:
        """Return it as it is used."""
        return StaticEncoder(self._tokenizer, self.tensors(), buckets=self.buckets, max_tokens=self.max_tokens)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return what is saved of it: the table in int8, the rest in half precision."""
        parts = (self.table.weight, self.projection, self.inner.weight.T, self.inner.bias, self.outer)
        return static_tensors(*(part.detach().numpy() for part in parts))

    def tokenizer_json(self) -> str:
        """Return the tokenizer as the package ``tokenizers`` writes it."""
        text: str = self._tokenizer.to_str()
        return text


def _token_vectors(teacher: Encoder) -> Tensor:
    """Return the teacher's vector of each token by itself, ``(tokens, dim)``."""
    before, _, after = teacher.pair_layout()
    words = len(teacher.tokenizer)
    with torch.inference_mode():
        parts = [
            teacher.embed([[*before, token, *after] for token in range(start, min(words, start + 512))]).cpu()
            for start in range(0, words, 512)
        ]
    return torch.cat(parts).clone()


def make_student(
    teacher: Encoder, config: StudentConfig, adapter: AdapterConfig, *, max_tokens: int, seed: int = 0
) -> Student:
    """Return an untrained student. What it keeps of the teacher's base is shared with it in memory.

    ``adapter`` says how kept layers are trained: by an adapter on them, as they are without the teacher's own, or in
    full; a student of another kind is always trained in full.

    Raises:
        ValueError: layers that the teacher lacks, or an adapter that does not fit.
    """
    if config.kind == "static":
        return StaticStudent(teacher, config, max_tokens=max_tokens, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if config.kind == "transformer":
            encoder = teacher.with_body(lambda base: projected(None, teacher.dim)(_small_body(base, teacher, config)))
        else:
            layers, project = shortened(config.layers), projected(None, teacher.dim)
            encoder = attach_adapter(
                teacher.without_adapter(), adapter, seed=seed, prepare=lambda base: project(layers(base))
            )
    if not hasattr(teacher.base, "proj"):  # one of its own stays as it is
        encoder.body.proj.requires_grad_(True)
    encoder.max_query_tokens = max_tokens
    return encoder


def _small_body(base: Any, teacher: Encoder, config: StudentConfig) -> nn.Module:
    """Return a BERT whose token vectors are the principal components of the base's."""
    from transformers import BertConfig, BertModel

    words: Tensor = base.get_input_embeddings().weight.detach().float()
    small = BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.width // 32,
            intermediate_size=4 * config.width,
            max_position_embeddings=teacher.positions or 512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )
    rank = min(config.width, *words.shape)
    _, _, axes = torch.linalg.svd(words - words.mean(0), full_matrices=False)
    with torch.no_grad():
        small.embeddings.word_embeddings.weight[:, :rank] = (words - words.mean(0)) @ axes[:rank].T
    body: nn.Module = small
    return body


def imitation_loss(
    student: Tensor, teacher: Tensor, codes: Tensor, answers: Sequence[int], config: DistilConfig
) -> Tensor:
    """Return the loss of unit vectors of queries, each ``(queries, dim)``.

    ``codes`` is a code for each query; ``answers`` are the positions of those that are known to answer. The mean over
    the queries of SPENCER's equations 6 and 7, weighted, and InfoNCE over the answered ones where it is asked for.
    """
    loss = student.new_zeros(())
    if config.single:
        loss = loss + config.single * (1 - (student * teacher).sum(1)).mean()
    if config.dual:
        loss = loss + config.dual * ((codes * teacher).sum(1) - (codes * student).sum(1)).abs().mean()
    if config.contrastive and len(answers) > 1:
        own, target = torch.unique(codes[list(answers)], dim=0, return_inverse=True)
        loss = loss + config.contrastive * contrastive_loss(
            student[list(answers)], own, target, temperature=config.temperature
        )
    return loss


def distil_query_encoder(
    student: Student,
    questions: Questions,
    config: DistilConfig,
    *,
    teacher_parameters: int,
    identity: Mapping[str, Any],
    validate: ValidateStudent | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
) -> Distilled:
    """Train a student of :func:`make_student` and return the best one.

    ``identity`` says what student of which teacher it is; the rest is as in :func:`train_adapter`.

    Raises:
        ValueError: vectors of unlike length, fewer queries than a batch, labels asked for and none there; ``resume``
            without a state, or with one of other settings or questions.
        FloatingPointError: the loss or a gradient is not finite; the state before that step is kept.
    """
    dims = {student.encode_queries(["a"]).shape[1], questions.targets.shape[1], questions.codes.shape[1]}
    if len(dims) > 1:
        raise ValueError(
            f"student, teacher and codes have vectors of unlike length ({', '.join(map(str, sorted(dims)))}), so their "
            "cosines mean nothing; distil from the encoder that made the codes' vectors"
        )
    if len(questions.texts) < config.batch_size:
        raise ValueError(
            f"{len(questions.texts)} queries are fewer than a batch of {config.batch_size}; lower batch_size or give "
            "more with --queries"
        )
    if config.contrastive and not questions.is_answer.any():
        raise ValueError("contrastive is over 0, but no query has a code that answers it; give pairs, or set it to 0")
    total = max(1, round(config.epochs * len(questions.texts) / config.batch_size))
    loop = Loop(
        Imitation(student, questions, config),
        config,
        total=total,
        identity={
            "student": json.dumps(dict(identity), sort_keys=True),
            "questions": questions.fingerprint,
            "settings": json.dumps(config.lasting(), sort_keys=True),
        },
        folder=None if folder is None else Path(folder),
        on_step=on_step,
    )
    if resume:
        loop.load()
    loop.go(None if validate is None else lambda: validate(student))
    loop.restore_best()
    module: Any = student
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return Distilled(
        student=student,
        steps=loop.at.step,
        best_step=loop.at.best_step,
        history=loop.at.history,
        trained=trained,
        base=teacher_parameters,
        seconds=loop.at.seconds,
        peak_bytes=peak_bytes(next(module.parameters()).device),
    )


class Imitation:
    """Being near the teacher's vectors, as an objective of the loop."""

    ready = True

    def __init__(self, student: Student, questions: Questions, config: DistilConfig) -> None:
        module: Any = student
        self.student = student
        self.config = config
        self.parameters: Mapping[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.extras: Mapping[str, Tensor] = {}
        self.rate_factors: Mapping[str, float] = {}
        self.questions = questions
        self.ids = student.tokenize(questions.texts, side="query")
        self.epochs = Epochs(len(questions.texts), config.batch_size, config.seed)

    def prepare(self, step: int) -> None:
        """Nothing."""

    def backward(self, step: int) -> tuple[float, str]:
        """Add the gradient of the batch of this step."""
        rows = self.epochs.batch(step)
        parts: list[Tensor] = []
        order: list[int] = []
        for chunk in token_budget_batches([len(self.ids[row]) for row in rows], self.config.forward_tokens):
            parts.append(self.student.embed([self.ids[rows[i]] for i in chunk]))
            order.extend(chunk)
        vectors = torch.cat(parts)
        rows = [rows[i] for i in order]
        questions = self.questions
        answered = [i for i, row in enumerate(rows) if questions.is_answer[row]]
        loss = imitation_loss(
            vectors,
            torch.from_numpy(questions.targets[rows]).to(vectors.device),
            torch.from_numpy(questions.codes[questions.code[rows]]).to(vectors.device),
            answered,
            self.config,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), f"the batch that begins with the query {questions.texts[rows[0]][:60]!r}"

    def rewind(self) -> None:
        """Nothing: a batch depends on its step alone."""

    def finish(self, step: int) -> dict[str, Any]:
        """Nothing."""
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Nothing: all follows from the step."""
        return {}, {}

    def restore(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Nothing."""


# --- teaching assistants ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """A student of the search: which layers it keeps, who taught it, and what it scores."""

    layers: tuple[int, ...]
    teacher: tuple[tuple[int, ...], ...]
    """The lessons back to the teacher: its own layers first, the one who taught this student last."""
    mrr: float

    @property
    def path(self) -> tuple[tuple[int, ...], ...]:
        """Who taught whom, this student last."""
        return (*self.teacher, self.layers)


@dataclass(frozen=True, slots=True)
class Search:
    """What :func:`search_assistants` found."""

    teacher_mrr: float
    tried: list[Taught]
    chosen: Taught | None
    """The smallest within the threshold; ``None`` where already the first step loses more."""


def search_assistants(
    layers: int,
    teacher_mrr: float,
    distil: Callable[[tuple[int, ...], tuple[tuple[int, ...], ...]], float],
    *,
    step: int = 1,
    threshold: float = 0.01,
) -> Search:
    """Look for the smallest student within ``threshold`` of the teacher's MRR (SPENCER, algorithm 1).

    ``distil(kept, path)`` trains a student that keeps the layers ``kept``, taught by the last one of ``path`` (the
    first is the teacher, with all its layers), and returns its MRR. Each round takes away ``step`` layers, evenly
    spread, and lets two teach the same smaller student: the larger and the smaller of the two that are left.

    The algorithm as printed is ambiguous in three places, read here as its section 2.5 says in words:
    the student replaces the teacher of the *worse* student (printed, the branch in which the smaller one taught better
    keeps the other one's student); the loop goes on while the newest student is within the threshold *and* there are
    layers to take away (printed, only the former); and its first student counts for the result only if it is within
    the threshold (printed, it is returned in any case).

    Raises:
        ValueError: a step that leaves no layer, or a threshold under 0.
    """
    if not 1 <= step < layers:
        raise ValueError(f"step must be from 1 to {layers - 1}, so that of {layers} layers some are left, got {step}")
    if threshold < 0:
        raise ValueError(f"threshold must not be negative, got {threshold}")
    tried: list[Taught] = []

    def taught(kept: tuple[int, ...], path: tuple[tuple[int, ...], ...]) -> Taught:
        student = Taught(layers=kept, teacher=path, mrr=distil(kept, path))
        tried.append(student)
        return student

    whole = tuple(range(layers))
    larger: tuple[tuple[int, ...], ...] = (whole,)
    newest = taught(fewer(whole, step), larger)
    smaller = newest.path
    chosen = None
    while teacher_mrr - newest.mrr <= threshold:
        chosen = newest
        if len(newest.layers) <= step:
            break
        kept = fewer(newest.layers, step)
        by_larger, by_smaller = taught(kept, larger), taught(kept, smaller)
        if by_larger.mrr > by_smaller.mrr:
            newest, smaller = by_larger, by_larger.path
        else:
            newest, larger, smaller = by_smaller, smaller, by_smaller.path
    return Search(teacher_mrr, tried, chosen)


def fewer(layers: Sequence[int], step: int) -> tuple[int, ...]:
    """Return ``layers`` without ``step`` of them; those left are spread evenly, first and last included.

    >>> fewer((0, 1, 2, 3, 4, 5), 3), fewer((0, 5), 1)
    ((0, 2, 5), (0,))
    """
    left = len(layers) - step
    places = [0] if left == 1 else [round(i * (len(layers) - 1) / (left - 1)) for i in range(left)]
    return tuple(layers[place] for place in places)


def sampled(texts: Sequence[str], most: int, *, seed: int) -> list[str]:
    """Return at most so many texts, without doubles, in an order drawn from the seed."""
    distinct = list(dict.fromkeys(texts))
    return random.Random(seed).sample(distinct, min(most, len(distinct)))


def student_facts(config: StudentConfig, adapter: AdapterConfig) -> dict[str, Any]:
    """Return what a student is, as far as its kind has it."""
    own = {
        "static": ("table_rank", "buckets", "hidden"),
        "layers": ("layers", "int8"),
        "transformer": ("width", "depth", "int8"),
    }[config.kind]
    facts = asdict(config)
    made: dict[str, Any] = {"kind": config.kind, **{name: facts[name] for name in own}}
    if config.kind == "layers":
        made["adapter"] = asdict(adapter)
    return made
