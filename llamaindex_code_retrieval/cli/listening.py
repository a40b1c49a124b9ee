"""What the commands that serve have in common: the port, the token, the log of requests, and the end by a signal."""

from __future__ import annotations

import argparse
import errno
import logging
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_LAST_PORT = 65_535
_CLOSE_SECONDS = 3
"""How long answers under way are waited for at the end."""
_LOGGER = "llamaindex_code_retrieval.serving"
"""Has a record for each request."""


def port_number(text: str) -> int:
    """Return a port, for ``type=``; 0 stands for any that is free."""
    if not (text.isascii() and text.isdigit() and int(text) <= _LAST_PORT):
        raise argparse.ArgumentTypeError(f"must be a port from 0 to {_LAST_PORT}, got {text!r}")
    return int(text)


def log_requests() -> None:
    """Print a line to stderr for each request."""
    logging.getLogger(_LOGGER).setLevel(logging.INFO)


def token_for(host: str, file: str | None) -> str | None:
    """Return the token that clients must send; ``None`` if there is none and only this machine is listened to.

    Raises:
        ValueError: other machines may connect, and there is no token; or it cannot be one.
        OSError: the file cannot be read.
    """
    from llamaindex_code_retrieval.serving.guard import TOKEN_VARIABLE, is_local, read_token

    token = read_token(file)
    if token is None and not is_local(host):
        raise ValueError(
            f"listening on {host} lets other machines read the code and needs a token: give --token-file FILE, or set "
            f"{TOKEN_VARIABLE}"
        )
    return token


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; clients wait until they are served.

    Raises:
        OSError: the port is in use, or the address is none of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} of {host} is in use; stop the other server, or choose another port") from None
        raise OSError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; name an address of this machine"
        ) from None
    # Connections inherit it. asyncio sets it only on sockets that were made with the protocol's number; without it the
    # end of an answer waits 40 ms for the client's acknowledgement of its beginning.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address_of(listener: socket.socket, host: str) -> str:
    """Return the URL of a socket, without a path."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def run_app(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; answers under way may end."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM closes the indexes as well
    try:
        with suppress(KeyboardInterrupt):  # which uvicorn raises after it has shut down
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, previous)
