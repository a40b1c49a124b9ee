from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.languages.syntax import without_signature_and_returns
from llamaindex_code_retrieval.languages.table import LANGUAGES
from llamaindex_code_retrieval.training.augmentation import hard_positive, rewrite_query
from llamaindex_code_retrieval.training.mining import mine
from llamaindex_code_retrieval.training.mining.comments import summary
from llamaindex_code_retrieval.training.mining.filters import reject_query
from llamaindex_code_retrieval.training.mining.licenses import is_permissive, license_of_folder, license_of_text
from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
from llamaindex_code_retrieval.training.pair_sources import load_pairs
from llamaindex_code_retrieval.training.pairs import Pair, read_pairs, write_pairs
from llamaindex_code_retrieval.training.sampling import sample_pool, split_by_repository

MIT = """MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files, to deal in the Software without restriction, subject to the following conditions:
The above copyright notice and this permission notice shall be included in all copies.
"""
READ = '''def read(path):
    """Read a file, whole.

    Args:
        path: where it is
    """
    with open(path) as file:
        return file.read()
'''


# --- files -----------------------------------------------------------------------------------------------------------

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
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair], suffix: str) -> None:
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
    with pytest.raises(FileNotFoundError, match=r"no\.jsonl is no file"):
        read_pairs(tmp_path / "no.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no pair"):
        read_pairs(tmp_path / "empty.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"query": "q", "code": "c"}\n' * 99)[:-9])
    with pytest.raises(ValueError, match="no whole gzip file"):
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
    with pytest.raises(FileNotFoundError, match="other is no folder"):
        load_pairs("other")


@pytest.mark.parametrize(
    ("qrels", "says"),
    [
        ("q9\tc0\t1\n", r"line 2 judges query 'q9', which queries\.jsonl lacks"),
        ("q0\tc9\t1\n", r"line 2 judges code 'c9', which corpus\.jsonl lacks"),
        ("q0\tc0\n", "line 2 has 2 fields"),
        ("q0\tc0\t0\n", "names no code that answers"),
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


# --- doc comments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("docstring", "query"),
    [
        ("Opens the {@link Cart#items list} of\n<b>all</b> items.\n\n<p>More.\n@param x y",
         "Opens the list of all items."),
        ("Gets {@code List<String>}.<p>More", "Gets List<String>."),
        ("{@inheritDoc}", ""),
        ("@return the sum", ""),
        ("@brief Sums \\a values up.\n@param values them", "Sums values up."),
        ("Send ``data`` to a :class:`~shop.Cart` or :ref:`a list <lists>` [1]_.\n\n:param data: x",
         "Send data to a Cart or a list."),
        ("Sum it.\n:param x: it", "Sum it."),
        ("Sum it.\nArgs:\n    x: it", "Sum it."),
        ("Sum it\n\nParameters\n----------\nx : int", "Sum it"),
        ("Parameters\n----------\nx : int", ""),
        ("Sum it.\n>>> f(1)\n1", "Sum it."),
        ("f(x, y) -> int\n\nSum them.", "Sum them."),
        ("Uses +items+ and {Cart#total}.\n\n@param [Integer] n", "Uses items and Cart#total."),
        ("Add reads **two** *numbers*; see [docs](http://a.b/c).\n# Examples\nx", "Add reads two numbers; see docs."),
        ("Wraps [`Vec`] and `Box`.\n```\nx\n```", "Wraps Vec and Box."),
        ("Turns a &lt;b&gt; into b", "Turns a <b> into b"),
        (".. deprecated:: 2", ""),
    ],
)  # fmt: skip
def test_summary_is_the_first_paragraph_in_plain_words(docstring: str, query: str) -> None:
    assert summary(docstring) == query


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("Read a file, whole.", None),
        ("", "no description"),
        ("Reads it.", "description under 3 words"),
        ("word " * 65, "description over 64 words"),
        ("See the https://example.org/page for it", "description with a link or an image"),
        ("TODO make this work better", "description is a note or a reference"),
        ("Deprecated: use the other one", "description is a note or a reference"),
        ("计算 两个 数字 的 总和", "description not in English"),
        ("Gibt die Summe der Zahlen zurück", "description not in English"),
        ("a = b + c * (d - 1) / 17 ** 23 ** 45", "description is a note or a reference"),
        ("1 + 2 * 3 - 4 / 5 (6, 7)", "description not in words"),
    ],
)
def test_queries_nobody_asks(query: str, reason: str | None) -> None:
    assert reject_query(query) == reason


