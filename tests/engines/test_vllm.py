"""The engine of model servers: what it sends, what it understands, and how it fails."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pybase64
import pytest

from files_api.kit import traces
from files_api.kit.errors import (
    AppError,
    ContextTooLong,
    EngineBusy,
    EngineTimeout,
    EngineUnavailable,
    PageFailed,
    SchemaRefused,
)
from model_registry.card import Card, Sampling
from ocr_api import stages
from ocr_api.engines import PageRefused, PageTask, Question, Supplies
from ocr_api.engines.vllm import Vllm
from ocr_api.engines.vllm.answer import MAX_BYTES, Lines
from ocr_api.engines.vllm.tokens import align
from ocr_api.pages import DrawnPage
from ocr_api.processes import Pool
from ocr_api.result import Reading, Token, Usage
from tests import otlp
from tests.engines import fake_server
from tests.engines.fake_server import DONE, data, event, plain, serving, stream, usage

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT.parent / "shared" / "tools" / "fake_vlm.py"
JPEG = bytes(range(256)) * 5
SECRET = "Mr Secret"

CARD = Card.model_validate(
    {
        "id": "some/model",
        "engine": "vllm",
        "parser": "plain",
        "name": "A model",
        "description": "For tests.",
        "licence": "MIT",
        "source": "none",
        "context": 16384,
        "page_seconds": 20,
    }
)
NOW = CARD.model_copy(update={"page_seconds": 0.2})
VLLM = CARD.model_copy(
    update={"sampling": Sampling(repetition_detection={"max_pattern_size": 4, "min_count": 8})}
)
GOOD = stream(event("# Head"), event("ing"), event("", "stop"), usage(7, 3), DONE)


def no_pool(entry: str, memory_bytes: int) -> Pool:
    raise AssertionError("this engine has no processes")


@pytest.fixture
async def engine() -> AsyncIterator[Vllm]:
    engine = Vllm(Supplies(no_pool))
    await engine.start()
    yield engine
    await engine.close()


def task(url: str, **changes: Any) -> PageTask:
    page = DrawnPage(3, 80, 60, 72, JPEG, blank=False, pictures=())
    basic: dict[str, Any] = {
        "card": CARD,
        "prompt": f"Read: {SECRET}",
        "request_id": "doc-p3-a1",
        "url": url,
    }
    return PageTask(page=page, **(basic | changes))


async def fails(engine: Vllm, url: str, error: type[AppError], **changes: Any) -> str:
    """Return the message of the error, which is of exactly that class and holds no content."""
    with pytest.raises(error) as caught:
        await engine.read(task(url, **changes))
    assert type(caught.value) is error
    assert SECRET not in caught.value.message
    return caught.value.message


# --- what is sent ---------------------------------------------------------------------------------


async def test_the_body_is_the_canonical_request(engine: Vllm) -> None:
    sampling = Sampling(
        temperature=0.0, stop_token_ids=(5, 6), vllm_xargs={"ngram_size": 30, "ids": [1, 2]}
    )
    async with serving(GOOD) as server:
        await engine.read(task(server.url, sampling=sampling, max_tokens=4096))
    [request] = server.requests
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.headers["x-request-id"] == "doc-p3-a1"
    assert request.headers["content-type"] == "application/json"
    assert "authorization" not in request.headers
    assert orjson.loads(request.body) == {
        "model": "some/model",
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 4096,
        "temperature": 0.0,
        "stop_token_ids": [5, 6],
        "vllm_xargs": {"ngram_size": 30, "ids": [1, 2]},
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image_url",
                        "image_url": {
                            "url": "data:image/jpeg;base64," + pybase64.b64encode(JPEG).decode()
                        },
                    },
                    {"type": "text", "text": f"Read: {SECRET}"},
                ],
            }
        ],
    }


async def test_without_prompt_the_picture_stands_alone(engine: Vllm) -> None:
    async with serving(GOOD) as server:
        await engine.read(task(server.url, prompt=None))
        await engine.read(task(server.url, prompt=""))
    for request in server.requests:
        body = orjson.loads(request.body)
        assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url"]
        assert body["stream_options"] == {"include_usage": True}
        assert body.keys() == {"model", "stream", "stream_options", "max_tokens", "messages"}


async def test_half_a_character_in_a_prompt_is_replaced(engine: Vllm) -> None:
    async with serving(GOOD) as server:
        await engine.read(task(server.url, prompt="a\udcff"))
    content = orjson.loads(server.requests[0].body)["messages"][0]["content"]
    assert content[1]["text"] == "a?"


async def test_a_question_has_a_schema_and_need_not_have_a_picture(engine: Vllm) -> None:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    async with serving(GOOD) as server:
        reading = await engine.ask(
            Question(card=CARD, url=server.url, prompt="What?", schema=schema, max_tokens=9)
        )
    body = orjson.loads(server.requests[0].body)
    assert reading.text == "# Heading"
    assert body["messages"][0]["content"] == [{"type": "text", "text": "What?"}]
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
    assert "x-request-id" not in server.requests[0].headers


async def test_the_key_is_sent_and_a_large_page_arrives_whole() -> None:
    large = JPEG * 2000
    engine = Vllm(Supplies(no_pool, api_key="the-key"))
    async with serving(GOOD) as server:
        asked = task(server.url)
        await engine.read(replace(asked, page=replace(asked.page, jpeg=large)))
    await engine.close()
    [request] = server.requests
    assert request.headers["authorization"] == "Bearer the-key"
    url = orjson.loads(request.body)["messages"][0]["content"][0]["image_url"]["url"]
    assert pybase64.b64decode(url.removeprefix("data:image/jpeg;base64,")) == large


# --- what is understood ---------------------------------------------------------------------------


async def test_a_stream_becomes_a_reading(engine: Vllm) -> None:
    async with serving(GOOD) as server:
        reading = await engine.read(task(server.url))
    assert reading == Reading(text="# Heading", usage=Usage(7, 3), finish_reason="stop")


@pytest.mark.parametrize("reason", ["stop", "length", "repetition"])
async def test_reasons_of_a_whole_answer_pass(engine: Vllm, reason: str) -> None:
    async with serving(stream(event("a"), event(None, reason), usage(1, 1), DONE)) as server:
        assert (await engine.read(task(server.url))).finish_reason == reason


async def test_comments_line_ends_and_a_missing_end_are_understood(engine: Vllm) -> None:
    said = [b": ping\r\n\r\n", event("é").replace(b"\n", b"\r\n"), b"event: x\nid: 1\n"]
    said += [b"data:" + event("!", "stop")[6:], usage(1, 2)]
    async with serving(stream(*said)) as server:
        reading = await engine.read(task(server.url))
    assert (reading.text, reading.usage) == ("é!", Usage(1, 2))


def test_events_are_the_same_however_the_bytes_are_cut() -> None:
    text = (event("héllo 日本 🙂") + b": ping\n\n" + usage(1, 2) + DONE).replace(
        b"\n\n", b"\r\n\r\n"
    )
    whole = Lines().feed(text)
    assert len(whole) == 3
    assert orjson.loads(whole[0])["choices"][0]["delta"]["content"] == "héllo 日本 🙂"
    for size in range(1, len(text)):
        lines = Lines()
        cuts = range(0, len(text), size)
        assert [item for at in cuts for item in lines.feed(text[at : at + size])] == whole


@pytest.mark.parametrize("chunk", [b"x" * 65536, b"data: {}\n" * 8000])
def test_an_endless_stream_ends(chunk: bytes) -> None:
    lines = Lines()

    def feed_all() -> None:
        for _ in range(MAX_BYTES // len(chunk) + 2):
            lines.feed(chunk)

    with pytest.raises(PageFailed, match="too large"):
        feed_all()


async def test_a_server_that_does_not_stream_is_understood(engine: Vllm) -> None:
    choice = {"message": {"role": "assistant", "content": "text"}, "finish_reason": "length"}
    body = {"choices": [choice], "usage": {"prompt_tokens": 4, "completion_tokens": 5}}
    async with serving(plain(orjson.dumps(body))) as server:
        reading = await engine.read(task(server.url))
    assert reading == Reading(text="text", usage=Usage(4, 5), finish_reason="length")


async def test_null_is_an_empty_answer(engine: Vllm) -> None:
    async with serving(stream(event(None), event(None, "stop"), usage(4, 1), DONE)) as server:
        assert (await engine.read(task(server.url))).text == ""


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (usage(10**9, 10**9), Usage()),
        (usage(-1, 5), Usage(0, 5)),
        (usage("7", 5), Usage(0, 5)),
        (usage(True, 5.0), Usage()),
        (fake_server.data({"choices": [], "usage": "many"}), Usage()),
        (fake_server.data({"choices": [], "usage": None}), Usage()),
    ],
)
async def test_counts_that_cannot_be_true_are_nothing(
    engine: Vllm, counts: bytes, expected: Usage, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(stream(event(SECRET, "stop"), counts, DONE)) as server:
        reading = await engine.read(task(server.url))
    assert (reading.text, reading.usage) == (SECRET, expected)
    [record] = [item for item in caplog.records if item.msg == "usage_is_wrong"]
    assert record.__dict__["facts"] == {"card": "some/model", "task": "doc-p3-a1"}


# --- probabilities --------------------------------------------------------------------------------


def said(*tokens: tuple[str | None, list[int] | None, float]) -> list[dict[str, Any]]:
    return [{"token": token, "bytes": raw, "logprob": value} for token, raw, value in tokens]


async def test_pieces_have_probabilities_where_asked(engine: Vllm) -> None:
    one = said(("Tot", list(b"Tot"), 0.0), ("al", list(b"al"), -0.6931471805599453))
    events = [event("Total", logprobs={"content": one}), event("", "stop", logprobs=None)]
    async with serving(stream(*events, usage(1, 2), DONE)) as server:
        reading = await engine.read(task(server.url, want_probabilities=True))
    body = orjson.loads(server.requests[0].body)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 0)
    assert reading.tokens == (Token("Tot", 1.0), Token("al", 0.5))


def test_split_characters_special_tokens_and_a_lost_space_are_laid_along_the_text() -> None:
    half = -0.6931471805599453
    smile = list("🙂".encode())
    tokens = said(
        ("<s>", list(b"<s>"), half),
        (" a", list(b" a"), half),
        ("�", smile[:2], half),
        ("�", smile[2:], half),
        (" b", list(b" b"), 0.0),
        ("</s>", list(b"</s>"), half),
    )
    expected = (Token("a", 0.5), Token("🙂", 0.25), Token(" b", 1.0))
    assert align("a🙂 b", tokens, 5) == expected
    assert align("a🙂 b", tokens, 3) == (*expected[:2], Token(" ", 1.0))


def test_tokens_without_bytes_may_break_characters() -> None:
    tokens = said(("a", None, 0.0), ("�", None, -1.0), ("�", None, -1.0), ("b", None, 0.0))
    assert "".join(token.text for token in align("a🙂b", tokens, 4)) == "a🙂b"
    assert "".join(token.text for token in align("a🙂", tokens[:3], 4)) == "a🙂"


@pytest.mark.parametrize(
    "wrong",
    [
        said(("b", None, 0.0)),
        said((" b", None, 0.0), ("d", None, 0.0)),
        [{"token": "a", "logprob": None}],
        [{"token": "a", "bytes": [300], "logprob": 0}],
        [{"token": 5, "logprob": 0}],
        ["a"],
        [{}],
    ],
)
def test_tokens_that_do_not_fit_are_left_out(wrong: list[Any]) -> None:
    assert align("abcd", wrong, 4) == ()


# --- answers that are stopped ---------------------------------------------------------------------


async def test_a_loop_is_stopped_by_closing_the_connection(engine: Vllm) -> None:
    events = [event("Once. "), *[event("upon a time " * 5)] * 40]
    async with serving(stream(*events, end=False)) as server:
        reading = await engine.read(task(server.url))
        await asyncio.wait_for(server.gone.wait(), 5)
    assert reading == Reading(text="Once. upon a time ", finish_reason="repetition")


async def test_an_answer_beyond_its_bound_is_stopped_with_the_counts_so_far(engine: Vllm) -> None:
    counts = {"prompt_tokens": 9, "completion_tokens": 70}
    words = " ".join(map(str, range(100)))
    events = [fake_server.data(orjson.loads(event(words)[6:]) | {"usage": counts})]
    async with serving(stream(*events, end=False)) as server:
        reading = await engine.read(task(server.url, card=VLLM, max_chars=200))
        await asyncio.wait_for(server.gone.wait(), 5)
    assert reading == Reading(text=words, usage=Usage(9, 70), finish_reason="implausible")


async def test_a_caller_who_leaves_closes_the_connection(engine: Vllm) -> None:
    async with serving(stream(event("slow"), end=False)) as server:
        reading = asyncio.create_task(engine.read(task(server.url)))
        await asyncio.wait_for(server.asked.wait(), 5)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(server.gone.wait(), 5)


# --- refusals -------------------------------------------------------------------------------------


def refused(status: str, message: str = SECRET, **more: object) -> fake_server.Answer:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": 400} | more
    return plain(orjson.dumps({"error": error}), status)


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        ("400 Bad Request", "The prompt is longer than the maximum model length", ContextTooLong),
        ("400 Bad Request", "This model's maximum context length is 8192 tokens", ContextTooLong),
        ("400 Bad Request", "The prompt (total length 9) is too long", ContextTooLong),
        ("400 Bad Request", f"cannot identify image {SECRET}", PageRefused),
        ("400 Bad Request", "Grammar error", PageRefused),
        ("422 Unprocessable Entity", SECRET, PageRefused),
        ("413 Too Large", SECRET, PageFailed),
        ("401 Unauthorized", SECRET, EngineUnavailable),
        ("403 Forbidden", SECRET, EngineUnavailable),
        ("404 Not Found", SECRET, EngineUnavailable),
        ("307 Temporary Redirect", SECRET, EngineUnavailable),
        ("429 Too Many", SECRET, EngineBusy),
        ("503 Service Unavailable", SECRET, EngineBusy),
        ("500 Internal Server Error", SECRET, PageFailed),
        ("202 Accepted", SECRET, PageFailed),
    ],
)  # fmt: skip
async def test_a_status_has_one_meaning(
    engine: Vllm, status: str, message: str, error: type[AppError]
) -> None:
    async with serving(refused(status, message)) as server:
        said = await fails(engine, server.url, error)
    assert error is ContextTooLong or status[:3] in said


@pytest.mark.parametrize(
    "message",
    ["Invalid JSON schema", "compile_grammar failed", "response_format: too odd"],
)
async def test_a_schema_may_be_refused(engine: Vllm, message: str) -> None:
    async with serving(refused("400 Bad Request", message)) as server:
        await fails(engine, server.url, SchemaRefused, schema={"type": "object"})
        await fails(engine, server.url, PageRefused)


async def test_a_refusal_may_come_inside_a_stream(engine: Vllm) -> None:
    busy = fake_server.data({"error": {"message": SECRET, "code": 503}})
    broken = fake_server.data({"error": {"message": SECRET, "code": "odd"}})
    async with serving(stream(event("a"), busy, DONE), stream(broken, DONE)) as server:
        await fails(engine, server.url, EngineBusy)
        await fails(engine, server.url, PageFailed)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (stream(event("a"), event("", "abort"), DONE), EngineUnavailable),
        (stream(event("a"), event("", "error"), DONE), PageFailed),
        (stream(event("a"), event("", "tool_calls"), DONE), PageFailed),
        (stream(event("a"), DONE), PageFailed),
        (stream(event("a")), PageFailed),
        (stream(DONE), PageFailed),
        (stream(), PageFailed),
        (stream(b"data: {\n\n"), PageFailed),
        (stream(b"data: 5\n\n"), PageFailed),
        (stream(fake_server.data({"choices": 5})), PageFailed),
        (stream(fake_server.data({"choices": [5]})), PageFailed),
        (stream(event("a", ["stop"])), PageFailed),  # type: ignore[arg-type]
        (stream(event(["a"], "stop")), PageFailed),  # type: ignore[arg-type]
        (plain(b""), PageFailed),
        (plain(b"<html>", kind="text/html"), PageFailed),
        (plain(b'{"choices": []}'), PageFailed),
        (plain(b'{"choices": [{"mess'), PageFailed),
        (fake_server.cut(stream(event("a"), end=False)), PageFailed),
        (fake_server.cut(stream(event("a"), end=False), reset=True), PageFailed),
        (fake_server.cut(stream(end=False)), EngineUnavailable),
        (fake_server.cut(fake_server.nothing), EngineUnavailable),
        (fake_server.cut(fake_server.nothing, reset=True), EngineUnavailable),
    ],
)
async def test_what_is_no_whole_answer_is_an_error(
    engine: Vllm, answer: fake_server.Answer, error: type[AppError]
) -> None:
    async with serving(answer) as server:
        await fails(engine, server.url, error)
    assert len(server.requests) == 1


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


async def raw(writer: asyncio.StreamWriter, said: bytes) -> None:
    writer.write(said)


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        STREAM_HEAD + b"zz\r\nno chunk",
    ],
)
async def test_what_is_no_http_is_no_server(engine: Vllm, said: bytes) -> None:
    async with serving(lambda writer: raw(writer, said)) as server:
        await fails(engine, server.url, EngineUnavailable)


async def test_an_answer_is_kept_where_only_its_end_is_lost(engine: Vllm) -> None:
    async with serving(fake_server.cut(stream(event("a", "stop"), end=False))) as server:
        assert (await engine.read(task(server.url))).text == "a"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1", "no url", "ftp://a/v1", None]
)
async def test_a_server_that_is_not_there(engine: Vllm, url: str | None) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        await engine.read(replace(task(""), url=url))
    assert "some/model" in caught.value.message
    assert await engine.problem(CARD, url)


async def test_a_key_that_fits_no_header() -> None:
    engine = Vllm(Supplies(no_pool, api_key="two\nlines"))
    await fails(engine, "http://127.0.0.1:9/v1", EngineUnavailable)
    await engine.close()


@pytest.mark.parametrize(
    "answer", [fake_server.nothing, stream(end=False), stream(event("a"), end=False)]
)
async def test_a_page_has_its_time(
    engine: Vllm, answer: fake_server.Answer, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(answer) as server:
        await fails(engine, server.url, EngineTimeout, card=NOW)
        await asyncio.wait_for(server.gone.wait(), 5)
    [record] = [item for item in caplog.records if item.msg == "engine_timeout"]
    assert record.levelno == logging.WARNING
    facts = record.__dict__["facts"]
    assert facts.keys() == {"card", "task", "page", "seconds", "why"}
    assert SECRET not in json.dumps(facts)


# --- connections ----------------------------------------------------------------------------------


async def test_a_connection_is_used_again(engine: Vllm) -> None:
    async with serving(GOOD) as server:
        for _ in range(5):
            await engine.read(task(server.url))
    assert server.connections == 1


async def test_a_connection_is_used_again_where_the_end_comes_late(engine: Vllm) -> None:
    async with serving(fake_server.late(stream(event("a", "stop"), DONE, end=False))) as server:
        for _ in range(3):
            await engine.read(task(server.url))
    assert server.connections == 1


async def test_as_many_pages_as_are_asked_for_are_read_at_once(engine: Vllm) -> None:
    async with serving(stream(event("a"), end=False)) as server:
        reads = [asyncio.create_task(engine.read(task(server.url))) for _ in range(300)]
        async with asyncio.timeout(10):
            while len(server.requests) < len(reads):
                await server.asked.wait()
                server.asked.clear()
        assert server.connections == len(reads)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


@pytest.mark.parametrize("reset", [True, False])
async def test_a_kept_connection_that_ended_is_replaced(engine: Vllm, *, reset: bool) -> None:
    ended = fake_server.cut(fake_server.nothing, reset=reset)
    async with serving(GOOD, ended, GOOD) as server:
        await engine.read(task(server.url))
        assert (await engine.read(task(server.url))).text == "# Heading"
    assert [request.connection for request in server.requests] == [1, 1, 2]
    assert server.requests[1].body == server.requests[2].body


async def test_a_new_connection_that_ends_is_not_tried_again(engine: Vllm) -> None:
    ended = fake_server.cut(fake_server.nothing)
    async with serving(GOOD, ended) as server:
        await engine.read(task(server.url))
        await fails(engine, server.url, EngineUnavailable)
    assert [request.connection for request in server.requests] == [1, 1, 2]


async def test_it_works_again_after_it_was_closed(engine: Vllm) -> None:
    async with serving(GOOD) as server:
        await engine.close()
        await engine.close()
        assert (await engine.read(task(server.url))).text == "# Heading"


# --- the list of models ---------------------------------------------------------------------------


def models(*names: str, length: object = 16384) -> fake_server.Answer:
    listed = [{"id": name, "max_model_len": length} for name in names]
    return plain(orjson.dumps({"object": "list", "data": listed}))


async def test_a_server_with_the_model_has_no_problem(engine: Vllm) -> None:
    async with serving(models("other", "some/model")) as server:
        assert await engine.problem(CARD, server.url + "/") is None
    assert server.requests[0].line == "GET /v1/models HTTP/1.1"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (models(*"abcdefg"), "does not serve some/model; it serves a, b, c, d, e."),
        (models(), "it serves nothing"),
        (plain(b"{}"), "does not list"),
        (plain(b"<html>", kind="text/html"), "does not list"),
        (plain(b'{"data": [5]}'), "does not list"),
        (plain(b"{}", "401 Unauthorized"), "refuses the key"),
        (plain(b"{}", "500 Oh"), "(500)"),
        (plain(b"", "302 Found", extra="Location: /x\r\n"), "another address"),
        (fake_server.cut(fake_server.nothing), "hung up"),
    ],
)
async def test_a_problem_is_said(engine: Vllm, answer: fake_server.Answer, says: str) -> None:
    async with serving(answer) as server:
        assert says in (await engine.problem(CARD, server.url) or "")


async def test_no_more_is_asked_for_than_the_server_has(
    engine: Vllm, caplog: pytest.LogCaptureFixture
) -> None:
    listed = models("some/model", length=1000)
    async with serving(listed, listed, models("some/model", length="x"), GOOD) as server:
        for _ in range(3):
            assert await engine.problem(CARD, server.url) is None
        await engine.read(task(server.url, max_tokens=4096))
        await engine.read(task(server.url, max_tokens=500))
    asked = [orjson.loads(request.body)["max_tokens"] for request in server.requests[3:]]
    assert asked == [1000, 500]
    assert [item.msg for item in caplog.records].count("server_has_less_context") == 1


# --- a server that is much like vLLM --------------------------------------------------------------


class Fake:
    """The stand-in for vLLM, in a process of its own."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.url = f"{self.base}/v1"

    async def tell(self, path: str, body: object) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.base + path, data=orjson.dumps(body)) as answer,
        ):
            assert answer.status == 200, await answer.text()

    async def fault(self, rule: object) -> None:
        await self.tell("/_reset", {"faults": True})
        await self.tell("/_faults", rule)

    async def stats(self) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.base + "/_stats") as answer,
        ):
            found: dict[str, Any] = await answer.json()
            return found

    async def until(self, count: str) -> dict[str, Any]:
        """Return the counts once this one is not 0."""
        async with asyncio.timeout(5):
            while not (found := await self.stats())[count]:
                pass
        return found


