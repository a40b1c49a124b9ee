"""Search repositories for questions with known answers: the candidates, their features, and which of them answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import Progress, no_progress
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestions
from llamaindex_code_retrieval.eval.targets import Place, Target, ndcg
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.index.locate import is_index
from llamaindex_code_retrieval.index.rank import QueryVector, Ranking, candidate_features
from llamaindex_code_retrieval.ranking.features import Candidate
from llamaindex_code_retrieval.ranking.model import RankingModel
from llamaindex_code_retrieval.ranking.question import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedQuestion:
    """A question with its candidates, their features, and which of its targets each covers."""

    question: Question
    repository: str
    category: str
    candidates: Sequence[Candidate]
    places: Sequence[Place]
    """Of the candidates, with paths in the repository."""
    targets: Sequence[Target]
    features: NDArray[np.float32]
    """Shape ``(candidates, features)``."""
    covers: NDArray[np.bool_]
    """Shape ``(candidates, targets)``."""

    def ndcg(self, model: RankingModel, *, k: int = 10) -> float:
        """Return the NDCG@k of the hits that a model chooses."""
        chosen = model.choose(self.question, self.candidates, self.features, top_k=k)
        return ndcg([self.places[choice.place] for choice in chosen], self.targets, k=k)


def judge(index: CodeIndex, repository: RepositoryQuestions) -> Iterator[JudgedQuestion]:
    """Search an index of a repository for each of its questions and judge the candidates."""
    ranking = Ranking()
    prefix = "" if repository.root == "." else f"{repository.root}/"
    for question in repository.questions:
        vectors = index.as_retriever(mode="dense").embed_query(question.query)
        with index.view() as view:
            read = Question.of(question.query)
            query_vectors = [QueryVector(None, vector) for vector in vectors]
            found = ranking.search(view, read, query_vectors, depth=ranking.depth)
            candidates, features = candidate_features(view, read, found)
        places = [Place(prefix + each.path, each.start_line, each.end_line) for each in candidates]
        yield JudgedQuestion(
            question=read,
            repository=repository.name,
            category=question.category,
            candidates=candidates,
            places=places,
            targets=question.targets,
            features=features.astype(np.float32),
            covers=np.array([[target.is_covered_by(place) for target in question.targets] for place in places]),
        )


def judge_repositories(
    repositories: Sequence[RepositoryQuestions],
    folders: Mapping[str, Path],
    embedding: CodeEmbedding,
    *,
    indexes: Path | None = None,
    on_progress: Progress | None = None,
) -> list[JudgedQuestion]:
    """Index each repository, whose folder is that of its name in ``folders``, and judge its questions.

    With ``indexes`` the index of each is kept in a folder of its name there, and only brought up to date the next time.

    Raises:
        FileNotFoundError: a repository is missing; nothing has been indexed then.
    """
    check_repositories(repositories, folders)
    progress = on_progress or no_progress
    judged: list[JudgedQuestion] = []
    for done, each in enumerate(repositories):
        progress("repositories", done, len(repositories))
        with _open(None if indexes is None else indexes / each.name, embedding) as index:
            index.update([folders[each.name] / each.root], on_progress=on_progress)
            judged += judge(index, each)
    progress("repositories", len(repositories), len(repositories))
    return judged


def check_repositories(repositories: Sequence[RepositoryQuestions], folders: Mapping[str, Path]) -> None:
    """Check that the root of each repository is a folder.

    Raises:
        FileNotFoundError: one is not.
    """
    for each in repositories:
        root = folders[each.name] / each.root
        if not root.is_dir():
            raise FileNotFoundError(
                f"{root} is no folder, and there are questions about it; check it out there, or leave its questions out"
            )


def _open(folder: Path | None, embedding: CodeEmbedding) -> CodeIndex:
    if folder is not None and is_index(folder):
        return CodeIndex.open(folder, embedding=embedding)
    return CodeIndex(embedding, folder)
