"""The lock that lets one process at a time update an index."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from llamaindex_code_retrieval.index.folder import check_folder

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def update_lock(
    folder: str | Path, *, seconds: float, on_wait: Callable[[str], object] | None = None
) -> Iterator[None]:
    """Hold the right to update the index in ``folder``, so that two processes do not overwrite each other's work.

    Waits up to ``seconds`` for another holder, after calling ``on_wait`` with its process, host and start time. The
    operating system frees the lock of a process that dies.

    Raises:
        TimeoutError: another process still holds it; the message says which one.
        OSError: the file system has no locks, or the folder cannot be written.
        ValueError: ``folder`` is a file, or holds other things than an index.
    """
    target = Path(folder)
    check_folder(target)
    target.mkdir(parents=True, exist_ok=True)
    holder = target / ".lock-holder.json"
    lock = FileLock(target / ".lock", is_singleton=True)  # a thread that holds it takes it again at once
    try:
        _acquire(lock, holder, seconds, on_wait)
    except Timeout as error:
        raise TimeoutError(
            f"{target} is being updated by {_describe_holder(holder)}; waited {seconds:g} s; "
            "try again when it has finished"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise OSError(
            f"the file system of {target} has no locks ({error}), as some network file systems; put the index on a "
            "local disk"
        ) from error
    if lock.lock_counter > 1:
        try:
            yield
        finally:
            lock.release()
        return
    try:
        record = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        holder.write_text(json.dumps(record), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, holder: Path, seconds: float, on_wait: Callable[[str], object] | None) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if on_wait is not None and seconds > 0:
            on_wait(_describe_holder(holder))
        lock.acquire(timeout=seconds)


def _describe_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
