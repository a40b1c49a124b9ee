"""Train a ranking model: from questions about repositories to a file that ``CodeRetriever`` loads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import Progress, make_folder
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestions, fingerprint_of, load_questions
from llamaindex_code_retrieval.ranking.features import FEATURES
from llamaindex_code_retrieval.ranking.model import RankingModel, default_model
from llamaindex_code_retrieval.training.judging import JudgedQuestion, check_repositories, judge_repositories
from llamaindex_code_retrieval.training.ranking_model import (
    DEFAULT_CONFIG,
    RankingConfig,
    cross_validate,
    fit_ranking,
    mean_by_category,
)

_LEAST_REPOSITORIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """Questions and the code that they are about."""

    questions: Path
    """A file or folder of :func:`.load_questions`."""
    repositories: Path
    """The repository of a file; of a folder the folder in which each repository is a folder of its name."""

    def load(self) -> list[RepositoryQuestions]:
        """Read the questions."""
        return load_questions(self.questions)

    def folders(self, loaded: Sequence[RepositoryQuestions]) -> dict[str, Path]:
        """Return the folder of each repository."""
        is_one = self.questions.is_file()
        return {each.name: self.repositories if is_one else self.repositories / each.name for each in loaded}


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingRun:
    """A fitted model, and mean NDCG@10 of the questions, over ``all`` and by category."""

    model: RankingModel
    questions: int
    before: dict[str, float]
    """By the default model."""
    cross_validated: dict[str, float] | None
    """By models that did not see the question's repository; ``None`` with one repository."""
    after: dict[str, float]
    """By the model itself, which has seen the questions."""
    ablation: dict[str, dict[str, float]] | None = None
    """Cross-validated without a feature, by its name."""


def train_ranking(
    questions: QuestionSet,
    out: str | Path,
    *,
    also: Sequence[QuestionSet] = (),
    config: RankingConfig = DEFAULT_CONFIG,
    embedding: CodeEmbedding | None = None,
    from_default: bool = True,
    ablation: bool = False,
    indexes: str | Path | None = None,
    on_progress: Progress | None = None,
) -> RankingRun:
    """Fit a ranking model to questions, save it as ``out`` and return what it is worth.

    Args:
        questions: what the model is measured on and fitted to.
        out: the file.
        also: further questions that it is fitted to, and not measured on.
        config: the settings of the fit.
        embedding: the model whose vectors are searched; by default that of the package.
        from_default: keep the default weights where the questions say nothing, for few questions of one's own.
        ablation: cross-validate without each feature as well.
        indexes: folder where the index of each repository is kept, so that an interrupted run can go on.
        on_progress: is called with (stage, done, total).

    Raises:
        FileNotFoundError: a file of questions or a repository is missing; nothing has been indexed then.
        ValueError: a file of questions is not valid, no question has a target among its candidates, or an ablation of
            questions about one repository.
        OSError: ``out`` cannot be written.
    """
    sets = [(each, each.load()) for each in (questions, *also)]
    repositories = len(sets[0][1])
    if ablation and repositories < _LEAST_REPOSITORIES:
        raise ValueError("an ablation compares repositories with each other; give questions about two, or leave it out")
    for each, loaded in sets:
        check_repositories(loaded, each.folders(loaded))
    make_folder(Path(out).parent)
    embedding = embedding or CodeEmbedding()
    folder = None if indexes is None else Path(indexes)
    judged = [
        judge_repositories(loaded, each.folders(loaded), embedding, indexes=folder, on_progress=on_progress)
        for each, loaded in sets
    ]
    measured, extra = judged[0], [question for others in judged[1:] for question in others]
    prior = default_model() if from_default else None
    validate = partial(_validated, measured, config, extra=extra, prior=prior)
    fitted = fit_ranking([*measured, *extra], config, prior=prior)
    model = replace(fitted, trained_on=_trained_on([loaded for _, loaded in sets], embedding, config))
    run = RankingRun(
        model=model,
        questions=len(measured),
        before=_means(measured, default_model()),
        cross_validated=validate() if repositories >= _LEAST_REPOSITORIES else None,
        after=_means(measured, model),
        ablation={name: validate(without=(name,)) for name in FEATURES} if ablation else None,
    )
    model.save(out)
    return run


def _trained_on(
    sets: Sequence[Sequence[RepositoryQuestions]], embedding: CodeEmbedding, config: RankingConfig
) -> dict[str, Any]:
    return {
        "questions": [
            {"fingerprint": fingerprint_of(each), "repositories": {one.name: one.revision for one in each}}
            for each in sets
        ],
        "embedding": embedding.fingerprint,
        "config": asdict(config),
    }


def _validated(
    questions: Sequence[JudgedQuestion],
    config: RankingConfig,
    *,
    extra: Sequence[JudgedQuestion],
    prior: RankingModel | None,
    without: Collection[str] = (),
) -> dict[str, float]:
    values = cross_validate(questions, config, extra=extra, prior=prior, without=without)
    return mean_by_category(questions, values)


def _means(questions: Sequence[JudgedQuestion], model: RankingModel) -> dict[str, float]:
    return mean_by_category(questions, [question.ndcg(model) for question in questions])
