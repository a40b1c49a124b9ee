"""Tell tests from other files by their path."""

from __future__ import annotations

import re
from functools import lru_cache

from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, language_of

_FOLDER = re.compile(
    r"(?i:(?:.*[._-])?tests?|testing|tst|specs?|__tests__|__mocks__|unittests?|fixtures|e2e"
    r"|test[._-]?(?:data|files|fixtures|helpers?|resources|utils?))"
    r"|.*[a-z\d]Tests?",  # FooTests/ of Swift, androidTest/ of Kotlin
    re.DOTALL,
)
_NAME = re.compile(
    r"(?:test_.*|conftest|tests?|runtests"  # test_x.py, test_x.c, tests.rs, runtests.jl
    r"|.*[._-](?:tests?|unittests?|specs?|e2e|cy)"  # x_test.go, x_spec.rb, x.test.ts, x.Tests.ps1, x.cy.js
    r"|.+(?:Tests?|TestCase|Spec|Suite)"  # XTest.java, XTests.cs, XSpec.scala, XSuite.scala
    r"|(?:Test[A-Z].*|.*[a-z\d]IT)(?=\.(?:java|kt|groovy)$)"  # TestX.java, XIT.java
    r"|test[._-].*(?=\.[rR]$))\.[^.]+"  # test-x.R
    r"|.*\.(?:t|bats|t\.sol|phpt|tftest\.hcl)",
    re.DOTALL,
)


def is_test_path(path: str) -> bool:
    """Return whether a file belongs to the tests, by its path with forward slashes.

    Those are all files in folders such as ``test``, ``tests``, ``__tests__``, ``spec``, ``testdata``, ``fixtures``,
    ``FooTests``, ``androidTest``, and source files that are named as the test runners of their language expect, such as
    ``test_x.py``, ``x_test.go``, ``XTest.java``, ``x.spec.ts``, ``x_spec.rb`` or ``x.t``.

    >>> [is_test_path(path) for path in ("src/x_test.go", "tests/data.json", "src/latest.go", "docs/test_plan.md")]
    [True, True, False, False]
    """
    *folders, name = path.split("/")
    if any(map(_is_test_folder, folders)):
        return True
    return _NAME.fullmatch(name) is not None and (name.endswith(".phpt") or language_of(name) in CODE_LANGUAGES)


@lru_cache(maxsize=10_000)
def _is_test_folder(name: str) -> bool:
    return _FOLDER.fullmatch(name) is not None
