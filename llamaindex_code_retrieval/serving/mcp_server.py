"""A server of the Model Context Protocol with the tools of a :class:`.CodeService`, over stdio or streamable HTTP."""

from __future__ import annotations

import logging
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llamaindex_code_retrieval._io import clean_text
from llamaindex_code_retrieval._optional import installed_version
from llamaindex_code_retrieval.chat.passages import QUOTATION_RULE
from llamaindex_code_retrieval.serving.service import CodeService
from llamaindex_code_retrieval.serving.tools import TOOLS, run_tool

HTTP_PATH = "/mcp"
_SECONDS = 60.0
"""After which a call is given up; searches take milliseconds."""
_THREADS = 40
"""Calls at once; the service decides how many of them are computed."""
_BODY_BYTES = 1_000_000
_INSTRUCTIONS = """Search and read the code of {repositories}. Begin with search_code, which finds code by what it \
does; read more of a place with read_code; find callers and what a change affects with find_related; see what a file \
or folder defines with outline. Results are as fresh as the files. {rule}"""

logger = logging.getLogger(__name__)


def create_server(service: CodeService) -> Server[Any]:
    """Return a server of the tools; wrong arguments, and all else that fails, are results that say so."""
    threads = anyio.CapacityLimiter(_THREADS)
    names = [repository.name for repository in service.repositories]

    async def list_tools(context: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=_tools(names))

    async def call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        values = params.arguments or {}
        with anyio.move_on_after(_SECONDS):
            return await anyio.to_thread.run_sync(
                _call, service, params.name, values, limiter=threads, abandon_on_cancel=True
            )
        return _failed(f"{params.name} took more than {_SECONDS:g} s and was given up; ask for less")

    return Server(
        "code-retrieval",
        version=installed_version("llamaindex-code-retrieval"),
        title="Code retrieval",
        instructions=_INSTRUCTIONS.format(repositories=", ".join(names), rule=QUOTATION_RULE),
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def serve_stdio(server: Server[Any]) -> None:
    """Serve a client that writes to stdin, until it closes it. What else is written to stdout goes to stderr."""
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def http_app(server: Server[Any], service: CodeService) -> Starlette:
    """Return an application that serves any number of clients at ``/mcp``, and says at ``/health`` how it is.

    Each request stands for itself, so nothing is kept of a client that leaves. It checks neither who asks nor from
    which page: wrap it in a :class:`.Guard`.
    """

    async def health(request: Request) -> JSONResponse:
        state = await anyio.to_thread.run_sync(service.health)
        return JSONResponse(state, 200 if state["status"] == "ok" else 503)

    app = server.streamable_http_app(
        streamable_http_path=HTTP_PATH,
        json_response=True,
        stateless_http=True,
        max_request_body_size=_BODY_BYTES,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        custom_starlette_routes=[Route("/health", health)],
    )
    app.add_middleware(_OnlyPosts)
    return app


class _OnlyPosts:
    """Refuses the other methods of the protocol: they open, or end, a stream of messages that this server never sends.

    Clients take the status 405 for what it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"] == HTTP_PATH and scope["method"] != "POST":
            app = JSONResponse({"error": "send messages by POST"}, 405, {"allow": "POST"})
        await app(scope, receive, send)


def _tools(repositories: list[str]) -> list[Tool]:
    return [
        Tool(
            name=tool.name,
            title=tool.title,
            description=tool.description,
            input_schema=tool.schema(repositories),
            annotations=ToolAnnotations(
                title=tool.title,
                read_only_hint=True,
                destructive_hint=False,
                idempotent_hint=True,
                open_world_hint=False,
            ),
        )
        for tool in TOOLS
    ]


def _call(service: CodeService, name: str, values: dict[str, Any]) -> CallToolResult:
    try:
        text = run_tool(service, name, values)
    except (ValueError, OSError) as error:  # a TimeoutError is an OSError
        return _failed(str(error))
    except Exception as error:
        logger.exception("%s failed", name)
        return _failed(f"internal error: {type(error).__name__}: {error}; other calls go on")
    return CallToolResult(content=[TextContent(text=clean_text(text))])


def _failed(message: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=clean_text(f"error: {message}"))], is_error=True)
