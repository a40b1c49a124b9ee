"""Run git so that it neither waits for a password nor hangs."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

QUIET_SECONDS = 600.0
"""A git process that writes nothing for so long is stopped; a clone reports its progress all the time."""

_CHUNK = 65_536


def run_git(
    *arguments: str, folder: str | Path | None = None, quiet_seconds: float | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run ``git``, in ``folder`` if it is given, and return its exit status and output.

    Without a terminal to ask on, git and ssh fail where they would ask for a password. The hook ``core.fsmonitor`` of
    a checkout, which may be anybody's, does not run.

    Raises:
        FileNotFoundError: git is not installed.
        TimeoutError: git has written nothing for ``quiet_seconds`` (default: ``QUIET_SECONDS``).
    """
    quiet_seconds = QUIET_SECONDS if quiet_seconds is None else quiet_seconds
    command = ["git", "-c", "core.fsmonitor=false", *(() if folder is None else ("-C", str(folder))), *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        start_new_session=True,  # no terminal for ssh's questions, and a process group that can be stopped as one
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        out, err = _read_both(process.stdout, process.stderr, quiet_seconds)
        return subprocess.CompletedProcess(command, process.wait(quiet_seconds), out, err)
    except (queue.Empty, subprocess.TimeoutExpired):
        _kill(process)
        raise TimeoutError(
            f"git {arguments[0]} wrote nothing for {quiet_seconds:g} s and was stopped; check the network and the "
            "server, or clone the repository yourself and name the folder"
        ) from None
    except BaseException:  # Ctrl-C does not reach git in its own session
        _kill(process)
        raise


def _read_both(stdout: IO[bytes], stderr: IO[bytes], quiet_seconds: float) -> tuple[bytes, bytes]:
    """Return all of both streams; ``queue.Empty`` once neither brings anything for ``quiet_seconds``."""
    chunks: queue.Queue[tuple[int, bytes]] = queue.Queue()

    def read(number: int, stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), _CHUNK):
            chunks.put((number, chunk))
        chunks.put((number, b""))
        stream.close()

    for number, stream in enumerate((stdout, stderr)):
        threading.Thread(target=read, args=(number, stream), daemon=True).start()
    outputs = (bytearray(), bytearray())
    still_open = 2
    while still_open:
        number, chunk = chunks.get(timeout=quiet_seconds)
        outputs[number].extend(chunk)
        still_open -= not chunk
    return bytes(outputs[0]), bytes(outputs[1])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill git and the helpers that it started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
