from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaindex_code_retrieval.languages.table import LANGUAGES
from llamaindex_code_retrieval.ranking.identifiers import Identifier
from llamaindex_code_retrieval.ranking.places import Place
from llamaindex_code_retrieval.ranking.question import Question


def certain(text: str) -> list[str]:
    return [name.text for name in Question.of(text).identifiers if name.is_certain]


def weak(text: str) -> list[str]:
    return [name.text for name in Question.of(text).identifiers if not name.is_certain]


def frames(text: str) -> list[tuple[str, int | None, str | None]]:
    """Return the path, line and qualified function of each place."""
    return [
        (place.path, place.line, ".".join((*place.function.scope, place.function.name)) if place.function else None)
        for place in Question.of(text).places
    ]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("Session.send", "identifier"),
        ("HTTPAdapter", "identifier"),
        ("send_receipt", "identifier"),
        ("mount", "identifier"),
        ("g", "identifier"),
        ("Session send", "identifier"),
        ("`render_template`", "identifier"),
        ("HTTPAdapter.send()", "identifier"),
        ("class Session", "identifier"),
        ("where is HTTPAdapter defined?", "identifier"),
        ("render_template Flask Blueprint", "identifier"),
        ("mail.py", "path"),
        ("src/core/", "path"),
        ("src\\a.py", "path"),
        ("app.py:120", "path"),
        ("b.py line 12", "path"),
        ("where is mail.py?", "path"),
        ("lib/plug/conn", "path"),
        ("how are routes registered", "sentence"),
        ("Error handling", "sentence"),
        ("session management", "sentence"),
        ("JSON response helpers", "sentence"),
        ("IDNA internationalized domain name encoding", "sentence"),
        ("what is session", "sentence"),
        ("application/json", "sentence"),
        ("what calls Session.send in app.py", "sentence"),
        ("Rust code", "sentence"),
        ("Hello there (really).\nSecond line; it ends.", "sentence"),
        ("Session.send in sessions.py", "identifier"),
        ("what in sessions.py", "sentence"),
        ("client/server architecture", "sentence"),
        ("TCP/IP", "sentence"),
        ("2024/01/02", "sentence"),
        ("def mount", "identifier"),
        ("def f(x):\n    return x + 1", "code"),
        ("for (int i = 0; i < n; i++) {\n  sum += a[i];\n}", "code"),
        ("const x = await fetch(url);", "code"),
        ("what is this?\n```python\nx = 1\nprint(x + 100)\n```", "code"),
        ("src/fmt/format.h:120:5: error: expected ';' before '}' token", "trace"),
        ("", "sentence"),
        ("?", "sentence"),
    ],
)
def test_shape(text: str, shape: str) -> None:
    assert Question.of(text).shape == shape


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("how toJson and andAccumulating work", ["toJson", "andAccumulating"]),
        ("how HttpClient, AFError and HTTPAdapter work", ["HttpClient", "AFError", "HTTPAdapter"]),
        ("how bats_pipe chains commands in the BATS_LIB_PATH", ["bats_pipe", "BATS_LIB_PATH"]),
        ("what does __init__ do with _private", ["__init__", "_private"]),
        ("how res.send, fmt::print, a->next and Rack#call work", ["res.send", "fmt::print", "a->next", "Rack#call"]),
        ("where does App\\Models\\User live", ["App\\Models\\User"]),
        ("how is use() mounted, and call/2, and get(x)", ["use", "call", "get"]),
        ("how does `mount` work, and `zig-clap`, and `valid?`", ["mount", "zig-clap", "valid?"]),
        ("what is $foo and @app.route for", ["foo", "app.route"]),
        ("how is Option<String> used", ["Option"]),
        ("wie wird die größe_der_datei berechnet", ["größe_der_datei"]),
        ("`读取配置` 在哪里", ["读取配置"]),
        ("如何使用render_template函数读取配置", ["render_template"]),
        ("the HTTPAdapter's send", ["HTTPAdapter"]),
    ],
)
def test_names_that_are_written_like_code(text: str, names: list[str]) -> None:
    assert certain(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "one thing, e.g. this, i.e. that, etc. and so on",
        "read and/or write, client/server, long/short option, multipart/form-data",
        "a Node.js server with socket.io, see lazy.nvim",
        "version 1.2.3, v1.2.3 and python3.11 on x86_64, in utf-8",
        "https://example.com/FooBar/foo_bar and www.foo_bar.com and foo_bar@example.com",
        "git@example.com:owner/my.git",
        "server-sent events and type-erased routes",
        "some argument(s) and O(n) class(es)",
        "an _emphasised_ word",
        "they don't, it isn't, the users' data",
        "if (so) and for(ever)",
        "it returns None or True, I see",
    ],
)
def test_prose_has_no_identifiers(text: str) -> None:
    assert Question.of(text).identifiers == ()


