from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.languages.table import language_of
from llamaindex_code_retrieval.training.mining import mine
from llamaindex_code_retrieval.training.mining.license_files import license_of_folder, license_of_header
from llamaindex_code_retrieval.training.mining.licenses import is_permissive, license_of_text
from llamaindex_code_retrieval.training.pairs import read_pairs
from llamaindex_code_retrieval.training.repositories.comments import summary
from llamaindex_code_retrieval.training.repositories.filters import reject_query

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
        ("Total adds all prices.\nPlay: https://go.dev/play/p/abc", "Total adds all prices."),
        ("Sums the items as in the paper\n(see https://example.org/a_(b)).", "Sums the items as in the paper."),
        ("Sums items, see [the docs](https://example.org/a_(b) \"title\") or <https://b.org>.",
         "Sums items, see the docs or."),
        ("Downloads a file from https://example.org/a to disk. See www.example.org for details.",
         "Downloads a file to disk."),
        ("See https://example.org/a for more details.\n\nSums all of them.", "Sums all of them."),
        ("https://example.org\n\nSums all of them.", "Sums all of them."),
        ("Fill copies a [bytes.Buffer] to a [*Reader] at x[i].", "Fill copies a bytes.Buffer to a Reader at x[i]."),
        ("Parses [RFC 8259] text like [the others][rfc].\n\n[RFC 8259]: https://example.org",
         "Parses RFC 8259 text like the others."),
        ("Shows ![an image](https://example.org/a.png) the sum.", "Shows the sum."),
        ("Returns whether it starts with http:// or not.", "Returns whether it starts with http:// or not."),
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
        ("Shows <img src='a.png'> in a page", "description with an image"),
        ("TODO make this work better", "description is a note or a reference"),
        ("Deprecated: use the other one", "description is a note or a reference"),
        ("计算 两个 数字 的 总和", "description not in English"),
        ("Gibt die Summe der Zahlen zurück", "description not in English"),
        ("a = b + c * (d - 1) / 17 ** 23 ** 45", "description is a note or a reference"),
        ("1 + 2 * 3 - 4 / 5 (6, 7)", "description is mostly symbols"),
    ],
)
def test_unusable_descriptions_are_rejected(query: str, reason: str | None) -> None:
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
    assert {pair.language for pair in report.pairs} == set(map(language_of, SOURCES))
    assert {(pair.repository, pair.license) for pair in report.pairs} == {("shop", "MIT")}
    assert report.dropped == {"constructor or standard method": 1}
    java = next(pair.code for pair in report.pairs if pair.language == "java")
    assert java == "public double withTax(double p) {\n  return p * 1.19;\n}"
    assert [pair.path for pair in mine([tmp_path / "shop"], languages=["go"]).pairs] == ["a.go"]


def test_unsuitable_files_and_functions_are_not_mined(tmp_path: Path) -> None:
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
    assert report.skipped == {"test file": 2, "migration": 1, "generated": 1, "not code": 1}


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


def test_links_do_not_lose_a_pair(tmp_path: Path) -> None:
    source = SOURCES["a.go"].replace("thing.\n", "thing.\n// Play: https://go.dev/play/p/abc\n")
    report = mine([_write(tmp_path, {"a.go": source})])
    assert [pair.query for pair in report.pairs] == ["Open reads the whole thing."]
    assert report.dropped == {}


def test_wrong_arguments_are_refused_before_mining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _write(tmp_path / "shop", {"a.py": READ})
    with pytest.raises(FileNotFoundError, match="nothing does not exist; name a folder"):
        mine([root, tmp_path / "nothing"])
    with pytest.raises(NotADirectoryError, match=r"a\.py is not a folder"):
        mine([root / "a.py"])
    with pytest.raises(ValueError, match="no repository is named 'shup', so it cannot be excluded; there are shop"):
        mine([root], exclude=["shup"])
    with pytest.raises(TypeError, match=r"languages must be a list, got the string 'go'"):
        mine([root], languages="go")
    monkeypatch.setattr("sys.meta_path", [])  # nothing more can be imported
    monkeypatch.delitem(sys.modules, "datasketch", raising=False)
    with pytest.raises(ImportError, match=r"mining needs datasketch: pip install .*\[train\]"):
        mine([root], on_progress=lambda stage, done, total: pytest.fail("mined without datasketch"))


def test_unknown_languages_and_empty_folders(tmp_path: Path) -> None:
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


APACHE = "Apache License\n   Version 2.0, January 2004"
GPL = "GNU GENERAL PUBLIC LICENSE Version 3"