# --- mining ----------------------------------------------------------------------------------------------------------

SOURCES = {
    "a.py": READ,
    "A.java": "class A {\n  /**\n   * Adds {@code tax} to a price.\n   * @param p price\n   */\n"
    "  public double withTax(double p) {\n    return p * 1.19;\n  }\n\n"
    "  /** Says what this one is. */\n  public String toString() {\n    return \"A\";\n  }\n}\n",
    "a.js": "/**\n * Sums all the prices.\n * @returns {number}\n */\nfunction sum(list) {\n  return list.length;\n}\n",
    "a.ts": "/** Counts all the prices. */\nexport function count(list: Price[]): int {\n  return list.length;\n}\n",
    "a.go": "package a\n\n// Open reads the whole thing.\nfunc Open(s string) string {\n\treturn s\n}\n",
    "a.php": "<?php\n/**\n * Makes a text shorter.\n * @param string $s\n */\nfunction cut($s) {\n  return $s;\n}\n",
    "a.rb": "# Makes a text longer.\n# @param s [String]\ndef grow(s)\n  s + s\nend\n",
    "a.rs": "/// Counts the bytes of it.\n///\n/// # Panics\nfn bytes(s: &str) -> usize {\n    s.len()\n}\n",
    "a.c": "/* Adds two whole numbers. */\nint add(int a, int b) {\n  return a + b;\n}\n",
    "a.cpp": "/// \\brief Subtracts two whole numbers.\nint sub(int a, int b) {\n  return a - b;\n}\n",
    "a.cs": "class A {\n  /// <summary>\n  /// Multiplies two whole numbers.\n  /// </summary>\n"
    "  /// <param name=\"a\">x</param>\n  public int Mul(int a, int b) {\n    return a * b;\n  }\n}\n",
}  # fmt: skip


def _write(root: Path, sources: dict[str, str]) -> Path:
    for name, text in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_every_language_is_mined(tmp_path: Path) -> None:
    report = mine([_write(tmp_path / "shop", {**SOURCES, "LICENSE": MIT})])
    assert {pair.path: pair.query for pair in report.pairs} == {
        "a.py": "Read a file, whole.",
        "A.java": "Adds tax to a price.",
        "a.js": "Sums all the prices.",
        "a.ts": "Counts all the prices.",
        "a.go": "Open reads the whole thing.",
        "a.php": "Makes a text shorter.",
        "a.rb": "Makes a text longer.",
        "a.rs": "Counts the bytes of it.",
        "a.c": "Adds two whole numbers.",
        "a.cpp": "Subtracts two whole numbers.",
        "a.cs": "Multiplies two whole numbers.",
    }
    assert {pair.language for pair in report.pairs} == set(LANGUAGES)
    assert {(pair.repository, pair.license) for pair in report.pairs} == {("shop", "MIT")}
    assert report.dropped == {"constructor or standard method": 1}
    java = next(pair.code for pair in report.pairs if pair.language == "java")
    assert java == "public double withTax(double p) {\n  return p * 1.19;\n}"
    assert [pair.path for pair in mine([tmp_path / "shop"], languages=["go"]).pairs] == ["a.go"]


def test_what_is_not_mined(tmp_path: Path) -> None:
    def function(name: str, doc: str = "Does something or other.", body: str = "y = x\n    return y") -> str:
        return f'def {name}(x):\n    """{doc}"""\n    {body}\n\n'

    sources = {
        "a.py": READ + function("__init__") + function("test_it") + function("short", body="return x")
        + function("stub", body="\n\n    ...").replace("(x)", "(\n    x\n)") + function("few", "Too few.")
        + function("long", body=f"y = '{'x' * 600}'\n    return y"),
        "copy.py": READ.replace("\n    with", "\n\n    with"),
        "tests/a.py": function("a"), "test_a.py": function("b"), "migrations/a.py": function("c"),
        "made.py": "# @generated\n" + function("d"), "README.md": "# Shop",
        "same.py": "".join(function(f"f{n}", body=f"y = x + {n}\n    return y * {n}") for n in range(4)),
    }  # fmt: skip
    report = mine([_write(tmp_path, sources)])
    assert [pair.query for pair in report.pairs] == ["Read a file, whole."]
    assert report.dropped == {
        "description of over 3 functions": 4,
        "constructor or standard method": 1,
        "test function": 1,
        "code under 3 lines": 1,
        "code without a body": 1,
        "description under 3 words": 1,
        "a line over 500 characters": 1,
        "same code as another": 1,
    }
    assert report.skipped == {"test file": 2, "migration": 1, "generated file": 1, "no known language": 1}


