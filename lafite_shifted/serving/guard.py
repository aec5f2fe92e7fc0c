"""What stands before every endpoint."""

import time

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lafite_shifted.serving.counters import Counters


class Guard:
    """Counts every answer, and refuses bodies that are too long while they come."""

    def __init__(self, app: ASGIApp, *, counters: Counters, most: int):
        self.app, self.counters, self.most = app, counters, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, size = time.monotonic(), 499, 0  # 499: went away before the answer

        async def counted_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most:
                raise HTTPException(422, f"The request is longer than {self.most} bytes.")
            return message

        async def noted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, counted_receive, noted_send)
        finally:
            known = scope["path"].startswith("/v1/") or scope["path"] in ("/healthz", "/metrics")
            path = getattr(scope.get("route"), "path", None) if known else None
            self.counters.request(path or "other", status, time.monotonic() - begun)