def test_capitalised_words_and_acronyms_are_uncertain() -> None:
    assert weak("How does Flask encode JSON? The Session stores it, says GitHub.") == [
        "Flask",
        "JSON",
        "Session",
        "GitHub",
    ]
    assert weak("the \"session\" of 'users'") == ["session", "users"]
    assert weak("how Router differs from the Router") == ["Router"]
    assert certain("how does Flask encode JSON with Http and HTTP") == []


def test_capitals_mean_nothing_in_titles_and_in_german() -> None:
    assert weak("How Are Routes Registered In Flask") == []
    assert weak("HOW ARE ROUTES REGISTERED") == []
    assert weak("Wie werden Anfragen an die Datenbank von der Klasse gestellt") == []


def test_languages_are_no_identifiers() -> None:
    assert weak("an adapter written in Rust for Scala") == []


def test_a_name_is_divided_into_its_scope_and_itself() -> None:
    assert Question.of("http::Session.send").identifiers == (
        Identifier(name="send", scope=("http", "Session"), text="http::Session.send", is_certain=True),
    )
    assert Question.of("Session send").identifiers == (
        Identifier(name="send", scope=("Session",), text="Session send", is_certain=False),
    )
    assert Question.of("where is mount_app defined").identifiers[0].name == "mount_app"


def test_identifiers_are_limited_and_each_is_named_once() -> None:
    assert certain("send_it and send_it with `send_it`") == ["send_it"]
    assert len(certain(" ".join(f"name_{number}" for number in range(500)))) == 64


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("app.py:120", Place(path="app.py", line=120)),
        ("look at src/a/b.py, please", Place(path="src/a/b.py")),
        ("look at src\\a.py:3.", Place(path="src/a.py", line=3)),
        ("c:\\\\work\\\\ab.csv", Place(path="c:/work/ab.csv")),
        ("in C:\\work\\a.py:3", Place(path="C:/work/a.py", line=3)),
        ("error in b.py line 12", Place(path="b.py", line=12)),
        ("error in b.py, lines 12-20", Place(path="b.py", line=12, end_line=20)),
        ("what is on line 7 of `b.py`?", Place(path="b.py", line=7)),
        ("b.py#L12", Place(path="b.py", line=12)),
        ("b.py#L12-L20", Place(path="b.py", line=12, end_line=20)),
        ("run.sh: line 12: foo: command not found", Place(path="run.sh", line=12)),
        ("see (b.js:10:5)", Place(path="b.js", line=10)),
        ("b.py:20-10", Place(path="b.py", line=20)),
        ("https://github.com/o/r/blob/main/src/a.py#L12-L14", Place(path="src/a.py", line=12, end_line=14)),
        ("the file ./lib/x.rb", Place(path="lib/x.rb")),
        ("what is in packages/server/src", Place(path="packages/server/src")),
        ("the Makefile and its targets", Place(path="Makefile")),
        ("what does package.json do", Place(path="package.json")),
        ("is .gitignore read", Place(path=".gitignore")),
        ("pages/[id].tsx has no title", Place(path="pages/[id].tsx")),
        ("größe/datei.py", Place(path="größe/datei.py")),
        ("the link [a](src/b.py) and so on", Place(path="src/b.py")),
        ("what is app/(auth)/[id].tsx", Place(path="app/(auth)/[id].tsx")),
        ("see README.md#install", Place(path="README.md")),
        ("what does the README say", Place(path="README")),
        ("tests/test_a.py::TestA::test_b[x]", Place(path="tests/test_a.py", function=Identifier.of("TestA::test_b"))),
        ("what is in foo.unknown:12", None),
        ("response.json, self.timer, res.text and Node.js", None),
        ("and/or, client/server, text/html, I/O, 1.2.3, e.g. a.m.", None),
        ("http://example.com/a.py and a@example.py", None),
        ("all *.py files, or .txt", None),
        ("struct a.b.c and x.h", None),
        ("GET /api/users", None),
        ("the BUILD of a TODO", None),
    ],
)
def test_places(text: str, place: Place | None) -> None:
    assert Question.of(text).places == ((place,) if place else ())


