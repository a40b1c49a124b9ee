"""``Guard``: refuse requests from other origins or without a token, before an application runs."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN_VARIABLE = "CODE_RETRIEVAL_TOKEN"
_LEAST_TOKEN = 16  # characters
_TOKEN = re.compile(r"[!-~]+")
_LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",  # with "no-referrer", browsers hide the origin of forms, which is checked
    "x-content-type-options": "nosniff",
}


def is_local(host: str) -> bool:
    """Return whether a server that listens on ``host`` is reached from this machine only.

    >>> is_local("127.0.0.1"), is_local("::1"), is_local("0.0.0.0"), is_local("localhost")
    (True, True, False, True)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(file: str | Path | None) -> str | None:
    """Return the token in a file, by default that in ``$CODE_RETRIEVAL_TOKEN``; ``None`` if there is neither.

    Raises:
        ValueError: it is too short, or has characters that a header cannot have.
        OSError: the file cannot be read.
    """
    if file is None:
        token, place = os.environ.get(TOKEN_VARIABLE, ""), f"${TOKEN_VARIABLE}"
        if not token:
            return None
    else:
        token, place = Path(file).expanduser().read_text(encoding="utf-8", errors="replace").strip(), f"{file}"
    if len(token) < _LEAST_TOKEN or not _TOKEN.fullmatch(token):
        raise ValueError(
            f"the token in {place} must be at least {_LEAST_TOKEN} ASCII characters without spaces; make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a server: this machine under its own names, or whoever has the token."""

    token: str | None = None

    def refusal(self, scope: Scope) -> JSONResponse | None:
        """Return the answer to a request that is refused, and ``None`` for others."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.token is None and _name(host) not in _LOCAL_NAMES:  # a name that an attacker points to this machine
            return _error(403, f"this server answers to localhost only, not to {host!r}; see --host and --token-file")
        if not _same_origin(headers, host, scope["method"]):
            return _error(403, "requests from other sites are refused")
        if self.token is not None and scope["path"] != "/health" and not self._has_token(headers):
            challenge = {"www-authenticate": 'Basic realm="code-retrieval: the password is the token", charset="UTF-8"'}
            return _error(401, "a token is needed: send it as `Authorization: Bearer TOKEN`", challenge)
        return None

    def _has_token(self, headers: Headers) -> bool:
        """Return whether a request has the token: as bearer, or as the password that a browser asks for."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), (self.token or "").encode())


class Guard:
    """Wraps an ASGI application: checks access, and adds the headers that protect a page."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._access.refusal(scope)
        await (refusal or self.app)(scope, receive, _with_headers(send))


def _name(host: str) -> str:
    """Return the name in a ``Host`` header, without the port.

    >>> _name("localhost:8765"), _name("[::1]:80"), _name("evil.example")
    ('localhost', '::1', 'evil.example')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _same_origin(headers: Headers, host: str, method: str) -> bool:
    """Return whether a request comes from the page of this server, from no page, or follows a link to the page."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return False
    site = headers.get("sec-fetch-site", "none")
    follows_link = method in ("GET", "HEAD") and headers.get("sec-fetch-dest") == "document"
    return site in ("same-origin", "none") or follows_link


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


def _with_headers(send: Send) -> Callable[[MutableMapping[str, Any]], Awaitable[None]]:
    async def protected(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_HEADERS)
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return protected
