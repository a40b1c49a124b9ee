"""From pairs to a reranker that was calibrated behind its first stage: training and evaluation put together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llamaindex_code_retrieval._io import Progress, no_progress
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.index.words import LexicalIndex
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.scoring import score_pairs
from llamaindex_code_retrieval.ranking import (
    BM25_WEIGHT,
    CANDIDATES,
    DENSE_WEIGHT,
    RANK_CONSTANT,
    reciprocal_rank_fusion,
)
from llamaindex_code_retrieval.training.calibration import calibrate
from llamaindex_code_retrieval.training.matching import train_cross_encoder
from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
from llamaindex_code_retrieval.training.negatives import read_distractors
from llamaindex_code_retrieval.training.pair_sources import load_pairs
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.recipes import RerankerRecipe
from llamaindex_code_retrieval.training.run_record import TrainingRun, free_folder, run_record, save_reranker
from llamaindex_code_retrieval.training.sampling import sample_pool, select_languages, split_by_repository

VALIDATION_QUERIES = 100
VALIDATION_DEPTH = 10
CALIBRATION_QUERIES = 300
POOL = 10_000
"""Codes at most that the held-out queries are asked against."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Queries with what the first stage finds for each, best first, and which of it is right."""

    queries: list[str]
    codes: list[list[str]]
    relevant: list[list[bool]]

    def first(self, queries: int, depth: int) -> HeldOut:
        """Return the first ``depth`` hits of the first ``queries``."""
        return HeldOut(
            self.queries[:queries],
            [row[:depth] for row in self.codes[:queries]],
            [row[:depth] for row in self.relevant[:queries]],
        )

    def mrr(self, scores: Sequence[Sequence[float]] | None = None) -> dict[str, float]:
        """Return MRR and R@1 of the hits by their scores, or as the first stage has them."""
        ranks = []
        for i, relevant in enumerate(self.relevant):
            order = range(len(relevant)) if scores is None else np.argsort(-np.array(scores[i]), kind="stable")
            ranks.append(next((rank for rank, j in enumerate(order, start=1) if relevant[j]), None))
        n = len(ranks)
        return {
            "mrr": sum(1 / rank for rank in ranks if rank is not None) / n,
            "r@1": sum(rank == 1 for rank in ranks) / n,
        }


