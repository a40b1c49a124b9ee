from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from llamaindex_code_retrieval.index.file_state import SourceCounts
from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.index.sources import SourceFile, read_sources, walk


def _paths(root: Path, options: SourceOptions | None = None) -> list[str]:
    return [file.path for file in walk(root, SourceCounts(), options)]


def _walk(root: Path, options: SourceOptions | None = None) -> tuple[dict[str, SourceFile], SourceCounts]:
    counts = SourceCounts()
    return {file.path: file for file in walk(root, counts, options)}, counts


def _write(root: Path, *paths: str, content: str = "x = 1\n") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)


def _checkout(folder: Path, *paths: str) -> Path:
    _write(folder, *paths)
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "c"]):
        subprocess.run([*git, *command], check=True)
    return folder


def test_in_git_it_is_what_git_tracks_or_would_track(repository: Path) -> None:
    assert _paths(repository) == ["Tax.java", "src/cart.py", "src/mail.py"]
    (repository / "new.go").write_text("package main\n")
    (repository / "src" / "mail.py").unlink()
    files, counts = _walk(repository)
    assert list(files) == ["Tax.java", "new.go", "src/cart.py"]
    assert counts.left_out == {"deleted": {".py": 1}}
    assert _paths(repository / "src") == ["cart.py"]


def test_a_folder_that_git_ignores_is_walked_like_any_other(repository: Path) -> None:
    _write(repository, "vendored/a.py")
    (repository / ".gitignore").write_text("vendored\n")
    assert _paths(repository / "vendored") == ["a.py"]


def test_every_text_file_is_read_in_the_language_of_its_name_or_first_line(tmp_path: Path) -> None:
    _write(tmp_path, "a.py", "b.java", "Makefile", "notes", "data.unknown", "page.md", ".github/workflows/ci.yml")
    (tmp_path / "tool").write_text("#!/usr/bin/env python3\nx = 1\n")
    files, counts = _walk(tmp_path)
    assert {path: file.language for path, file in files.items()} == {
        ".github/workflows/ci.yml": "yaml",
        "Makefile": "makefile",
        "a.py": "python",
        "b.java": "java",
        "data.unknown": "text",
        "notes": "text",
        "page.md": "markdown",
        "tool": "python",
    }
    assert counts.unknown == {"": 1, ".unknown": 1}
    assert counts.left_out == {}


def test_outside_git_gitignore_files_are_obeyed_and_the_deepest_decides(tmp_path: Path) -> None:
    _write(tmp_path, "a.py", "build/b.py", "deep/c.py", "deep/keep/d.py", "deep/gen.py", "node_modules/x/e.js")
    _write(tmp_path, ".venv/lib/f.py", "env/pyvenv.cfg", "env/lib/g.py")
    (tmp_path / ".gitignore").write_text("build/\ngen.py\n")
    (tmp_path / "deep" / ".gitignore").write_text("!gen.py\nc.py\n")
    files, counts = _walk(tmp_path)
    assert list(files) == [".gitignore", "a.py", "deep/.gitignore", "deep/gen.py", "deep/keep/d.py"]
    assert counts.left_out == {"package or cache folder": {"node_modules": 1, ".venv": 1, "env": 1}}
    assert _paths(tmp_path / "node_modules") == ["x/e.js"]  # a root is read whatever its name is


@pytest.mark.parametrize("pattern", ["!", "\\\\", "[z-a].py", "a\\"])
def test_an_invalid_pattern_matches_nothing_as_in_git(pattern: str, tmp_path: Path) -> None:
    _write(tmp_path, "a.py", "b.py")
    (tmp_path / ".gitignore").write_text(f"b.py\n.gitignore\n{pattern}\n")
    assert _paths(tmp_path) == ["a.py"]


def test_submodules_and_nested_checkouts_are_read_by_their_own_rules(tmp_path: Path) -> None:
    library = _checkout(tmp_path / "library", "lib.py")
    app = _checkout(tmp_path / "app", "app.py", "vendor/.keep")
    git = ["git", "-C", str(app), "-c", "protocol.file.allow=always"]
    subprocess.run([*git, "submodule", "--quiet", "add", str(library), "vendor/lib"], check=True)
    _write(app / "vendor/lib", "built.py")
    (app / "vendor/lib/.gitignore").write_text("built.py\n")
    _checkout(app / "nested/deep", "n.py", "built.py")
    expected = [
        ".gitmodules", "app.py", "nested/deep/built.py", "nested/deep/n.py", "vendor/.keep", "vendor/lib/.gitignore",
        "vendor/lib/lib.py",
    ]  # fmt: skip
    assert _paths(app) == expected
    files, counts = _walk(tmp_path)  # no checkout itself
    assert list(files) == [*(f"app/{path}" for path in expected), "library/lib.py"]
    assert counts.left_out == {}
    subprocess.run([*git, "submodule", "--quiet", "deinit", "--force", "vendor/lib"], check=True)
    files, counts = _walk(app)
    assert "vendor/lib/lib.py" not in files
    assert counts.left_out == {"submodule that is not checked out": {"": 1}}


