"""A first update: words come first, vectors are made beside, and what is missing is made later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Shell
from indexes import HashEmbedding, vectors_of

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.index import caches, missing_vectors, update

TEXTS = {f"f{i}.py": f"def f{i}(a):\n    return a + {i}\n\n\ndef g{i}(a):\n    return a - {i}\n" for i in range(10)}
"""Ten files of two functions."""


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "_BATCH_FILES", 1)
    monkeypatch.setattr(missing_vectors, "_BATCH_NODES", 8)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[CodeIndex[HashEmbedding]]:
    with CodeIndex(HashEmbedding(), tmp_path / "index") as index:
        yield index


def _wait_for(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 50
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _dense_ids(index: CodeIndex[HashEmbedding]) -> set[str]:
    return {hit.node_id for hit in index.search("x", mode="dense", top_k=99)}


def _check_hits(index: CodeIndex[HashEmbedding]) -> int:
    """Check that in one state words find all nodes, and vectors those that have one; return how many have none."""
    with index.view() as view:
        nodes, unembedded = {row.number for row in view.reading.all_rows()}, set(view.reading.unembedded())
        assert {hit.number for hit in view.matching("def return", top_k=99)} == nodes
        query = index.embedding.get_query_embedding("x")
        assert {hit.number for hit in view.nearest(query, top_k=99)} == nodes - unembedded
    return len(unembedded)


def _interrupt_at(index: CodeIndex[HashEmbedding], texts: dict[str, str], *, call: int) -> None:
    def stop(number: int) -> None:
        if number == call:
            raise KeyboardInterrupt

    index.embedding.before_call(stop)
    with pytest.raises(KeyboardInterrupt):
        index.update_texts(texts)
    index.embedding.before_call(lambda _: None)


def test_words_are_searched_before_there_are_vectors(index: CodeIndex[HashEmbedding]) -> None:
    missing: list[int] = []

    def look(call: int) -> None:
        with CodeIndex.open(index.folder, embedding=HashEmbedding()) as reader:
            _wait_for(lambda: len(reader) == 20)  # nodes do not wait for the model
            if call == 1:
                assert reader.missing_vectors == 20
                assert reader.search("f7")[0].node.metadata["scope"] == "f7"
                assert _dense_ids(reader) == set()
            missing.append(_check_hits(reader))

    index.embedding.before_call(look)
    assert index.update_texts(TEXTS).embedded == 20
    assert (missing[0], index.missing_vectors, len(_dense_ids(index))) == (20, 0, 20)
    assert len(missing) == 3
    assert missing[2] <= 12  # the first batch is written before the third one is made


def test_a_first_update_makes_the_same_index_as_later_ones(index: CodeIndex[HashEmbedding]) -> None:
    index.update_texts(TEXTS)
    with CodeIndex(HashEmbedding()) as other:
        other.update_texts(dict(list(TEXTS.items())[:1]))
        other.update_texts(TEXTS)  # writes new nodes with their vectors
        assert list(other.nodes()) == list(index.nodes())
        assert vectors_of(other) == vectors_of(index)
        for mode in ("dense", "bm25", "fused"):
            found = [each.search("return a - 3", mode=mode, top_k=99) for each in (index, other)]
            assert found[0] == found[1]


def test_nodes_of_many_small_files_are_embedded_together(index: CodeIndex[HashEmbedding]) -> None:
    calls: list[int] = []
    index.embedding.before_call(calls.append)
    index.update_texts(TEXTS)
    assert calls == [1, 2, 3]  # 8 + 8 + 4 nodes, of ten batches of files


def test_equal_texts_of_several_batches_are_embedded_once(index: CodeIndex[HashEmbedding]) -> None:
    texts = {f"{folder}/shop/{path}": text for folder in "abcde" for path, text in TEXTS.items()}
    report = index.update_texts(texts)
    embedded = index.embedding.embedded()
    assert len(embedded) == len(set(embedded)) == 20
    assert (report.nodes, index.missing_vectors, len(_dense_ids(index))) == (100, 0, 99)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_error_of_the_model_ends_the_update_and_its_thread(call: int, index: CodeIndex[HashEmbedding]) -> None:
    def fail(number: int) -> None:
        if number == call:
            raise RuntimeError("no memory")

    index.embedding.before_call(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        index.update_texts(TEXTS)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("code-retrieval-embed")]
    before = index.embedding.embedded()
    assert len(before) == 8 * (call - 1)
    index.embedding.before_call(lambda _: None)
    index.update_texts(TEXTS)
    assert len({*before, *index.embedding.embedded()}) == 20
    assert len(_dense_ids(index)) == len(index) == 20


def test_an_interrupt_waits_for_one_call_of_the_model_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of eight nodes is four calls here."""
    started, stopped = threading.Event(), threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, *arguments: Any, **more: Any) -> None:  # comes after the batches were told to stop
            stopped.set()
            super().shutdown(*arguments, **more)

    def look(call: int) -> None:
        started.set()
        assert stopped.wait(50)

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "embed":
            assert started.wait(50)
            raise KeyboardInterrupt

    monkeypatch.setattr(missing_vectors, "ThreadPoolExecutor", Pool)
    with CodeIndex(HashEmbedding(embed_batch_size=2), tmp_path / "index") as index:
        index.embedding.before_call(look)
        with pytest.raises(KeyboardInterrupt):
            index.update_texts(TEXTS, on_progress=interrupt)
        assert len(index.embedding.embedded()) == 2
        assert (len(index), index.missing_vectors) == (20, 20)


