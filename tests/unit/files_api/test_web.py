"""Errors as clients see them, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from files_api.app import FilesService
from files_api.kit import errors, observe, web
from files_api.routes import router
from files_api.settings import FilesSettings
from ocr_api.migrations import upgrade
from tests.unit.files_api.test_metrics import requests as requests_of


def request_with(*messages: dict[str, Any]) -> Request:
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return Request({"type": "http", "headers": [], "method": "POST", "path": "/"}, receive)


def test_the_superset_is_read_by_every_client() -> None:
    body = web.superset(errors.TooLarge("too much", param="file"), "r1")
    assert body["error"] == {
        "message": "too much",
        "type": "invalid_request_error",
        "param": "file",
        "code": "too_large",
    }
    assert body["detail"] == "too much"
    assert {key: body[key] for key in body["error"]} == body["error"]
    body = web.superset(errors.ValidationFailed("bad", param="a.b"), "r1")
    assert body["detail"] == [{"loc": ["body", "a", "b"], "msg": "bad", "type": "value_error"}]


def test_retry_after_stands_on_what_may_be_tried_again() -> None:
    assert web.respond(errors.EngineUnavailable()).headers["retry-after"] == "5"
    assert "retry-after" not in web.respond(errors.PageFailed()).headers


def test_an_unknown_exception_says_nothing_of_itself() -> None:
    assert web.known(RuntimeError("the document says: secret")).message == (
        errors.InternalError.default_message()
    )


async def test_work_ends_before_the_client_leaves() -> None:
    async def work() -> int:
        return 7

    assert await web.until_gone(request_with(), work()) == 7


async def test_a_client_that_leaves_cancels_the_work() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(web.ClientGoneError):
        await web.until_gone(request_with({"type": "http.disconnect"}), work())
    assert ended.is_set()


async def test_an_error_of_the_work_passes_through() -> None:
    async def work() -> None:
        raise errors.PageFailed("page 3")

    with pytest.raises(errors.PageFailed, match="page 3"):
        await web.until_gone(request_with(), work())


def test_log_lines_are_json_without_the_text_of_errors() -> None:
    with pytest.raises(ValueError, match="secret") as caught:
        raise ValueError("the document says: secret")
    record = logging.LogRecord("n", logging.ERROR, "f", 1, "failed", (), None)
    record.exc_info = (ValueError, caught.value, caught.value.__traceback__)
    record.facts = {"pages": 3}
    line = observe.JsonLines().format(record)
    assert "secret" not in line
    facts = json.loads(line)
    assert (facts["event"], facts["pages"], facts["error"]) == ("failed", 3, "ValueError")
    assert "test_web.py" in facts["trace"][-1]


@pytest.fixture
def loggers() -> Iterator[None]:
    """Put the log levels and handlers back."""
    names = ("", *observe.OURS, "aiosqlite", "loud")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("DEBUG", ["recto.access 10", "files_api.app 20", "ocr_api.x 10", "aiosqlite 30"]),
        ("INFO", ["files_api.app 20", "aiosqlite 30"]),
        ("ERROR", []),
    ],
)
@pytest.mark.usefixtures("loggers")
def test_libraries_warn_and_write_nothing_else(
    capsys: pytest.CaptureFixture[str], level: str, shown: list[str]
) -> None:
    """A driver's debug line holds the values of a query: our users' file names."""
    observe.set_up_logs(level)
    logging.getLogger("loud").setLevel(logging.DEBUG)  # as a library may do by itself
    for name, number in (
        ("recto.access", 10), ("files_api.app", 20), ("ocr_api.x", 10), ("aiosqlite", 10),
        ("aiosqlite", 30), ("alembic.runtime", 20), ("uvicorn.error", 20), ("loud", 20),
        ("rectory", 20),
    ):  # fmt: skip
        observe.log(name, f"{name} {number}", level=number)
    lines = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert lines == shown


@pytest.mark.usefixtures("loggers")
async def test_no_file_name_comes_to_the_log_and_our_lines_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    observe.set_up_logs("DEBUG")
    service = FilesService(FilesSettings(data_dir=tmp_path))
    (tmp_path / "blobs" / ".tmp").mkdir(parents=True)
    (tmp_path / "blobs" / ".tmp" / "left").write_bytes(b"x")
    swept = asyncio.Event()
    telling = logging.getLogger("files_api.app")
    telling.addFilter(lambda _: swept.set() or True)
    await service.open(upgrade)
    async with asyncio.timeout(10):
        await swept.wait()
    telling.filters.clear()
    app = FastAPI()
    app.include_router(router())
    service.attach(app)
    transport = httpx.ASGITransport(web.FrontDoor(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        form = {"file": ("private.pdf", b"%PDF-1.7")}
        assert (await client.post("/v1/files", files=form)).status_code == 200
    await service.close()
    text = capsys.readouterr().err
    assert "private" not in text
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert events == ["swept", "request"]


# --- the front door -------------------------------------------------------------------------------


async def through(
    answer: ASGIApp, *messages: Message, body_seconds: float = 5, path: str = "/x"
) -> tuple[int, dict[str, str], bytes]:
    """Send a request through the front door; return status, headers and what came of the body."""
    waiting, sent = list(messages), list[Message]()

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    await web.FrontDoor(answer, body_seconds)(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(part.get("body", b"") for part in sent[1:])


def reading_app() -> FastAPI:
    """An application whose routes read their body in every way that there is."""
    app = FastAPI()
    web.add_error_handlers(app)
    door = APIRouter(route_class=web.door_route())

    @door.post("/stream")
    async def stream(request: Request) -> int:
        return sum([len(piece) async for piece in request.stream()])

    @door.post("/fastapi")
    async def fastapi(body: dict[str, str]) -> int:
        return len(body)

    @door.post("/limited/{number}")
    async def limited(request: Request, number: int) -> int:
        request.state.rate_headers = lambda: {"x-ratelimit-limit-requests": "7"}
        if number:
            raise errors.RateLimited(seconds=3)
        return 0

    app.include_router(door)
    app.add_api_route("/bare", stream, methods=["POST"])
    return app


@pytest.mark.parametrize("path", ["/stream", "/fastapi", "/bare"])
async def test_a_body_that_stops_is_408_on_every_route(path: str) -> None:
    """R17: half a body, and then nothing."""
    half = {"type": "http.request", "body": b'{"a": ', "more_body": True}
    status, headers, body = await through(reading_app(), half, body_seconds=0.01, path=path)
    assert (status, json.loads(body)["code"]) == (408, "body_timeout")
    assert headers["connection"] == "close"
    whole = {"type": "http.request", "body": b'{"a": "b"}'}
    status, headers, _ = await through(reading_app(), whole, body_seconds=0.01, path=path)
    assert status == 200
    assert "connection" not in headers


@pytest.mark.parametrize(("number", "expected"), [(0, 200), (1, 429), ("x", 422)])
async def test_rate_headers_stand_on_every_answer(number: object, expected: int) -> None:
    path = f"/limited/{number}"
    status, headers, _ = await through(reading_app(), path=path)
    assert status == expected
    if expected != 422:  # refused before the route knew who is calling
        assert headers["x-ratelimit-limit-requests"] == "7"
    assert headers.get("retry-after") == ("3" if expected == 429 else None)
    assert len(headers["x-request-id"]) == 36


async def test_rate_headers_are_made_when_the_answer_begins() -> None:
    left = 7

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal left
        scope["state"]["rate_headers"] = lambda: {"x-ratelimit-remaining-pages": str(left)}
        left -= 3
        await PlainTextResponse("")(scope, receive, send)

    _, headers, _ = await through(app)
    assert headers["x-ratelimit-remaining-pages"] == "4"


async def test_requests_are_counted_under_their_route() -> None:
    names = ("/limited/{number}", "unmatched")
    before = [requests_of(name, "POST", code) for name in names for code in ("200", "404")]
    for path in ("/limited/0", "/v1/v1/none", "/none"):
        await through(reading_app(), path=path)
    after = [requests_of(name, "POST", code) for name in names for code in ("200", "404")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 0, 0, 2]


@pytest.mark.parametrize(
    ("error", "event", "traced"),
    [
        (errors.StorageUnavailable(), "response_cut", False),
        (ConnectionResetError(), "response_cut", False),
        (errors.BodyTimeout(), "response_cut", False),
        (RuntimeError("the document says: secret"), "unhandled", True),
    ],
)
async def test_an_answer_that_fails_half_way_is_cut(
    error: Exception, event: str, traced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The client must notice, so nothing ends the body; only a fault of ours leaves a trace."""
    ended = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal ended
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        ended = True
        raise error

    status, _, body = await through(app)
    assert (status, body, ended) == (200, b"half", True)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == event
    assert bool(record.exc_info) == traced
    assert "secret" not in observe.JsonLines().format(record)


async def test_an_error_outside_every_route_is_answered_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("secret")

    status, _, body = await through(app)
    assert (status, json.loads(body)["code"]) == (500, "internal_error")
    assert [record.getMessage() for record in caplog.records if record.levelno > 20] == [
        "unhandled"
    ]


@pytest.mark.parametrize("offered", [None, "", "a b", "x" * 129, "a\r\nb", "ä"])
def test_an_odd_request_id_is_replaced(offered: str | None) -> None:
    assert len(observe.choose_request_id(offered)) == 36


def test_no_library_writes_a_strangers_header_into_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """OpenTelemetry warns of a `tracestate` that it does not like, with its text."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        observe.set_up_logs()
        logging.getLogger("opentelemetry.trace.span").warning("Invalid key/value pair (1b=e)")
        logging.getLogger("opentelemetry.sdk").warning("exported nothing")
        said = capsys.readouterr().err
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert "1b=e" not in said
    assert "exported nothing" in said