def test_a_nested_checkout_that_git_cannot_read_is_walked(tmp_path: Path) -> None:
    _checkout(tmp_path, "a.py")
    _write(tmp_path, "sub/.git", content="gitdir: /nowhere\n")
    _write(tmp_path, "sub/b.py")
    subprocess.run(["git", "-C", str(tmp_path), "check-ignore", "-q", "sub"], check=False)
    assert _paths(tmp_path) in (["a.py", "sub/b.py"], ["a.py"])
    shutil.rmtree(tmp_path / ".git")
    assert _paths(tmp_path) == ["a.py", "sub/b.py"]


def test_links_are_counted_and_their_targets_read_once(repository: Path) -> None:
    (repository / "src" / "folder").symlink_to(repository, target_is_directory=True)
    (repository / "src" / "file.py").symlink_to("cart.py")
    files, counts = _walk(repository)
    assert list(files) == ["Tax.java", "src/cart.py", "src/mail.py"]
    assert counts.left_out == {"symbolic link": {"": 1, ".py": 1}}


def test_what_is_left_out_is_counted_by_reason_and_extension(tmp_path: Path) -> None:
    _write(tmp_path, "good.py", "rows.csv", "more.CSV", "Cargo.lock", "app.min.js")
    _write(tmp_path, "made.go", content="// Code generated by x. DO NOT EDIT.\npackage a\n")
    (tmp_path / "binary.py").write_bytes(b"\x7fELF\0\0\0")
    (tmp_path / "picture").write_bytes(b"\x89PNG\0")
    for name, content in (("huge.py", "x"), ("huge.bin", "\0")):
        (tmp_path / name).write_text(content * 1_000_001)
    (tmp_path / "link.py").symlink_to("good.py")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.py")
    files, counts = _walk(tmp_path)
    assert list(files) == ["good.py"]
    assert counts.left_out == {
        "data": {".csv": 2},
        "lock": {".lock": 1},
        "minified": {".js": 1},
        "generated": {".go": 1},
        "binary": {".py": 1, "": 1, ".bin": 1},
        "too large": {".py": 1},
        "symbolic link": {".py": 1, "": 1},
        "not a regular file": {".py": 1},
    }


def test_encodings_are_counted_by_how_they_were_found(tmp_path: Path) -> None:
    for name, content in {
        "bom.py": b"\xef\xbb\xbfx = 2\n",
        "wide.cs": "\ufeffclass A {}\r\n".encode("utf-16"),
        "said.py": "# coding: latin-1\ngrüße = 1\n".encode("latin-1"),
        "latin.py": b"name = 'caf\xe9'\n",
        "unclear.c": b"int x; // \xbc\xc6\xca\xfd\n",
        "mac.py": b"def f():\r    return 1\r",
    }.items():
        (tmp_path / name).write_bytes(content)
    files, counts = _walk(tmp_path)
    assert {path: file.text for path, file in files.items()} == {
        "bom.py": "x = 2\n",
        "latin.py": "name = 'café'\n",
        "mac.py": "def f():\n    return 1\n",
        "said.py": "# coding: latin-1\ngrüße = 1\n",
        "unclear.c": "int x; // \ufffd\ufffd\ufffd\ufffd\n",
        "wide.cs": "class A {}\r\n",
    }
    assert counts.encodings == {
        "byte order mark": {"utf-16-le": 1},
        "declared": {"cp1252": 1},
        "guessed": {"cp1252": 1},
        "replaced": {"utf-8": 1},
    }


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    _write(tmp_path, "a.py", "docs/a.md", "docs/deep/b.py", "lib/c.foo", "lib/Cargo.lock", "rows.csv", "src/docs.py")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, "a.py docs/a.md docs/deep/b.py lib/c.foo src/docs.py"),
        ({"exclude": ["docs"]}, "a.py lib/c.foo src/docs.py"),
        ({"exclude": ["docs/", "*.foo"]}, "a.py src/docs.py"),
        ({"only": ["*.py"]}, "a.py docs/deep/b.py src/docs.py"),
        ({"only": ["docs/"], "exclude": ["*.md"]}, "docs/deep/b.py"),
        ({"include": ["*.csv"]}, "a.py docs/a.md docs/deep/b.py lib/c.foo rows.csv src/docs.py"),
        ({"include": ["*"], "only": ["lib"]}, "lib/Cargo.lock lib/c.foo"),
        ({"include": ["*"], "exclude": ["*"]}, ""),
        ({"only": ["*.csv"]}, ""),
    ],
)
def test_globs_select_files(project: Path, options: dict[str, list[str]], paths: str) -> None:
    selected = SourceOptions(**{name: tuple(globs) for name, globs in options.items()})
    assert _paths(project, selected) == paths.split()


