"""The command ``chat``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llamaindex_code_retrieval._io import clean_text
from llamaindex_code_retrieval.chat.llms import EXTRACTIVE, LLM_FORMS, LLMSpec, check_server, load_llm
from llamaindex_code_retrieval.chat.question import check_question
from llamaindex_code_retrieval.cli.console import print_message, progress_bars
from llamaindex_code_retrieval.cli.filter_options import filter_options, parse_filter
from llamaindex_code_retrieval.cli.options import (
    cache_folder,
    cache_folder_of,
    common_options,
    index_option,
    positive,
    print_waiting,
    refuse_without_effect,
    seconds,
)
from llamaindex_code_retrieval.index.locate import INDEX_NAME, find_index, is_index, restore_root
from llamaindex_code_retrieval.models.query_encoder_config import AUTO

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from llamaindex_code_retrieval.index.code_index import CodeIndex

_TOP_K = 10
_CONTEXT_TOKENS = 3000
_WINDOW = 8192
_LOOK_SECONDS = 10.0
"""How long changed files are looked for; with more of them the index is updated anyway."""


def add_chat(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``chat``."""
    parser = commands.add_parser(
        "chat",
        help="ask questions about a code base; answers cite files and lines",
        description="Index a folder, or update its index, and answer questions about it in a chat. Questions are read "
        "from the terminal, or a line each from stdin; answers go to stdout, all else to stderr. Commands: /sources "
        "shows the passages of the last answer, /reset forgets the chat, /quit ends it. Ctrl-C stops an answer.",
    )
    parser.add_argument("folder", nargs="?", metavar="PATH", help="folder with source code (default: this folder)")
    parser.add_argument(
        "--llm",
        default=EXTRACTIVE,
        metavar="LLM",
        help=f"who answers: {LLM_FORMS} (default: %(default)s, which uses no language model and quotes the code)",
    )
    parser.add_argument("-q", "--question", metavar="TEXT", help="answer this question and end")
    parser.add_argument(
        "--top-k", type=positive, default=_TOP_K, metavar="K", help="hits per question (default: %(default)s)"
    )
    parser.add_argument(
        "--max-context-tokens",
        type=positive,
        default=_CONTEXT_TOKENS,
        metavar="N",
        help="tokens of the passages in a prompt (default: %(default)s, fewer if the LLM reads fewer)",
    )
    parser.add_argument(
        "--context-window",
        type=positive,
        metavar="N",
        help=f"tokens that the LLM reads and writes (default: {_WINDOW})",
    )
    parser.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="how long to wait for the server of an LLM (default: 60)"
    )
    parser.add_argument(
        "--condense",
        action="store_true",
        help="let the LLM rewrite follow-up questions (default: search for one together with the question before)",
    )
    parser.add_argument(
        "--fast-query",
        nargs="?",
        const=AUTO,
        metavar="ENCODER",
        help="embed questions with a small query encoder, as `search` does",
    )
    index_option(parser)
    parser.add_argument(
        "--refresh",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="bring the index up to date first (default: yes)",
    )
    filter_options(parser)
    common_options(parser, writes=True)
    parser.set_defaults(run=run_chat)


def run_chat(options: argparse.Namespace) -> int:
    """Answer one question or those of a chat; the exit code of ``--question`` is 1 if nothing was found."""
    spec = _check(options)
    folder, source = _folders(options)
    llm = _load(spec, options)
    from llamaindex_code_retrieval.chat.engines import code_chat_engine
    from llamaindex_code_retrieval.cli.conversation import Conversation

    with _opened(folder, source, options) as index:
        engine = code_chat_engine(
            index,
            llm=llm,
            chat_mode="condense_plus_context" if options.condense else "context",
            max_context_tokens=options.max_context_tokens,
            top_k=options.top_k,
            filters=parse_filter(options),
        )
        conversation = Conversation(index, engine, spec)
        if options.question is not None:
            return conversation.answer_once(clean_text(options.question), as_json=options.json)
        conversation.run()
    return 0


