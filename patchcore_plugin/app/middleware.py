"""ASGI middleware that rejects requests from other sites and request bodies that are too large."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FORM_OVERHEAD = 64 * 1024
"""Bytes that a multipart form may add to the file that it carries."""


class SameOrigin:
    """Reject requests that a browser sends on behalf of another site.

    Without this check, any site could use an app on the same machine through the browser of its visitor. Responses
    forbid framing, so that no site can overlay the page and capture clicks.

    Parameters
    ----------
    app
        The wrapped ASGI application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or reject it with status 403 (WebSocket: code 1008)."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
                await _reject(scope, receive, send, 403, "requests from other sites are not allowed")
                return

        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["content-security-policy"] = "frame-ancestors 'none'"
            await send(message)

        await self.app(scope, receive, send_unframed)


class BodyLimit:
    """Reject request bodies above a size, by the declared length and by the bytes received.

    Parameters
    ----------
    app
        The wrapped ASGI application.
    limit
        Largest file, in bytes; its form may add `FORM_OVERHEAD`.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit + FORM_OVERHEAD

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or reject it with status 413; a body without a declared length is cut off."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self.limit:
            await _reject(scope, receive, send, 413, "the file is too large")
            return
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return {"type": "http.disconnect"} if received > self.limit else message

        await self.app(scope, receive_limited, send)


async def _reject(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await PlainTextResponse(reason, status_code=status)(scope, receive, send)
