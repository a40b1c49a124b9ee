"""Code bases of any size for ``index_scale.py``: files made of real functions, their vectors, and queries.

A template is 20 functions of Python's standard library, or one file of a repository. Each copy of a template replaces
other words in its identifiers, so that the texts, symbols and paths of two copies differ. All is decided by the seed.
"""

from __future__ import annotations

import hashlib
import json
import keyword
import random
import re
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from checkouts import repository_files
from llama_index.core.schema import Document, MetadataMode, TextNode
from numpy.typing import NDArray

from llamaindex_code_retrieval import CodeNodeParser
from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.index.sources import SourceCounts, walk
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.models.locate import locate_query_encoder
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.models.query_encoder_config import QueryEncoderConfig

ENCODER = "embedded-bare-static"
PARTS = 10
"""Top folders of a code base; file ``i`` is in folder ``i % PARTS``."""
FILTERED_PART = "part3"
TOP_K = 10
QUERIES = 100

_FUNCTIONS = 20  # of a file made of the standard library
_LINES = range(4, 61)  # of a function; a longer one is split into several nodes
_LONGEST_FILE = 600  # lines of a file of a repository
_RENAMED = 0.4  # share of the identifiers that a copy renames
_WORD = re.compile(r"(?<![\\\w%])[A-Za-z_][A-Za-z0-9_]{3,}")  # no escape, format code or prefix of a string
_KEPT = frozenset(keyword.kwlist) | {"self", "super", "print", "range"}
_BATCH = 4096  # texts that are embedded together
_SEPARATOR = "\n\n\n"

Vectors = NDArray[np.float32]
"""Unit vectors of shape ``(texts, dim)``."""


@dataclass(frozen=True, slots=True)
class Template:
    """A source of which copies are made."""

    stem: str
    extension: str
    text: str


def load_encoder() -> QueryEncoder:
    """Return the static query encoder: it embeds thousands of texts in a second, and no transformer runs."""
    teacher = QueryEncoderConfig.read(locate_query_encoder(ENCODER)).teacher_fingerprint
    encoder = QueryEncoder.load_static(ENCODER, teacher=teacher)
    if encoder is None:
        raise ValueError(f"{ENCODER} is not a static query encoder")
    return encoder


def parse(path: str, text: str, parser: CodeNodeParser) -> list[TextNode]:
    """Return the nodes of a source; ``path`` is relative to the code base."""
    nodes = parser.get_nodes_from_documents([Document(text=text, id_=path, metadata={"path": path})])
    return [node for node in nodes if isinstance(node, TextNode)]


def templates(repositories: Path | None) -> list[Template]:
    """Return the templates of the standard library, and of the repositories in a folder if there is one."""
    sources = list(library_files())
    if repositories is not None:
        for file in repository_files(repositories):
            text = file.read()
            if file.language not in ("python", "text") and text.strip() and text.count("\n") < _LONGEST_FILE:
                sources.append(Template(file.path.stem, file.path.suffix, text))
    return sources


def library_files() -> Iterator[Template]:
    """Yield groups of functions of the standard library, in the order of its modules."""
    options = SourceOptions(only=("*.py",), exclude=("test", "tests", "idlelib", "lib2to3", "site-packages"))
    codes: list[str] = []
    for file in walk(Path(sysconfig.get_path("stdlib")), SourceCounts(), options):
        codes += _functions(file.text)
        while len(codes) >= _FUNCTIONS:
            yield Template(Path(file.path).stem, ".py", _SEPARATOR.join(codes[:_FUNCTIONS]) + "\n")
            del codes[:_FUNCTIONS]


def _functions(source: str) -> Iterator[str]:
    """Yield the functions and methods of a Python source, without those nested in them."""
    lines, end = source.split("\n"), 0
    for each in definitions(source, "python"):
        if each.kind != "class" and each.start_line > end and each.end_line - each.start_line + 1 in _LINES:
            end = each.end_line
            yield textwrap.dedent("\n".join(lines[each.start_line - 1 : end]))


