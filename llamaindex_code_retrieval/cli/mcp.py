"""The command ``mcp``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.cli.console import print_message, print_text
from llamaindex_code_retrieval.cli.listening import address_of, listen, log_requests, port_number, run_app, token_for
from llamaindex_code_retrieval.cli.mcp_install import AGENTS, install
from llamaindex_code_retrieval.cli.options import refuse_without_effect
from llamaindex_code_retrieval.models.catalog import EMBEDDED_STATIC
from llamaindex_code_retrieval.models.query_encoder_config import AUTO

if TYPE_CHECKING:
    from llamaindex_code_retrieval.serving.service import CodeService

_LOCAL_HOST = "127.0.0.1"


def add_mcp(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``mcp``."""
    parser = commands.add_parser(
        "mcp",
        help="serve code search to coding agents (Model Context Protocol)",
        description="Serve the tools search_code, read_code, find_related, outline and index_status to a coding agent, "
        "over stdin and stdout or over HTTP. An index that is missing is built, and kept up to date.",
    )
    parser.add_argument(
        "folders", nargs="*", metavar="PATH", help="folder with source code, or that of an index (default: this folder)"
    )
    parser.add_argument(
        "--http",
        type=_address,
        metavar="[HOST:]PORT",
        help=f"serve over streamable HTTP, by default for this machine only ({_LOCAL_HOST}); 0 is any free port",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with the token that HTTP clients must send (default: $CODE_RETRIEVAL_TOKEN); another HOST needs one",
    )
    parser.add_argument("--read-only", action="store_true", help="never write an index; there must be one")
    parser.add_argument(
        "--model", help=f"base model of an index that is built (default: {EMBEDDED_STATIC}, which takes seconds)"
    )
    parser.add_argument(
        "--fast-query",
        nargs="?",
        const=AUTO,
        metavar="ENCODER",
        help="embed questions with a small query encoder (default: the package's static one for the index's model)",
    )
    group = parser.add_argument_group("configuration of an agent")
    group.add_argument(
        "--install",
        choices=sorted(AGENTS),
        metavar="AGENT",
        help=f"print what makes an agent start this server, and exit: {', '.join(sorted(AGENTS))}",
    )
    group.add_argument("--write", action="store_true", help="with --install: write it to the agent's file as well")
    parser.set_defaults(run=run_mcp)


def _address(text: str) -> tuple[str, int]:
    """Return the host and port of ``[HOST:]PORT``, for ``type=``."""
    host, colon, port = text.rpartition(":")
    if colon and not host:
        raise argparse.ArgumentTypeError(f"must be PORT or HOST:PORT, got {text!r}")
    return host.strip("[]") or _LOCAL_HOST, port_number(port)


def run_mcp(options: argparse.Namespace) -> int:
    """Serve until the client leaves or a signal comes; or print the configuration of an agent."""
    if options.install is not None:
        return _install(options)
    refuse_without_effect(options, ("write",), "without --install")
    if options.http is None:
        refuse_without_effect(options, ("token_file",), "without --http")
    check_installed("mcp", extra="mcp", purpose="mcp")
    log_requests()
    return _serve_stdio(options) if options.http is None else _serve_http(options)


def _install(options: argparse.Namespace) -> int:
    refuse_without_effect(options, ("http", "token_file"), "with --install, which sets up a server over stdio")
    folders = [str(Path(folder).expanduser().resolve()) for folder in options.folders]
    missing = [folder for folder in folders if not Path(folder).is_dir()]
    if missing:
        raise ValueError(f"{missing[0]} is not a folder; name a folder with source code, or that of an index")
    arguments = ["mcp", *folders, *(["--read-only"] if options.read_only else [])]
    arguments += [] if options.model is None else ["--model", options.model]
    arguments += [] if options.fast_query is None else ["--fast-query", options.fast_query]
    print_text(install(options.install, arguments, write=options.write))
    return 0


def _serve_stdio(options: argparse.Namespace) -> int:
    import anyio

    from llamaindex_code_retrieval.serving.mcp_server import create_server, serve_stdio

    with _service(options) as service:
        _end_on_signals()
        anyio.run(serve_stdio, create_server(service))
    if any(repository.state in ("building", "updating") for repository in service.repositories):
        _end_at_once(0)  # else the interpreter would wait for the vectors that are being made
    return 0


def _end_on_signals() -> None:
    """End at once on SIGINT and SIGTERM: the thread that waits for stdin would hold the interpreter until it closes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: _end_at_once(128 + number))


def _end_at_once(code: int) -> NoReturn:
    """End the process; an update under way loses at most the batch of files that is being written."""
    sys.stderr.flush()
    os._exit(code)


def _serve_http(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.serving.guard import Access, Guard

    host, port = options.http
    token = token_for(host, options.token_file)
    with closing(listen(host, port)) as listener, _service(options) as service:
        from llamaindex_code_retrieval.serving.mcp_server import HTTP_PATH, create_server, http_app

        names = ", ".join(repository.name for repository in service.repositories)
        print_message(f"serving {names} at {address_of(listener, host)}{HTTP_PATH}; stop with Ctrl-C")
        run_app(Guard(http_app(create_server(service), service), Access(token)), listener)
    return 0


def _service(options: argparse.Namespace) -> CodeService:
    from llamaindex_code_retrieval.serving.service import CodeService

    return CodeService(
        options.folders or ["."],
        model=options.model,
        fast_query=options.fast_query,
        read_only=options.read_only,
    )
