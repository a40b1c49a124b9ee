"""Context: how many of the definitions that reference answers cite are in a prompt, with and without assembly.

The questions are those of SWE-QA about flask and requests whose reference answer cites definitions by file and name.
The subfolders ``flask`` and ``requests`` of FOLDER are indexed with the default model; the first 20 hits of each
question become passages within equal budgets of tokens: the hits as they are, best first, up to the one that does not
fit; the hits assembled without the index; and assembled with it (``CodeContextPostprocessor``). A definition is whole
if all of its lines are quoted, and touched if one is. It takes about 5 minutes:

    CODE_RETRIEVAL_DATA=… python benchmarks/context.py FOLDER
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.core.schema import MetadataMode, NodeWithScore
from llama_index.core.utils import get_tokenizer
from report import add_result_option, environment, mean_with_interval, write_figures

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.chat import CodeContextPostprocessor
from llamaindex_code_retrieval.chat.passages import passages_of
from llamaindex_code_retrieval.eval import data_folder
from llamaindex_code_retrieval.eval.questions import sweqa

PROJECTS = ("flask", "requests")
BUDGETS = (1000, 2000, 3000, 6000)
HITS = 20

Lines = dict[str, set[int]]
"""Lines by path."""
Assemble = Callable[["Case", int], list[NodeWithScore]]


@dataclass(frozen=True, slots=True)
class Case:
    """A question with its hits and the lines of each definition that its reference answer cites."""

    index: CodeIndex[CodeEmbedding]
    question: str
    hits: list[NodeWithScore]
    gold: list[Lines]


def cases(project: str, index: CodeIndex[CodeEmbedding], answers: Path) -> Iterator[Case]:
    """Yield the questions about a project that have gold definitions."""
    nodes = {node.node_id: node for node in index.nodes()}
    definitions: dict[tuple[str, str], Lines] = defaultdict(lambda: defaultdict(set))
    for node in nodes.values():
        at = node.metadata
        definitions[at["path"], at["scope"]][at["path"]].update(range(at["start_line"], at["end_line"] + 1))
    retriever = index.as_retriever(top_k=HITS)
    for question in sweqa(answers, project, list(nodes.values())).questions:
        cited = dict.fromkeys((nodes[id_].metadata["path"], nodes[id_].metadata["scope"]) for id_ in question.gold)
        if cited:
            gold = [definitions[each] for each in cited]
            yield Case(index, question.text, retriever.retrieve(question.text), gold)


def as_they_are(case: Case, max_tokens: int) -> list[NodeWithScore]:
    """Return the first hits that fit."""
    shown: list[NodeWithScore] = []
    for hit in case.hits:
        if tokens_of([*shown, hit]) > max_tokens:
            break
        shown.append(hit)
    return shown


def tokens_of(passages: Sequence[NodeWithScore]) -> int:
    """Return the tokens that an LLM reads of passages."""
    count = get_tokenizer()
    return sum(len(count(hit.node.get_content(MetadataMode.LLM) + "\n\n")) for hit in passages)


SYSTEMS: Mapping[str, Assemble] = {
    "hits": as_they_are,
    "assembled, without the index": lambda case, max_tokens: CodeContextPostprocessor(
        max_tokens=max_tokens
    ).postprocess_nodes(case.hits, query_str=case.question),
    "assembled": lambda case, max_tokens: CodeContextPostprocessor(case.index, max_tokens=max_tokens).postprocess_nodes(
        case.hits, query_str=case.question
    ),
}


def shares(passages: Sequence[NodeWithScore], gold: Sequence[Lines]) -> tuple[float, float]:
    """Return the shares of the gold definitions that are whole, and that are touched."""
    quoted: Lines = defaultdict(set)
    for passage in passages_of(passages):
        for first, last in passage.ranges:
            quoted[passage.path].update(range(first, last + 1))
    whole = [all(lines <= quoted[path] for path, lines in definition.items()) for definition in gold]
    touched = [any(lines & quoted[path] for path, lines in definition.items()) for definition in gold]
    return statistics.fmean(whole), statistics.fmean(touched)


def measure(found: Sequence[Case]) -> list[dict[str, Any]]:
    """Return a row of figures for each budget and system."""
    rows = []
    for max_tokens in BUDGETS:
        for name, assemble in SYSTEMS.items():
            contexts = [assemble(case, max_tokens) for case in found]
            scores = [shares(context, case.gold) for context, case in zip(contexts, found, strict=True)]
            row = {
                "max_tokens": max_tokens,
                "system": name,
                "whole": mean_with_interval([whole for whole, _ in scores]),
                "touched": mean_with_interval([touched for _, touched in scores]),
                "tokens": round(statistics.fmean(map(tokens_of, contexts))),
                "passages": round(statistics.fmean(map(len, contexts)), 1),
            }
            rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table in Markdown."""
    lines = [
        "| tokens | passages | definitions whole | touched | tokens used | passages |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['max_tokens']} | {row['system']} | {row['whole']} | {row['touched']} | {row['tokens']} "
            f"| {row['passages']} |"
        )
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"folder with the checkouts {' and '.join(PROJECTS)}")
    parser.add_argument(
        "--indexes", type=Path, metavar="FOLDER", help="keep the indexes there (default: they are temporary)"
    )
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    data = data_folder("sweqa")
    if data is None:
        raise SystemExit("set CODE_RETRIEVAL_DATA to the folder that holds sweqa/")
    embedding = CodeEmbedding()
    found: list[Case] = []
    for project in PROJECTS:
        index = CodeIndex(embedding, None if options.indexes is None else options.indexes / project)
        index.update([options.folder / project])
        found += cases(project, index, data / "answers.jsonl")
    rows = measure(found)
    definitions = sum(len(case.gold) for case in found)
    write_figures(options.result, {**environment(), "questions": len(found), "definitions": definitions, "rows": rows})
    print(f"{len(found)} questions, {definitions} definitions")
    print(table(rows))


if __name__ == "__main__":
    main()
