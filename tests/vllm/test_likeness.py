"""Is the stand-in for vLLM, on which faster tests rely, like a real server where it matters?

Compared are the shapes of answers (keys, and the types of their values), the order of a stream's
events, refusals, and the names of metrics. What differs and is known stands here by name, so that
a new difference is noticed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.bench import fake
from tests.vllm.asking import CHAT, Json, ask, cancelled, metrics, page, question, session
from tests.vllm.conftest import KEY, MOST_REQUESTS
from tests.vllm.servers import NAMES, Server

pytestmark = pytest.mark.shared

READER, TEXT = "glm_ocr", "text"
UNKNOWN_TO_THE_STAND_IN = {
    "completion_tokens_details",
    "ec_transfer_params",
    "metrics",
    "permission",
    "prompt_text",
    "prompt_token_ids",
    "routed_experts",
    "system_fingerprint",
    "token_ids",
}
"""Keys that it leaves out, or fills otherwise; Recto reads none of them."""
UNKNOWN_TO_VLLM = {"tool_calls", "prompt_tokens_details"}
"""Keys that a real server leaves out, of a whole answer or of a stream."""
RULE = {"max_pattern_size": 64, "min_pattern_size": 1, "min_count": 2}


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[dict[str, Server]]:
    """Two of them, started as the tiny servers are: a reader, and one with a key and a queue."""
    if not fake.FAKE.is_file():
        pytest.skip("there is no stand-in for vLLM here")
    names = {name: [word for one in NAMES[name] for word in ("--model", one)] for name in NAMES}
    common = ("--max-model-len", "4096", "--stream-chunks", "8", "--answer-chars", "200")
    queue = ("--max-num-seqs", "1", "--max-queued", str(MOST_REQUESTS - 1), "--api-key", KEY)
    with (
        fake.running(*names[READER], *common) as (reader, _),
        fake.running(*names[TEXT], *common, *queue, "--fault", "do=hang,prompt=Hang.") as (text, _),
    ):
        yield {
            READER: Server(reader, NAMES[READER][0], "", Path(os.devnull), 0),
            TEXT: Server(text, NAMES[TEXT][0], "", Path(os.devnull), 0),
        }


Pair = tuple[Server, Server]


@pytest.fixture
def readers(servers: dict[str, Server], stand_ins: dict[str, Server]) -> Pair:
    """The real one and the other."""
    return servers[READER], stand_ins[READER]


@pytest.fixture
def texts(servers: dict[str, Server], stand_ins: dict[str, Server]) -> Pair:
    return servers[TEXT], stand_ins[TEXT]


def shape(value: object) -> object:
    """Keys and types of a value; of a list, those of its first item."""
    if isinstance(value, dict):
        return {key: shape(value[key]) for key in sorted(value)}
    return [shape(item) for item in value[:1]] if isinstance(value, list) else type(value).__name__


def without(value: object, keys: set[str]) -> object:
    if isinstance(value, dict):
        return {key: without(inner, keys) for key, inner in value.items() if key not in keys}
    return [without(item, keys) for item in value] if isinstance(value, list) else value


def alike(real: object, other: object) -> None:
    """Check that two answers have the same shape, but for the differences that are known."""
    unknown = UNKNOWN_TO_THE_STAND_IN | UNKNOWN_TO_VLLM
    assert without(shape(other), unknown) == without(shape(real), unknown)


def recited(server: Server, **fields: object) -> Json:
    """A question about a page, in the words that both know."""
    return question(server, page(300, 400), "Text Recognition:", **fields)


async def events(server: Server, body: Json) -> tuple[int, str, list[Json]]:
    """Status, type and events of a stream, its end mark included."""
    async with session(server) as client, client.post(CHAT, json=body) as response:
        text = await response.text()
        assert text.endswith("data: [DONE]\n\n"), text
        lines = [line for line in text.splitlines() if line]
        assert all(line.startswith("data: ") for line in lines)
        found = [json.loads(line[6:]) for line in lines[:-1]]
        return response.status, response.headers["Content-Type"], found


def kinds(stream: list[Json]) -> list[tuple[object, ...]]:
    """The kinds of events in their order, each once where several follow each other."""
    found: list[tuple[object, ...]] = []
    for event in stream:
        choice = event["choices"][0] if event["choices"] else None
        delta = sorted(choice["delta"]) if choice else None
        finish = choice and choice["finish_reason"]
        kind = (delta, finish, bool(event.get("usage")))
        if kind not in found[-1:]:
            found.append(kind)
    return found


# --- Answers -------------------------------------------------------------------------------------


async def test_models(readers: Pair) -> None:
    found = []
    for server in readers:
        async with session(server) as client, client.get("/v1/models") as response:
            found.append(await response.json())
    alike(*found)
    real, other = ([(m["id"], m["max_model_len"]) for m in each["data"]] for each in found)
    assert real == other


async def test_a_whole_answer(readers: Pair) -> None:
    (_, real), (_, other) = [await ask(server, recited(server)) for server in readers]
    alike(real, other)
    for name in ("model", "object"):
        assert real[name] == other[name]
    assert real["choices"][0]["finish_reason"] == other["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("continuous", [False, True])
async def test_a_stream(readers: Pair, continuous: bool) -> None:
    """A role, contents, the last of them with the reason, and the counts without a choice."""
    options = {"include_usage": True, "continuous_usage_stats": continuous}
    real, other = [
        await events(server, recited(server, stream=True, stream_options=options))
        for server in readers
    ]
    assert real[:2] == other[:2] == (200, "text/event-stream; charset=utf-8")
    assert kinds(real[2]) == kinds(other[2])
    assert kinds(real[2])[-1] == (None, None, True)
    for place in (0, 1, -2, -1):
        alike(real[2][place], other[2][place])


async def test_an_answer_that_is_cut(readers: Pair) -> None:
    for server in readers:
        _, answer = await ask(server, recited(server, max_tokens=4))
        (choice,) = answer["choices"]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("length", None)
        assert answer["usage"]["completion_tokens"] == 4


async def test_an_answer_that_loops(readers: Pair) -> None:
    real, other = readers
    loop = "do=loop,pattern=again ,times=1"
    async with session(other) as client, client.post("/_faults", json=loop) as response:
        assert response.status == 200
    said = []
    for server, more in ((real, {"ignore_eos": True}), (other, {})):
        body = recited(server, repetition_detection=RULE, max_tokens=400, **more)
        _, answer = await ask(server, body)
        choice = answer["choices"][0]
        said.append((choice["finish_reason"], choice["stop_reason"]))
        assert answer["usage"]["completion_tokens"] < 400
    assert said == [("repetition", "repetition_detected")] * 2


# --- Refusals ------------------------------------------------------------------------------------

PNG = "data:image/png;base64,"
REFUSED: dict[str, Json] = {
    "too long an answer": {"max_tokens": 4097},
    "too long a prompt": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "word " * 4000}]}]
    },
    "another model": {"model": "nobody"},
    "a broken picture": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": f"{PNG}AAAA"}}],
            }
        ]
    },
    "too many pictures": {"messages": [{"role": "user", "content": [page(30, 30)] * 2}]},
}
WITHOUT_PARAM = {"too many pictures"}
"""There the stand-in names no ``param``. Most fields of a request it does not check at all."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", REFUSED)
async def test_a_refusal(readers: Pair, case: str, stream: bool) -> None:
    """Before the stream begins, with the same status, type, code and param."""
    found = []
    for server in readers:
        status, answer = await ask(server, recited(server, stream=stream) | REFUSED[case])
        error = answer["error"]
        param = None if case in WITHOUT_PARAM else error["param"]
        found.append((status, sorted(error), error["type"], error["code"], param))
    assert found[0] == found[1]


