"""R18: a server that is told to end answers what it has begun, and takes nothing new."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from ocr_api import app as ocr_app
from ocr_api import listening
from ocr_api.listening.ending import Ending
from ocr_api.settings import Settings
from tests import helpers
from tests.bench.fake import FAKE, running
from tests.conftest import running as service_running
from tests.e2e.conftest import FakeVlm, started
from tests.e2e.test_connections import Waiting
from tests.e2e.test_slow_clients import PATIENCE, opened, request_text, serving, to_the_end

LIGHTON = "lightonai/LightOnOCR-2-1B"
MANY = 20
URI = "data:application/pdf;base64," + base64.b64encode(helpers.pages_pdf(MANY)).decode()

Asked = Future[httpx.Response]


# --- the whole service ----------------------------------------------------------------------------


@contextmanager
def slow_model(*options: str) -> Iterator[FakeVlm]:
    """A stand-in for vLLM of its own, which knows nothing of other tests."""
    if not FAKE.is_file():
        pytest.skip("there is no stand-in for vLLM here")
    with running("--model", LIGHTON, *options) as (base, _), httpx.Client(base_url=base) as http:
        yield FakeVlm(http)


@contextmanager
def asked(folder: Path, fake: FakeVlm, number: int, **settings: str) -> Iterator[list[Asked]]:
    """Have so many pages read, each by a request of its own, all of them begun at the model.

    When the context ends the service was told to end, and has ended as it should.
    """

    def ask(base: str, page: int) -> httpx.Response:
        body = {"model": LIGHTON, "document": {"type": "document_url", "document_url": URI}}
        return client.post(f"{base}/v1/ocr", json=body | {"pages": [page]})

    urls = json.dumps({LIGHTON: f"{fake.base}/v1"})
    with (
        httpx.Client(timeout=60) as client,  # one: to make one takes longer than a request
        ThreadPoolExecutor(number) as threads,
        started(folder, ENGINE_URLS=urls, **settings) as server,
    ):
        yield [threads.submit(ask, server.base, page) for page in range(number)]
        fake.until(lambda counts: counts["requests"] == number)


@pytest.mark.shared
def test_requests_under_way_are_answered(tmp_path: Path) -> None:
    """R18: no request that was begun fails because the server is told to end."""
    with slow_model("--mode", "fixed", "--delay", "2") as fake:
        with asked(tmp_path, fake, MANY) as answers:
            pass
        found = [answer.result() for answer in answers]
        assert [answer.status_code for answer in found] == [200] * MANY
        texts = {answer.json()["pages"][0]["markdown"] for answer in found}
        assert len(texts) == MANY
        assert all(text.startswith("# Page") for text in texts)
        counts = fake.until(lambda counts: counts["in_flight"] == 0)
        assert (counts["completed"], counts["aborted"]) == (MANY, 0)


@pytest.mark.shared
def test_requests_that_take_too_long_are_given_up(tmp_path: Path) -> None:
    """R18, R21: after the grace they end, with an answer, at the model too."""
    with slow_model("--mode", "fixed", "--delay", "60") as fake:
        with asked(tmp_path, fake, 5, DRAIN_SECONDS="1") as answers:
            pass
        for answer in answers:
            response = answer.result()
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert response.headers["x-request-id"]
            assert response.json()["code"] == "unavailable"
        counts = fake.until(lambda counts: counts["in_flight"] == 0)
        assert (counts["completed"], counts["aborted"]) == (0, 5)
    # Nothing went wrong, and the log does not say so.
    log = (tmp_path / "log.jsonl").read_text()
    assert "Traceback" not in log
    assert "unhandled" not in log


# --- connections ----------------------------------------------------------------------------------


async def test_idle_connections_are_closed_at_once_and_no_new_ones_taken() -> None:
    """R18."""
    service = Waiting()
    async with serving(service, header_seconds=60, timeout_keep_alive=60) as here:
        service.go.set()
        idle = await opened(here.base, request_text(target=b"/idle"))
        assert b"</idle 0>" in await idle[0].readuntil(b">")
        silent = await opened(here.base, b"GET /half HTTP/1.1\r\n")
        service.go.clear()
        service.begun.clear()
        busy = await opened(here.base, request_text(target=b"/busy"))
        await service.begun.wait()
        here.server.should_exit = True
        assert await to_the_end(idle) == b""
        assert await to_the_end(silent) == b""
        # Refused, or reset before an answer, which depends on the moment.
        with suppress(OSError):
            assert await to_the_end(await opened(here.base, request_text(target=b"/new"))) == b""
        assert service.started == 2
        service.go.set()
        answer = await to_the_end(busy)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        assert answer.endswith(b"</busy 0>")


async def test_a_request_sees_that_the_server_ends() -> None:
    """R18."""
    seen: list[bool] = []
    begun = asyncio.Event()

    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        seen.append(scope["state"]["ending"].begun)
        while not scope["state"]["ending"].begun:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        seen.append(True)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with serving(service) as here:
        stream = await opened(here.base, request_text())
        await begun.wait()
        here.server.should_exit = True
        async with asyncio.timeout(PATIENCE):
            assert (await to_the_end(stream)).startswith(b"HTTP/1.1 204")
    assert seen == [False, True]


def test_the_signal_itself_is_seen() -> None:
    """R18: requests still come for a moment, before the listening socket is closed."""
    config = listening.Config(Waiting())
    server = listening.Server(config)
    before = config.ending.begun
    server.handle_exit(signal.SIGTERM, None)
    assert (before, config.ending.begun) == (False, True)
    assert server.should_exit


async def test_a_server_that_ends_is_not_ready(settings: Settings) -> None:
    """R18: balancers see it before the last connection is closed."""
    service = ocr_app.create(settings)
    ending = Ending()

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        await service({**scope, "state": {"ending": ending}}, receive, send)

    transport = httpx.ASGITransport(served)
    async with (
        service_running(service),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        assert (await client.get("/readyz")).status_code == 200
        ending.begun = True
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["status"] == "stopping"
        assert (await client.get("/livez")).status_code == 200
