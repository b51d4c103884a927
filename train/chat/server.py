"""The HTTP side of the chat: a web page, and the part of OpenAI's API that a chat needs.

    GET  /                      the page
    GET  /v1/models             the one model
    POST /v1/chat/completions   messages in, an answer out, streamed if asked for

One answer is generated at a time; further requests wait. If a client disconnects, its answer
stops. Requests must be JSON and name a known host, so that a web page of another origin cannot use
a server on loopback.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from vchat.base.checked_json import parse_json
from vchat.base.page import load_page
from vchat.train.chat.generation import Sampling
from vchat.train.chat.messages import read_request
from vchat.train.chat.service import AnswerResult, ChatService, PreparedRequest
from vchat.train.chat.session import EndReason

MAX_BODY_BYTES = 64 << 20
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline';"
    " style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class RefusedError(Exception):
    """A request that is answered by an error."""

    def __init__(self, status: int, message: str):
        """`status` is the HTTP status code."""
        super().__init__(message)
        self.status = status


class ChatServer:
    """The handlers of one model's server."""

    def __init__(self, service: ChatService, *, name: str, default: Sampling):
        """`name` is the model's name for clients; `default` applies where they say nothing."""
        self._service = service
        self._name = name
        self._default = default
        self._page = load_page(Path(__file__).with_name("page.html")).render()
        self._turn = asyncio.Lock()
        self._started = int(time.time())

    def app(self, *, hosts: Sequence[str]) -> Starlette:
        """Return the ASGI application; it answers only requests that name one of `hosts`."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.completions, methods=["POST"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
            exception_handlers={RefusedError: _refusal},
        )

    async def page(self, request: Request) -> Response:
        """Send the web page."""
        return HTMLResponse(self._page, headers=PAGE_HEADERS)

    async def models(self, request: Request) -> Response:
        """List the one model."""
        model = {
            "id": self._name,
            "object": "model",
            "created": self._started,
            "owned_by": "vchat",
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def completions(self, request: Request) -> Response:
        """Answer a dialogue.

        Raises:
            RefusedError: The request is wrong.
        """
        body = await _read_body(request)
        try:
            asked = read_request(parse_json(body, name="the body"), default=self._default)
            prepared = await run_in_threadpool(self._service.prepare, asked)
        except ValueError as err:
            raise RefusedError(400, str(err)) from err
        answer = _Answer(self._name)
        if asked.stream:
            events = self._events(prepared, answer)
            headers = {"Cache-Control": "no-store"}
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        async with aclosing(self._pieces(prepared, answer)) as pieces:
            text = "".join([piece async for piece in pieces])
        return JSONResponse(answer.whole(text))

    async def _events(self, prepared: PreparedRequest, answer: _Answer) -> AsyncGenerator[str]:
        """Yield server-sent events: one with the role, one per piece, one that ends the answer."""
        yield _event(answer.chunk({"role": "assistant", "content": ""}))
        async with aclosing(self._pieces(prepared, answer)) as pieces:
            async for piece in pieces:
                if piece:
                    yield _event(answer.chunk({"content": piece}))
        yield _event(answer.chunk({}))
        yield "data: [DONE]\n\n"

    async def _pieces(self, prepared: PreparedRequest, answer: _Answer) -> AsyncGenerator[str]:
        """Generate in a worker thread, one request at a time; set `answer.result` at the end."""

        def generate() -> Generator[str]:
            answer.result = yield from generator

        async with self._turn:
            generator = self._service.answer(prepared)
            try:
                async for piece in iterate_in_threadpool(generate()):
                    yield piece
            finally:
                generator.close()


class _Answer:
    """One answer, in the JSON forms of OpenAI's API."""

    def __init__(self, model: str):
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self.result: AnswerResult | None = None
        """None until the answer is complete."""

    def chunk(self, delta: dict[str, str]) -> dict[str, Any]:
        """Return one event of a stream; the last has the finish reason and the usage."""
        choice = {"index": 0, "delta": delta, "finish_reason": self._reason()}
        return self._envelope("chat.completion.chunk", choice)

    def whole(self, text: str) -> dict[str, Any]:
        """Return the answer in one piece."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": self._reason()}
        return self._envelope("chat.completion", choice)

    def _envelope(self, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        facts = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        usage = {} if self.result is None else {"usage": _usage(self.result)}
        return {**facts, "choices": [choice], **usage}

    def _reason(self) -> str | None:
        if self.result is None:
            return None
        return "stop" if self.result.end_reason is EndReason.BY_MODEL else "length"


def _usage(result: AnswerResult) -> dict[str, int]:
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        "total_tokens": result.prompt_tokens + result.completion_tokens,
    }


async def _read_body(request: Request) -> bytes:
    """Read a JSON body within the limit."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, f"Content-Type is {kind!r}, wanted application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise RefusedError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    kind = "invalid_request_error"
    return JSONResponse({"error": {"message": str(error), "type": kind}}, status_code=error.status)
