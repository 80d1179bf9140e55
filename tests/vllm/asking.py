"""A small client of vLLM servers, for tests: questions, answers, streams and metrics."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from PIL import Image

from tests.vllm.conftest import KEY
from tests.vllm.servers import Server

Json = dict[str, Any]
CHAT = "/v1/chat/completions"
DEADLINE = 60
"""Seconds; nothing here takes more than a few."""


def page(width: int, height: int) -> Json:
    """A white page as a part of a message."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def question(server: Server, *parts: Json | str, **fields: object) -> Json:
    """A request of one user message, answered to the end of the page unless told otherwise."""
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    message = {"role": "user", "content": content}
    body = {"model": server.model, "messages": [message], "temperature": 0, "max_tokens": 512}
    return body | {"skip_special_tokens": False} | fields


@asynccontextmanager
async def session(server: Server, key: str = KEY) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        server.base,
        headers={"Authorization": f"Bearer {key}"},
        timeout=aiohttp.ClientTimeout(DEADLINE),
    ) as client:
        yield client


async def ask(server: Server, body: Json, key: str = KEY) -> tuple[int, Json]:
    async with session(server, key) as client, client.post(CHAT, json=body) as response:
        return response.status, await response.json()


async def chunks(response: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    """The events of a stream, up to its end mark."""
    async for line in response.content:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])
    assert line.strip() == b"" or line.strip() == b"data: [DONE]"


async def metrics(server: Server) -> str:
    async with session(server) as client, client.get("/metrics") as response:
        return await response.text()


async def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of a metric over what its other labels say."""
    found = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", await metrics(server), re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(number) for set_, number in found if all(w in set_ for w in wanted))


async def until(server: Server, name: str, wanted: float) -> None:
    """Poll until a metric has a value."""
    async with asyncio.timeout(DEADLINE):
        while await metric(server, name) != wanted:  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.1)


async def cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
