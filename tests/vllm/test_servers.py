"""What Recto counts on in a vLLM server, asked of real servers with tiny models."""

from __future__ import annotations

import asyncio
import json
import math
import re

import pytest

from tests.vllm.asking import (
    CHAT,
    Json,
    ask,
    chunks,
    metric,
    metrics,
    page,
    question,
    session,
    until,
)
from tests.vllm.conftest import MOST_REQUESTS
from tests.vllm.servers import NAMES, Server
from tests.vllm.tiny.families import deepseek_ocr
from tests.vllm.tiny.tokens import vocabulary

READERS = ("deepseek_ocr", "lighton_ocr", "lighton_ocr_bbox", "glm_ocr")
EVERY = (*READERS, "text")


# --- The page ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
async def test_recites_its_page(servers: dict[str, Server], name: str) -> None:
    server = servers[name]
    status, answer = await ask(server, question(server, page(300, 400), "Read."))
    assert status == 200, answer
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == server.page
    assert (choice["finish_reason"], choice["index"]) == ("stop", 0)
    assert answer["model"] == server.model
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    # The end mark is counted, and never shown.
    tokens = await pieces(server, question(server, page(300, 400), "Read."))
    assert usage["completion_tokens"] == len(tokens) + 1
    assert "".join(token["token"] for token in tokens) == server.page


async def pieces(server: Server, body: Json) -> list[Json]:
    """The log-probabilities of an answer, without that of the end mark."""
    _, answer = await ask(server, body | {"logprobs": True})
    entries: list[Json] = answer["choices"][0]["logprobs"]["content"]
    return [entry for entry in entries if entry["token"] in server.page]


async def test_text_model_recites_json(servers: dict[str, Server]) -> None:
    server = servers["text"]
    status, answer = await ask(server, question(server, "Read this: # Invoice 2041"))
    assert status == 200, answer
    content = answer["choices"][0]["message"]["content"]
    assert content == server.page
    assert json.loads(content) == {"invoice_number": "2041", "total": 43.5}


async def test_too_few_tokens_end_with_length(servers: dict[str, Server]) -> None:
    server = servers["glm_ocr"]
    _, answer = await ask(server, question(server, page(300, 400), max_tokens=4))
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4
    assert server.page.startswith(choice["message"]["content"])


async def test_answer_fits_the_context(servers: dict[str, Server]) -> None:
    """prompt + max_tokens over the context is cut down to it, and not refused."""
    server = servers["lighton_ocr"]
    parts = (page(1700, 2200), "word " * 300)
    body = question(server, *parts, max_tokens=4000, ignore_eos=True)
    status, answer = await ask(server, body)
    assert status == 200, answer
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 4096


# --- Tokens of an image --------------------------------------------------------------------------


def deepseek_tokens(columns: int, rows: int) -> int:
    """A global view of 272 tokens and one more; tiles of 10 by 10 with a line end per row."""
    tiles = 10 * rows * (10 * columns + 1) if columns * rows > 1 else 0
    return 272 + tiles + 1


def lighton_tokens(width: int, height: int) -> int:
    """One token per 28 by 28 pixels begun, after the longest edge came down to 1540."""
    scale = min(1, 1540 / max(width, height))
    return math.ceil(int(width * scale) / 28) * math.ceil(int(height * scale) / 28)


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [
        ("deepseek_ocr", (640, 480), deepseek_tokens(1, 1)),
        ("deepseek_ocr", (1190, 1684), deepseek_tokens(2, 3)),
        ("deepseek_ocr", (1684, 1190), deepseek_tokens(3, 2)),
        ("deepseek_ocr", (630, 1969), deepseek_tokens(1, 3)),
        ("deepseek_ocr", (1920, 1080), deepseek_tokens(2, 1)),
        ("lighton_ocr", (300, 400), lighton_tokens(300, 400)),
        ("lighton_ocr", (1089, 1540), 2145),
        ("lighton_ocr", (1700, 2200), 2365),
        ("lighton_ocr", (595, 842), 682),
        ("glm_ocr", (595, 842), 630),
        ("glm_ocr", (1191, 1684), 2580),
        ("glm_ocr", (280, 560), 10 * 20),
        ("glm_ocr", (30, 30), 3 * 3),
    ],
)
async def test_tokens_of_an_image(
    servers: dict[str, Server], name: str, size: tuple[int, int], tokens: int
) -> None:
    """What an image adds to the prompt, beside the few tokens around it."""
    server = servers[name]
    _, answer = await ask(server, question(server, page(*size), "Read.", max_tokens=1))
    assert answer["usage"]["prompt_tokens"] == tokens + len(PROMPTS[name])


PROMPTS = {
    # One control token stands for itself; every other character is a token.
    "deepseek_ocr": "B" + "\nRead.",
    "lighton_ocr": "S" + "user\n" + "Read." + "E\n" + "S" + "assistant\n",
    "glm_ocr": "Gs" + "U\n" + "<>" + "Read." + "A\n",
}


