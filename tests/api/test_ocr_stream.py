"""Answers as streams of events, deadlines, and bodies that are let go early."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message

from files_api.kit.errors import ValidationFailed
from ocr_api import app
from ocr_api.apis import mistral
from ocr_api.apis.mistral import Mistral
from ocr_api.apis.mistral.body import MOST_SECONDS, FileOcrBody, timeout_of, wants_events
from ocr_api.apis.mistral.events import Events
from ocr_api.settings import Settings
from tests import helpers, samples
from tests.api.test_ocr import TEXT_PDF, check_error, data_uri, upload
from tests.bench.fake import CARD, FAKE
from tests.bench.fake import running as running_fake
from tests.conftest import running
from tests.e2e.conftest import FakeVlm, started
from tests.engines import fake_server
from tests.engines.fake_server import DONE, Answer, event, stream, usage

GLM = "zai-org/GLM-OCR"
DOCUMENT = {"type": "document_url", "document_url": data_uri(TEXT_PDF)}
TWO = {"document_content": base64.b64encode(helpers.pages_pdf(2)).decode()}
READ = stream(event("Read."), event(finish="stop"), usage(7, 5), DONE)
HANGING = stream(event("Re"), end=False)
PING = ("", b"")
"""How `parsed` gives a comment."""
SECONDS = re.compile(rb'"seconds":[0-9.e-]+')


def parsed(text: bytes) -> list[tuple[str, bytes]]:
    """Return events as (name, data), strictly: one of each, nothing else, each one ended."""
    assert text.endswith(b"\n\n") or not text
    found = []
    for block in text.split(b"\n\n")[:-1]:
        if block == b": ping":
            found.append(PING)
            continue
        named, data = block.split(b"\n")
        assert named.startswith(b"event: ")
        assert data.startswith(b"data: {")
        assert b"\r" not in block
        found.append((named[7:].decode("ascii"), data[6:]))
        assert isinstance(orjson.loads(data[6:]), dict)
    return found


class Call:
    """One request over ASGI, of a client that takes what is sent piece by piece, or leaves."""

    def __init__(self, service: ASGIApp, body: bytes | None, **headers: str) -> None:
        """Take the service and the body; None: it never comes."""
        pairs = {"host": "127.0.0.1:8000", **headers}.items()
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in pairs]
        self._scope = {
            "type": "http",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/ocr",
            "raw_path": b"/v1/ocr",
            "query_string": b"",
            "headers": raw,
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 1),
        }
        self._service = service
        self._body = body
        self.left = asyncio.Event()
        self._sent: asyncio.Queue[Message] = asyncio.Queue(1)
        self._ended = False
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Call:
        self.task = asyncio.ensure_future(
            self._service(self._scope, self._receive, self._send)  # type: ignore[arg-type]
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, b""
            if body:
                return {"type": "http.request", "body": body}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._sent.put(message)

    async def begun(self) -> None:
        start = await self._sent.get()
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}

    async def piece(self) -> bytes | None:
        """Return the next piece of the answer, None at its end."""
        if self._ended:
            return None
        message = await self._sent.get()
        self._ended = not message.get("more_body", False)
        return message["body"] or await self.piece()

    async def whole(self) -> bytes:
        await self.begun()
        found = b""
        while (piece := await self.piece()) is not None:
            found += piece
        return found


def body_of(document: Mapping[str, Any] = TWO, **more: Any) -> bytes:
    return json.dumps({"model": GLM, "document": document, "stream": True, **more}).encode()


@asynccontextmanager
async def served(
    settings: Settings, answers: Mapping[int, Answer] | None = None, **more: Any
) -> AsyncIterator[tuple[ASGIApp, fake_server.Server]]:
    """Run the service over a model's server that answers pages by their index, else `READ`."""
    servers: list[fake_server.Server] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        found = re.search(r"-p([0-9]+)-", servers[0].requests[-1].headers["x-request-id"])
        assert found
        await (answers or {}).get(int(found[1]), READ)(writer)

    async with fake_server.serving(answer) as server:
        servers.append(server)
        facts = {"engine_urls": {GLM: (server.url,)}, **more}
        service = app.create(settings.model_copy(update=facts))
        async with running(service):
            yield service, server


