from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from llamaindex_code_retrieval.index.changes import ChangeCounts, FileChange, count_changes, find_changes
from llamaindex_code_retrieval.index.file_state import FileState, SourceCounts, text_digest
from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.index.source_roots import SourceRoot, SourceRules, source_roots
from llamaindex_code_retrieval.index.sources import walk

LONG_AGO = 10**18
"""2001, in nanoseconds: the time of files whose status can be trusted."""


def write(root: Path, files: Mapping[str, str | bytes]) -> None:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def roots_of(*folders: Path, options: SourceOptions | None = None) -> list[SourceRoot]:
    return source_roots(folders, options or SourceOptions())


def remembered(changes: Iterable[FileChange], known: Mapping[str, FileState] = {}) -> dict[str, FileState]:
    return {**known, **{change.state.path: change.state for change in changes}}


def settled(known: Mapping[str, FileState]) -> dict[str, FileState]:
    """Return the states as if the files were read long after they were written."""
    return {path: state._replace(checked=state.checked + 10**10) for path, state in known.items()}


def read_everything(folder: Path) -> dict[str, FileState]:
    return settled(remembered(find_changes(roots_of(folder), {})))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write(
        tmp_path / "project",
        {
            "a.py": "a = 1\n",
            "b.py": "b = 1\n",
            "lib/c.unknown": "text\n",
            "lib/latin.py": b"name = 'caf\xe9'\n",
            "rows.csv": "1,2\n",
            "blob.py": b"\0",
        },
    )
    for path in (tmp_path / "project").rglob("*.*"):
        os.utime(path, ns=(LONG_AGO, LONG_AGO))  # so that a write has another time on any file system
    return tmp_path / "project"


def test_a_new_index_reads_every_file_that_is_worth_it(project: Path) -> None:
    changes = find_changes(roots_of(project), {})
    found = list(changes)
    assert [(change.state.path, change.text, change.state.language) for change in found] == [
        ("a.py", "a = 1\n", "python"),
        ("b.py", "b = 1\n", "python"),
        ("blob.py", None, ""),
        ("lib/c.unknown", "text\n", "text"),
        ("lib/latin.py", "name = 'café'\n", "python"),
        ("rows.csv", None, ""),
    ]
    assert changes.counts.left_out == {"binary": {".py": 1}, "data": {".csv": 1}}
    assert changes.counts.encodings == {"guessed": {"cp1252": 1}}
    assert changes.counts.unknown == {".unknown": 1}
    assert found[0].state.digest == text_digest("a = 1\n", "python")
    assert not any(change.is_touched for change in found)


def test_unchanged_files_are_not_read_and_are_counted_as_before(project: Path) -> None:
    first = find_changes(roots_of(project), {})
    known = settled(remembered(first))
    changes = find_changes(roots_of(project), known)
    assert (len(changes), changes.unchanged, changes.removed) == (0, 6, [])
    assert changes.counts == first.counts


def test_only_what_changed_is_read(project: Path) -> None:
    known = read_everything(project)
    write(project, {"a.py": "a = 2\n", "new.py": "new = 1\n", "blob.py": b"\0\0"})
    (project / "b.py").unlink()
    os.utime(project / "lib/latin.py", (1, 1))
    changes = find_changes(roots_of(project), known)
    found = {change.state.path: (change.text, change.is_touched) for change in changes}
    assert found == {
        "a.py": ("a = 2\n", False),
        "new.py": ("new = 1\n", False),
        "blob.py": (None, True),
        "lib/latin.py": (None, True),
    }
    assert changes.removed == ["b.py"]
    assert changes.unchanged == 2


def test_a_file_that_becomes_binary_is_left_out(project: Path) -> None:
    known = read_everything(project)
    write(project, {"a.py": b"\0"})
    [change] = find_changes(roots_of(project), known)
    assert (change.text, change.state.left_out, change.state.digest, change.is_touched) == (None, "binary", "", False)


