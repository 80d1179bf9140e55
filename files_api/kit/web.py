"""What every door needs: errors in its dialect, the request id, the last resort.

The error body is a superset that the Mistral and OpenAI SDKs, LibreChat and FastAPI-style
clients all read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from http import HTTPMethod
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from files_api.kit import errors, metrics, observe, traces
from files_api.kit.bodies import ClientGoneError, shape_error
from files_api.kit.patience import BODY_SECONDS, PatientBody

Dialect = Callable[[errors.AppError, str], dict[str, Any]]
"""Turns an error and the request id into a door's JSON body."""

RateHeaders = Callable[[], Mapping[str, str]]
"""Gives the headers of a caller's rates, when the answer begins."""

Answer = TypeVar("Answer")

Make = Callable[[Send], Awaitable[Response | None]]
"""Answers by itself with what it is given, or returns the response, or raises before either."""

CLIENT_GONE = 499
"""nginx's status for a client that left; seen in logs only."""
UNTRACED = frozenset({"/livez", "/readyz", "/healthz", "/startupz", "/metrics"})
"""What is asked every few seconds, and says nothing about anybody's request."""


def superset(error: errors.AppError, request_id: str) -> dict[str, Any]:
    """Return the error body that every known client can read."""
    facts = {
        "message": error.message,
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }
    # The Mistral SDK takes `detail` of a 422 only as a list; elsewhere clients show the text.
    detail = error.details() or error.message
    return {
        "error": facts,
        "object": "error",
        **facts,
        "detail": detail,
        "request_id": request_id,
    }


def respond(error: errors.AppError, dialect: Dialect = superset) -> JSONResponse:
    """Return the response for an error."""
    body = dialect(error, observe.request_id.get())
    return JSONResponse(body, status_code=error.status, headers=error.headers())


def known(error: Exception) -> errors.AppError:
    """Return the client's view of any exception; what is not ours becomes a bare 500."""
    if isinstance(error, errors.AppError):
        if error.status >= errors.InternalError.status:
            facts = {"code": error.code, "cause": error.cause()}
            observe.log(__name__, "failed", level=logging.WARNING, **facts)
        return error
    if isinstance(error, RequestValidationError):
        return shape_error(error.errors())
    if isinstance(error, HTTPException):
        if isinstance(error.__cause__, errors.AppError):
            return error.__cause__  # FastAPI calls whatever ends a body's reading a 400
        by_status: dict[int, type[errors.AppError]] = {
            400: errors.InvalidRequest,
            404: errors.NotFound,
            405: errors.MethodNotAllowed,
            413: errors.TooLarge,
        }
        return by_status.get(error.status_code, errors.InvalidRequest)()
    logging.getLogger(__name__).error("unhandled", exc_info=error)
    return errors.InternalError()


def door_route(dialect: Dialect = superset) -> type[APIRoute]:
    """Return a route class whose errors are written in the door's dialect."""

    class DoorRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    return await handle(request)
                except Exception as error:  # noqa: BLE001 - the one place where a door catches all
                    return _refusal(error, dialect)

            return answer

    return DoorRoute


class Deferred(Response):
    """A response that is made where it is sent, so that it may be a stream or a plain one.

    Errors before its first byte become HTTP errors in the door's dialect, like those of a route.
    """

    def __init__(self, make: Make, dialect: Dialect = superset) -> None:
        """Take what makes the response."""
        super().__init__()
        self._make = make
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make the response, and send it where that is not done yet."""
        begun = False

        async def send_noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            response = await self._make(send_noting)
        except Exception as error:
            if begun:
                raise
            response = _refusal(error, self._dialect)
        if response is not None:
            await response(scope, receive, send)


def _refusal(error: Exception, dialect: Dialect) -> Response:
    if isinstance(error, ClientGoneError):
        return Response(status_code=CLIENT_GONE)
    return respond(known(error), dialect)


_OF_EVERY_ROUTE: tuple[type[errors.AppError], ...] = (
    errors.Unauthorized,
    errors.CallerRefused,
    errors.ScopeMissing,
    errors.OrganisationRefused,
    errors.RateLimited,
    errors.InternalError,
)


def documented(*classes: type[errors.AppError]) -> dict[int | str, dict[str, Any]]:
    """Return ``responses=`` for a route: each status with its codes and their meaning."""
    by_status: dict[int | str, list[type[errors.AppError]]] = {}
    for cls in dict.fromkeys((*classes, *_OF_EVERY_ROUTE)):
        by_status.setdefault(cls.status, []).append(cls)
    return {
        status: {
            "description": "\n".join(f"- `{cls.code}`: {cls.default_message()}" for cls in group),
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
        }
        for status, group in by_status.items()
    }


def add_error_schema(app: FastAPI) -> None:
    """Put the error body's schema where the documented responses point to."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = _without_foreign_errors(make())
        text = {"type": ["string", "null"]}
        facts = {"message": {"type": "string"}, "type": text, "param": text, "code": text}
        document.setdefault("components", {}).setdefault("schemas", {})["ErrorBody"] = {
            "type": "object",
            "required": ["error", "object", "message", "type", "param", "code", "detail"],
            "properties": {
                "error": {"type": "object", "required": list(facts), "properties": facts},
                "object": {"const": "error"},
                **facts,
                "detail": {
                    "description": "A list of {loc, msg, type} at status 422, else the message.",
                    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}],
                },
                "request_id": {"type": "string"},
            },
        }
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _without_foreign_errors(document: dict[str, Any]) -> dict[str, Any]:
    """Drop FastAPI's own 422, a shape that no route here answers."""
    for path in document["paths"].values():
        for operation in path.values():
            content = operation["responses"].get("422", {}).get("content", {})
            if "HTTPValidationError" in str(content):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    return document


