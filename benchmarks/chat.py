"""Answers: this package's chat and LlamaIndex's defaults on questions about five repositories.

The questions are SWE-QA's about flask and requests, and those of ``chat_questions.jsonl`` about gunicorn, bbolt and
commander.js. FOLDER has the five checkouts. Passages are the places that answer a question (``gold``), what is
retrieved, or none; they are assembled, or the hits as they are; with the adapter or the bare model. LlamaIndex uses the
same weights with the adapter, and its defaults in all else. All questions are answered by quoting the best passages:

    CODE_RETRIEVAL_DATA=… python benchmarks/chat.py FOLDER

With ``--llm`` the first ``--limit`` questions of each repository are also answered by an LLM. Its replies are kept in
``--cache``, so a run that was interrupted goes on where it stopped:

    CODE_RETRIEVAL_DATA=… python benchmarks/chat.py FOLDER --llm llama-cpp:model.gguf
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from checkouts import VARIABLE
from report import add_result_option, environment, write_figures

from llamaindex_code_retrieval._io import default_cache_folder
from llamaindex_code_retrieval.chat.llms import EXTRACTIVE
from llamaindex_code_retrieval.eval import data_folder, run_suite
from llamaindex_code_retrieval.eval.chat.questions import load_chat_questions
from llamaindex_code_retrieval.eval.results import ChatResult, Condition, Engine
from llamaindex_code_retrieval.eval.significance import interval, paired_difference
from llamaindex_code_retrieval.eval.suite import ChatSpec, Suite, SystemSpec

QUESTIONS = Path(__file__).with_name("chat_questions.jsonl")
ADAPTED, BARE = "adapted", "bare"
ENGINES: tuple[Engine, ...] = ("assembled", "hits", "sentence", "code")
LLM_ENGINES: tuple[Engine, ...] = (*ENGINES, "code-citation")
CONTEXT_TOKENS, ANSWER_TOKENS, WINDOW = 1200, 128, 4096
DIFFERENCES: tuple[tuple[tuple[Condition, str], tuple[Condition, str]], ...] = (
    (("none", ""), ("retrieved", ADAPTED)),
    (("retrieved", ADAPTED), ("gold", "")),
    (("retrieved", f"{ADAPTED}, hits"), ("retrieved", ADAPTED)),
    (("retrieved", BARE), ("retrieved", ADAPTED)),
    (("retrieved", f"{ADAPTED}, sentence"), ("retrieved", ADAPTED)),
    (("retrieved", f"{ADAPTED}, code"), ("retrieved", ADAPTED)),
)
"""Pairs of which the difference of ROUGE-L is reported: (condition, system) before and after."""


def suite_of(folder: Path, llm: str | None, limit: int) -> Suite:
    """Return the suite; the questions of both sources are two chats for each way of answering."""
    chats: list[ChatSpec] = []
    for name, source in (("SWE-QA", {"set": "sweqa"}), ("own", {"questions": str(QUESTIONS)})):
        common: dict[str, Any] = {**source, "repositories": str(folder), "max_context_tokens": CONTEXT_TOKENS}
        chats.append(ChatSpec(name=name, engines=ENGINES, systems=(ADAPTED,), **common))
        chats.append(ChatSpec(name=f"{name}, {BARE}", conditions=("retrieved",), systems=(BARE,), **common))
        if llm is not None:
            common |= {
                "llm": llm,
                "limit": limit,
                "max_answer_tokens": ANSWER_TOKENS,
                "context_window": WINDOW,
            }
            chats.append(ChatSpec(name=f"{name} by LLM", engines=LLM_ENGINES, systems=(ADAPTED,), **common))
            chats.append(ChatSpec(name=f"{name} by LLM, {BARE}", conditions=("retrieved",), systems=(BARE,), **common))
    systems = (SystemSpec(name=ADAPTED), SystemSpec(name=BARE, adapter="none"))
    return Suite(name="chat", system=systems, chat=tuple(chats))


def merged(results: Sequence[ChatResult]) -> dict[tuple[str, str, str], dict[str, dict[str, float]]]:
    """Return (LLM, condition, system) -> metric -> question -> value, of all results together."""
    values: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for result in results:
        metrics = values.setdefault((result.llm, result.condition, result.system), {})
        for metric, measured in result.values.items():
            metrics.setdefault(metric, {}).update(measured)
    return values


def rows(results: Sequence[ChatResult]) -> Iterator[dict[str, Any]]:
    """Yield the figures of each LLM, condition and system."""
    for (llm, condition, system), metrics in merged(results).items():
        figures = {metric: summary(list(values.values())) for metric, values in metrics.items()}
        answers = len(metrics["answered"])
        yield {"llm": llm, "condition": condition, "system": system, "questions": answers, "metrics": figures}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return the mean with its 95 % bootstrap interval."""
    low, high = interval(values)
    return {"mean": round(fmean(values), 4), "low": round(low, 4), "high": round(high, 4), "count": len(values)}


