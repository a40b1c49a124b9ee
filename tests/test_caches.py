"""Words and vectors beside the database: searches are right whatever becomes of them, and an update renews them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from indexes import HashEmbedding
from llama_index.core.schema import TextNode

from llamaindex_code_retrieval import CodeIndex
from llamaindex_code_retrieval.index import caches
from llamaindex_code_retrieval.index.caches import Caches
from llamaindex_code_retrieval.index.storage import Storage
from llamaindex_code_retrieval.index.view import open_words
from llamaindex_code_retrieval.index.words import WordDocument

Found = list[list[tuple[str, float]]]


def _nodes(numbers: range) -> list[TextNode]:
    return [
        TextNode(
            id_=f"{i}",
            text=f"def name_{i}(): return {i % 5}",
            metadata={"path": f"{i}.py"},
            excluded_embed_metadata_keys=["path"],
        )
        for i in numbers
    ]


def _found(index: CodeIndex) -> Found:
    with index.view() as view:
        query = index.embedding.get_query_embedding("return 4")
        hits = [view.nearest(query, top_k=8), view.matching("return 4", top_k=8)]
        return [[(hit.id, round(hit.score, 3)) for hit in each] for each in hits]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_FEW_VECTORS", 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index with a file of vectors."""
    with CodeIndex(HashEmbedding(), tmp_path / "index") as index:
        index.update_nodes(_nodes(range(40)))
    return tmp_path / "index"


@pytest.fixture
def index(folder: Path) -> Iterator[CodeIndex[HashEmbedding]]:
    with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
        yield index


def _saved(folder: Path) -> dict[str, dict[str, object]]:
    storage = Storage(folder)
    with storage.reading() as reading:
        saved = reading.settings("words", "vectors")
    storage.close()
    return saved


def _cache(folder: Path, kind: str) -> Path:
    [path] = folder.glob(f"{kind}-*")
    return path


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _damage(path: Path) -> None:
    file = path / "meta.json" if path.is_dir() else path
    _write_anew(file, b"{" + file.read_bytes()[7:])


