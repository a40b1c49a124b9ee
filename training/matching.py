"""Training of a cross-encoder: the answer of a query against codes that the first stage takes for answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llamaindex_code_retrieval._io import json_hash, sha256
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.batching import token_budget_batches
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import ADAPTER_WEIGHTS, HEAD_WEIGHTS
from llamaindex_code_retrieval.models.locate import locate_reranker
from llamaindex_code_retrieval.models.reranker_config import RerankerConfig
from llamaindex_code_retrieval.models.spec import resolve_precision
from llamaindex_code_retrieval.models.weights import load_weights
from llamaindex_code_retrieval.training.adapters import AdapterConfig, attach_adapter, trained_share
from llamaindex_code_retrieval.training.batches import Epochs
from llamaindex_code_retrieval.training.config import MatchConfig
from llamaindex_code_retrieval.training.loop import Loop, OnStep
from llamaindex_code_retrieval.training.losses import contrastive_loss, matching_loss
from llamaindex_code_retrieval.training.negatives import hard_negatives, pack_rows, unpack_rows
from llamaindex_code_retrieval.training.pairs import Pair, pairs_fingerprint
from llamaindex_code_retrieval.training.run_record import TrainingRun

ValidateMatches = Callable[[CrossEncoder], Mapping[str, float]]
"""Scores the cross-encoder as it is; ``mrr`` decides which step is the best one."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The pairs of a batch. ``lists[i]`` are rows of the answer and the negatives of query i, the answer first."""

    queries: list[str]
    codes: list[str]
    lists: list[list[int]]
    rejected: list[int]
    """Rows of pairs that were judged not to match and belong to no list."""


def train_cross_encoder(
    encoder: Encoder,
    pairs: Sequence[Pair],
    adapter: AdapterConfig,
    config: MatchConfig,
    *,
    retriever: CodeEmbedding,
    validate: ValidateMatches | None = None,
    clusters: Sequence[int] | None = None,
    start: str | Path | None = None,
    distractors: Mapping[str, str] | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
) -> TrainingRun[CrossEncoder]:
    """Train a cross-encoder on ``encoder``'s base and return the best one; ``encoder`` stays as it is.

    ``retriever`` is the first stage, whose hits are the hard negatives. ``start`` names a reranker of the variant
    ``adapters`` to go on from, and ``distractors`` (code -> language) answer no query but may be hit. The rest is as
    in :func:`train_adapter`.

    Raises:
        ValueError: fewer pairs than a batch; an adapter that is not for this variant; a blend with nothing to go on
            from; ``resume`` without a state, or with one of other settings or pairs.
        FloatingPointError: the loss or a gradient is not finite; the state before that step is kept.
    """
    if len(pairs) < config.batch_size:
        raise ValueError(
            f"{len(pairs)} pairs are fewer than a batch of {config.batch_size}; lower batch_size or give more pairs"
        )
    if (config.variant == "adapters") != (adapter.method != "full") or adapter.method in ("adalora", "prompt"):
        raise ValueError(
            f"the variant {config.variant!r} cannot be trained by {adapter.method!r}: 'adapters' takes lora or ia3, "
            "'separate' and 'shared' take full"
        )
    if config.blend < 1 and start is None:
        raise ValueError(
            f"blend {config.blend} mixes with a reranker to go on from; name it with start, or leave blend 1"
        )
    total = max(1, round(config.epochs * len(pairs) / config.batch_size))
    with torch.random.fork_rng(devices=[encoder.device] if encoder.device.type == "cuda" else []):
        begun = None if start is None else _start(start, config)
        adapted = attach_adapter(encoder, adapter, start=begun, seed=config.seed)
        model = CrossEncoder.on(
            adapted, head=config.head, max_tokens=config.max_tokens, variant=config.variant, seed=config.seed
        )
        if begun is not None:
            load_weights(model.head, begun / HEAD_WEIGHTS, remedy="start from another reranker")
        objective = Matching(model, pairs, config, retriever, clusters, distractors)
        before = {name: p.detach().clone() for name, p in objective.parameters.items()}
        loop = Loop(
            objective,
            config,
            total=total,
            identity={
                "base": encoder.base_fingerprint,
                "retriever": retriever.fingerprint,
                "pairs": pairs_fingerprint(pairs),
                "adapter": json.dumps(asdict(adapter), sort_keys=True),
                "settings": json.dumps(config.lasting(), sort_keys=True),
                "start": "" if begun is None else sha256(begun / ADAPTER_WEIGHTS) + sha256(begun / HEAD_WEIGHTS),
                "distractors": _digest(distractors or {}),
            },
            folder=None if folder is None else Path(folder),
            on_step=on_step,
        )
        if resume:
            loop.load()
        loop.go(None if validate is None else lambda: validate(model))
    trained, base = trained_share(adapted)
    loop.restore_best()
    with torch.no_grad():
        for name, parameter in objective.parameters.items():
            parameter.copy_(torch.lerp(before[name], parameter, config.blend))
    trained += sum(p.numel() for p in model.head.parameters())
    return TrainingRun.of_loop(loop, model, trained_parameters=trained, base_parameters=base, device=model.device)