@pytest.mark.parametrize(
    ("files", "spdx"),
    [
        ({"MIT-LICENSE": MIT}, "MIT"),
        ({"COPYING.md": GPL}, "GPL-3.0"),
        ({"LICENCE.txt": MIT}, "MIT"),
        ({"UNLICENSE": "This is free and unencumbered software released into the public domain."}, "Unlicense"),
        ({"LICENSE-APACHE": APACHE, "LICENSE-MIT": MIT, "COPYRIGHT": "See the others."}, "Apache-2.0 OR MIT"),
        ({"LICENSE": GPL, "LICENSE-MIT": MIT}, "GPL-3.0"),
        ({"COPYING": GPL, "COPYING.LESSER": "GNU LESSER GENERAL PUBLIC LICENSE Version 3"}, "LGPL-3.0"),
        ({"LICENSE": MIT, "LICENSE.LGPL": "GNU LESSER GENERAL PUBLIC LICENSE Version 3"}, "MIT"),
        ({"LICENSE": MIT, "THIRD-PARTY-LICENSES.txt": GPL, "NOTICE": APACHE}, "MIT"),
        ({"LICENSE": "SPDX-License-Identifier: ISC\n\nDo as you like."}, "ISC"),
        ({"license.py": MIT, "license.json": MIT}, ""),
        ({"choosing-a-license.md": "How to choose."}, ""),
        ({"LICENSE": "Ask us.", "package.json": '{"license": "(MIT OR Apache-2.0)"}'}, "MIT OR Apache-2.0"),
        ({"package.json": '{"licenses": [{"type": "MIT"}, {"type": "GPL-2.0-only"}]}'}, "MIT OR GPL-2.0-only"),
        ({"package.json": '{"license": "UNLICENSED"}'}, "LicenseRef-Proprietary"),
        ({"package.json": "{", "composer.json": '{"license": "BSD-3-Clause"}'}, "BSD-3-Clause"),
        ({"package.json": "[]"}, ""),
        ({"pyproject.toml": '[project]\nlicense = "MIT-0"'}, "MIT-0"),
        ({"pyproject.toml": '[project]\nlicense = {text = "Apache License 2.0"}'}, "Apache-2.0"),
        ({"pyproject.toml": '[project]\nclassifiers = ["License :: OSI Approved :: MIT License"]'}, "MIT"),
        ({"pyproject.toml": '[tool.poetry]\nlicense = "BSD"'}, "BSD"),
        ({"Cargo.toml": '[package]\nlicense = "MIT/Apache-2.0"'}, "MIT OR Apache-2.0"),
        ({"Cargo.toml": "[package]\nlicense.workspace = true"}, ""),
        ({"LICENSE-MIT": MIT, "LICENSE-GPL": GPL, "Cargo.toml": '[package]\nlicense = "MIT AND GPL-3.0"'},
         "MIT AND GPL-3.0"),
    ],
)  # fmt: skip
def test_licences_of_folders(tmp_path: Path, files: dict[str, str], spdx: str) -> None:
    assert license_of_folder(_write(tmp_path, files)) == spdx


def test_licences_in_headers() -> None:
    assert license_of_header("// SPDX-License-Identifier: MIT OR Apache-2.0\n") == "MIT OR Apache-2.0"
    assert license_of_header("/*\n * Licensed under the Apache License, Version 2.0 (the License)\n */") == "Apache-2.0"
    assert license_of_header("# This program is under the GNU General Public License, version 2.") == "GPL-2.0"
    gpl = "# the GNU General Public License as published by\n# the Free Software Foundation; either version 3 of it"
    assert license_of_header(gpl) == "GPL-3.0"
    assert license_of_header("x = 1") == ""


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


# --- command ---------------------------------------------------------------------------------------------------------


def test_mine_on_the_command_line(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs.jsonl.gz"
    assert main(["mine", str(repository), f"file://{repository}", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pairs"], report["language"], report["repository"]) == (1, {"java": 1}, {"shop": 1})
    assert report["dropped"] == {"same code as another": 1}
    assert [pair.query for pair in read_pairs(out)] == ["Adds value added tax to a price."]
    assert main(["mine", str(repository), "--out", str(out)]) == 0
    assert "1 java" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing", "--out", "p.jsonl"], "missing does not exist"),
        (["file:///nowhere", "missing", "--out", "p.jsonl"], "missing does not exist"),
        (["shop", "--out", "p.jsonl", "--exclude", "org/name"], "no repository is named 'org/name'"),
        (["empty", "--out", "p.jsonl"], "no pair in empty: 0 files read"),
        (["shop", "--out", "p.jsonl", "--language", "php"], "no pair in shop"),
        (["shop", "--out", "p.jsonl", "--permissive-only"], "licence not permissive"),
        (["shop", "--out", "p.csv"], "must end in .jsonl"),
        (["shop", "--out", "no/p.jsonl"], "there is no folder no"),
        (["shop", "--out", "folder.jsonl"], "--out is folder.jsonl, which is a folder; name a file"),
    ],
)
@pytest.mark.usefixtures("repository")
def test_mine_writes_no_file_after_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.jsonl").mkdir()
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
    assert few.dropped["beyond 3 per repository"] == 2
    ordered = sorted(
        (pair for pair in every.pairs if pair.repository == "one"),
        key=lambda pair: hashlib.sha256(pair.code.encode()).digest(),
    )
    assert {pair.code for pair in few.pairs if pair.repository == "one"} == {pair.code for pair in ordered[:3]}
    with pytest.raises(ValueError, match="max_per_repository must be at least 1, got 0"):
        mine(roots, max_per_repository=0)
