from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from llamaindex_code_retrieval.eval.datasets import Benchmark, data_folder, documented_functions, load_beir, save_beir

Write = Callable[..., Path]

CORPUS = [
    {"_id": "c1", "text": "def read(): ...", "language": "python"},
    {"_id": "c2", "text": "function read() {}", "language": "java"},
    {"_id": "c3", "text": "def write(): ...", "language": "python"},
]
QUERIES = [{"_id": "q1", "text": "read a file"}, {"_id": "q2", "text": "write a file"}, {"_id": "q3", "text": "unused"}]
HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a BEIR folder; each argument replaces one file's text."""

    def write_files(
        *,
        corpus: str = "".join(json.dumps(row) + "\n" for row in CORPUS),
        queries: str = "".join(json.dumps(row) + "\n" for row in QUERIES),
        **splits: str,
    ) -> Path:
        folder = tmp_path / "tiny"
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text(corpus, encoding="utf-8")
        (folder / "queries.jsonl").write_text(queries, encoding="utf-8")
        for split, rows in splits.items():
            (folder / "qrels" / f"{split.replace('_', '-')}.tsv").write_text(rows, encoding="utf-8")
        return folder

    return write_files


def test_reads_the_queries_of_a_split_that_have_an_answer(write: Write) -> None:
    folder = write(dev=HEADER + "q2\tc3\t1\nq1\tc1\t2\nq1\tc3\t0\nq3\tc1\t0\n")
    assert load_beir(folder, split="dev") == Benchmark(
        name="tiny/dev",
        corpus={row["_id"]: row["text"] for row in CORPUS},
        queries={"q2": "write a file", "q1": "read a file"},
        qrels={"q2": {"c3": 1}, "q1": {"c1": 2, "c3": 0}},
        languages={"c1": "python", "c2": "java", "c3": "python"},
    )


def test_a_split_of_one_language_is_searched_in_its_codes_only(write: Write) -> None:
    folder = write(dev_python=HEADER + "q1\tc1\t1\n", dev_hard=HEADER + "q1\tc1\t1\n", dev_java=HEADER + "q1\tc1\t1\n")
    assert sorted(load_beir(folder, split="dev-python").corpus) == ["c1", "c3"]
    assert sorted(load_beir(folder, split="dev-hard").corpus) == ["c1", "c2", "c3"]
    with pytest.raises(ValueError, match=r"dev-java\.tsv, line 2 judges code 'c1', which the java part of corpus"):
        load_beir(folder, split="dev-java")


def test_only_newlines_end_a_line_and_languages_are_optional(write: Write) -> None:
    text = "a = '\u2028 \x0c \x85'\r\n"
    row = json.dumps({"_id": "c1", "text": text}, ensure_ascii=False)
    benchmark = load_beir(write(corpus=f"{row}\r\n\n", dev=HEADER.strip() + "\r\nq1\tc1\t1\r\n"), split="dev")
    assert benchmark.corpus == {"c1": text}
    assert benchmark.languages == {}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"corpus": ""}, r"corpus\.jsonl holds no code"),
        ({"corpus": '{"_id": "c1", "text": "x"}\n{"_id": "c2",\n'}, r"corpus\.jsonl, line 2 is not JSON"),
        ({"corpus": "[]\n"}, r"corpus\.jsonl, line 1 is \[\]; write an object"),
        ({"corpus": '{"_id": "c1"}\n'}, r"corpus\.jsonl, line 1 has text None; it must be a string"),
        ({"corpus": '{"_id": 1, "text": ""}\n'}, r"corpus\.jsonl, line 1 has _id 1; it must be a string"),
        ({"corpus": '{"_id": "a", "text": "", "language": 3}'}, r"line 1 has language 3; it must be a string"),
        ({"queries": '{"_id": "q1", "text": "x"}\n' * 2}, r"queries\.jsonl, line 2 gives the id 'q1' a second time"),
        ({"dev": "q1\tc1\t1\n"}, r"dev\.tsv, line 1 is .*; it must be the tab-separated header"),
        ({"dev": HEADER + "q1 c1 1\n"}, r"dev\.tsv, line 2 has 1 fields"),
        ({"dev": HEADER + "q1\tc1\t1\nq9\tc1\t1\n"}, r"dev\.tsv, line 3 judges query 'q9', which queries\.jsonl lacks"),
        ({"dev": HEADER + "q1\tc9\t1\n"}, r"dev\.tsv, line 2 judges code 'c9', which corpus\.jsonl lacks"),
        ({"dev": HEADER + "q1\tc1\t0.5\n"}, r"dev\.tsv, line 2 has the score '0\.5'; it must be a whole number"),
        ({"dev": HEADER + "q1\tc1\t1\nq1\tc1\t0\n"}, r"dev\.tsv, line 3 judges query 'q1' and code 'c1' a second time"),
        ({"dev": HEADER + "q1\tc1\t0\n"}, r"dev\.tsv names no relevant code"),
        ({"dev": HEADER}, r"dev\.tsv names no relevant code"),
    ],
)
def test_damaged_files_are_refused_by_name_and_line(write: Write, files: Mapping[str, str], message: str) -> None:
    folder = write(**{"dev": HEADER + "q1\tc1\t1\n", **files})
    with pytest.raises(ValueError, match=message):
        load_beir(folder, split="dev")


