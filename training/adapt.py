"""Train an adapter on pairs, or on a repository, measure it on held-out queries and save it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from llamaindex_code_retrieval._io import Progress, no_progress, read_json, sha256
from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.catalog import DEFAULT_ADAPTERS
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DAMAGED
from llamaindex_code_retrieval.training.activations import check_cacheable
from llamaindex_code_retrieval.training.adapters import attach_adapter, check_start, locate_start
from llamaindex_code_retrieval.training.augmentation import with_names
from llamaindex_code_retrieval.training.config import AdapterConfig, LoopConfig, PretrainConfig, TrainConfig
from llamaindex_code_retrieval.training.contrastive import fit_adapter
from llamaindex_code_retrieval.training.mining import mine
from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
from llamaindex_code_retrieval.training.pairs import Pair, pairs_fingerprint
from llamaindex_code_retrieval.training.pretraining import pretrain_in_place, read_texts
from llamaindex_code_retrieval.training.processes import Processes, is_main_process
from llamaindex_code_retrieval.training.recipes import LEARNING_RATES, PretrainRecipe, Recipe
from llamaindex_code_retrieval.training.run_record import (
    TrainingRun,
    describe_pairs,
    free_folder,
    public_name,
    run_record,
    save_run,
)
from llamaindex_code_retrieval.training.sampling import (
    check_trainable,
    mix_kinds,
    select_languages,
    split_by_repository,
)
from llamaindex_code_retrieval.training.source_texts import SourceText
from llamaindex_code_retrieval.training.teachers import TeacherVectors, load_teachers
from llamaindex_code_retrieval.training.validation import Validation, score, split_held_out

L = TypeVar("L", bound=LoopConfig)

FEWEST_SECONDS = 10.0
"""Seconds of training where mining and measuring have used up the budget."""


@dataclass(frozen=True, slots=True)
class PreparedTraining:
    """All that a training needs; preparing it refuses whatever can be wrong with it."""

    pairs: list[Pair]
    model: Encoder
    """The base with a new adapter."""
    untrained: Encoder
    """The encoder that the result is compared with."""
    validation: Validation | None
    before: dict[str, float] | None
    """The scores of ``untrained``."""
    teachers: list[CodeEmbedding]
    identity: dict[str, str]
    """What must be equal for the run to be resumed, besides settings and pairs."""


def train_adapter(
    pairs: Sequence[Pair],
    folder: str | Path,
    *,
    recipe: Recipe | None = None,
    adapter: AdapterConfig | None = None,
    config: TrainConfig | None = None,
    base: str | None = None,
    validation_pairs: Sequence[Pair] = (),
    start: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    sources: Sequence[str | Path] = (),
    on_progress: Progress = no_progress,
) -> TrainingRun[Encoder]:
    """Train an adapter on pairs, measure it on held-out queries and save it in ``folder`` for ``CodeEmbedding``.

    Some pairs are held out by repository. Half of their queries choose the best step, the others measure it; if there
    are fewer than 40, all of them do both, and the record says so. An interrupted run is continued with ``resume``.

    Args:
        pairs: queries with their codes.
        folder: a new folder for the adapter and its records.
        recipe: base, token limits, languages, share of the held-out pairs, adapter and training; by default LoRA on
            the embedded base.
        adapter: what is trained, in place of the recipe's.
        config: settings of the training, in place of the recipe's.
        base: name or folder of the base, in place of the recipe's.
        validation_pairs: pairs to hold out in place of some of ``pairs``.
        start: name or folder of an adapter that the training starts from; ``None`` and ``"none"`` are the base itself.
        device: torch device; by default CUDA if there is one.
        resume: continue the unfinished run in ``folder``.
        sources: names of the pairs' sources, for the record and the model card.
        on_progress: called with the stages "teach", "compare" and "train".

    Returns:
        The run, with the encoder in the weights of the best step, the scores before and after, and its record.

    Raises:
        ImportError: a package of the extra ``train`` is missing.
        ValueError: settings, pairs or ``start`` that do not fit, or a folder in use.
        FloatingPointError: the loss or a gradient is not finite.

    >>> import tempfile
    >>> names = ["read", "write", "open", "close", "sort", "merge"]
    >>> pairs = [Pair(query=f"{name} a file", code=f"def {name}(file): file.{name}()", path=name) for name in names]
    >>> folder = tempfile.TemporaryDirectory()
    >>> run = train_adapter(pairs, folder.name, adapter=AdapterConfig(rank=4), config=TrainConfig(batch_size=2))
    >>> run.model.encode_queries(["open a file"]).shape
    (1, 384)
    >>> folder.cleanup()
    """
    check_installed("accelerate", "datasketch", "matplotlib", extra="train", purpose="training an adapter")
    out = free_folder(folder, resume=resume)
    recipe = (recipe or Recipe()).with_parts(base=base, adapter=adapter, train=config)
    _check_budget(recipe, recipe.train.max_seconds)
    train, held_out = _split(pairs, validation_pairs, recipe)
    recipe = _with_shape_of_start(recipe, start)
    prepared = _prepare(_load_base(recipe, device), train, held_out, recipe, start, device)
    return _fit_and_save(prepared, recipe, out, start=start, resume=resume, sources=sources, on_progress=on_progress)


def adapt_to_repository(
    roots: Sequence[str | Path],
    folder: str | Path,
    *,
    recipe: Recipe | None = None,
    minutes: float | None = None,
    start: str | Path | None = None,
    pretraining: PretrainConfig | None = None,
    device: str | None = None,
    on_progress: Progress = no_progress,
    clock: Callable[[], float] = time.perf_counter,
) -> TrainingRun[Encoder]:
    """Mine source trees, hold out a fifth of their files, train an adapter on the rest, measure it and save it.

    Args:
        roots: folders with source code.
        folder: a new folder for the adapter and its records.
        recipe: as for :func:`train_adapter`; batches are no larger than the number of pairs.
        minutes: budget for mining, training and measuring together; ``None`` is no limit.
        start: the adapter that the training starts from: by default the one that comes with the package for this base,
            if the method is LoRA; ``"none"`` is the base itself.
        pretraining: predict masked tokens and names in all source code first, in half of the budget after mining.
        device: torch device; by default CUDA if there is one.
        on_progress: called with the stages "mine", "compare", with ``pretraining`` "read" and "pretrain", and "train".
        clock: returns seconds, for the budget.

    Raises:
        ImportError, ValueError, FloatingPointError: as :func:`train_adapter`.
    """
    check_installed("accelerate", "datasketch", "matplotlib", extra="train", purpose="training an adapter")
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes must be over 0, got {minutes}")
    began = clock()
    out, recipe = free_folder(folder, resume=False), recipe or Recipe()
    _check_budget(recipe, minutes)
    if start is None and recipe.adapter.method == "lora":
        start = DEFAULT_ADAPTERS.get(recipe.base)
    recipe = _with_shape_of_start(recipe, start)
    if pretraining is not None:
        PretrainRecipe(adapter=recipe.adapter, train=pretraining)  # checks the method
    encoder = _load_base(recipe, device)
    if (start_folder := locate_start(start)) is not None:
        check_start(encoder, start_folder, recipe.adapter)  # before minutes of mining
    train, held_out = _mine(roots, recipe, on_progress)
    recipe = recipe.with_parts(train=recipe.train.replace(batch_size=max(2, min(recipe.train.batch_size, len(train)))))
    check_trainable(train, recipe.train.batch_size)
    measuring = clock()
    prepared = _prepare(encoder, train, held_out, recipe, start, device)
    budget = _Budget.of(minutes, began, measuring, clock)
    more: dict[str, Any] = {}
    if pretraining is not None:
        texts = _other_texts(read_texts(roots, encoder, languages=recipe.languages, on_progress=on_progress), held_out)
        settings = budget.limit(pretraining.replace(seed=recipe.train.seed), share=0.5)
        more["pretraining"] = pretrain_in_place(
            prepared.model, texts, recipe.adapter, settings, on_progress=on_progress, clock=clock
        )
    recipe = recipe.with_parts(train=budget.limit(recipe.train))
    return _fit_and_save(
        prepared, recipe, out, start=start, sources=roots, on_progress=on_progress, clock=clock, **more
    )


def _mine(roots: Sequence[str | Path], recipe: Recipe, on_progress: Progress) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs of source trees to train on, and those of a fifth of the files."""
    pairs = mine([Path(root) for root in roots], on_progress=on_progress).pairs
    train, held_out = split_by_repository(
        _as_one_repository(select_languages(pairs, recipe.languages)), held_out=0.2, seed=recipe.train.seed
    )
    train = mix_kinds(train, recipe.kinds.stated(), seed=recipe.train.seed)
    return with_names(train, recipe.named), with_names(held_out, recipe.named)


