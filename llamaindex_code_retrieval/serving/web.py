"""The web page and its JSON API as an ASGI application; docs/serve.md describes both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from llamaindex_code_retrieval._io import clean_text
from llamaindex_code_retrieval.serving.answers import Answers
from llamaindex_code_retrieval.serving.api import HANDLED, Api, failed, read_body, status_of
from llamaindex_code_retrieval.serving.arguments import Arguments, Search
from llamaindex_code_retrieval.serving.guard import Access, Guard
from llamaindex_code_retrieval.serving.page import (
    Served,
    answer_page,
    code_page,
    error_page,
    hits_page,
    start_page,
    window,
)
from llamaindex_code_retrieval.serving.service import CodeService
from llamaindex_code_retrieval.serving.streams import AnswerStreams

_HITS = 20
_STATIC = Path(__file__).with_name("static")
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")


def create_app(
    service: CodeService, answers: Answers, access: Access, *, streams: AnswerStreams | None = None
) -> ASGIApp:
    """Return the application that serves the page and the API to those whom ``access`` admits."""
    streams = streams or AnswerStreams()
    api, page = Api(service, answers, streams), _Pages(service, answers, streams)
    handlers: dict[Any, Any] = dict.fromkeys((*HANDLED, Exception), page.failed)
    app = Starlette(
        routes=[
            Route("/", page.start),
            Route("/answer", page.answer, methods=["POST"]),
            Route("/code", page.code),
            Route("/api/search", api.search),
            Route("/api/ask", api.ask, methods=["POST"]),
            Route("/api/read", api.read),
            Route("/api/related", api.related),
            Route("/api/outline", api.outline),
            Route("/api/status", api.status),
            Route("/health", api.health),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        exception_handlers=handlers,
    )
    return Guard(app, access)


class _Pages:
    """The page, and what its forms and links lead to in a browser that runs no scripts."""

    def __init__(self, service: CodeService, answers: Answers, streams: AnswerStreams) -> None:
        self._service = service
        self._answers = answers
        self._streams = streams

    def start(self, request: Request) -> Response:
        """Return the page; with a question, its hits."""
        if "question" not in request.query_params:
            return _html(start_page(self._served()))
        search = _search(request.query_params.multi_items())
        result = self._service.search(limit=_HITS, **search.options())
        return _html(hits_page(self._served(), search, result))

    async def answer(self, request: Request) -> Response:
        """Return the page with a finished answer."""
        form = (await read_body(request)).decode("utf-8", "replace")
        search = _search(parse_qsl(form, keep_blank_values=True))
        events = self._answers.ask(search.question, repository=search.repository, node_filter=search.node_filter())
        async with self._streams.reading(events) as steps:
            answered = [event async for event in steps]
        served = await to_thread.run_sync(self._served)
        return _html(answer_page(served, search, answered))

    def code(self, request: Request) -> Response:
        """Return the page with lines of a file."""
        arguments = Arguments.of_pairs(request.query_params.multi_items())
        path, repository = arguments.required("path"), arguments.text("repository")
        ranges = [(int(first), int(last)) for first, last in _RANGE.findall(arguments.text("lines") or "")]
        focus = arguments.number("focus") or (ranges[0][0] if ranges else 1)
        arguments.finish("path", "repository", "lines", "focus")
        text = self._service.read(path, *window(max(1, focus)), repository=repository)
        return _html(code_page(self._served(), text, ranges))

    def failed(self, request: Request, error: Exception) -> Response:
        """Return what went wrong: as JSON to the API, as a page to a browser."""
        if request.url.path.startswith(("/api/", "/health", "/static/")):
            return failed(request, error)
        status, message = status_of(error)
        return _html(error_page(message), status)

    def _served(self) -> Served:
        repositories = self._service.status()["repositories"]
        languages = sorted({language for each in repositories for language in each["languages"] if language})
        names = [each["name"] for each in repositories]
        files = sum(each["files"] for each in repositories)
        spec = self._answers.spec
        writer = "answers quote the code" if spec.kind == "extractive" else f"answers by {spec}"
        is_building = any(each["state"] == "building" for each in repositories)
        state = "being indexed" if is_building else "1 file" if files == 1 else f"{files:,} files"
        return Served(repositories=names, languages=languages, about=" · ".join([", ".join(names), state, writer]))


def _search(pairs: list[tuple[str, str]]) -> Search:
    """Return what the fields of the form say; globs are separated by commas or spaces."""
    arguments = Arguments.of_pairs(pairs)
    search = Search(
        question=arguments.question(),
        repository=arguments.text("repository"),
        paths=tuple((arguments.text("paths") or "").replace(",", " ").split()),
        languages=arguments.texts("languages"),
        kind=arguments.text("kind"),
        include_tests=arguments.text("tests") != "no",
    )
    arguments.finish("question", "repository", "paths", "languages", "kind", "tests")
    return search


def _html(page: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(clean_text(page), status)
