"""The ASGI application: a page, and JSON endpoints under /v1. No name in a request is a path, and
nothing of a request is written to disk.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from lafite_shifted.errors import InputError
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.serving.batcher import QueueFullError
from lafite_shifted.serving.edit_endpoints import EditEndpoints
from lafite_shifted.serving.guard import Guard
from lafite_shifted.serving.hosts import HostCheck, Hosts
from lafite_shifted.serving.limits import Limits
from lafite_shifted.serving.requests import Animation, Answer, LimitsAnswer, Refusal
from lafite_shifted.serving.server import Decode, Server

PAGES = {"/": ("index.html", "text/html"), "/api": ("api.html", "text/html")}
SCRIPTS = ("backend.js", "page.js", "images.js", "api.js")
PAGES |= {f"/{name}": (name, "text/javascript") for name in SCRIPTS}
PAGES |= {"/page.css": ("page.css", "text/css")}
OTHER_HOST = {"model": Refusal, "description": "The Host header is not this server's"}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {
        "model": Refusal,
        "description": "The body is no JSON that can be read, or the Host is not this server's",
    },
    403: {"model": Refusal, "description": "A page of another server has sent it"},
    408: {"model": Refusal, "description": "The body does not come"},
    422: {"model": Refusal, "description": "The request cannot be met; detail says why"},
    429: {"model": Refusal, "description": "Too many requests wait; come back after Retry-After"},
}


def create_app(model: TextToImage, decode: Decode, limits: Limits, hosts: Hosts) -> FastAPI:
    """The application; `decode` reads uploads as training images are read."""
    server = Server(model, decode, limits)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with suppress(asyncio.CancelledError):  # by a second Ctrl-C, which waits for nothing
            yield
        await asyncio.to_thread(server.batcher.close)

    app = FastAPI(
        title="lafite-shifted",
        description="Images from sentences, and edits. Simultaneous requests share batches: the "
        f"first waits {limits.window_ms:g} ms for others, up to {limits.batch} images a batch. "
        f"Limits of this server: {limits}.",
        lifespan=lifespan,
        docs_url=None,  # theirs loads scripts from elsewhere; ours is /api
        redoc_url=None,
        responses={400: OTHER_HOST},
    )
    app.add_middleware(HostCheck, hosts=hosts)
    app.add_middleware(Guard, counters=server.counters, most=limits.body_bytes)
    post = {"responses": REFUSALS, "response_model": Answer}
    app.post("/v1/generate", **post)(server.generate)
    edits = EditEndpoints(server)
    app.post("/v1/variations", **post)(edits.variations)
    app.post("/v1/interpolate", **post)(edits.interpolate)
    app.post("/v1/edit", **post)(edits.edit)
    app.post("/v1/style-mix", **post)(edits.style_mix)
    app.post("/v1/guide", **post)(edits.guide)
    app.post("/v1/project", **post)(edits.project)
    app.post("/v1/walk", responses=REFUSALS, response_model=Animation)(edits.walk)
    app.get("/v1/limits", response_model=LimitsAnswer)(server.limits_answer)
    app.get("/healthz", response_class=JSONResponse)(server.health)
    app.head("/healthz", include_in_schema=False)(server.health)
    app.get("/metrics", response_class=PlainTextResponse)(server.metrics)
    for path, (name, kind) in PAGES.items():
        app.get(path, include_in_schema=False)(_page(name, kind))
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(InputError)(_refused)
    app.exception_handler(QueueFullError)(_full)
    app.exception_handler(HTTPException)(_told)
    return app


async def _invalid(request: Request, error: Exception) -> Response:
    """Place and reason of each fault, without what was sent: that may be megabytes, or what JSON
    cannot hold (not a number, half a character).
    """
    assert isinstance(error, RequestValidationError)
    detail: object = [
        {name: one[name] for name in ("type", "loc", "msg")} for one in error.errors()
    ]
    if "json" not in request.headers.get("Content-Type", ""):
        detail = "The body is not sent as JSON. Add the header `Content-Type: application/json`."
    return Response(json.dumps({"detail": detail}), 422, media_type="application/json")


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400 and error.__cause__ is not None:  # of FastAPI, which says no more
        is_deep = isinstance(error.__cause__, RecursionError)
        reason = "it is nested too deeply" if is_deep else str(error.__cause__)[:200]
        return JSONResponse({"detail": f"The body is not JSON that can be read: {reason}."}, 400)
    return await http_exception_handler(request, error)


async def _full(_request: Request, _error: Exception) -> JSONResponse:
    detail = "Too many requests wait. Come back in a second."
    return JSONResponse({"detail": detail}, 429, headers={"Retry-After": "1"})


def _page(name: str, kind: str) -> Callable[[], Awaitable[HTMLResponse]]:
    content = (resources.files("lafite_shifted.serving") / "page" / name).read_bytes()

    async def page() -> HTMLResponse:
        headers = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:"}
        return HTMLResponse(content, media_type=f"{kind}; charset=utf-8", headers=headers)

    return page
