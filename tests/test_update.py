"""Updates that are interrupted, that change the model, or whose nodes and files come, go and move."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import fork, is_killed_at_step
from indexes import SOURCES, HashEmbedding, vectors_of
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import SimpleVectorStore

from llamaindex_code_retrieval import CodeIndex, CodeNodeParser
from llamaindex_code_retrieval.index import caches, missing_vectors, update
from llamaindex_code_retrieval.index.storage import Storage

OLD = {f"f{i}.py": f"def f{i}(a):\n    return a + {i}\n\n\ndef g{i}(a):\n    return a - {i}\n" for i in range(8)}
NEW = {path: text.replace("a + ", "a * ") for path, text in list(OLD.items())[1:]} | {
    f"h{i}.py": f"def h{i}(a):\n    return a / {i}\n" for i in range(2)
}
"""Nine files, each with one function that is not in ``OLD``."""
QUERIES = ("return def class package", "f1 f2 g3 h1", "return a 1 2")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "_BATCH_FILES", 3)
    monkeypatch.setattr(missing_vectors, "_BATCH_NODES", 4)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[CodeIndex[HashEmbedding]]:
    with CodeIndex(HashEmbedding(), tmp_path / "index") as index:
        index.update_texts(OLD)
        index.embedding.embedded()
        yield index


def _state(index: CodeIndex[Any]) -> dict[str, tuple[str, list[float]]]:
    vectors = vectors_of(index)
    return {node.node_id: (node.text, vectors[node.node_id]) for node in index.nodes()}


def _words(index: CodeIndex[Any]) -> set[str]:
    return set(_scores(index, "return def class package"))


def _scores(index: CodeIndex[Any], query: str) -> dict[str, float]:
    """Return the hits by words, best first."""
    return {hit.node_id: hit.get_score() for hit in index.search(query, mode="bm25", top_k=200)}


def _fresh(texts: Mapping[str, str], embedding: HashEmbedding) -> dict[str, tuple[str, list[float]]]:
    return _fresh_of(tuple(texts.items()), embedding.model_name, embedding.dim)[0]


@functools.cache
def _fresh_of(
    texts: tuple[tuple[str, str], ...], model_name: str, dim: int
) -> tuple[dict[str, tuple[str, list[float]]], list[list[tuple[str, float]]]]:
    with CodeIndex(HashEmbedding(model_name=model_name, dim=dim)) as fresh:
        fresh.update_texts(dict(texts))
        return _state(fresh), [list(_scores(fresh, query).items()) for query in QUERIES]


def _assert_is(index: CodeIndex[Any], texts: Mapping[str, str], embedding: HashEmbedding) -> None:
    expected, by_words = _fresh_of(tuple(texts.items()), embedding.model_name, embedding.dim)
    assert _state(index) == expected
    assert [list(_scores(index, query).items()) for query in QUERIES] == by_words
    query = embedding.get_query_embedding("x")
    with index.view() as view:
        found = {hit.id: hit.score for hit in view.nearest(query, top_k=200)}
    assert found == pytest.approx(
        {id_: float(np.dot(vector, query)) for id_, (_, vector) in expected.items()}, abs=1e-3
    )


def _assert_answers(folder: Path, embedding: HashEmbedding) -> None:
    """In one state, every node is of the old or of the new texts; words find all, vectors all that have one."""
    known = _fresh(OLD, embedding) | _fresh(NEW, embedding)
    with CodeIndex.open(folder, embedding=embedding) as again, again.view() as view:
        rows = {row.number: row for row in view.reading.all_rows()}
        for number, vector in view.reading.vectors(rows).items():
            assert known[rows[number].id] == (rows[number].text, vector.tolist())
        assert {hit.number for hit in view.matching("return def", top_k=200)} == rows.keys()
        embedded = rows.keys() - set(view.reading.unembedded())
        assert {hit.number for hit in view.nearest(embedding.get_query_embedding("x"), top_k=200)} == embedded


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [1, 2, 3])
def test_what_was_embedded_before_an_interruption_is_kept(call: int, index: CodeIndex[HashEmbedding]) -> None:
    def stop(number: int) -> None:
        if number == call:
            raise KeyboardInterrupt

    index.embedding.before_call(stop)
    with pytest.raises(KeyboardInterrupt):
        index.update_texts(NEW)
    _assert_answers(index.folder, HashEmbedding())
    before = index.embedding.embedded()
    index.embedding.before_call(lambda _: None)
    report = index.update_texts(NEW)
    after = index.embedding.embedded()
    assert report.embedded == len(after)
    assert len(before) == (call - 1) * 3
    assert sorted(before + after) == sorted(set(before + after))  # nothing twice
    _assert_is(index, NEW, HashEmbedding())


class _Stop:
    """Progress that interrupts at its ``step``-th call."""

    def __init__(self, step: int) -> None:
        self._left = step

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


def test_an_interruption_at_any_progress_is_made_good(tmp_path: Path) -> None:
    root = tmp_path / "code"
    root.mkdir()
    for path, text in NEW.items():
        (root / path).write_text(text)
    for step in itertools.count(1):
        with CodeIndex(HashEmbedding(), tmp_path / f"index{step}") as index:
            try:
                index.update([root], on_progress=_Stop(step))
            except KeyboardInterrupt:
                assert len(_words(index)) == len(index)
                index.update(None if len(index) else [root])  # its folders are known with its first nodes
            else:
                break
            _assert_is(index, NEW, HashEmbedding())
    assert step > len(NEW)


def _fails_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do ``action`` before the ``step``-th transaction that writes."""
    writing, steps = Storage.writing, itertools.count(1)

    @contextmanager
    def failing(storage: Storage) -> Iterator[Any]:
        if next(steps) == step:
            action()
        with writing(storage) as opened:
            yield opened

    monkeypatch.setattr(Storage, "writing", failing)


