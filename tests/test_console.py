"""Output of the command line: what is escaped, in every command, and what a terminal's encoding lacks."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from conftest import Shell

from llamaindex_code_retrieval import cli
from llamaindex_code_retrieval._io import printable
from llamaindex_code_retrieval.cli import console
from llamaindex_code_retrieval.cli.console import print_code, print_json, print_table, progress_bars

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[red]"
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202e[red]"
STYLE = re.compile(r"\x1b\[[0-9;]*m")  # colours of our own


def acting(text: str) -> set[str]:
    """Return the characters of ``text`` that act on a terminal, other than line feeds and tabs."""
    return {character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Cs")} - {"\n", "\t"}


# --- printable -------------------------------------------------------------------------------------------------------


def test_every_character_that_acts_on_a_terminal_is_escaped() -> None:
    """Over all of Unicode: what is escaped is what Python escapes too, and all controls and bidi characters are."""
    escaped = {code for code in range(0x110000) if printable(chr(code)) != chr(code)}
    assert all(not chr(code).isprintable() for code in escaped)
    assert {*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} <= escaped
    assert {0x61C, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF, 0xD800, 0xDFFF, 0xE0041} <= escaped
    assert not escaped & {ord(character) for character in "aé日𝄞[ \u200d"}


def test_lines_and_tabs_stay_where_they_belong() -> None:
    assert printable("a\tb\r\nc\rd\n", multiline=True) == "a\tb\nc\\rd\n"
    assert printable("a\tb\nc") == "a\\tb\\nc"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_what_the_encoding_lacks_is_escaped(encoding: str) -> None:
    shown = printable("❱ é 日 –\udce9", encoding=encoding)
    shown.encode(encoding)
    assert (
        shown
        == {
            "ascii": r"> \xe9 \u65e5 -\udce9",
            "cp1252": r"> é \u65e5 –\udce9",
            "latin-1": r"> é \u65e5 -\udce9",
            "utf-8": r"❱ é 日 –\udce9",
        }[encoding]
    )


# --- what is printed -------------------------------------------------------------------------------------------------


def test_only_the_console_writes() -> None:
    """No other module of the command line prints or imports rich, so none can forget to escape."""
    for file in sorted(Path(cli.__file__).parent.glob("*.py")):
        if file.name == "console.py":
            continue
        draws = file.name == "terminal.py"
        for node in ast.walk(ast.parse(file.read_text())):
            assert not (isinstance(node, ast.Name) and node.id == "print"), f"{file.name}:{node.lineno} prints"
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert draws or not any(name.split(".")[0] == "rich" for name in modules), f"{file.name} imports rich"
            assert not any(name.endswith("cli.terminal") for name in modules), f"{file.name} imports terminal"


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": Path("caf\udce9"), "code": HOSTILE, "scores": [float("nan"), 0.5, float("-inf")], "none": None})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert acting(printed) == set()
    read = json.loads(printed, parse_constant=pytest.fail)
    assert read == {"path": "caf?", "code": HOSTILE, "scores": [None, 0.5, None], "none": None}


def test_a_table_is_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    place = "a/very/long/path/" * 10 + "file.py:12"
    print_table(HOSTILE, [(place, HOSTILE)], headings=("place", "[red]"))
    printed = capsys.readouterr().out
    assert printed == f"{SHOWN}\nplace\t[red]\n{place}\t{SHOWN}\n"  # no terminal: whole lines
    print_table("t", [("key", "a\tb\nc"), ("empty", "")])
    assert capsys.readouterr().out == "t\nkey\ta\\tb, c\nempty\t\n"
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    monkeypatch.setenv("COLUMNS", "40")
    print_table("t", [(place, "1"), ("b", "2")], headings=("place", "number"), numeric=("number",))
    assert STYLE.sub("", capsys.readouterr().out) == f"t\n{place}\n  number: 1\nb\n  number: 2\n"
    print_table("t", [("key", place)])
    cells = [line.split("│")[2].strip() for line in STYLE.sub("", capsys.readouterr().out).splitlines() if "│" in line]
    assert "".join(cells) == place


def test_code_has_numbers_and_marks(capsys: pytest.CaptureFixture[str]) -> None:
    print_code("def f():\r\n\treturn '[red]\x1b'\n", language="python", first_line=9, marked={10})
    assert capsys.readouterr().out == "   9 def f():\n❱ 10     return '[red]\\x1b'\n  11 \n"
    print_code("x = 1", language="a language that nobody knows", first_line=1)
    assert capsys.readouterr().out == "  1 x = 1\n"


def test_code_on_a_terminal_is_coloured_and_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    print_code(f"def f():  # {HOSTILE}\n    return 1", language="python", first_line=1)
    printed = capsys.readouterr().out
    assert STYLE.search(printed)
    plain = STYLE.sub("", printed)
    assert acting(plain) == set()
    assert max(map(len, plain.splitlines())) == 30


def test_progress_is_a_line_a_minute_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0.0, 10.0, 61.0, 61.0, 62.0, 130.0, 130.0])
    with progress_bars(clock=lambda: next(seconds)) as show:
        for done in (1, 2, 3, 4):
            show("embed", done * 1_000, 4_000)
    lines = capsys.readouterr().err.split("\n")
    assert [line for line in lines if line] == ["embedding nodes: 2,000 of 4,000", "embedding nodes: 4,000 of 4,000"]


def test_ascii_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    console.print_table("café", [("é", "1")], headings=("n", "m"))
    print_code("x = 'é'", language="python", first_line=1, marked={1})
    monkeypatch.setenv("FORCE_COLOR", "1")
    console.print_table("t", [("é", "2")], headings=("n", "m"))
    print_code("x = 'é'", language="python", first_line=1, marked={1})
    stream.seek(0)
    printed = STYLE.sub("", stream.read())
    assert "caf\\xe9\n" in printed
    assert "\n\\xe9\t1\n" in printed
    assert "| \\xe9 | 2 |" in printed
    assert printed.count("> 1 x = '\\xe9'\n") == 2


# --- every command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A git repository whose folder, files, code and symbols hold escape sequences."""
    root = tmp_path / f"shop{HOSTILE}"
    root.mkdir()
    code = (
        'def {name}(a):\n    """Return {name} of {text}."""\n    # {text}\r\n    total = {name}\n    return total\n\n'
    )
    for verb in "read write open close".split():
        functions = [code.format(name=f"{verb}_{noun}", text=HOSTILE) for noun in "line word tree".split()]
        (root / f"{verb}{HOSTILE}.py").write_text("".join(functions))
    (root / f"notes{HOSTILE}\n.xyz").write_text("nothing")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    return root


