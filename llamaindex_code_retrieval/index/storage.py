"""The index folder: manifest, lock, and the rules for what may be written where."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llamaindex_code_retrieval.embedding import CodeEmbedding

FORMAT = 2
_MANIFEST = "manifest.json"
_OWN = re.compile(r"data-[0-9a-f]{16}|manifest\.json(\.tmp)?|\.lock|\.lock-holder\.json|\.gitignore|sources")


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of the index in ``folder``: format, fingerprint, dim, counts, roots, model, contents.

    Raises:
        ValueError: there is no index, it is damaged, or of another format.
    """
    path = Path(folder) / _MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(
                f"{folder} holds an index of format {manifest['format']}, this version reads format {FORMAT}; "
                "build it anew with `code-retrieval index`"
            )
        manifest["generation"], manifest["contents"], manifest["fingerprint"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"there is no index in {folder}; build one with: code-retrieval index PATH --out {folder}"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); build the index anew with `code-retrieval index`") from error
    return manifest


@contextmanager
def update_lock(
    folder: str | Path, *, seconds: float, on_wait: Callable[[str], object] | None = None
) -> Iterator[None]:
    """Hold the right to update the index in ``folder``, so that two processes do not overwrite each other's work.

    Waits up to ``seconds`` for another holder, after calling ``on_wait`` with who that is; the operating system frees
    the lock of a process that dies.

    Raises:
        TimeoutError: somebody else still holds it; the message says who.
        ValueError: ``folder`` is a file, or holds other things than an index.
    """
    target = Path(folder)
    _check_place(target)
    target.mkdir(parents=True, exist_ok=True)
    holder = target / ".lock-holder.json"
    lock = FileLock(target / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = _holder(holder)
        if on_wait is not None and seconds > 0:
            on_wait(who)
        try:
            lock.acquire(timeout=seconds)
        except Timeout as error:
            raise TimeoutError(
                f"{target} is being updated by {_holder(holder)}; waited {seconds:g} s; try again when it has finished"
            ) from error
    try:
        me = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        holder.write_text(json.dumps(me), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _check_place(folder: Path) -> None:
    """Refuse a file, and a folder of something else than an index: its files must not be mixed with ours."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the index")
    if folder.is_dir() and not (folder / _MANIFEST).exists():
        foreign = sorted(path.name for path in folder.iterdir() if not _OWN.fullmatch(path.name))
        if foreign:
            raise ValueError(
                f"{folder} holds other things than an index ({', '.join(foreign[:3])}); name a new or an empty folder"
            )


def _holder(path: Path) -> str:
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
        return f"process {who['process']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def _rebuild_command(folder: Path, manifest: dict[str, Any]) -> str:
    roots = manifest.get("roots") or ["PATH"]
    return shlex.join(["code-retrieval", "index", *roots, "--out", str(folder)])


def _damaged(folder: Path, manifest: dict[str, Any], what: str) -> str:
    command = _rebuild_command(folder, manifest)
    return f"the index in {folder} is damaged or half copied: {what}; rebuild it with: {command}"


def _other_model(folder: Path, manifest: dict[str, Any], embedding: CodeEmbedding) -> str:
    then, now = manifest.get("adapters", {}), embedding.fingerprints
    others = sorted(
        language for language in {*then, *now} - {""} if then.get(language, "none") != now.get(language, "none")
    )
    where = f" (another adapter for {', '.join(others)})" if others else ""
    return (
        f"the index in {folder} was built by model {manifest['embedding']['model_name']!r} with fingerprint "
        f"{manifest['fingerprint']}, but the model at hand has fingerprint {embedding.fingerprint}{where}; "
        f"rebuild it with: {_rebuild_command(folder, manifest)}"
    )