def _cut_off(path: Path) -> None:
    for file in [path] if path.is_file() else list(path.iterdir()):
        _write_anew(file, file.read_bytes()[: file.stat().st_size // 2])


def _write_anew(file: Path, content: bytes) -> None:
    """Replace a file, which a thread of tantivy may still have mapped: a mapped file that shrinks is a bus error."""
    file.unlink()
    file.write_bytes(content)


def _replace_by_that_of_another_index(path: Path) -> None:
    with CodeIndex(HashEmbedding(), path.parent.parent / "other") as other:
        other.update_nodes(_nodes(range(100, 120)))
    kind = path.name.split("-")[0]
    _remove(path)
    shutil.move(_cache(path.parent.parent / "other", kind), path)


@pytest.mark.parametrize("damage", [_remove, _damage, _cut_off, _replace_by_that_of_another_index])
@pytest.mark.parametrize("kind", ["words", "vectors"])
def test_a_cache_that_cannot_be_used_is_named_and_made_again(
    kind: str, damage: Callable[[Path], None], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
        expected = _found(index)
    damage(_cache(folder, kind))
    with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
        assert _found(index) == expected
        assert caplog.records
        old = _saved(folder)[kind]
        index.update_nodes(_nodes(range(40)))
        assert _saved(folder)[kind]["token"] != old["token"]
    caplog.clear()
    with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
        assert _found(index) == expected
        assert len(list(folder.glob(f"{kind}-*"))) == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_words_that_are_older_than_the_database_are_made_again(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a backup of which only a part was restored."""
    monkeypatch.setattr(caches, "_FEW_NODES", 0)  # else each removal makes them anew
    monkeypatch.setattr(caches, "_CHANGED", 1)
    shutil.copytree(_cache(folder, "words"), tmp_path / "older")
    with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
        index.update_nodes(_nodes(range(20, 60)))
        expected = {node.node_id for node in index.nodes()}
    words = _cache(folder, "words")
    shutil.rmtree(words)
    shutil.move(tmp_path / "older", words)
    with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
        assert {hit.node_id for hit in index.search("return", mode="bm25", top_k=99)} == expected
        assert caplog.text.count("are older than its database") == 1
        index.update_nodes(_nodes(range(20, 60)))
    caplog.clear()
    with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
        assert {hit.node_id for hit in index.search("return", mode="bm25", top_k=99)} == expected
    assert "older" not in caplog.text


@pytest.mark.parametrize("few", [0, 1_000])
def test_words_that_the_database_never_got_are_not_found(
    few: int, folder: Path, index: CodeIndex[HashEmbedding], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the commit of the words and that of the database. The next update removes them."""
    monkeypatch.setattr(caches, "_FEW_NODES", few)
    monkeypatch.setattr(caches, "_CHANGED", 1)
    expected = _found(index)
    storage = Storage(folder)
    first = storage.reserve(30)
    with Caches(storage) as lost:
        lost.add_words(WordDocument(first + i, "return", "return", "", "", "return 4") for i in range(30))
    storage.close()
    with CodeIndex.open(folder, embedding=HashEmbedding()) as again:
        for each in (index, again):
            assert [each_id for each_id, _ in _found(each)[1]] == [each_id for each_id, _ in expected[1]]
        again.update_nodes(_nodes(range(41)))
        with again.view() as view:
            assert {hit.id for hit in view.matching("return", top_k=99)} == {f"{i}" for i in range(41)}
    saved = _saved(folder)["words"]
    words = open_words(folder, saved)
    assert (words.documents, words.opstamp()) == (41, saved["opstamp"])


def test_an_old_view_finds_what_was_removed_and_purged(index: CodeIndex[HashEmbedding], folder: Path) -> None:
    with index.view() as view:
        before = view.matching("return", top_k=99), view.nearest([1.0] * 16, top_k=99)
        with CodeIndex.open(folder, embedding=HashEmbedding()) as other:
            other.update_nodes(_nodes(range(100, 130)))
            with other.view() as newest:
                assert newest.reading.count("removed_words") == 0  # they are purged
        assert (view.matching("return", top_k=99), view.nearest([1.0] * 16, top_k=99)) == before
        assert len(view.rows(hit.number for hit in before[0])) == 40
    assert {node.node_id for node in index.nodes()} == {f"{i}" for i in range(100, 130)}
    assert len(index.search("return", mode="bm25", top_k=99)) == 30


def test_the_file_of_vectors_is_renewed_when_a_twentieth_has_changed(
    folder: Path, index: CodeIndex[HashEmbedding], monkeypatch: pytest.MonkeyPatch
) -> None:
    index.update_nodes(_nodes(range(400)))
    first = _saved(folder)["vectors"]
    assert first["count"] == 400
    index.update_nodes(_nodes(range(5, 405)))  # five added, five removed: 10 of 400
    index.update_nodes(_nodes(range(10, 410)))
    assert _saved(folder)["vectors"] == first
    index.update_nodes(_nodes(range(11, 410)))
    second = _saved(folder)["vectors"]
    assert (second["count"], second["token"] != first["token"]) == (399, True)
    with index.view() as view:
        assert view.reading.count("removed") == 0
    assert len(list(folder.glob("vectors-*"))) == 1
    index.update_nodes(_nodes(range(5)))
    assert _saved(folder)["vectors"] is None
    assert list(folder.glob("vectors-*")) == []


def test_words_are_made_anew_when_many_documents_were_removed(
    folder: Path, index: CodeIndex[HashEmbedding], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed documents count in the frequencies of words; without them scores are those of a new index."""
    monkeypatch.setattr(caches, "_FEW_NODES", 10)
    monkeypatch.setattr(caches, "_CHANGED", 5)
    token = _saved(folder)["words"]["token"]
    for first in (3, 6):  # six of 34 nodes are less than a fifth
        index.update_nodes(_nodes(range(first, 40)))
        assert _saved(folder)["words"]["token"] == token
    index.update_nodes(_nodes(range(7, 40)))
    assert _saved(folder)["words"]["token"] != token
    for numbers in (range(7, 40), range(6)):  # of few nodes, whenever one is removed
        index.update_nodes(_nodes(numbers))
        with CodeIndex(HashEmbedding()) as fresh:
            fresh.update_nodes(_nodes(numbers))
            assert _found(index) == _found(fresh)