class Renaming:
    """Replaces one word in some identifiers by another; the same identifier is renamed alike in all of a copy."""

    def __init__(self, words: Sequence[str], *, seed: str) -> None:
        self._words = words
        self._draw = random.Random(seed)
        self._names: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """Return a source with its identifiers renamed."""
        return _WORD.sub(lambda match: self._renamed(match[0]), text)

    def _renamed(self, name: str) -> str:
        if name not in self._names:
            self._names[name] = self._new(name)
        return self._names[name]

    def _new(self, name: str) -> str:
        if name in _KEPT or name.startswith("__") or self._draw.random() > _RENAMED:
            return name
        parts = name.split("_")
        place = self._draw.randrange(len(parts))
        word = self._draw.choice(self._words)
        parts[place] = word.upper() if parts[place].isupper() else word
        return "_".join(parts)


def vocabulary(sources: Iterable[Template]) -> list[str]:
    """Return the words of all identifiers in a fixed order, each once.

    >>> vocabulary([Template("a", ".py", "def read_path(path): pass")])
    ['path', 'read']
    """
    words: set[str] = set()
    for source in sources:
        for name in _WORD.findall(source.text):
            words.update(part for part in name.lower().split("_") if len(part) > 3)
    return sorted(words - _KEPT)


@dataclass(frozen=True)
class Workload:
    """A code base on disk with the vectors of its nodes and the queries; :meth:`make` writes it."""

    folder: Path

    @property
    def root(self) -> Path:
        """Folder of the source files."""
        return self.folder / "code"

    @cached_property
    def figures(self) -> dict[str, Any]:
        """What :meth:`make` counted and measured."""
        figures: dict[str, Any] = json.loads((self.folder / "figures.json").read_text(encoding="utf-8"))
        return figures

    @cached_property
    def queries(self) -> list[str]:
        """Docstrings' first lines and identifiers, in turns."""
        queries: list[str] = json.loads((self.folder / "queries.json").read_text(encoding="utf-8"))
        return queries

    @cached_property
    def query_vectors(self) -> Vectors:
        """The vectors of :attr:`queries`."""
        return load_encoder().encode_queries(self.queries)

    @cached_property
    def least_cosines(self) -> NDArray[np.float32]:
        """For each query the cosine of the node at rank 10, by exact search."""
        cosines: NDArray[np.float32] = np.load(self.folder / "cosines.npy")
        return cosines

    def paths(self) -> list[str]:
        """Return the paths of all files below :attr:`root`."""
        lines = (self.folder / "paths.txt").read_text(encoding="utf-8").splitlines()
        return lines

    def python_paths(self, count: int, *, seed: int) -> list[str]:
        """Return files that a benchmark changes."""
        paths = [path for path in self.paths() if path.endswith(".py")]
        return random.Random(seed).sample(paths, min(count, len(paths)))

    @classmethod
    def make(cls, folder: Path, *, nodes: int, seed: int, repositories: Path | None) -> Self:
        """Write a code base of at least ``nodes`` nodes (and less than one file more) with all that belongs to it."""
        workload = cls(folder)
        workload.root.mkdir(parents=True)
        sources = templates(repositories)
        words = vocabulary(sources)
        random.Random(seed).shuffle(sources)
        parser, encoder, queries = CodeNodeParser(), load_encoder(), _Queries(seed)
        counts = {"nodes": 0, "files": 0, "bytes": 0}
        with VectorWriter(folder, encoder) as vectors, (folder / "paths.txt").open("w", encoding="utf-8") as paths:
            while counts["nodes"] < nodes:
                copy, place = divmod(counts["files"], len(sources))
                if place == 0:
                    renaming = Renaming(words, seed=f"{seed}-{copy}")
                template = sources[place]
                name = f"{renaming(template.stem)}{template.extension}"
                path = f"part{counts['files'] % PARTS}/copy{copy}/{place:05}_{name}"
                text = renaming(template.text)
                target = workload.root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
                paths.write(path + "\n")
                parsed = parse(path, text, parser)
                vectors.add([node.get_content(MetadataMode.EMBED) for node in parsed])
                queries.add(parsed)
                counts["nodes"] += len(parsed)
                counts["files"] += 1
                counts["bytes"] += len(text.encode())
        (folder / "queries.json").write_text(json.dumps(queries.draw()), encoding="utf-8")
        (folder / "figures.json").write_text(json.dumps(counts), encoding="utf-8")
        workload._search_exactly()
        return workload

    def _search_exactly(self) -> None:
        queries, best = self.query_vectors, np.full((len(self.queries), TOP_K), -2.0, np.float32)
        for block in VectorCache(self.folder).blocks():
            best = np.sort(np.concatenate([best, queries @ block.T], axis=1), axis=1)[:, -TOP_K:]
        np.save(self.folder / "cosines.npy", best[:, 0])