def after(event: asyncio.Event, answer: Answer = READ) -> Answer:
    async def waiting(writer: asyncio.StreamWriter) -> None:
        await event.wait()
        await answer(writer)

    return waiting


def before(event: asyncio.Event, answer: Answer = READ) -> Answer:
    async def telling(writer: asyncio.StreamWriter) -> None:
        event.set()
        await answer(writer)

    return telling


# --- what is sent ---------------------------------------------------------------------------------


async def streamed(
    client: httpx.AsyncClient, path: str = "/v1/ocr", **more: Any
) -> list[tuple[str, bytes]]:
    answer = await client.post(path, **more)
    assert answer.status_code == 200, answer.text[:500]
    kept = ("content-type", "cache-control", "x-accel-buffering", "x-recto-card")
    assert [answer.headers[name] for name in kept] == [
        "text/event-stream",
        "no-store",
        "no",
        "echo",
    ]
    assert "content-length" not in answer.headers
    return parsed(answer.content)


async def test_a_stream_is_the_whole_answer_in_parts(client: httpx.AsyncClient) -> None:
    """Byte for byte, but for the time that each page took."""
    body = {
        "model": "echo",
        "document": DOCUMENT,
        "pages": "0-2,4",
        "include_image_base64": True,
        "include_blocks": True,
        "image_limit": 3,
        "skip_cache": True,
    }
    same = {"x-request-id": "the-same"}
    whole = (await client.post("/v1/ocr", json=body, headers=same)).content
    events = await streamed(client, json={**body, "stream": True}, headers=same)
    assert [name for name, _ in events] == ["start", "page", "page", "page", "page", "done"]
    answer = json.loads(whole)
    head = {name: answer[name] for name in ("id", "object", "model")}
    assert json.loads(events[0][1]) == {**head, "pages": [0, 1, 2, 4]}
    pages = b",".join(data for name, data in events if name == "page")
    assert pages.count(b'"id":"img-') == 3
    assert b'"id":"img-2.jpeg"' in pages
    assert SECONDS.sub(b"", whole) == SECONDS.sub(
        b"", events[-1][1][:-1] + b',"pages":[' + pages + b"]}"
    )
    assert answer["usage_info"]["pages_processed"] == 4


async def test_the_header_asks_for_a_stream_and_the_body_may_refuse(
    client: httpx.AsyncClient,
) -> None:
    path = f"/v1/files/{await upload(client, TEXT_PDF)}/ocr"
    accept = {"accept": "text/event-stream"}
    body = {"model": "echo", "pages": [1, 3]}
    for asked in ({"json": body, "headers": accept}, {"json": {**body, "stream": True}}):
        events = await streamed(client, path, **asked)
        assert [json.loads(data).get("index") for _, data in events] == [None, 1, 3, None]
    answer = await client.post(path, json={**body, "stream": False}, headers=accept)
    assert [page["index"] for page in answer.json()["pages"]] == [1, 3]


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ([], False),
        (["*/*"], False),
        (["text/event-stream"], True),
        (["Text/Event-Stream; charset=utf-8"], True),
        (["application/json", "text/event-stream;q=0.1"], True),
        (["application/json, text/event-stream"], True),
        (["text/event-stream; q=0"], False),
        (["text/event-stream;q=0.000, application/json"], False),
        (["text/event-streams"], False),
        ([";;,=,;q"], False),
    ],
)
def test_accept(accepted: list[str], *, expected: bool) -> None:
    assert wants_events(FileOcrBody(), accepted) is expected
    assert not wants_events(FileOcrBody(stream=False), accepted)
    assert wants_events(FileOcrBody(stream=True), accepted)


