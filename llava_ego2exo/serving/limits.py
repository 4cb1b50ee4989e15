"""The largest body of a request, also of one that does not say its size."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from .protocol import error_body

Event = dict[str, Any]  # ASGI's
Receive, Send = Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


class _TooLargeError(Exception):
    pass


class BodyLimit:
    """ASGI middleware that answers 413 to a body of more than `most` bytes, having read no more than these."""

    def __init__(self, app: App, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        said, read = dict(scope["headers"]).get(b"content-length", b"0"), 0

        async def counted() -> Event:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                raise _TooLargeError
            return message

        try:
            if said.isdigit() and int(said) > self.most:
                raise _TooLargeError
            await self.app(scope, counted, send)
        except _TooLargeError:
            text = f"The body is larger than {self.most // 2**20} MiB"
            body = json.dumps(error_body(text, code="body_too_large")).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 413, "headers": headers})
            await send({"type": "http.response.body", "body": body})