@dataclass(frozen=True, slots=True)
class _Budget:
    """When the trainings of an adaptation have to end by ``clock``; ``None`` is never."""

    end: float | None
    clock: Callable[[], float]

    @classmethod
    def of(cls, minutes: float | None, began: float, measuring: float, clock: Callable[[], float]) -> _Budget:
        """Return the budget of an adaptation; measuring the result takes about as long as since ``measuring``."""
        if minutes is None:
            return cls(None, clock)
        return cls(began + minutes * 60 - (clock() - measuring), clock)

    def limit(self, config: L, *, share: float = 1.0) -> L:
        """Return the settings of a training that takes this share of the time that is left."""
        if self.end is None:
            return config
        return config.replace(max_seconds=max(FEWEST_SECONDS, share * (self.end - self.clock())))


def _fit_and_save(
    prepared: PreparedTraining,
    recipe: Recipe,
    out: Path,
    *,
    start: str | Path | None,
    resume: bool = False,
    sources: Sequence[str | Path],
    on_progress: Progress,
    clock: Callable[[], float] = time.perf_counter,
    **more: Any,
) -> TrainingRun[Encoder]:
    """Train, measure the result and save it; in a process that writes nothing, return the run without a folder.

    ``more`` are further entries of the record.
    """
    model, pairs, validation = prepared.model, prepared.pairs, prepared.validation
    teachers, identity = None, prepared.identity
    if prepared.teachers:
        teachers = TeacherVectors(prepared.teachers, pairs, on_progress=on_progress)
        identity = identity | {"teachers": ", ".join(teachers.fingerprints)}
    clusters = _clusters(pairs, recipe, on_progress)
    run = fit_adapter(
        model,
        pairs,
        recipe.adapter,
        recipe.train,
        untrained=None if prepared.untrained is model else prepared.untrained,
        validate=None if validation is None else lambda encoder: score(encoder, validation.selection),
        clusters=clusters,
        teachers=teachers,
        identity=identity,
        folder=out,
        resume=resume,
        on_step=lambda step, total, entry: on_progress("train", step, total),
        clock=clock,
    )
    record = run_record(
        run,
        model,
        data=describe_pairs(pairs, sources),
        adapter=recipe.adapter,
        config=recipe.train,
        start=None if locate_start(start) is None else public_name(str(start)),
        teachers=[
            {"name": public_name(each.model_name), "fingerprint": each.fingerprint} for each in prepared.teachers
        ],
        **_scores(model, validation, prepared.before),
        **more,
    )
    return save_run(run, out, record) if is_main_process() else replace(run, record=record)


