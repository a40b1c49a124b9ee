"""README and docs: every Python block and every command is run, every path and setting named there exists."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamaindex_code_retrieval.cli.main import build_parser, main
from llamaindex_code_retrieval.index.leave_out import RULES
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES
from llamaindex_code_retrieval.models.locate import ARTIFACTS
from llamaindex_code_retrieval.training import Pair
from llamaindex_code_retrieval.training.pairs import write_pairs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

SMALL = ["--set", "batch_size=8", "--set", "epochs=0.2"]
SHORT = ["--set", "max_code_tokens=48", "--set", "max_query_tokens=48"]
HOLD_OUT = ["--set", "held_out=0.5"]
"""What the test adds to a training, beside a tiny base: the same work on a smaller budget."""
BUDGETS = {
    "adapt": [*SMALL, *SHORT],
    "train": [*SMALL, *SHORT, *HOLD_OUT],
    "pretrain": [*SMALL, *HOLD_OUT],
    "train-reranker": [*SMALL, *HOLD_OUT, "--set", "max_tokens=48", "--set", "calibration_depth=5"],
    "distil": [*SMALL, *HOLD_OUT],
    "train-static": ["--batch-size", "8", "--epochs", "0.2", "--held-out", "0.5", "--dim", "16"],
}
PARSED_ONLY = (
    "--push",  # needs a hub; test_hub.py uploads to a local one
    "eval leaderboard",  # minutes on real data sets
    "eval cascade",
    "watch",  # runs until Ctrl-C
    "chat .",  # reads questions from stdin
    "serve",  # runs until Ctrl-C
    "mcp",  # serves until its client leaves
    "--llm ollama",  # needs a server
    "embedded-large",  # is installed by `make large` only
)


_HEAD = "import json\nimport os\n\nLIMIT = 100\nNAMES = ['first', 'second', 'third']"


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the (language, content) of each fenced block."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(block: str) -> Iterator[list[str]]:
    """Yield the command lines of a shell block as words, comments removed and continued lines joined."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what the docs name: sources, pairs, searches, an adapter, suites, questions."""
    root = tmp_path_factory.mktemp("docs") / "shop"
    pairs = []
    for part in ("src", "lib"):
        (root / part).mkdir(parents=True)
        (root / part / "LICENSE").write_text((ROOT / "LICENSE").read_text())
        for number in range(3):
            functions = []
            for verb in ("add", "count", "find", "merge", "print", "remove", "sort", "split"):
                name = f"{verb}_{part}_{number}"
                code = f"def {name}(items, key):\n    result = {verb}_all(items)\n    return [key(result), {number}]"
                query = f"{verb.title()} the {part} items of level {number} by their key."
                functions.append(code.replace(":\n", f':\n    """{query}"""\n', 1))
                pairs.append(Pair(query=query, code=code, language="python", repository=f"{part}{number}"))
            (root / part / f"m{number}.py").write_text("\n\n\n".join([_HEAD, *functions]) + "\n")
    (root / "mail.py").write_text(
        "import smtplib\n\n\ndef send_receipt(address, text):\n    smtplib.send(address, text)\n"
    )
    (root / "Tax.java").write_text("class Tax {\n  double withTax(double price) { return price * 1.19; }\n}\n")
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "Sell things"]):
        subprocess.run([*git, *arguments], check=True)
    extra = [Pair(query=f"Question {i} about numbers", code=f"def f{i}(x):\n    return x + {i}") for i in range(60)]
    write_pairs(root / "pairs.jsonl", [*pairs, *extra])
    (root / "searches.txt").write_text("".join(f"{pair.query}\n" for pair in pairs))
    shutil.copytree(ARTIFACTS / "embedded-general", root / "my-java-adapter")
    suites = [content for page in PAGES for language, content in blocks(page) if language == "toml"]
    (root / "my-suite.toml").write_text(suites[0])
    (root / "my-questions.toml").write_text(next(suite for suite in suites if "questions = " in suite))
    (root / "my-chat.toml").write_text(next(suite for suite in suites if "[[chat]]" in suite))
    questions = [content for language, content in blocks(ROOT / "docs" / "evaluation.md") if language == "json"]
    (root / "questions.json").write_text(questions[0])
    (root / "chat.jsonl").write_text(questions[1])
    assert main(["benchmark", str(root / "src"), "--out", str(root / "our-set")]) == 0
    return root