def test_bytes_that_are_no_text_are_refused_by_line(write: Write) -> None:
    folder = write(dev=HEADER + "q1\tc1\t1\n")
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "c1", "text": "\xff"}\n')
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 1 is not JSON"):
        load_beir(folder, split="dev")


def test_missing_files_are_named_and_splits_listed(write: Write, tmp_path: Path) -> None:
    folder = write(dev=HEADER + "q1\tc1\t1\n", train=HEADER)
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder"):
        load_beir(tmp_path / "nowhere", split="dev")
    with pytest.raises(FileNotFoundError, match=r"no split 'test' .*; splits there: dev, train"):
        load_beir(folder, split="test")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"queries\.jsonl is missing"):
        load_beir(folder, split="dev")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": {}}, "empty corpus"),
        ({"queries": {}, "qrels": {}}, "no query with a relevant code"),
        ({"queries": {"q": "x", "r": "y"}}, "query 'r' in only one of queries and qrels"),
        ({"qrels": {"q": {"d": 1}}}, "judges code 'd', which its corpus lacks"),
        ({"qrels": {"q": {"c": 0}}}, "no relevant code for query 'q'"),
        ({"languages": {"d": "go"}}, "language for code 'd', which its corpus lacks"),
    ],
)
def test_a_benchmark_refuses_parts_that_do_not_fit(changes: Mapping[str, object], message: str) -> None:
    parts = {"name": "b", "corpus": {"c": "x"}, "queries": {"q": "x"}, "qrels": {"q": {"c": 1}}}
    with pytest.raises(ValueError, match=message):
        Benchmark(**{**parts, **changes})  # type: ignore[arg-type]


def test_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cosqa").mkdir()
    monkeypatch.setenv("CODE_RETRIEVAL_DATA", str(tmp_path))
    assert data_folder("cosqa") == tmp_path / "cosqa"
    assert data_folder("absent") is None
    monkeypatch.delenv("CODE_RETRIEVAL_DATA")
    assert data_folder("cosqa") is None


@pytest.mark.parametrize(
    ("name", "split", "codes", "queries"),
    [("cosqa", "dev", 6267, 500), ("mbxp_nl", "dev", 7774, 90), ("humanevalx_nl", "test-go", 164, 164)],
)
def test_the_published_sets_have_their_published_sizes(name: str, split: str, codes: int, queries: int) -> None:
    folder = data_folder(name)
    if folder is None:
        pytest.skip(f"needs the data set {name}: set CODE_RETRIEVAL_DATA to the folder that holds it")
    benchmark = load_beir(folder, split=split)
    assert (len(benchmark.corpus), len(benchmark.queries)) == (codes, queries)
    assert benchmark.languages.keys() == benchmark.corpus.keys()


PYTHON = '''
def read(path):
    """Read a file
    as text.

    Args: path
    """
    return path.read_text()


def undocumented(path):
    return path


class Store:
    """A class is no function."""

    def save(self, item):
        """Save one item here."""
        self.items.append(item)

    def close(self):
        """Close it."""
        self.open = False
'''


def test_documented_functions_are_asked_for_by_their_first_paragraph() -> None:
    benchmark = documented_functions([("store.py", PYTHON), ("notes.txt", "not code")])
    assert benchmark.queries == {"store.py:2": "Read a file as text.", "store.py:18": "Save one item here."}
    assert benchmark.qrels == {"store.py:2": {"store.py:2": 1}, "store.py:18": {"store.py:18": 1}}
    assert list(benchmark.corpus) == ["store.py:2", "store.py:18", "store.py:22"]  # close() has no query, but competes
    assert set(benchmark.languages.values()) == {"python"}
    assert "return path.read_text()" in benchmark.corpus["store.py:2"]
    for code in benchmark.corpus.values():
        assert '"""' not in code


def test_ambiguous_descriptions_are_no_queries_and_equal_codes_come_once() -> None:
    twice = 'def {0}():\n    """Return the answer now."""\n    return {0}\n'
    copy = 'def unique():\n    """{}"""\n    return 42\n'
    benchmark = documented_functions(
        [
            ("a.py", twice.format("one")),
            ("b.py", twice.format("two")),
            ("c.py", copy.format("Return the unique number.")),
            ("d.py", copy.format("Return something else entirely.")),
        ]
    )
    assert list(benchmark.corpus) == ["a.py:1", "b.py:1", "c.py:1"]
    assert benchmark.queries == {"c.py:1": "Return the unique number."}


