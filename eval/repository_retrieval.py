"""Run questions about repositories through a retriever, and measure which of their targets it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore

from llamaindex_code_retrieval._io import Progress
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.metrics import first_relevant, per_query_metrics
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestions, fingerprint_of
from llamaindex_code_retrieval.eval.results import TOP, RetrievalResult, protocol_name
from llamaindex_code_retrieval.eval.retrieval import Hit, percentiles, timed_search
from llamaindex_code_retrieval.eval.targets import Place, rank_targets
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.index.file_state import SourceCounts
from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.index.sources import walk
from llamaindex_code_retrieval.retriever import CodeRetriever

QUESTION_METRICS = ("nDCG@10", "MRR@10", "R@10")
"""What an evaluation of questions measures by default."""


_SHOWN = 3
"""Hits of a described question."""


def question_sources(
    repository: RepositoryQuestions, folder: Path, options: SourceOptions | None = None
) -> dict[str, str]:
    """Return the text of each file that is indexed for the questions; paths are relative to their ``root``.

    ``folder`` is the repository; ``options`` say which of its files are read.

    Raises:
        ValueError: the root is not a folder, or a target is not in any of these files.
    """
    sources = {file.path: file.text for file in walk(folder / repository.root, SourceCounts(), options)}
    paths = [_in_repository(path, repository) for path in sources]
    for id_, question in repository.by_id.items():
        for target in question.targets:
            if not any(map(target.is_in, paths)):
                raise ValueError(
                    f"question {id_} ({question.query!r}) has the target {target.path!r}, which is none of the "
                    f"{len(paths)} files that are read in {folder / repository.root}; correct the path, or leave the "
                    "question out"
                )
    return sources


def index_sources_once(
    sources: Mapping[str, Mapping[str, str]], embedding: CodeEmbedding, *, on_progress: Progress | None = None
) -> Callable[[RepositoryQuestions], CodeIndex]:
    """Return a function that returns the index of a repository, which is built when it is first asked for.

    ``sources`` are the files of :func:`question_sources` by the name of the repository. The indexes do not cache the
    vectors of queries, so that their time can be measured.
    """
    indexes: dict[str, CodeIndex] = {}

    def index_of(repository: RepositoryQuestions) -> CodeIndex:
        if repository.name not in indexes:
            index = CodeIndex(embedding)
            index.update_texts(sources[repository.name], on_progress=on_progress)
            index.embedding = embedding.uncached()
            indexes[repository.name] = index
        return indexes[repository.name]

    return index_of


def evaluate_questions(
    build: Callable[[RepositoryQuestions], BaseRetriever],
    repositories: Sequence[RepositoryQuestions],
    *,
    system: str,
    task: str,
    depth: int = TOP,
    metrics: Sequence[str] = QUESTION_METRICS,
    postprocessors: Sequence[BaseNodePostprocessor] = (),
    fingerprint: str = "",
    on_progress: Callable[[int, int], object] | None = None,
) -> RetrievalResult:
    """Build the retriever of each repository, ask it the questions and measure its hits.

    The nodes need their place in their metadata, see :func:`rank_places`; how they are measured, see
    :func:`measure_places`. ``depth`` is only recorded: the number of hits that the system was asked for.
    """
    ranked = RankedPlaces()
    codes, total = 0, sum(len(each.questions) for each in repositories)
    for repository in repositories:
        before = len(ranked.places)

        def show(done: int, _: int, *, before: int = before) -> None:
            if on_progress is not None:
                on_progress(before + done, total)

        retriever = build(repository)
        codes += len(retriever.index) if isinstance(retriever, CodeRetriever) else 0
        ranked.add(rank_places(retriever, repository, postprocessors=postprocessors, on_progress=show))
    return measure_places(
        ranked,
        repositories,
        system=system,
        task=task,
        depth=depth,
        codes=codes,
        metrics=metrics,
        fingerprint=fingerprint,
    )


@dataclass(slots=True)
class RankedPlaces:
    """The hits of each question, and the time that it took in each stage."""

    places: dict[str, list[Place]] = field(default_factory=dict)
    """Question id -> places of the hits, best first."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Stage -> one value per question; see :class:`.RankedQueries`."""

    def add(self, other: RankedPlaces) -> None:
        """Add the hits and times of other questions."""
        self.places |= other.places
        for stage, seconds in other.seconds.items():
            self.seconds.setdefault(stage, []).extend(seconds)


