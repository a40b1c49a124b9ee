from __future__ import annotations

import json
import os
import random
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import fork
from indexes import SOURCES, HashEmbedding, vectors_of
from llama_index.core.schema import MetadataMode, TextNode

from llamaindex_code_retrieval import CodeIndex
from llamaindex_code_retrieval.index.file_state import FileState
from llamaindex_code_retrieval.index.filters import Condition, NodeFilter
from llamaindex_code_retrieval.index.folder import describe
from llamaindex_code_retrieval.index.lock import update_lock
from llamaindex_code_retrieval.index.records import embedded_text
from llamaindex_code_retrieval.index.storage import DATABASE, FORMAT, Storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = Storage.create(tmp_path, {"dim": 4})
    yield storage
    storage.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of three files."""
    with CodeIndex(HashEmbedding(), tmp_path / "index") as index:
        index.update_texts(SOURCES)
    return tmp_path / "index"


# --- transactions ----------------------------------------------------------------------------------------------------


def test_a_reading_stays_as_it_was_while_others_write(storage: Storage) -> None:
    def write(value: int) -> None:
        other = Storage(storage.folder)
        with other.writing() as writing:
            writing.put_settings({"value": value})
        other.close()

    write(1)
    with storage.reading() as reading:
        generation = reading.generation
        write(2)
        assert os.waitstatus_to_exitcode(os.waitpid(fork(lambda: write(3)), 0)[1]) == 0
        with storage.writing() as writing:
            assert writing.settings("value") == {"value": 3}
            writing.put_settings({"value": 4})
        assert reading.settings("value") == {"value": 1}
    with storage.reading() as reading:
        assert (reading.settings("value"), reading.generation) == ({"value": 4}, generation + 3)


def test_what_raises_changes_nothing(storage: Storage) -> None:
    def fail() -> None:
        with storage.writing() as writing:
            writing.put_settings({"dim": 5})
            raise KeyboardInterrupt

    with storage.reading() as reading:
        before = reading.settings()
    with pytest.raises(KeyboardInterrupt):
        fail()
    with storage.reading() as reading:
        assert reading.settings() == before


def test_a_number_is_reserved_once(storage: Storage) -> None:
    """By several threads and processes, and although what was written under the numbers is lost."""
    first = storage.reserve(3)

    def fail() -> None:
        with storage.writing() as writing:
            writing.put_vectors(dict.fromkeys(range(first, first + 3), np.zeros(4, dtype=np.float32)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert storage.reserve(1) == first + 3
    firsts: list[int] = []
    threads = [threading.Thread(target=lambda: firsts.extend(storage.reserve(2) for _ in range(10))) for _ in range(3)]
    process = fork(lambda: [storage.reserve(2) for _ in range(10)])
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert len(set(firsts)) == 30
    assert all((number - firsts[0]) % 2 == 0 for number in firsts)
    assert storage.reserve(1) == first + 4 + 2 * 40


def test_threads_that_create_an_index_at_once_get_the_same(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / name).mkdir()
        start = threading.Barrier(4)

        def create(folder: Path, start: threading.Barrier) -> int:
            start.wait()
            storage = Storage.create(folder, {"dim": 4})
            number = storage.reserve(1)
            storage.close()
            return number

        with ThreadPoolExecutor(4) as pool:
            numbers = [pool.submit(create, tmp_path / name, start) for _ in range(4)]
        assert sorted(number.result() for number in numbers) == [1, 2, 3, 4]
        assert [path.name for path in (tmp_path / name).iterdir()] == [DATABASE]


def test_a_forked_process_has_connections_of_its_own(folder: Path) -> None:
    index = CodeIndex.open(folder, embedding=HashEmbedding())
    expected = [hit.node_id for hit in index.search("add")]

    def search() -> None:
        assert [hit.node_id for hit in index.search("add")] == expected
        index.close()

    assert os.waitstatus_to_exitcode(os.waitpid(fork(search), 0)[1]) == 0
    assert [hit.node_id for hit in index.search("add")] == expected


def test_a_closed_index_says_so(folder: Path) -> None:
    index = CodeIndex.open(folder, embedding=HashEmbedding())
    index.close()
    index.close()
    with pytest.raises(ValueError, match=r"is closed; open it again with CodeIndex\.open"):
        index.search("add")


# --- content ---------------------------------------------------------------------------------------------------------


def test_any_text_comes_back(tmp_path: Path) -> None:
    texts = ["x \ud800", "a\0b", "café 读取 \U0001f600", ""]
    nodes = [
        TextNode(id_=f"{i} {text}", text=text, metadata={"path": f"p{text}", "symbol": text, "scope": text, "k": text})
        for i, text in enumerate(texts)
    ]
    index = CodeIndex(HashEmbedding(), tmp_path)
    index.update_nodes(nodes)
    for each in (index, CodeIndex.open(tmp_path, embedding=HashEmbedding())):
        assert {node.node_id: node for node in each.nodes()} == {node.node_id: node for node in nodes}
        for node in nodes:
            assert each.node(node.node_id) == node
        with each.view() as view:
            assert set(view.reading.files()) == {f"p{text}" for text in texts}
    assert index.update_nodes(nodes).embedded == 0
    assert index.update_nodes(nodes[:1]).removed == 3
    assert [node.node_id for node in index.nodes()] == [nodes[0].node_id]


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("x = 1", "{metadata_str}\n\n{content}"),
        ("x = 1 \r", "{metadata_str}\n\n{content}"),  # LlamaIndex strips what it embeds with metadata
        (" \n", "{metadata_str}\n\n{content}"),
        ("", "{metadata_str}\n\n{content}"),
        ("x = 1", "{content}\n\n{metadata_str}"),
        ("x = 1 ", "{content}"),
        ("k: 1", "{metadata_str}"),
    ],
)
def test_the_embedded_text_comes_back_and_its_vector_is_found(text: str, template: str, tmp_path: Path) -> None:
    node = TextNode(id_="n", text=text, metadata={"k": 1}, text_template=template)
    embedded = node.get_content(MetadataMode.EMBED)
    index = CodeIndex(HashEmbedding(), tmp_path)
    index.update_nodes([node])
    with index.view() as view:
        [row] = view.reading.all_rows()
        assert embedded_text(row) == embedded
        found = view.reading.vector_of(row.digest, embedded, row.model)
        assert found is not None
        assert found.tolist() == vectors_of(index)["n"]
        assert view.reading.vector_of(row.digest, embedded + " ", row.model) is None
        [stored] = view.reading._all("SELECT embedded FROM nodes")
        assert (stored[0] is None) == (not template.startswith("{content}"))  # else the text is stored twice
    assert index.update_nodes([node]).embedded == 0
    assert index.update_nodes([node.model_copy(update={"id_": "other"})]).embedded == 0


def test_models_and_numbers_by_language(tmp_path: Path) -> None:
    index = CodeIndex(HashEmbedding(), tmp_path)
    languages = ["python", "go", "", "go", "java", "python"]
    index.update_nodes(
        [TextNode(id_=str(i), text=f"x{i}", metadata={"language": language}) for i, language in enumerate(languages)]
    )
    model = index.adapter_groups()[0].fingerprint
    with index.view() as view:
        assert view.reading.models() == {model: ["", "go", "java", "python"]}
        numbers = view.reading.numbers(NodeFilter(languages=("go", "java")).where())
        assert sorted(row.id for row in view.rows(numbers.tolist()).values()) == ["1", "3", "4"]
        assert (np.diff(numbers) > 0).all()


def test_more_ids_than_one_statement_takes(tmp_path: Path) -> None:
    index = CodeIndex(HashEmbedding(), tmp_path)
    ids = [f"{i}" for i in range(1200)]
    index.update_nodes([TextNode(id_=id_, text=id_) for id_ in ids])
    vectors = index.vectors(ids)
    assert vectors.shape == (1200, 16)
    np.testing.assert_allclose(
        vectors[[0, -1]], [index.embedding.get_text_embedding(i) for i in ("0", "1199")], atol=1e-3
    )
    with pytest.raises(KeyError, match="none"):
        index.vectors(["none"])
    assert index.vectors([]).shape == (0, 16)


def test_candidates_are_what_the_ranking_reads_of_nodes(tmp_path: Path) -> None:
    index = CodeIndex(HashEmbedding(), tmp_path / "files")
    lines = "".join(f"    yield {number}\n" for number in range(100))
    index.update_texts(
        {"src/a.py": f'class Box:\n    """Holds."""\n\n    def size(self):\n        pass\n\n\ndef long():\n{lines}'}
    )
    with index.view() as view:
        numbers = view.reading.numbers(NodeFilter().where()).tolist()
        candidates = sorted(view.reading.candidates([*numbers, 10**6]), key=lambda each: each.start_line)
    box, size, first, second = candidates[:4]
    assert (size.path, size.symbol, size.scope, size.kind, size.language) == (
        "src/a.py", "size", "Box.size", "method", "python"
    )  # fmt: skip
    assert (size.start_line, size.end_line) == (4, 5)
    assert (box.is_documented, size.is_documented) == (True, False)
    assert first.definition == second.definition != size.definition != box.definition
    index = CodeIndex(HashEmbedding(), tmp_path / "nodes")
    index.update_nodes([TextNode(id_="n", text="x"), TextNode(id_="m", text="y", metadata={"docstring": None})])
    with index.view() as view:
        by_id = {each.id: each for each in view.reading.candidates(range(1, 9))}
    other = by_id["n"]
    assert (other.path, other.symbol, other.start_line, other.end_line, other.is_documented) == ("", "", 0, 0, False)
    assert not by_id["m"].is_documented


NESTED = {
    **{f"lib/{number:02}/mod.rs": f"fn start_{number}() {{\n    run();\n}}\n" for number in range(40)},
    "App.py": "def main():\n    pass\n\n\ndef stop():\n    pass\n",
    "web/app.py": "def serve():\n    pass\n",
    "web/my_app.py": "def own():\n    pass\n",
    "odd/50%_\\.py": "def odd():\n    pass\n",
    "odd/Öl.py": "def oil():\n    pass\n",
    "odd/\udcff.py": "def broken():\n    pass\n",
}


@pytest.fixture(scope="module")
def nested() -> Iterator[CodeIndex]:
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts(NESTED)
        yield index


@pytest.mark.parametrize(
    ("path", "line", "scopes"),
    [
        ("app.py", None, ["main", "stop", "serve"]),
        ("app.py", 6, ["stop", "main", "serve"]),
        ("WEB\\APP.py", 6, ["serve", "stop", "main"]),
        ("/srv/web/app.py", None, ["serve", "main", "stop"]),
        ("other/app.py", 1, ["main", "stop", "serve"]),
        ("lib/39/mod.rs", 2, ["start_39"]),
        ("39/mod.rs", None, ["start_39"]),
        ("50%_\\.py", 1, []),
        ("odd/Öl.py", 1, ["oil"]),
        ("\udcff.py", 1, ["broken"]),
        ("%.py", None, []),
        ("_pp.py", None, []),
        ("py", None, []),
        ("", None, []),
        ("odd/", None, []),
        ("a\0pp.py", 99_999_999, []),
    ],
)
def test_nodes_at_a_place(path: str, line: int | None, scopes: list[str], nested: CodeIndex) -> None:
    """Those of files whose path ends as asked come first, then those that hold the line."""
    with nested.view() as view:
        numbers = view.nodes_at(path, line, top_k=4)
        rows = view.rows(numbers)
        found = [rows[number].metadata["scope"] for number in numbers]
        assert found[: len(scopes)] == scopes
        assert len(found) == (4 if path.endswith("mod.rs") else len(scopes))
        condition = NodeFilter(not_paths=("lib/", "web/app.py")).where()
        rows = view.rows(view.nodes_at(path, line, top_k=4, condition=condition))
        assert {row.metadata["scope"] for row in rows.values()} == set(scopes) - {"serve", "start_39"}


def test_a_place_costs_the_same_among_more_files(storage: Storage) -> None:
    def put(folders: range) -> None:
        with storage.writing() as writing:
            for number in folders:
                writing.put_file(FileState(f"src/{number}/file_{number}.py", 1, 1, 1, 1, 1))

    def steps() -> int:
        """Return how many steps of SQLite's machine a place takes."""
        taken: list[int] = []
        with storage.reading() as reading:
            reading._connection.set_progress_handler(lambda: taken.append(1), 1)
            assert reading.nodes_at("7/file_7.py", 1, top_k=3, condition=Condition()) == []
            reading._connection.set_progress_handler(None, 1)
        return len(taken)

    put(range(20))
    few = steps()
    put(range(20, 2000))
    assert steps() == few


