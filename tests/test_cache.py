from __future__ import annotations

import copy
import gc
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from llamaindex_code_retrieval import EmbeddingCache


def _key(text: str, side: str = "code", model: str = "m") -> bytes:
    return EmbeddingCache.key(model, side, text)


def test_model_side_and_text_make_the_key(tmp_path: Path) -> None:
    keys = {_key("a"), _key("b"), _key("a", "query"), _key("a", model="n"), _key("\ud800")}
    assert len(keys) == 5
    cache = EmbeddingCache(tmp_path)
    cache.put({_key("a"): np.array([1.0, -2.5], dtype=np.float32)})
    found = cache.get([_key("a"), _key("b")])
    assert list(found) == [_key("a")]
    assert found[_key("a")].tolist() == [1.0, -2.5]
    cache.put({_key("a"): np.array([9.0, 9.0], dtype=np.float32)})  # the first one stays
    assert cache.get([_key("a")])[_key("a")].tolist() == [1.0, -2.5]


def test_a_copy_opens_the_same_file(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_bytes=10**7)
    cache.put({b"key": np.ones(3, dtype=np.float32)})
    for again in (copy.deepcopy(cache), ForkingPickler.loads(ForkingPickler.dumps(cache))):
        assert (again.path, again.max_bytes, list(again.get([b"key"]))) == (cache.path, 10**7, [b"key"])
    with pytest.raises(ValueError, match="max_bytes must be at least 1, got 0"):
        EmbeddingCache(tmp_path, max_bytes=0)