@contextmanager
def running(*options: str) -> Iterator[Fake]:
    """Run the stand-in; give where it listens."""
    command = [sys.executable, str(FAKE), "--port", "0", "--model", CARD.id, "--any-image"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield Fake(json.loads(process.stdout.readline())["port"])
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    if not FAKE.is_file():
        pytest.skip("there is no stand-in for vLLM here")
    with running("--stream-chunks", "200", "--mode", "fixed", "--delay", "0.2") as made:
        yield made


@pytest.mark.shared
async def test_the_stand_in_reads_a_page(engine: Vllm, fake: Fake) -> None:
    await fake.tell("/_reset", {"faults": True})
    assert await engine.problem(CARD, fake.url) is None
    reading = await engine.read(task(fake.url))
    assert reading.text.startswith("# Page")
    assert reading.finish_reason == "stop"
    assert reading.usage.completion_tokens > 100


@pytest.mark.shared
@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13, 17, 31, 48, 64])
@pytest.mark.parametrize("first", ["A", "_"])
async def test_a_loop_wastes_at_most_a_quarter(
    engine: Vllm, fake: Fake, length: int, first: str
) -> None:
    # With "_" a unit has neither letter nor digit, and the watch waits longer.
    pattern = "".join(chr(ord(first) + place) for place in range(length if first == "A" else 1))
    await fake.fault({"do": "loop", "ignore_detection": 1, "pattern": pattern * length})
    reading = await engine.read(task(fake.url, card=VLLM, max_tokens=4096))
    assert reading.finish_reason == "repetition"
    assert reading.text.startswith(pattern)
    assert len(reading.text) < 2 * len(pattern) + 1
    assert 0 < reading.usage.completion_tokens <= 1024
    assert (await fake.until("aborted"))["completed"] == 0


