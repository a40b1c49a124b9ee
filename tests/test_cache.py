from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
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


def test_more_keys_than_one_select_takes(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    vectors = {_key(str(i)): np.array([i], dtype=np.float32) for i in range(1_234)}
    cache.put(vectors)
    assert {key: row.tolist() for key, row in cache.get(list(vectors)).items()} == {
        key: row.tolist() for key, row in vectors.items()
    }


def test_the_oldest_go_when_it_outgrows_its_limit(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_bytes=100 * (4 + 64))
    for i in range(150):
        cache.put({_key(str(i)): np.array([i], dtype=np.float32)})
    assert 75 <= len(cache) <= 100
    assert _key("0") not in cache.get([_key("0")])
    assert _key("149") in cache.get([_key("149")])


def test_a_damaged_file_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "embeddings.sqlite").write_bytes(b"this is no database" * 100)
    cache = EmbeddingCache(tmp_path)
    cache.put({_key("a"): np.zeros(2, dtype=np.float32)})
    assert len(cache) == 1
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


WRITER = """
import sys, numpy as np
from llamaindex_code_retrieval.cache import EmbeddingCache
cache = EmbeddingCache(sys.argv[1])
print("open", flush=True)
for i in range(int(sys.argv[3])):
    cache.put({EmbeddingCache.key("m", "code", f"{sys.argv[2]}-{i}"): np.full(384, i, dtype=np.float32)})
"""


def test_survives_a_kill_in_the_middle_of_writing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), "w", "1000000"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    cache = EmbeddingCache(tmp_path)
    count = len(cache)
    assert count > 0
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


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "embeddings.sqlite").mkdir()
    with pytest.raises(OSError, match="cannot be opened"):
        EmbeddingCache(tmp_path)


def test_failed_put_leaves_the_cache_usable(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    with pytest.raises(sqlite3.Error):
        cache.put({"not bytes but unhashable in SQL": np.zeros(1, dtype=np.float32), object(): np.zeros(1)})  # type: ignore[dict-item]
    cache.put({_key("a"): np.zeros(1, dtype=np.float32)})
    assert len(cache) == 1
