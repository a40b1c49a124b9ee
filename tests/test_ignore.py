from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamaindex_code_retrieval.index.file_state import SourceCounts
from llamaindex_code_retrieval.index.ignore import Globs, IgnoreFile
from llamaindex_code_retrieval.index.listing import _walk_files

NAMES = ["a", "b", "ab", "a.py", "b.py", "A", "a b", "é", "[a]", "a]", "!a", "#a", "-", "build", "a\\b"]
PIECES = [
    "a",
    "b",
    ".py",
    "*",
    "?",
    "[ab]",
    "[!a]",
    "[a-b]",
    "[b-a]",
    "[]a]",
    "[[:alpha:]]",
    "[[:no:]]",
    "[a",
    "\\",
    " ",
    "é",
]
PARTS = st.lists(st.sampled_from([*NAMES, *PIECES]), min_size=1, max_size=3).map("".join) | st.sampled_from(["*", "**"])
PATTERNS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "!", "/", "!/", "**/"]),
    st.lists(PARTS, min_size=1, max_size=3).map("/".join),
    st.sampled_from(["", "", "/", "/**", " ", "\\ "]),
    st.sampled_from(["", "", "\r"]),
).filter(lambda pattern: not any(f"{before}**" in pattern for before in [*PIECES, *NAMES]))  # where versions differ
ALLOW_LISTS = st.sampled_from(
    [["*", "!*/", "!*.py"], ["/*", "!/a/"], ["*", "!a", "!/a/**"], ["a/", "!a/b.py"], ["a/*", "!a/b.py"]]
)
PATTERN_LISTS = st.lists(PATTERNS | st.sampled_from(["", "# a", "!", "/"]), max_size=4) | ALLOW_LISTS
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    return root


def listed_by_git(root: Path) -> list[str]:
    command = ["git", "-C", str(root), "-c", "core.excludesFile=", "ls-files", "-z", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, check=True).stdout
    return sorted(os.fsdecode(name) for name in listing.split(b"\0") if name)


def listed_by_us(root: Path) -> list[str]:
    return sorted(path for path, _ in _walk_files(str(root), "", SourceCounts(), None))


def write(root: Path, path: str, content: str) -> None:
    file = root / path
    if any((root / parent).is_file() for parent in Path(path).parents) or file.is_dir():
        return  # the name of a file and of a folder
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode())


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    paths=st.lists(PATHS, min_size=1, max_size=12),
    top=PATTERN_LISTS,
    nested=st.dictionaries(st.sampled_from(["a", "b", "a/b", "build"]), PATTERN_LISTS, max_size=2),
    last_line_ends=st.booleans(),
)
def test_outside_git_the_files_are_those_that_git_would_list(
    checkout: Path, paths: list[str], top: list[str], nested: dict[str, list[str]], last_line_ends: bool
) -> None:
    for path in checkout.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in paths:
        write(checkout, path, "x = 1\n")
    for folder, patterns in {"": top, **nested}.items():
        if (checkout / folder).is_dir():
            (checkout / folder / ".gitignore").write_bytes(("\n".join(patterns) + "\n" * last_line_ends).encode())
    assert listed_by_us(checkout) == listed_by_git(checkout)


def test_a_folder_excluded_by_a_star_is_entered_if_it_is_included_again(tmp_path: Path) -> None:
    for path in ("a.py", "a.txt", "src/b.py", "src/b.txt", "src/deep/c.py"):
        write(tmp_path, path, "x = 1\n")
    (tmp_path / ".gitignore").write_text("*\n!*/\n!*.py\n")
    assert listed_by_us(tmp_path) == ["a.py", "src/b.py", "src/deep/c.py"]


def test_a_file_below_an_excluded_folder_is_not_included_again(tmp_path: Path) -> None:
    for path in ("build/keep.py", "build/sub/keep.py", "keep.py"):
        write(tmp_path, path, "x = 1\n")
    (tmp_path / ".gitignore").write_text("build/\n!build/keep.py\n!keep.py\n")
    (tmp_path / "build" / ".gitignore").write_text("!*\n")
    assert listed_by_us(tmp_path) == [".gitignore", "keep.py"]


@pytest.mark.parametrize(
    ("pattern", "path", "verdict"),
    [
        (b"a\\", b"a", None),  # a backslash at the end
        (b"[z-a]", b"b", None),
        (b"[a", b"a", None),
        (b"[[:nothing:]]", b"n", None),
        (b"[[:digit:]x]", b"7", True),
        (b"[]-]", b"]", True),
        (b"[^a]", b"b", True),
        (b"a[!b]c", b"a/c", None),
        (b"a**b", b"axxb", True),
        (b"/a**b", b"ax/xb", None),
        (b"**/a", b"x/y/a", True),
        (b"a/**", b"a", None),
        (b"a/**/b", b"a/b", True),
        (b"?", "é".encode(), None),  # two bytes
        (b"a\\ ", b"a ", True),
        (b"a  ", b"a", True),
        (b"a\\", b"a\\", None),
        (b"\xef\xbb\xbfa", b"a", True),
        (b"a\0b", b"a", True),
        (b"!a", b"a", False),
        (b"\\!a", b"!a", True),
        (b"#a", b"#a", None),
        (b"A", b"a", None),
    ],
)
def test_one_pattern(pattern: bytes, path: bytes, verdict: bool | None) -> None:
    assert IgnoreFile.parse(pattern).verdict(path, is_folder=False) is verdict


@pytest.mark.parametrize(
    ("glob", "matched"),
    [
        ("docs", ["docs/a.md", "lib/docs/b/c.md"]),
        ("docs/", ["docs/a.md", "lib/docs/b/c.md"]),
        ("/docs", ["docs/a.md"]),
        ("./lib/docs", ["lib/docs/b/c.md"]),
        ("*.md", ["docs/a.md", "lib/docs/b/c.md"]),
        ("lib/*.md", []),
        ("lib/**/*.md", ["lib/docs/b/c.md"]),
        ("*", ["docs/a.md", "lib/docs/b/c.md", "lib/x.py"]),
    ],
)
def test_globs_match_files_and_whole_folders(glob: str, matched: list[str]) -> None:
    globs = Globs.parse([glob])
    assert [path for path in ("docs/a.md", "lib/docs/b/c.md", "lib/x.py") if globs.matches(path)] == matched


@pytest.mark.parametrize("glob", ["", "/", ".", "[a", "a\\", "../x"])
def test_a_glob_that_matches_nothing_is_refused(glob: str) -> None:
    with pytest.raises(ValueError, match=r"matches nothing; write one as in a \.gitignore"):
        Globs.parse([glob])


def test_a_negated_glob_is_refused() -> None:
    with pytest.raises(ValueError, match="the glob '!a' begins with '!'"):
        Globs.parse(["!a"])
