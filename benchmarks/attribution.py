"""Attribution: how many sentences of answers are matched to a passage, and whether to one that the answer rests on.

The answers are the reference answers of ``chat_questions.jsonl``, as if an LLM had written them without citations. The
passages are those of a chat: ten hits within 3,000 tokens. A match is right if its passage touches a place of the
question. Where the passages hold no such place, a sentence can only be matched wrongly or not at all. The rules were
written with these answers. FOLDER has the checkouts of ``chat_questions.md``; it takes about 8 minutes:

    python benchmarks/attribution.py FOLDER [--indexes FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from chat_questions import FILE
from checkouts import add_index_options, index_opener
from llama_index.core.schema import NodeWithScore
from report import add_result_option, environment, write_figures

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.chat import Citations, CodeContextPostprocessor, attribute_sentences
from llamaindex_code_retrieval.chat.attribution import sentences
from llamaindex_code_retrieval.eval.chat.questions import ChatQuestion, load_chat_questions
from llamaindex_code_retrieval.index.places import Place

HITS = 10
CONTEXT_TOKENS = 3000


def figures_of(questions: Sequence[ChatQuestion], passages: Sequence[Sequence[NodeWithScore]]) -> dict[str, int]:
    """Return the numbers of sentences, matches and right matches, and of answers that could and do have one."""
    figures = dict.fromkeys(("answers", "answers with a place in the passages", "answers with a match"), 0)
    figures |= dict.fromkeys(("sentences", "matched", "right"), 0)
    for question, quoted in zip(questions, passages, strict=True):
        matches = attribute_sentences(question.answer, quoted)
        citations = Citations.of(quoted).passages
        places = [Place(each.path, each.start_line, each.end_line) for each in question.targets]
        figures["answers"] += 1
        figures["answers with a place in the passages"] += any(
            each.touches(place) for each in citations for place in places
        )
        figures["answers with a match"] += bool(matches)
        figures["sentences"] += len(list(sentences(question.answer)))
        figures["matched"] += len(matches)
        figures["right"] += sum(any(each.citation.touches(place) for place in places) for each in matches)
    return figures


def measure(
    questions: Sequence[ChatQuestion], open_index: Callable[[str], CodeIndex[CodeEmbedding]]
) -> Iterator[dict[str, Any]]:
    """Yield the figures of each repository."""
    for repository in dict.fromkeys(each.repository for each in questions):
        of_repository = [each for each in questions if each.repository == repository]
        with open_index(repository) as index:
            context = CodeContextPostprocessor(index, max_tokens=CONTEXT_TOKENS)
            passages = [
                context.postprocess_nodes(index.search(each.text, top_k=HITS), query_str=each.text)
                for each in of_repository
            ]
        yield {"repository": repository, **figures_of(of_repository, passages)}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_index_options(parser)
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    rows = list(measure(load_chat_questions(FILE), index_opener(options)))
    write_figures(options.result, {**environment(), "rows": rows})
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
