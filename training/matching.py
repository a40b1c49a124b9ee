"""Train a cross-encoder: its loss over the candidates of each query, as an objective of the training loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llamaindex_code_retrieval._io import json_hash, sha256
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.batching import token_budget_batches
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.device import resolve_precision
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import ADAPTER_WEIGHTS, HEAD_WEIGHTS
from llamaindex_code_retrieval.models.locate import locate_reranker
from llamaindex_code_retrieval.models.reranker_config import RerankerConfig
from llamaindex_code_retrieval.models.weights import load_weights
from llamaindex_code_retrieval.training.adapters import attach_adapter, trained_share
from llamaindex_code_retrieval.training.batches import Epochs
from llamaindex_code_retrieval.training.candidates import CandidateBatch, CandidateSampler
from llamaindex_code_retrieval.training.config import AdapterConfig, MatchConfig
from llamaindex_code_retrieval.training.loop import Loop, OnStep
from llamaindex_code_retrieval.training.losses import contrastive_loss, matching_loss
from llamaindex_code_retrieval.training.negatives import pack_rows, unpack_rows
from llamaindex_code_retrieval.training.pairs import pairs_fingerprint
from llamaindex_code_retrieval.training.run_record import TrainingRun

ValidateCrossEncoder = Callable[[CrossEncoder], Mapping[str, float]]
"""Returns validation scores of the cross-encoder; ``mrr`` decides which step is the best one."""


def check_settings(adapter: AdapterConfig, config: MatchConfig, start: str | Path | None = None) -> None:
    """Refuse settings that :func:`new_cross_encoder` cannot use, before any model is loaded.

    Raises:
        ValueError: an adapter that this variant does not take; a ``start`` of another variant or head; a ``blend``
            without a ``start``.
    """
    if (config.variant == "adapters") != (adapter.method != "full") or adapter.method in ("adalora", "prompt"):
        raise ValueError(
            f"the variant {config.variant!r} cannot be trained by {adapter.method!r}: 'adapters' takes lora or ia3, "
            "'separate' and 'shared' take full"
        )
    if config.blend < 1 and start is None:
        raise ValueError(
            f"blend {config.blend} mixes the trained weights with those of a reranker; name it with start, or leave "
            "blend 1"
        )
    if start is None:
        return
    trained = RerankerConfig.read(locate_reranker(start))
    if config.variant != "adapters" or trained.variant != "adapters":
        raise ValueError(
            f"{start} has the variant {trained.variant!r} and this training {config.variant!r}: only adapters can "
            "start from a reranker; to start from whole weights, name their folder as the base"
        )
    if trained.head != config.head:
        raise ValueError(f"{start} has the head {trained.head!r}, not {config.head!r}; set head to it")


def new_cross_encoder(
    encoder: Encoder, adapter: AdapterConfig, config: MatchConfig, *, start: str | Path | None = None
) -> CrossEncoder:
    """Return a cross-encoder on the base of ``encoder``, ready to be trained; ``encoder`` stays as it is.

    Adapter and head are those of the reranker ``start``, or new ones.

    Raises:
        ValueError: as :func:`check_settings`; a ``start`` of another base or shape.
    """
    check_settings(adapter, config, start)
    folder = None if start is None else locate_reranker(start)
    if folder is not None and (trained := RerankerConfig.read(folder)).base_fingerprint != encoder.base_fingerprint:
        raise ValueError(
            f"{start} was trained on the base {trained.base_name!r} with fingerprint {trained.base_fingerprint}, and "
            f"{encoder.name} has {encoder.base_fingerprint}; train on that base, or start from another reranker"
        )
    model = CrossEncoder.on(
        attach_adapter(encoder, adapter, start=folder, seed=config.seed),
        head=config.head,
        max_tokens=config.max_tokens,
        variant=config.variant,
        seed=config.seed,
    )
    if folder is not None:
        load_weights(model.head, folder / HEAD_WEIGHTS, remedy="start from another reranker")
    return model


def start_identity(adapter: AdapterConfig, start: str | Path | None) -> dict[str, str]:
    """Return what identifies the untrained weights of a run, for ``identity`` of :func:`fit_cross_encoder`."""
    folder = None if start is None else locate_reranker(start)
    return {
        "adapter": json.dumps(adapter.model_dump(), sort_keys=True),
        "start": "" if folder is None else sha256(folder / ADAPTER_WEIGHTS) + sha256(folder / HEAD_WEIGHTS),
    }


def fit_cross_encoder(
    model: CrossEncoder,
    candidates: CandidateSampler,
    config: MatchConfig,
    *,
    retriever: CodeEmbedding,
    identity: Mapping[str, str] | None = None,
    validate: ValidateCrossEncoder | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
) -> TrainingRun[CrossEncoder]:
    """Train ``model`` and leave it with the weights of the best step, blended with those it started with.

    Args:
        model: from :func:`new_cross_encoder`.
        candidates: the pairs to train on.
        config: settings.
        retriever: the first stage, whose hits are the hard negatives.
        identity: what else has to be equal for an unfinished run to be resumed, by name.
        validate: called before the first step and every ``validate_steps``.
        folder: where the state of the unfinished run is saved; ``None`` saves none.
        resume: continue the unfinished run in ``folder``.
        on_step: called after each step and validation.

    Raises:
        ValueError: ``resume`` without a state, or with the state of a run with other settings or data.
        FloatingPointError: the loss or a gradient is not finite; the state before that step is kept.
    """
    objective = Matching(model, candidates, config, retriever)
    start_weights = {name: parameter.detach().clone() for name, parameter in objective.parameters.items()}
    loop = Loop(
        objective,
        config,
        total=config.total_steps(len(candidates.pairs)),
        identity={
            "base": model.encoder.base_fingerprint,
            "retriever": retriever.fingerprint,
            "pairs": pairs_fingerprint(candidates.pairs),
            "distractors": json_hash(sorted(candidates.distractors)) if candidates.distractors else "",
            "settings": json.dumps(config.resume_settings(), sort_keys=True),
            **(identity or {}),
        },
        folder=None if folder is None else Path(folder),
        on_step=on_step,
    )
    if resume:
        loop.load()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        loop.run(None if validate is None else lambda: validate(model))
    loop.restore_best()
    with torch.no_grad():
        for name, parameter in objective.parameters.items():
            parameter.copy_(torch.lerp(start_weights[name], parameter, config.blend))
    in_backbone, base = trained_share(model.encoder)
    in_head = sum(p.numel() for p in model.head.parameters())
    return TrainingRun.of_loop(
        loop, model, trained_parameters=in_backbone + in_head, base_parameters=base, device=model.device
    )


class Matching:
    """The matching loss of a cross-encoder, with the contrastive loss of its vectors in the variant ``shared``.

    An :class:`~llamaindex_code_retrieval.training.objective.Objective`.
    """

    ready = True

    def __init__(
        self, model: CrossEncoder, candidates: CandidateSampler, config: MatchConfig, retriever: CodeEmbedding
    ) -> None:
        self.model = model
        self.candidates = candidates
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
        self.epochs = Epochs(len(candidates.pairs), config.batch_size, config.seed)

    def prepare(self, step: int) -> None:
        """Mine the hard negatives before the first step."""
        self.candidates.mine(self.retriever, device=self.model.device)

    def backward(self, step: int) -> tuple[float, str]:
        """Add the gradients of the batch of this step; return its loss and what to call the batch in an error."""
        positions = self.epochs.batch(step)
        batch = self.candidates.sample(positions, step)
        share = 0.5 if self.config.variant == "shared" else 1.0  # two losses are averaged
        loss = share * self.matching_loss(batch)
        torch.autograd.backward(loss)
        total = float(loss.detach())
        if self.config.variant == "shared":
            loss = share * self.embedding_loss(positions)
            torch.autograd.backward(loss)
            total += float(loss.detach())
        return total, f"the batch that begins with the query {batch.queries[0][:60]!r}"

    def matching_loss(self, batch: CandidateBatch) -> Tensor:
        """Return the matching loss of a batch, which is scored in forward passes of at most ``forward_tokens``."""
        model = self.model
        rows = model.rows(model.token_ids(batch.queries), model.token_ids(batch.codes), model.max_tokens)
        lengths = [-(-len(ids) // self.length_step) * self.length_step for ids, _ in rows]
        order: list[int] = []
        parts: list[Tensor] = []
        for chunk in token_budget_batches(lengths, self.config.forward_tokens):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=self.bf16):
                parts.append(model.log_odds([rows[i] for i in chunk], length=lengths[chunk[0]]).float())
            order.extend(chunk)
        place = torch.empty(len(order), dtype=torch.long)
        place[order] = torch.arange(len(order))
        log_odds = torch.cat(parts)[place.to(model.device)]  # (pairs,), in the order of the batch
        return matching_loss(log_odds, batch.lists, batch.rejected, kind=self.config.loss)

    def embedding_loss(self, positions: Sequence[int]) -> Tensor:
        """Return the contrastive loss of the vectors of the batch's queries and answers (CasCode, section 3)."""
        encoder, candidates = self.model.encoder, self.candidates
        pairs = [candidates.pairs[i] for i in positions]
        rows: dict[str, int] = {}
        target = [rows.setdefault(pair.code, len(rows)) for pair in pairs]
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            queries = encoder([pair.query for pair in pairs], side="query")
            codes = encoder(list(rows), side="code")
        return contrastive_loss(
            queries.float(),
            codes.float(),
            torch.tensor(target, device=queries.device),
            temperature=self.config.temperature,
        )

    def rewind(self) -> None:
        """Do nothing: a batch depends on its step alone."""

    def finish(self, step: int) -> dict[str, Any]:
        """Log nothing."""
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the mined negatives; everything else follows from the step."""
        return pack_rows(self.candidates.mined), {}

    def restore(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.candidates.mined = unpack_rows(tensors)