def add_error_handlers(app: FastAPI) -> None:
    """Write errors outside any door (no such path, wrong method) in the superset."""

    async def answer(request: Request, error: Exception) -> Response:
        found = known(error)
        if isinstance(found, errors.NotFound) and type(found) is errors.NotFound:
            found = errors.NotFound(
                f"There is nothing at {request.scope['path'][:200]}; see /docs."
            )
        response = respond(found)
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)  # Allow, at 405
        return response

    app.add_exception_handler(HTTPException, answer)
    app.add_exception_handler(RequestValidationError, answer)
    app.add_exception_handler(errors.AppError, answer)


async def until_gone(request: Request, work: Awaitable[Answer]) -> Answer:
    """Return what ``work`` gives; cancel it when the client leaves.

    The request's body must have been read: what is received after it is the hang-up.

    Raises:
        ClientGoneError: the client left first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_hang_up(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class FrontDoor:
    """ASGI entry: what holds for every request, whatever answers it.

    A request id on every answer, and the headers of the caller's rates, for which a route leaves
    a `RateHeaders` at ``request.state.rate_headers``; the trace that the request belongs to, and
    its span; a deadline for the body; `/v1/v1/*` as `/v1/*`; one log line, with what stands at
    ``request.state.caller``; the counters, the last resort.
    """

    def __init__(self, app: ASGIApp, body_seconds: float = BODY_SECONDS) -> None:
        """Take the application, and how long a request's body may pause (`PatientBody`)."""
        self.app = app
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        offered = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        token = observe.request_id.set(observe.choose_request_id(offered))
        scope.setdefault("state", {})
        # A Mistral client whose base URL ends in /v1 calls /v1/v1/ocr.
        if scope["path"].startswith("/v1/v1/"):
            scope = {**scope, "path": scope["path"][3:], "raw_path": scope["raw_path"][3:]}
        try:
            recorded = scope["path"] not in UNTRACED
            with traces.request(scope["headers"], record=recorded) as span:
                body = PatientBody(receive, self._body_seconds)
                await self._answer(scope, body, send, span)
        finally:
            observe.request_id.reset(token)

    async def _answer(self, scope: Scope, body: PatientBody, send: Send, span: traces.Span) -> None:
        begun = time.perf_counter()
        status = 0

        async def send_ours(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], *_our_headers(scope, body)]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self.app(scope, body.receive, send_ours)
        except asyncio.CancelledError as error:
            # The server ends, and has waited long enough; a client that left cancels less.
            if status:
                _log_cut(error)
            else:
                stopping = errors.Unavailable("The server is stopping; try again.", seconds=1)
                await respond(stopping)(scope, body.receive, send_ours)
        except Exception as error:  # noqa: BLE001 - the server above must never see one
            if status:
                _log_cut(error)
            else:
                await respond(known(error))(scope, body.receive, send_ours)
        finally:
            seconds = time.perf_counter() - begun
            _note(scope, status, seconds)
            _trace(scope, status, span)


def _our_headers(scope: Scope, body: PatientBody) -> list[tuple[bytes, bytes]]:
    ours = {"x-request-id": observe.request_id.get()}
    rates: RateHeaders = scope["state"].get("rate_headers", dict)
    ours.update(rates())
    if body.late:
        ours["connection"] = "close"  # nobody knows where the next request would begin
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in ours.items()]


def _log_cut(error: BaseException) -> None:
    """Log what ended an answer half way; the server closes the connection, so clients notice."""
    if isinstance(error, errors.AppError | ClientGoneError | OSError | asyncio.CancelledError):
        name = type(error).__name__
        observe.log(__name__, "response_cut", level=logging.WARNING, error=name)
    else:
        logging.getLogger(__name__).error("unhandled", exc_info=error)


def _note(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", None)
    metrics.answered(route, scope["method"], status or CLIENT_GONE, seconds)
    observe.log(
        "recto.access",
        "request",
        method=scope["method"],
        path=scope["path"],
        status=status,
        seconds=round(seconds, 4),
        **scope["state"].get("caller", {}),
    )


def _trace(scope: Scope, status: int, span: traces.Span) -> None:
    """Say in a request's span what it was (OpenTelemetry's names for HTTP, 1.43)."""
    route = getattr(scope.get("route"), "path", metrics.UNMATCHED)
    method = scope["method"] if scope["method"] in HTTPMethod.__members__ else "_OTHER"
    span.rename(f"{method} {route}")
    facts: dict[str, traces.Value] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status or CLIENT_GONE,
        "recto.request.id": observe.request_id.get(),
    }
    span.note(facts)
    if status >= errors.InternalError.status:
        span.fail(str(status))