def test_documented_functions_of_other_languages() -> None:
    source = "// Add sums two whole numbers.\nfunc Add(a int, b int) int {\n\treturn a + b\n}\n"
    benchmark = documented_functions([("sum.go", "package sum\n\n" + source)])
    assert list(benchmark.queries.values()) == ["Add sums two whole numbers."]
    (code,) = benchmark.corpus.values()
    assert "whole numbers" not in code
    assert "return a + b" in code


def test_fewer_query_words_can_be_asked_for() -> None:
    benchmark = documented_functions([("store.py", PYTHON)], min_query_words=2)
    assert benchmark.queries["store.py:22"] == "Close it."
    with pytest.raises(ValueError, match="min_query_words must be at least 1, got 0"):
        documented_functions([], min_query_words=0)


def test_documented_functions_need_some() -> None:
    with pytest.raises(ValueError, match="empty corpus"):
        documented_functions([("a.py", "x = 1\n")])
    with pytest.raises(ValueError, match=r"a\.py is given twice"):
        documented_functions([("a.py", PYTHON), ("a.py", PYTHON)])


def _benchmark(n: int = 30, **changes: object) -> Benchmark:
    settings: dict[str, object] = {
        "name": "many",
        "corpus": {f"c{i}": f"code {i}" for i in range(n)},
        "queries": {f"q{i}": f"query {i}" for i in range(10)},
        "qrels": {f"q{i}": {f"c{i}": 1, f"c{i + 10}": 0} for i in range(10)},
        "languages": {f"c{i}": "python" if i % 2 else "java" for i in range(n)},
    }
    return Benchmark(**{**settings, **changes})  # type: ignore[arg-type]


def test_a_fingerprint_is_of_content_and_not_of_order_or_name() -> None:
    one, shuffled = _benchmark(), _benchmark(name="other", corpus=dict(reversed(_benchmark().corpus.items())))
    assert one.fingerprint == shuffled.fingerprint
    assert one.fingerprint != _benchmark(queries={**one.queries, "q0": "else"}).fingerprint
    assert one.fingerprint != _benchmark(qrels={**one.qrels, "q0": {"c0": 1}}).fingerprint
    assert one.fingerprint != _benchmark(31).fingerprint


def test_the_language_of_a_query_is_that_of_its_answers() -> None:
    assert _benchmark().query_languages["q1"] == "python"
    both = _benchmark(qrels={**_benchmark().qrels, "q0": {"c0": 1, "c1": 1}})
    assert "q0" not in both.query_languages


def test_equal_codes_have_the_first_id() -> None:
    corpus = {"a": "x = 1\n", "b": "x  = 1", "c": "y"}
    found = Benchmark(name="b", corpus=corpus, queries={"q": "?"}, qrels={"q": {"c": 1}}).representatives()
    assert found == {"a": "a", "b": "a", "c": "c"}


def test_pools_hold_each_query_once_with_all_its_codes() -> None:
    pools = _benchmark().pools(7, seed=3)
    assert sorted(query for pool in pools for query in pool.queries) == sorted(_benchmark().queries)
    assert all(len(pool.corpus) == 7 for pool in pools)
    assert all(judged.keys() <= pool.corpus.keys() for pool in pools for judged in pool.qrels.values())
    assert [pool.fingerprint for pool in pools] == [pool.fingerprint for pool in _benchmark().pools(7, seed=3)]
    assert [pool.fingerprint for pool in pools] != [pool.fingerprint for pool in _benchmark().pools(7, seed=4)]
    (whole,) = _benchmark().pools(30)
    assert whole.fingerprint == _benchmark().fingerprint


def test_pools_that_cannot_be_dealt_are_refused() -> None:
    with pytest.raises(ValueError, match="benchmark 'many' has 30 codes, so pools of 31 cannot be drawn"):
        _benchmark().pools(31)
    wide = _benchmark(qrels={**_benchmark().qrels, "q0": dict.fromkeys(_benchmark().corpus, 1)})
    with pytest.raises(ValueError, match="query 'q0' has more than 5 judged codes; use larger pools"):
        wide.pools(5)


def test_a_sample_has_fewer_queries_over_the_same_codes() -> None:
    sample = _benchmark().sample(4, seed=1)
    assert (len(sample.queries), sample.corpus) == (4, _benchmark().corpus)
    assert sample.queries == _benchmark().sample(4, seed=1).queries != _benchmark().sample(4, seed=2).queries
    with pytest.raises(ValueError, match="has 10 queries, so 11 cannot be drawn"):
        _benchmark().sample(11)


def test_a_benchmark_is_what_was_saved(tmp_path: Path) -> None:
    save_beir(_benchmark(), tmp_path / "set", split="dev")
    read = load_beir(tmp_path / "set", split="dev")
    assert read.fingerprint == _benchmark().fingerprint
    assert read.languages == _benchmark().languages
