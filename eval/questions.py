"""Questions for generation: write a function, describe a function, and SWE-QA."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llamaindex_code_retrieval._io import json_hash
from llamaindex_code_retrieval._optional import require
from llamaindex_code_retrieval.eval.datasets import Benchmark
from llamaindex_code_retrieval.eval.rouge import Tokenizer, words

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the reference that its answer is compared with."""

    id: str
    text: str
    reference: str
    gold: tuple[str, ...] = ()
    """Ids of passages that hold the answer, best first."""
    excluded: tuple[str, ...] = ()
    """Ids of passages that are never shown, because the question is about them."""


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """Questions, and the passages that may be shown with them.

    Raises:
        ValueError: there are no questions, an id is given twice, a reference is empty, a gold id is excluded, or a gold
            or ``answer_of`` id is not among the passages.
    """

    name: str
    instruction: str
    questions: Sequence[Question]
    passages: Mapping[str, str]
    """Passage id -> text."""
    answer_of: Mapping[str, str] = field(default_factory=dict)
    """Passage id -> what an extractive writer quotes from it, if that is not the passage itself."""

    def __post_init__(self) -> None:
        if not self.questions:
            raise ValueError(f"task {self.name!r} has no questions; give it at least one")
        if unknown := sorted(self.answer_of.keys() - self.passages.keys()):
            raise ValueError(f"answer_of names {unknown[0]!r}, which the passages of {self.name!r} lack; add it")
        seen: set[str] = set()
        for question in self.questions:
            if question.id in seen:
                raise ValueError(f"task {self.name!r} has question {question.id!r} twice; ids must differ")
            seen.add(question.id)
            if not question.reference.strip():
                raise ValueError(f"question {question.id!r} has an empty reference, so no answer matches it; remove it")
            for id_ in question.gold:
                if id_ not in self.passages or id_ in question.excluded:
                    why = "it excludes" if id_ in question.excluded else "the passages lack"
                    raise ValueError(f"question {question.id!r} has gold {id_!r}, which {why}; name another")

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the whole task, regardless of the order of questions and passages."""
        questions = sorted((asdict(question) for question in self.questions), key=lambda each: str(each["id"]))
        return json_hash([self.name, self.instruction, questions, dict(self.passages), dict(self.answer_of)])


def code_from_description(benchmark: Benchmark, *, name: str) -> GenerationTask:
    """Ask for the code that a query describes; the reference is its most relevant code, the first of equal ones."""
    questions = []
    for query, text in benchmark.queries.items():
        judgements = benchmark.qrels[query]
        gold = sorted((code for code, score in judgements.items() if score > 0), key=lambda code: -judgements[code])
        questions.append(Question(query, text, benchmark.corpus[gold[0]], tuple(gold)))
    instruction = (
        "Write the function that the question describes. Answer with its code alone, without any explanation. "
        "The passages, if there are any, are code that may help."
    )
    return GenerationTask(name, instruction, questions, benchmark.corpus)


def docstring_from_code(benchmark: Benchmark, *, name: str) -> GenerationTask:
    """Ask for the summary of a function, given its code and other functions with their summaries (leave-one-out).

    The benchmark is one of :func:`documented_functions`. The gold passage is the other function whose summary has the
    highest ROUGE-L with the reference, the first id of equal ones. It is chosen by the reference, so the score of an
    extractive writer with it is an upper bound for any retriever. Codes without a query have no known summary; their
    passage is the code alone.

    Raises:
        ValueError: a query does not have exactly one relevant code.
    """
    code_of: dict[str, str] = {}  # query id -> corpus id
    summaries: dict[str, str] = {}  # corpus id -> query
    for query, text in benchmark.queries.items():
        relevant = [code for code, score in benchmark.qrels[query].items() if score > 0]
        if len(relevant) != 1:
            raise ValueError(f"query {query!r} has {len(relevant)} relevant codes, not one; use documented_functions")
        code_of[query] = relevant[0]
        summaries.setdefault(relevant[0], text)
    nearest = _nearest(summaries)
    questions = []
    for query, code in code_of.items():
        gold = (nearest[code],) if code in nearest else ()
        questions.append(Question(query, benchmark.corpus[code], benchmark.queries[query], gold, excluded=(code,)))
    instruction = (
        "Say in one sentence what the function in the question does, as the first line of its docstring would. "
        "Answer with that sentence alone. The passages, if there are any, are other functions below their summaries."
    )
    documented = {id_: f"{summary}\n{benchmark.corpus[id_]}" for id_, summary in summaries.items()}
    return GenerationTask(name, instruction, questions, {**benchmark.corpus, **documented}, answer_of=summaries)


def _nearest(texts: Mapping[str, str]) -> dict[str, str]:
    """Return id -> the other id whose text has the highest ROUGE-L with its own; a text without shared words has none.

    >>> _nearest({"a": "read a file", "b": "read the file", "c": "file", "d": "sum"})
    {'a': 'b', 'b': 'a', 'c': 'a'}
    """
    rouge = require("rouge_score.rouge_scorer", extra="eval", purpose="finding similar descriptions")
    scorer = rouge.RougeScorer(["rougeL"], tokenizer=Tokenizer(words))
    ids = sorted(texts)
    # Each word is numbered among equal ones of its text, so that two texts share as many as ROUGE-1's overlap counts.
    numbered_words: list[list[tuple[str, int]]] = []
    texts_with: dict[tuple[str, int], list[int]] = {}
    for i, id_ in enumerate(ids):
        seen: Counter[str] = Counter()
        numbered_words.append([])
        for word in words(texts[id_]):
            numbered_words[i].append((word, seen[word]))
            texts_with.setdefault((word, seen[word]), []).append(i)
            seen[word] += 1
    lengths = np.array([len(each) for each in numbered_words])
    nearest: dict[str, str] = {}
    for i, id_ in enumerate(ids):
        if not numbered_words[i]:
            continue
        shared = np.bincount(np.concatenate([texts_with[word] for word in numbered_words[i]]), minlength=len(ids))
        shared[i] = 0
        rouge1 = 2 * shared / (lengths + lengths[i])
        best, best_score = -1, 0.0
        for j in map(int, np.argsort(-rouge1, kind="stable")):
            if shared[j] == 0 or rouge1[j] < best_score - 1e-9:  # ROUGE-L is at most ROUGE-1
                break
            score = scorer.score(texts[id_], texts[ids[j]])["rougeL"].fmeasure
            if score > best_score or (score == best_score and j < best):
                best, best_score = j, score
        if best >= 0:
            nearest[id_] = ids[best]
    return nearest


def sweqa(file: Path, project: str, nodes: Sequence[TextNode]) -> GenerationTask:
    """Read the questions about ``project`` from SWE-QA's ``answers.jsonl``; ``nodes`` are the project's code.

    The gold passages are the nodes whose file the reference answer cites and whose symbol it names in backticks, in the
    order of their first mention. A question may have none.

    Raises:
        ValueError: a line is not a question with a text and an answer, or there is no question about ``project``.
    """
    questions: list[Question] = []
    projects: set[str] = set()
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            id_, repo, text, answer = (row[key] for key in ("_id", "repo", "question", "answer"))
            if not all(isinstance(each, str) and each.strip() for each in (id_, repo, text, answer)):
                raise ValueError("a field is empty or not a text")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}, line {number} must be a JSON object with _id, repo, question and answer ({error!r}); fix it"
            ) from error
        projects.add(repo)
        if repo == project:
            questions.append(Question(id_, text, answer, _cited_nodes(answer, nodes)))
    if not questions:
        raise ValueError(f"{file} has no question about {project!r}; it has {', '.join(sorted(projects)) or 'none'}")
    instruction = (
        f"Answer the question about the source code of {project}. Be specific: name the files, classes and functions "
        "that matter. The passages, if there are any, are parts of that code."
    )
    return GenerationTask(f"SWE-QA {project}", instruction, questions, {node.node_id: node.text for node in nodes})


def _cited_nodes(answer: str, nodes: Sequence[TextNode]) -> tuple[str, ...]:
    """Return the ids of the nodes that an answer names by file and symbol."""
    files = {re.sub(r"^(\./)?(src/)?", "", path) for path in re.findall(r"[\w./-]*\w\.\w+", answer)}
    # After the full path an answer uses the file's name alone, which other files may have as well.
    files = {f"/{path}" for path in files if not any(other.endswith(f"/{path}") for other in files)}
    mentions: dict[str, int] = {}  # symbol (`send` of `Session.send(request)`) -> position of its first mention
    for span in re.finditer(r"`([^`\n]+)`", answer):
        name = re.fullmatch(r"(?:\w+\.)*(\w+)(?:\(.*\))?", span[1])
        if name is not None:
            mentions.setdefault(name[1], span.start())
    cited: list[tuple[int, int, str]] = []
    for i, node in enumerate(nodes):
        symbol = str(node.metadata.get("scope") or node.metadata.get("name") or "").rpartition(".")[2]
        path = f"/{node.metadata.get('path', '')}"
        if symbol in mentions and any(path.endswith(file) for file in files):
            cited.append((mentions[symbol], i, node.node_id))
    return tuple(dict.fromkeys(id_ for _, _, id_ in sorted(cited)))
