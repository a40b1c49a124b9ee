"""The command ``code-retrieval``: parse, call, print, exit code.

Exit codes: 0 done, 1 nothing found, 2 wrong input or a state that needs the user, 130 interrupted.
Results go to stdout, progress and messages to stderr.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from llamaindex_code_retrieval.cli import evaluate, search, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ValueError, OSError, ImportError, TimeoutError, FloatingPointError) as error:
        if options.debug:
            raise
        print(f"code-retrieval: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ncode-retrieval: interrupted; what is on disk is whole, and the same command goes on from there "
            "(`train`, `train-reranker` and `distil` with --resume)",
            file=sys.stderr,
        )
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="code-retrieval", description="Find the right code for a question.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for part in (search, train, evaluate):
        part.add_commands(commands)
    return parser