class _Queries:
    """Keeps the first line of one docstring and one symbol of each file that has both."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._docstrings: dict[str, None] = {}
        self._symbols: dict[str, None] = {}

    def add(self, nodes: Sequence[TextNode]) -> None:
        docstrings = [node.metadata.get("docstring", "").strip().split("\n")[0] for node in nodes]
        long = [line for line in docstrings if len(line.split()) > 3]
        names = [node.metadata.get("symbol", "") for node in nodes]
        symbols = [name for name in names if len(name) > 5 and not name.startswith("__")]
        if long and symbols:
            self._docstrings[self._draw.choice(long)] = None
            self._symbols[self._draw.choice(symbols)] = None

    def draw(self) -> list[str]:
        count = min(QUERIES // 2, len(self._docstrings), len(self._symbols))
        docstrings = self._draw.sample(list(self._docstrings), count)
        symbols = self._draw.sample(list(self._symbols), count)
        return [query for pair in zip(docstrings, symbols, strict=True) for query in pair]


# --- vectors by text -------------------------------------------------------------------------------------------------


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class VectorWriter:
    """Writes vectors by text for :class:`VectorCache`: half precision, one row for each text."""

    def __init__(self, folder: Path, encoder: QueryEncoder) -> None:
        self._folder = folder
        self._encoder = encoder
        self._file = (folder / "vectors.f16").open("wb")
        self._keys: list[int] = []
        self._texts: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()
        keys = np.array(self._keys, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        np.save(self._folder / "keys.npy", keys[order])
        np.save(self._folder / "rows.npy", order)

    def add(self, texts: Sequence[str]) -> None:
        """Embed and write the texts."""
        self._texts += texts
        if len(self._texts) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._texts:
            self._file.write(self._encoder.encode_queries(self._texts).astype(np.float16).tobytes())
            self._keys += map(_key, self._texts)
            self._texts.clear()


class VectorCache:
    """The vectors of a workload by text, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self._keys = np.load(folder / "keys.npy", mmap_mode="r")
        self._rows = np.load(folder / "rows.npy", mmap_mode="r")
        self._vectors = np.memmap(folder / "vectors.f16", np.float16, "r").reshape(len(self._keys), -1)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self._vectors.shape[1])

    def get(self, text: str) -> Vectors | None:
        """Return the vector of a text, or ``None`` if it is not a node of the workload."""
        key = np.uint64(_key(text))
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            return None
        return _unit(self._vectors[self._rows[place]])

    def blocks(self) -> Iterator[Vectors]:
        """Yield all vectors in blocks."""
        for start in range(0, len(self), _BATCH):
            yield _unit(self._vectors[start : start + _BATCH])


def _unit(vectors: NDArray[np.float16]) -> Vectors:
    single = vectors.astype(np.float32)
    unit: Vectors = single / np.linalg.norm(single, axis=-1, keepdims=True)
    return unit
