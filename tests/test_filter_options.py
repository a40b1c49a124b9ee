from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from llamaindex_code_retrieval.cli.filter_options import filter_options, parse_filter
from llamaindex_code_retrieval.index.filters import NodeFilter


def parse(*arguments: str) -> NodeFilter:
    parser = argparse.ArgumentParser()
    filter_options(parser)
    return parse_filter(parser.parse_args(arguments))


def test_without_options_everything_is_searched() -> None:
    assert parse().is_empty


def test_options_are_the_fields_of_a_filter() -> None:
    arguments = "--path src/** --path *.py --not-path **/test* --language go --language java --kind class --no-tests"
    assert parse(*arguments.split(), "--since", "2026-11-01T12:00Z") == NodeFilter(
        paths=("src/**", "*.py"),
        not_paths=("**/test*",),
        languages=("go", "java"),
        kinds=("class",),
        tests=False,
        modified_since=datetime(2026, 11, 1, 12, tzinfo=UTC),
    )
    assert parse("--tests") == NodeFilter(tests=True)


def test_an_age_counts_from_now() -> None:
    before = datetime.now(UTC)
    since = parse("--since", "3d").modified_since
    assert since is not None
    assert before <= since + timedelta(days=3) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--path", ""], "--path: the glob '' matches nothing; write one as in a .gitignore"),
        (["--not-path", "!src"], "--not-path: the glob '!src' begins with '!'"),
        (["--kind", "klass"], "--kind: unknown kind 'klass'; known are function, method, class"),
        (["--since", "yesterday"], "--since: a time is a date, .* or 3d, got 'yesterday'"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_option(arguments: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(*arguments)


def test_the_options_import_nothing_heavy() -> None:
    code = (
        "import sys, llamaindex_code_retrieval.cli.filter_options\n"
        "print(*{'llama_index', 'torch', 'pydantic', 'transformers', 'numpy', 'rich'} & {*sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
