"""Train a reranker from pairs, calibrate it behind its first stage and save it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llamaindex_code_retrieval._io import Progress, no_progress
from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.scoring import score_pairs
from llamaindex_code_retrieval.training.augmentation import with_names
from llamaindex_code_retrieval.training.calibration import calibrate, check_labels, cross_fitted
from llamaindex_code_retrieval.training.candidates import CandidateSampler
from llamaindex_code_retrieval.training.checkpoints import save_cross_encoder
from llamaindex_code_retrieval.training.first_stage import HeldOutQueries, RetrievedCandidates, hold_out, retrieve
from llamaindex_code_retrieval.training.matching import (
    check_settings,
    fit_cross_encoder,
    new_cross_encoder,
    start_identity,
)
from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
from llamaindex_code_retrieval.training.negatives import read_distractors
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.processes import check_one_process
from llamaindex_code_retrieval.training.recipes import RerankerRecipe, load_reranker_recipe
from llamaindex_code_retrieval.training.run_record import (
    TrainingRun,
    describe_pairs,
    free_folder,
    public_name,
    run_record,
    save_reranker,
)
from llamaindex_code_retrieval.training.sampling import check_batch, mix_kinds, select_languages, split_by_repository


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTraining:
    """All that a reranker's training needs; whatever can be wrong with it was refused when it was prepared."""

    model: CrossEncoder
    candidates: CandidateSampler
    retriever: CodeEmbedding
    held_out: HeldOutQueries
    validation: RetrievedCandidates
    """Of the queries that choose the best step."""
    calibration: RetrievedCandidates
    """Of the queries that calibrate, and whose scores are reported."""
    start: dict[str, str] | None
    """Name and fingerprint of the reranker that the training starts from."""


def train_reranker(
    pairs: Sequence[Pair],
    folder: str | Path,
    *,
    recipe: RerankerRecipe | None = None,
    validation_pairs: Sequence[Pair] = (),
    start: str | Path | None = None,
    distractor_folders: Sequence[str | Path] = (),
    device: str | None = None,
    cache_folder: str | Path | None = None,
    resume: bool = False,
    sources: Sequence[str | Path] = (),
    on_progress: Progress = no_progress,
) -> TrainingRun[CrossEncoder]:
    """Train a reranker on pairs, calibrate it on held-out queries and save it in ``folder`` for ``CodeReranker``.

    A quarter of the held-out queries, 100 at most, choose the best step. The others calibrate the reranker, and the
    scores in the record are theirs: of the first stage, reranked, and fused with the weight that the other half of the
    queries chose. An interrupted run is continued with ``resume``.

    Args:
        recipe: base, first stage, adapter and settings; by default the recipe ``adapters``, on the embedded base.
        validation_pairs: pairs to hold out in place of some of ``pairs``.
        start: name or folder of a reranker whose weights the training starts from.
        distractor_folders: source trees whose imports, constants and class headers are retrieved but never relevant.
        sources: names of the pairs' sources, for the record and the model card.
        on_progress: called with the stages "compare", "train" and "calibrate".

    Raises:
        ImportError: a package of the extra ``train`` is missing.
        ValueError: settings, pairs or ``start`` that do not fit, too few held-out queries, or a folder in use.
        FloatingPointError: the loss or a gradient is not finite.
    """
    check_installed("datasketch", "matplotlib", extra="train", purpose="training a reranker")
    check_one_process("training a reranker")
    recipe, folder = recipe or load_reranker_recipe("adapters"), free_folder(folder, resume=resume)
    check_settings(recipe.adapter, recipe.train, start)
    train, validation_pairs = _split(pairs, validation_pairs, recipe)
    retriever = CodeEmbedding(
        recipe.base, adapter=recipe.retriever or None, device=device, precision="fp32", cache_folder=cache_folder
    )
    distractors = read_distractors([Path(path) for path in distractor_folders], retriever)
    held_out = hold_out(validation_pairs, train, distractors, seed=recipe.train.seed)
    prepared = _prepare(train, held_out, distractors, retriever, recipe, start, on_progress)
    run = fit_cross_encoder(
        prepared.model,
        prepared.candidates,
        recipe.train,
        retriever=prepared.retriever,
        identity=start_identity(recipe.adapter, start),
        validate=lambda model: prepared.validation.metrics(_score(model, prepared.validation)),
        folder=folder,
        resume=resume,
        on_step=lambda step, total, entry: on_progress("train", step, total),
    )
    run.model.eval()
    save_cross_encoder(run.model, folder)  # before anything that could fail
    calibration_record = _calibrate(run.model, prepared, recipe, on_progress)
    return save_reranker(run, folder, _record(run, prepared, recipe, sources, distractor_folders) | calibration_record)