@pytest.mark.shared
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("do=truncate,tokens=50", "length"),
        ("do=empty-content", "stop"),
        ("do=empty-content,kind=null", "stop"),
        ("do=usage,kind=huge", "stop"),
        ("do=usage,kind=zero", "stop"),
        ("do=usage,kind=negative", "stop"),
        ("do=usage,kind=string", "stop"),
        ("do=usage,kind=null", "stop"),
        ("do=usage,kind=missing", "stop"),
        ("do=finish,reason=abort", EngineUnavailable),
        ("do=finish,reason=error", PageFailed),
        ("do=stream-error", PageFailed),
        ("do=garbage", PageFailed),
        ("do=garbage,kind=html", PageFailed),
        ("do=garbage,kind=empty", PageFailed),
        ("do=empty-choices", PageFailed),
        ("do=close,at=0", PageFailed),  # in a stream, that is after the first event
        ("do=reset,at=0", PageFailed),
        ("do=close", PageFailed),
        ("do=reset", PageFailed),
        ("do=hang", EngineTimeout),
        ("do=hang,at=0.5", EngineTimeout),
        ("do=http400", PageRefused),
        ("do=http400,message=maximum context length", ContextTooLong),
        ("do=http404", EngineUnavailable),
        ("do=http422", PageRefused),
        ("do=http429", EngineBusy),
        ("do=http500", PageFailed),
        ("do=http503", EngineBusy),
    ],
)
async def test_every_fault_has_one_outcome(
    engine: Vllm, fake: Fake, rule: str, expected: str | type[AppError]
) -> None:
    await fake.fault(rule)
    card = NOW if "hang" in rule else CARD
    if isinstance(expected, str):
        reading = await engine.read(task(fake.url, card=card))
        assert reading.finish_reason == expected
        if "usage" in rule:
            assert reading.usage == Usage()
    else:
        await fails(engine, fake.url, expected, card=card)
    assert (await fake.stats())["requests"] in (1, 2)


