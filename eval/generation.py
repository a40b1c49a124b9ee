"""What retrieval is worth to a writer: questions answered with gold, retrieved and no passages, scored by their text.

A task has the questions, a writer answers them, :func:`generate` brings the two together. No torch is imported until a
writer or a metric needs it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from llamaindex_code_retrieval.eval.datasets import Benchmark
from llamaindex_code_retrieval.eval.results import Answer, GenerationResult
from llamaindex_code_retrieval.eval.writers import ExtractiveWriter, Writer
from llamaindex_code_retrieval.files import write_atomically

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode

Condition = Literal["gold", "retrieved", "none"]
"""Which passages the writer is shown: those that hold the answer, a retriever's, or none."""

# --- tasks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """One question and the answer it is compared with."""

    id: str
    text: str
    reference: str
    gold: tuple[str, ...] = ()
    """Ids of passages that hold the answer, best first."""
    excluded: tuple[str, ...] = ()
    """Ids of passages that are never shown, because they are what is asked about."""


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """Questions, and the passages that may be shown with them.

    Raises:
        ValueError: no questions, an id given twice, an empty reference, a gold id that is excluded, a gold or
            ``answer_of`` id that the passages lack.
    """

    name: str
    instruction: str
    questions: Sequence[Question]
    passages: Mapping[str, str]
    """Passage id -> text."""
    answer_of: Mapping[str, str] = field(default_factory=dict)
    """Passage id -> what an extractive writer quotes from it, where that is not the passage itself."""

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
                raise ValueError(f"question {question.id!r} has an empty reference, which no answer can meet; drop it")
            for id_ in question.gold:
                if id_ not in self.passages or id_ in question.excluded:
                    why = "it excludes" if id_ in question.excluded else "the passages lack"
                    raise ValueError(f"question {question.id!r} has gold {id_!r}, which {why}; name another")

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all of it, whatever the order of questions and passages."""
        questions = sorted((asdict(question) for question in self.questions), key=lambda each: str(each["id"]))
        facts = [self.name, self.instruction, questions, dict(self.passages), dict(self.answer_of)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def code_from_description(benchmark: Benchmark, *, name: str) -> GenerationTask:
    """Ask for the code that a query describes; the reference is its most relevant code, of equals the first."""
    questions = []
    for query, text in benchmark.queries.items():
        judged = benchmark.qrels[query]
        gold = sorted((code for code, score in judged.items() if score > 0), key=lambda code: -judged[code])
        questions.append(Question(query, text, benchmark.corpus[gold[0]], tuple(gold)))
    instruction = (
        "Write the function that the question describes. Answer with its code alone, without any explanation. "
        "The passages, if there are any, are code that may help."
    )
    return GenerationTask(name, instruction, questions, benchmark.corpus)


def docstring_from_code(benchmark: Benchmark, *, name: str) -> GenerationTask:
    """Ask for the summary of a function, from its code and from other functions with theirs: leave-one-out.

    The benchmark is one of :func:`documented_functions`. Gold is the oracle's neighbour: that other function whose
    summary has the highest ROUGE-L with the reference, of equals the first id. It looks at the reference, so what an
    extractive writer gets out of it is an upper bound for a retriever. Codes without a query have no known summary;
    their passage is the code alone.

    Raises:
        ValueError: a query without exactly one relevant code.
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
    """Return id -> the other id whose text has the highest ROUGE-L with its own; texts that share no word have none.

    >>> _nearest({"a": "read a file", "b": "read the file", "c": "file", "d": "sum"})
    {'a': 'b', 'b': 'a', 'c': 'a'}
    """
    scorer = _eval_package("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    tokenize = _eval_package("rouge_score.tokenize").tokenize
    ids = sorted(texts)
    words: list[list[tuple[str, int]]] = []  # each with its number among equal ones: sharing them is ROUGE-1's overlap
    having: dict[tuple[str, int], list[int]] = {}
    for i, id_ in enumerate(ids):
        seen: Counter[str] = Counter()
        words.append([])
        for word in tokenize(texts[id_], None):
            words[i].append((word, seen[word]))
            having.setdefault((word, seen[word]), []).append(i)
            seen[word] += 1
    lengths = np.array([len(each) for each in words])
    nearest: dict[str, str] = {}
    for i, id_ in enumerate(ids):
        if not words[i]:
            continue
        shared = np.bincount(np.concatenate([having[word] for word in words[i]]), minlength=len(ids))
        shared[i] = 0
        rouge1 = 2 * shared / (lengths + lengths[i])
        best, best_score = -1, 0.0
        for j in map(int, np.argsort(-rouge1, kind="stable")):
            if shared[j] == 0 or rouge1[j] < best_score - 1e-9:  # ROUGE-L never exceeds ROUGE-1
                break
            score = scorer.score(texts[id_], texts[ids[j]])["rougeL"].fmeasure
            if score > best_score or (score == best_score and j < best):
                best, best_score = j, score
        if best >= 0:
            nearest[id_] = ids[best]
    return nearest


def sweqa(file: Path, project: str, nodes: Sequence[TextNode]) -> GenerationTask:
    """Read the questions about ``project`` of SWE-QA's ``answers.jsonl``; ``nodes`` are the project's code.

    Gold are the nodes whose file the reference answer cites and whose symbol it has in backticks, in the order in
    which it mentions them. A question may have none.

    Raises:
        ValueError: a line that is no question with a text and an answer, or no question about ``project``.
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
                raise ValueError("a field is empty or no text")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}, line {number} must be a JSON object with _id, repo, question and answer ({error!r}); fix it"
            ) from error
        projects.add(repo)
        if repo == project:
            questions.append(Question(id_, text, answer, _cited(answer, nodes)))
    if not questions:
        raise ValueError(f"{file} has no question about {project!r}; it has {', '.join(sorted(projects)) or 'none'}")
    instruction = (
        f"Answer the question about the source code of {project}. Be specific: name the files, classes and functions "
        "that matter. The passages, if there are any, are parts of that code."
    )
    return GenerationTask(f"SWE-QA {project}", instruction, questions, {node.node_id: node.text for node in nodes})


def _cited(answer: str, nodes: Sequence[TextNode]) -> tuple[str, ...]:
    """Return ids of the nodes that an answer names by file and symbol."""
    files = {re.sub(r"^(\./)?(src/)?", "", path) for path in re.findall(r"[\w./-]*\w\.\w+", answer)}
    # After the full path, answers call a file by its name alone, which others may have as well.
    files = {f"/{path}" for path in files if not any(other.endswith(f"/{path}") for other in files)}
    mentions: dict[str, int] = {}  # symbol -> where it is first mentioned; of `Session.send(request)` that is send
    for span in re.finditer(r"`([^`\n]+)`", answer):
        named = re.fullmatch(r"(?:\w+\.)*(\w+)(?:\(.*\))?", span[1])
        if named is not None:
            mentions.setdefault(named[1], span.start())
    found: list[tuple[int, int, str]] = []
    for i, node in enumerate(nodes):
        symbol = str(node.metadata.get("scope") or node.metadata.get("name") or "").rpartition(".")[2]
        path = f"/{node.metadata.get('path', '')}"
        if symbol in mentions and any(path.endswith(file) for file in files):
            found.append((mentions[symbol], i, node.node_id))
    return tuple(dict.fromkeys(id_ for _, _, id_ in sorted(found)))


# --- answers ----------------------------------------------------------------------------------------------------------


class AnswerCache:
    """Answers as files, one for each thing ever asked; with ``None`` for a folder it keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @staticmethod
    def key(writer: Writer, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return a digest of all that the answer depends on."""
        facts = [writer.name, writer.settings, instruction, question, list(passages)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """Return the answer; ``None`` where there is no file, or a damaged one."""
        if self.folder is None:
            return None
        try:
            answer = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))["answer"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return answer if isinstance(answer, str) else None

    def put(self, key: str, answer: str) -> None:
        """Keep an answer, in place of any other."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{key}.json", json.dumps({"answer": answer}) + "\n")


def generate(
    task: GenerationTask,
    writer: Writer,
    *,
    condition: Condition,
    run: Mapping[str, Sequence[str]] | None = None,
    system: str = "",
    benchmark_name: str = "",
    top_n: int = 5,
    cache: AnswerCache | None = None,
    retries: int = 2,
    timeout: float = 120.0,
    on_progress: Callable[[int, int], object] | None = None,
) -> GenerationResult:
    """Have a task's questions answered, each from its first ``top_n`` passages under ``condition``, and score them.

    ``run`` is what ``system`` retrieved: question id -> passage ids, best first; a question that it lacks is shown
    none. Under ``gold`` the questions without gold are left out. A writer that raises, or takes over ``timeout``
    seconds, is asked again ``retries`` times; then the question counts as failed, with every metric 0. A writer that
    hangs stays behind in a daemon thread. Answers go to the cache as they come, failures never, so that an interrupted
    call resumes where it was.

    Raises:
        ValueError: an unknown condition, ``retrieved`` without a run, a retrieved id that is no passage, ``gold`` where
            no question has any, a ``top_n``, ``retries`` or ``timeout`` that is too low.
    """
    if top_n < 1 or retries < 0 or timeout <= 0:
        raise ValueError(
            f"top_n must be at least 1, retries at least 0 and timeout over 0, got {top_n}, {retries} and {timeout}"
        )
    shown = {id_: ids[:top_n] for id_, ids in _passages(task, condition, run).items()}
    quoted = isinstance(writer, ExtractiveWriter)
    cache = cache or AnswerCache(None)
    score_answers({})  # a metric's package that is missing shows before an LLM is asked
    answers: dict[str, Answer] = {}
    for question in task.questions:
        if question.id not in shown:
            continue
        ids = shown[question.id]
        passages = [task.answer_of.get(id_, task.passages[id_]) if quoted else task.passages[id_] for id_ in ids]
        key = cache.key(writer, task.instruction, question.text, passages)
        answer, error = cache.get(key), ""
        for _ in range(0 if answer is not None else 1 + retries):
            try:
                answer = _within(timeout, partial(writer.write, task.instruction, question.text, passages))
            except Exception as reason:  # whatever an LLM's client raises
                error = f"{type(reason).__name__}: {reason}"
            else:
                cache.put(key, answer)
                break
        answers[question.id] = Answer(
            question=question.text,
            reference=question.reference,
            answer=answer or "",
            passages=ids,
            error=error if answer is None else "",
        )
        if on_progress is not None:
            on_progress(len(answers), len(shown))
    scores = score_answers({id_: (each.answer, each.reference) for id_, each in answers.items() if not each.error})
    return GenerationResult(
        system=system if condition == "retrieved" else "",
        task=task.name,
        benchmark=benchmark_name,
        benchmark_fingerprint=task.fingerprint,
        condition=condition,
        writer=writer.name,
        values={metric: {id_: scored.get(id_, 0.0) for id_ in answers} for metric, scored in scores.items()},
        answers=answers,
    )


def _passages(
    task: GenerationTask, condition: Condition, run: Mapping[str, Sequence[str]] | None
) -> dict[str, list[str]]:
    """Return question id -> all that it may be shown; questions that are not asked are left out."""
    if condition not in get_args(Condition):
        raise ValueError(f"unknown condition {condition!r}; use {', '.join(get_args(Condition))}")
    if condition == "none":
        return {question.id: [] for question in task.questions}
    if condition == "gold":
        gold = {question.id: list(question.gold) for question in task.questions if question.gold}
        if not gold:
            raise ValueError(f"no question of task {task.name!r} has gold passages; use the other conditions")
        return gold
    if run is None:
        raise ValueError("the condition 'retrieved' needs a run: pass run=, question id -> passage ids")
    retrieved: dict[str, list[str]] = {}
    for question in task.questions:
        ids = run.get(question.id, ())
        for id_ in ids:
            if id_ not in task.passages:
                raise ValueError(
                    f"the run has {id_!r} for question {question.id!r}, which the passages of task {task.name!r} "
                    "lack; retrieve from the same corpus"
                )
        retrieved[question.id] = [id_ for id_ in dict.fromkeys(ids) if id_ not in question.excluded]
    return retrieved


def _within(seconds: float, call: Callable[[], str]) -> str:
    """Return what ``call`` returns, or raise what it raises; TimeoutError if it does neither in time."""
    future: Future[str] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # SystemExit too: whoever waits would else wait until the time is up
            future.set_exception(error)

    Thread(target=work, daemon=True).start()  # an executor's threads would hold up the exit of the process
    try:
        return future.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer within {seconds:g} seconds") from error


def score_answers(answers: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Return metric -> id -> value from 0 to 1, of (answer, reference) by id.

    ``bleu`` (effective order) and ``chrf`` are sacrebleu's for one sentence; ``exact`` is 1.0 where the two are equal
    but for white space.
    """
    sacrebleu = _eval_package("sacrebleu")
    from llamaindex_code_retrieval.eval.rouge import Rouge

    # Arrow takes no lone surrogates, which source code and LLMs may have
    written, references = ([pair[i].encode(errors="replace").decode() for pair in answers.values()] for i in (0, 1))
    values: dict[str, list[float]] = Rouge().compute(predictions=written, references=references, use_aggregator=False)
    pairs = list(zip(written, references, strict=True))
    for name, metric in (("bleu", sacrebleu.BLEU(effective_order=True)), ("chrf", sacrebleu.CHRF())):
        values[name] = [min(1.0, metric.sentence_score(answer, [text]).score / 100) for answer, text in pairs]
    values["exact"] = [float(answer.split() == text.split()) for answer, text in pairs]
    return {name: dict(zip(answers, each, strict=True)) for name, each in values.items()}


def _eval_package(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} cannot be imported ({error}): pip install 'llamaindex-code-retrieval[eval]'"
        ) from error
