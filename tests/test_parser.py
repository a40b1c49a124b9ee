"""The work of a parse, and of all parses of a source, is bounded by the size of the source."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from llamaindex_code_retrieval.languages import parser as parsing
from llamaindex_code_retrieval.languages.parser import BoundedParser
from llamaindex_code_retrieval.languages.syntax import definitions, parse

READ_ON = {"scala": "x = 1 ", "julia": "x = '\n", "perl": "$x = 1; "}
"""Code from each token of which the scanner of a grammar reads on to the end of the source, or back to its start."""
ORDINARY = {
    "scala": "object A {\n  def f(a: Int): Int = {\n    a + 1\n  }\n}\n",
    "julia": 'function f(a)\n    x = "b"\n    a + 1\nend\n',
    "perl": "sub f {\n  my $x = shift;\n  return $x + 1;\n}\n",
}
STALLING = (
    "{{}\ns\n#abc\nmy class OrderManager(list total::class.java)\n\n    } catch (_: Exception) {\n\n        null\n"
    "\n    }\n\n  \n\n        if (orders == null) {\n\n            delegate.add(content)\n\n            return\n\n"
    "        }\n\n\n\n        try {\n"
)


def work_of(source: str, grammar: str) -> tuple[int, bool]:
    """Return the work of a parse, and whether it comes to its end."""
    raw = source.encode()
    parser = BoundedParser(len(raw))
    before = parser.work_left
    is_parsed = parser.parse(raw, grammar) is not None
    return before - parser.work_left, is_parsed


@pytest.mark.parametrize("grammar", READ_ON)
def test_only_a_scanner_that_reads_the_same_code_again_and_again_is_stopped(
    grammar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "_PER_PARSE", 0)
    monkeypatch.setattr(parsing, "_PER_BYTE", 300)
    for row in (READ_ON[grammar], ORDINARY[grammar]):
        source = row * (30_000 // len(row))
        work, is_parsed = work_of(source, grammar)
        assert is_parsed == (row == ORDINARY[grammar])
        assert work < 1.2 * 300 * len(source)  # the work is looked at every hundred steps
        assert work_of(source, grammar) == (work, is_parsed)


def test_a_parser_that_stalls_is_stopped() -> None:
    """The recovery from errors of Kotlin goes on at one place for ever."""
    work, is_parsed = work_of(STALLING, "kotlin")
    assert not is_parsed
    assert work < 26_000_000
    assert parse(STALLING, "kotlin") is None


def test_the_work_for_a_source_bounds_its_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "f x = (\n\ng x = x + 1\n\nh x = x\n"
    work, _ = work_of(source, "haskell")
    monkeypatch.setattr(parsing, "_PER_BYTE", 0)
    found = []
    for parses in (1, 100):
        monkeypatch.setattr(parsing, "_PER_SOURCE", parses * work)
        found.append([d.scope for d in definitions(source, "haskell")])
    assert found == [[], ["f", "g", "h"]]


def test_a_source_without_work_left_has_no_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def f():\n    pass\n"
    assert [d.scope for d in definitions(source, "python")] == ["f"]
    monkeypatch.setattr(parsing, "_PER_BYTE", 0)
    monkeypatch.setattr(parsing, "_PER_SOURCE", 0)
    assert parse(source, "python") is None


def test_a_scanner_that_reads_on_reads_long_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = 3 * 2_000
    monkeypatch.setattr(parsing, "_READ", 10**9)
    monkeypatch.setattr(parsing, "_PER_PARSE", 10**15)
    monkeypatch.setattr(parsing, "_PER_SOURCE", 10**15)
    work, is_parsed = work_of(READ_ON["scala"] * 2_000, "scala")
    assert is_parsed
    assert work // 10**9 < 4 * tokens


def test_no_grammar_reads_beyond_c_tables_of_characters() -> None:
    """In a process of its own: Bash's scanner crashes where the entry of a character is in no mapped page."""
    code = """
from llamaindex_code_retrieval.languages.parser import BoundedParser

for point in range(0x10000, 0x110000, 0x400):  # the entries of C's table have two bytes
    raw = f"{{{chr(point)}I/*\\n".encode()
    BoundedParser(len(raw)).parse(raw, "bash")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_in_strings_of_four_byte_characters_keep_their_places() -> None:
    text = "smile = '😀😀'\n\n\ndef f():\n    return '\U000f0000'\n"
    (found,) = definitions(text, "python")
    assert (found.symbol, found.start_line, found.end_line) == ("f", 4, 5)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_what_the_parser_has_read_takes_no_memory_afterwards() -> None:
    """tree-sitter's binding keeps a reference to each object that it reads."""
    source = ORDINARY["julia"] * 2_000
    work_of(source, "julia")
    tracemalloc.start()
    try:
        for _ in range(2):
            assert work_of(source, "julia")[1]
        assert tracemalloc.get_traced_memory()[0] < len(source) / 2
    finally:
        tracemalloc.stop()


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("frequent_switches")
def test_threads_parse_at_once() -> None:
    """Each reads its own source, and the texts of nodes while others parse."""
    sources = [f"def {letter}():\n    '{letter * 50}'\n" * 500 for letter in "abcd"]
    with ThreadPoolExecutor(4) as threads:
        for letter, found in zip("abcd", threads.map(definitions, sources, ["python"] * 4), strict=True):
            assert [definition.symbol for definition in found] == [letter] * 500
