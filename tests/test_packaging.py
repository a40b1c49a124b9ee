from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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
    "_io _optional _settings cache chunking embedding ranking retriever cli.console cli.main cli.options cli.search "
    "cli.evaluate cli.train index.code_index index.decode index.faiss_store index.git index.ignore index.ivf "
    "index.leave_out index.lock index.manifest index.records index.snapshot index.source_options index.sources "
    "index.storage index.update index.vector_file index.vectors index.words languages.bounds languages.spans "
    "languages.bodies languages.patterns languages.syntax languages.notebooks languages.table languages.text "
    "models.batching models.calibration models.catalog models.files models.hub models.locate "
    "models.query_encoder_config models.reranker_config models.spec models.static_encoder eval eval.datasets "
    "eval.environment eval.gate eval.generation eval.metrics eval.pytest_plugin eval.questions eval.report "
    "eval.results eval.rouge eval.significance eval.suite eval.unfinished eval.writers training training.augmentation "
    "training.config training.curves training.mining training.model_card training.near_duplicates "
    "training.pair_sources training.pairs training.queries training.recipes training.sampling training.targets"
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