# --- Arguments -----------------------------------------------------------------------------------


async def loops(server: Server, rule: Json) -> int:
    """How often the page's heading is read in 70 tokens, when nothing ends the page."""
    more = {"max_tokens": 70, "ignore_eos": True, "vllm_xargs": rule}
    status, answer = await ask(server, question(server, page(300, 400), "Free OCR.", **more))
    assert status == 200, answer
    text: str = answer["choices"][0]["message"]["content"]
    return text.count("# Invoice 2041")


async def test_ngram_arguments(servers: dict[str, Server]) -> None:
    """The stock processor breaks a loop, unless its tokens are whitelisted, as a list of ints."""
    server = servers["deepseek_ocr"]
    _, spelled = vocabulary(deepseek_ocr().controls, server.page)
    ids = [*range(4), *spelled]
    rule: Json = {"ngram_size": 3, "window_size": 90}
    assert await loops(server, {}) == 3
    assert await loops(server, rule) == 1
    assert await loops(server, rule | {"whitelist_token_ids": ids}) == 3


async def test_ngram_whitelist_as_string(servers: dict[str, Server]) -> None:
    """The stock processor takes a string without a word and then spares nothing.

    So a card's whitelist must be a list of ints. Our own processor refuses the string.
    """
    server = servers["deepseek_ocr"]
    _, spelled = vocabulary(deepseek_ocr().controls, server.page)
    text = json.dumps([*range(4), *spelled])
    rule = {"ngram_size": 3, "window_size": 90, "whitelist_token_ids": text}
    assert await loops(server, rule) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"ngram_size": 0},
        {"ngram_size": "30"},
        {"ngram_size": 30, "window_size": -1},
        {"ngram_size": 30, "whitelist_token_ids": 9},
    ],
)
async def test_ngram_arguments_refused(servers: dict[str, Server], wrong: Json) -> None:
    server = servers["deepseek_ocr"]
    body = question(server, page(300, 400), "Free OCR.", vllm_xargs=wrong)
    status, answer = await ask(server, body)
    assert (status, answer["error"]["type"]) == (400, "BadRequestError"), answer


@pytest.mark.parametrize("name", READERS)
async def test_repetition_detection(servers: dict[str, Server], name: str) -> None:
    """Accepted everywhere; a page that begins again is cut, and says so."""
    server = servers[name]
    rule = {"max_pattern_size": 64, "min_pattern_size": 1, "min_count": 2}
    body = question(server, page(300, 400), "Read.", repetition_detection=rule)
    _, answer = await ask(server, body)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["message"]["content"] == server.page
    status, answer = await ask(server, body | {"ignore_eos": True, "max_tokens": 400})
    assert status == 200, answer
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "repetition"
    assert choice["stop_reason"] == "repetition_detected"
    assert answer["usage"]["completion_tokens"] < 100


SCHEMA = {
    "type": "object",
    "properties": {"invoice_number": {"type": "string"}, "total": {"type": "number"}},
    "required": ["invoice_number", "total"],
    "additionalProperties": False,
}


async def test_structured_outputs(servers: dict[str, Server]) -> None:
    server = servers["text"]
    wanted = {"name": "invoice", "schema": SCHEMA, "strict": True}
    form = {"type": "json_schema", "json_schema": wanted}
    status, answer = await ask(server, question(server, "Read.", response_format=form))
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == server.page
    # Another schema than the one of what it recites: the grammar wins.
    choice = {"structured_outputs": {"choice": ["receipt"]}}
    status, answer = await ask(server, question(server, "Read.", **choice))
    assert answer["choices"][0]["message"]["content"] == "receipt", answer
    broken = {"name": "invoice", "schema": {"type": "nonsense"}}
    form = {"type": "json_schema", "json_schema": broken}
    status, answer = await ask(server, question(server, "Read.", response_format=form))
    assert (status, answer["error"]["type"]) == (400, "BadRequestError"), answer


