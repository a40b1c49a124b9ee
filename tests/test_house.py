"""The shape of the source tree: short functions and modules, few modules in the top folder, one module that prints."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llamaindex_code_retrieval"
MODULES = sorted(
    {file.resolve() for folder in (PACKAGE, ROOT / "training", ROOT / "eval") for file in folder.rglob("*.py")}
)


def place(module: Path, node: ast.AST) -> str:
    return f"{module.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {module: ast.parse(module.read_text(encoding="utf-8")) for module in MODULES}


def test_no_function_is_longer_than_60_lines(trees: dict[Path, ast.Module]) -> None:
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= 60, f"{place(module, node)} {node.name} has {lines} lines"


def test_no_module_is_longer_than_450_lines() -> None:
    for module in MODULES:
        assert len(module.read_text(encoding="utf-8").splitlines()) <= 450, module


def test_only_the_console_prints(trees: dict[Path, ast.Module]) -> None:
    """Everything else returns text or goes through the console, which escapes what acts on a terminal."""
    for module, tree in trees.items():
        if module != PACKAGE / "cli" / "console.py":
            for node in ast.walk(tree):
                assert not (isinstance(node, ast.Name) and node.id == "print"), f"{place(module, node)} prints"


def test_the_top_folder_has_at_most_ten_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 10


def test_each_module_is_named_after_its_job() -> None:
    assert not [module for module in MODULES if module.stem in ("util", "utils", "helpers", "misc", "common")]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 220


def test_each_test_module_is_named_after_what_it_tests() -> None:
    """``test_x.py`` tests a module, folder or command ``x``, or one of the subjects below that span several."""
    subjects = {"artifacts", "benchmarks", "chat_eval", "components", "docs", "gpu", "house", "llamaindex", "packaging"}
    names = {module.stem.strip("_") for module in MODULES} | {module.parent.name for module in MODULES}
    for test in sorted((ROOT / "tests").glob("test_*.py")):
        name = test.stem.removeprefix("test_")
        assert name in subjects | names or name.removeprefix("cli_") in names, f"{test.name} tests no module {name}"
