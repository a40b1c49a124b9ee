"""``CodeService``: search, read and outline the code of several repositories, for any number of threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from llamaindex_code_retrieval._io import check_is_list, default_cache_folder
from llamaindex_code_retrieval.chat.question import check_question
from llamaindex_code_retrieval.index.filters import NodeFilter
from llamaindex_code_retrieval.index.folder import read_settings
from llamaindex_code_retrieval.index.locate import is_index
from llamaindex_code_retrieval.models.catalog import EMBEDDED_STATIC
from llamaindex_code_retrieval.models.locate import is_static_model, locate_model
from llamaindex_code_retrieval.models.query_encoder_config import find_query_encoder
from llamaindex_code_retrieval.serving.freshness import can_write
from llamaindex_code_retrieval.serving.models import QuestionModels, check_searchable
from llamaindex_code_retrieval.serving.opened import IndexPlace, locate_index
from llamaindex_code_retrieval.serving.repository import Repository, unique_name
from llamaindex_code_retrieval.serving.requests import Requests
from llamaindex_code_retrieval.serving.results import CodeHit, CodeText, Outline, SearchResult
from llamaindex_code_retrieval.serving.updates import IndexUpdater

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.code_index import CodeIndex

MAX_LIMIT = 100
"""Most hits of one request."""
_MAX_FILTERS = 50
"""Most globs or languages of one request."""


class CodeService:
    """Searches and reads the code of one repository or more; all methods may be called from any thread.

    Each of ``folders`` is a folder with code, whose index is found as ``code-retrieval search`` finds it, or the folder
    of an index. Unless ``read_only``, an index that is missing is built with ``model`` in the background: by default
    the static one, which takes seconds; while another makes its vectors, code is found by words. And an index is
    compared with its files before an answer, at most once in ``refresh_seconds``. An update that takes a moment is done
    before the answer; during a longer one, the ``notes`` of a result say what is missing.

    The model is loaded with the first search, once for all repositories. ``fast_query`` embeds questions with a small
    query encoder in its place. ``max_concurrent`` requests run at once; others wait for ``timeout_seconds``.

    Raises:
        ValueError: no folder, one that is missing or cannot be indexed, a damaged index, an index of another model than
            ``model``, an unknown model, or a value out of range.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        model: str | None = None,
        fast_query: str | None = None,
        read_only: bool = False,
        refresh_seconds: float = 1.0,
        max_concurrent: int = 8,
        timeout_seconds: float = 30.0,
        cache_folder: str | Path | None = None,
    ) -> None:
        check_is_list(folders, "folders")
        if not folders:
            raise ValueError("there is nothing to serve: name at least one folder")
        if not refresh_seconds >= 0:
            raise ValueError(f"refresh_seconds must be at least 0, got {refresh_seconds}")
        self._requests = Requests(max_concurrent=max_concurrent, timeout_seconds=timeout_seconds)
        self._models = QuestionModels(fast_query=fast_query)
        self._started = time.monotonic()
        if model is not None:
            locate_model(model)
        self._repositories: dict[str, Repository] = {}
        places = list({place.folder: place for place in map(locate_index, folders)}.values())
        for place in places:
            _check(place, model=model, fast_query=fast_query, read_only=read_only)
        cache = default_cache_folder() if cache_folder is None else Path(cache_folder)
        for place in places:
            name = unique_name(place.roots[0], set(self._repositories))
            updater = None
            if not read_only and can_write(place.folder):
                updater = IndexUpdater(place.folder, place.roots, model=model or EMBEDDED_STATIC, cache_folder=cache)
            self._repositories[name] = Repository(
                name, place, self._models, updater=updater, refresh_seconds=refresh_seconds
            )
        for repository in self._repositories.values():
            repository.start()

    @property
    def repositories(self) -> list[Repository]:
        """The repositories, each with its ``name``, its ``roots`` and its ``state``."""
        return list(self._repositories.values())

    def search(
        self,
        question: str,
        *,
        limit: int = 8,
        repository: str | None = None,
        paths: Sequence[str] = (),
        not_paths: Sequence[str] = (),
        languages: Sequence[str] = (),
        kind: str | None = None,
        include_tests: bool = True,
    ) -> SearchResult:
        """Return the best ``limit`` hits for a question in natural language, code or a stack trace.

        Hits of several repositories take turns by their rank; one of them that cannot be searched is a note.
        ``paths`` and ``not_paths`` are globs as in ``.gitignore``, which may begin with the name of one of several
        repositories; ``kind`` is one of :data:`.outline.KINDS`.

        Raises:
            ValueError: a wrong argument, or no repository that can be searched.
            TimeoutError: too many requests are running.
        """
        with self._requests.run("search", repr(question)):
            check_question(question)
            _check_limit(limit)
            chosen = self.repositories if repository is None else [self._named(repository)]

            def search(each: Repository) -> SearchResult:
                several = len(self._repositories) > 1
                node_filter = search_filter(
                    paths=_below(each.name, paths) if several else paths,
                    not_paths=_below(each.name, not_paths) if several else not_paths,
                    languages=languages,
                    kind=kind,
                    include_tests=include_tests,
                )
                return each.search(question, limit=limit, node_filter=node_filter)

            return search(chosen[0]) if len(chosen) == 1 else _search_all(chosen, search, limit=limit)

    @contextmanager
    def index(self, question: str, *, repository: str | None = None) -> Iterator[tuple[CodeIndex[Any], list[str]]]:
        """Yield the index of a repository for LlamaIndex's engines, to search it for ``question`` in the block.

        What to know of its state comes with it. The index may be read after the block too.

        Raises:
            ValueError: it cannot be searched; or there are several repositories and ``repository`` names none.
            TimeoutError: too many requests are running.
        """
        with self._requests.run("ask", repr(question)):
            if repository is None and len(self._repositories) > 1:
                raise ValueError(f"name the repository to ask: one of {', '.join(self._repositories)}")
            yield (self.repositories[0] if repository is None else self._named(repository)).index()

    def read(
        self, path: str, first: int | None = None, last: int | None = None, *, repository: str | None = None
    ) -> CodeText:
        """Return lines of a file as they are now, by default all, as far as these are not too many.

        ``path`` is that of a hit, or absolute and below a root; with several repositories it may begin with the name of
        one. Only files that the index has, or would take, are read.

        Raises:
            ValueError: there is no such file or line, it is outside the roots, or it is no text file of the index.
            TimeoutError: too many requests are running.
        """
        with self._requests.run("read", f"{path}:{first or ''}-{last or ''}"):
            _check_lines(first, last)
            owner, clean = self._owner(path, repository)
            return owner.read(clean, first, last)

    def related(
        self, path: str, line: int | None = None, *, limit: int = 8, repository: str | None = None
    ) -> SearchResult:
        """Return code that calls, is called by, is like or belongs to what is at a line of a file, the best first.

        Raises:
            ValueError: there is no such file, or no code at the line.
            TimeoutError: too many requests are running.
        """
        with self._requests.run("related", f"{path}:{line or ''}"):
            _check_limit(limit)
            _check_lines(line, line)
            owner, clean = self._owner(path, repository)
            return owner.related(clean, line, limit=limit)

    def outline(self, path: str = "", *, repository: str | None = None) -> Outline:
        """Return the definitions of a file, or the files and folders in a folder; an empty path is a repository.

        Raises:
            ValueError: there is no such file or folder.
            TimeoutError: too many requests are running.
        """
        with self._requests.run("outline", path):
            owner, clean = self._owner(path, repository)
            return owner.outline(clean)

    def status(self) -> dict[str, Any]:
        """Return the state of each repository and counts of the requests, as JSON."""
        return {
            "repositories": [repository.status() for repository in self._repositories.values()],
            "model_loaded": self._models.is_loaded,
            "requests": self._requests.count,
            "failed_requests": self._requests.failed,
            "seconds": round(time.monotonic() - self._started, 1),
        }

    def health(self) -> dict[str, Any]:
        """Return ``status``, "ok" where every repository can be searched, and the state of each, as JSON."""
        states = {repository.name: repository.state for repository in self._repositories.values()}
        is_ok = all(state in ("ready", "updating", "building") for state in states.values())
        return {"status": "ok" if is_ok else "degraded", "repositories": states}

    def close(self) -> None:
        """Refuse further requests, stop updates after the batch under way, and close the indexes."""
        self._requests.close()
        for repository in self._repositories.values():
            repository.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _named(self, name: str) -> Repository:
        if name not in self._repositories:
            raise ValueError(f"there is no repository {name!r}; there are {', '.join(self._repositories)}")
        return self._repositories[name]

    def _owner(self, path: str, repository: str | None) -> tuple[Repository, str]:
        """Return the repository of a path, and the path without the name of the repository at its beginning."""
        if repository is not None:
            return self._named(repository), path
        if len(self._repositories) == 1:
            return self.repositories[0], path
        name, _, rest = path.strip().partition("/")
        if name in self._repositories:
            return self._repositories[name], rest
        owners = [each for each in self._repositories.values() if path.strip() and each.has_file(path)]
        if len(owners) != 1:
            found = "in no repository" if not owners else f"in {', '.join(each.name for each in owners)}"
            raise ValueError(
                f"{path!r} is {found}; begin the path with the name of one of {', '.join(self._repositories)}, as in "
                f"{self.repositories[0].name}/{path or 'src'}"
            )
        return owners[0], path