def _start(reranker: str | Path, config: MatchConfig) -> Path:
    """Return the folder of a reranker that this training can go on from."""
    folder = locate_reranker(reranker)
    trained = RerankerConfig.read(folder)
    if config.variant != "adapters" or trained.variant != "adapters":
        raise ValueError(
            f"{reranker} is of the variant {trained.variant!r} and this training of {config.variant!r}: only an "
            "adapter can go on from one; to go on from whole weights, name their folder as the base"
        )
    if trained.head != config.head:
        raise ValueError(f"{reranker} has the head {trained.head!r}, not {config.head!r}; set head to it")
    return folder


def _digest(distractors: Mapping[str, str]) -> str:
    return json_hash(sorted(distractors)) if distractors else ""


class Matching:
    """Telling answers from what is near them, as an objective of the loop."""

    ready = True

    def __init__(
        self,
        model: CrossEncoder,
        pairs: Sequence[Pair],
        config: MatchConfig,
        retriever: CodeEmbedding,
        clusters: Sequence[int] | None = None,
        distractors: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self.pairs = list(pairs)
        self.config = config
        self.retriever = retriever
        self.parameters = {
            **{f"backbone.{name}": p for name, p in model.encoder.backbone.named_parameters() if p.requires_grad},
            **{f"head.{name}": p for name, p in model.head.named_parameters()},
        }
        self.extras: Mapping[str, Tensor] = {}
        self.rate_factors = {name: config.head_rate for name in self.parameters if name.startswith("head.")}
        self.bf16 = resolve_precision(config.precision, model.device) == "bf16"
        self.length_step = config.length_step or (16 if self.bf16 else 1)
        answering = dict.fromkeys(pair.code for pair in pairs)
        self.codes = [*answering, *(code for code in distractors or {} if code not in answering)]
        self.row = {code: row for row, code in enumerate(self.codes)}
        self.languages = {**(distractors or {}), **{pair.code: pair.language for pair in pairs}}
        cluster = {pair.code: i if clusters is None else clusters[i] for i, pair in enumerate(pairs)}
        self.clusters = [cluster.get(code, -1 - row) for row, code in enumerate(self.codes)]
        if len(set(self.clusters)) < 2:
            raise ValueError("all codes are one and the same (or near-duplicates): there is nothing to tell apart")
        answers: dict[str, set[int]] = {}
        for pair in pairs:
            answers.setdefault(pair.query, set()).add(self.row[pair.code])
        self.answers = [frozenset(answers[pair.query]) for pair in self.pairs]
        self.epochs = Epochs(len(pairs), config.batch_size, config.seed)
        self.mined: list[list[int]] = []  # pair -> rows of what the first stage takes for an answer

    def prepare(self, step: int) -> None:
        """Ask the first stage, once: it is not what is trained."""
        if self.config.hard_negatives and not self.mined:
            self.mined = hard_negatives(
                self.retriever.embed_queries([pair.query for pair in self.pairs]),
                self.retriever.embed_codes(self.codes, [self.languages[code] for code in self.codes]),
                [self.row[pair.code] for pair in self.pairs],
                per_query=self.config.depth,
                margin=-2.0,  # what the first stage puts above the answer is what there is to learn
                depth=self.config.depth,
                clusters=self.clusters,
                answers=self.answers,
            )

    def backward(self, step: int) -> tuple[float, str]:
        """Add the gradient of the batch of this step."""
        positions = self.epochs.batch(step)
        candidates = self.candidates(positions, step)
        loss = self.matching(candidates)
        total = float(loss.detach())
        if self.config.variant == "shared":
            loss.mul(0.5).backward()  # type: ignore[no-untyped-call]
            embedding = self.embedding(positions)
            embedding.mul(0.5).backward()  # type: ignore[no-untyped-call]
            total = (total + float(embedding.detach())) / 2
        else:
            loss.backward()  # type: ignore[no-untyped-call]
        return total, f"the batch that begins with the query {candidates.queries[0][:60]!r}"

    def rewind(self) -> None:
        """Nothing: a batch depends on its step alone."""

    def finish(self, step: int) -> dict[str, Any]:
        """Nothing."""
        return {}

    def candidates(self, positions: Sequence[int], step: int) -> Candidates:
        """Return the pairs of a batch; all chance in it is drawn from (seed, step)."""
        config, rng = self.config, random.Random(f"{self.config.seed}-candidates-{step}")
        queries: list[str] = []
        codes: list[str] = []
        lists: list[list[int]] = []
        rejected: list[int] = []

        def add(query: str, code: str) -> int:
            queries.append(query)
            codes.append(code)
            return len(codes) - 1

        for i in positions:
            pair = self.pairs[i]
            mined = self.mined[i] if self.mined else []
            negatives = [self.codes[row] for row in rng.sample(mined, min(config.hard_negatives, len(mined)))]
            own = {self.clusters[row] for row in self.answers[i]}
            others = sorted({self.row[self.pairs[j].code] for j in positions})
            others = [row for row in others if self.clusters[row] not in own and self.codes[row] not in negatives]
            wanted = config.in_batch_negatives + config.hard_negatives - len(negatives)  # few may have been mined
            negatives += [self.codes[row] for row in rng.sample(others, min(wanted, len(others)))]
            negatives += rng.sample(pair.negatives, min(config.judged_negatives, len(pair.negatives)))
            lists.append([add(pair.query, pair.code), *(add(pair.query, code) for code in dict.fromkeys(negatives))])
            asked = rng.sample(pair.negative_queries, min(config.judged_negatives, len(pair.negative_queries)))
            rejected.extend(add(query, pair.code) for query in asked)
        return Candidates(queries, codes, lists, rejected)

    def matching(self, candidates: Candidates) -> Tensor:
        """Return the matching loss of a batch."""
        model = self.model
        rows = model.rows(model.token_ids(candidates.queries), model.token_ids(candidates.codes), model.max_tokens)
        lengths = [-(-len(ids) // self.length_step) * self.length_step for ids, _ in rows]
        order: list[int] = []
        parts: list[Tensor] = []
        for chunk in token_budget_batches(lengths, self.config.forward_tokens):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=self.bf16):
                parts.append(model.log_odds([rows[i] for i in chunk], length=lengths[chunk[0]]).float())
            order.extend(chunk)
        place = torch.empty(len(order), dtype=torch.long)
        place[order] = torch.arange(len(order))
        log_odds = torch.cat(parts)[place.to(model.device)]
        return matching_loss(log_odds, candidates.lists, candidates.rejected, kind=self.config.loss)

    def embedding(self, positions: Sequence[int]) -> Tensor:
        """Return InfoNCE of the batch's queries and answers, for weights that are to embed as well."""
        encoder = self.model.encoder
        rows: dict[int, int] = {}
        target = [rows.setdefault(self.row[self.pairs[i].code], len(rows)) for i in positions]
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            queries = encoder([self.pairs[i].query for i in positions], side="query")
            codes = encoder([self.codes[row] for row in rows], side="code")
        aim = torch.tensor(target, device=queries.device)
        return contrastive_loss(queries.float(), codes.float(), aim, temperature=self.config.temperature)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the mined negatives: all else follows from the step."""
        return pack_rows(self.mined), {}

    def restore(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Take up what ``state`` returned."""
        self.mined = unpack_rows(tensors)