async def test_words_of_a_refusal_that_are_read(readers: Pair) -> None:
    """They tell a page that is too long from one that is broken."""
    for server in readers:
        _, answer = await ask(server, recited(server) | REFUSED["too long an answer"])
        assert "max_model_len=4096" in answer["error"]["message"]
        _, answer = await ask(server, recited(server) | REFUSED["too long a prompt"])
        assert re.search("context length|maximum model length", answer["error"]["message"])


async def test_a_wrong_key(texts: Pair) -> None:
    found = []
    for server in texts:
        async with session(server, "wrong") as client:
            for path in ("/v1/models", "/health"):
                async with client.get(path) as response:
                    found.append((response.status, await response.text()))
    assert found[:2] == found[2:] == [(401, '{"error":"Unauthorized"}'), (200, "")]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue(texts: Pair, stream: bool) -> None:
    """503 before the stream begins, and nothing says when to come again."""
    found = []
    for server in texts:
        long = question(server, "Hang.", max_tokens=3500, ignore_eos=True)
        async with session(server) as client, AsyncExitStack() as stack:
            for number in range(MOST_REQUESTS):
                post = asyncio.create_task(client.post(CHAT, json=long))
                stack.push_async_callback(cancelled, post)
                await filled(server, number + 1)
            body = question(server, "Read.", stream=stream)
            async with client.post(CHAT, json=body) as response:
                error = (await response.json())["error"]
                kept = response.headers.get("Retry-After")
                # The type differs: "Service Unavailable", and "ServiceUnavailableError".
                found.append((response.status, kept, sorted(error), error["param"], error["code"]))
        await filled(server, 0)
    assert found[0] == found[1]
    assert found[0][:2] == (503, None)


async def filled(server: Server, wanted: int) -> None:
    """Wait until a server has so many requests, running and waiting."""
    async with asyncio.timeout(20):
        while True:
            text = await metrics(server)
            gauges = re.findall(
                r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.MULTILINE
            )
            if sum(map(float, gauges)) == wanted:
                return
            await asyncio.sleep(0.05)


# --- Metrics -------------------------------------------------------------------------------------


async def test_metrics(readers: Pair) -> None:
    """Every name that the stand-in has is one of vLLM's, with the same labels.

    But for one: vLLM's count of rejections has no ``engine``.
    """
    real, other = [
        {
            (name, *sorted(set(re.findall(r'(\w+)="', labels)) - {"engine"}))
            for name, labels in re.findall(
                r"^(vllm:\w+)\{(.*?)\} ", await metrics(server), re.MULTILINE
            )
        }
        for server in readers
    ]
    assert other <= real, other - real
    assert len({name for name, *_ in other}) > 10