def _clusters(pairs: Sequence[Pair], recipe: Recipe, on_progress: Progress) -> list[int] | None:
    if not recipe.compare_codes:
        return None
    on_progress("compare", 0, len(pairs))
    clusters = near_duplicate_clusters([pair.code for pair in pairs])
    on_progress("compare", len(pairs), len(pairs))
    return clusters


def _scores(model: Encoder, validation: Validation | None, before: dict[str, float] | None) -> dict[str, Any]:
    """Return the entries of the record for the scores of the adapter and the number of queries."""
    if validation is None:
        return {"validation_before": None, "validation_best": None}
    return {
        "validation_before": before,
        "validation_best": score(model, validation.report),
        "validation_queries": len(validation.selection.queries),
        "report_queries": None if validation.is_shared else len(validation.report.queries),
    }


def _with_shape_of_start(recipe: Recipe, start: str | Path | None) -> Recipe:
    """Return the recipe with rank and scale of the LoRA adapter that it starts from, unless it states its own.

    The rate that suits the preset falls with the root of the rank, because that many more weights change together.
    """
    folder, preset = locate_start(start), AdapterConfig.preset("lora")
    if folder is None or recipe.adapter != preset:
        return recipe
    trained = read_json(folder / ADAPTER_CONFIG, remedy=DAMAGED)
    if trained.get("peft_type") != "LORA":
        return recipe  # check_start says what is wrong
    rank, alpha = trained["r"], trained["lora_alpha"]
    rate = recipe.train.learning_rate
    if rate == LEARNING_RATES["lora"]:
        rate *= (preset.rank / rank) ** 0.5
    return recipe.with_parts(
        adapter=preset.replace(rank=rank, alpha=None if alpha == 2 * rank else float(alpha)),
        train=recipe.train.replace(learning_rate=rate),
    )