@pytest.mark.shared
async def test_the_stand_in_notices_a_caller_who_leaves(engine: Vllm, fake: Fake) -> None:
    await fake.fault("do=hang,at=0.5")
    reading = asyncio.create_task(engine.read(task(fake.url)))
    await fake.until("running")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await fake.until("aborted")


@pytest.mark.shared
async def test_a_server_that_went_away_is_a_server_that_does_not_answer(engine: Vllm) -> None:
    if not FAKE.is_file():
        pytest.skip("there is no stand-in for vLLM here")
    with running("--fault", "do=die") as fake:
        await fails(engine, fake.url, EngineUnavailable)
        await fails(engine, fake.url, EngineUnavailable)


def test_the_port_of_nothing_is_closed() -> None:
    """The tests above take port 9 of this machine for a server that is not there."""
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 9)) != 0


WORDS = "max_tokens=8192 cannot be greater than max_model_len=4096."
TOO_MUCH = refused("400 Bad Request", WORDS, param="max_tokens")


async def test_a_server_with_less_context_is_asked_again(engine: Vllm) -> None:
    async with serving(TOO_MUCH, models("some/model", length=4096), GOOD) as server:
        assert (await engine.read(task(server.url, max_tokens=8192))).text == "# Heading"
        await engine.read(task(server.url, max_tokens=8192))
    lines = [request.line.split()[:2] for request in server.requests]
    chat = ["POST", "/v1/chat/completions"]
    assert lines == [chat, ["GET", "/v1/models"], chat, chat]
    asked = [orjson.loads(server.requests[place].body)["max_tokens"] for place in (0, 2, 3)]
    assert asked == [8192, 4096, 4096]