@pytest.mark.usefixtures("embedded_model")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_and_commands_run(
    page: Path, home: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.delenv("CODE_RETRIEVAL_DATA", raising=False)
    names: dict[str, object] = {}
    for language, content in blocks(page):
        if language == "python":
            shutil.rmtree(home / "my-adapter", ignore_errors=True)
            exec(compile(content, str(page), "exec"), names)
        elif language == "sh":
            for words in commands(content):
                _run(words, home, bert_folder)


def _run(words: list[str], home: Path, tiny_base: Path) -> None:
    program, *arguments = words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif program == "pip":
        _check_requirements(arguments)
    elif program == "pytest":
        options = ["--quiet", "-p", "no:cacheprovider", "-p", "no:unraisableexception", "--rootdir", str(home)]
        assert pytest.main([*arguments, *options, str(home)]) == 0, words  # in this process, which has torch
    elif program == "python":
        assert (ROOT / arguments[0]).is_file(), words
    else:
        assert program == "code-retrieval", words
        line = " ".join(arguments)
        if line == "eval" or any(part in line for part in PARSED_ONLY):
            build_parser().parse_args(arguments)
        else:
            out = home / arguments[arguments.index("--out") + 1] if "--out" in arguments else None
            if out is not None and out.is_dir() and arguments[0] not in ("index", "eval"):
                shutil.rmtree(out)  # another page made it
            budget = BUDGETS.get(arguments[0], [])
            shutil.rmtree(home / ".code-retrieval-adapter", ignore_errors=True)
            needs_embedded = arguments[0] == "pretrain" or "--start" in arguments or "--layers" in arguments
            base = ["--base", str(tiny_base)] if budget and not needs_embedded else []
            assert main([*arguments, *budget, *base]) == 0, words


def _check_requirements(arguments: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for requirement in arguments:
        if requirement.startswith(project["name"]):
            extras = re.findall(r"[a-z]+", requirement.removeprefix(project["name"]))
            assert set(extras) <= set(project["optional-dependencies"]), requirement
        elif "==" in requirement:
            assert requirement in pins, requirement


def test_links_and_named_files_exist() -> None:
    for page in [*PAGES, ROOT / "benchmarks" / "README.md", ROOT / "CONTRIBUTING.md"]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
        for named in re.findall(r"(?:benchmarks|docs|tests)/\w+\.(?:py|md|json)", text):
            assert (ROOT / named).exists(), f"{page.name} names {named}"


def test_the_list_of_docs_is_complete() -> None:
    listed = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert all(f"({page.name})" in listed for page in PAGES if page.parent.name == "docs" and page.name != "README.md")


def test_the_settings_page_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "generate_settings.py"))
    assert script["page"]() == (ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), (
        "run docs/generate_settings.py"
    )


def test_each_benchmark_writes_its_figures_beside_it() -> None:
    for script in sorted((ROOT / "benchmarks").glob("*.py")):
        if "def make_parser(" not in script.read_text(encoding="utf-8"):  # shared by the scripts
            continue
        assert f"benchmarks/{script.name}" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
        figures = json.loads(script.with_suffix(".json").read_text(encoding="utf-8"))
        assert figures, script


def test_the_page_of_languages_names_every_rule_and_language() -> None:
    page = (ROOT / "docs" / "languages.md").read_text(encoding="utf-8")
    assert [f"| {rule} | {text} |" for rule, text in RULES.items() if f"| {rule} | {text} |" not in page] == []
    words = set(re.findall(r"[a-z]+", page.lower().replace("c++", "cpp").replace("c#", "csharp").replace("-", "")))
    assert set(CODE_LANGUAGES) - words == set()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"of {len(CODE_LANGUAGES)} languages" in readme
