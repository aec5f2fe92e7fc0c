"""What stands before every endpoint."""

import asyncio
import time

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lafite_shifted.serving.counters import Counters

PATIENCE_S = 30.0  # for the next part of a body


class Guard:
    """Counts every answer, refuses bodies that are too long while they come, and ends a request
    whose client has gone.
    """

    def __init__(self, app: ASGIApp, *, counters: Counters, most: int):
        self.app, self.counters, self.most = app, counters, most
        self.too_long = f"The request is longer than {most} bytes."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, size = time.monotonic(), 499, 0  # 499: went away before the answer
        request, watching, gone = asyncio.current_task(), None, asyncio.Event()

        async def watch() -> None:
            """After the body: nothing comes but that the client goes away."""
            await receive()
            gone.set()
            if request is not None:
                request.cancel()

        async def counted_receive() -> Message:
            nonlocal size, watching
            if watching is not None:
                await gone.wait()
                return {"type": "http.disconnect"}
            try:
                message = await asyncio.wait_for(receive(), PATIENCE_S)
            except TimeoutError:
                told = f"Nothing of the body has come for {PATIENCE_S:g} s. Send it again."
                raise HTTPException(408, told) from None
            size += len(message.get("body", b""))
            if size > self.most:
                raise HTTPException(422, self.too_long)
            if message["type"] == "http.request" and not message.get("more_body", False):
                watching = asyncio.create_task(watch())
            return message

        async def noted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        announced = dict(scope["headers"]).get(b"content-length", b"0")
        is_bug = True  # what is raised becomes a 500 further out
        try:
            if int(announced) > self.most:  # uvicorn has refused what is no number
                await JSONResponse({"detail": self.too_long}, 422)(scope, receive, noted_send)
            else:
                await self.app(scope, counted_receive, noted_send)
            is_bug = False
        except asyncio.CancelledError:  # the client has gone, or the server's patience has ended
            is_bug = False
            if status == 499 and not gone.is_set():
                told = JSONResponse({"detail": "The server stops. Ask again when it is back."}, 503)
                await told(scope, receive, noted_send)
        finally:
            if watching is not None:
                watching.cancel()
            status = 500 if is_bug else status
            known = scope["path"].startswith("/v1/") or scope["path"] in ("/healthz", "/metrics")
            path = getattr(scope.get("route"), "path", None) if known else None
            self.counters.request(path or "other", status, time.monotonic() - begun)
