from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaindex_code_retrieval.training.pair_sources import load_pairs
from llamaindex_code_retrieval.training.pairs import Pair, read_pairs, write_pairs
from llamaindex_code_retrieval.training.sampling import split_by_repository

READ = '''def read(path):
    """Read a file, whole.

    Args:
        path: where it is
    """
    with open(path) as file:
        return file.read()
'''


words = st.text(min_size=1).filter(str.strip)
pairs_of_anything = st.lists(
    st.builds(
        Pair,
        query=words,
        code=words,
        language=st.sampled_from(["", "python"]),
        repository=st.text(max_size=5),
        path=st.text(max_size=5),
        negatives=st.lists(words, max_size=2).map(tuple),
        negative_queries=st.lists(words, max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(pairs=pairs_of_anything, suffix=st.sampled_from([".jsonl", ".jsonl.gz"]))
def test_written_pairs_are_read_back(tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair], suffix: str) -> None:
    file = tmp_path_factory.mktemp("pairs") / f"pairs{suffix}"
    write_pairs(file, pairs)
    assert read_pairs(file) == load_pairs(str(file)) == pairs
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    write_pairs(file, [Pair(query="q", code="c")])
    with pytest.raises(ZeroDivisionError):
        write_pairs(file, (Pair(query="x", code=str(1 // n)) for n in (1, 0)))
    assert read_pairs(file) == [Pair(query="q", code="c")]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"line 2 is not JSON"),
        ("[1]", r"line 2 is \[1\]; write an object"),
        ('{"query": "q"}', r"line 2 has no code, only query"),
        ('{"query": "q", "code": 3}', r"line 2 has the code 3; it must be a string"),
        ('{"query": " ", "code": "c"}', r"line 2 has the query ' ', which is empty"),
        ('{"query": "q", "code": "c", "negatives": "c"}', r"line 2 has the negatives 'c'; it must be a list"),
        ('{"query": "q", "code": "c", "path": 1}', r"line 2 has the path 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"query": "q", "code": "c"}\n' + line + "\n")
    with pytest.raises(ValueError, match=says):
        read_pairs(file)


def test_no_file_an_empty_one_and_a_cut_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.jsonl is not a file"):
        read_pairs(tmp_path / "no.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        read_pairs(tmp_path / "empty.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"query": "q", "code": "c"}\n' * 99)[:-9])
    with pytest.raises(ValueError, match="damaged or cut off"):
        read_pairs(tmp_path / "cut.jsonl.gz")


# --- sets from elsewhere ---------------------------------------------------------------------------------------------


def _beir(folder: Path, qrels: str) -> Path:
    (folder / "qrels").mkdir(parents=True)
    codes = [{"_id": f"c{n}", "text": f"code {n}", "language": "python"} for n in range(3)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in codes))
    queries = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(4)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    return folder


def test_judgements_become_pairs_and_negatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _beir(tmp_path / "set", "q0\tc0\t1\nq1\tc0\t2\nq0\tc1\t0\nq2\tc0\t0\nq3\tc2\t0\n")
    expected = [
        Pair(query="query 0", code="code 0", language="python", negatives=("code 1",), negative_queries=("query 2",)),
        Pair(query="query 1", code="code 0", language="python"),
    ]
    assert load_pairs(str(tmp_path / "set")) == expected
    monkeypatch.setenv("CODE_RETRIEVAL_DATA", str(tmp_path))
    assert load_pairs("set") == load_pairs("set:train") == expected
    with pytest.raises(FileNotFoundError, match=r"has no split 'dev'.*splits there: train"):
        load_pairs("set:dev")
    with pytest.raises(FileNotFoundError, match="other is not a folder"):
        load_pairs("other")


@pytest.mark.parametrize(
    ("qrels", "says"),
    [
        ("q9\tc0\t1\n", r"line 2 judges query 'q9', which queries\.jsonl lacks"),
        ("q0\tc9\t1\n", r"line 2 judges code 'c9', which corpus\.jsonl lacks"),
        ("q0\tc0\n", "line 2 has 2 fields"),
        ("q0\tc0\t0\n", "judges no code relevant"),
    ],
)
def test_wrong_judgements(tmp_path: Path, qrels: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load_pairs(str(_beir(tmp_path / "set", qrels)))


def test_codesearchnet_rows(tmp_path: Path) -> None:
    row = {"repo": "o/n", "path": "a.py", "func_name": "read", "language": "python", "code": READ, "url": "u"}
    row |= {"docstring": "Read a file, whole.\n\nArgs: path", "docstring_tokens": ["Read"], "code_tokens": ["def"]}
    file = tmp_path / "python_train_0.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(row).encode()))
    code = "def read(path):\n    with open(path) as file:\n        return file.read()\n"
    assert load_pairs(str(file)) == [
        Pair(query="Read a file, whole.", code=code.rstrip(), language="python", repository="o/n", path="a.py")
    ]
    file.write_bytes(gzip.compress(b'{"docstring_tokens": ["Adds", "it"], "code_tokens": ["a", "+", "b"]}\n'))
    assert load_pairs(str(file)) == [Pair(query="Adds it", code="a + b")]
    file.write_bytes(gzip.compress(b'{"text": "x"}\n'))
    with pytest.raises(ValueError, match=r"line 1 has the fields text; a pair needs query and code"):
        load_pairs(str(file))


def test_a_data_set_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text(
        '{"func_documentation_string": "Adds two numbers.", "func_code_string": "a + b"}\n'
    )
    assert load_pairs(f"hf:{tmp_path / 'set'}") == [Pair(query="Adds two numbers.", code="a + b")]
    with pytest.raises(ValueError, match="cannot be read"):
        load_pairs(f"hf:{tmp_path / 'nothing'}")


@pytest.mark.parametrize("source", ["hf:", "hf: ", "hf::train", "hf:org/name:"])
def test_a_hub_source_without_a_name_or_split_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="names no data set; write hf:org/name or hf:org/name:split"):
        load_pairs(source)


def test_missing_sources_are_reported_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{")
    good = tmp_path / "good.jsonl"
    write_pairs(good, [Pair(query="q", code="c")])
    assert load_pairs(str(good), str(good)) == [Pair(query="q", code="c")] * 2
    with pytest.raises(FileNotFoundError, match=r"missing\.jsonl is not a file"):
        load_pairs(str(broken), str(tmp_path / "missing.jsonl"))
    with pytest.raises(FileNotFoundError, match="missing is not a folder"):
        load_pairs(str(broken), str(tmp_path / "missing"))
    monkeypatch.setattr("sys.meta_path", [])  # nothing more can be imported
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    with pytest.raises(ImportError, match=r"reading hf:org/name needs datasets: pip install .*\[train\]"):
        load_pairs(str(broken), "hf:org/name")


@pytest.mark.skipif(not os.environ.get("CODE_RETRIEVAL_DATA"), reason="CODE_RETRIEVAL_DATA is not set")
def test_cosqa_as_published() -> None:
    pairs = load_pairs("cosqa")
    assert len(pairs) == 9_020
    assert len({pair.code for pair in pairs}) == 4_187
    assert sum(len(pair.negative_queries) for pair in pairs) == 8_000
    assert not any(pair.negatives for pair in pairs)
    train, held_out = split_by_repository(pairs)
    assert not {pair.code for pair in train} & {pair.code for pair in held_out}
    assert 800 <= len(held_out) <= 1_000


def test_the_kind_of_a_pair_is_kept_and_an_unknown_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    pairs = [Pair(query="q", code="c", kind="commit"), Pair(query="q", code="c")]
    write_pairs(file, pairs)
    assert read_pairs(file) == pairs
    assert "kind" not in file.read_text().splitlines()[1]
    file.write_text('{"query": "q", "code": "c", "kind": "commits"}\n')
    with pytest.raises(ValueError, match="line 1 has the kind 'commits'; the kinds are doc, commit, "):
        read_pairs(file)