def _check(options: argparse.Namespace) -> LLMSpec:
    """Raise what is wrong with the arguments before a model is loaded; return what ``--llm`` names."""
    spec = LLMSpec.parse(options.llm)
    if spec.kind == "extractive":
        refuse_without_effect(options, ("context_window", "condense"), f"with --llm {EXTRACTIVE}, which calls no LLM")
    if spec.url is None:
        refuse_without_effect(options, ("timeout",), f"with --llm {spec.kind}, which is no server")
    if options.question is None:
        refuse_without_effect(options, ("json",), "without --question, which prints one answer")
    else:
        check_question(options.question)
    if options.index is not None and options.folder is not None:
        raise ValueError(
            f"{options.folder} has no effect with --index, which says what is indexed; leave out one of them"
        )
    parse_filter(options)
    cache_folder(options)
    return spec


def _folders(options: argparse.Namespace) -> tuple[Path, Path]:
    """Return the folder of the index, and the folder that is indexed if there is no index yet."""
    from llamaindex_code_retrieval.index.folder import read_settings

    if options.index is not None:
        read_settings(options.index)
        return Path(options.index), Path(options.index)
    source = Path(options.folder or ".").expanduser().resolve()
    if not source.is_dir():
        raise ValueError(f"{options.folder} is not a folder; name the folder of the code")
    above = find_index(source)
    if above is not None and above.parent != source:  # an index of other folders may lie above
        roots = [restore_root(root, above) for root in read_settings(above)["roots"]]
        if not any(source.is_relative_to(root) for root in roots):
            above = None
    return above or source / INDEX_NAME, source


def _load(spec: LLMSpec, options: argparse.Namespace) -> LLM:
    llm = load_llm(options.llm, timeout=options.timeout, context_window=options.context_window or _WINDOW)
    check_server(spec)
    return llm


@contextmanager
def _opened(folder: Path, source: Path, options: argparse.Namespace) -> Iterator[CodeIndex]:
    """Yield the index, which is built or brought up to date first."""
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.folder import read_settings

    if is_index(folder):
        cache = cache_folder_of(options, read_settings(folder)["embedding"]["model_name"])
        with CodeIndex.open(
            folder, query_encoder=options.fast_query, device=options.device, cache_folder=cache
        ) as index:
            if options.refresh:
                _refresh(index)
            yield index
    else:
        with _build(folder, source, options) as index:
            yield index


def _build(folder: Path, source: Path, options: argparse.Namespace) -> CodeIndex:
    from llamaindex_code_retrieval.embedding import CodeEmbedding
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.folder import remove_if_empty
    from llamaindex_code_retrieval.index.lock import update_lock
    from llamaindex_code_retrieval.index.source_options import SourceOptions, options_of

    options_of(source, SourceOptions())  # wrong settings of the folder, before a model is loaded
    parse_filter(options).check_languages(())
    existed = folder.exists()
    try:
        with update_lock(folder, seconds=options.wait, on_wait=print_waiting):
            print_message(f"indexing {source} for the first time")
            embedding = CodeEmbedding(
                query_encoder=options.fast_query, device=options.device, cache_folder=cache_folder(options)
            )
            index = CodeIndex(embedding, folder)
            with progress_bars() as progress:
                index.update([source], on_progress=progress)
    finally:
        if not existed:
            remove_if_empty(folder)
    return index


def _refresh(index: CodeIndex) -> None:
    """Update the index if files have changed, and it is not being updated already."""
    from llamaindex_code_retrieval.index.lock import update_lock

    if not index.roots or not all(Path(root).is_dir() for root in index.roots):
        print_message("the folders of the index are not there; answers are from the index as it is")
        return
    changes = index.changes(limit_seconds=_LOOK_SECONDS)
    if changes.is_complete and not changes.total:
        return
    if not os.access(index.folder, os.W_OK):
        print_message(f"files have changed and {index.folder} cannot be written; answers are from the index as it is")
        return
    try:
        with update_lock(index.folder, seconds=0), progress_bars() as progress:
            index.update(on_progress=progress)
    except TimeoutError as error:
        print_message(f"{str(error).partition(';')[0]}; answers are from the index as it is")