def test_paths_are_no_identifiers() -> None:
    assert Question.of("how does src/my_app/fooBar.py work, and foo_bar.py").identifiers == ()


PYTHON = """why does this fail?

Traceback (most recent call last):
  File "/srv/flask/app.py", line 1511, in wsgi_app
    response = self.full_dispatch(request)
               ^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "app.py", line 3, in <module>
    read(x)
requests.exceptions.Timeout: timed out
"""
JAVASCRIPT = """TypeError: Cannot read properties of undefined (reading 'x')
    at Response.send (/srv/lib/response.js:12:5)
    at async Promise.all (index 0)
    at new Foo (file:///srv/foo.mjs:3:1)
    at /srv/index.js:10:3
    at Layer.handle [as handle_request] (C:\\app\\layer.js:95:5)"""
JAVA = """Exception in thread "main" java.lang.RuntimeException: outer
\tat com.example.Main.main(Main.java:12)
Caused by: java.lang.NullPointerException: inner
\tat com.google.gson.Gson$1.lambda$read$0(Gson.java:99)
\tat java.base/java.util.ArrayList.get(ArrayList.java:5)
\t... 3 more"""
GO = """panic: runtime error: index out of range

goroutine 1 [running]:
main.(*Server).Serve(0xc000, 0x1)
\t/app/server.go:42 +0x1d
github.com/spf13/cobra.(*Command).Execute(...)
\t/pkg/cobra/command.go:1044
created by main.main in goroutine 1
\t/app/main.go:7 +0x65"""
RUST = """thread 'main' panicked at src/main.rs:12:5:
the len is 3
stack backtrace:
   0: core::panicking::panic_fmt
             at /rustc/abc/panicking.rs:72:14
   1: axum::routing::Router<S>::route::{{closure}}
             at ./src/routing/mod.rs:120:9
   2: <alloc::vec::Vec<T,A> as core::ops::Index<[T]>>::index
             at /x/vec.rs:1:1"""
RUBY = """lib/builder.rb:12:in `block in call': undefined method `foo' for nil (NoMethodError)
\tfrom lib/lint.rb:50:in 'Rack::Lint#run'
\tfrom app.rb:9:in '<main>'"""
CSHARP = """System.NullReferenceException: Object reference not set
   at Dapper.SqlMapper.<QueryAsync>d__33`1.MoveNext() in /src/SqlMapper.Async.cs:line 434
   at Program.Main(String[] args) in C:\\x\\Program.cs:line 5"""
PHP = """PHP Fatal error:  Uncaught InvalidArgumentException: bad in /x/y.php:12
Stack trace:
#0 /x/y.php(12): Monolog\\Logger->addRecord(100, 'a')
#1 /x/z.php(3): f()
#2 {main}"""
ELIXIR = """** (RuntimeError) boom
    (plug 1.14.0) lib/plug/conn.ex:12: Plug.Conn.send_resp/3
    lib/app.ex:5: anonymous fn/2 in App.call/2"""
LUA = """lua: x.lua:5: attempt to index nil
stack traceback:
\tlua/loader.lua:5: in function 'load'
\t[C]: in ?"""
GDB = "#0  0x0000 in uv_run (loop=0x1, mode=UV_RUN) at src/core.c:400\n#1  main () at a.c:3"
DART = "#0      List.[] (dart:core/list.dart:264:36)\n#1      Bloc.emit (package:bloc/src/bloc.dart:12:5)"
ZIG = "thread 1 panic: index out of bounds\n/x/clap.zig:12:5: 0x1038 in parse (main)"
PERL = "boom at a.pl line 1.\n\tmain::f(1) called at a.pl line 3\n\tmain::main() called at a.pl line 5\n"
RUSTC = "error[E0382]: borrow of moved value: `x`\n --> src/a.rs:4:5\n  |\n4 |     foo_bar(x);\n  |             ^\n"
GCC = "a.c: In function main:\na.c:1:37: error: y undeclared\n    1 | int main(void) { return y; }\n      |      ^\n"
JULIA = """ERROR: LoadError: boom
 [1] error(s::String)
   @ Base ./error.jl:35
 [2] train!(m::Chain) @ Flux ~/x/train.jl:12"""


