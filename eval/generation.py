"""What retrieval is worth to a writer: questions answered with gold, retrieved and no passages, scored by their text.

A task has the questions, a writer answers them, :func:`generate` brings the two together. No torch is imported until a
writer or a metric needs it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from llamaindex_code_retrieval.eval.datasets import Benchmark
from llamaindex_code_retrieval.eval.results import Answer, GenerationResult
from llamaindex_code_retrieval.files import write_atomically

if TYPE_CHECKING:
    from llama_index.core.llms import LLM
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


# --- writers ----------------------------------------------------------------------------------------------------------


class Writer(Protocol):
    """Answers a question from passages."""

    name: str
    settings: str
    """All that an answer depends on beside name, instruction, question and passages."""

    def write(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return the answer; ``passages`` are best first."""


class ExtractiveWriter:
    """Quotes the best passages: the first one, cut at the limit, and the next ones as long as they fit whole.

    It needs no LLM and is deterministic, so that a change of its scores is a change of retrieval.

    >>> ExtractiveWriter(most_words=3).write("", "", ["one two", "three", "four"])
    'one two\\n\\nthree'
    """

    name = "extractive"

    def __init__(self, most_words: int = 300) -> None:
        if most_words < 1:
            raise ValueError(f"most_words must be at least 1 to quote anything, got {most_words}")
        self.most_words = most_words
        self.settings = json.dumps({"most_words": most_words})

    def write(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return the quotation; the empty text without passages."""
        quoted: list[str] = []
        left = self.most_words
        for passage in passages:
            ends = [word.end() for word in re.finditer(r"\S+", passage)]
            if quoted and len(ends) > left:
                break
            quoted.append(passage if len(ends) <= left else passage[: ends[left - 1]])
            left -= len(ends)
        return "\n\n".join(quoted)


_PROMPT = "{instruction}\n\n{passages}Question:\n{question}\n\nAnswer:\n"
# Fields of an LLM that are secret, or that change no answer.
_UNSAID = re.compile(
    r"key|token$|secret|passw|credential|auth|header|cookie|callback|timeout|retr(y|ies)|reuse|keep_alive|verbose",
    re.IGNORECASE,
)


class LLMWriter:
    """Has any LLM of LlamaIndex write, from one prompt: instruction, passages, question.

    Passages are given best first, up to the one with which the prompt would exceed ``most_characters``.
    """

    def __init__(self, llm: LLM, name: str, *, most_characters: int = 12_000) -> None:
        if most_characters < 1:
            raise ValueError(
                f"most_characters must be at least 1, got {most_characters}; take an LLM with more context"
            )
        self.llm = llm
        self.name = name
        self.most_characters = most_characters
        facts = {"llm": _said(llm.to_dict()), "most_characters": most_characters, "prompt": _PROMPT}
        self.settings = json.dumps(facts, sort_keys=True)

    def write(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return the LLM's completion of the prompt."""
        return self.llm.complete(self.prompt(instruction, question, passages)).text

    def prompt(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return what the LLM is given."""
        shown = ""
        prompt = _PROMPT.format(instruction=instruction, passages=shown, question=question)
        for number, passage in enumerate(passages, start=1):
            shown += f"Passage {number}:\n{passage}\n\n"
            longer = _PROMPT.format(instruction=instruction, passages=shown, question=question)
            if len(longer) > self.most_characters:
                break
            prompt = longer
        return prompt


def _said(value: Any) -> Any:
    """Return the plain values of an LLM's fields without secrets; of any other object its class alone."""
    if isinstance(value, Mapping):
        return {str(key): _said(each) for key, each in value.items() if not _UNSAID.search(str(key))}
    if isinstance(value, list | tuple):
        return [_said(each) for each in value]
    if isinstance(value, str) and re.match(r"https?://", value):  # a URL can hold a password, or a key as parameter
        return re.sub(r"(?<=//)[^/@]*@|[?#].*", "", value)
    return value if isinstance(value, str | int | float | None) else type(value).__name__


_INTEGRATIONS = {
    "ollama": "Ollama",
    "openai-like": "OpenAILike",
    "huggingface": "HuggingFaceLLM",
    "llama-cpp": "LlamaCPP",
}
_MAX_TOKENS = 512  # of an answer; those of SWE-QA have about 290 words
_CONTEXT_WINDOW = 8192  # tokens


def load_writer(name: str, *, timeout: float) -> Writer:
    """Return ``extractive``, or an LLM as a greedy writer; ``timeout`` is in seconds, for those behind a network.

    LLMs are ``ollama:MODEL``, ``openai-like:MODEL`` (at ``$OPENAI_API_BASE``, with ``$OPENAI_API_KEY`` if it wants
    one), ``huggingface:MODEL-OR-FOLDER`` and ``llama-cpp:FILE.gguf``.

    Raises:
        ValueError: an unknown name, or no ``$OPENAI_API_BASE`` where it is needed.
        ImportError: LlamaIndex's integration is not installed.
    """
    if name == "extractive":
        return ExtractiveWriter()
    kind, _, model = name.partition(":")
    if kind not in _INTEGRATIONS or not model:
        known = "extractive, ollama:MODEL, openai-like:MODEL, huggingface:MODEL-OR-FOLDER, llama-cpp:FILE.gguf"
        raise ValueError(f"unknown writer {name!r}; use one of {known}")
    module = _import(f"llama_index.llms.{kind.replace('-', '_')}", install=f"llama-index-llms-{kind}")
    options: dict[str, Any] = {"context_window": _CONTEXT_WINDOW}
    if kind == "ollama":
        options |= {"model": model, "temperature": 0.0, "request_timeout": timeout}
        options |= {"additional_kwargs": {"num_predict": _MAX_TOKENS}}
    elif kind == "openai-like":
        base = os.environ.get("OPENAI_API_BASE")
        if not base:
            raise ValueError(f"writer {name!r} needs a server; set OPENAI_API_BASE to its URL, which ends in /v1")
        options |= {"model": model, "temperature": 0.0, "max_tokens": _MAX_TOKENS, "is_chat_model": True}
        options |= {"api_base": base, "api_key": os.environ.get("OPENAI_API_KEY", "none")}
        options |= {"timeout": timeout, "max_retries": 0}
    elif kind == "huggingface":
        options |= {"model_name": model, "tokenizer_name": model, "max_new_tokens": _MAX_TOKENS}
        options |= {"generate_kwargs": {"do_sample": False}, "tokenizer_outputs_to_remove": ["token_type_ids"]}
        options |= {"completion_to_prompt": _chat_prompt(model)}
    else:
        options |= {"model_path": model, "temperature": 0.0, "max_new_tokens": _MAX_TOKENS, "verbose": False}
    llm: LLM = getattr(module, _INTEGRATIONS[kind])(**options)
    # code has about three characters a token, and models may have less context than was asked for
    most_characters = min(12_000, 3 * (llm.metadata.context_window - _MAX_TOKENS))
    return LLMWriter(llm, name, most_characters=most_characters)


def _chat_prompt(model: str) -> Callable[[str], str] | None:
    """Return what makes a prompt a user's turn; ``None`` for a model that is not made for chats."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    if not tokenizer.chat_template:
        return None

    def to_prompt(text: str) -> str:
        chat = [{"role": "user", "content": text}]
        prompt: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return prompt.removeprefix(tokenizer.bos_token or "")  # the LLM's own tokenizer puts it there again

    return to_prompt


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
        except BaseException as error:
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
    return _import(module, install="'llamaindex-code-retrieval[eval]'")


def _import(module: str, *, install: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} cannot be imported ({error}): pip install {install}") from error
