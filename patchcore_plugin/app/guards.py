"""What stands before the page: other sites, and bodies that are too large, are refused."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENVELOPE = 64 * 1024
"""Bytes that a form may take beside the file in it."""


class SameOrigin:
    """Refuses what a browser sends on behalf of another site; a page's own requests and direct visits pass.

    Without it any site could talk to an app on the same machine through its visitor's browser, or show it in a frame
    under its own pictures and have the visitor click there unawares.

    Parameters
    ----------
    app
        What comes next.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
                await _refuse(scope, receive, send, 403, "another site may not use this app")
                return

        async def unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["content-security-policy"] = "frame-ancestors 'none'"
            await send(message)

        await self.app(scope, receive, unframed)


class BodyLimit:
    """Refuses bodies of more than so many bytes, by what they say of themselves and by what arrives.

    Parameters
    ----------
    app
        What comes next.
    limit
        Bytes of a file; its form may take `ENVELOPE` more.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit + ENVELOPE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "0")
        if not stated.isdecimal() or int(stated) > self.limit:
            await _refuse(scope, receive, send, 413, "the file is too large")
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            # To whoever reads the body, the sender has gone away.
            return {"type": "http.disconnect"} if arrived > self.limit else message

        await self.app(scope, counted, send)


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await PlainTextResponse(why, status_code=status)(scope, receive, send)
