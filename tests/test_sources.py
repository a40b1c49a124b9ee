from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from llamaindex_code_retrieval.index.sources import Skips, walk


def _paths(root: Path) -> list[str]:
    return [file.path for file in walk(root, Skips())]


def test_in_git_it_is_what_git_tracks_or_would_track(repository: Path) -> None:
    assert _paths(repository) == ["Tax.java", "src/cart.py", "src/mail.py"]
    (repository / "new.go").write_text("package main\n")
    (repository / "src" / "mail.py").unlink()
    skips = Skips()
    assert [file.path for file in walk(repository, skips)] == ["Tax.java", "new.go", "src/cart.py"]
    assert skips.reasons == {"deleted": 1, "no known language": 1}
    assert _paths(repository / "src") == ["cart.py"]


def test_a_folder_that_git_ignores_is_walked_like_any_other(repository: Path) -> None:
    library = repository / "vendored"
    library.mkdir()
    (library / "a.py").write_text("a = 1\n")
    (repository / ".gitignore").write_text("vendored\n")
    assert _paths(library) == ["a.py"]


def test_outside_git_gitignore_files_are_obeyed_and_the_deepest_decides(tmp_path: Path) -> None:
    for path in (
        "a.py",
        "build/b.py",
        "deep/c.py",
        "deep/keep/d.py",
        "node_modules/e.js",
        ".hidden/f.py",
        "deep/gen.py",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("build/\ngen.py\n")
    (tmp_path / "deep" / ".gitignore").write_text("!gen.py\nc.py\n")
    assert _paths(tmp_path) == ["a.py", "deep/gen.py", "deep/keep/d.py"]


@pytest.mark.parametrize("pattern", ["!", "\\\\", "[z-a].py", "a\\"])
def test_an_invalid_pattern_matches_nothing_as_in_git(pattern: str, tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text(f"b.py\n{pattern}\n")
    assert _paths(tmp_path) == ["a.py"]


def test_repositories_inside_a_checkout_are_named_as_left_out(repository: Path, tmp_path: Path) -> None:
    nested = tmp_path / "nested"
    shutil.copytree(repository, nested)
    nested.rename(repository / "nested.d")
    subprocess.run(["git", "-C", str(repository), "add", "src"], check=True)
    (repository / "src" / "folder").symlink_to(repository)
    skips = Skips()
    assert [file.path for file in walk(repository, skips)] == ["Tax.java", "src/cart.py", "src/mail.py"]
    assert skips.reasons == {"submodule or nested repository": 1, "no known language": 2}
    subprocess.run(["git", "-C", str(repository), "add", "nested.d"], check=True, capture_output=True)  # a submodule
    skips = Skips()
    list(walk(repository, skips))
    assert skips.reasons["submodule or nested repository"] == 1


def test_what_cannot_be_read_is_counted_and_nothing_stops(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("x = 1\n")
    (tmp_path / "bom.py").write_bytes(b"\xef\xbb\xbfx = 2\n")
    (tmp_path / "latin.py").write_bytes(b"name = 'caf\xe9'\n")
    (tmp_path / "binary.py").write_bytes(b"\x7fELF\0\0\0")
    with (tmp_path / "huge.py").open("wb") as file:
        file.truncate(50_000_000)
    (tmp_path / "notes.txt").write_text("no code")
    (tmp_path / "link.py").symlink_to("good.py")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.py")
    skips = Skips()
    files = {file.path: file.text for file in walk(tmp_path, skips)}
    assert files == {"good.py": "x = 1\n", "bom.py": "x = 2\n", "latin.py": "name = 'caf\ufffd'\n"}
    assert skips.replaced == 1
    assert skips.reasons == {
        "binary": 1,
        "larger than 1,000,000 bytes": 1,
        "no known language": 1,
        "symbolic link": 1,
        "not a regular file": 1,
    }


WALK_AS_NOBODY = """
import os, sys
from pathlib import Path
from llamaindex_code_retrieval.index.sources import Skips, walk
list(walk(Path(sys.argv[1]), Skips()))  # loads all that it needs while the interpreter may still read it
if os.getuid() == 0:
    os.setuid(65534)
skips = Skips()
print([file.path for file in walk(Path(sys.argv[1]), skips)], dict(skips.reasons))
"""


def test_unreadable_files_and_folders_are_counted() -> None:
    with tempfile.TemporaryDirectory() as name:  # unlike tmp_path, another user can reach it
        root = Path(name)
        root.chmod(0o755)
        for path in ("open.py", "secret.py", "closed/inside.py"):
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_text("x = 1\n")
        (root / "secret.py").chmod(0)
        (root / "closed").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", WALK_AS_NOBODY, name], capture_output=True, text=True, check=True, cwd="/"
        )
        (root / "closed").chmod(0o755)
    reasons = "{'unreadable folder (Permission denied)': 1, 'unreadable (Permission denied)': 1}"
    assert done.stdout == f"['open.py'] {reasons}\n"


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a folder \(missing\)"):
        list(walk(tmp_path / "none", Skips()))
    (tmp_path / "file.py").write_text("")
    with pytest.raises(ValueError, match=r"not a folder \(a file\)"):
        list(walk(tmp_path / "file.py", Skips()))