def test_more_keys_than_one_select_takes(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    vectors = {_key(str(i)): np.array([i], dtype=np.float32) for i in range(1_234)}
    cache.put(vectors)
    assert {key: row.tolist() for key, row in cache.get(list(vectors)).items()} == {
        key: row.tolist() for key, row in vectors.items()
    }


def test_the_oldest_go_when_it_outgrows_its_limit(tmp_path: Path) -> None:
    limit = 200_000
    with EmbeddingCache(tmp_path, max_bytes=limit) as cache:
        for start in range(0, 600, 20):
            cache.put({_key(str(i)): np.full(384, i, dtype=np.float32) for i in range(start, start + 20)})
        kept = [i for i in range(600) if cache.get([_key(str(i))])]
        assert kept == list(range(600 - len(kept), 600))  # the newest
        assert 0.6 * limit < len(kept) * 384 * 4 < limit
    assert cache.path.stat().st_size < 1.5 * limit  # the pages of what was dropped are used again


def test_one_batch_beyond_the_limit_leaves_it_below(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path, max_bytes=100_000) as cache:
        cache.put({_key(str(i)): np.zeros(384, dtype=np.float32) for i in range(500)})
        assert 0 < len(cache) < 65
        assert cache.get([_key("499")])


def test_opening_and_writing_read_a_few_pages_only(tmp_path: Path) -> None:
    """A damaged page that nobody asks for is not met, so the file was not scanned."""
    with EmbeddingCache(tmp_path) as cache:
        cache.put({_key(str(i)): np.full(384, i, dtype=np.float32) for i in range(2_000)})
    content = bytearray(cache.path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xff" * 4096
    cache.path.write_bytes(content)
    with EmbeddingCache(tmp_path) as cache:
        cache.put({_key("new"): np.zeros(384, dtype=np.float32)})
        assert cache.get([_key("0"), _key("1999"), _key("new")]).keys() >= {_key("new")}
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_damaged_file_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "embeddings.sqlite").write_bytes(b"this is no database" * 100)
    cache = EmbeddingCache(tmp_path)
    cache.put({_key("a"): np.zeros(2, dtype=np.float32)})
    assert len(cache) == 1
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


def test_damage_that_is_met_while_reading_starts_a_new_file(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path) as cache:
        cache.put({_key(str(i)): np.full(384, i, dtype=np.float32) for i in range(500)})
    content = cache.path.read_bytes()
    cache.path.write_bytes(content[: 2 * 4096] + b"\xff" * (len(content) - 2 * 4096))
    first, second = EmbeddingCache(tmp_path), EmbeddingCache(tmp_path)
    assert first.get([_key(str(i)) for i in range(500)]) == {}
    first.put({_key("a"): np.ones(1, dtype=np.float32)})
    assert second.get([_key("a")])[_key("a")].tolist() == [1.0]  # it moves to the new file and leaves it there
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


# --- closing ---------------------------------------------------------------------------------------------------------


def _open_files(folder: Path) -> list[str]:
    """What this process has open in ``folder``."""
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if link.exists() and os.readlink(link).startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed on Linux only")
@pytest.mark.parametrize("way", ["close", "with", "garbage"])
def test_it_is_closed(way: str, tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    cycle: list[object] = [cache]
    cycle.append(cycle)  # only the garbage collector can end this
    cache.put({_key("a"): np.zeros(1, dtype=np.float32)})
    assert _open_files(tmp_path)
    if way == "close":
        cache.close()
        cache.close()
    elif way == "with":
        with cache:
            assert len(cache) == 1
    if way == "garbage":
        del cache, cycle
        gc.collect()
    else:
        with pytest.raises(ValueError, match="is closed; open it again"):
            cache.get([_key("a")])
    assert not _open_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["embeddings.sqlite"]  # the log is in the file


def test_it_is_closed_when_the_interpreter_exits(tmp_path: Path) -> None:
    script = (
        "import sys, threading, numpy as np\n"
        "from llamaindex_code_retrieval.cache import EmbeddingCache\n"
        "cache = EmbeddingCache(sys.argv[1])\n"
        "cache.put({EmbeddingCache.key('m', 'code', 'a'): np.zeros(3, dtype=np.float32)})\n"
        "threading.Thread(target=lambda cache: threading.Event().wait(), args=(cache,), daemon=True).start()\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["embeddings.sqlite"]


def test_threads_share_it(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path) as cache, ThreadPoolExecutor(4) as pool:

        def put_and_get(i: int) -> float:
            cache.put({_key(str(i)): np.full(3, i, dtype=np.float32)})
            return float(cache.get([_key(str(i))])[_key(str(i))][0])

        assert list(pool.map(put_and_get, range(60))) == list(range(60))
        assert len(cache) == 60


WRITER = """
import sys, numpy as np
from llamaindex_code_retrieval.cache import EmbeddingCache
cache = EmbeddingCache(sys.argv[1])
print("open", flush=True)
for i in range(int(sys.argv[3])):
    cache.put({EmbeddingCache.key("m", "code", f"{sys.argv[2]}-{i}"): np.full(384, i, dtype=np.float32)})
    print(i, flush=True)
"""


def test_survives_a_kill_in_the_middle_of_writing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), "w", "1000000"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while process.stdout.readline() != "20\n":  # it goes on writing while it is killed
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    cache = EmbeddingCache(tmp_path)
    count = len(cache)
    assert count > 20
    for i in range(count):  # every row that was committed is whole
        assert cache.get([_key(f"w-{i}")])[_key(f"w-{i}")].tolist() == [float(i)] * 384
    cache.put({_key("after"): np.zeros(384, dtype=np.float32)})
    assert len(cache) == count + 1


def test_two_processes_share_it(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name, "100"], stdout=subprocess.DEVNULL)
        for name in ("a", "b")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    cache = EmbeddingCache(tmp_path)
    assert len(cache) == 200
    assert cache.get([_key("b-99")])[_key("b-99")][0] == 99


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "embeddings.sqlite").mkdir()
    with pytest.raises(OSError, match="cannot be opened"):
        EmbeddingCache(tmp_path)


def test_failed_put_leaves_the_cache_usable(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    with pytest.raises(sqlite3.Error):
        cache.put({"not bytes but unhashable in SQL": np.zeros(1, dtype=np.float32), object(): np.zeros(1)})  # type: ignore[dict-item]
    cache.put({_key("a"): np.zeros(1, dtype=np.float32)})
    assert len(cache) == 1


def test_a_full_disk_is_an_os_error_and_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.put({_key("a"): np.zeros(1, dtype=np.float32)})
    cache._connection.execute("PRAGMA max_page_count = 5")  # SQLite's own "database or disk is full"
    with pytest.raises(OSError, match=r"the embedding cache .* cannot be used: database or disk is full"):
        cache.put({_key(str(i)): np.zeros(384, dtype=np.float32) for i in range(50)})
    assert len(cache) == 1