async def test_pages_come_in_order_whichever_is_ready_first(settings: Settings) -> None:
    last = asyncio.Event()
    document = {"document_content": base64.b64encode(helpers.pages_pdf(4)).decode()}
    slow = {0: after(last), 1: after(last), 3: before(last)}
    async with served(settings, slow) as (service, _), Call(service, body_of(document)) as call:
        events = parsed(await call.whole())
    pages = [json.loads(data)["index"] for name, data in events if name == "page"]
    assert pages == [0, 1, 2, 3]
    assert events[-1][0] == "done"


async def test_a_page_is_sent_before_the_next_one_is_read(settings: Settings) -> None:
    second = asyncio.Event()
    async with (
        served(settings, {1: after(second)}) as (service, _),
        Call(service, body_of()) as call,
    ):
        await call.begun()
        first = [parsed(await call.piece() or b"")[0] for _ in range(2)]
        assert [name for name, _ in first] == ["start", "page"]
        second.set()
        assert parsed(await call.piece() or b"")[0][0] == "page"
        totals = json.loads(parsed(await call.piece() or b"")[0][1])
        assert await call.piece() is None
    assert totals["usage_info"] == {
        "pages_processed": 2,
        "pages_reused": 0,
        "doc_size_bytes": len(helpers.pages_pdf(2)),
        "prompt_tokens": 14,
        "completion_tokens": 10,
        "total_tokens": 24,
        "reused_tokens": 0,
        "wasted_tokens": 0,
    }


