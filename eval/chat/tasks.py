"""Load what the evaluation of a chat needs, before anything is measured."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_index.core.llms import LLM

from llamaindex_code_retrieval.chat.llms import EXTRACTIVE, LLMSpec, check_server, load_llm
from llamaindex_code_retrieval.eval.chat.judge import JUDGE_TOKENS, Judge
from llamaindex_code_retrieval.eval.chat.measures import NEEDS_ANSWER, NEEDS_TARGETS
from llamaindex_code_retrieval.eval.chat.questions import ChatQuestion, load_chat_questions, with_targets
from llamaindex_code_retrieval.eval.chat.recorded_llm import RecordedLLM
from llamaindex_code_retrieval.eval.datasets import data_folder
from llamaindex_code_retrieval.eval.suite import ChatSpec, NotAvailableError
from llamaindex_code_retrieval.eval.unfinished import Unfinished
from llamaindex_code_retrieval.index.file_state import SourceCounts
from llamaindex_code_retrieval.index.sources import walk

REPOSITORIES = "CODE_RETRIEVAL_REPOSITORIES"
"""The variable that names the folder with the checkouts."""
_ANSWERS = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class LoadedChat:
    """The questions for a chat, the code that they are about, and who answers and grades."""

    spec: ChatSpec
    questions: Sequence[ChatQuestion]
    sources: Mapping[str, Mapping[str, str]]
    """Repository -> path -> text."""
    llm: RecordedLLM
    llm_name: str
    judge: Judge | None

    @property
    def quotes(self) -> bool:
        """Whether passages are quoted instead of an answer by an LLM."""
        return self.spec.llm == EXTRACTIVE


LLMs = dict[tuple[str, int, int, float], LLM]
"""LLMs by specification, tokens of an answer, context window and timeout."""


def load_chat(spec: ChatSpec, llms: LLMs, *, cache_folder: Path | None) -> LoadedChat:
    """Read the questions and the checkouts, and load the LLM; its replies are kept in ``cache_folder``.

    An LLM that is in ``llms`` is not loaded again, and others are added.

    Raises:
        NotAvailableError: the data set or a checkout is not on this machine.
        FileNotFoundError, ValueError: the questions are missing or wrong, or lack what a metric needs; an LLM cannot be
            loaded, or a judge returns no grade.
        ConnectionError: a server does not answer.
    """
    questions = _chosen(load_chat_questions(_file(spec)), spec)
    folders = _checkouts(spec, list(dict.fromkeys(each.repository for each in questions)))
    sources: dict[str, dict[str, str]] = {}
    complete: list[ChatQuestion] = []
    for repository, folder in folders.items():
        sources[repository] = {file.path: file.text for file in walk(folder, SourceCounts())}
        complete += with_targets([each for each in questions if each.repository == repository], sources[repository])
    _check_metrics(spec, complete)
    kept = Unfinished(None if cache_folder is None else cache_folder / "chat")
    specs = [LLMSpec.parse(each) for each in (spec.llm, spec.judge) if each is not None]
    for each in specs:
        check_server(each)
    judge = None
    if spec.judge is not None:
        grader = _llm(llms, spec.judge, JUDGE_TOKENS, spec)
        Judge(grader).check()
        judge = Judge(RecordedLLM(grader, kept))
    llm = _llm(llms, spec.llm, spec.max_answer_tokens, spec)
    recorded = RecordedLLM(llm, Unfinished(None) if spec.llm == EXTRACTIVE else kept)
    return LoadedChat(spec, complete, sources, recorded, _public_name(specs[0]), judge)


def _llm(llms: LLMs, name: str, max_tokens: int, spec: ChatSpec) -> LLM:
    key = name, max_tokens, spec.context_window, spec.timeout
    if key not in llms:
        llms[key] = load_llm(name, timeout=spec.timeout, max_tokens=max_tokens, context_window=spec.context_window)
    return llms[key]


def _file(spec: ChatSpec) -> Path:
    if spec.set is None:
        return Path(spec.questions or "")
    folder = data_folder(spec.set)
    if folder is None:
        raise NotAvailableError(f"there is no {spec.set}/ in $CODE_RETRIEVAL_DATA")
    return folder / _ANSWERS


def _chosen(questions: Sequence[ChatQuestion], spec: ChatSpec) -> list[ChatQuestion]:
    by_repository: dict[str, list[ChatQuestion]] = {}
    for question in questions:
        by_repository.setdefault(question.repository, []).append(question)
    for project in spec.projects:
        if project not in by_repository:
            known = ", ".join(by_repository)
            raise ValueError(f"chat {spec.name!r} has no questions about {project!r}; there are some about {known}")
    parts = [by_repository[project] for project in spec.projects or by_repository]
    most = max(map(len, parts))
    if spec.limit > most:
        raise ValueError(
            f"chat {spec.name!r} asks for {spec.limit} questions of each repository, and none has more than {most}; "
            "ask for fewer, or for all of them by leaving limit out"
        )
    return [question for part in parts for question in part[: spec.limit or None]]


def _checkouts(spec: ChatSpec, repositories: Sequence[str]) -> dict[str, Path]:
    root = spec.repositories or os.environ.get(REPOSITORIES)
    if not root:
        raise NotAvailableError(
            f"there is no folder with the checkouts of {', '.join(repositories)}; set repositories, or {REPOSITORIES}"
        )
    folders = {repository: Path(root, repository) for repository in repositories}
    if missing := [repository for repository, folder in folders.items() if not folder.is_dir()]:
        raise NotAvailableError(f"there is no checkout of {' or '.join(missing)} in {root}; clone it there")
    return folders


def _check_metrics(spec: ChatSpec, questions: Sequence[ChatQuestion]) -> None:
    for metrics, what in ((NEEDS_ANSWER, "answer"), (NEEDS_TARGETS, "targets")):
        wanted = next((metric for metric in spec.metrics if metric in metrics), None)
        lacking = next((question.id for question in questions if not getattr(question, what)), None)
        if wanted is not None and lacking is not None:
            raise ValueError(
                f"chat {spec.name!r} measures {wanted!r}, for which question {lacking!r} has no {what}; add it, or "
                "leave metrics out to measure each of the questions that have what it needs"
            )


def _public_name(spec: LLMSpec) -> str:
    """Return a specification without the folder of a file."""
    is_local = spec.kind in ("llama-cpp", "huggingface")
    return f"{spec.kind}:{Path(spec.model).name}" if is_local else str(spec)