def test_near_duplicates_are_mined_once(tmp_path: Path) -> None:
    body = "\n".join(f"    total = total * {n} + price - {n + 1}" for n in range(20))
    text = '''def f(price):\n    """{} the final price."""\n    total = 0\n''' + body + "\n    return {}\n"
    report = mine(
        [_write(tmp_path, {"a.py": text.format("Computes", "total"), "b.py": text.format("Finds", "-total")})]
    )
    assert [pair.path for pair in report.pairs] == ["a.py"]
    assert report.dropped == {"near-duplicate of another": 1}


def test_installed_packages_are_repositories_of_their_own(tmp_path: Path) -> None:
    site = _write(
        tmp_path / "site-packages",
        {
            "one/a.py": READ,
            "two.py": READ.replace("file", "stream").replace("read", "load"),
            "one-1.0.dist-info/METADATA": "Name: one\nLicense-Expression: Apache-2.0\n",
            "one-1.0.dist-info/RECORD": "one/a.py,sha256=x,1\n",
            "two-1.0.dist-info/METADATA": "Name: two\nClassifier: License :: OSI Approved :: GNU General Public "
            "License v3 (GPLv3)\n",
            "two-1.0.dist-info/RECORD": "two.py,sha256=x,1\n",
        },
    )
    pairs = mine([site]).pairs
    assert [(pair.repository, pair.license) for pair in pairs] == [("one", "Apache-2.0"), ("two", "GPL-3.0")]
    assert [pair.repository for pair in mine([site], permissive_only=True).pairs] == ["one"]


@pytest.mark.parametrize("url", ["https://example.org/team/shop.git", "git@example.org:team/shop"])
def test_a_checkout_is_named_by_its_remote(repository: Path, url: str) -> None:
    subprocess.run(["git", "-C", str(repository), "remote", "add", "origin", url], check=True)
    (pair,) = mine([repository]).pairs
    assert (pair.query, pair.repository, pair.path) == ("Adds value added tax to a price.", "team/shop", "Tax.java")


def test_wrong_roots(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        mine([tmp_path / "nothing"])
    with pytest.raises(ValueError, match="unknown language 'cobol'"):
        mine([tmp_path], languages=["cobol"])
    assert mine([tmp_path]).pairs == []


# --- licences --------------------------------------------------------------------------------------------------------

BSD = "Redistribution and use in source and binary forms, with or without modification, are permitted provided that"


@pytest.mark.parametrize(
    ("text", "spdx"),
    [
        (MIT, "MIT"),
        ("Apache License\n   Version 2.0, January 2004", "Apache-2.0"),
        (BSD, "BSD-2-Clause"),
        (BSD + " ... Neither the name of the copyright holder", "BSD-3-Clause"),
        ("Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is "
         "hereby granted, provided that the above copyright notice", "ISC"),
        ("Mozilla Public License Version 2.0", "MPL-2.0"),
        ("GNU GENERAL PUBLIC LICENSE\n  Version 2, June 1991", "GPL-2.0"),
        ("GNU GENERAL PUBLIC LICENSE Version 3 ... the GNU Affero General Public License", "GPL-3.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE Version 2.1", "LGPL-2.1"),
        ("GNU AFFERO GENERAL PUBLIC LICENSE Version 3", "AGPL-3.0"),
        ("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2", "PSF-2.0"),
        ("This is free and unencumbered software released into the public domain.", "Unlicense"),
        ("CC0 1.0 Universal", "CC0-1.0"),
        ("All rights reserved.", ""),
    ],
)  # fmt: skip
def test_licences_by_their_phrases(text: str, spdx: str) -> None:
    assert license_of_text(text) == spdx


def test_licence_files(tmp_path: Path) -> None:
    assert license_of_folder(tmp_path) == ""
    (tmp_path / "COPYING").write_text("Ask us.")
    assert license_of_folder(tmp_path) == "COPYING"
    (tmp_path / "LICENSE.txt").write_text(MIT)
    assert license_of_folder(tmp_path) == "MIT"
    assert is_permissive("Apache-2.0 WITH LLVM-exception")
    assert not is_permissive("COPYING")


def test_the_nearest_licence_counts_and_a_header_before_it(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "LICENSE": MIT,
            "a.go": SOURCES["a.go"],
            "vendored/COPYING": "GNU GENERAL PUBLIC LICENSE Version 3",
            "vendored/lib/a.c": SOURCES["a.c"],
            "vendored/a.cpp": "// SPDX-License-Identifier: ISC\n\n" + SOURCES["a.cpp"],
        },
    )
    assert {pair.path: pair.license for pair in mine([root]).pairs} == {
        "a.go": "MIT",
        "vendored/lib/a.c": "GPL-3.0",
        "vendored/a.cpp": "ISC",
    }