async def test_an_answer_too_large_to_be_held_can_be_streamed(settings: Settings) -> None:
    document = {"document_url": data_uri(helpers.pages_pdf(5))}
    body = {"model": "echo", "document": document, "include_image_base64": True}
    service = app.create(settings.model_copy(update={"max_answer_bytes": 20_000}))
    transport = httpx.ASGITransport(service)
    async with (
        running(service),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        check_error(await client.post("/v1/ocr", json=body), 400, "answer_too_large")
        events = await streamed(client, json={**body, "stream": True})
    assert sum(len(data) for _, data in events) > 20_000
    assert len(events) == 7


# --- silence, slowness, leaving -------------------------------------------------------------------


async def test_silence_is_filled_with_comments(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mistral, "beat", 0.01)
    ready = asyncio.Event()
    async with (
        served(settings, {0: after(ready)}) as (service, _),
        Call(service, body_of()) as call,
    ):
        await call.begun()
        pieces = [parsed(await call.piece() or b"")[0] for _ in range(4)]
        assert pieces[0][0] == "start"
        assert pieces[1:] == [PING] * 3
        ready.set()
        rest = b""
        while (piece := await call.piece()) is not None:
            rest += piece
    assert [name for name, _ in parsed(rest) if name] == ["page", "page", "done"]


async def test_no_comment_before_the_first_byte_or_after_the_last() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        await asyncio.sleep(0)

    async with Events(send, 0) as events:
        await asyncio.sleep(0.01)
        assert not events.begun
        await events.begin({"x-recto-card": "echo"})
        await events.send("start", b"{}")
        await events.end()
    count = len(sent)
    await asyncio.sleep(0.01)
    assert len(sent) == count
    assert sent[0]["type"] == "http.response.start"
    assert [message["more_body"] for message in sent[1:]] == [True] * (count - 2) + [False]


async def test_a_slow_reader_holds_the_pages_up() -> None:
    """One event is sent at a time: nothing is queued for who does not take it."""
    taken, room = 0, asyncio.Event()
    blocked = asyncio.Event()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            blocked.set()
            await room.wait()

    async def work() -> None:
        nonlocal taken
        async with Events(send, 0.001) as events:
            await events.begin({})
            while taken < 100:
                taken += 1
                await events.send("page", b"{}")

    task = asyncio.create_task(work())
    await blocked.wait()
    await asyncio.sleep(0.01)
    assert taken == 1
    room.set()
    await task
    assert taken == 100


async def test_an_answer_that_was_stopped_before_its_head_still_has_one() -> None:
    """A deadline that ends the wait for room: what is sent next begins the answer."""
    sent: list[Message] = []
    room, waits = asyncio.Event(), asyncio.Event()

    async def send(message: Message) -> None:
        waits.set()
        await room.wait()
        sent.append(message)

    async with Events(send, 0) as events:
        beginning = asyncio.create_task(events.begin({"x-recto-card": "echo"}))
        await waits.wait()
        beginning.cancel()
        await asyncio.wait({beginning})
        assert events.begun
        room.set()
        await events.send("error", b"{}")
        await events.end()
    assert sent[0]["type"] == "http.response.start"
    assert (b"x-recto-card", b"echo") in sent[0]["headers"]
    assert b"event: error\ndata: {}\n\n" in [message["body"] for message in sent[1:]]
    assert [message["type"] for message in sent[1:]] == ["http.response.body"] * (len(sent) - 1)


@pytest.mark.parametrize("fails", [True, False])
async def test_the_last_word_holds_no_room(settings: Settings, *, fails: bool) -> None:
    """R17: ``done``, or ``error``, waits for its client when the request is over."""
    answers = {1: fake_server.plain(b"{}", "400 Bad Request")} if fails else {}
    full = {"max_requests": 1, "org_requests": 1}
    async with (
        served(settings, answers, **full) as (service, _),
        Call(service, body_of()) as call,
    ):
        await call.begun()
        for _ in range(1 if fails else 2):
            await call.piece()  # the last page is not taken: it stands in the way
        async with asyncio.timeout(30):
            while True:
                async with Call(service, body_of(stream=False, pages=0)) as other:
                    await other.whole()
                if other.status == 200:
                    break
                assert other.status in (429, 503)
        rest = b""
        while (piece := await call.piece()) is not None:
            rest += piece
    assert parsed(rest)[-1][0] == ("error" if fails else "done")


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_stops_the_engine(settings: Settings, *, streams: bool) -> None:
    """R21: the page in work is given up, and what was used is written."""
    hanging = asyncio.Event()
    slow = {1: before(hanging, HANGING)}
    async with (
        served(settings, slow) as (service, server),
        Call(service, body_of(stream=streams)) as call,
    ):
        if streams:
            await call.begun()
            assert [parsed(await call.piece() or b"")[0][0] for _ in range(2)] == ["start", "page"]
        await hanging.wait()
        call.left.set()
        if not streams:
            await call.begun()
            assert call.status == 499
            await call.piece()
        await call.task
        await asyncio.wait_for(server.gone.wait(), 10)
    (row,) = helpers.usage_rows(Path(settings.data_dir) / "recto.db")
    assert row["outcome"] == "cancelled"


@pytest.mark.shared
@pytest.mark.skipif(not FAKE.is_file(), reason="there is no stand-in for vLLM here")
def test_a_stream_that_is_left_aborts_what_its_engine_does(tmp_path: Path) -> None:
    """R21: over sockets, and with the count of the model's server as the witness."""
    document = {"document_content": base64.b64encode(helpers.pages_pdf(3)).decode()}
    body = {"model": CARD, "document": document, "stream": True}
    with (
        running_fake("--model", CARD, "--echo-model", "requested") as (base, _),
        httpx.Client(base_url=base) as asked,
        started(tmp_path, ENGINE_URLS=json.dumps({CARD: f"{base}/v1"})) as server,
    ):
        fake = FakeVlm(asked)
        with httpx.stream("POST", f"{server.base}/v1/ocr", json=body, timeout=30) as answer:
            names = [name for name, _ in parsed(answer.read())]
        assert names == ["start", "page", "page", "page", "done"]
        fake.fault("do=hang")
        body["skip_cache"] = True
        with httpx.stream("POST", f"{server.base}/v1/ocr", json=body, timeout=30) as answer:
            lines = answer.iter_lines()  # kept: when it goes, the connection does
            assert next(lines) == "event: start"
            fake.until(lambda now: now["in_flight"] == 3)
        counts = fake.until(lambda now: now["aborted"] == 3)
        assert counts["in_flight"] == 0
        rows = helpers.wait_for_usage(
            tmp_path / "recto.db", lambda row: row["outcome"] == "cancelled"
        )
        assert len(rows) == 1


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"model": "gpt-4"}, 400, "model_not_found"),
        ({"document": None}, 400, "missing_document"),
        ({"document": {"document_content": "@@@@"}}, 400, "invalid_base64"),
        ({"document": {"document_content": "JVBERi0xLjcK"}}, 400, "document_damaged"),
        ({"pages": "9-10"}, 400, "pages_out_of_range"),
        ({"pages": -1}, 422, "validation_error"),
        ({"stream": "some"}, 422, "validation_error"),
    ],
)
async def test_what_fails_before_the_first_event_is_a_plain_error(
    client: httpx.AsyncClient, more: dict[str, Any], status: int, code: str
) -> None:
    body = {"model": "echo", "document": DOCUMENT, "stream": True, **more}
    check_error(await client.post("/v1/ocr", json=body), status, code)