@pytest.mark.parametrize(
    ("text", "expected", "error"),
    [
        (
            PYTHON,
            [("app.py", 3, None), ("/srv/flask/app.py", 1511, "wsgi_app")],
            "requests.exceptions.Timeout: timed out",
        ),
        (
            JAVASCRIPT,
            [
                ("/srv/lib/response.js", 12, "Response.send"),
                ("/srv/foo.mjs", 3, "Foo"),
                ("/srv/index.js", 10, None),
                ("C:/app/layer.js", 95, "Layer.handle"),
            ],
            "TypeError: Cannot read properties of undefined (reading 'x')",
        ),
        (
            JAVA,
            [
                ("Gson.java", 99, "com.google.gson.Gson.read"),
                ("ArrayList.java", 5, "java.util.ArrayList.get"),
                ("Main.java", 12, "com.example.Main.main"),
            ],
            "java.lang.NullPointerException: inner",
        ),
        (
            GO,
            [
                ("/app/server.go", 42, "main.Server.Serve"),
                ("/pkg/cobra/command.go", 1044, "cobra.Command.Execute"),
                ("/app/main.go", 7, "main.main"),
            ],
            "panic: runtime error: index out of range",
        ),
        (
            RUST,
            [
                ("src/main.rs", 12, None),
                ("/rustc/abc/panicking.rs", 72, "core.panicking.panic_fmt"),
                ("src/routing/mod.rs", 120, "axum.routing.Router.route"),
                ("/x/vec.rs", 1, "alloc.vec.Vec.index"),
            ],
            "the len is 3",
        ),
        (
            RUBY,
            [("lib/builder.rb", 12, "call"), ("lib/lint.rb", 50, "Rack.Lint.run"), ("app.rb", 9, None)],
            "undefined method `foo' for nil (NoMethodError)",
        ),
        (
            CSHARP,
            [("/src/SqlMapper.Async.cs", 434, "Dapper.SqlMapper.QueryAsync"), ("C:/x/Program.cs", 5, "Program.Main")],
            "System.NullReferenceException: Object reference not set",
        ),
        (
            PHP,
            [("/x/y.php", 12, "Monolog.Logger.addRecord"), ("/x/z.php", 3, "f")],
            "InvalidArgumentException: bad in /x/y.php:12",
        ),
        (
            ELIXIR,
            [("lib/plug/conn.ex", 12, "Plug.Conn.send_resp"), ("lib/app.ex", 5, "App.call")],
            "RuntimeError: boom",
        ),
        (LUA, [("lua/loader.lua", 5, "load"), ("x.lua", 5, None)], "attempt to index nil"),
        (GDB, [("src/core.c", 400, "uv_run"), ("a.c", 3, "main")], None),
        (DART, [("dart:core/list.dart", 264, "List"), ("bloc/src/bloc.dart", 12, "Bloc.emit")], None),
        (ZIG, [("/x/clap.zig", 12, "parse")], "panic: index out of bounds"),
        (JULIA, [("error.jl", 35, "error"), ("~/x/train.jl", 12, "train!")], "LoadError: boom"),
        (
            "send@http://localhost/a.js:12:3\n@b.js:1:1",
            [("http://localhost/a.js", 12, "send"), ("b.js", 1, None)],
            None,
        ),
        ("E   ValueError: bad\nsrc/x.py:12: ValueError", [("src/x.py", 12, None)], "ValueError: bad"),
        (PERL, [("a.pl", 3, "main.f"), ("a.pl", 5, "main.main"), ("a.pl", 1, None)], None),
        (RUSTC, [("src/a.rs", 4, None)], "error[E0382]: borrow of moved value: `x`"),
        (GCC, [("a.c", 1, None)], "error: y undeclared"),
        ("src/x.ts(12,5): error TS2304: no name", [("src/x.ts", 12, None)], "error TS2304: no name"),
    ],
    ids=(
        "python javascript java go rust ruby csharp php elixir lua gdb dart zig julia firefox pytest perl rustc gcc tsc"
    ).split(),
)
def test_frames_are_read_from_the_innermost(
    text: str, expected: list[tuple[str, int | None, str | None]], error: str | None
) -> None:
    question = Question.of(text)
    assert (question.shape, frames(text), question.error) == ("trace", expected, error)


def test_the_lines_of_frames_are_no_prose() -> None:
    assert certain(PYTHON) == ["requests.exceptions.Timeout"]
    assert certain(JAVA) == ["java.lang.RuntimeException", "java.lang.NullPointerException"]
    assert certain(RUBY) == ["NoMethodError"]
    assert certain(RUSTC) == ["x"]
    assert Question.of(GCC).code is None


def test_a_trace_between_fences_is_no_code() -> None:
    question = Question.of(f"why?\n```\n{JAVA}\n```\n")
    assert (question.shape, question.code, len(question.places)) == ("trace", None, 3)
    question = Question.of(f"why?\n```\n{JAVA}\n```\nof this\n```java\nint x = 1;\nfoo(x);\n```")
    assert question.code == "int x = 1;\nfoo(x);"


