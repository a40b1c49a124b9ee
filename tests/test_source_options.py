from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamaindex_code_retrieval.index.source_options import SourceOptions, options_of, parse_size


@pytest.mark.parametrize(
    ("size", "bytes_"),
    [
        ("500", 500),
        ("2MB", 2_000_000),
        ("2 mb", 2_000_000),
        ("1.5KiB", 1536),
        ("1GB", 10**9),
        ("1GiB", 2**30),
        ("7b", 7),
    ],
)
def test_sizes(size: str, bytes_: int) -> None:
    assert parse_size(size) == bytes_
    assert SourceOptions(max_file_size=size).max_file_size == bytes_


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_file_size": "2 cows"}, "a size is a number of bytes or one with a unit, such as 500KB, .* got '2 cows'"),
        ({"max_file_size": "-1"}, "a size is a number of bytes"),
        ({"max_file_size": 0}, "max_file_size must be greater than or equal to 1, got 0"),
        ({"max_file_size": "0.4b"}, "max_file_size must be greater than or equal to 1, got 0"),
        ({"exclude": ["[a"]}, r"exclude: the glob '\[a' matches nothing"),
        ({"only": ["!a"]}, "only: the glob '!a' begins with '!'"),
        ({"include": "*.py"}, "include must be a list"),
        ({"ext": {".foo": "cobol 85"}}, "ext: unknown language 'cobol 85'; known are python, java"),
        ({"ext": {"foo": "python"}}, "ext: an extension begins with a dot and has no wildcard, as in .foo, got 'foo'"),
        ({"ext": {".*": "python"}}, r"no wildcard, as in .foo, got '\.\*'"),
        ({"excludes": ["a"]}, "there is no setting 'excludes'; there are exclude, ext, include, max_file_size, only"),
    ],
)
def test_wrong_values(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SourceOptions(**options)


def test_given_settings_are_those_that_are_not_at_their_default() -> None:
    assert SourceOptions().given() == {}
    options = SourceOptions(only=("*.py",), ext={".Foo": "go"}, max_file_size="1KB")
    assert options.given() == {"only": ["*.py"], "ext": {".foo": "go"}, "max_file_size": 1000}
    assert SourceOptions(**options.given()) == options


# --- the settings of a folder ----------------------------------------------------------------------------------------


def _table(folder: Path, content: str, name: str = "pyproject.toml") -> Path:
    (folder / name).write_text(content)
    return folder


def test_a_folder_without_settings(tmp_path: Path) -> None:
    given = SourceOptions(exclude=("a",))
    assert options_of(tmp_path, given) == given
    assert options_of(_table(tmp_path, "[project]\nname = 'a'\n"), given) == given
    assert options_of(_table(tmp_path, "{{ cookiecutter.name }}\n"), given) == given  # no TOML, and none of our concern


def test_given_settings_replace_those_of_the_folder(tmp_path: Path) -> None:
    _table(
        tmp_path, '[tool.code-retrieval]\nexclude = ["a"]\nonly = ["b"]\nmax-file-size = "1KB"\next = {".x" = "go"}\n'
    )
    assert options_of(tmp_path, SourceOptions(exclude=("c",), ext={".y": "java"})) == SourceOptions(
        exclude=("c",), only=("b",), max_file_size=1000, ext={".y": "java"}
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "pyproject.toml",
            "[tool.code-retrieval]\nexcludes = ['a']\n",
            "there is no setting 'excludes'; there are exclude, ext",
        ),
        ("pyproject.toml", "[tool.code-retrieval]\next = {'.a' = 'nonsense'}\n", "unknown language 'nonsense'"),
        ("pyproject.toml", "[tool.code-retrieval\n", "pyproject.toml is not TOML"),
        ("pyproject.toml", "[tool]\ncode-retrieval = 1\n", "tool.code-retrieval must be a table, got 1"),
        ("pyproject.toml", "[tool.code-retrieval]\nmax-file-size = 'big'\n", "a size is a number of bytes"),
        (".code-retrieval.toml", "exclude = 'a'\n", "exclude must be a list"),
        (".code-retrieval.toml", "exclude\n", ".code-retrieval.toml is not TOML"),
        (".code-retrieval.toml", "[tool.code-retrieval]\nexclude = ['a']\n", "there is no setting 'tool'"),
    ],
)
def test_wrong_settings_name_the_file(tmp_path: Path, name: str, content: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        options_of(_table(tmp_path, content, name), SourceOptions())
    assert str(caught.value).startswith(str(tmp_path / name))


def test_two_files_with_settings_are_refused(tmp_path: Path) -> None:
    _table(tmp_path, "[tool.code-retrieval]\n")
    _table(tmp_path, "", ".code-retrieval.toml")
    with pytest.raises(
        ValueError, match=r"settings in \.code-retrieval\.toml and in \[tool\.code-retrieval\] .*; keep one"
    ):
        options_of(tmp_path, SourceOptions())
