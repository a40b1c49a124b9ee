"""The options of ``search`` that restrict it to some nodes."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from llamaindex_code_retrieval.languages.outline import KINDS

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.filters import NodeFilter

_FIELDS = {
    "path": "paths",
    "not-path": "not_paths",
    "language": "languages",
    "kind": "kinds",
    "tests": "tests",
}
"""Fields of the filter by the name of their option; ``--since`` is parsed."""


def filter_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--path``, ``--not-path``, ``--language``, ``--kind``, ``--tests``, ``--no-tests`` and ``--since``."""
    group = parser.add_argument_group(
        "which nodes are searched",
        "All of these must hold. Globs are those of .gitignore, for the paths in the index. --path, --not-path, "
        "--language and --kind may be repeated: one of the values is enough, and no glob of --not-path may match.",
    )
    group.add_argument("--path", action="append", metavar="GLOB", help="only files that match, such as 'src/**'")
    group.add_argument("--not-path", action="append", metavar="GLOB", help="no files that match, such as '**/gen*'")
    group.add_argument(
        "--language", action="append", metavar="NAME", help="only this language; see `code-retrieval languages`"
    )
    group.add_argument("--kind", action="append", metavar="KIND", help=f"only this kind: {', '.join(KINDS)}")
    group.add_argument(
        "--tests", action=argparse.BooleanOptionalAction, help="only files that are tests by their path, or none"
    )
    group.add_argument(
        "--since",
        metavar="WHEN",
        help="only files modified since: a date or time (2026-11-01, 2026-11-01T12:00) or an age (30m, 12h, 3d, 2w)",
    )


def parse_filter(options: argparse.Namespace) -> NodeFilter:
    """Return the filter that the options of :func:`filter_options` describe.

    Raises:
        ValueError: a value is wrong; the message names its option.
    """
    from llamaindex_code_retrieval.index.filters import NodeFilter, parse_since

    node_filter = NodeFilter()
    for name, field in _FIELDS.items():
        value = getattr(options, name.replace("-", "_"))
        if value is not None:
            try:
                node_filter = replace(node_filter, **{field: value})
            except ValueError as error:
                raise ValueError(f"--{name}: {str(error).removeprefix(f'{field}: ')}") from None
    if options.since is None:
        return node_filter
    try:
        return replace(node_filter, modified_since=parse_since(options.since))
    except ValueError as error:
        raise ValueError(f"--since: {error}") from None
