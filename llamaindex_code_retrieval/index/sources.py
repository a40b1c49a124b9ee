"""List and read the files of a folder: those that git lists, or else those that no ``.gitignore`` excludes."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from llamaindex_code_retrieval.index.decode import Decoded, decode, is_binary
from llamaindex_code_retrieval.index.git import run_git
from llamaindex_code_retrieval.index.ignore import Globs, IgnoreFile
from llamaindex_code_retrieval.index.leave_out import rule_for_name, rule_for_text
from llamaindex_code_retrieval.index.source_options import MAX_FILE_SIZE, SourceOptions, options_of
from llamaindex_code_retrieval.languages.table import language_of_text

UNKNOWN_KIND = "text"
"""The language of files that the table of languages does not know."""

_NOT_OURS = frozenset(
    ".git .hg .svn .tox .nox .venv __pycache__ __pypackages__ node_modules bower_components site-packages .mypy_cache "
    ".pytest_cache .ruff_cache .cache .gradle .idea .eggs .ipynb_checkpoints .terraform .next .nuxt .svelte-kit".split()
)
"""Folders outside git that hold what others wrote or what tools keep there."""
_HEAD_BYTES = 8_192
_NOTEBOOK_FACTOR = 20
"""How much larger than other files notebooks may be: most of one are its outputs, which are not indexed."""

_Rules = tuple[tuple[int, IgnoreFile], ...]
"""The ``.gitignore`` files above a path, and how many bytes of the path each leaves out."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file. ``path`` is relative to the root, with forward slashes."""

    path: str
    text: str
    language: str


@dataclass(slots=True)
class SourceCounts:
    """What a walk left out, and what it read in another way than most files."""

    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    """Files that were left out: by reason, then by extension, such as ".csv"; empty for a name without one."""
    encodings: dict[str, Counter[str]] = field(default_factory=dict)
    """Files that are not UTF-8: by how their encoding was found (``decode.How``), then by encoding."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Files of no known kind, read as plain text: by extension."""

    def leave_out(self, reason: str, path: str) -> None:
        """Count a file that is left out."""
        self.left_out.setdefault(reason, Counter())[extension_of(path)] += 1

    def read(self, path: str, decoded: Decoded) -> None:
        """Count a file that was read."""
        if decoded.how is not None:
            self.encodings.setdefault(decoded.how, Counter())[decoded.encoding] += 1


def extension_of(path: str) -> str:
    """Return the extension of a file in lower case with its dot; empty for a name without one.

    >>> extension_of("data/Prices.CSV"), extension_of("Makefile"), extension_of(".gitignore")
    ('.csv', '', '')
    """
    return PurePosixPath(path).suffix.lower()


def walk(root: Path, counts: SourceCounts, options: SourceOptions | None = None) -> Iterator[SourceFile]:
    """Yield the text files under ``root`` in path order, and count the others in ``counts``.

    Inside a git checkout these are the files that git tracks or would track. Elsewhere ``.gitignore`` files are obeyed
    as git does, and folders of installed packages and caches such as ``node_modules`` are left out. In checkouts inside
    the folder, submodules among them, their own rules apply. Symbolic links are not followed: their targets are
    read where they are. The rules of :mod:`.leave_out` leave out what is not worth reading.

    ``options`` are completed by the folder's own settings; see :func:`options_of`.

    Raises:
        ValueError: ``root`` is not a folder, or its own settings are wrong.
    """
    if not root.is_dir():
        kind = "a file" if root.exists() else "missing"
        raise ValueError(f"{root} is not a folder ({kind}); name a folder with source code, or a git URL")
    reader = _Reader(root, counts, options_of(root, options or SourceOptions()))
    for path in sorted(set(_list(root, "", counts))):
        file = reader.read(path)
        if file is not None:
            yield file


