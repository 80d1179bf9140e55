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
from fastapi import FastAPI
from starlette.requests import Request

from files_api.app import FilesService
from files_api.kit import errors, observe, web
from files_api.routes import router
from files_api.settings import FilesSettings
from ocr_api.migrations import upgrade


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
    await service.open(upgrade)
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


@pytest.mark.parametrize("offered", [None, "", "a b", "x" * 129, "a\r\nb", "ä"])
def test_an_odd_request_id_is_replaced(offered: str | None) -> None:
    assert len(observe.choose_request_id(offered)) == 36
