"""The files of an update of an index: from its folders, from texts or from nodes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.schema import TextNode

from llamaindex_code_retrieval._io import Progress
from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.index.changes import Changes, FileChange, find_changes
from llamaindex_code_retrieval.index.embedders import Embedder
from llamaindex_code_retrieval.index.file_state import FileState, SourceCounts, text_digest
from llamaindex_code_retrieval.index.leave_out import describe_left_out
from llamaindex_code_retrieval.index.locate import restore_root
from llamaindex_code_retrieval.index.source_roots import SourceRoot
from llamaindex_code_retrieval.index.storage import Storage
from llamaindex_code_retrieval.index.tables import Reading
from llamaindex_code_retrieval.index.update import FileNodes, IndexReport, bounded_parser, parse_text

_NO_STATUS = (-2, 0, 0, 0, 0)
"""Size, times and inode of what is no file on disk: no status equals it."""


class SourceFiles:
    """Reads and parses the files of the roots of an index that are new or changed."""

    def __init__(
        self,
        roots: Sequence[SourceRoot],
        storage: Storage,
        parser: CodeNodeParser,
        embedder: Embedder,
        progress: Progress,
    ) -> None:
        self.rules: list[dict[str, Any]] = [root.rules.to_json() for root in roots]
        self.touched: list[FileState] = []
        """Files whose status has changed and whose content has not."""
        self._roots = roots
        self._progress = progress
        self._parser = bounded_parser(parser, embedder)
        with storage.reading() as reading:
            self._known = reading.files()
            saved = reading.settings("roots", "rules")
            folders = [restore_root(root, storage.folder) for root in saved["roots"]]
            self._has_new_roots = folders != [root.folder for root in roots]
            self._is_empty = not reading.file_count()
            self.read_all = saved["rules"] != json.loads(json.dumps(self.rules)) or not has_same_nodes(
                reading, parser, embedder
            )
            """Whether unchanged files are read too, because their nodes may be others now."""
        self._changes: Changes | None = None

    @property
    def counts(self) -> SourceCounts:
        """The counts of all files, complete when :meth:`files` has been iterated."""
        return SourceCounts() if self._changes is None else self._changes.counts

    def files(self) -> Iterator[FileNodes]:
        """Yield the files that are new or changed, with their nodes; may be called again.

        Raises:
            ValueError: the index is empty or has had other roots, and there is no file to read.
        """
        self.touched.clear()
        self._changes = find_changes(self._roots, self._known, read_all=self.read_all, on_progress=self._progress)
        waiting: list[FileNodes] = []  # files that are left out, until there is one that is not
        is_empty = self._is_empty or self._has_new_roots
        for change in self._changes:
            if change.text is None and change.is_touched:
                self.touched.append(change.state)
                continue
            file = self._parse(change)
            is_empty = is_empty and bool(change.state.left_out)
            waiting.append(file)
            if not is_empty:
                yield from waiting
                waiting.clear()
        if is_empty and (self._has_new_roots or not self._known) and not self._kept(waiting):
            folders = ", ".join(str(root.folder) for root in self._roots)
            raise ValueError(
                f"no file to index in {folders} ({describe_left_out(self.counts.left_out)}); "
                "name another folder, or other source options"
            )
        yield from waiting

    def add_counts(self, report: IndexReport) -> IndexReport:
        """Return ``report`` with the counts of the files that were left out or read in another way than most."""
        counts = self.counts
        return replace(
            report,
            left_out={reason: dict(files.most_common()) for reason, files in sorted(counts.left_out.items())},
            encodings={how: dict(files.most_common()) for how, files in sorted(counts.encodings.items())},
            unknown=dict(counts.unknown.most_common()),
        )

    def removed(self) -> Collection[str]:
        """Return the paths of the files that are gone."""
        return [] if self._changes is None else self._changes.removed

    def _kept(self, changed: Sequence[FileNodes]) -> Collection[str]:
        """Return the paths of the indexed files that are unchanged."""
        indexed = {path for path, state in self._known.items() if not state.left_out}
        return indexed - {file.state.path for file in changed} - set(self.removed())

    def _parse(self, change: FileChange) -> FileNodes:
        if change.text is None:  # it is left out now
            return FileNodes(change.state, [])
        return parse_text(change.text, change.state, self._parser, language=change.state.language)


def files_of_texts(
    texts: Mapping[str, str], known: Mapping[str, FileState], parser: CodeNodeParser, *, on_progress: Progress
) -> Iterator[FileNodes]:
    """Yield those of ``texts``, source by path, whose content is not that of the ``known`` files, with their nodes."""
    for done, path in enumerate(sorted(texts), start=1):
        state = FileState(path, *_NO_STATUS, text_digest(texts[path]))
        if not (path in known and known[path].has_content_of(state)):
            yield parse_text(texts[path], state, parser, language=None)
        on_progress("parse", done, len(texts))


def has_same_nodes(reading: Reading, parser: CodeNodeParser, embedder: Embedder) -> bool:
    """Return whether model and parser are those that made all nodes: others make other nodes of a text."""
    settings = reading.settings("fingerprint", "parser", "unfinished")
    return bool(
        not settings["unfinished"]
        and settings["fingerprint"] == embedder.fingerprint
        and settings["parser"] == json.loads(json.dumps(parser.to_dict()))
    )


def files_of_nodes(nodes: Sequence[TextNode]) -> list[FileNodes]:
    """Return the nodes by their files: those that their metadata names, else one for each node.

    Raises:
        ValueError: two nodes have the same id.
    """
    repeated = len(nodes) - len({node.node_id for node in nodes})
    if repeated:
        raise ValueError(f"{repeated} of {len(nodes)} nodes repeat the id of another one")
    by_path: dict[str, list[TextNode]] = {}
    for node in nodes:
        by_path.setdefault(str(node.metadata.get("path") or node.node_id), []).append(node)
    return [FileNodes(FileState(path, *_NO_STATUS, ""), group) for path, group in by_path.items()]
