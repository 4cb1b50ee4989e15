"""The server's routes: OpenAI's chat completions, its list of models, health and metrics."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from ..errors import Ego2ExoError
from ..host.inference.settings import positions
from .counters import Counters
from .engine import ClosingError, Engine, QueueFullError
from .limits import BodyLimit
from .page import add_page
from .protocol import (
    ChatRequest,
    UnknownModelError,
    choice_of,
    chunk,
    completion,
    error_body,
    known,
    new_id,
    usage_chunk,
)
from .requests import Intake, Waiting

if TYPE_CHECKING:
    from ..host.inference.ask import VideoModel
    from ..video.limits import VideoLimits
    from .settings import ServeSettings


def make_app(models: dict[str, VideoModel], settings: ServeSettings, limits: VideoLimits | None = None) -> FastAPI:
    """The application; `models` by the names that requests give, `limits` of their videos (None: the defaults)."""
    counters = Counters()
    engine = Engine(models, settings.queue, settings.batch, settings.timeout, counters.batch)
    counters.watch(engine)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="llava-ego2exo", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.engine = engine
    app.add_middleware(BodyLimit, most=settings.max_body_mb * 2**20)
    _errors(app)
    authorized = [Depends(_key_check(settings.api_key))]
    intake = Intake(engine, models, settings, limits)
    add_page(app, intake, authorized)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(counters.text(), media_type=counters.media_type)

    @app.get("/v1/models", dependencies=authorized)
    async def list_models() -> dict[str, Any]:
        lengths = {name: positions(model.answerer.model.config.to_dict()) for name, model in models.items()}
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "llava-ego2exo", "max_model_len": length}
                for name, length in lengths.items()]  # fmt: skip
        return {"object": "list", "data": data}

    @app.post("/v1/chat/completions", dependencies=authorized)
    async def chat(body: ChatRequest, request: Request) -> Response:
        known(body.model, models)
        choice = choice_of(body.response_format)
        waiting = await intake.answer(body, choice)
        if body.stream and choice is None:
            return StreamingResponse(_stream(waiting, body), media_type="text/event-stream")
        result = await waiting.result(request)
        row, extra = waiting.job.row, {}
        if choice is not None and result is not None:
            row.text, row.reason = choice.content(max(result, key=result.__getitem__)), "stop"
            extra = {"probabilities": result}
        done = completion(body.model, row.text, row.reason, row.prompt_tokens, len(row.tokens), **extra)
        if body.stream:
            return StreamingResponse(_whole(done, body), media_type="text/event-stream")
        return JSONResponse(done)

    return app


async def _stream(waiting: Waiting, body: ChatRequest) -> AsyncIterator[str]:
    """Server-sent events of an answer; when the client goes away, the generator is closed, and the job cancelled."""
    number, row = new_id(), waiting.job.row
    try:
        yield _event(chunk(number, body.model, {"role": "assistant", "content": ""}))
        while True:
            kind, value = await waiting.events.get()
            if kind == "text":
                yield _event(chunk(number, body.model, {"content": value}))
                continue
            if isinstance(value, Exception):
                status, told = told_of(value)
                yield _event({**told, "status": status})
            else:
                yield _event(chunk(number, body.model, {}, row.reason))
                if body.stream_options.include_usage:
                    yield _event(usage_chunk(number, body.model, row.prompt_tokens, len(row.tokens)))
            yield "data: [DONE]\n\n"
            return
    finally:
        waiting.engine.cancel(waiting.job)


async def _whole(done: dict[str, Any], body: ChatRequest) -> AsyncIterator[str]:
    """An answer that is there already, as a stream."""
    choice = done["choices"][0]
    yield _event(chunk(done["id"], body.model, choice["message"]))
    last = chunk(done["id"], body.model, {}, choice["finish_reason"])
    last["choices"][0] |= {key: choice[key] for key in ("probabilities",) if key in choice}
    yield _event(last)
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _key_check(key: str | None) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
            raise PermissionError

    return check


def told_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body for an error; what is no fault of the request names its kind alone."""
    if isinstance(error, Ego2ExoError):
        return 400, error_body(str(error))
    if isinstance(error, UnknownModelError):
        return 404, error_body(str(error), code="model_not_found")
    if isinstance(error, QueueFullError):
        return 429, error_body(str(error), "rate_limit_error", "queue_full")
    if isinstance(error, ClosingError):
        return 503, error_body(str(error), "server_error", "shutting_down")
    if isinstance(error, TimeoutError):
        return 503, error_body(str(error), "server_error", "timeout")
    if isinstance(error, PermissionError):
        return 401, error_body("no or another API key", "authentication_error", "invalid_api_key")
    if isinstance(error, RequestValidationError):
        faults = error.errors()[:5]
        if faults[0]["loc"] == ("body",) or faults[0]["type"] == "json_invalid":
            return 400, error_body("the body is no JSON object, or its Content-Type is not application/json")
        return 400, error_body("; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in faults))
    if isinstance(error, HTTPException):
        return error.status_code, error_body(error.detail)
    if isinstance(error, ConnectionAbortedError):
        return 499, error_body("the client went away")
    return 500, error_body(type(error).__name__, "server_error")


def _errors(app: FastAPI) -> None:
    async def answer(_request: Request, error: Exception) -> JSONResponse:
        status, body = told_of(error)
        headers = {"Retry-After": str(error.seconds)} if isinstance(error, QueueFullError) else {}
        return JSONResponse(body, status, headers)

    kinds = (
        *(Ego2ExoError, UnknownModelError, QueueFullError, ClosingError, TimeoutError, PermissionError),
        *(RequestValidationError, HTTPException, ConnectionAbortedError, Exception),
    )
    for kind in kinds:
        app.add_exception_handler(kind, answer)
