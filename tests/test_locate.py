from __future__ import annotations

from pathlib import Path

import pytest

from llamaindex_code_retrieval.cli.options import default_index
from llamaindex_code_retrieval.index.locate import find_index, restore_root, store_root


def make_index(folder: Path, file: str = "index.sqlite") -> Path:
    folder.mkdir(parents=True)
    (folder / file).touch()
    return folder


@pytest.mark.parametrize("file", ["index.sqlite", "manifest.json"])
def test_the_index_is_found_from_any_folder_below(file: str, tmp_path: Path) -> None:
    index = make_index(tmp_path / "app" / ".code-retrieval", file)
    below = tmp_path / "app" / "src" / "deep"
    below.mkdir(parents=True)
    for start in (tmp_path / "app", below, index):
        assert find_index(start) == index
    assert find_index(tmp_path) is None
    assert find_index(below, name="other") is None


def test_the_nearest_index_is_found_and_empty_folders_are_passed(tmp_path: Path) -> None:
    outer = make_index(tmp_path / ".code-retrieval")
    inner = make_index(tmp_path / "lib" / ".code-retrieval")
    (tmp_path / "app" / ".code-retrieval").mkdir(parents=True)
    assert find_index(tmp_path / "lib") == inner
    assert find_index(tmp_path / "app") == outer


def test_the_working_folder_is_where_the_search_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make_index(tmp_path / ".code-retrieval")
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    assert find_index() == default_index() == index
    (index / "index.sqlite").unlink()
    assert default_index() == Path(".code-retrieval")


@pytest.mark.parametrize("root", ["app", "app/src", "app/idx/sources/lib", "app/idx", ".", "app/é x"])
def test_roots_move_with_the_index(root: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new" / "place"
    (old / root).mkdir(parents=True)
    (old / "app" / "idx").mkdir(parents=True, exist_ok=True)
    stored = store_root(old / root, old / "app" / "idx")
    assert restore_root(stored, old / "app" / "idx") == old / root
    new.parent.mkdir()
    old.rename(new)
    moved = restore_root(stored, new / "app" / "idx")
    assert moved == new / root
    assert moved.is_dir()


def test_a_root_elsewhere_stays_where_it_is(tmp_path: Path) -> None:
    stored = store_root(tmp_path / "library", tmp_path / "app" / "idx")
    assert stored == str(tmp_path / "library")
    assert restore_root(stored, tmp_path / "moved" / "idx") == tmp_path / "library"


def test_a_link_to_the_checkout_makes_no_difference(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    index = make_index(tmp_path / "app" / ".code-retrieval")
    (tmp_path / "link").symlink_to(tmp_path / "app", target_is_directory=True)
    assert store_root(tmp_path / "link", index) == ".."
    assert restore_root("..", tmp_path / "link" / ".code-retrieval") == tmp_path / "app"
