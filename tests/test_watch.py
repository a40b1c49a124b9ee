from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.index.source_roots import source_roots
from llamaindex_code_retrieval.index.watch import _explain_limit, _Filter, watch

LONGEST_SECONDS = 60.0


def write(root: Path, *paths: str, content: str = "x = 1\n") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)


@contextmanager
def watching(
    *folders: Path,
    options: SourceOptions | None = None,
    ignored: tuple[Path, ...] = (),
    polling: bool | None = None,
) -> Iterator[Callable[[Path], set[str]]]:
    """Watch the folders in a thread; give a function that waits until a path is yielded and returns all so far."""
    stop = threading.Event()
    found: queue.Queue[frozenset[str] | Exception] = queue.Queue()

    def run() -> None:
        try:
            for paths in watch(
                folders, options or SourceOptions(), ignored=ignored, stop=stop, debounce=0.05, polling=polling
            ):
                found.put(paths)
        except Exception as error:  # shown by the test that waits
            found.put(error)

    def until(path: Path) -> set[str]:
        seen: set[str] = set()
        while str(path) not in seen:
            paths = found.get(timeout=LONGEST_SECONDS)
            if isinstance(paths, Exception):
                raise paths
            seen |= paths
        return seen

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert found.get(timeout=LONGEST_SECONDS) == frozenset()
        yield until
    finally:
        stop.set()
        thread.join(LONGEST_SECONDS)
    assert not thread.is_alive()


def test_edits_are_yielded(tmp_path: Path) -> None:
    write(tmp_path, "one/a.py", "two/b.py")
    with watching(tmp_path / "one", tmp_path / "two") as until:
        write(tmp_path, "one/a.py", content="x = 2\n")
        until(tmp_path / "one/a.py")
        write(tmp_path, "two/new/c.py")
        until(tmp_path / "two/new")
        (tmp_path / "two/b.py").unlink()
        until(tmp_path / "two/b.py")
        (tmp_path / "one/a.py").rename(tmp_path / "one/z.py")
        until(tmp_path / "one/z.py")


def test_polling(tmp_path: Path) -> None:
    write(tmp_path, "a.py")
    with watching(tmp_path, polling=True) as until:
        write(tmp_path, "a.py", content="x = 22\n")
        os.utime(tmp_path / "a.py", (2**32, 2**32))  # polling compares seconds
        until(tmp_path / "a.py")


def test_edits_that_change_no_index_are_not_yielded(tmp_path: Path) -> None:
    write(tmp_path, "a.py", ".code-retrieval/x.py", "node_modules/x.js", "build/x.py")
    write(tmp_path, ".gitignore", content="build/\n")
    with watching(tmp_path, ignored=(tmp_path / ".code-retrieval",)) as until:
        write(tmp_path, ".code-retrieval/y.py", "node_modules/y.js", "build/y.py", ".git/index", "rows.csv", "a.lock")
        write(tmp_path, "a.py", content="x = 2\n")
        assert until(tmp_path / "a.py") == {str(tmp_path / "a.py")}


def test_new_settings_hold_from_then_on(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "docs/b.py")
    with watching(tmp_path, options=SourceOptions(include=("*.csv",))) as until:
        write(tmp_path, ".code-retrieval.toml", content="exclude = [")
        until(tmp_path / ".code-retrieval.toml")
        write(tmp_path, ".code-retrieval.toml", content='exclude = ["b.py"]\n')
        until(tmp_path / ".code-retrieval.toml")
        write(tmp_path, "new.csv")
        until(tmp_path / "new.csv")
        write(tmp_path, "docs/b.py", content="x = 2\n")
        write(tmp_path, "a.py", content="x = 2\n")
        assert str(tmp_path / "docs/b.py") not in until(tmp_path / "a.py")


def edited(root: Path, *paths: str) -> list[str]:
    [source_root] = source_roots([root], SourceOptions())
    found = _Filter(source_root).edited([str(root / path) for path in paths])
    return sorted(str(Path(path).relative_to(root)) for path in found)


def test_in_a_checkout_git_decides(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "build/tracked.py", "build/other.py", "node_modules/tracked.js", "secret.py", "out/a.py")
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "build/tracked.py", "node_modules/tracked.js"], check=True)
    write(tmp_path, ".gitignore", content="build/\nout/\n")
    write(tmp_path, ".git/info/exclude", content="secret.py\n")
    assert edited(tmp_path, "a.py") == ["a.py"]
    assert edited(tmp_path, "build/tracked.py") == ["build/tracked.py"]
    assert edited(tmp_path, "node_modules/tracked.js") == ["node_modules/tracked.js"]
    assert edited(tmp_path, "gone.py") == ["gone.py"]
    assert edited(tmp_path, "build/other.py", "secret.py", "out", ".git/HEAD", "site-packages/x.py") == []
    assert edited(tmp_path, "build/.gitignore") == ["build/.gitignore"]
    assert edited(tmp_path, "secret.py", "a.py") == ["a.py", "secret.py"]


def test_outside_git_gitignore_files_decide(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "deep/gen.py", "nested/.git", "nested/x.log.py")
    write(tmp_path, ".gitignore", content="build/\ngen.py\n*.log.py\n")
    write(tmp_path, "deep/.gitignore", content="!gen.py\n")
    paths = ["a.py", "build/x.py", "gen.py", "deep/gen.py", "x.log.py", "nested/x.log.py", "deep", "rows.csv"]
    assert edited(tmp_path, *paths) == ["a.py", "deep", "deep/gen.py", "nested/x.log.py"]


def test_a_folder_that_git_ignores_is_watched_like_any_other(repository: Path) -> None:
    write(repository, "vendored/a.py")
    write(repository, ".gitignore", content="vendored\n")
    assert edited(repository / "vendored", "a.py") == ["a.py"]


def test_wrong_folders_and_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a folder"):
        next(watch([tmp_path / "none"], SourceOptions()))
    write(tmp_path, ".code-retrieval.toml", content="exclude = 1\n")
    with pytest.raises(ValueError, match="exclude must be a list"):
        next(watch([tmp_path], SourceOptions()))


def test_a_system_that_watches_no_more_folders() -> None:
    def batches() -> Iterator[set[tuple[int, str]]]:
        raise OSError("OS file watch limit reached.")
        yield set()

    with pytest.raises(OSError, match=r"cannot be watched \(OS file watch limit reached.\); raise the system's limit"):
        list(_explain_limit(batches()))


def test_without_watchfiles_the_message_names_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['watchfiles'] = None\n"
        "from llamaindex_code_retrieval.index.source_options import SourceOptions\n"
        "from llamaindex_code_retrieval.index.watch import watch\n"
        "next(watch([], SourceOptions()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: watching folders needs watchfiles" in done.stderr
    assert done.stderr.strip().endswith("pip install watchfiles")
