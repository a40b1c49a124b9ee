"""The command ``serve``."""

from __future__ import annotations

import argparse
import threading
import webbrowser
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.chat.llms import EXTRACTIVE, LLM_FORMS, LLMSpec, check_server, load_llm
from llamaindex_code_retrieval.cli.console import print_message
from llamaindex_code_retrieval.cli.listening import address_of, listen, log_requests, port_number, run_app, token_for
from llamaindex_code_retrieval.cli.options import refuse_without_effect, seconds
from llamaindex_code_retrieval.models.catalog import EMBEDDED_STATIC
from llamaindex_code_retrieval.models.query_encoder_config import AUTO

if TYPE_CHECKING:
    from llamaindex_code_retrieval.serving.answers import Answers

_PORT = 8765


def add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``serve``."""
    parser = commands.add_parser(
        "serve",
        help="ask and search a code base in the browser, or by a JSON API",
        description="Serve a web page, and its JSON API, in which the code of folders is asked and searched. Indexes "
        "that are missing are built, and all are kept up to date. Stop it with Ctrl-C.",
    )
    parser.add_argument(
        "folders", nargs="*", metavar="PATH", help="folders with source code, or indexes (default: this folder)"
    )
    parser.add_argument(
        "--port", type=port_number, default=_PORT, metavar="PORT", help="0 for any that is free (default: %(default)s)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; any but this machine's own needs a token (default: %(default)s)",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with the token that every request must bring (default: $CODE_RETRIEVAL_TOKEN)",
    )
    parser.add_argument(
        "--llm",
        default=EXTRACTIVE,
        metavar="LLM",
        help=f"who answers: {LLM_FORMS} (default: %(default)s, which uses no language model and quotes the code)",
    )
    parser.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="how long to wait for the server of an LLM (default: 60)"
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=f"base model of an index that is built (default: {EMBEDDED_STATIC}, which takes seconds)",
    )
    parser.add_argument(
        "--fast-query",
        nargs="?",
        const=AUTO,
        metavar="ENCODER",
        help="embed questions with a small query encoder (default: the package's static one for the index's model)",
    )
    parser.add_argument("--read-only", action="store_true", help="never write an index: it must be there")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(run=run_serve)


def run_serve(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    check_installed("starlette", "uvicorn", extra="serve", purpose="serve")
    spec = LLMSpec.parse(options.llm)
    if spec.url is None:
        refuse_without_effect(options, ("timeout",), f"with --llm {spec.kind}, which is no server")
    from llamaindex_code_retrieval.serving.guard import Access

    token = token_for(options.host, options.token_file)
    log_requests()
    with closing(listen(options.host, options.port)) as listener:
        llm = load_llm(options.llm, timeout=options.timeout)
        check_server(spec)
        from llamaindex_code_retrieval.serving.answers import Answers
        from llamaindex_code_retrieval.serving.service import CodeService
        from llamaindex_code_retrieval.serving.web import create_app

        with CodeService(
            options.folders or ["."],
            model=options.model,
            fast_query=options.fast_query,
            read_only=options.read_only,
        ) as service:
            answers = Answers(service, llm, spec)
            address = f"{address_of(listener, options.host)}/"
            print_message(
                f"serving {', '.join(each.name for each in service.repositories)} at {address} (Ctrl-C stops)"
            )
            threading.Thread(target=_load, args=(answers,), daemon=True).start()
            if options.open:
                webbrowser.open(address)
            run_app(create_app(service, answers, Access(token)), listener)
    print_message("stopped")
    return 0


def _load(answers: Answers) -> None:
    with suppress(ValueError, OSError):  # the first question tells
        answers.load()