# --- splitting and varying -------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(pairs=pairs_of_anything, share=st.sampled_from([0.1, 0.5, 0.9]), seed=st.integers(0, 9))
def test_a_split_never_shares_a_repository(pairs: list[Pair], share: float, seed: int) -> None:
    single = len({pair.repository for pair in pairs}) == 1

    def unit(pair: Pair) -> tuple[str, str]:
        return ("", pair.path or pair.code) if single or not pair.repository else ("repository", pair.repository)

    if len({unit(pair) for pair in pairs}) < 2:
        return
    train, held_out = split_by_repository(pairs, held_out=share, seed=seed)
    assert train
    assert held_out
    assert Counter([*train, *held_out]) == Counter(pairs)
    assert not {unit(pair) for pair in train} & {unit(pair) for pair in held_out}
    assert (train, held_out) == split_by_repository(pairs, held_out=share, seed=seed)


def test_the_share_is_met_and_the_seed_matters() -> None:
    pairs = [Pair(query="q", code="c", repository=f"r{n % 100}") for n in range(1_000)]
    splits = [split_by_repository(pairs, held_out=0.2, seed=seed)[1] for seed in range(3)]
    assert [len(held_out) for held_out in splits] == [200] * 3
    assert len({frozenset(pair.repository for pair in held_out) for held_out in splits}) == 3


def test_what_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        split_by_repository([Pair(query="q", code="c", repository="r", path="p")] * 5)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        split_by_repository([], held_out=1)


