"""The JSON API: one method for each route, the stream of an answer, and the status code of each error."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import asdict
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llamaindex_code_retrieval.serving.answers import Answers, ConversationBusyError, Event
from llamaindex_code_retrieval.serving.arguments import SEARCH_NAMES, Arguments, Search
from llamaindex_code_retrieval.serving.results import SearchResult
from llamaindex_code_retrieval.serving.service import CodeService
from llamaindex_code_retrieval.serving.streams import AnswerStreams

MAX_BODY = 64 * 1024
"""Bytes of a request's body: more than the longest question takes."""
MAX_HITS = 50

_HITS = 8
_LONGEST_SECONDS = 600.0
"""Of a stream: a client that stops reading holds no place for longer."""
_NO_ROUTE = "there is no such page here; begin at /, the API is below /api/"
_STATUS: Mapping[type[Exception], int] = {ConversationBusyError: 409, TimeoutError: 503, ValueError: 400, OSError: 500}
HANDLED: tuple[type[Exception], ...] = (HTTPException, *_STATUS)
"""The errors that :func:`status_of` knows."""


class Json(Response):
    """A value as JSON in ASCII, so that lone surrogates of path names can be sent."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return _json(content)


class Api:
    """The routes of the API. Those that search or read run in threads."""

    def __init__(self, service: CodeService, answers: Answers, streams: AnswerStreams) -> None:
        self._service = service
        self._answers = answers
        self._streams = streams

    def search(self, request: Request) -> Response:
        """Return the hits for a question."""
        arguments = Arguments.of_pairs(request.query_params.multi_items())
        search, limit = Search.of(arguments), arguments.number("limit", most=MAX_HITS)
        arguments.finish(*SEARCH_NAMES, "limit")
        return _hits(self._service.search(limit=limit or _HITS, **search.options()))

    def read(self, request: Request) -> Response:
        """Return lines of a file."""
        arguments = Arguments.of_pairs(request.query_params.multi_items())
        path, repository = arguments.required("path"), arguments.text("repository")
        first, last = arguments.number("first"), arguments.number("last")
        arguments.finish("path", "repository", "first", "last")
        return Json(asdict(self._service.read(path, first, last, repository=repository)))

    def related(self, request: Request) -> Response:
        """Return what is related to a line of a file."""
        arguments = Arguments.of_pairs(request.query_params.multi_items())
        path, repository = arguments.required("path"), arguments.text("repository")
        line, limit = arguments.number("line"), arguments.number("limit", most=MAX_HITS)
        arguments.finish("path", "repository", "line", "limit")
        return _hits(self._service.related(path, line, limit=limit or _HITS, repository=repository))

    def outline(self, request: Request) -> Response:
        """Return the definitions of a file or a folder."""
        arguments = Arguments.of_pairs(request.query_params.multi_items())
        path, repository = arguments.text("path"), arguments.text("repository")
        arguments.finish("path", "repository")
        return Json(asdict(self._service.outline(path or "", repository=repository)))

    def status(self, request: Request) -> Response:
        """Return the state of the indexes."""
        return Json({**self._service.status(), "llm": str(self._answers.spec)})

    def health(self, request: Request) -> Response:
        """Return whether all repositories can be searched."""
        health = self._service.health()
        return Json(health, 200 if health["status"] == "ok" else 503)

    async def ask(self, request: Request) -> Response:
        """Return the events of an answer as a stream."""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":  # what a form of another site cannot send
            raise HTTPException(415, "send the question as JSON, with the header content-type: application/json")
        arguments = Arguments.of_json(await read_body(request))
        search, conversation = Search.of(arguments), arguments.text("conversation")
        arguments.finish(*SEARCH_NAMES, "conversation")
        events = self._answers.ask(
            search.question, conversation=conversation, repository=search.repository, node_filter=search.node_filter()
        )
        return _EventStream(events, self._streams)


class _EventStream(Response):
    """Sends the events of an answer as server-sent events, and stops the answer when the client leaves."""

    def __init__(self, events: Generator[Event, None, None], streams: AnswerStreams) -> None:
        super().__init__(media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; errors before the first event are raised, later ones are events."""
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            group.cancel_scope.deadline = anyio.current_time() + _LONGEST_SECONDS
            group.start_soon(_cancel_when_left, receive, group.cancel_scope)
            try:
                await self._send(send)
            except Exception as error:  # raised below: a group would wrap it
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _send(self, send: Send) -> None:
        is_started = False
        try:
            async with self._streams.reading(self._events) as events:
                async for event in events:
                    if not is_started:
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                        is_started = True
                    await send(_body(event.name, event.data))
        except Exception as error:
            if not is_started:
                raise
            await send(_body("error", {"error": status_of(error)[1]}))
            if not isinstance(error, HANDLED):
                raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _cancel_when_left(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    scope.cancel()


async def read_body(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: it is too large.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"a request has at most {MAX_BODY // 1024} KiB; shorten the question")
    return bytes(body)


def status_of(error: Exception) -> tuple[int, str]:
    """Return the status code of an error and what to tell the client."""
    if isinstance(error, HTTPException):
        return error.status_code, _NO_ROUTE if error.status_code == 404 else error.detail
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return status, str(error)
    return 500, "internal error; the server's log says more"


def failed(request: Request, error: Exception) -> Response:
    """Return the answer to a request that failed."""
    status, message = status_of(error)
    headers = dict(getattr(error, "headers", None) or {}) | ({"retry-after": "5"} if status == 503 else {})
    return Json({"error": message}, status, headers)


def _hits(result: SearchResult) -> Response:
    return Json({"hits": [asdict(hit) for hit in result.hits], "notes": result.notes})


def _body(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    event = b"event: %s\ndata: %s\n\n" % (name.encode(), _json(data))
    return {"type": "http.response.body", "body": event, "more_body": True}


def _json(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
