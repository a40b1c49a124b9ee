"""The command ``code-retrieval``: parse the arguments, run one command, turn errors into exit codes.

Results go to stdout, progress and messages to stderr.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from llamaindex_code_retrieval._optional import installed_version
from llamaindex_code_retrieval.cli.adapt import add_adapt
from llamaindex_code_retrieval.cli.average import add_average
from llamaindex_code_retrieval.cli.benchmark import add_benchmark
from llamaindex_code_retrieval.cli.chat import add_chat
from llamaindex_code_retrieval.cli.console import OutputClosedError, prepare_streams, print_message, print_text
from llamaindex_code_retrieval.cli.demo import add_demo
from llamaindex_code_retrieval.cli.distil import add_distil
from llamaindex_code_retrieval.cli.evaluate import add_eval
from llamaindex_code_retrieval.cli.index import add_index, add_info, add_update
from llamaindex_code_retrieval.cli.languages import add_languages
from llamaindex_code_retrieval.cli.mcp import add_mcp
from llamaindex_code_retrieval.cli.mine import add_mine
from llamaindex_code_retrieval.cli.models import add_models
from llamaindex_code_retrieval.cli.pretrain import add_pretrain
from llamaindex_code_retrieval.cli.related import add_related
from llamaindex_code_retrieval.cli.search import add_search
from llamaindex_code_retrieval.cli.serve import add_serve
from llamaindex_code_retrieval.cli.train import add_recipes, add_train
from llamaindex_code_retrieval.cli.train_ranking import add_train_ranking
from llamaindex_code_retrieval.cli.train_reranker import add_train_reranker
from llamaindex_code_retrieval.cli.train_static import add_train_static
from llamaindex_code_retrieval.cli.watch import add_watch

_DISTRIBUTION = "llamaindex-code-retrieval"
_EXIT_CODES = """exit codes:
  0    success
  1    no hit (search, related, chat -q), a regression (eval --gate), no good student (distil --assistants)
  2    wrong input, or an error
  130  interrupted by Ctrl-C
  141  the reader of the output has gone (as in `code-retrieval search ... | head -1`)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Raises:
        SystemExit: from ``--help``, ``--version`` and arguments that do not parse.
    """
    prepare_streams()
    try:
        return _run(arguments)
    except OutputClosedError:
        _discard_stdout()
        return 141
    except KeyboardInterrupt:
        print_message(
            "interrupted; files on disk are complete. Run the same command again to continue "
            "(`pretrain`, `train`, `train-reranker`, `distil` and `train-static`: with --resume)"
        )
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        return _fail(str(error), options)
    except OutputClosedError:
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, of the accelerator
            return _fail(f"{error}; choose another --device or a smaller model or batch", options)
        return _fail(
            f"internal error: {type(error).__name__}: {error}\nThis is a fault of code-retrieval. "
            f"Please report it {_where_to_report()} with the output of the same command after `code-retrieval --debug`",
            options,
        )
    return code


def _fail(message: str, options: argparse.Namespace) -> int:
    """Print the error being handled, with ``--debug`` after its traceback, and return the exit code."""
    if options.debug:
        print_text(traceback.format_exc(), file=sys.stderr, end="")
    print_message(f"error: {message or 'out of memory'}")
    return 2


def _where_to_report() -> str:
    """Return where the installed package says that issues are reported."""
    import importlib.metadata  # imports slowly

    try:
        urls = importlib.metadata.metadata(_DISTRIBUTION).get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        urls = []
    places = dict(url.split(", ", 1) for url in urls)
    return next((f"at {places[name]}" for name in ("Issues", "Repository") if name in places), "to the maintainers")


def _discard_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not fail to write it when it ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except io.UnsupportedOperation:  # a stream that is no file
        return


class _Parser(argparse.ArgumentParser):
    """A parser whose messages, which repeat the arguments, are escaped like all other output."""

    def _print_message(self, message: str, file: Any = None) -> None:
        print_text(message, file=file or sys.stderr, end="")

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print_message(f"error: {message}")
        raise SystemExit(2)


class _Version(argparse.Action):
    """Print the version; looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> NoReturn:
        print_text(f"code-retrieval {installed_version(_DISTRIBUTION)}")
        raise SystemExit(0)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``code-retrieval`` with all its commands."""
    parser: argparse.ArgumentParser = _Parser(
        prog="code-retrieval",
        description="Search source code by questions in natural language.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_index, add_update, add_watch, add_search, add_related, add_info):
        add(commands)
    for add in (add_chat, add_serve, add_mcp):
        add(commands)
    for add in (add_models, add_languages, add_demo):
        add(commands)
    for add in (
        add_mine,
        add_pretrain,
        add_train,
        add_train_reranker,
        add_train_ranking,
        add_distil,
        add_train_static,
        add_adapt,
        add_average,
        add_recipes,
    ):
        add(commands)
    for add in (add_eval, add_benchmark):
        add(commands)
    return parser
