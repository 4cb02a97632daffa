"""What stands before all of the studio's addresses, Streamlit's own among them: who may ask for what, and what browsers
are told about every answer."""

from __future__ import annotations

from urllib.parse import urlsplit

import streamlit as st
from google.protobuf.message import DecodeError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg

from core.feedback.studio import StudioStore
from studio.server import COOKIE

NEEDED = ("/_stcore/health", "/_stcore/host-config", "/_stcore/stream")
"""All that everybody's pages need of Streamlit's inner addresses. The others count sessions, take files from anybody
and let programs drive the pages."""
FILES = ("/media/", "/_stcore/upload_file/")
"""Where maintainers fetch exports and send what is imported: names that cannot be guessed, but that work for whoever
has seen them."""
UNDERSTOOD = ("rerun_script", "stop_script", "app_heartbeat")
"""What a browser says to a page. Streamlit also answers, without asking who it is, which files of the program's
repository were changed, empties its cache, and writes files."""
UPLOAD = "file_urls_request"
"""What a maintainer's browser says as well, before it sends a file."""
TOLD = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, store: StudioStore) -> None:
        self._app, self._store = app, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        connection = HTTPConnection(scope)
        refused = not _is_own_origin(connection) or not await self._may_ask(connection)
        if scope["type"] == "websocket":
            if refused:
                return await send({"type": "websocket.close", "code": 1008})
            more = (UPLOAD,) if await self._is_maintainer(connection) else ()
            return await self._app(scope, _understood(receive, (*UNDERSTOOD, *more, None)), send)
        await (PlainTextResponse("Not found", 404) if refused else self._app)(scope, receive, _told(send))

    async def _may_ask(self, connection: HTTPConnection) -> bool:
        path = connection.scope["path"]
        if path.startswith(FILES):
            return await self._is_maintainer(connection)
        return path in NEEDED or not path.startswith("/_stcore/")

    async def _is_maintainer(self, connection: HTTPConnection) -> bool:
        token = connection.cookies.get(COOKIE, "")
        person = await run_in_threadpool(self._store.people.of_token, token) if token else None
        return person is not None and person.role == "maintainer"


def _is_own_origin(connection: HTTPConnection) -> bool:
    """Whether it comes from a page of the studio, or from no page. Streamlit alone would let in the pages of every
    other port of this machine. Behind a proxy that renames the host, ``server.corsAllowedOrigins`` names the studio."""
    origin = connection.headers.get("origin")
    own = origin is None or urlsplit(origin).netloc == connection.headers.get("host")
    return own or origin in st.get_option("server.corsAllowedOrigins")


def _understood(receive: Receive, kinds: tuple[str | None, ...]) -> Receive:
    """Drops what no page of ours says."""

    async def received() -> Message:
        while True:
            message = await receive()
            try:
                if BackMsg.FromString(message.get("bytes") or b"").WhichOneof("type") in kinds:
                    return message
            except DecodeError:
                return message  # Streamlit closes the connection

    return received


def _told(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(TOLD)
        await send(message)

    return sent
