"""Places such as ``src/cart.py:12``: how they are parsed, and which nodes are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from indexes import HashEmbedding
from llama_index.core.schema import TextNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from llamaindex_code_retrieval import CodeIndex
from llamaindex_code_retrieval.index.places import Place, rows_at


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("cart.py", Place("cart.py")),
        ("cart.py:12", Place("cart.py", 12, 12)),
        ("cart.py:12:5", Place("cart.py", 12, 12)),
        ("a b/c:d.py:12-20", Place("a b/c:d.py", 12, 20)),
        ("cart.py:x", Place("cart.py:x")),  # files may have such names
        ("book.ipynb#cell 2", Place("book.ipynb", cell=2)),
        ("book.ipynb#cell 2:4-7", Place("book.ipynb", 4, 7, 2)),
    ],
)
def test_a_place_is_a_path_with_or_without_lines(text: str, place: Place) -> None:
    assert Place.parse(text) == place


@given(st.text("ab/.:", min_size=1).filter(lambda path: not path.endswith(":")), st.none() | st.integers(1, 99))
def test_a_place_is_printed_as_it_is_parsed(path: str, line: int | None) -> None:
    place = Place(path, line, line)
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the place is empty. A place is PATH, PATH:LINE or PATH:FIRST-LAST"),
        ("cart.py:0", "lines and cells are counted from 1, got 'cart.py:0'"),
        ("book.ipynb#cell 0:1", "lines and cells are counted from 1"),
        ("cart.py:9-3", "the last line is before the first one in 'cart.py:9-3'. A place is"),
    ],
)
def test_a_malformed_place_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Place.parse(text)


@pytest.fixture
def index(repository: Path) -> Iterator[CodeIndex]:
    (repository / "src" / "empty.py").write_text("")
    (repository / "src" / "logo.py").write_bytes(b"\0\1\2\xff" * 40)
    with CodeIndex(HashEmbedding()) as index:
        index.update([repository])
        yield index


def scopes_at(index: CodeIndex, place: str) -> list[str]:
    with index.view() as view:
        rows = rows_at(view.reading, Place.parse(place), [Path(root) for root in index.roots])
    return [row.metadata["scope"] for row in rows]


def test_the_nodes_of_lines_and_of_a_file(index: CodeIndex) -> None:
    assert scopes_at(index, "src/cart.py:11") == ["Cart.total"]
    assert scopes_at(index, "src/cart.py:8-10") == ["Cart.add", "Cart.total"]
    assert scopes_at(index, "src/cart.py") == ["Cart", "Cart.__init__", "Cart.add", "Cart.total"]
    assert scopes_at(index, "./src/mail.py:4") == ["send_receipt"]


def test_a_path_is_that_from_the_working_folder_or_as_in_the_index_or_absolute(
    index: CodeIndex, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, path in ((repository / "src", "cart.py"), (tmp_path, "shop/src/cart.py"), (Path("/"), "src/cart.py")):
        monkeypatch.chdir(folder)
        assert scopes_at(index, f"{path}:11") == ["Cart.total"]
    assert scopes_at(index, f"{repository / 'src' / 'cart.py'}:11") == ["Cart.total"]
    (tmp_path / "link").symlink_to(repository)
    assert scopes_at(index, f"{tmp_path / 'link' / 'src' / 'cart.py'}:11") == ["Cart.total"]


def test_the_file_of_the_working_folder_comes_before_that_in_the_index(
    index: CodeIndex, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "cart.py").write_text("def other():\n    pass\n")
    index.update()
    monkeypatch.chdir(repository / "src")
    assert scopes_at(index, "cart.py:1") == ["Cart"]
    monkeypatch.chdir(repository)
    assert scopes_at(index, "cart.py:1") == ["other"]


def test_paths_of_several_folders_begin_with_their_names(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tool.py").write_text("def tool():\n    pass\n")
    monkeypatch.chdir(tmp_path / "lib")
    with CodeIndex(HashEmbedding()) as index:
        index.update([repository, tmp_path / "lib"])
        for path in ("tool.py", "lib/tool.py", "../lib/tool.py"):
            assert scopes_at(index, path) == ["tool"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("cart.py", r"the index has no file 'cart.py'; did you mean src/cart.py\? A place is PATH, PATH:LINE or"),
        ("src/crt.py:3", r"no file 'src/crt.py'; did you mean src/cart.py\?"),
        ("src/cart.py:x", r"no file 'src/cart.py:x'; did you mean src/cart.py\?"),
        ("nothing", "no file 'nothing'; name it as in the index, or from this folder. A place is"),
        ("src/empty.py", "src/empty.py is empty; name another file"),
        ("src/logo.py", r"src/logo.py is not in the index: it is left out \(binary\)"),
        (
            "src/cart.py:9",
            "no node of the index is at src/cart.py:9; name one of the nearest: src/cart.py:7-8 or src/cart.py:10-11",
        ),
        ("src/cart.py:99", "no node of the index is at src/cart.py:99; name one of the nearest: src/cart.py:10-11"),
    ],
)
def test_what_is_not_in_the_index_is_refused_with_what_is(
    place: str, message: str, index: CodeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        scopes_at(index, place)


def test_a_long_definition_is_found_with_all_its_parts() -> None:
    body = "".join(f"    total = total + value_{i}\n" for i in range(200))
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts({"long.py": f"def long_sum(total):\n{body}    return total\n\n\ndef one():\n    return 1\n"})
        assert scopes_at(index, "long.py:100") == scopes_at(index, "long.py:1") == ["long_sum"] * (len(index) - 1)


def test_cells_of_a_notebook(tmp_path: Path) -> None:
    """Lines are those of the file without a cell, and those of the cell with one."""
    code = "import math\n\n\ndef total(cart):\n    return math.fsum(cart)\n"
    cells = [new_markdown_cell("# Prices"), new_code_cell(code), new_code_cell("def tax(price):\n    return price\n")]
    text = nbformat.writes(new_notebook(cells=cells))
    (tmp_path / "book.ipynb").write_text(text)
    with CodeIndex(HashEmbedding()) as index:
        index.update([tmp_path])
        assert scopes_at(index, "book.ipynb#cell 2:4") == ["total"]
        assert scopes_at(index, "book.ipynb#cell 3") == ["tax"]
        [line] = [number for number, line in enumerate(text.split("\n"), start=1) if "def total" in line]
        assert scopes_at(index, f"book.ipynb:{line}") == ["total"]
        with pytest.raises(ValueError, match=r"nearest: .*book.ipynb#cell 2:4-5 or .*book.ipynb#cell 3:1-2"):
            scopes_at(index, "book.ipynb#cell 2:9")


def test_a_node_without_lines_is_at_line_1() -> None:
    """As a search prints it; its path is its id if it has none."""
    with CodeIndex(HashEmbedding()) as index:
        index.update_nodes([TextNode(id_="first", text="one", metadata={"scope": "s"})])
        assert scopes_at(index, "first:1") == scopes_at(index, "first") == ["s"]
        with pytest.raises(ValueError, match="name one of the nearest: first:1"):
            scopes_at(index, "first:2")