def rank_places(
    system: BaseRetriever,
    repository: RepositoryQuestions,
    *,
    postprocessors: Sequence[BaseNodePostprocessor] = (),
    on_progress: Callable[[int, int], object] | None = None,
) -> RankedPlaces:
    """Ask the questions about a repository.

    The nodes need ``path``, relative to the repository's ``root``, ``start_line`` and ``end_line`` in their metadata,
    as those of a ``CodeIndex`` have.

    Raises:
        ValueError: a node lacks its place.
    """
    ranked = RankedPlaces()
    for done, (id_, question) in enumerate(repository.by_id.items(), start=1):
        hits = timed_search(system, question.query, ranked.seconds, postprocessors=postprocessors)
        ranked.places[id_] = [_place(metadata, repository) for metadata in _metadata(system, hits)]
        if on_progress is not None:
            on_progress(done, len(repository.questions))
    return ranked


def measure_places(
    ranked: RankedPlaces,
    repositories: Sequence[RepositoryQuestions],
    *,
    system: str,
    task: str,
    depth: int = TOP,
    codes: int = 0,
    metrics: Sequence[str] = QUESTION_METRICS,
    fingerprint: str = "",
) -> RetrievalResult:
    """Measure the hits of all questions about ``repositories``.

    A target is a relevant id, and its rank is that of the first hit that covers it; see :func:`.rank_targets`. The
    fingerprint of the benchmark is that of the questions, see :func:`.fingerprint_of`; ``codes`` is the number of
    nodes.
    """
    questions = {id_: question for each in repositories for id_, question in each.by_id.items()}
    judged = {id_: rank_targets(ranked.places[id_], question.targets) for id_, question in questions.items()}
    run = {id_: ranking for id_, (ranking, _) in judged.items()}
    qrels = {id_: judgements for id_, (_, judgements) in judged.items()}
    return RetrievalResult(
        system=system,
        task=task,
        benchmark=task,
        benchmark_fingerprint=fingerprint_of(repositories),
        protocol=protocol_name(0, 0),
        depth=depth,
        codes=codes,
        duplicates=0,
        values=per_query_metrics(run, qrels, metrics=metrics),
        collapsed={},
        ranks=first_relevant(run, qrels),
        top={id_: [str(place) for place in ranked.places[id_][:TOP]] for id_ in questions},
        queries={id_: question.query for id_, question in questions.items()},
        languages={id_: each.language for each in repositories if each.language for id_ in each.by_id},
        categories={id_: question.category for id_, question in questions.items()},
        milliseconds={stage: percentiles(seconds) for stage, seconds in ranked.seconds.items()},
        fingerprint=fingerprint,
    )


def describe_worst(
    result: RetrievalResult, repositories: Sequence[RepositoryQuestions], *, metric: str = "nDCG@10", count: int
) -> list[str]:
    """Describe the ``count`` questions of the lowest values, the lowest first, with their targets and first hits.

    Questions of the value 1 are left out.
    """
    questions = {id_: question for each in repositories for id_, question in each.by_id.items()}
    values = result.values[metric]
    worst = sorted((id_ for id_, value in values.items() if value < 1), key=lambda id_: (values[id_], id_))[:count]
    return [
        f"{values[id_]:.3f} {id_} ({questions[id_].category}): {questions[id_].query}\n"
        f"  expected {', '.join(map(str, questions[id_].targets))}\n"
        f"  found    {', '.join(result.top[id_][:_SHOWN]) or 'nothing'}"
        for id_ in worst
    ]


def _metadata(system: BaseRetriever, hits: Sequence[Hit]) -> Iterator[Mapping[str, object]]:
    for hit in hits:
        if isinstance(hit, NodeWithScore):
            yield hit.node.metadata
        elif isinstance(system, CodeRetriever):
            yield system.index.node(hit if isinstance(hit, str) else hit[0]).metadata


def _place(metadata: Mapping[str, object], repository: RepositoryQuestions) -> Place:
    path, first, last = (metadata.get(key) for key in ("path", "start_line", "end_line"))
    if not (isinstance(path, str) and isinstance(first, int) and isinstance(last, int)):
        raise ValueError(
            f"a hit has the path {path!r} and the lines {first!r} to {last!r}, so whether it covers a target cannot be "
            "told; use nodes of a CodeIndex or a CodeNodeParser"
        )
    return Place(_in_repository(path, repository), first, last)


def _in_repository(path: str, repository: RepositoryQuestions) -> str:
    return path if repository.root == "." else f"{repository.root}/{path}"