def test_no_command_lets_an_escape_sequence_through(
    shell: Shell, hostile: Path, bert_folder: Path, tmp_path: Path
) -> None:
    printed = {}

    def run(*arguments: object, code: int = 0) -> None:
        shell(*arguments, code=code)
        assert acting(shell.out + shell.err) == set(), arguments
        printed[str(arguments[0])] = shell.out

    index, model = tmp_path / f"idx{HOSTILE}", ["--model", bert_folder]
    run("index", hostile, "--out", index, *model)
    assert "\\x1b]0;owned" in printed["index"]
    run("update", "--index", index)
    run("search", f"read the line {HOSTILE}", "--index", index)
    assert f"read{SHOWN}.py:" in printed["search"]
    run("search", f"read the line {HOSTILE}", "--index", index, "--json")
    run("search", "zzzz\x1b", "--index", index, "--mode", "bm25", code=1)
    run("related", f"read{HOSTILE}.py:4", "--index", index)
    assert f"read{SHOWN}.py:" in printed["related"]
    run("chat", "-q", f"read the line {HOSTILE}", "--index", index)
    assert f"# {SHOWN}" in printed["chat"]
    run("chat", "-q", f"read the line {HOSTILE}", "--index", index, "--json")
    run("info", "--index", index)
    assert f"shop{SHOWN}" in printed["info"]
    run("models")
    run("recipes")
    run("benchmark", hostile, "--out", tmp_path / f"set{HOSTILE}")
    suite = tmp_path / "suite.toml"
    names = [json.dumps(name + HOSTILE) for name in ("suite", "tiny", "task")]  # JSON strings are TOML strings
    suite.write_text(
        f"name = {names[0]}\nmetrics = ['MRR']\n[[system]]\nname = {names[1]}\nmodel = '{bert_folder}'\n"
        f"[[task]]\nname = {names[2]}\nrepository = [{json.dumps(str(hostile))}]\n"
    )
    run("eval", suite, "--out", tmp_path / f"report{HOSTILE}")
    assert "\\x1b" in printed["eval"] or "\ufffd" in printed["eval"]
    run("mine", hostile, "--out", tmp_path / f"pairs{HOSTILE}.jsonl")
    for wrong in (
        ["index", HOSTILE],
        ["index", hostile, "--out", tmp_path / "x", "--model", HOSTILE],
        ["index", hostile, "--out", tmp_path / "x", *model, "--adapter", HOSTILE],
        ["index", f"file:///nowhere/{HOSTILE}", "--out", tmp_path / "x"],
        ["update", "--index", HOSTILE],
        ["search", "x", "--index", index, "--rerank", HOSTILE],
        ["search", "x", "--index", index, "--fast-query", HOSTILE],
        ["info", "--index", HOSTILE],
        ["chat", HOSTILE, "-q", "x"],
        ["chat", "-q", "x", "--index", index, "--llm", HOSTILE],
        ["related", HOSTILE, "--index", index],
        ["eval", HOSTILE],
        ["eval", "--rerank-k", HOSTILE],
        ["benchmark", HOSTILE, "--out", tmp_path / "x"],
        ["mine", HOSTILE, "--out", tmp_path / "x.jsonl"],
        ["train", "--pairs", HOSTILE, "--out", tmp_path / "x", "--base", bert_folder],
        ["train-reranker", "--pairs", HOSTILE, "--out", tmp_path / "x", "--base", bert_folder],
        ["distil", "--pairs", HOSTILE, "--out", tmp_path / "x", "--base", bert_folder],
        ["adapt", HOSTILE],
        [HOSTILE],
    ):
        run(*wrong, code=2)
        assert "\\x1b" in shell.err or "git clone" in shell.err, wrong  # git itself writes "?"


def test_on_a_terminal_all_escape_sequences_are_our_own(
    shell: Shell, hostile: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    bars = re.compile(r"\x1b\[(\?25[lh]|1A|2K)|\r")  # cursor and line control of the progress bars
    for arguments in (
        ["index", hostile, "--out", "idx", "--model", bert_folder],
        ["search", f"read the line {HOSTILE}", "--index", "idx"],
        ["info", "--index", "idx"],
    ):
        shell(*arguments)
        assert STYLE.search(shell.out)
        assert acting(STYLE.sub("", bars.sub("", shell.out + shell.err))) == set(), arguments


def test_escape_sequences_in_the_log(shell: Shell, tmp_path: Path) -> None:
    """In a process of its own: pytest has its own handlers."""
    code = (
        "import logging, warnings\nfrom llamaindex_code_retrieval.cli.console import prepare_streams\n"
        f"prepare_streams()\nlogging.getLogger('a').warning({HOSTILE!r})\nwarnings.warn({HOSTILE!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert acting(done.stderr.decode()) == set()
    assert done.stderr.decode().count(SHOWN) == 2