def _split(pairs: Sequence[Pair], validation_pairs: Sequence[Pair], recipe: Recipe) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to train on and those held out, both checked."""
    train, held_out = select_languages(list(pairs), recipe.languages), list(validation_pairs)
    if not held_out and recipe.held_out > 0:
        train, held_out = split_by_repository(train, held_out=recipe.held_out, seed=recipe.train.seed)
    train = mix_kinds(train, recipe.kinds.stated(), seed=recipe.train.seed)
    check_trainable(train, recipe.train.batch_size)
    return with_names(train, recipe.named), with_names(held_out, recipe.named)


def _load_base(recipe: Recipe, device: str | None) -> Encoder:
    Processes.join(cpu=device == "cpu")
    return Encoder.from_pretrained(
        recipe.base,
        device=device,
        precision="fp32",  # of the weights; the arithmetic's is the recipe's
        max_query_tokens=recipe.max_query_tokens,
        max_code_tokens=recipe.max_code_tokens,
    )


def _prepare(
    encoder: Encoder,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    recipe: Recipe,
    start: str | Path | None,
    device: str | None,
) -> PreparedTraining:
    """Attach the adapter to the base and measure it untrained."""
    folder = locate_start(start)
    if recipe.train.activation_gigabytes:
        check_cacheable(encoder)
    if longer := [length for length in recipe.train.dimensions if length >= encoder.dim]:
        raise ValueError(f"dimensions must be below {encoder.dim}, the length of this base's vectors, got {longer[0]}")
    teachers = load_teachers(
        recipe.teachers,
        device=device,
        max_query_tokens=recipe.max_query_tokens,
        max_code_tokens=recipe.max_code_tokens,
    )
    steps = recipe.train.total_steps(len(pairs))
    model = attach_adapter(encoder, recipe.adapter, total_steps=steps, start=folder, seed=recipe.train.seed)
    # untrained virtual tokens change vectors, so the comparison is with the base itself
    untrained = encoder if recipe.adapter.method == "prompt" and folder is None else model
    validation = split_held_out(held_out, pairs, seed=recipe.train.seed) if held_out else None
    before = None if validation is None else score(untrained, validation.report)
    identity = {
        "start": "" if folder is None else sha256(folder / ADAPTER_WEIGHTS),
        "validation": pairs_fingerprint(held_out),
    }
    return PreparedTraining(list(pairs), model, untrained, validation, before, teachers, identity)


def _check_budget(recipe: Recipe, budget: float | None) -> None:
    if budget is not None and recipe.adapter.method == "adalora":
        raise ValueError("AdaLoRA prunes by a schedule of known length; give epochs, and leave out the time budget")


def _other_texts(texts: Sequence[SourceText], held_out: Sequence[Pair]) -> list[SourceText]:
    """Return the texts that are not from files of held-out pairs, because these have the held-out queries as comments.

    The paths of the pairs are those of :func:`_as_one_repository`.
    """
    files = [f"/{pair.path}" for pair in held_out]
    inner = {path: path.partition("/")[2] for path in {text.path for text in texts}}
    same = {path for path, name in inner.items() if any(file.endswith(f"/{name}") for file in files)}
    return [text for text in texts if text.path not in same]


def _as_one_repository(pairs: Sequence[Pair]) -> list[Pair]:
    """Give all pairs the same repository, so that they are split by file: the test is on the repository itself."""
    return [replace(pair, repository="", path=f"{pair.repository}/{pair.path}") for pair in pairs]