def test_a_write_within_the_same_tick_of_the_clock_is_noticed(project: Path) -> None:
    """The status is that of before: the file was read just after it was written, and written again."""
    [read] = [change for change in find_changes(roots_of(project), {}) if change.state.path == "a.py"]
    write(project, {"a.py": "a = 2\n"})
    status = (project / "a.py").stat()
    same_status = read.state._replace(mtime=status.st_mtime_ns, ctime=status.st_ctime_ns)
    known = {**read_everything(project), "a.py": same_status}
    assert [change.text for change in find_changes(roots_of(project), known)] == ["a = 2\n"]


def test_a_write_whose_time_is_set_back_is_noticed(project: Path) -> None:
    known = read_everything(project)
    changed_before = (project / "a.py").stat().st_ctime_ns
    while (project / "a.py").stat().st_ctime_ns == changed_before:
        write(project, {"a.py": "a = 2\n"})
        os.utime(project / "a.py", ns=(LONG_AGO, LONG_AGO))
    assert [change.text for change in find_changes(roots_of(project), known)] == ["a = 2\n"]


def test_two_files_that_change_places_are_noticed(project: Path) -> None:
    """Some file systems change neither time of a file that is renamed."""
    known = read_everything(project)
    for source, target in (("a.py", "c.py"), ("b.py", "a.py"), ("c.py", "b.py")):
        (project / source).rename(project / target)
    status = {name: (project / name).stat() for name in ("a.py", "b.py")}
    for name, each in status.items():
        known[name] = known[name]._replace(mtime=each.st_mtime_ns, ctime=each.st_ctime_ns)
    changes = find_changes(roots_of(project), settled(known))
    assert [(change.state.path, change.text) for change in changes] == [("a.py", "b = 1\n"), ("b.py", "a = 1\n")]


def test_a_file_from_the_future_is_read_each_time(project: Path) -> None:
    """Its time is later than the clock's: the clock went back, or another machine wrote it."""
    known = read_everything(project)
    os.utime(project / "a.py", (2**33, 2**33))
    known = settled(remembered(find_changes(roots_of(project), known), known))
    [change] = find_changes(roots_of(project), known)
    assert (change.state.path, change.is_touched) == ("a.py", True)


