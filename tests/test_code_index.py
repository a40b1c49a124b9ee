"""Saving, opening and copying an index, and searches while it is updated."""

from __future__ import annotations

import copy
import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import pytest
from indexes import SOURCES, HashEmbedding, hits_of
from llama_index.core.schema import QueryBundle
from llama_index.core.vector_stores import SimpleVectorStore

from llamaindex_code_retrieval import (
    CodeEmbedding,
    CodeIndex,
    CodeNodeParser,
    CodeRetriever,
    FaissStore,
)
from llamaindex_code_retrieval.index.folder import describe
from llamaindex_code_retrieval.index.storage import FORMAT
from llamaindex_code_retrieval.index.view import View
from llamaindex_code_retrieval.retriever import Mode


def test_save_load_search(repository: Path, embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(embedding, parser=CodeNodeParser(max_lines=40, overlap_lines=4))
    index.update([repository])
    index.save(tmp_path / "index")
    saved = describe(tmp_path / "index")
    assert (saved["format"], saved["dim"], saved["files"], saved["nodes"]) == (FORMAT, 32, 3, len(index))
    assert saved["fingerprint"] == embedding.fingerprint
    assert not [p for p in (tmp_path / "index").rglob("*") if p.suffix in (".pkl", ".pickle", ".tmp")]

    again = CodeIndex.open(tmp_path / "index")
    assert again.parser.max_lines == 40
    assert [node.to_dict() for node in again.nodes()] == [node.to_dict() for node in index.nodes()]
    query = "send the receipt by mail"
    hits, found = (CodeRetriever(each).retrieve(query) for each in (index, again))
    assert [hit.node_id for hit in found] == [hit.node_id for hit in hits]
    # Kernels may be chosen anew for the model that is loaded a second time.
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in hits], abs=1e-3)
    assert again.update().added == 0


@pytest.mark.parametrize("store_class", [FaissStore, SimpleVectorStore])
def test_a_search_during_updates_sees_one_state(store_class: type, embedding: CodeEmbedding) -> None:
    """While one thread updates, each search returns exactly what the index before or after an update returns."""
    query = QueryBundle("return the number", embedding=embedding.get_query_embedding("return the number"))
    states = [
        {f"f{i}.py": f"def f{i}(x):\n    return {i} + number_{i % 7 * factor}\n" for i in range(40)}
        for factor in (1, 2)
    ]
    modes: list[Mode] = ["dense", "bm25", "fused"]
    expected: dict[Mode, list[list[tuple[str, str]]]] = {mode: [] for mode in modes}
    for texts in states:
        index = CodeIndex(embedding)
        index.update_texts(texts)
        for mode in modes:
            expected[mode].append(hits_of(index.as_retriever(mode=mode, top_k=15), query))
    index = CodeIndex(embedding, vector_store=None if store_class is FaissStore else store_class())
    index.update_texts(states[0])
    wrong: list[object] = []
    searches = 0
    stop = threading.Event()

    def search() -> None:
        nonlocal searches
        retrievers = {mode: index.as_retriever(mode=mode, top_k=15) for mode in modes}
        while not stop.is_set():
            for mode, retriever in retrievers.items():
                try:
                    hits = hits_of(retriever, query)
                except Exception as error:  # as many as there are, to be shown below
                    hits = [(type(error).__name__, str(error))]
                # The nearest nodes in another store than ours may be replaced while it is searched.
                if hits not in expected[mode] and (store_class is FaissStore or mode == "bm25" or len(hits) < 2):
                    wrong.append((mode, hits))
                searches += 1

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    updates = 0
    while not wrong and (updates < 15 or searches < 150):
        updates += 1
        index.update_texts(states[updates % 2])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong[:1]


