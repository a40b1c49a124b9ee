"""From pairs, or from a checkout, to an adapter that was measured: training and evaluation put together."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from llamaindex_code_retrieval._io import Progress, no_progress
from llamaindex_code_retrieval.eval import Benchmark, benchmark_of, evaluate_run
from llamaindex_code_retrieval.eval.retrieval import rank_by_cosine
from llamaindex_code_retrieval.models.catalog import DEFAULT_ADAPTERS, NO_ADAPTER
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.training.contrastive import train_adapter
from llamaindex_code_retrieval.training.mining import mine
from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
from llamaindex_code_retrieval.training.pair_sources import load_pairs
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.recipes import Recipe
from llamaindex_code_retrieval.training.run_record import (
    TrainingRun,
    free_folder,
    is_main_process,
    run_record,
    save_run,
)
from llamaindex_code_retrieval.training.sampling import select_languages, split_by_repository

VALIDATION_QUERIES = 300
VALIDATION_OTHERS = 500


def train_from_pairs(
    sources: Sequence[str],
    folder: str | Path,
    recipe: Recipe,
    *,
    start: str | Path | None = None,
    validate_on: Sequence[str] = (),
    device: str | None = None,
    resume: bool = False,
    on_progress: Progress | None = None,
) -> TrainingRun[Encoder]:
    """Read pairs, hold some out by repository (or take those of ``validate_on``), train, score and save.

    Raises:
        ValueError: what is wrong with sources, recipe or base; a language without pairs; a folder that is in use.
    """
    progress = on_progress or no_progress
    out = free_folder(folder, resume=resume)
    pairs = select_languages(load_pairs(*sources), recipe.languages)
    if validate_on:
        train, held_out = pairs, load_pairs(*validate_on)
    elif recipe.held_out > 0:
        train, held_out = split_by_repository(pairs, held_out=recipe.held_out, seed=recipe.train.seed)
    else:
        train, held_out = pairs, []
    encoder = _base(recipe, device)
    return _train(encoder, train, held_out, out, recipe, sources, start, resume, progress)


def adapt_to_repository(
    roots: Sequence[str | Path],
    folder: str | Path,
    recipe: Recipe,
    *,
    minutes: float | None,
    start: str | Path | None = None,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> TrainingRun[Encoder]:
    """Mine the checkouts, hold a fifth of their files out, train on the rest within ``minutes``, score and save.

    The budget is for all of it: what mining and scoring take is not left for training. Training goes on from
    ``start``, by default from the adapter that comes with the package for this base; ``"none"`` begins with the base.
    """
    if minutes is not None and minutes <= 0:
        raise ValueError(f"minutes must be over 0, got {minutes}")
    progress = on_progress or no_progress
    out = free_folder(folder, resume=False)
    began = time.perf_counter()
    pairs = select_languages(mine([Path(root) for root in roots], on_progress=progress).pairs, recipe.languages)
    train, held_out = split_by_repository(_as_one_repository(pairs), held_out=0.2, seed=recipe.train.seed)
    if start is None and recipe.adapter.method == "lora":
        start = DEFAULT_ADAPTERS.get(recipe.base)
    batch_size = min(recipe.train.batch_size, len(train))
    encoder = _base(recipe, device)
    config = recipe.train.replace(batch_size=batch_size)
    if minutes is not None:
        left = minutes * 60 - (time.perf_counter() - began)
        config = config.replace(max_seconds=max(10.0, left))
    recipe = recipe.replace(train=config)
    return _train(encoder, train, held_out, out, recipe, [str(root) for root in roots], start, False, progress)


def _train(
    encoder: Encoder,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    out: Path,
    recipe: Recipe,
    sources: Sequence[str],
    start: str | Path | None,
    resume: bool,
    progress: Progress,
) -> TrainingRun[Encoder]:
    progress("compare", 0, len(train))
    clusters = near_duplicate_clusters([pair.code for pair in train])
    progress("compare", len(train), len(train))
    benchmark = _validation(held_out, train, seed=recipe.train.seed) if held_out else None

    def validate(current: Encoder) -> dict[str, float]:
        return {} if benchmark is None else score(current, benchmark)

    def on_step(step: int, total: int, entry: Mapping[str, Any]) -> None:
        progress("train", step, total)

    if start == NO_ADAPTER:
        start = None
    run = train_adapter(
        encoder,
        train,
        recipe.adapter,
        recipe.train,
        validate=None if benchmark is None else validate,
        clusters=clusters,
        folder=out,
        start=start,
        resume=resume,
        on_step=on_step,
    )
    record = run_record(
        run,
        run.model,
        pairs=train,
        adapter=recipe.adapter,
        config=recipe.train,
        sources=sources,
        start=None if start is None else str(start),
    )
    return save_run(run, out, record) if is_main_process() else replace(run, record=record)


def score(encoder: Encoder, benchmark: Benchmark) -> dict[str, float]:
    """Return ``mrr``, ``r@1`` and ``r@10`` of the encoder alone, over the whole corpus of ``benchmark``."""
    metrics = evaluate_run(rank_by_cosine(encoder, benchmark), benchmark.qrels)
    return {name.lower(): value for name, value in metrics.items()}


def _validation(held_out: Sequence[Pair], train: Sequence[Pair], *, seed: int) -> Benchmark:
    """Held-out queries against the held-out codes and some that were trained on, so that the pool is no toy."""
    rng = random.Random(seed)
    asked = rng.sample(held_out, min(VALIDATION_QUERIES, len(held_out)))
    seen = sorted({pair.code for pair in train})
    others = rng.sample(seen, min(VALIDATION_OTHERS, len(seen)))
    return benchmark_of("held out", [(pair.query, pair.code) for pair in asked], others=others)


def _base(recipe: Recipe, device: str | None) -> Encoder:
    if "LOCAL_RANK" in os.environ:  # makes "cuda" mean this process's own GPU
        PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    return Encoder.from_pretrained(
        recipe.base,
        device=device,
        precision="fp32",  # of the weights; the arithmetic's is the recipe's
        max_query_tokens=recipe.max_query_tokens,
        max_code_tokens=recipe.max_code_tokens,
    )


def _as_one_repository(pairs: Sequence[Pair]) -> list[Pair]:
    """Give all the same repository, so that they are split by file: what is held out is of the code base adapted to."""
    return [replace(pair, repository="", path=f"{pair.repository}/{pair.path}") for pair in pairs]
