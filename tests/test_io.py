"""Files: what is hashed again and what is not."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llamaindex_code_retrieval import CodeEmbedding, CodeReranker
from llamaindex_code_retrieval._io import sha256
from llamaindex_code_retrieval.models.locate import locate


@contextmanager
def _counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count the files that are hashed, by path."""
    counts: Counter[str] = Counter()
    real = hashlib.file_digest

    def digest(file: Any, algorithm: str) -> Any:
        counts[str(file.name)] += 1
        return real(file, algorithm)

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", digest)
        yield counts


def test_weights_are_hashed_once_in_a_process(monkeypatch: pytest.MonkeyPatch, other_adapter: Path) -> None:
    monkeypatch.setattr("llamaindex_code_retrieval._io._hashes", {})  # as in a new process
    with _counted(monkeypatch) as counts:
        embedding = CodeEmbedding(adapters={"java": str(other_adapter)}, query_encoder="embedded-general-layers")
        CodeReranker(embedding=embedding).score("a", ["b"])
        assert CodeEmbedding(adapter=str(other_adapter)).fingerprint == embedding.fingerprints["java"]
    assert counts[str(locate("embedded") / "model.safetensors")] == 1
    assert set(counts.values()) == {1}


def test_a_file_that_changes_is_hashed_again(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    for content in (b"a", b"b", b"a", b"cd"):  # faster than the clock of most file systems ticks
        file.write_bytes(content)
        assert sha256(file) == hashlib.sha256(content).hexdigest()
        assert sha256(file) == hashlib.sha256(content).hexdigest()


@pytest.mark.skipif(sys.platform == "win32", reason="times of the creation, not of the last change")
def test_a_file_in_the_place_of_another_of_equal_size_and_time_is_hashed(tmp_path: Path) -> None:
    old = locate("embedded") / "config.json"  # older than two seconds, so its hash is kept
    place = tmp_path / "config.json"
    place.symlink_to(old)
    first = sha256(place)
    assert first == hashlib.sha256(old.read_bytes()).hexdigest()
    place.unlink()
    shutil.copy2(old, place)
    place.write_bytes(place.read_bytes()[:-1] + b" ")
    os.utime(place, ns=(old.stat().st_atime_ns, old.stat().st_mtime_ns))
    assert sha256(place) == hashlib.sha256(place.read_bytes()).hexdigest() != first