def train_reranker_from_pairs(
    sources: Sequence[str],
    folder: str | Path,
    recipe: RerankerRecipe,
    *,
    validate_on: Sequence[str] = (),
    start: str | Path | None = None,
    among: Sequence[str | Path] = (),
    device: str | None = None,
    cache_folder: str | Path | None = None,
    resume: bool = False,
    on_progress: Progress | None = None,
) -> TrainingRun[CrossEncoder]:
    """Read pairs, hold some out (or take those of ``validate_on``), train, calibrate and save a reranker.

    Held-out queries are asked against the held-out codes and those that were trained on, by vectors and words fused as
    ``CodeRetriever`` fuses them. While training, the answer's place among the first ten hits decides which step is best
    (before any blend with ``start``, a reranker to go on from); in the end more hits of more queries calibrate. What
    the folders ``among`` hold between their functions is asked along.

    Raises:
        ValueError: what is wrong with sources, recipe or base; a language without pairs; a folder that is in use; too
            few held-out queries to calibrate.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("a reranker is trained by one process; start it without `accelerate launch`")
    progress = on_progress or no_progress
    out = free_folder(folder, resume=resume)
    pairs = select_languages(load_pairs(*sources), recipe.languages)
    if validate_on:
        train, held_out = pairs, load_pairs(*validate_on)
    else:
        train, held_out = split_by_repository(pairs, held_out=recipe.held_out, seed=recipe.train.seed)
    encoder = Encoder.from_pretrained(recipe.base, device=device, precision="fp32")
    retriever = CodeEmbedding(
        recipe.base, adapter=recipe.retriever or None, device=device, precision="fp32", cache_folder=cache_folder
    )
    progress("compare", 0, len(train))
    clusters = near_duplicate_clusters([pair.code for pair in train])
    progress("compare", len(train), len(train))
    others = read_distractors([Path(root) for root in among])
    asked = first_stage_hits(held_out, train, others, retriever, depth=recipe.calibration_depth, seed=recipe.train.seed)
    quick = asked.first(VALIDATION_QUERIES, VALIDATION_DEPTH)

    def validate(model: CrossEncoder) -> dict[str, float]:
        return quick.mrr(_scores(model, quick))

    def on_step(step: int, total: int, entry: Mapping[str, Any]) -> None:
        progress("train", step, total)

    run = train_cross_encoder(
        encoder,
        train,
        recipe.adapter,
        recipe.train,
        retriever=retriever,
        validate=validate,
        clusters=clusters,
        start=start,
        distractors=others,
        folder=out,
        resume=resume,
        on_step=on_step,
    )
    model = run.model
    model.eval()
    if model.variant == "shared":  # its own vectors are the first stage in use
        own = model.encoder
        asked = first_stage_hits(held_out, train, others, own, depth=recipe.calibration_depth, seed=recipe.train.seed)
    scores = _scores(model, asked, progress)
    model.calibration = calibrate(scores, asked.relevant)
    record = run_record(
        run,
        model.encoder,
        pairs=train,
        adapter=recipe.adapter,
        config=recipe.train,
        sources=sources,
        start=None if start is None else _named(start, encoder),
        distractors={"from": [Path(root).resolve().name for root in among], "nodes": len(others)},
        retriever={"name": f"{retriever.model_name}, {retriever.adapter}", "fingerprint": retriever.fingerprint},
        calibration=asdict(replace(model.calibration, ceilings={})),
        calibration_queries=len(asked.queries),
        calibration_scores={
            "first stage": asked.mrr(),
            "reranked": asked.mrr(scores),
            "fused": asked.mrr(_fused(model, scores)),
        },
    )
    return save_reranker(run, out, record)


def _named(start: str | Path, encoder: Encoder) -> dict[str, str]:
    return {"name": str(start), "fingerprint": CrossEncoder.load(start, encoder=encoder, precision="fp32").fingerprint}


def _scores(model: CrossEncoder, asked: HeldOut, progress: Progress | None = None) -> list[list[float]]:
    found = []
    for i, (query, codes) in enumerate(zip(asked.queries, asked.codes, strict=True), start=1):
        found.append(score_pairs(model, query, codes, max_tokens=model.max_tokens))
        if progress is not None:
            progress("calibrate", i, len(asked.queries))
    return found


def _fused(model: CrossEncoder, scores: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[model.calibration.fused(value, rank) for rank, value in enumerate(row, start=1)] for row in scores]


def first_stage_hits(
    held_out: Sequence[Pair],
    train: Sequence[Pair],
    distractors: Mapping[str, str],
    first_stage: CodeEmbedding | Encoder,
    *,
    depth: int,
    seed: int,
) -> HeldOut:
    """Return what the first stage finds for held-out queries among held-out, trained and distracting codes.

    It fuses vectors and words as ``CodeRetriever`` does by default: what a reranker then reads in use.

    Raises:
        ValueError: too few queries or codes to say anything.
    """
    languages = {**distractors, **{pair.code: pair.language for pair in (*train, *held_out)}}
    answers, pool = sample_pool(held_out, languages, queries=CALIBRATION_QUERIES, codes=POOL, seed=seed)
    queries = list(answers)
    if len(pool) < 2 or len(queries) < 10:
        raise ValueError(
            f"{len(queries)} held-out queries and {len(pool)} codes are too few to choose and calibrate a reranker by; "
            "give more pairs, a larger held_out, or other ones with --validate"
        )
    if isinstance(first_stage, Encoder):
        asked, codes = first_stage.encode_queries(queries), first_stage.encode_codes(pool)
    else:
        asked = first_stage.embed_queries(queries)
        codes = first_stage.embed_codes(pool, [languages[code] for code in pool])
    nearest = np.argsort(-(asked @ codes.T), axis=1, kind="stable")[:, : max(depth, CANDIDATES)]
    words = LexicalIndex.build(pool)
    hits = []
    for query, row in zip(queries, nearest, strict=True):  # as CodeRetriever does it
        rankings = [[pool[j] for j in row], [pool[j] for j, _ in words.search(query, top_k=len(row))]]
        both = reciprocal_rank_fusion(rankings, weights=(DENSE_WEIGHT, BM25_WEIGHT), rank_constant=RANK_CONSTANT)
        hits.append([code for code, _ in both[:depth]])
    return HeldOut(
        queries, hits, [[code in answers[query] for code in row] for query, row in zip(queries, hits, strict=True)]
    )