def search_filter(
    *,
    paths: Sequence[str] = (),
    not_paths: Sequence[str] = (),
    languages: Sequence[str] = (),
    kind: str | None = None,
    include_tests: bool = True,
) -> NodeFilter:
    """Return the filter of a request.

    Raises:
        ValueError: a value is wrong, or there are too many.
    """
    for values in (paths, not_paths, languages):
        if len(values) > _MAX_FILTERS:
            raise ValueError(f"at most {_MAX_FILTERS} values restrict a search, got {len(values)}; name fewer")
    return NodeFilter(
        paths=tuple(paths),
        not_paths=tuple(not_paths),
        languages=tuple(languages) or None,
        kinds=None if kind is None else (kind,),
        tests=None if include_tests else False,
    )


def _check(place: IndexPlace, *, model: str | None, fast_query: str | None, read_only: bool) -> None:
    """Check before long work that an index can be searched or built.

    Raises:
        ValueError: it cannot be.
    """
    if is_index(place.folder):
        settings = read_settings(place.folder)
        check_searchable(settings, place.folder)
        name = settings["embedding"]["model_name"]
        if model not in (None, name):
            raise ValueError(
                f"the index in {place.folder} was built with the model {name}, not {model}; leave the model out, or "
                "remove the index"
            )
        if fast_query is not None:
            if is_static_model(name):
                raise ValueError(f"a query encoder has no effect on the index in {place.folder}, whose model is static")
            find_query_encoder(fast_query, teacher=settings["fingerprint"])
        return
    root = place.roots[0]
    if read_only:
        raise ValueError(
            f"{root} has no index, and read_only makes none; build one with: code-retrieval index {root} --out "
            f"{place.folder}"
        )
    if not can_write(place.folder):
        raise ValueError(
            f"no index can be written in {place.folder}; build one elsewhere with: code-retrieval index {root} --out "
            "DIR, and name DIR in place of the folder"
        )


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit must be from 1 to {MAX_LIMIT}, got {limit}")


