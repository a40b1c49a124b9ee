from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from llamaindex_code_retrieval.index.lock import update_lock


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(
        OSError, match=r"has no locks \(.*\), as some network file systems; put the index on a local disk"
    ):
        update_lock(tmp_path, seconds=0).__enter__()


def test_a_thread_that_holds_the_lock_takes_it_again(tmp_path: Path) -> None:
    with update_lock(tmp_path, seconds=0):
        with update_lock(tmp_path, seconds=0):
            pass
        assert (tmp_path / ".lock-holder.json").exists()
    assert not (tmp_path / ".lock-holder.json").exists()