def _raise_full_disk() -> None:
    raise OSError("the disk is full")


def test_a_full_disk_at_any_transaction_is_made_good(tmp_path: Path) -> None:
    for step in itertools.count(1):
        with CodeIndex(HashEmbedding(), tmp_path / f"{step}") as index:
            index.update_texts(OLD)
            with pytest.MonkeyPatch.context() as patch:
                _fails_at(patch, step, _raise_full_disk)
                try:
                    index.update_texts(NEW)
                    break
                except OSError as error:
                    assert str(error) == "the disk is full"  # noqa: PT017
            _assert_answers(index.folder, HashEmbedding())
            index.update_texts(NEW)
            _assert_is(index, NEW, HashEmbedding())
            assert len(list(index.folder.glob("words-*"))) == 1
    assert step > 8


def _edit(texts: dict[str, str], draw: random.Random, number: int) -> None:
    """Change a line, add a function, copy, rename or remove a file."""
    path = draw.choice(sorted(texts))
    match draw.choice(["line", "function", "copy", "rename", "remove"]):
        case "line":
            texts[path] = texts[path].replace("return a", f"return b{number} + a", 1)
        case "function":
            texts[path] += f"\n\ndef g(a, b):\n    return a + {number}\n"
        case "rename":
            texts[f"new{number}.py"] = texts.pop(path)
        case "remove" if len(texts) > 4:
            del texts[path]
        case _:
            texts[f"new{number}.py"] = texts[path]


@pytest.mark.parametrize("seed", range(3))
def test_after_random_edits_and_full_disks_an_index_ranks_as_a_fresh_one(seed: int, tmp_path: Path) -> None:
    draw, texts = random.Random(seed), dict(OLD)
    with CodeIndex(HashEmbedding(), tmp_path / "index") as index:
        for number in range(12):
            for edit in range(draw.randint(1, 3)):
                _edit(texts, draw, 3 * number + edit)
            with pytest.MonkeyPatch.context() as patch, suppress(OSError):
                _fails_at(patch, draw.randint(1, 9), _raise_full_disk)
                index.update_texts(texts)
            index.update_texts(texts)
            _assert_is(index, texts, HashEmbedding())