def test_a_view_stays_as_it_was(embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    index.update_texts(SOURCES)
    query = embedding.get_query_embedding("add")

    def content(view: View) -> list[object]:
        return [list(view.reading.all_rows()), view.nearest(query, top_k=9), view.matching("add", top_k=9)]

    with index.view() as view:
        before = content(view)
        index.update_texts({"a.py": SOURCES["a.py"].replace("add", "sum"), "d.py": "def add(x):\n    return add(x)\n"})
        assert content(view) == before
    with index.view() as view:
        assert all(new != old for new, old in zip(content(view), before, strict=True))


def test_updates_of_two_threads_wait_for_each_other(embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    inside: list[str] = []

    def update(name: str) -> None:
        def on_progress(stage: str, done: int, total: int) -> None:
            inside.append(name)
            time.sleep(0.001)  # the other thread would run here

        index.update_texts({f"{name}{i}.py": f"x = {i}\n" for i in range(20)}, on_progress=on_progress)

    with ThreadPoolExecutor() as pool:
        list(pool.map(update, ["a", "b"]))
    assert len(list(groupby(inside))) == 2
    assert len(index) == index.files == 20


def _sent_there_and_back(index: CodeIndex) -> CodeIndex:
    """Send an index to another process and back."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(copy.copy, index).result()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, _sent_there_and_back])
def test_a_copy_of_an_index_in_memory_is_independent(duplicate: Callable[[CodeIndex], CodeIndex]) -> None:
    index = CodeIndex(HashEmbedding())
    index.update_texts(SOURCES)
    copied = duplicate(index)
    for mode in ("dense", "bm25", "fused"):
        hits = [hits_of(each.as_retriever(mode=mode), QueryBundle("add")) for each in (index, copied)]
        assert hits[0] == hits[1]
    copied.update_texts({"a.py": SOURCES["a.py"]})
    assert (len(index), len(copied)) == (6, 2)
    index.close()
    assert copied.search("add")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, _sent_there_and_back])
def test_a_copy_of_an_index_in_a_folder_is_on_that_folder(
    duplicate: Callable[[CodeIndex], CodeIndex], tmp_path: Path
) -> None:
    index = CodeIndex(HashEmbedding(), tmp_path)
    copied = duplicate(index)
    index.update_texts(SOURCES)
    assert copied.folder == index.folder
    assert hits_of(copied.as_retriever(), QueryBundle("add")) == hits_of(index.as_retriever(), QueryBundle("add"))


def test_empty_index_answers_nothing(embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(embedding)
    assert CodeRetriever(index).retrieve("anything") == []
    index.save(tmp_path / "index")
    again = CodeIndex.open(tmp_path / "index", embedding=embedding)
    assert len(again) == again.files == 0
    assert CodeRetriever(again).retrieve("anything") == []


def test_words_alone_need_no_model(bert_folder: Path, tmp_path: Path) -> None:
    """The model is gone, the words are searched as with it, and all that needs the model says why it cannot."""
    model = tmp_path / "model"
    shutil.copytree(bert_folder, model)
    index = CodeIndex(CodeEmbedding(str(model), device="cpu"))
    index.update_texts({"a.py": "def send_mail():\n    return 1\n", "b.py": "def parse_date():\n    return 2\n"})
    index.save(tmp_path / "idx")
    hits = CodeRetriever(index, mode="bm25").retrieve("parse the date")
    shutil.rmtree(model)
    with pytest.raises(ValueError, match="does not exist"):
        CodeIndex.open(tmp_path / "idx")
    loaded = CodeIndex.open(tmp_path / "idx", words_only=True)
    assert [(hit.node_id, hit.score) for hit in CodeRetriever(loaded, mode="bm25").retrieve("parse the date")] == [
        (hit.node_id, hit.score) for hit in hits
    ]
    for mode in ("dense", "fused"):
        with pytest.raises(ValueError, match="loaded with words_only=True, without its model"):
            CodeRetriever(loaded, mode=mode).retrieve("parse the date")
    with pytest.raises(ValueError, match="words_only=True"):
        loaded.update_texts({"c.py": "def other():\n    return 3\n"})
    with pytest.raises(ValueError, match="words_only loads no model; leave out device"):
        CodeIndex.open(tmp_path / "idx", words_only=True, device="cpu")


def test_an_index_without_a_folder_says_that_there_is_nothing_to_update(
    embedding: CodeEmbedding, tmp_path: Path
) -> None:
    with (  # as a build leaves it that is killed before its first file
        CodeIndex(embedding, tmp_path / "index") as index,
        pytest.raises(ValueError, match=r"there is no index of a folder in .*index yet.* name at least one folder"),
    ):
        index.update()