def test_an_error_without_frames_is_part_of_a_sentence() -> None:
    question = Question.of("I get TypeError: bad operand\nwhat does it mean?")
    assert (question.shape, question.error) == ("sentence", "TypeError: bad operand")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ('where does "could not connect to" appear', ("could not connect to",)),
        ("find 'not a valid choice' and `SELECT * FROM x`", ("not a valid choice", "SELECT * FROM x")),
        ("“Hallo Welt” und «a b»", ("Hallo Welt", "a b")),
        ("the users' data, the clients' keys, don't and isn't", ()),
        ('one "word" in `backticks`', ()),
        ('split "a,b" on `&` and "," with `=` from "the left"', ("the left",)),
        ('"twice as good" is "twice as good"', ("twice as good",)),
        ('an open " quote in a text', ()),
    ],
)
def test_texts_in_quotes(text: str, quoted: tuple[str, ...]) -> None:
    assert Question.of(text).quoted == quoted


@pytest.mark.parametrize(
    ("text", "languages"),
    [
        ("read a file in Python", ("python",)),
        ("C++ and C# and objective-c", ("cpp", "csharp", "objectivec")),
        ("C/C++ headers", ("c", "cpp")),
        ("TypeScript, JavaScript and Java", ("typescript", "javascript", "java")),
        ("how do I go to the next line in Go", ("go",)),
        ("the Go code and the golang client", ("go",)),
        ("a Rust struct, in R, in C and a swift file", ("rust", "r", "c", "swift")),
        ("which bash script runs, and what is in the SQL files", ("bash", "sql")),
        ("in the .ts files and in *.rb files", ("typescript", "ruby")),
        ("```js\nx()\n```", ("javascript",)),
        ("Go to the definition, let's go, in the go", ()),
        ("a swift reply, a rust removal, dart throwing, make it fast, Julia Roberts, in R & D", ()),
        ("java.util.List, python-requests, c-style, ruby.h", ()),
        ("SQL commands, JSON and HTML in the shell completion", ()),
        ("how are .yaml files read, and a bash script run", ()),
        ("option C and plan C, group R", ()),
    ],
)
def test_names_of_languages(text: str, languages: tuple[str, ...]) -> None:
    assert Question.of(text).languages == languages
    assert set(languages) <= set(LANGUAGES)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("what is this?\n```python\ndef f(x):\n    return x\n```\nthanks", "def f(x):\n    return x"),
        ("a\n```\nx = 1\n```\nb\n```\ny = 2\n```\nc", "x = 1\ny = 2"),
        ("not closed\n```\nx = 1", "x = 1"),
        ("how do I fix\nfoo = bar(1)\nbaz(foo)\n", "foo = bar(1)\nbaz(foo)"),
        ("import numpy as np\nimport os\n\nos.exit(1)\n", "import numpy as np\nimport os\n\nos.exit(1)"),
        ("how is importing done, with imports\nand why", None),
        ("I call foo(bar) and it returns None;\nwhy is that so?", None),
        ("python oracle truncate a table;", None),
        ("instance dictionary by dict or {}", None),
        ("print multiple arguments 'name' and 'score'.", None),
        ("public static final String foo = bar();", "public static final String foo = bar();"),
        ("", None),
    ],
)
def test_code_is_found(text: str, code: str | None) -> None:
    assert Question.of(text).code == code


def test_the_text_between_two_snippets_is_read() -> None:
    assert certain("```\nx = 1\n```\nand send_it\n```\ny = 2\n```") == ["send_it"]


def test_identifiers_of_code_are_certain() -> None:
    assert certain("```\nclient.send_all(Foo)\n```") == ["client.send_all"]


@given(st.text())
def test_any_text_is_read_in_the_same_way_twice(text: str) -> None:
    question = Question.of(text)
    assert question == Question.of(text)
    assert question.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "\x00",
        "\ud800 x_y",
        ".*[a-z]+(?P<x>",
        "how is the",
        "读取配置",
        "\n\t ",
        "`",
        "```",
        "/",
        "a/",
        "(" * 50,
    ],
)
def test_unusual_texts_are_read(text: str) -> None:
    assert Question.of(text).text == text


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    question = Question.of("send_it " + "x " * 500_000 + "app.py:3 in Python")
    assert (certain(question.text), question.places, question.languages) == (["send_it"], (), ())
