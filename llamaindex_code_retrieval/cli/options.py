"""Options that several commands share, the types of their values, and checks of their combinations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval.cli.console import print_message
from llamaindex_code_retrieval.index.locate import INDEX_NAME, find_index
from llamaindex_code_retrieval.models.catalog import EMBEDDED_STATIC, NO_ADAPTER, PUBLISHED, RUNTIMES
from llamaindex_code_retrieval.models.locate import is_static_model, shipped_adapters

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.source_options import SourceOptions

DEFAULT_INDEX = INDEX_NAME


def common_options(
    parser: argparse.ArgumentParser, *, embeds: bool = True, writes: bool = False, runtime: bool = False
) -> None:
    """Add ``--device`` and ``--json``; ``--cache``, ``--wait`` and ``--runtime`` where codes are embedded, an index is
    written, and the runtime can be chosen.
    """
    parser.add_argument("--device", help="torch device, such as cpu or cuda:0 (default: a GPU if there is one)")
    if runtime:
        parser.add_argument(
            "--runtime",
            choices=RUNTIMES,
            help="what computes vectors (default: auto, OpenVINO on a CPU where it can express the model, else torch)",
        )
    json_option(parser)
    if embeds:
        cache_option(parser)
    if writes:
        parser.add_argument(
            "--wait",
            type=seconds,
            default=60.0,
            metavar="SECONDS",
            help="how long to wait for another process that updates the index (default: 60)",
        )


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def cache_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--cache``."""
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="folder of the embedding cache (default: $CODE_RETRIEVAL_CACHE, else the user's cache folder)",
    )


def index_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--index``."""
    parser.add_argument(
        "--index",
        metavar="DIR",
        help=f"folder of the index (default: {DEFAULT_INDEX} here or in the nearest folder above that has one)",
    )


def default_index() -> Path:
    """Return the index of the code base that the working folder belongs to, or else ``DEFAULT_INDEX`` here."""
    return find_index() or Path(DEFAULT_INDEX)


def source_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--only``, ``--include``, ``--exclude``, ``--ext`` and ``--max-file-size``."""
    group = parser.add_argument_group(
        "which files are read",
        "Globs are those of .gitignore and relative to each folder. Each option may be repeated, and can also be set "
        "in [tool.code-retrieval] of a folder's pyproject.toml or in its .code-retrieval.toml; the command line wins.",
    )
    for name, purpose in (
        ("only", "read no other files than those that match"),
        ("include", "read the files that match although they are generated, minified, lock or data files"),
        ("exclude", "leave out the files and folders that match"),
    ):
        group.add_argument(f"--{name}", action="append", default=[], metavar="GLOB", help=purpose)
    group.add_argument(
        "--ext",
        action="append",
        default=[],
        metavar=".EXT=LANGUAGE",
        help="read files with this extension in this language; see `code-retrieval languages`",
    )
    group.add_argument(
        "--max-file-size", metavar="SIZE", help="of the largest file that is read, such as 500KB or 2MB (default: 1MB)"
    )


def parse_source_options(options: argparse.Namespace) -> SourceOptions:
    """Return the options that :func:`source_options` added.

    Raises:
        ValueError: a value is wrong; the message names its option.
    """
    from llamaindex_code_retrieval.index.source_options import SourceOptions

    values: dict[str, Any] = {"ext": {}}
    for assignment in options.ext:
        extension, equals, language = assignment.partition("=")
        if not (extension and equals and language):
            raise ValueError(f"--ext takes .EXT=LANGUAGE, as in .foo=python, got {assignment!r}")
        if values["ext"].setdefault(extension, language) != language:
            raise ValueError(f"--ext names {extension} twice; name one language for each extension")
    for name in ("only", "include", "exclude"):
        values[name] = tuple(getattr(options, name))
    values["max_file_size"] = options.max_file_size
    try:
        return SourceOptions(**values)
    except ValueError as error:
        raise ValueError(f"--{str(error).replace('max_file_size', 'max-file-size', 1)}") from None


def positive(text: str) -> int:
    """Return a whole number of at least 1, for ``type=``."""
    return _whole_number(text, least=1)


def natural(text: str) -> int:
    """Return a whole number of at least 0, for ``type=``."""
    return _whole_number(text, least=0)


def _whole_number(text: str, *, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


def seconds(text: str) -> float:
    """Return a number of seconds, for ``type=``."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds of at least 0, got {text!r}")
    return value


def refuse_without_effect(options: argparse.Namespace, names: Sequence[str], condition: str) -> None:
    """Refuse options that have no effect under ``condition``, such as "without --rerank".

    ``names`` are attributes of ``options``, which are None or False where the option is absent.

    Raises:
        ValueError: at least one of the options is present.
    """
    present = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in (None, False)]
    if present:
        verb = "has" if len(present) == 1 else "have"
        raise ValueError(f"{' and '.join(present)} {verb} no effect {condition}; leave out one or the other")


def cache_folder(options: argparse.Namespace) -> Path:
    """Return the folder of the embedding cache.

    Raises:
        ValueError: ``--cache`` names a file.
    """
    from llamaindex_code_retrieval._io import default_cache_folder

    if options.cache is None:
        return default_cache_folder()
    folder = Path(options.cache).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--cache {folder} is a file; name a folder")
    return folder


def cache_folder_of(options: argparse.Namespace, model: str) -> Path | None:
    """Return the folder of the embedding cache of a model; ``None`` for a static one, which has no use for a cache.

    Raises:
        ValueError: ``--cache`` names a file, or has no effect on the model.
    """
    if not is_static_model(model):
        return cache_folder(options)
    refuse_without_effect(options, ("cache",), f"on the static model {model}, which is faster than a cache")
    return None


def absolute(name_or_path: str) -> str:
    """Return the full path of a folder, because an index is searched from anywhere; a model's name as it is."""
    folder = Path(name_or_path).expanduser()
    named = name_or_path in (*PUBLISHED, EMBEDDED_STATIC, NO_ADAPTER, *shipped_adapters())
    return str(folder.resolve()) if not named and folder.is_dir() else name_or_path


def print_waiting(holder: str) -> None:
    """Print which process holds the lock of an index."""
    print_message(f"the index is being updated by {holder}; waiting")
