"""Requests of other sites and request bodies that are too large."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from patchcore_plugin.app.middleware import FORM_OVERHEAD, BodyLimit, SameOrigin


def request(
    middleware: Any, headers: dict[str, str], body: Sequence[bytes] = (), kind: str = "http"
) -> tuple[Any, bytes]:
    """Return the status (or WebSocket close code) of a request, and the body that the wrapped app received."""
    read = b""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal read
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            read += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    responses: list[Message] = []
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        responses.append(message)

    scope = {
        "type": kind,
        "method": "POST",
        "path": "/",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    try:
        asyncio.run(middleware(app)(scope, receive, send))
    except ConnectionError:
        return "disconnected", read
    return responses[0].get("status", responses[0].get("code")), read


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_requests_of_other_sites_are_rejected(kind: str) -> None:
    rejected = 403 if kind == "http" else 1008
    host = {"host": "127.0.0.1:8080"}
    for origin in ("http://evil.example", "http://127.0.0.1:8081", "null", "http://127.0.0.1:8080.evil.example"):
        assert request(SameOrigin, {**host, "origin": origin}, kind=kind)[0] == rejected
    for headers in (host, {**host, "origin": "http://127.0.0.1:8080"}, {"host": "Box:1", "origin": "https://box:1"}):
        assert request(SameOrigin, headers, kind=kind)[0] == 200


def test_responses_forbid_framing() -> None:
    responses: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"page"})

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        responses.append(message)

    asyncio.run(SameOrigin(app)({"type": "http", "headers": []}, receive, send))
    assert responses[0]["headers"] == [(b"x", b"y"), (b"content-security-policy", b"frame-ancestors 'none'")]
    assert responses[1]["body"] == b"page"


def test_large_bodies_are_rejected_by_declared_length_and_by_received_bytes() -> None:
    def limited(app: Any) -> BodyLimit:
        return BodyLimit(app, limit=100)

    limit = 100 + FORM_OVERHEAD
    assert request(limited, {"content-length": str(limit)}, [b"x" * limit]) == (200, b"x" * limit)
    assert request(limited, {"content-length": str(limit + 1)}, [b"x" * limit]) == (413, b"")
    assert request(limited, {"content-length": "much"}) == (413, b"")
    assert request(limited, {}, [b"x" * limit, b"x", b"x"]) == ("disconnected", b"x" * limit)
