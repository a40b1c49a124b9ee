"""Benchmarks made of the documented functions in source code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import takewhile

from llamaindex_code_retrieval.eval.datasets.benchmark import Benchmark
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.languages.table import language_of


def documented_functions(
    files: Iterable[tuple[str, str]], *, min_query_words: int = 3, name: str = "documented-functions"
) -> Benchmark:
    """Make a benchmark of ``(path, source)`` pairs: each docstring is a query for the function that it documents.

    The construction follows CodeSearchNet (Husain et al. 2019, arXiv:1909.09436): the query is the first paragraph of
    the docstring, and the code is the function or method without its docstring. The corpus holds every documented
    function; of equal codes, and of several functions that start on one line, only the first. A function has no query
    if its description has fewer than ``min_query_words`` words or is shared with another function, because it then has
    no single right answer. Unlike in CodeSearchNet, short functions, tests and constructors are kept. Files in unknown
    languages are skipped. The ids of codes and queries are ``path:start_line``.

    Raises:
        ValueError: ``min_query_words`` is under 1, a path is given twice, or there is no documented function with a
            query.
    """
    if min_query_words < 1:
        raise ValueError(f"min_query_words must be at least 1, got {min_query_words}")
    corpus: dict[str, str] = {}
    languages: dict[str, str] = {}
    descriptions: dict[str, str] = {}
    codes_seen: set[str] = set()
    paths: set[str] = set()
    for path, source in files:
        if path in paths:
            raise ValueError(f"{path} is given twice, but ids are made of paths; give each file once")
        paths.add(path)
        language = language_of(path)
        if language is None:
            continue
        for definition in definitions(source, language):
            id_ = f"{path}:{definition.start_line}"
            code = definition.code_without_docstring.strip()
            query = _first_paragraph(definition.docstring or "")
            if definition.kind not in ("function", "method") or not query or code in codes_seen or id_ in corpus:
                continue
            codes_seen.add(code)
            corpus[id_] = code
            languages[id_] = language
            descriptions[id_] = query
    occurrences = Counter(descriptions.values())
    queries = {
        id_: query
        for id_, query in descriptions.items()
        if len(query.split()) >= min_query_words and occurrences[query] == 1
    }
    return Benchmark(
        name=name,
        corpus=corpus,
        queries=queries,
        qrels={id_: {id_: 1} for id_ in queries},
        languages=languages,
    )


def _first_paragraph(docstring: str) -> str:
    """Return the lines before the first blank one as one line.

    >>> _first_paragraph("Read a file,\\n  whole.\\n\\nArgs: path")
    'Read a file, whole.'
    """
    lines = (line.split() for line in docstring.strip().splitlines())
    return " ".join(word for words in takewhile(bool, lines) for word in words)