def test_an_error_in_a_file_ends_the_thread(index: CodeIndex[HashEmbedding]) -> None:
    def fail(stage: str, done: int, total: int) -> None:
        if done == 9:
            raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        index.update_texts(TEXTS, on_progress=fail)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("code-retrieval-embed")]
    index.update_texts(TEXTS)
    assert len(_dense_ids(index)) == len(index) == 20


def test_files_may_change_before_their_vectors_are_made(index: CodeIndex[HashEmbedding]) -> None:
    """What is missing of a file that has changed is not made, and what an equal text has is used."""
    _interrupt_at(index, TEXTS, call=2)
    _wait_for(lambda: index.missing_vectors == len(index) - 8)
    index.embedding.embedded()
    changed = TEXTS | {"f9.py": "def h(a):\n    return a\n"}
    del changed["f8.py"]
    index.update_texts(changed)
    assert len(index.embedding.embedded()) == 9  # f4 to f7, h
    assert len(_dense_ids(index)) == len(index) == 17
    with CodeIndex(HashEmbedding()) as fresh:
        fresh.update_texts(changed)
        assert vectors_of(fresh) == vectors_of(index)


def test_vectors_that_are_made_later_are_found_beside_the_file_of_vectors(
    index: CodeIndex[HashEmbedding], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nodes behind those without a vector have one, which the file must not hold before all others."""
    monkeypatch.setattr(caches, "_FEW_VECTORS", 0)
    texts = {f"a/shop/{path}": text for path, text in TEXTS.items()}
    _interrupt_at(index, texts, call=2)
    missing: list[int] = []

    def look(_: int) -> None:
        with CodeIndex.open(index.folder, embedding=HashEmbedding()) as reader:
            missing.append(_check_hits(reader))
            with reader.view() as view:
                assert view.settings["vectors"] is not None

    index.embedding.before_call(look)
    index.update_texts(texts | {f"b/shop/{path}": text for path, text in TEXTS.items()})
    assert 0 < missing[-1] < missing[0]
    assert len(_dense_ids(index)) == len(index) == 40


def test_a_copy_of_an_unfinished_index_can_be_finished(index: CodeIndex[HashEmbedding], tmp_path: Path) -> None:
    _interrupt_at(index, TEXTS, call=2)
    index.save(tmp_path / "copy")
    with CodeIndex.open(tmp_path / "copy", embedding=HashEmbedding()) as copy:
        copy.update_texts(TEXTS)
        assert len(_dense_ids(copy)) == len(copy) == 20


def test_another_model_makes_all_vectors_of_an_unfinished_index(index: CodeIndex[HashEmbedding]) -> None:
    _interrupt_at(index, TEXTS, call=2)
    index.embedding = HashEmbedding(model_name="new")
    index.update_texts(TEXTS)
    with CodeIndex(HashEmbedding(model_name="new")) as fresh:
        fresh.update_texts(TEXTS)
        assert vectors_of(fresh) == vectors_of(index)
    assert index.missing_vectors == 0


def test_a_search_of_an_unfinished_index_says_so(shell: Shell, shop: Path, bert_folder: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "embed":
            raise KeyboardInterrupt

    folder = tmp_path / "index"
    with CodeIndex(CodeEmbedding(bert_folder), folder) as index:
        with pytest.raises(KeyboardInterrupt):
            index.update([shop], on_progress=stop)
        total, missing = len(index), index.missing_vectors
    assert 0 < missing < total
    assert shell("info", "--index", folder, "--json")["missing_vectors"] == missing
    (shop / "read.py").touch()
    (shop / "new.py").write_text("def new():\n    return 1\n")
    message = f"the vectors of {missing} of {total} nodes are not made yet, which are found by words alone"
    assert len(shell("search", "read all of the line", "--index", folder, "--json")) == 10
    assert message in shell.err
    assert f"update --index {folder}" in shell.err
    shell("search", "read all of the line", "--index", folder, "--mode", "bm25")
    assert message not in shell.err
    assert shell("info", "--index", folder, "--json")["missing_vectors"] == missing  # not made by a search
    shell("update", "--index", folder)
    shell("search", "read all of the line", "--index", folder)
    assert "vectors of" not in shell.err
    with CodeIndex.open(folder) as index, CodeIndex(CodeEmbedding(bert_folder)) as fresh:
        fresh.update([shop])
        made, expected = vectors_of(index), vectors_of(fresh)
        assert made.keys() == expected.keys()
        np.testing.assert_allclose([made[id_] for id_ in made], [expected[id_] for id_ in made], atol=1e-3)
