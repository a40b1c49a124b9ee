"""One repository of a service: search, read and outline its code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval.index.filters import NodeFilter
from llamaindex_code_retrieval.index.locate import is_index
from llamaindex_code_retrieval.index.places import Place, rows_at
from llamaindex_code_retrieval.index.rank import Ranking
from llamaindex_code_retrieval.index.related import find_related
from llamaindex_code_retrieval.index.search import search
from llamaindex_code_retrieval.index.source_roots import file_of, saved_roots
from llamaindex_code_retrieval.ranking.model import default_model
from llamaindex_code_retrieval.serving.files import index_path, no_file, read_file
from llamaindex_code_retrieval.serving.freshness import Freshness
from llamaindex_code_retrieval.serving.models import QuestionModels
from llamaindex_code_retrieval.serving.opened import IndexPlace, OpenedIndex
from llamaindex_code_retrieval.serving.outline import outline_of_file, outline_of_folder
from llamaindex_code_retrieval.serving.results import CodeHit, CodeText, Outline, SearchResult
from llamaindex_code_retrieval.serving.updates import IndexUpdater

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.code_index import CodeIndex

MAX_LINES = 2_000
"""Lines of a file that are read at once."""
MAX_CHARACTERS = 200_000
"""Characters of a file that are read at once."""


class Repository:
    """The code of one index; every method first brings the index up to date, as far as that takes a moment."""

    def __init__(
        self,
        name: str,
        place: IndexPlace,
        models: QuestionModels,
        *,
        updater: IndexUpdater | None,
        refresh_seconds: float,
    ) -> None:
        self.name = name
        self.folder = place.folder
        """Of the index."""
        self.roots = place.roots
        self._models = models
        self._opened = OpenedIndex(place.folder)
        self._freshness = Freshness(self._opened, place.roots, updater, refresh_seconds=refresh_seconds)
        self.is_read_only = updater is None

    @property
    def state(self) -> str:
        """See :attr:`.Freshness.state`."""
        return self._freshness.state

    def start(self) -> None:
        """Begin to build an index that is missing or not finished."""
        self._freshness.start()

    def close(self) -> None:
        """Stop an update and close the index."""
        self._freshness.close()
        self._opened.close()

    def search(self, question: str, *, limit: int, node_filter: NodeFilter) -> SearchResult:
        """Return the best hits for a question."""
        notes = self._freshness.refresh()
        model = self._models.load(self._opened.settings(), self.folder)
        with self._opened.view() as view:
            ranking = Ranking(top_k=limit, model=default_model())
            found = search(view, question, model, ranking=ranking, node_filter=node_filter)
        hits = [CodeHit.of(self.name, node.metadata, node.text, score=node.score) for node in found]
        return SearchResult(hits, notes)

    def index(self) -> tuple[CodeIndex[Any], list[str]]:
        """Return the index for LlamaIndex's engines, and what to know of its state."""
        notes = self._freshness.refresh()
        return self._opened.code_index(self._models.fast_query), notes

    def related(self, path: str, line: int | None, *, limit: int) -> SearchResult:
        """Return what is related to a line of a file, or to the whole file."""
        notes = self._freshness.refresh()
        clean = index_path(path, self.roots)
        with self._opened.view() as view:
            if view.reading.file(clean) is None:
                raise ValueError(no_file(clean, view.reading))
            place = Place(str(file_of(clean, self.roots)), line, line)  # else it would be that from the working folder
            related = find_related(view, rows_at(view.reading, place, self.roots), top_k=limit)
            rows = view.rows(number for hit, _ in related for number in (hit.number, *hit.others))
        hits = [
            CodeHit.of(self.name, each.metadata(rows), rows[each.hit.number].text, score=each.hit.score)
            for each in related
        ]
        return SearchResult(hits, notes)

    def read(self, path: str, first: int | None, last: int | None) -> CodeText:
        """Return lines of a file as they are on disk now."""
        self._freshness.refresh()
        clean = index_path(path, self.roots)
        with self._opened.view(words=False) as view:
            roots = saved_roots(self.roots, view.settings["rules"])
            state, text = read_file(clean, roots, view.reading)
        lines = text.split("\n")
        if lines[-1] == "" and len(lines) > 1:
            lines.pop()  # the end of the last line
        first = 1 if first is None else first
        if first > len(lines):
            count = "1 line" if len(lines) == 1 else f"{len(lines):,} lines"
            raise ValueError(f"{clean} has {count}, so there is no line {first}; read {clean} from an earlier line")
        end = min(len(lines), first + MAX_LINES - 1, len(lines) if last is None else last)
        shown = _within(lines[first - 1 : end], MAX_CHARACTERS)
        return CodeText(
            repository=self.name,
            path=clean,
            first=first,
            last=first + len(shown) - 1,
            total=len(lines),
            text="\n".join(shown),
            language=state.language,
        )

    def outline(self, path: str) -> Outline:
        """Return the definitions of a file, or the files of a folder with their outermost definitions."""
        notes = self._freshness.refresh()
        clean = index_path(path, self.roots)
        with self._opened.view(words=False) as view:
            state = view.reading.file(clean)
            if state is not None and not state.left_out:
                return Outline(
                    repository=self.name,
                    path=clean,
                    files=[outline_of_file(view.reading, state)],
                    folders={},
                    notes=notes,
                )
            files, folders = outline_of_folder(view.reading, clean)
        return Outline(repository=self.name, path=clean, files=files, folders=folders, notes=notes)

    def status(self) -> dict[str, Any]:
        """Return the state of the index and its counts, as JSON."""
        known: dict[str, Any] = {
            "name": self.name,
            "roots": list(map(str, self.roots)),
            "index": str(self.folder),
            "state": self.state,
            "read_only": self.is_read_only,
            "problem": self._freshness.problem,
        }
        try:
            with self._opened.view(words=False) as view:
                return {
                    **known,
                    "files": view.reading.file_count(),
                    "nodes": view.reading.count("nodes"),
                    "missing_vectors": len(view.reading.unembedded()),
                    "languages": view.reading.languages(),
                    "updated": view.settings["updated"],
                    "model": _model_name(view.settings),
                }
        except (OSError, ValueError):  # there is no index yet, or it is damaged
            return {**known, "files": 0, "nodes": 0, "missing_vectors": 0, "languages": {}, "updated": "", "model": ""}

    def has_file(self, path: str) -> bool:
        """Return whether the index has a file at a path, or one below it."""
        if not is_index(self.folder):
            return False
        try:
            clean = index_path(path, self.roots)
        except ValueError:
            return False
        with self._opened.view(words=False) as view:
            state = view.reading.file(clean)
            return state is not None or any(each.startswith(f"{clean}/") for each in view.reading.paths())


def _model_name(settings: Mapping[str, Any]) -> str:
    return str(settings["embedding"].get("model_name") or "")


def _within(lines: list[str], limit: int) -> list[str]:
    """Return the first lines that have at most ``limit`` characters together; of a longer first one, its beginning."""
    kept: list[str] = []
    for line in lines:
        limit -= len(line) + 1
        if limit < 0:
            break
        kept.append(line)
    return kept or [lines[0][: limit + len(lines[0])]]


def unique_name(root: Path, taken: set[str]) -> str:
    """Return the name of a folder, with a number where another repository has this name."""
    base = root.name or "root"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name