FUNCTIONS = {
    "python": "def f(x):\n    y = 1\n    if x:\n        y = 2\n    return y",
    "java": "public int f(int x) {\n  int y = x;\n  return y;\n}",
    "javascript": "const f = (x) => {\n  let y = x;\n  return y;\n};",
    "typescript": "f(x: number): number {\n  let y = x;\n  return y;\n}",
    "go": "func (s *S) F(x int) int {\n\ty := x\n\treturn y\n}",
    "ruby": "def f(x)\n  y = x\n  return y\nend",
    "php": "public function f($x) {\n  $y = $x;\n  return $y;\n}",
    "c": "int f(int x) {\n  int y = x;\n  return y;\n}",
    "cpp": "int S::f(int x) const {\n  int y = x;\n  return y;\n}",
    "csharp": "public int F(int x)\n{\n    int y = x;\n    return y;\n}",
    "rust": "pub fn f(&self, x: i32) -> i32 {\n    let y = x;\n    return y;\n}",
}
BODIES = {
    "python": "y = 1\nif x:\n    y = 2",
    "javascript": "let y = x;",
    "typescript": "let y = x;",
    "go": "y := x",
    "ruby": "y = x",
    "php": "$y = $x;",
    "rust": "let y = x;",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_hard_positive_is_the_body_without_returns(language: str) -> None:
    body = without_signature_and_returns(FUNCTIONS[language], language)
    assert body == BODIES.get(language, "int y = x;")
    assert hard_positive(FUNCTIONS[language], language) == body


@pytest.mark.parametrize("code", ["def f(x):\n    return x", "y = 1", "?? not ( code", ""])
def test_hard_positive_of_nothing_else_is_the_code(code: str) -> None:
    assert hard_positive(code, "python") == code
    assert hard_positive(code, "") == code


@given(query=st.text(), seed=st.integers(0, 99))
def test_a_rewritten_query_differs_by_one_word_at_most(query: str, seed: int) -> None:
    before, after = Counter(query.split()), Counter(rewrite_query(query, random.Random(seed)).split())
    assert (before - after).total() + (after - before).total() <= 1
    assert bool(after) == bool(before)


def test_all_three_rewrites_occur() -> None:
    lengths = Counter(len(rewrite_query("a b c", random.Random(seed)).split()) for seed in range(300))
    assert min(lengths[2], lengths[3], lengths[4]) > 60
    assert rewrite_query("word", random.Random(0)) == "word word"


def test_near_duplicates_share_a_cluster() -> None:
    lines = [f"x{n} = y{n} + {n}" for n in range(40)]
    codes = [
        "\n".join(lines),
        "other code here",
        "\n\n".join(lines),
        "\n".join([*lines[:-1], "z = 1"]),
        "other code there",
    ]
    assert near_duplicate_clusters(codes) == [0, 1, 0, 0, 4]
    assert near_duplicate_clusters(["", "", "a"]) == [0, 0, 2]
    assert near_duplicate_clusters([]) == []
    with pytest.raises(ValueError, match="at most 1, got 2"):
        near_duplicate_clusters([], threshold=2)


# --- command ---------------------------------------------------------------------------------------------------------


def test_mine_on_the_command_line(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs.jsonl.gz"
    assert main(["mine", str(repository), f"file://{repository}", "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["pairs"], facts["language"], facts["repository"]) == (1, {"java": 1}, {"shop": 1})
    assert facts["dropped"] == {"same code as another": 1}
    assert [pair.query for pair in read_pairs(out)] == ["Adds value added tax to a price."]
    assert main(["mine", str(repository), "--out", str(out)]) == 0
    assert "1 java" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing", "--out", "p.jsonl"], "missing is not a folder"),
        (["empty", "--out", "p.jsonl"], "no pair in empty: 0 files read"),
        (["shop", "--out", "p.jsonl", "--language", "php"], "no pair in shop"),
        (["shop", "--out", "p.jsonl", "--permissive-only"], "licence not permissive"),
        (["shop", "--out", "p.csv"], "must end in .jsonl"),
        (["shop", "--out", "no/p.jsonl"], "there is no folder no"),
    ],
)
@pytest.mark.usefixtures("repository")
def test_mine_writes_nothing_where_nothing_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    assert main(["mine", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_excluded_repositories_and_few_of_each(tmp_path: Path) -> None:
    for package, count in (("one", 5), ("two", 3), ("three", 2)):
        body = "".join(
            f'def {package}_{i}(x):\n    """Says the {package} thing number {i}."""\n    y = {package}[{i}] * x\n'
            f"    z = [y, {i}, x.{package}{i}()]\n    return [z, {i * 7}]\n\n\n"
            for i in range(count)
        )
        (tmp_path / package).mkdir()
        (tmp_path / package / "code.py").write_text(body)
    roots = [tmp_path / name for name in ("one", "two", "three")]
    every = mine(roots)
    assert Counter(pair.repository for pair in every.pairs) == {"one": 5, "two": 3, "three": 2}
    few = mine(roots, exclude=["two"], max_per_repository=3)
    assert Counter(pair.repository for pair in few.pairs) == {"one": 3, "three": 2}
    assert few.skipped["repository excluded"] == 1
    assert few.dropped["beyond 3 of a repository"] == 2
    ordered = sorted(
        (pair for pair in every.pairs if pair.repository == "one"),
        key=lambda pair: hashlib.sha256(pair.code.encode()).digest(),
    )
    assert {pair.code for pair in few.pairs if pair.repository == "one"} == {pair.code for pair in ordered[:3]}
    with pytest.raises(ValueError, match="max_per_repository must be at least 1, got 0"):
        mine(roots, max_per_repository=0)


def test_a_drawn_pool_holds_all_answers_of_what_is_asked() -> None:
    held_out = [Pair(query=f"q{n % 6}", code=f"c{n}") for n in range(12)]
    known = [f"other {n}" for n in range(50)]
    asked, pool = sample_pool(held_out, known, queries=4, codes=20, seed=0)
    assert len(asked) == 4
    assert all(asked[query] == {f"c{query[1:]}", f"c{int(query[1:]) + 6}"} for query in asked)
    assert len(pool) == 20
    assert pool == sorted(set(pool))
    assert set(pool) <= {*known, *(pair.code for pair in held_out)}
    assert {code for own in asked.values() for code in own} <= set(pool)
    assert sample_pool(held_out, known, queries=4, codes=20, seed=0) == (asked, pool)
    assert sample_pool(held_out, known, queries=4, codes=20, seed=1) != (asked, pool)
    # Answers are all kept, also where they alone are more than the pool should hold.
    assert len(sample_pool(held_out, known, queries=6, codes=5, seed=0)[1]) == 12