def _check_lines(first: int | None, last: int | None) -> None:
    if (first is not None and first < 1) or (last is not None and last < 1):
        raise ValueError(f"lines are counted from 1, got {first if first is not None and first < 1 else last}")
    if first is not None and last is not None and last < first:
        raise ValueError(f"the last line, {last}, is before the first one, {first}; swap them")


def _below(name: str, globs: Sequence[str]) -> list[str]:
    """Return globs for the paths of the repository with this name, without the name that paths in results begin with.

    >>> _below("shop", ["shop/src/**", "lib/*.py", "*.go"])
    ['src/**', 'lib/*.py', '*.go']
    """
    return [glob.removeprefix(f"{name}/") for glob in globs]


def _search_all(
    repositories: Sequence[Repository], search: Callable[[Repository], SearchResult], *, limit: int
) -> SearchResult:
    """Return the hits of all repositories by rank, those of equal rank in the order of the repositories.

    Raises:
        ValueError: none of them can be searched.
    """
    rankings: list[list[CodeHit]] = []
    notes: list[str] = []
    errors: list[ValueError] = []
    for repository in repositories:
        try:
            result = search(repository)
        except ValueError as error:
            errors.append(error)
            notes.append(f"{repository.name}: {error}")
            continue
        rankings.append(result.hits)
        notes += [f"{repository.name}: {note}" for note in result.notes]
    if not rankings:
        raise errors[0]
    by_turns = (hit for rank in zip_longest(*rankings) for hit in rank if hit is not None)
    return SearchResult(list(islice(by_turns, limit)), notes)