def test_nodes_that_contain_a_text(nested: CodeIndex) -> None:
    with nested.view() as view:
        numbers = view.reading.numbers(NodeFilter().where()).tolist()

        def scopes(*texts: str) -> set[str]:
            rows = view.rows(view.reading.containing(numbers, texts))
            return {row.metadata["scope"] for row in rows.values()}

        assert scopes("def main():\n    pass") == {"main"}
        assert scopes("def MAIN()") == set()
        assert scopes("def o", "%", "stop()", "\udc80", "a\0b") == {"odd", "oil", "own", "stop"}
        assert scopes() == set()
        assert view.reading.containing([], ["def"]) == set()


# --- folders that hold no index, an old, a foreign or a damaged one --------------------------------------------------


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (
            {"format": 3, "roots": ["/code/my shop"], "sources": {"exclude": ["docs"]}},
            r"of format 3, this version .*: code-retrieval index '/code/my shop' --exclude=docs --out ",
        ),
        ({"format": 2}, r"of format 2, .* build it again with: code-retrieval index PATH --out "),
        ("damaged", r"format None, .* build it again with: code-retrieval index PATH --out "),
    ],
)
def test_an_index_of_an_old_format_is_refused_with_the_command(manifest: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        CodeIndex.open(tmp_path)


@pytest.mark.parametrize("other", [FORMAT - 1, FORMAT + 1])
def test_an_index_of_another_database_format_is_refused(other: int, folder: Path) -> None:
    storage = Storage(folder)
    with storage.writing() as writing:
        writing.put_settings({"format": other})
    storage.close()
    with pytest.raises(ValueError, match=f"index of format {other}, this version reads format {FORMAT}; build"):
        CodeIndex.open(folder)


@pytest.mark.parametrize("name", ["none", "a file"])
def test_no_index(name: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(ValueError, match=r"there is no index in .*; build one with: code-retrieval index PATH --out"):
        CodeIndex.open(tmp_path / name)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other things than an index \(notes.txt\); name a new"):
        CodeIndex(HashEmbedding(), tmp_path)
    with pytest.raises(ValueError, match="is a file; name a folder"):
        CodeIndex(HashEmbedding(), tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def _of_another_program(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE settings (other TEXT)")
    connection.close()


def _no_database(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garbage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8192] + random.Random(0).randbytes(len(content) - 8192))


@pytest.mark.parametrize("damage", [_of_another_program, _no_database, _empty, _half, _garbage])
def test_a_damaged_database_is_named_with_the_way_out(damage: Callable[[Path], None], folder: Path) -> None:
    damage(folder / DATABASE)
    with pytest.raises(ValueError, match=r"is damaged \(.*\); remove the folder and build the index again with"):
        CodeIndex.open(folder, embedding=HashEmbedding()).search("add")
    with pytest.raises(ValueError, match="is damaged"):
        describe(folder)


def _searched(folder: Path) -> str:
    """Search an index and read all of it; return the message of the ValueError that this raises, or ""."""
    try:
        with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
            index.search("add in a.py:2")
            list(index.nodes())
            with index.view() as view:
                view.reading.files()
                view.reading.vectors_after(0)
    except ValueError as error:
        return str(error)
    return ""


def _random_bytes(content: bytearray, place: int, choose: random.Random) -> None:
    content[place : place + 100] = choose.randbytes(len(content[place : place + 100]))


def _one_bit(content: bytearray, place: int, choose: random.Random) -> None:
    """Flip one bit, which may turn a text into bytes or a number."""
    content[place] ^= 1 << choose.randrange(8)


@pytest.mark.parametrize("damage", [_random_bytes, _one_bit])
def test_damaged_bytes_are_named_or_not_met(
    damage: Callable[[bytearray, int, random.Random], None], folder: Path
) -> None:
    """A search in a database with damaged bytes answers, or raises a ValueError that names the index."""
    content = (folder / DATABASE).read_bytes()
    used = [place for place, byte in enumerate(content) if byte and place >= 100]
    messages = []
    for seed in range(120):
        changed, choose = bytearray(content), random.Random(seed)
        damage(changed, choose.choice(used), choose)
        (folder / DATABASE).write_bytes(changed)
        messages.append(_searched(folder))
    named = [message for message in messages if message]
    assert len(named) > 10
    assert [message for message in named if str(folder) not in message] == []


@pytest.mark.parametrize("table", ["settings", "files", "nodes", "models", "forms", "vectors"])
def test_a_value_of_another_type_than_its_column_is_damage(table: str, folder: Path) -> None:
    content = (folder / DATABASE).read_bytes()
    connection = sqlite3.connect(folder / DATABASE)
    columns = connection.execute(f"SELECT name, type FROM pragma_table_info('{table}') WHERE NOT pk").fetchall()
    connection.close()
    columns = [column for column in columns if column[0] not in ("parsed", "digest")]  # which are only compared
    assert columns
    for name, kind in columns:
        (folder / DATABASE).write_bytes(content)
        other = f"coalesce(CAST({name} AS BLOB), x'00')" if kind == "TEXT" else "'text'"
        connection = sqlite3.connect(folder / DATABASE)
        with connection:
            connection.execute(f"UPDATE {table} SET {name} = {other}")
        connection.close()
        assert "is damaged" in _searched(folder), name


def test_saving_needs_a_new_folder(folder: Path, tmp_path: Path) -> None:
    index = CodeIndex.open(folder, embedding=HashEmbedding())
    with pytest.raises(ValueError, match="holds an index; name a new folder"):
        index.save(folder)
    index.save(tmp_path / "copy")
    again = CodeIndex.open(tmp_path / "copy", embedding=HashEmbedding())
    assert list(again.nodes()) == list(index.nodes())
    assert again.search("add")[0].score == index.search("add")[0].score
    again.update_texts({})
    assert (len(again), len(index)) == (0, 6)


# --- folders that cannot be written ----------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_searched() -> None:
    with tempfile.TemporaryDirectory() as name:  # unlike tmp_path, another user can reach it
        folder = Path(name) / "index"
        with CodeIndex(HashEmbedding(), folder) as index:
            index.update_texts(SOURCES)
            expected = [hit.node_id for hit in index.search("add")]
        for path in (Path(name), *folder.rglob("*"), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = sorted(folder.rglob("*"))

        def search() -> None:
            if os.getuid() == 0:
                os.setuid(65534)
            with CodeIndex.open(folder, embedding=HashEmbedding()) as index:
                assert [hit.node_id for hit in index.search("add")] == expected
                with pytest.raises(OSError, match=r"(cannot be written|Permission denied)"):
                    index.update_texts({})
                assert [hit.node_id for hit in index.search("add")] == expected

        assert os.waitstatus_to_exitcode(os.waitpid(fork(search), 0)[1]) == 0
        assert sorted(folder.rglob("*")) == before
        for path in (Path(name), folder, *folder.rglob("*")):
            path.chmod(0o755)


# --- the lock --------------------------------------------------------------------------------------------------------


def test_a_second_update_waits_or_names_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    held_read, held_write = os.pipe()
    release_read, release_write = os.pipe()

    def hold() -> None:
        with update_lock(tmp_path, seconds=0):
            os.write(held_write, b"x")
            os.read(release_read, 1)

    process = fork(hold)
    os.read(held_read, 1)
    with (
        pytest.raises(TimeoutError, match=rf"being updated by process {process} on .* since"),
        update_lock(tmp_path, seconds=0.1),
    ):
        pass
    waiting: list[str] = []

    def on_wait(holder: str) -> None:
        waiting.append(holder)
        os.write(release_write, b"x")

    with update_lock(tmp_path, seconds=60, on_wait=on_wait):
        pass
    os.waitpid(process, 0)
    assert len(waiting) == 1
    assert f"process {process}" in waiting[0]
    assert not (tmp_path / ".lock-holder.json").exists()