async def test_what_fails_later_is_an_event_with_the_same_body(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = fake_server.plain(b"{}", "400 Bad Request")
    same = {"x_request_id": "the-same"}
    async with served(settings, {1: wrong}) as (service, _):
        async with Call(service, body_of(stream=False), **same) as call:
            plain = await call.whole()
        assert call.status == 500
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            async with Call(service, body_of(skip_cache=True), **same) as call:
                events = parsed(await call.whole())
    assert call.status == 200
    assert [name for name, _ in events] == ["start", "page", "error"]
    assert json.loads(events[-1][1]) == json.loads(plain)
    assert json.loads(plain)["request_id"] == "the-same"
    logged = [record for record in caplog.records if record.name == "files_api.kit.web"]
    assert [record.getMessage() for record in logged] == ["failed"]


async def test_an_accident_in_the_middle_tells_nothing(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("ocr_api.apis.mistral.answer._page", broken)
    async with served(settings) as (service, _), Call(service, body_of()) as call:
        events = parsed(await call.whole())
    assert [name for name, _ in events] == ["start", "error"]
    assert json.loads(events[-1][1])["code"] == "internal_error"
    assert b"secret" not in events[-1][1]
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]


# --- deadlines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [True, False])
async def test_a_deadline_ends_the_work(settings: Settings, *, streams: bool) -> None:
    async with served(settings, {1: HANGING}) as (service, server):
        async with Call(service, body_of(pages=0)) as call:
            await call.whole()  # what starts late has started
        body = body_of(stream=streams)
        async with Call(service, body, x_request_timeout="2.5") as call:
            text = await call.whole()
            await asyncio.wait_for(server.gone.wait(), 10)
    if streams:
        names, data = zip(*parsed(text), strict=True)
        assert (names[0], names[-1]) == ("start", "error")
        text = data[-1]
    assert call.status == (200 if streams else 504)
    assert json.loads(text)["code"] == "deadline_exceeded"


@pytest.mark.parametrize(
    "value", ["0", "-1", "", "abc", "1e3", "86400.1", "inf", "nan", "1,5", "\u00b2", "0x10", "1 2"]
)
async def test_a_bad_timeout_is_refused(client: httpx.AsyncClient, value: str) -> None:
    headers = {"x-request-timeout": value.encode("latin-1")}
    body = {"model": "echo", "document": DOCUMENT, "pages": 0}
    answer = await client.post("/v1/ocr", json=body, headers=headers)
    found = check_error(answer, 422, "validation_error")
    assert found["param"] == "X-Request-Timeout"
    assert found["detail"][0]["loc"] == ["header", "X-Request-Timeout"]
    good = await client.post("/v1/ocr", json=body, headers={"x-request-timeout": "60.5"})
    assert good.status_code == 200


@given(st.decimals(min_value=0, max_value=2 * MOST_SECONDS, places=6, allow_nan=False))
def test_decimal_timeouts(value: Any) -> None:
    text = f"{value:f}"
    if 0 < value <= MOST_SECONDS:
        assert timeout_of([text]) == timeout_of([f" {text} "]) == float(value)
    else:
        with pytest.raises(ValidationFailed):
            timeout_of([text])


@given(
    st.lists(st.text(st.characters(max_codepoint=255)) | st.from_regex(r"[0-9.+e-]*"), max_size=3)
)
def test_whatever_stands_in_the_header(values: list[str]) -> None:
    text = values[0].strip() if len(values) == 1 else ""
    if re.fullmatch(r"[0-9]+([.][0-9]+)?", text) and 0 < float(text) <= MOST_SECONDS:
        assert timeout_of(values) == float(text)
    elif values:
        with pytest.raises(ValidationFailed) as caught:
            timeout_of(values)
        assert caught.value.param == "X-Request-Timeout"
    else:
        assert timeout_of(values) is None


# --- room, and bodies that are let go -------------------------------------------------------------


def large_image(size: int) -> dict[str, Any]:
    """Return one page of print, and zeros behind it."""
    jpeg = samples.print_jpeg((600, 300))
    return {"document_content": base64.b64encode(jpeg + bytes(size - len(jpeg))).decode()}


async def test_a_body_is_counted_no_more_once_its_pages_wait(settings: Settings) -> None:
    """R17: five documents wait for their engine, of which two bodies would fill the share."""
    asked: asyncio.Queue[None] = asyncio.Queue()
    ready = asyncio.Event()

    async def waiting(writer: asyncio.StreamWriter) -> None:
        asked.put_nowait(None)
        await ready.wait()
        await READ(writer)

    body = body_of(large_image(settings.max_inline_bytes - 1000), stream=False, skip_cache=True)
    assert 4 * len(body) > 2 * settings.max_json_bytes, "four are more than one owner's share"
    async with served(settings, {0: waiting}) as (service, _), AsyncExitStack() as stack:
        calls = []
        for _ in range(5):
            calls.append(await stack.enter_async_context(Call(service, body)))
            await asyncio.wait_for(asked.get(), 20)
        ready.set()
        await asyncio.gather(*[call.whole() for call in calls])
    assert [call.status for call in calls] == [200] * 5


@pytest.mark.parametrize("streams", [True, False])
async def test_a_document_is_not_held_while_its_pages_wait(
    settings: Settings, *, streams: bool
) -> None:
    size = 8 * 2**20
    body = body_of(large_image(size), stream=streams, skip_cache=True)
    asked, ready = asyncio.Event(), asyncio.Event()
    waiting = before(asked, after(ready))
    roomy = {"max_inline_bytes": 2 * size}
    async with served(settings, {0: waiting}, **roomy) as (service, _):
        tracemalloc.start()
        try:
            async with Call(service, body) as call:
                taking = asyncio.create_task(call.whole())
                await asyncio.wait_for(asked.wait(), 30)
                held, most = tracemalloc.get_traced_memory()
                ready.set()
                await taking
        finally:
            tracemalloc.stop()
    assert call.status == 200
    assert most > size
    assert held < size / 2


async def test_a_request_without_room_is_refused_before_its_body_comes(settings: Settings) -> None:
    """R14: at once, and the body that it announces is not waited for."""
    asked, ready = asyncio.Event(), asyncio.Event()
    waiting = {0: before(asked, after(ready))}
    full = {"max_requests": 1, "org_requests": 1}
    async with served(settings, waiting, **full) as (service, _), Call(service, body_of()) as call:
        taking = asyncio.create_task(call.whole())
        await asked.wait()
        async with Call(service, None) as other:
            refused = json.loads(await other.whole())
        assert other.status in (429, 503)
        assert refused["code"] in ("rate_limit_exceeded", "overloaded")
        assert 1 <= int(other.headers["retry-after"]) <= 120
        ready.set()
        assert parsed(await taking)[-1][0] == "done"


class SlowCall(Call):
    """It takes no more than the head until it is told to."""

    def __init__(self, service: ASGIApp, body: bytes | None) -> None:
        super().__init__(service, body)
        self.waits, self.goes_on = asyncio.Event(), asyncio.Event()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.waits.set()
            await self.goes_on.wait()
        await super()._send(message)


async def test_whole_answers_take_room_until_they_are_sent(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R17: a client that does not take its answer leaves no room for another, but for a stream."""
    monkeypatch.setattr(app, "SMALL_BYTES", 0)
    body = body_of(stream=False)
    little = {"max_answer_bytes": 1024, "max_answers_bytes": 1024}
    async with served(settings, **little) as (service, _), SlowCall(service, body) as slow:
        await asyncio.wait_for(slow.waits.wait(), 30)
        async with Call(service, body) as other:
            refused = json.loads(await other.whole())
        assert (other.status, refused["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(other.headers["retry-after"]) <= 120
        async with Call(service, body_of()) as stream:
            assert parsed(await stream.whole())[-1][0] == "done"
        slow.goes_on.set()
        pages = json.loads(await slow.whole())["pages"]
        assert 512 < len(orjson.dumps(pages)) < 1024, "two are more than there is room for"
        await slow.task
        async with Call(service, body) as again:
            await again.whole()
        assert again.status == 200


async def test_who_takes_an_answer_too_slowly_loses_its_room(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "SMALL_BYTES", 0)
    body = body_of(stream=False)
    little = {"max_answer_bytes": 1024, "max_answers_bytes": 1024}
    async with served(settings, **little) as (service, _), Call(service, body) as first:
        await first.whole()
        monkeypatch.setattr(mistral, "_SEND_SECONDS", 0.0)
        async with SlowCall(service, body) as slow:
            await slow.begun()
            done, _ = await asyncio.wait({slow.task}, timeout=10)
            assert done
        monkeypatch.undo()
        async with Call(service, body) as again:
            await again.whole()
        assert again.status == 200


# --- what is reused -------------------------------------------------------------------------------


async def test_pages_that_were_kept_say_so(settings: Settings) -> None:
    async with served(settings) as (service, server):
        answers = []
        for skips in (False, False, True):
            async with Call(service, body_of(stream=False, skip_cache=skips)) as call:
                answers.append(json.loads(await call.whole()))
    used = [answer["usage_info"] for answer in answers]
    assert [[page["reused"] for page in answer["pages"]] for answer in answers] == [
        [False, False],
        [True, True],
        [False, False],
    ]
    assert [one["pages_reused"] for one in used] == [0, 2, 0]
    assert [one["total_tokens"] for one in used] == [24, 0, 24]
    assert [one["reused_tokens"] for one in used] == [0, 24, 0]
    assert [one["pages_processed"] for one in used] == [2, 2, 2]
    assert len(server.requests) == 4


def test_the_documentation_shows_both_answers(settings: Settings) -> None:
    service: Any = app.create(settings)
    while not hasattr(service, "openapi"):
        service = service.app
    document = service.openapi()
    for path in ("/v1/ocr", "/v1/files/{file_id}/ocr"):
        route = document["paths"][path]["post"]
        assert set(route["responses"]["200"]["content"]) == {
            "application/json",
            "text/event-stream",
        }
        shown = {status: found["description"] for status, found in route["responses"].items()}
        assert "`deadline_exceeded`" in shown["504"]
        assert "`rate_limit_exceeded`" in shown["429"]
        assert "`overloaded`" in shown["503"]
        names = [parameter["name"] for parameter in route["parameters"]]
        assert "X-Request-Timeout" in names
        fields = route["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert {"stream", "skip_cache"} <= set(fields)
