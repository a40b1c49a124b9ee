from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaindex_code_retrieval.index.filters import Condition, NodeFilter, SqlFunction, parse_since
from llamaindex_code_retrieval.index.ignore import Globs
from llamaindex_code_retrieval.languages.testing import is_test_path

_SECOND = 1_000_000_000
FILES: list[tuple[str, int | None, str]] = [  # path, time of its change in seconds, language
    ("src/cart.py", 100, "python"),
    ("src/cart/Cart.java", 200, "java"),
    ("src/cart/CartTest.java", 300, "java"),
    ("tests/data/prices.sql", None, "sql"),
    ("docs/guide.md", 400, "markdown"),
    ("src/x';--.go", 500, "go"),
    ("notes", 600, ""),
    ("old/caf\udce9.py", None, "python"),  # a name that is not UTF-8
]


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    """A node of each kind "class" and "function" in each file; the ids are ``path:kind``."""
    connection = sqlite3.connect(":memory:")
    connection.text_factory = lambda text: text.decode("utf-8", "surrogatepass")
    connection.executescript(
        "CREATE TABLE files(number INTEGER PRIMARY KEY, path TEXT, mtime INTEGER, language TEXT);"
        "CREATE TABLE nodes(number INTEGER PRIMARY KEY, id TEXT, file INTEGER, language TEXT, kind TEXT);"
    )
    for path, seconds, language in FILES:
        mtime = None if seconds is None else seconds * _SECOND
        raw = path.encode("utf-8", "surrogatepass")
        query = "INSERT INTO files(path, mtime, language) VALUES(CAST(? AS TEXT), ?, ?)"
        row = connection.execute(query, (raw, mtime, language))
        for kind in ("class", "function"):
            query = "INSERT INTO nodes(id, file, language, kind) VALUES(CAST(? AS TEXT), ?, ?, ?)"
            connection.execute(query, (raw + f":{kind}".encode(), row.lastrowid, language, kind))
    yield connection
    connection.close()


def ids(connection: sqlite3.Connection, where: Condition) -> list[str]:
    with where.registered(connection):
        return [
            id_
            for (id_,) in connection.execute(
                f"SELECT n.id FROM nodes n WHERE {where.sql} ORDER BY n.number", where.parameters
            )
        ]


def paths(connection: sqlite3.Connection, **options: Any) -> list[str]:
    """Return the files whose classes the filter selects."""
    found = ids(connection, NodeFilter(**options).where())
    return [id_.removesuffix(":class") for id_ in found if id_.endswith(":class")]


def since(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [path for path, _, _ in FILES]),
        ({"paths": ["src/**"]}, ["src/cart.py", "src/cart/Cart.java", "src/cart/CartTest.java", "src/x';--.go"]),
        ({"paths": ["cart"]}, ["src/cart/Cart.java", "src/cart/CartTest.java"]),
        ({"paths": ["*.py", "docs/"]}, ["src/cart.py", "docs/guide.md", "old/caf\udce9.py"]),
        ({"paths": ["old/*"], "tests": False}, ["old/caf\udce9.py"]),
        ({"paths": ["caf\udce9*"], "doc_ids": ["old/caf\udce9.py"]}, ["old/caf\udce9.py"]),
        ({"paths": ["/src/**"], "not_paths": ["*.java", "*.go"]}, ["src/cart.py"]),
        ({"not_paths": ["src"]}, ["tests/data/prices.sql", "docs/guide.md", "notes", "old/caf\udce9.py"]),
        ({"paths": ["x';--.go"]}, ["src/x';--.go"]),
        ({"languages": ["java", "go"]}, ["src/cart/Cart.java", "src/cart/CartTest.java", "src/x';--.go"]),
        ({"languages": ["", "sql"]}, ["tests/data/prices.sql", "notes"]),
        ({"languages": ["java') OR (1=1"]}, []),
        ({"tests": True}, ["src/cart/CartTest.java", "tests/data/prices.sql"]),
        ({"tests": False, "languages": ["java"]}, ["src/cart/Cart.java"]),
        ({"modified_since": since(400)}, ["docs/guide.md", "src/x';--.go", "notes"]),
        ({"modified_since": since(600).astimezone(timezone(timedelta(hours=3)))}, ["notes"]),
        ({"node_ids": ["notes:class", "src/x';--.go:class", "no"]}, ["src/x';--.go", "notes"]),
        ({"node_ids": []}, []),
        ({"doc_ids": ["notes", "docs/guide.md"], "tests": False}, ["docs/guide.md", "notes"]),
        (
            {"condition": Condition("n.number > ? OR n.number = ?", (14, 1)), "tests": False},
            ["src/cart.py", "old/caf\udce9.py"],
        ),
    ],
)
def test_a_filter_selects_what_all_its_parts_select(
    database: sqlite3.Connection, options: dict[str, Any], expected: list[str]
) -> None:
    assert paths(database, **options) == expected


def test_kinds(database: sqlite3.Connection) -> None:
    where = NodeFilter(kinds=["function"], doc_ids=["notes"]).where()  # type: ignore[arg-type]
    assert ids(database, where) == ["notes:function"]


def test_equal_filters_are_one_key_of_a_cache() -> None:
    first = NodeFilter(paths=["src/**"], tests=False, kinds=("class", "class"))  # type: ignore[arg-type]
    second = NodeFilter(paths=("src/**",), tests=False, kinds=("class",))
    assert {first: 1}[second] == 1
    assert {first.where(): 1}[second.where()] == 1
    assert first != NodeFilter(paths=("src/**",), tests=True, kinds=("class",))


