"""The source files of a folder of repositories, by language: what the scripts that read real code have in common."""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.index.decode import decode, is_binary
from llamaindex_code_retrieval.languages.table import language_of_text
from llamaindex_code_retrieval.models.catalog import EMBEDDED

VARIABLE = "CODE_RETRIEVAL_REPOSITORIES"
_MAX_BYTES = 4_000_000
_HEAD = 8192  # bytes that tell the language and whether a file is text


@dataclass(frozen=True, slots=True)
class CheckoutFile:
    """A file of a repository; ``name`` is its path in the folder of repositories."""

    name: str
    path: Path
    language: str

    def read(self) -> str:
        """Return the text as an index reads it; a file that turns out to be binary is empty."""
        decoded = decode(self.path.read_bytes())
        return "" if decoded is None else decoded.text


def add_checkout_options(parser: argparse.ArgumentParser) -> None:
    """Add the folder of repositories, and the options that select files in it."""
    folder = os.environ.get(VARIABLE)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path(folder) if folder else None,
        help=f"folder whose subfolders are repositories (default: the variable {VARIABLE})",
    )
    parser.add_argument("--language", action="append", metavar="NAME", help="only this language (repeatable)")
    parser.add_argument("--repository", action="append", metavar="NAME", help="only this subfolder (repeatable)")
    parser.add_argument(
        "--files",
        type=int,
        default=1000,
        metavar="N",
        help="at most this many files of a language, drawn with a fixed seed (default: %(default)s)",
    )


def add_question_options(parser: argparse.ArgumentParser) -> None:
    """Add the folder of questions about repositories, that of the checkouts, the model, and which repositories."""
    parser.add_argument("questions", type=Path, help="folder with repos.json and annotations")
    parser.add_argument(
        "repositories",
        type=Path,
        nargs="?",
        default=os.environ.get(VARIABLE),
        help=f"folder with the checkouts (default: {VARIABLE})",
    )
    parser.add_argument("--model", default=EMBEDDED, help="embedding model (default: %(default)s)")
    parser.add_argument("--repository", action="append", metavar="NAME", help="only this one; may be repeated")


def add_index_options(parser: argparse.ArgumentParser) -> None:
    """Add the folder of the checkouts that are indexed, and where the indexes are kept."""
    parser.add_argument("folder", type=Path, help="folder with the checkouts")
    parser.add_argument(
        "--indexes", type=Path, metavar="FOLDER", help="keep the indexes there (default: they are temporary)"
    )


def index_opener(options: argparse.Namespace) -> Callable[[str], CodeIndex[CodeEmbedding]]:
    """Return what opens the index of a repository in ``folder`` by its name, up to date."""
    embedding = CodeEmbedding()

    def open_index(repository: str) -> CodeIndex[CodeEmbedding]:
        index = CodeIndex(embedding, None if options.indexes is None else options.indexes / repository)
        index.update([options.folder / repository])
        return index

    return open_index


def selected_files(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, list[CheckoutFile]]:
    """Return the files that the options select, by language, in the order of their names."""
    if options.folder is None or not options.folder.is_dir():
        parser.error(f"name a folder of repositories, or set {VARIABLE}; got {options.folder}")
    files: dict[str, list[CheckoutFile]] = {}
    for file in repository_files(options.folder, options.repository):
        if not options.language or file.language in options.language:
            files.setdefault(file.language, []).append(file)
    missing = set(options.language or ()) - files.keys()
    if missing:
        parser.error(f"no file of {', '.join(sorted(missing))} in {options.folder}")
    draw = random.Random(0)
    return {
        language: sorted(draw.sample(files[language], min(options.files, len(files[language]))), key=lambda f: f.name)
        for language in sorted(files)
    }


def is_partial(options: argparse.Namespace) -> bool:
    """Return whether the options leave out languages or repositories."""
    return bool(options.language or options.repository)


def repository_files(folder: Path, repositories: list[str] | None = None) -> Iterator[CheckoutFile]:
    """Yield the text files of the repositories in ``folder``, or of those named, in the order of their names."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - {".git"})
        if Path(root) == folder and repositories:
            folders[:] = [name for name in folders if name in repositories]
        for name in sorted(names if Path(root) != folder else ()):
            path = Path(root, name)
            if path.is_symlink() or not 0 < path.stat().st_size <= _MAX_BYTES:
                continue
            with path.open("rb") as file:
                head = file.read(_HEAD)
            if not is_binary(head):
                language = language_of_text(path, head.decode(errors="replace")) or "text"
                yield CheckoutFile(path.relative_to(folder).as_posix(), path, language)