def test_included_files_are_read_whatever_their_content_but_not_binaries(tmp_path: Path) -> None:
    _write(tmp_path, "made.go", content="// Code generated by x. DO NOT EDIT.\npackage a\n")
    (tmp_path / "a.csv").write_bytes(b"\0")
    files, counts = _walk(tmp_path, SourceOptions(include=("*",)))
    assert list(files) == ["made.go"]
    assert counts.left_out == {"binary": {".csv": 1}}


def test_excluded_files_are_counted(project: Path) -> None:
    assert _walk(project, SourceOptions(only=("*.md",)))[1].left_out["excluded"] == {
        ".py": 3,
        ".foo": 1,
        ".lock": 1,
        ".csv": 1,
    }


def test_languages_by_extension(project: Path) -> None:
    _write(project, "x.html.erb", "y.erb")
    options = SourceOptions(ext={".foo": "python", ".ERB": "html", ".html.erb": "ruby", ".md": "text"})
    files, counts = _walk(project, options)
    languages = {path: file.language for path, file in files.items() if not path.endswith(".py")}
    assert languages == {"docs/a.md": "text", "lib/c.foo": "python", "x.html.erb": "ruby", "y.erb": "html"}
    assert counts.unknown == {}


def test_the_largest_file(tmp_path: Path) -> None:
    _write(tmp_path, "small.py", content="x" * 10)
    _write(tmp_path, "large.py", content="x" * 11)
    _write(tmp_path, "book.ipynb", content="x" * 200)
    assert _paths(tmp_path, SourceOptions(max_file_size=10)) == ["book.ipynb", "small.py"]
    assert _paths(tmp_path, SourceOptions(max_file_size=11)) == ["book.ipynb", "large.py", "small.py"]


@pytest.mark.parametrize(
    ("name", "prefix"), [("pyproject.toml", "[tool.code-retrieval]\n"), (".code-retrieval.toml", "")]
)
def test_a_folder_has_settings_of_its_own_and_given_ones_win(project: Path, name: str, prefix: str) -> None:
    (project / name).write_text(
        f'{prefix}exclude = ["docs", "*.toml"]\nmax-file-size = "2KB"\next = {{".foo" = "ruby"}}\n'
    )
    files, _ = _walk(project)
    assert {path: file.language for path, file in files.items()} == {
        "a.py": "python",
        "lib/c.foo": "ruby",
        "src/docs.py": "python",
    }
    files, _ = _walk(project, SourceOptions(exclude=("*.toml", "src"), ext={".bar": "go"}))
    assert [(path, file.language) for path, file in files.items() if "c.foo" in path or "docs" in path] == [
        ("docs/a.md", "markdown"),
        ("docs/deep/b.py", "python"),
        ("lib/c.foo", "text"),
    ]


def test_each_root_of_a_benchmark_has_its_settings(project: Path, tmp_path: Path) -> None:
    (project / ".code-retrieval.toml").write_text('only = ["a.py"]\n')
    assert list(read_sources([project])) == [(f"{tmp_path.name}/a.py", "x = 1\n")]
    with pytest.raises(ValueError, match="two folders are named"):
        list(read_sources([project, project]))


# --- folders that cannot be read -------------------------------------------------------------------------------------

WALK_AS_NOBODY = """
import os, sys
from pathlib import Path
from llamaindex_code_retrieval.index.file_state import SourceCounts
from llamaindex_code_retrieval.index.sources import walk
list(walk(Path(sys.argv[1]), SourceCounts()))  # loads all that it needs while the interpreter may still read it
if os.getuid() == 0:
    os.setuid(65534)
counts = SourceCounts()
print([file.path for file in walk(Path(sys.argv[1]), counts)], sorted((*counts.left_out.items(),), key=repr))
"""


def test_unreadable_files_and_folders_are_counted() -> None:
    with tempfile.TemporaryDirectory() as name:  # unlike tmp_path, another user can reach it
        root = Path(name)
        root.chmod(0o755)
        _write(root, "open.py", "secret.py", "closed/inside.py", "sub/.gitignore", "sub/a.py")
        (root / "secret.py").chmod(0)
        (root / "closed").chmod(0)
        (root / "sub" / ".gitignore").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", WALK_AS_NOBODY, name], capture_output=True, text=True, check=True, cwd="/"
        )
        (root / "closed").chmod(0o755)
    assert done.stdout == (
        "['open.py', 'sub/a.py'] [('unreadable (Permission denied)', Counter({'.py': 1, '': 1})), "
        "('unreadable folder (Permission denied)', Counter({'': 1}))]\n"
    )


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a folder \(missing\)"):
        _paths(tmp_path / "none")
    (tmp_path / "file.py").write_text("")
    with pytest.raises(ValueError, match=r"not a folder \(a file\)"):
        _paths(tmp_path / "file.py")