@pytest.mark.parametrize(
    "listed", [models("some/model", length=None), models(), plain(b"", "500 Oh")]
)
async def test_a_server_that_does_not_say_its_context_is_not_asked_again(
    engine: Vllm, listed: fake_server.Answer
) -> None:
    async with serving(TOO_MUCH, listed) as server:
        await fails(engine, server.url, ContextTooLong, max_tokens=8192)
    assert len(server.requests) == 2


# --- traces ---------------------------------------------------------------------------------------

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_callers_trace_goes_to_the_server_with_the_request_id(engine: Vllm) -> None:
    async with serving(GOOD) as server:
        with traces.request([(b"traceparent", PARENT), (b"tracestate", b"congo=x")]):
            await engine.read(task(server.url))
        with traces.request([(b"traceparent", PARENT.upper()), (b"tracestate", b"congo=x")]):
            await engine.read(task(server.url))
        await engine.read(task(server.url))
    told = [
        {name: request.headers.get(name) for name in ("x-request-id", "traceparent", "tracestate")}
        for request in server.requests
    ]
    none = {"x-request-id": "doc-p3-a1", "traceparent": None, "tracestate": None}
    assert told == [none | {"traceparent": PARENT.decode(), "tracestate": "congo=x"}, none, none]


async def test_a_question_is_a_client_span_that_the_servers_spans_join(
    engine: Vllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=otlp.NEEDED)
    named = stream(event(SECRET), event("", "stop"), data({"model": "served"}), usage(7, 3), DONE)
    with otlp.collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        traces.start("1")
        async with serving(named) as server:
            joined = traces.request([(b"traceparent", PARENT), (b"tracestate", b"congo=x")])
            with joined, stages.question(CARD.id, server.url, 3) as asking:
                asking.answered(await engine.read(task(server.url)))
        traces.stop()
    span = collector.one(f"chat {CARD.id}")
    sent = server.requests[0].headers
    assert sent["traceparent"] == f"00-{PARENT.decode()[3:35]}-{span.span_id}-01"
    assert (sent["tracestate"], sent["x-request-id"]) == ("congo=x", "doc-p3-a1")
    assert span.facts["gen_ai.response.model"] == "served"
    assert span.facts["gen_ai.usage.output_tokens"] == 3
    assert SECRET.encode() not in b"".join(collector.bodies)