def test_a_restored_checkout_is_read_but_equal(project: Path, tmp_path: Path) -> None:
    known = read_everything(project)
    shutil.copytree(project, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    changes = find_changes(roots_of(tmp_path / "elsewhere"), known)
    assert len(changes) == len(known)
    assert all(change.is_touched and change.text is None for change in changes)
    assert changes.removed == []


def test_reading_all_yields_the_texts_of_equal_files_too(project: Path) -> None:
    changes = list(find_changes(roots_of(project), read_everything(project), read_all=True))
    assert [change.text for change in changes if change.state.digest] == [
        "a = 1\n", "b = 1\n", "text\n", "name = 'café'\n"
    ]  # fmt: skip
    assert all(change.is_touched for change in changes)


def test_another_language_is_a_change(project: Path) -> None:
    known = read_everything(project)
    roots = roots_of(project, options=SourceOptions(ext={".unknown": "go"}))
    changed = [change for change in find_changes(roots, known, read_all=True) if not change.is_touched]
    assert [(change.state.path, change.state.language) for change in changed] == [("lib/c.unknown", "go")]


def test_an_interrupted_update_goes_on(project: Path) -> None:
    interrupted = iter(find_changes(roots_of(project), {}))
    known = settled({change.state.path: change.state for change, _ in zip(interrupted, range(2), strict=False)})
    assert list(known) == ["a.py", "b.py"]
    changes = find_changes(roots_of(project), known)
    assert len(changes) == 4
    assert remembered(changes, known).keys() == read_everything(project).keys()
    assert changes.counts == find_counts(project)


def find_counts(folder: Path) -> SourceCounts:
    counts = SourceCounts()
    list(walk(folder, counts))
    return counts


def test_several_roots_have_prefixes_and_rules_of_their_own(project: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", {"a.py": "x = 1\n", ".code-retrieval.toml": 'exclude = ["*.toml"]\n'})
    roots = roots_of(project, tmp_path / "other")
    changes = find_changes(roots, {})
    known = settled(remembered(changes))
    assert {"project/a.py", "other/a.py"} <= known.keys()
    assert changes.counts.left_out["excluded"] == {".toml": 1}
    changes = find_changes(roots_of(project), {path.removeprefix("project/"): each for path, each in known.items()})
    assert changes.removed == ["other/.code-retrieval.toml", "other/a.py"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a folder \(missing\)"):
        find_changes(roots_of(tmp_path / "none"), {})


def test_rules_are_saved_as_json(project: Path) -> None:
    options = SourceOptions(only=("*.py",), ext={".foo": "go"}, max_file_size=10)
    [root] = roots_of(project, options=options)
    assert SourceRules.from_json(root.rules.to_json()) == root.rules
    (project / ".code-retrieval.toml").write_text('exclude = ["a.py"]\n')
    assert roots_of(project, options=options)[0].rules != root.rules


# --- counting --------------------------------------------------------------------------------------------------------


def test_changes_are_counted_as_an_update_would_make_them(project: Path) -> None:
    known = read_everything(project)
    assert count_changes(roots_of(project), known) == ChangeCounts()
    write(project, {"a.py": "a = 2\n", "new.py": "new = 1\n", "new.csv": "1\n", "blob.py": b"\0\0", "new.bin": b"\0"})
    (project / "b.py").unlink()
    os.utime(project / "lib/latin.py", (1, 1))
    counts = count_changes(roots_of(project), known)
    assert counts == ChangeCounts(added=1, changed=1, removed=1)
    assert counts.total == 3
    write(project, {"lib/c.unknown": b"\0"})
    assert count_changes(roots_of(project), known).removed == 2


def test_without_reading_names_and_status_are_counted(project: Path) -> None:
    known = read_everything(project)
    write(project, {"new.py": "new = 1\n", "new.csv": "1\n", "new.bin": b"\0", "blob.py": b"\0\0"})
    os.utime(project / "lib/latin.py", (1, 1))
    assert count_changes(roots_of(project), known, max_reads=0) == ChangeCounts(added=2, changed=1, unread=3)


def test_a_write_within_the_same_tick_of_the_clock_is_counted(project: Path) -> None:
    known = read_everything(project)
    write(project, {"a.py": "a = 2\n"})
    status = (project / "a.py").stat()
    known["a.py"] = known["a.py"]._replace(
        mtime=status.st_mtime_ns, ctime=status.st_ctime_ns, checked=status.st_mtime_ns
    )
    assert count_changes(roots_of(project), known) == ChangeCounts(changed=1)
    assert count_changes(roots_of(project), known, max_reads=0) == ChangeCounts()


def test_no_time_to_count(project: Path) -> None:
    counts = count_changes(roots_of(project), read_everything(project), limit_seconds=0)
    assert counts == ChangeCounts(is_complete=False)


def test_files_deleted_in_a_checkout_are_counted(repository: Path) -> None:
    known = read_everything(repository)
    (repository / "Tax.java").unlink()
    assert count_changes(roots_of(repository), known) == ChangeCounts(removed=1)
    [change] = find_changes(roots_of(repository), known)
    assert change.state.left_out == "deleted"
    known = remembered([change], known)
    assert count_changes(roots_of(repository), known) == ChangeCounts()
    assert len(find_changes(roots_of(repository), known)) == 0


# --- any edits -------------------------------------------------------------------------------------------------------

Edit = Callable[[random.Random, Path], None]
CONTENTS = [
    b"x = 1\n", b"y = 2\n", b"z = 3\n", b"caf\xe9 = 1\n", "é = 1\n".encode("utf-16"), b"\0", b"", b"a,b\n",
    b"x = 1\n" * 9,
]  # fmt: skip
NAMES = ["a.py", "b.go", "c.unknown", "d.csv", "e", "f.lock", "café.py", "x y.py"]
FOLDERS = ["", "src/", "src/deep/", "build/", "node_modules/"]


def path_in(rng: random.Random, root: Path) -> Path:
    return root / (rng.choice(FOLDERS) + rng.choice(NAMES))


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def add(rng: random.Random, root: Path) -> None:
    path = path_in(rng, root)
    clear(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rng.choice(CONTENTS))


def delete(rng: random.Random, root: Path) -> None:
    clear(path_in(rng, root))


def rename(rng: random.Random, root: Path) -> None:
    source, target = path_in(rng, root), path_in(rng, root)
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        clear(target)
        if source.exists():
            source.rename(target)


def touch(rng: random.Random, root: Path) -> None:
    path = path_in(rng, root)
    if path.exists():
        seconds = rng.choice([0, LONG_AGO, 2**62])
        os.utime(path, ns=(seconds, seconds))


def write_and_set_time_back(rng: random.Random, root: Path) -> None:
    path = path_in(rng, root)
    if path.is_file() and not path.is_symlink():
        before = path.stat()
        path.write_bytes(rng.choice(CONTENTS[:3]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_mode(rng: random.Random, root: Path) -> None:
    path = path_in(rng, root)
    if path.is_file():
        path.chmod(rng.choice([0o644, 0o755]))


def link(rng: random.Random, root: Path) -> None:
    path = path_in(rng, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear(path)
    path.symlink_to(rng.choice(["a.py", "nowhere", ".."]))


def make_folder(rng: random.Random, root: Path) -> None:
    path = path_in(rng, root)
    clear(path)
    write(path, {"inside.py": "x = 1\n"})


def ignore(rng: random.Random, root: Path) -> None:
    lines = rng.sample(["build/", "*.go", "!b.go", "/src/*", "e", "*.py"], 2)
    write(root, {rng.choice(FOLDERS[:3]) + ".gitignore": "\n".join(lines) + "\n"})


EDITS: list[Edit] = [
    add, add, add, delete, rename, touch, write_and_set_time_back, change_mode, link, make_folder, ignore
]  # fmt: skip


@pytest.mark.parametrize("in_git", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_any_edits_are_found(seed: int, in_git: bool, tmp_path: Path) -> None:
    """After edits, the known states and the changes are what a full read finds."""
    rng = random.Random(seed)
    root = tmp_path / "root"
    root.mkdir()
    if in_git:
        subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    known: dict[str, FileState] = {}
    for _ in range(12):
        for edit in rng.choices(EDITS, k=rng.randint(1, 6)):
            edit(rng, root)
        if in_git and rng.random() < 0.3:
            subprocess.run(["git", "-C", str(root), "add", "-A"], check=True)
        expected_counts = count_changes(roots_of(root), known, limit_seconds=60, max_reads=1000)
        before = known
        changes = find_changes(roots_of(root), known)
        known = remembered(changes, known)
        for path in changes.removed:
            del known[path]
        full = find_changes(roots_of(root), {})
        fresh = remembered(full)
        assert {path: state._replace(checked=0) for path, state in known.items()} == {
            path: state._replace(checked=0) for path, state in fresh.items()
        }
        assert changes.counts == full.counts
        assert expected_counts == counts_between(before, fresh)
        if rng.random() < 0.5:
            known = {path: age(state) for path, state in known.items()}


def age(state: FileState) -> FileState:
    """Return the state as if it was read some seconds later, unless the next write may have the same time."""
    return state if max(state.mtime, state.ctime) > time.time_ns() - 10**8 else state._replace(checked=2**61)


def counts_between(before: Mapping[str, FileState], after: Mapping[str, FileState]) -> ChangeCounts:
    old, new = ({path: each.digest for path, each in states.items() if each.digest} for states in (before, after))
    return ChangeCounts(
        added=len(new.keys() - old.keys()),
        changed=sum(old[path] != new[path] for path in old.keys() & new.keys()),
        removed=len(old.keys() - new.keys()),
    )
