from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import Shell

from llamaindex_code_retrieval.index import caches

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_package_list_is_what_lies_in_the_folders() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "llamaindex_code_retrieval").glob("**/__init__.py")
    } | {
        f"llamaindex_code_retrieval.{'.'.join(path.parent.relative_to(ROOT).parts)}"
        for part in ("training", "eval")
        for path in (ROOT / part).glob("**/__init__.py")
    }
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])
    for part in ("training", "eval"):
        link = ROOT / "llamaindex_code_retrieval" / part
        assert link.is_symlink()
        assert link.readlink() == Path("..") / part


def test_every_direct_dependency_is_pinned() -> None:
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(d for name, extra in project["optional-dependencies"].items() if name != "gpu" for d in extra),
    ]
    names = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in wanted}
    pins = {
        line.split("==")[0]
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    assert names <= pins, f"not pinned: {names - pins}"


LIGHT_MODULES = (
    "_code_words _io _optional _settings cache chat chat.engines chat.extractive chat.llms chat.tools "
    "chunking embedding ranking retriever cli.console cli.hits cli.main "
    "cli.options cli.related cli.search cli.evaluate cli.train index.changes index.code_index "
    "ranking.question index.decode index.caches index.contents index.external index.faiss_store index.file_state "
    "index.filters index.folder index.git index.ignore index.ivf index.leave_out index.listing index.locate "
    "index.lock index.places index.rank index.read_only index.records index.related index.restore "
    "index.search serving.mcp_server serving.service serving.tools "
    "index.source_files index.source_options index.source_roots index.sources index.storage index.tables "
    "index.update index.vector_file index.vectors index.view index.watch index.words languages.bounds "
    "languages.spans languages.bodies languages.patterns languages.syntax languages.notebooks languages.table "
    "languages.text models.batching models.calibration models.catalog models.files models.hub models.locate "
    "models.pieces models.query_encoder_config models.reranker_config models.spec models.short_vectors "
    "models.static_encoder eval eval.datasets eval.environment eval.gate eval.generation eval.metrics "
    "eval.pytest_plugin eval.questions eval.report eval.results eval.rouge "
    "eval.significance eval.suite eval.unfinished eval.writers training "
    "training.augmentation training.config training.curves training.mining training.model_card "
    "training.near_duplicates training.pair_sources training.pairs training.queries training.recipes "
    "training.ranking_questions training.repositories.history training.sampling training.targets"
).split()


def test_light_modules_do_not_import_torch() -> None:
    """In one process, which ends at the first module that imports torch and names it."""
    code = (
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(f'llamaindex_code_retrieval.{module}')\n"
        "    if 'torch' in sys.modules: sys.exit(f'{module} imports torch')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *LIGHT_MODULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


HEAVY = (
    "datasets faiss huggingface_hub importlib.metadata llama_index numpy openvino peft pydantic pygments rich tantivy "
    "torch transformers tree_sitter"
).split()


def heavy_imports(code: str, *arguments: object) -> set[str]:
    """Return the packages of ``HEAVY`` that a new process has imported after running ``code``."""
    code += f"\nimport sys\nprint(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "FORCE_COLOR": ""}  # a pipe is no terminal, whatever is set outside
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return set(done.stderr.splitlines()[-1].split())


COMMAND = """
import sys
from llamaindex_code_retrieval.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit_:  # of --help
    code = exit_.code
assert code == 0, code
"""


@pytest.mark.parametrize(
    ("arguments", "imports"),
    [
        ("--help", ""),
        ("search --help", ""),
        ("train --help", ""),
        ("languages", ""),
        ("models", ""),
        ("models --json", "numpy"),
        ("info --index INDEX", "numpy"),
        ("search total --index INDEX --mode bm25", "numpy tantivy"),
        ("search total --index INDEX --mode bm25 --language python --json", "numpy tantivy"),
        ("related src/cart.py:10 --index INDEX", "numpy tantivy"),
        ("recipes", "importlib.metadata numpy pydantic"),
        ("benchmark REPOSITORY --out OUT", "importlib.metadata numpy pydantic tree_sitter"),
    ],
)
def test_a_command_imports_only_what_it_uses(
    arguments: str, imports: str, indexed: Path, repository: Path, tmp_path: Path
) -> None:
    paths = {"INDEX": indexed, "REPOSITORY": repository, "OUT": tmp_path / "out"}
    assert heavy_imports(COMMAND, *(paths.get(word, word) for word in arguments.split())) == set(imports.split())


@pytest.mark.usefixtures("embedded_model")
@pytest.mark.parametrize("few_vectors", [5_000, 0])
def test_a_search_imports_no_framework(
    few_vectors: int, shell: Shell, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only OpenVINO, where the model embeds the question, and FAISS where there is a file of vectors."""
    monkeypatch.setattr(caches, "_FEW_VECTORS", few_vectors)
    shell("index", repository)
    file_imports = set() if few_vectors else {"faiss"}
    assert len(list(Path(".code-retrieval").glob("*.faiss"))) == len(file_imports)
    assert heavy_imports(COMMAND, "search", "total", "--fast-query") == {"numpy", "tantivy"} | file_imports
    assert heavy_imports(COMMAND, "search", "total") - {"importlib.metadata"} == (
        {"numpy", "openvino", "tantivy"} | file_imports
    )


def test_a_static_query_encoder_imports_no_framework() -> None:
    code = """
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.models.query_encoder_config import AUTO, QueryEncoderConfig
from llamaindex_code_retrieval.models.files import ARTIFACTS

teacher = QueryEncoderConfig.read(ARTIFACTS / "embedded-general-static").teacher_fingerprint
student = QueryEncoder.load_static(AUTO, teacher=teacher)
assert student.encode_queries(["parse a date"]).shape == (1, 384)
"""
    assert heavy_imports(code) == {"numpy"}


def test_modules_that_every_search_needs_import_no_framework() -> None:
    names = "caches changes filters folder ivf listing lock places rank related storage tables vector_file view words"
    code = "".join(f"import llamaindex_code_retrieval.index.{name}\n" for name in names.split())
    assert heavy_imports(code) == {"numpy"}


def test_only_a_terminal_needs_rich() -> None:
    code = "from llamaindex_code_retrieval.cli.console import {0}\n{0}({1})"
    for name, arguments in (
        ("print_table", "'t', [('a', 'b')]"),
        ("print_parts", "('a', 'bold')"),
        ("print_code", "'x = 1', language='python', first_line=1"),
    ):
        assert heavy_imports(code.format(name, arguments)) == set(), name


def test_public_names_of_evaluation() -> None:
    from llamaindex_code_retrieval import eval as package

    assert all(getattr(package, name) is not None for name in package.__all__)
    assert list(package.__all__) == sorted(package._MODULES)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_public_names() -> None:
    import llamaindex_code_retrieval as package

    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
