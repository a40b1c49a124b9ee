"""The import statements of a file that a text uses, in several languages."""

from __future__ import annotations

import pytest

from llamaindex_code_retrieval.chat.imports import used_imports


@pytest.mark.parametrize(
    ("language", "statements", "text", "used"),
    [
        ("python", "import os\nimport json as j\nimport a.b", "j.loads(a.b.c)", [2, 3]),
        ("python", "from a import b as c, d\nfrom e import f", "c(1)", [1]),
        ("python", "from a import (\n    b,\n    c,\n)\nimport d", "c(d)", [1, 3, 5]),
        ("python", "from a import b \\\n    , c", "c()", [1, 2]),
        ("python", "import os\nimport sys", "cost = 1", []),  # whole names only
        ("typescript", 'import { a, b } from "./b";\nimport type C from "c"', "new C(x)", [2]),
        ("javascript", "const { a } = require('b')\nconst c = 1", "a(c, b)", [1]),
        ("java", "import java.util.List;\nimport java.util.Map;", "List<String> a;", [1]),
        ("go", 'import (\n\t"fmt"\n\tlog "net/log"\n)\nimport "os"', "log.Print(os.Args)", [1, 3, 5]),
        ("rust", "use std::io::{self, Read};\nuse a::B;", "Read::read(x)", [1]),
        ("php", "use Psr\\Log\\LogLevel;\nuse A\\B;", "LogLevel::DEBUG", [1]),
        ("csharp", "using System.Text;", "Encoding.UTF8", []),  # the names of a namespace are not known
        ("cpp", "using std::string;\nusing number = int;", "string a; number b;", [1]),
        ("elixir", "alias Plug.Conn", "Conn.send(1)", [1]),
    ],
)
def test_used_imports(language: str, statements: str, text: str, used: list[int]) -> None:
    lines = dict(enumerate(statements.split("\n"), start=1))
    assert used_imports(lines, language, text) == used
