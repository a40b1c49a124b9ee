"""The scripts of benchmarks/: that they import, describe their options, and keep the figures of finished runs."""

from __future__ import annotations

import doctest
import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHARED = ("checkouts", "ctags", "declarations", "mutations", "report", "runs")
SCRIPTS = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in SHARED)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_describes_its_options(name: str, load, capsys: pytest.CaptureFixture[str]) -> None:
    script: ModuleType = load(name)
    with pytest.raises(SystemExit) as exit_:
        script.make_parser().parse_args(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"python benchmarks/{name}.py" in text
    assert "--result FILE" in text
    described = set(re.findall(r"--[a-z-]+", text.partition("options:")[0])) - {
        "--recipe",
        "--method",
        "--pairs",
        "--out",
    }
    assert described <= set(re.findall(r"--[a-z-]+", text.partition("options:")[2]))


def test_figures_are_written_beside_each_script_by_default(load) -> None:
    for name in SCRIPTS:
        default = load(name).make_parser().get_default("result")
        assert default == FOLDER / f"{name}.json"
        assert default.is_file()


@pytest.mark.parametrize("name", SHARED)
def test_examples_of_the_shared_modules(name: str, load) -> None:
    assert doctest.testmod(load(name)).failed == 0


def test_a_report_says_when_where_and_with_what_it_was_made(load, tmp_path: Path) -> None:
    load("report").report(tmp_path / "figures.json", {"seconds": 1.5})
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["seconds"] == 1.5
    assert figures["date"].startswith("20")
    assert "threads" in figures["machine"]
    assert {"torch", "llamaindex-code-retrieval"} <= figures["versions"].keys()


def test_finished_runs_are_kept_and_other_settings_refused(load, tmp_path: Path) -> None:
    runs = load("runs")
    script, file, settings = tmp_path / "count.py", tmp_path / "count.json", {"steps": 1}
    script.write_text(
        "import json, sys\nprint('log')\nprint(json.dumps({'arguments': sys.argv[1:]}))\n", encoding="utf-8"
    )
    first = runs.complete_runs(str(script), file, [("a", 0)], arguments=["--x"], settings=settings)
    assert first["a-0"]["arguments"] == ["--x", "--run", "a", "--seed", "0"]
    script.write_text("import json\nprint(json.dumps({'arguments': []}))\n", encoding="utf-8")
    both = runs.complete_runs(str(script), file, [("a", 0), ("a", 1)], arguments=[], settings=settings)
    assert both == json.loads(file.read_text(encoding="utf-8"))
    assert [run["arguments"] for run in runs.runs_of(both, "a")] == [first["a-0"]["arguments"], []]
    with pytest.raises(ValueError, match="name another --result"):
        runs.complete_runs(str(script), file, [], arguments=[], settings={"steps": 2})