def _split(
    pairs: Sequence[Pair], validation_pairs: Sequence[Pair], recipe: RerankerRecipe
) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to train on and those to hold out."""
    train, held_out = select_languages(list(pairs), recipe.languages), list(validation_pairs)
    if not held_out:
        train, held_out = split_by_repository(train, held_out=recipe.held_out, seed=recipe.train.seed)
    train = mix_kinds(train, recipe.kinds.stated(), seed=recipe.train.seed)
    check_batch(train, recipe.train.batch_size)
    return with_names(train, recipe.named), with_names(held_out, recipe.named)


def _prepare(
    train: Sequence[Pair],
    held_out: HeldOutQueries,
    distractors: Mapping[str, str],
    retriever: CodeEmbedding,
    recipe: RerankerRecipe,
    start: str | Path | None,
    on_progress: Progress,
) -> PreparedTraining:
    """Build the model, then retrieve the candidates; whatever can be wrong is refused before anything is embedded."""
    encoder = retriever.torch_encoder.without_adapter()  # one copy of the base's weights
    model = new_cross_encoder(encoder, recipe.adapter, recipe.train, start=start)
    start_record = None if start is None else _name_and_fingerprint(start, encoder)
    clusters = None
    if recipe.compare_codes:
        on_progress("compare", 0, len(train))
        clusters = near_duplicate_clusters([pair.code for pair in train])
        on_progress("compare", len(train), len(train))
    candidates = CandidateSampler(train, recipe.train, clusters=clusters, distractors=distractors)
    depth = recipe.calibration_depth
    validation, calibration = retrieve(held_out, retriever, depth=depth).split(depth=depth)
    check_labels(calibration.relevant)
    return PreparedTraining(
        model=model,
        candidates=candidates,
        retriever=retriever,
        held_out=held_out,
        validation=validation,
        calibration=calibration,
        start=start_record,
    )


def _name_and_fingerprint(reranker: str | Path, encoder: Encoder) -> dict[str, str]:
    loaded = CrossEncoder.load(reranker, encoder=encoder, precision="fp32")
    return {"name": public_name(reranker), "fingerprint": loaded.fingerprint}


def _calibrate(
    model: CrossEncoder, prepared: PreparedTraining, recipe: RerankerRecipe, on_progress: Progress
) -> dict[str, Any]:
    """Calibrate the model in place; return the record of that, with the scores of the calibration queries."""
    candidates = prepared.calibration
    if model.variant == "shared":  # in use its own vectors are the first stage
        depth = recipe.calibration_depth
        _, candidates = retrieve(prepared.held_out, model.encoder, depth=depth).split(depth=depth)
    scores = _score(model, candidates, on_progress)
    model.calibration = calibrate(scores, candidates.relevant)
    fused = cross_fitted(np.array(scores), np.array(candidates.relevant))
    return {
        "calibration": asdict(replace(model.calibration, ceilings={})),
        "calibration_queries": len(candidates.queries),
        "calibration_scores": {
            "first stage": candidates.metrics(),
            "reranked": candidates.metrics(scores),
            "fused": candidates.metrics(fused.tolist()),
        },
    }


def _score(
    model: CrossEncoder, candidates: RetrievedCandidates, on_progress: Progress = no_progress
) -> list[list[float]]:
    """Return the log-odds that the model gives each candidate."""
    log_odds = []
    for done, (query, codes) in enumerate(zip(candidates.queries, candidates.codes, strict=True), start=1):
        log_odds.append(score_pairs(model, query, codes, max_tokens=model.max_tokens))
        on_progress("calibrate", done, len(candidates.queries))
    return log_odds


def _record(
    run: TrainingRun[CrossEncoder],
    prepared: PreparedTraining,
    recipe: RerankerRecipe,
    sources: Sequence[str | Path],
    distractor_folders: Sequence[str | Path],
) -> dict[str, Any]:
    retriever, distractors = prepared.retriever, prepared.candidates.distractors
    return run_record(
        run,
        run.model.encoder,
        data=describe_pairs(prepared.candidates.pairs, sources),
        adapter=recipe.adapter,
        config=recipe.train,
        start=prepared.start,
        distractors={"from": [Path(path).resolve().name for path in distractor_folders], "nodes": len(distractors)},
        retriever={
            "name": f"{public_name(retriever.model_name)}, {public_name(retriever.adapter)}",
            "fingerprint": retriever.fingerprint,
        },
        validation_queries=len(prepared.validation.queries),
    )
