"""The page as HTML. Scripts make it live; without them its forms and links give the same results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from textwrap import dedent
from typing import Any
from urllib.parse import urlencode

from llamaindex_code_retrieval.languages.outline import KINDS
from llamaindex_code_retrieval.serving.answers import Event
from llamaindex_code_retrieval.serving.arguments import Search
from llamaindex_code_retrieval.serving.results import CodeHit, CodeText, SearchResult

_TEMPLATE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
_LINES = 8
"""Lines of code that a hit shows."""
_WINDOW = 1000
"""Lines that a page of code shows before and after the first marked one."""
_START = (
    '<div class="empty"><h2>Ask this code base</h2><p>Answers cite files and lines; click a citation to see the code.'
    "</p><p><kbd>/</kbd> to the question &nbsp; <kbd>Enter</kbd> to ask &nbsp; <kbd>↑</kbd> <kbd>↓</kbd> through hits "
    "&nbsp; <kbd>Esc</kbd> closes the code</p></div>"
)

Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the page tells of the server."""

    repositories: Sequence[str]
    languages: Sequence[str]
    about: str
    is_building: bool = False
    """Whether an index is being built."""


def start_page(served: Served) -> str:
    """Return the page before anything was asked."""
    return _page(served, results=_START)


def hits_page(served: Served, search: Search, result: SearchResult) -> str:
    """Return the page with the hits of a search."""
    count = "1 hit" if len(result.hits) == 1 else f"{len(result.hits) or 'No'} hits"
    items = "".join(_hit(hit, with_repository=len(served.repositories) > 1) for hit in result.hits)
    status = escape(" ".join([f"{count}.", *result.notes]))
    return _page(served, search, results=f'<ol class="hits" aria-label="Hits">{items}</ol>', status=status)


def answer_page(served: Served, search: Search, events: Sequence[Event]) -> str:
    """Return the page with a finished answer, for browsers that run no scripts."""
    text = "".join(event.data["text"] for event in events if event.name == "text")
    passages = [each for event in events if event.name == "passages" for each in event.data["passages"]]
    warnings = [each for event in events if event.name == "warnings" for each in event.data["warnings"]]
    sources = "".join(f"<li>{_source(each, search.repository)}</li>" for each in passages)
    results = (
        f'<article class="turn"><h2>{escape(search.question)}</h2><div class="body"><pre><code>{escape(text)}</code>'
        f'</pre></div><ul class="sources"><li><h3>Sources</h3></li>{sources}</ul>'
        + "".join(f'<p class="warning">Check this: {escape(each)}.</p>' for each in warnings)
        + "</article>"
    )
    return _page(served, search, results=results)


def code_page(served: Served, text: CodeText, ranges: Ranges) -> str:
    """Return the page with lines of a file, those in ``ranges`` marked."""
    rows = []
    for number, line in enumerate(text.text.split("\n"), start=text.first):
        marked = " marked" if any(first <= number <= last for first, last in ranges) else ""
        rows.append(f'<span class="line{marked}" id="L{number}" data-line="{number}">{escape(line)}\n</span>')
    code = (
        f"<header><h2><bdi>{escape(text.path)}</bdi></h2></header>"
        f'<div class="lines">{_more(text, before=True)}<pre><code>{"".join(rows)}</code></pre>'
        f"{_more(text, before=False)}</div>"
    )
    return _page(served, code=code, title=text.path)


def error_page(message: str) -> str:
    """Return the page with what went wrong."""
    return _page(Served(repositories=(), languages=(), about=""), error=message)


def window(focus: int) -> tuple[int, int]:
    """Return the first and the last line that a page of code shows around a line."""
    return max(1, focus - _WINDOW), focus + _WINDOW


def _page(
    served: Served,
    search: Search | None = None,
    *,
    results: str = "",
    status: str = "",
    code: str = "",
    title: str = "code search",
    error: str = "",
) -> str:
    filtered = search is not None and search != Search(question=search.question, repository=search.repository)
    return _TEMPLATE.substitute(
        title=escape(f"{title} · code-retrieval" if search is None else f"{search.question} · code-retrieval"),
        about=escape(served.about),
        building=" data-building" if served.is_building else "",
        question=escape("" if search is None else search.question),
        filters_open="open" if filtered else "",
        repositories=_repositories(served.repositories, search),
        paths=escape("" if search is None else ", ".join(search.paths)),
        languages=_options(served.languages, search.languages[0] if search and search.languages else None),
        kinds=_options(KINDS, None if search is None else search.kind),
        no_tests="" if search is None or search.include_tests else "checked",
        status=status or escape(error),
        status_class="status bad" if error else "status",
        results=results,
        code=code,
        code_hidden="" if code else "hidden",
        body_class="plain" if code else "",
    )


def _repositories(names: Sequence[str], search: Search | None) -> str:
    if len(names) < 2:
        return ""
    chosen = names[0] if search is None else search.repository
    options = _options(names, chosen) + _option("", "all, to search", is_chosen=chosen is None)
    return f'<label>Repository<select name="repository">{options}</select></label>'


def _options(values: Sequence[str], chosen: str | None) -> str:
    return "".join(_option(each, each, is_chosen=each == chosen) for each in values)


def _option(value: str, label: str, *, is_chosen: bool) -> str:
    return f'<option value="{escape(value)}"{" selected" if is_chosen else ""}>{escape(label)}</option>'


def _hit(hit: CodeHit, *, with_repository: bool) -> str:
    lines = dedent("\n".join(hit.text.split("\n")[:_LINES]))
    href = _href(hit.path, [(hit.first, hit.last)], hit.first, hit.repository)
    name = hit.scope or hit.path.rsplit("/", 1)[-1]
    repository = f'<span class="tag">{escape(hit.repository)}</span>' if with_repository else ""
    return (
        f'<li class="hit"><a href="{href}" data-code><span class="scope">{escape(name)}</span>'
        f'<span class="tag">{escape(hit.kind)}</span>{repository}'
        f'<span class="place">{escape(hit.path)}:{hit.first}-{hit.last}</span></a>'
        f"<pre><code>{escape(lines)}</code></pre></li>"
    )


def _source(passage: Mapping[str, Any], repository: str | None) -> str:
    ranges = [(first, last) for first, last in passage["lines"]]
    focus = passage["first"] or (ranges[0][0] if ranges else 1)
    href = _href(passage["path"], ranges, focus, repository)
    return (
        f'<a class="cite" href="{href}" data-code>{passage["number"]}</a> <a class="place" href="{href}" data-code>'
        f'{escape(passage["place"])}</a> <span class="scope">{escape(passage["scope"])}</span>'
    )


def _href(path: str, ranges: Ranges, focus: int, repository: str | None) -> str:
    query = {"path": path, "lines": ",".join(f"{first}-{last}" for first, last in ranges), "focus": str(focus)}
    if repository is not None:
        query["repository"] = repository
    return escape(f"/code?{urlencode(query, errors='replace')}#L{focus}")


def _more(text: CodeText, *, before: bool) -> str:
    """Return a link to the lines before or after those that are shown, if there are any."""
    at = text.first - 1 if before else text.last + 1
    if not 1 <= at <= text.total:
        return ""
    href = _href(text.path, (), at, text.repository)
    return f'<p><a class="more" href="{href}">Lines {"before" if before else "after"} {at}</a></p>'