def read_sources(roots: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of the files under several folders; a path begins with its folder's name.

    Raises:
        ValueError: a root is not a folder, or two have one name.
    """
    names: set[str] = set()
    for root in roots:
        name = root.resolve().name
        if name in names:
            raise ValueError(f"two folders are named {name!r}, so paths would not tell them apart; name one of them")
        names.add(name)
        for file in walk(root, SourceCounts()):
            yield f"{name}/{file.path}", file.text


def path_prefixes(folders: Sequence[Path]) -> list[str]:
    """Return the prefix of the paths of each root: nothing for a single root, else a name that tells the roots apart.

    >>> path_prefixes([Path("/a/lib"), Path("/b/lib"), Path("/c/app")])
    ['lib/', 'lib-2/', 'app/']
    """
    if len(folders) == 1:
        return [""]
    prefixes: list[str] = []
    for folder in folders:
        name, number = folder.name, 1
        while f"{name}/" in prefixes:
            number += 1
            name = f"{folder.name}-{number}"
        prefixes.append(f"{name}/")
    return prefixes


class _Reader:
    """Reads the files of one root."""

    def __init__(self, root: Path, counts: SourceCounts, options: SourceOptions) -> None:
        self.root = root
        self.counts = counts
        self.only, self.include, self.exclude = map(Globs.parse, (options.only, options.include, options.exclude))
        self.languages = sorted(options.ext.items(), key=lambda each: -len(each[0]))
        self.max_size = options.max_file_size or MAX_FILE_SIZE

    def read(self, path: str) -> SourceFile | None:
        """Return the file at ``path``, or count why it is left out."""
        result = self._read(path)
        if isinstance(result, SourceFile):
            return result
        self.counts.leave_out(result, path)
        return None

    def _read(self, path: str) -> SourceFile | str:
        if self.exclude.matches(path) or (self.only.patterns and not self.only.matches(path)):
            return "excluded"
        is_included = self.include.matches(path)
        data = self._bytes(path, is_included=is_included)
        if isinstance(data, str):
            return data
        decoded = decode(data)
        if decoded is None:
            return "binary"
        language = self._language(path, decoded.text)
        rule = None if is_included else rule_for_text(decoded.text, language)
        if rule is not None:
            return rule
        self.counts.read(path, decoded)
        if language is None:
            self.counts.unknown[extension_of(path)] += 1
        return SourceFile(path, decoded.text, language or UNKNOWN_KIND)

    def _bytes(self, path: str, *, is_included: bool) -> bytes | str:
        """Return the content of a file, or why it is left out."""
        full = self.root / path
        try:
            status = full.lstat()
            if stat.S_ISLNK(status.st_mode):
                return "symbolic link"
            if not stat.S_ISREG(status.st_mode):
                return "not a regular file"
            rule = None if is_included else rule_for_name(full.name)
            if rule is not None:
                return rule
            is_large = status.st_size > self.max_size * (_NOTEBOOK_FACTOR if full.suffix == ".ipynb" else 1)
            with full.open("rb") as file:
                data = file.read(_HEAD_BYTES if is_large else -1)
        except FileNotFoundError:  # listed by git, but not in the work tree; or gone since it was listed
            return "deleted"
        except OSError as error:
            return f"unreadable ({error.strerror})"
        if is_binary(data):
            return "binary"
        return "too large" if is_large else data

    def _language(self, path: str, text: str) -> str | None:
        name = path.lower()
        for extension, language in self.languages:
            if name.endswith(extension):
                return language
        return language_of_text(path, text)


def _list(root: Path, prefix: str, counts: SourceCounts) -> Iterator[str]:
    """Yield the path of each file under ``root`` after ``prefix``; in checkouts inside it their own rules apply."""
    listed = _git_files(root)
    if listed is None:
        yield from _walk_files(root, prefix, counts)
        return
    for path in listed:
        if (root / path).is_dir() and not (root / path).is_symlink():  # git lists files, and folders of checkouts
            yield from _list_checkout(root / path, f"{prefix}{path.rstrip('/')}/", counts)
        else:
            yield prefix + path


def _list_checkout(folder: Path, prefix: str, counts: SourceCounts) -> Iterator[str]:
    if (folder / ".git").exists():
        yield from _list(folder, prefix, counts)
        return
    files = list(_walk_files(folder, prefix, counts))
    if not files:
        counts.leave_out("submodule that is not checked out", "")
    yield from files


def _git_files(root: Path) -> list[str] | None:
    """Return what git tracks or would track under ``root``; ``None`` outside a work tree or where git ignores it."""
    try:
        ignored = run_git("check-ignore", "-q", ".", folder=root)
        if ignored.returncode != 1:  # 0: the root itself is ignored, 128: no work tree
            return None
        listing = run_git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate", folder=root)
    except FileNotFoundError:  # no git on this machine
        return None
    if listing.returncode != 0:
        return None
    return [os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]


def _walk_files(root: Path, prefix: str, counts: SourceCounts) -> Iterator[str]:
    """Yield what :func:`_list` yields for a folder outside git; a file below an excluded folder is not re-included."""
    folders: list[tuple[str, _Rules]] = [("", ())]
    while folders:
        path, rules = folders.pop()
        try:
            with os.scandir(root / path) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            counts.leave_out(f"unreadable folder ({error.strerror})", "")
            continue
        rules = _with_ignore_file(root, path, rules)
        for entry in entries:
            below, is_folder = path + entry.name, entry.is_dir(follow_symlinks=False)
            if entry.name == ".git" or _is_ignored(os.fsencode(below), is_folder, rules):
                continue
            if not is_folder:
                yield prefix + below
            elif entry.name in _NOT_OURS or os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                counts.left_out.setdefault("package or cache folder", Counter())[entry.name] += 1
            elif os.path.exists(os.path.join(entry.path, ".git")):
                yield from _list(Path(entry.path), f"{prefix}{below}/", counts)
            else:
                folders.append((below + "/", rules))


def _with_ignore_file(root: Path, path: str, rules: _Rules) -> _Rules:
    file = root / path / ".gitignore"
    try:
        if not stat.S_ISREG(file.lstat().st_mode):  # git follows no link here
            return rules
        return (*rules, (len(os.fsencode(path)), IgnoreFile.parse(file.read_bytes())))
    except OSError:  # missing, or unreadable, which is counted like any other file
        return rules


def _is_ignored(path: bytes, is_folder: bool, rules: _Rules) -> bool:
    for start, file in reversed(rules):  # the deepest file decides
        verdict = file.verdict(path[start:], is_folder=is_folder)
        if verdict is not None:
            return verdict
    return False