def test_a_filter_without_settings_is_empty() -> None:
    assert NodeFilter().is_empty
    assert NodeFilter().where() == Condition()
    assert not NodeFilter(tests=False).is_empty
    assert not NodeFilter(node_ids=()).is_empty


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"kinds": ["klass"]}, ValueError, "unknown kind 'klass'; known are function, method, class, module"),
        ({"kinds": []}, ValueError, "kinds is empty, so that nothing could be found"),
        ({"languages": []}, ValueError, "languages is empty"),
        ({"languages": "go"}, TypeError, r"languages must be a list, got the string 'go'; write \['go'\]"),
        ({"paths": ["src", ""]}, ValueError, "paths: the glob '' matches nothing"),
        ({"not_paths": ["!src"]}, ValueError, "not_paths: the glob '!src' begins with '!'"),
        ({"modified_since": datetime(2026, 11, 1)}, ValueError, "needs a time zone, got 2026-11-01T00:00:00"),
    ],
)
def test_wrong_values(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        NodeFilter(**options)


def test_a_language_is_known_to_the_table_or_to_the_index() -> None:
    NodeFilter(languages=("go", "", "cobol")).check_languages(["cobol"])
    with pytest.raises(ValueError, match=r"unknown language 'cobol'; the index has go, python; known are python, java"):
        NodeFilter(languages=("go", "cobol")).check_languages(["python", "go"])


def test_the_error_of_a_function_is_raised(database: sqlite3.Connection) -> None:
    def fail(kind: str) -> bool:
        raise TypeError(f"{kind} cannot be compared")

    where = Condition("fail(n.kind)", (), frozenset([SqlFunction("fail", 1, fail)]))
    with pytest.raises(TypeError, match="class cannot be compared"):
        ids(database, where)
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        ids(database, Condition("n.missing"))


# --- globs: one expression for a whole path -----------------------------------------------------------------------

GLOBS = st.lists(st.sampled_from(["a", "b", "*", "**", "a*", "?", "[ab]"]), min_size=1, max_size=3).map("/".join)
PATHS = st.lists(st.sampled_from(["a", "b", "ab", "c", "é"]), min_size=1, max_size=4).map("/".join)


@given(
    globs=st.lists(st.builds("{}{}{}".format, st.sampled_from(["", "/"]), GLOBS, st.sampled_from(["", "/"]))),
    path=PATHS,
)
def test_a_glob_matches_a_file_or_a_folder_above_it(globs: list[str], path: str) -> None:
    parsed = Globs.parse(globs)
    parts = path.encode().split(b"/")
    above = [b"/".join(parts[:end]) for end in range(1, len(parts))]
    expected = any(
        pattern.matches(path.encode(), is_folder=False) or any(pattern.matches(each, is_folder=True) for each in above)
        for pattern in parsed.patterns
    )
    assert parsed.matches(path) == expected


# --- tests by path ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    "test/a.c src/tests/data.json pkg/testdata/x.go core/testFixtures/A.java pkg/testutil/a.go "
    "js/__tests__/a.js spec/models/user.rb Foo.Tests/Bar.cs "
    "Tests/CartTests/Cart.swift app/src/androidTest/java/A.java integration-tests/a.py test_cart.py cart_test.py "
    "conftest.py tests.py cart_test.go CartTest.java CartTests.cs CartTestCase.java CartIT.java TestCart.java "
    "CartSpec.scala CartSuite.scala CartSpec.groovy CartSpec.hs CartTest.php cart.test.ts cart.spec.tsx cart-test.js "
    "cart.cy.js cart_spec.rb cart_test.rb test_cart.rb cart_test.cc cart_unittest.cc CartTest.cpp test_cart.c tests.rs "
    "cart_test.dart cart_test.exs cart_spec.lua cart.t cart.bats test-cart.R runtests.jl cart_test.zig test_cart.ml "
    "Cart.Tests.ps1 Cart.t.sol CartTests.swift CartTest.kt CartTests.m cart.phpt main.tftest.hcl".split(),
)
def test_tests_are_recognised_by_their_path(path: str) -> None:
    assert is_test_path(path)


@pytest.mark.parametrize(
    "path",
    "src/cart.py latest.go contest.py src/attest/a.go Latest.java testimonials.js docs/test-plan.md openapi-spec.yaml "
    "audit.cs protest/a.py Testament.java Circuit.java EDIT.sql spec.md inspect.rb greatest.rs manifest.json "
    "Spec.java Suite.scala src/test_dashboard.json".split(),
)
def test_other_files_are_no_tests(path: str) -> None:
    assert not is_test_path(path)


# --- times --------------------------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3d", NOW - timedelta(days=3)),
        ("12h", NOW - timedelta(hours=12)),
        (" 90 m ", NOW - timedelta(minutes=90)),
        ("2w", NOW - timedelta(days=14)),
        ("2026-11-01", datetime(2026, 11, 1).astimezone()),
        ("2026-11-01T12:30", datetime(2026, 11, 1, 12, 30).astimezone()),
        ("2026-11-01T12:30:00+02:00", datetime(2026, 11, 1, 10, 30, tzinfo=UTC)),
        ("2026-11-01T12:30:00Z", datetime(2026, 11, 1, 12, 30, tzinfo=UTC)),
    ],
)
def test_times(text: str, expected: datetime) -> None:
    time = parse_since(text, now=NOW)
    assert time == expected
    assert time.utcoffset() is not None


@pytest.mark.parametrize("text", ["", "yesterday", "3", "3y", "-3d", "2026-13-01", "99999999999d", "1e3d"])
def test_texts_that_are_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"or an age in m, h, d or w, as in 2026-11-01, 2026-11-01T12:00 or 3d, got"):
        parse_since(text)
