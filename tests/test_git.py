"""Git is run without prompts, and stopped when it hangs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from conftest import Shell

from llamaindex_code_retrieval.index import git
from llamaindex_code_retrieval.index.git import run_git


def fake_git(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script before git on the path."""
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def test_status_and_both_outputs(repository: Path) -> None:
    done = run_git("ls-files", "-z", folder=repository)
    assert done.returncode == 0
    assert b"src/cart.py\0" in done.stdout
    failed = run_git("rev-parse", "nothing", folder=repository)
    assert failed.returncode == 128
    assert b"fatal" in failed.stderr


def test_a_git_that_hangs_is_stopped_with_its_helpers(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_git(path, f"sleep 600 & echo $! > {tmp_path}/helper; sleep 600", monkeypatch)
    with pytest.raises(TimeoutError, match=r"git clone wrote nothing for 0\.2 s and was stopped; check the network"):
        run_git("clone", "x", quiet_seconds=0.2)
    if (tmp_path / "helper").exists():  # or it was stopped before it had a helper
        helper = int((tmp_path / "helper").read_text())
        while _lives(helper):  # until the system has delivered the signal
            time.sleep(0.01)


def _lives(process: int) -> bool:
    """Return whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_git_asks_for_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No prompt of git's own, nothing on stdin, and a session of its own, which has no terminal."""
    fake_git(path, 'echo "$GIT_TERMINAL_PROMPT"; cat; echo $$; cut -d " " -f 6 /proc/$$/stat', monkeypatch)
    prompt, process, session = run_git("clone", "x").stdout.split()
    assert prompt == b"0"
    assert process == session


def test_no_hook_of_a_checkout_runs(repository: Path, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    run_git("config", "core.fsmonitor", str(hook), folder=repository)
    run_git("ls-files", "--others", "--modified", folder=repository)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["index", "mine"])
def test_a_clone_that_hangs_is_an_error(
    shell: Shell, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(git, "QUIET_SECONDS", 0.2)
    fake_git(path, "sleep 600", monkeypatch)
    shell(command, "https://example.org/org/name", "--out", "pairs.jsonl" if command == "mine" else "idx", code=2)
    assert "git clone wrote nothing for 0.2 s and was stopped" in shell.err


def test_no_git_installed(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    shell("index", "https://example.org/org/name", code=2)
    assert "git is not installed; install it, or clone the repository yourself" in shell.err


def test_what_git_complains_of_is_shown_without_its_progress(
    shell: Shell, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = "Cloning into 'x'...\nremote: Enumerating objects: 5\nReceiving objects:  50%\rReceiving objects: 100%\n"
    (path / "written").write_text(f"{progress}remote: Repository not found.\nfatal: not found\n")
    fake_git(path, f"cat {path}/written >&2; exit 128", monkeypatch)
    shell("index", "https://example.org/org/name", code=2)
    assert shell.err == ("code-retrieval: error: git clone failed: remote: Repository not found.\n  fatal: not found\n")