@pytest.mark.parametrize("then", [OLD, NEW])
def test_a_full_disk_with_a_vector_store_is_made_good(
    then: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the change that was interrupted is taken back: the store still holds what the index does."""

    monkeypatch.setattr(update, "_BATCH_FILES", 4)
    for step in range(1, 8):
        with CodeIndex(HashEmbedding(), tmp_path / f"{step}", vector_store=SimpleVectorStore()) as index:
            index.update_texts(OLD)
            with pytest.MonkeyPatch.context() as patch:
                _fails_at(patch, step, _raise_full_disk)
                with pytest.raises(OSError, match="the disk is full"):
                    index.update_texts(NEW)
            found = {hit.node_id for hit in index.search("x", mode="dense", top_k=200)}
            assert found == {node.node_id for node in index.nodes()}
            index.update_texts(then)
            query = index.embedding.get_query_embedding("x")
            found_scores = {hit.node_id: hit.get_score() for hit in index.search("x", mode="dense", top_k=200)}
            expected = {id_: float(np.dot(vector, query)) for id_, (_, vector) in _fresh(then, HashEmbedding()).items()}
            assert found_scores == pytest.approx(expected, abs=1e-3)


def test_a_full_disk_is_named_and_leaves_nothing_behind(index: CodeIndex[HashEmbedding]) -> None:
    size = sum(path.stat().st_size for path in index.folder.rglob("*") if path.is_file())

    def update_on_a_full_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size, 2 * size))
        try:
            index.update_texts(OLD | {f"{i}.py": f"text = '{i}'\n" + "x = 1\n" * 5000 for i in range(200)})
        except OSError as error:
            os._exit(7 if str(index.folder) in str(error) else 8)

    assert os.waitstatus_to_exitcode(os.waitpid(fork(update_on_a_full_disk), 0)[1]) == 7
    with CodeIndex.open(index.folder, embedding=HashEmbedding()) as again:
        assert len(_words(again) | _state(again).keys()) == len(again)
        again.update_texts(NEW)
        _assert_is(again, NEW, HashEmbedding())
        assert list(index.folder.rglob("*.tmp")) == []


def test_a_kill_at_any_step_of_a_first_update_leaves_a_folder_that_takes_another(tmp_path: Path) -> None:
    folders = (tmp_path / str(step) for step in itertools.count(1))
    step = 1
    while is_killed_at_step(step, lambda: CodeIndex(HashEmbedding(), next(folders)).update_texts(SOURCES)):
        next(folders)  # the child took it, in its own memory
        step += 1
    expected = _fresh(SOURCES, HashEmbedding())
    for folder in sorted(tmp_path.iterdir()):
        with CodeIndex(HashEmbedding(), folder) as index:
            index.update_texts(SOURCES)
            assert _state(index) == expected
            assert _words(index) == expected.keys()
        assert {path.name.split("-")[0] for path in folder.iterdir()} <= {
            "index.sqlite",
            "words",
            ".lock",
            ".gitignore",
        }
    assert step > 5


def test_a_first_update_that_ends_before_its_first_files_leaves_its_folders(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("def f():\n    return 1\n")

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with CodeIndex(HashEmbedding(), tmp_path / "index") as index, pytest.raises(KeyboardInterrupt):
        index.update([tmp_path / "code"], on_progress=stop)
    with CodeIndex.open(tmp_path / "index", embedding=HashEmbedding()) as again:
        assert len(again) == 0
        assert again.update().nodes == 1


def test_a_kill_before_any_transaction_of_a_first_update_is_made_good(tmp_path: Path) -> None:
    missing = []
    for step in itertools.count(1):
        folder = tmp_path / f"{step}"
        CodeIndex(HashEmbedding(), folder).close()

        def work(step: int = step, folder: Path = folder) -> None:
            _fails_at(pytest.MonkeyPatch(), step, lambda: os.kill(os.getpid(), signal.SIGKILL))
            with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
                index.update_texts(NEW)

        if os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1]) == 0:
            break
        _assert_answers(folder, HashEmbedding())
        with CodeIndex.open(folder, embedding=HashEmbedding()) as again:
            lacking = again.missing_vectors
            missing.append(lacking)
            new = len(_fresh(NEW, HashEmbedding())) - len(again)
            assert again.update_texts(NEW).embedded == lacking + new
            _assert_is(again, NEW, HashEmbedding())
    assert max(missing) > 4  # more than a batch, all of whose words are there


def test_a_kill_of_a_first_update_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    draw, folder = random.Random(0), tmp_path / "index"
    embedding = HashEmbedding()
    embedding.before_call(lambda _: time.sleep(0.05))
    CodeIndex(embedding, folder).close()
    missing = len(_fresh(NEW, HashEmbedding()))

    def work() -> None:
        with CodeIndex.open(folder, embedding=embedding) as index:
            index.update_texts(NEW)

    for _ in range(5):
        process = fork(work)
        time.sleep(draw.uniform(0, 0.4))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        _assert_answers(folder, HashEmbedding())
        with CodeIndex.open(folder, embedding=embedding) as again:
            lacking = len(_fresh(NEW, HashEmbedding())) - len(again) + again.missing_vectors
            assert lacking <= missing
            missing = lacking
    with CodeIndex.open(folder, embedding=embedding) as again:
        assert again.update_texts(NEW).embedded == missing
        _assert_is(again, NEW, HashEmbedding())


def test_a_kill_at_random_moments_loses_nothing(index: CodeIndex[HashEmbedding]) -> None:
    draw, folder = random.Random(0), index.folder
    index.close()

    def work() -> None:
        with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
            for texts in (NEW, OLD):
                index.update_texts(texts)

    start = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1]) == 0
    seconds = time.monotonic() - start
    for number in range(10):
        process = fork(work)
        time.sleep(draw.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        _assert_answers(folder, HashEmbedding())
        texts = [NEW, OLD][number % 2]
        with CodeIndex.open(folder, embedding=HashEmbedding()) as again:
            again.update_texts(texts)
            _assert_is(again, texts, HashEmbedding())


@pytest.mark.parametrize("few", [5, 1000])
def test_a_reader_is_not_disturbed_by_another_process(
    few: int, index: CodeIndex[HashEmbedding], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each update replaces the words and the file of vectors."""
    monkeypatch.setattr(caches, "_FEW_VECTORS", few)
    # Not forked: FAISS's threads do not survive that.
    process = multiprocessing.get_context("spawn").Process(target=_update_for_ever, args=(index.folder, few))
    process.start()
    generations = set()
    try:
        while len(generations) < 15:
            _assert_answers(index.folder, index.embedding)
            for mode in ("dense", "bm25", "fused"):
                assert index.search("return a", mode=mode)  # type: ignore[arg-type]
            with index.view() as view:
                generations.add(view.reading.generation)
            assert process.is_alive()
    finally:
        process.kill()
        process.join()


def _update_for_ever(folder: Path, few: int) -> None:
    caches._FEW_VECTORS = caches._FEW_REMOVED = few
    with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
        for texts in itertools.cycle((NEW, OLD)):
            index.update_texts(texts)


# --- another model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [16, 24])
def test_a_search_meets_the_vectors_of_one_model(dim: int, index: CodeIndex[HashEmbedding]) -> None:
    """Until the update with another model ends, the vectors, the nodes and the words are the old ones."""
    old, new = HashEmbedding(), HashEmbedding(model_name="new", dim=dim)
    before = _state(index)
    with CodeIndex.open(index.folder, embedding=old) as reader:

        def check(_: int) -> None:
            assert _state(reader) == before
            assert {hit.node_id for hit in reader.search("x", mode="dense", top_k=99)} == before.keys()

        new.before_call(check)
        index.embedding = new
        report = index.update_texts(NEW)
        assert report.embedded == len(new.embedded()) == len(_state(index))
        _assert_is(index, NEW, HashEmbedding(model_name="new", dim=dim))
        with pytest.raises(ValueError, match="call update\\(\\), or open the index again"):
            reader.search("x", mode="dense")
        assert reader.search("return", mode="bm25")
    with pytest.raises(ValueError, match="built by model 'new' with fingerprint"):
        CodeIndex.open(index.folder, embedding=old)
    with index.view() as view:
        assert view.reading.count("staged") == 0


@pytest.mark.parametrize("step", range(1, 7))
def test_an_interrupted_change_of_the_model_keeps_its_vectors(
    step: int, index: CodeIndex[HashEmbedding], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, new = _state(index), HashEmbedding(model_name="new")
    index.embedding = new
    with monkeypatch.context() as patch:
        _fails_at(patch, step, _raise_full_disk)
        # Three batches of vectors, the numbers, all nodes; then what the words hold no more is removed.
        with pytest.raises(OSError, match="the disk is full"):
            index.update_texts(OLD)
    if step <= 5:
        assert _state(index) == before
        with CodeIndex.open(index.folder, embedding=HashEmbedding()) as reader:
            assert {hit.node_id for hit in reader.search("x", mode="dense", top_k=99)} == before.keys()
    first = new.embedded()
    index.update_texts(OLD)
    assert len(first) + len(new.embedded()) <= len(before) + 6  # one batch at most is embedded again
    _assert_is(index, OLD, HashEmbedding(model_name="new"))


def test_files_may_grow_while_the_model_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "code"
    root.mkdir()
    (root / "a.py").write_text("def a():\n    return 1\n")
    many = "".join(f"def f{i}():\n    return {i}\n\n\n" for i in range(9))
    with CodeIndex(HashEmbedding(), tmp_path / "index") as index:
        index.update([root])
        for name, spare in (("second", 100), ("third", 0)):
            monkeypatch.setattr(update, "_SPARE_NUMBERS", spare)
            (root / "a.py").write_text("def a():\n    return 1\n")
            index.embedding = HashEmbedding(model_name=name)
            index.embedding.before_call(lambda call: (root / "a.py").write_text(many) if call == 1 else None)
            if spare:
                index.update()
            else:
                with pytest.raises(OSError, match="have grown while the index was updated; update it again"):
                    index.update()
                index.update()
            _assert_is(index, {"a.py": many}, HashEmbedding(model_name=name))


# --- nodes -----------------------------------------------------------------------------------------------------------


class _NameAsId(CodeNodeParser):
    """Its ids depend on neither file nor line, so that functions keep theirs when they move."""

    @classmethod
    def class_name(cls) -> str:
        return "NameAsId"

    def _parse_nodes(self, nodes: Any, show_progress: bool = False, **kwargs: Any) -> Any:
        parsed = super()._parse_nodes(nodes, show_progress, **kwargs)
        for node in parsed:
            node.id_ = node.metadata["scope"]
        return parsed


FUNCTIONS = [f"def f{i}():\n    return {i}\n" for i in range(3)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("store", [None, SimpleVectorStore])
def test_nodes_move_between_files(batch: int, store: type | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "_BATCH_FILES", batch)
    states: list[dict[str, list[str]]] = [
        {"b.py": FUNCTIONS[:2], "c.py": FUNCTIONS[2:]},
        {"a.py": FUNCTIONS[:2], "c.py": FUNCTIONS[2:]},  # a new name
        {"a.py": FUNCTIONS},  # a file gone
        {"a.py": FUNCTIONS[:1], "d.py": FUNCTIONS[1:]},  # to a later file
        {"a.py": FUNCTIONS[:2], "d.py": FUNCTIONS[2:]},  # to an earlier file
    ]
    with CodeIndex(HashEmbedding(), parser=_NameAsId(), vector_store=store and store()) as index:
        for state in states:
            texts = {path: "\n\n".join(functions) for path, functions in state.items()}
            index.update_texts(texts)
            assert {node.node_id: node.metadata["path"] for node in index.nodes()} == {
                function[4:6]: path for path, functions in state.items() for function in functions
            }
            assert _words(index) == {"f0", "f1", "f2"}
            hits = index.search("x", mode="dense")
            assert {hit.node_id for hit in hits} == {"f0", "f1", "f2"}
        assert set(index.embedding.embedded()) == {
            f"names: {path[0]} f {function[5]}\n\n{function.rstrip()}"
            for state in states
            for path, functions in state.items()
            for function in functions
        }


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "texts",
    [
        {"a.py": FUNCTIONS[0], "b.py": FUNCTIONS[1], "c.py": FUNCTIONS[0]},
        {"a.py": FUNCTIONS[1], "b.py": FUNCTIONS[1]},
        {"a.py": FUNCTIONS[0] + "\n\n" + FUNCTIONS[0], "b.py": FUNCTIONS[1]},
    ],
)
def test_ids_that_repeat_are_refused(batch: int, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "_BATCH_FILES", batch)
    with CodeIndex(HashEmbedding(), parser=_NameAsId()) as index:
        index.update_texts({"a.py": FUNCTIONS[0], "b.py": FUNCTIONS[1]})
        for _ in range(2):
            with pytest.raises(ValueError, match="nodes repeat the id of another one; the parser's id_func must make"):
                index.update_texts(texts)
        index.update_texts({"a.py": FUNCTIONS[0], "b.py": FUNCTIONS[1]})
        assert {node.node_id: node.metadata["path"] for node in index.nodes()} == {"f0": "a.py", "f1": "b.py"}
        assert _words(index) == {"f0", "f1"}


def test_own_nodes_move_between_files(index: CodeIndex[HashEmbedding]) -> None:
    nodes = [TextNode(id_=f"{i}", text=f"return {i}", metadata={"path": "a"}) for i in range(8)]
    for node in nodes:
        node.excluded_embed_metadata_keys = ["path"]
    index.update_nodes(nodes)
    moved = [node.model_copy(update={"metadata": {"path": f"{number % 3}"}}) for number, node in enumerate(nodes)]
    report = index.update_nodes(moved)
    assert (report.added, report.removed, report.embedded, report.files) == (0, 0, 0, 3)
    assert {node.node_id: node.metadata for node in index.nodes()} == {node.node_id: node.metadata for node in moved}
    assert _words(index) == {node.node_id for node in nodes}


def test_equal_texts_are_embedded_once(index: CodeIndex[HashEmbedding]) -> None:
    code = "def same():\n    return 0\n"
    report = index.update_texts({f"{i}/shop/tax.py": code for i in range(7)})
    assert index.embedding.embedded() == ["names: shop tax same\n\ndef same():\n    return 0"]
    assert (report.added, len({tuple(vector) for vector in vectors_of(index).values()})) == (7, 1)
    index.update_texts({"new/shop/tax.py": code})
    assert index.embedding.embedded() == []
    index.update_texts({"new/shop/vat.py": code})
    assert index.embedding.embedded() == ["names: shop vat same\n\ndef same():\n    return 0"]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def code(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    root.mkdir()
    for path, text in SOURCES.items():
        (root / path).write_text(text)
        os.utime(root / path, ns=(10**18, 10**18))
    return root


def test_a_file_that_is_left_out_and_comes_back(code: Path, tmp_path: Path) -> None:
    with CodeIndex(HashEmbedding(), tmp_path / "index") as index:
        index.update([code])
        before = _state(index)
        (code / "a.py").write_bytes(b"\0")
        report = index.update()
        assert (report.left_out, report.files, report.removed) == ({"binary": {".py": 1}}, 2, 2)
        assert index.update().left_out == {"binary": {".py": 1}}
        (code / "a.py").write_text(SOURCES["a.py"])
        report = index.update()
        assert (report.left_out, report.added, report.embedded) == ({}, 2, 2)
        assert _state(index) == before
        assert _words(index) == before.keys()


def test_an_index_of_a_folder_that_is_not_there_stays(code: Path, tmp_path: Path) -> None:
    with CodeIndex(HashEmbedding(), tmp_path / "index") as index:
        index.update([code])
        before = _state(index)
        code.rename(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match="is not a folder"):
            index.update()
        assert _state(index) == before
        (tmp_path / "elsewhere").rename(code)
        assert index.update().embedded == 0


def test_a_file_that_was_only_touched_keeps_its_nodes(code: Path, tmp_path: Path) -> None:
    with CodeIndex(HashEmbedding(), tmp_path / "index") as index:
        index.update([code])
        with index.view() as view:
            before = list(view.reading.all_rows())
        os.utime(code / "a.py", ns=(2 * 10**17, 2 * 10**17))
        report = index.update()
        assert (report.added, report.removed, report.embedded) == (0, 0, 0)
        with index.view() as view:
            assert list(view.reading.all_rows()) == before
            assert view.reading.files()["a.py"].mtime == 2 * 10**17
        assert index.changes().total == 0


def test_a_copy_of_an_index_is_updated_from_the_same_folders(code: Path, tmp_path: Path) -> None:
    """Although an index names the folders beside it by relative paths."""
    with CodeIndex(HashEmbedding(), tmp_path / "index") as index:
        index.update([code])
        (tmp_path / "deep" / "er").mkdir(parents=True)
        index.save(tmp_path / "deep" / "er" / "copy")
        (code / "new.py").write_text("x = 1\n")
        with CodeIndex.open(tmp_path / "deep" / "er" / "copy", embedding=HashEmbedding()) as again:
            assert again.roots == index.roots == [str(code)]
            assert (again.update().added, len(again)) == (1, len(index) + 1)
