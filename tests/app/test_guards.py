"""Requests of other sites, and bodies that are too large."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from patchcore_plugin.app.guards import ENVELOPE, BodyLimit, SameOrigin


def status(guard: Any, headers: dict[str, str], body: Sequence[bytes] = (), kind: str = "http") -> tuple[Any, bytes]:
    """Return the status (or closing code) of a request to an app that reads the body and returns it."""
    read = b""

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal read
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            read += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    said: list[Message] = []
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        said.append(message)

    scope = {
        "type": kind,
        "method": "POST",
        "path": "/",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    try:
        asyncio.run(guard(inner)(scope, receive, send))
    except ConnectionError:
        return "gone", read
    return said[0].get("status", said[0].get("code")), read


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_other_sites_are_kept_out(kind: str) -> None:
    refused = 403 if kind == "http" else 1008
    host = {"host": "127.0.0.1:8080"}
    for origin in ("http://evil.example", "http://127.0.0.1:8081", "null", "http://127.0.0.1:8080.evil.example"):
        assert status(SameOrigin, {**host, "origin": origin}, kind=kind)[0] == refused
    for headers in (host, {**host, "origin": "http://127.0.0.1:8080"}, {"host": "Box:1", "origin": "https://box:1"}):
        assert status(SameOrigin, headers, kind=kind)[0] == 200


def test_no_site_may_show_the_page_in_a_frame() -> None:
    said: list[Message] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"page"})

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        said.append(message)

    asyncio.run(SameOrigin(inner)({"type": "http", "headers": []}, receive, send))
    assert said[0]["headers"] == [(b"x", b"y"), (b"content-security-policy", b"frame-ancestors 'none'")]
    assert said[1]["body"] == b"page"


def test_large_bodies_are_refused_by_what_they_say_and_by_what_arrives() -> None:
    def guard(inner: Any) -> BodyLimit:
        return BodyLimit(inner, limit=100)

    most = 100 + ENVELOPE
    assert status(guard, {"content-length": str(most)}, [b"x" * most]) == (200, b"x" * most)
    assert status(guard, {"content-length": str(most + 1)}, [b"x" * most]) == (413, b"")
    assert status(guard, {"content-length": "much"}) == (413, b"")
    assert status(guard, {}, [b"x" * most, b"x", b"x"]) == ("gone", b"x" * most), "it stops where the limit is"