def differences(results: Sequence[ChatResult]) -> Iterator[dict[str, Any]]:
    """Yield the differences of ROUGE-L on the questions that both sides answer."""
    values = merged(results)
    for llm in dict.fromkeys(result.llm for result in results):
        for before, after in DIFFERENCES:
            old, new = (values.get((llm, *side), {}).get("rougeL", {}) for side in (before, after))
            common = [question for question in old if question in new]
            if common:
                found = paired_difference([old[each] for each in common], [new[each] for each in common])
                yield {
                    "llm": llm,
                    "before": before,
                    "after": after,
                    "questions": len(common),
                    "mean": round(found.mean, 4),
                    "low": round(found.low, 4),
                    "high": round(found.high, 4),
                    "p": round(found.p, 4),
                }


def table(figures: Mapping[str, Any]) -> str:
    """Return the table of ``tables.py``."""
    import quality_tables

    return "\n\n".join(quality_tables.TABLES[name]({"chat": figures}) for name in ("chat", "chat.differences"))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"folder with the five checkouts, as ${VARIABLE} names it elsewhere")
    parser.add_argument("--llm", metavar="SPEC", help="an LLM such as llama-cpp:FILE.gguf or ollama:MODEL")
    parser.add_argument(
        "--limit",
        type=int,
        default=3,
        metavar="N",
        help="questions a repository for --llm (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=default_cache_folder(),
        metavar="FOLDER",
        help="keeps vectors, replies and finished parts (default: %(default)s)",
    )
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    parser = make_parser()
    options = parser.parse_args()
    if options.llm == EXTRACTIVE:
        parser.error("the questions are answered by quoting anyway; leave --llm out, or name an LLM")
    data = data_folder("sweqa")
    if data is None:
        parser.error("set CODE_RETRIEVAL_DATA to the folder that holds sweqa/")
    questions = [*load_chat_questions(QUESTIONS), *load_chat_questions(data / "answers.jsonl")]
    repositories = dict.fromkeys(each.repository for each in questions)
    if missing := [each for each in repositories if not (options.folder / each).is_dir()]:
        parser.error(f"there is no checkout of {', '.join(missing)} in {options.folder}")

    def show(stage: str, done: int, total: int) -> None:
        print(f"{stage}: {done:,} of {total:,}", end="\r", flush=True)

    suite = suite_of(options.folder, options.llm, options.limit)
    outcome = run_suite(suite, out=options.cache / "chat-run", cache_folder=options.cache, on_progress=show)
    report = outcome.report
    figures = {
        **environment(),
        "conditions": get_args(Condition),
        "max_context_tokens": CONTEXT_TOKENS,
        "max_answer_tokens": ANSWER_TOKENS,
        "limit": options.limit if options.llm else None,
        "seconds": report.seconds,
        "rows": list(rows(report.chat)),
        "differences": list(differences(report.chat)),
    }
    write_figures(options.result, figures)
    print(table(figures))


if __name__ == "__main__":
    main()