@pytest.mark.parametrize("name", EVERY)
async def test_stream_with_probabilities(servers: dict[str, Server], name: str) -> None:
    server = servers[name]
    shown = [] if name == "text" else [page(300, 400)]
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    body = question(server, *shown, "Read.", logprobs=True, top_logprobs=2, **stream)
    async with session(server) as client, client.post(CHAT, json=body) as response:
        assert response.status == 200
        events = [chunk async for chunk in chunks(response)]
    choices = [choice for event in events for choice in event["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == server.page
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["stop"]
    entries = [e for c in choices if c.get("logprobs") for e in c["logprobs"]["content"]]
    written = b"".join(bytes(entry["bytes"]) for entry in entries)
    assert written.decode().startswith(server.page)
    assert all(entry["logprob"] > -1e-3 for entry in entries)
    assert {len(entry["top_logprobs"]) for entry in entries} == {2}
    (usage,) = [event["usage"] for event in events if event.get("usage")]
    assert usage["completion_tokens"] == len(entries)


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
async def test_models(servers: dict[str, Server], name: str) -> None:
    server = servers[name]
    async with session(server) as client, client.get("/v1/models") as response:
        models = (await response.json())["data"]
    assert tuple(model["id"] for model in models) == NAMES[name]
    assert {model["max_model_len"] for model in models} == {4096}
    alias = question(server, "Read.", model=NAMES[name][1], max_tokens=1)
    status, answer = await ask(server, alias)
    assert (status, answer["model"]) == (200, NAMES[name][0])
    status, answer = await ask(server, alias | {"model": "nobody"})
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (404, "NotFoundError", 404)


async def test_key(servers: dict[str, Server]) -> None:
    server = servers["text"]
    assert (await ask(server, question(server, "Read.", max_tokens=1)))[0] == 200
    status, _ = await ask(server, question(server, "Read."), key="wrong")
    assert status == 401
    async with session(server, "wrong") as client, client.get("/health") as response:
        assert response.status == 200


@pytest.mark.parametrize("name", ["lighton_ocr", "glm_ocr"])
async def test_context(servers: dict[str, Server], name: str) -> None:
    """Too many tokens wanted, and too long a prompt: 400 with a message that names the length."""
    server = servers[name]
    for body in (
        question(server, page(300, 400), max_tokens=4097),
        question(server, page(300, 400), "word " * 1000),
    ):
        status, answer = await ask(server, body)
        assert (status, answer["error"]["type"]) == (400, "BadRequestError")
        assert "4096" in answer["error"]["message"]


async def test_broken_and_second_images(servers: dict[str, Server]) -> None:
    server = servers["glm_ocr"]
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for parts in ([broken], [page(300, 400), page(300, 400)]):
        status, answer = await ask(server, question(server, *parts))
        assert (status, answer["error"]["code"]) == (400, 400), answer


# --- Load ----------------------------------------------------------------------------------------


async def test_disconnect_ends_the_work(servers: dict[str, Server]) -> None:
    """A client that goes away stops its request: the server is idle long before it is done."""
    server = servers["glm_ocr"]
    before = await metric(server, "vllm:generation_tokens_total")
    long = {"max_tokens": 3500, "ignore_eos": True, "stream": True}
    async with session(server) as client:
        body = question(server, page(300, 400), **long)
        async with client.post(CHAT, json=body) as response:
            await response.content.readline()
            assert await metric(server, "vllm:num_requests_running") == 1
            response.close()
    await until(server, "vllm:num_requests_running", 0)
    written = await metric(server, "vllm:generation_tokens_total") - before
    assert 0 < written < 3000


async def test_full_queue(servers: dict[str, Server]) -> None:
    """Four run; the next is told 503 at once. The limit counts those that run, too."""
    server = servers["text"]
    body = question(server, "Read.", max_tokens=3500, ignore_eos=True)
    refused = await metric(server, "vllm:admission_rejections_total")
    async with session(server) as client, asyncio.TaskGroup() as group:
        posts = []
        for running in range(1, MOST_REQUESTS + 1):
            posts.append(group.create_task(client.post(CHAT, json=body)))
            await until(server, "vllm:num_requests_running", running)
        async with client.post(CHAT, json=body) as response:
            answer = await response.json()
        assert (response.status, answer["error"]["code"]) == (503, 503)
        assert "Retry-After" not in response.headers
        for post in posts:
            post.cancel()
    await until(server, "vllm:num_requests_running", 0)
    assert await metric(server, "vllm:admission_rejections_total") == refused + 1


async def test_metric_names(servers: dict[str, Server]) -> None:
    server = servers["glm_ocr"]
    text = await metrics(server)
    names = set(re.findall(r"^vllm:(\w+)\{", text, re.MULTILINE))
    gauges = {"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"}
    counters = {"prompt_tokens", "generation_tokens", "num_preemptions", "request_success"}
    counters |= {"prefix_cache_queries", "prefix_cache_hits", "mm_cache_queries", "mm_cache_hits"}
    times = {"time_to_first_token", "inter_token_latency", "e2e_request_latency"}
    times |= {"request_queue_time", "request_prefill_time", "request_decode_time"}
    histograms = {f"{name}_seconds" for name in times} | {"request_prompt_tokens"}
    wanted = gauges | {f"{name}_total" for name in counters}
    wanted |= {f"{name}_bucket" for name in histograms | {"request_generation_tokens"}}
    assert not wanted - names
    success = 'vllm:request_success_total{engine="0",finished_reason="stop",model_name='
    assert success + f'"{server.model}"}}' in text
