"""What callers are told when a real vLLM server refuses, is full, or dies."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import httpx
import pytest

from tests import helpers
from tests.e2e.conftest import Server as Recto
from tests.vllm import chain
from tests.vllm.asking import CHAT, cancelled, metric, question, session, until
from tests.vllm.chain import ANNOTATOR, DEEPSEEK, GLM, LIGHTON, Json, post, readiness, refused, uri
from tests.vllm.conftest import MOST_REQUESTS
from tests.vllm.servers import Server

ANY = {"type": "json_schema", "json_schema": {"name": "any", "schema": {"type": "object"}}}


async def test_a_model_that_nobody_runs(recto: Recto) -> None:
    status, error = await refused(recto, chain.small_pdf(), model="zai-org/GLM-OCR-9")
    assert (status, error["code"], error["param"]) == (400, "model_not_found", "model")
    status, error = await refused(recto, chain.small_pdf(), model="allenai/olmOCR-2-7B-1025-FP8")
    assert (status, error["code"]) == (400, "model_unavailable")


async def test_a_key_that_the_server_refuses(stranger: Recto) -> None:
    status, error = await refused(stranger, chain.small_pdf(), model=ANNOTATOR)
    assert (status, error["code"]) == (503, "engine_unavailable")
    assert error["message"] == f"The server that runs {ANNOTATOR} refuses the key (401)."
    checks = await readiness(stranger)
    assert checks.pop(ANNOTATOR) == f"The server that runs {ANNOTATOR} refuses the key (401)."
    assert set(checks.values()) == {"ok"}


async def test_a_model_without_eyes(recto: Recto) -> None:
    """It refuses the picture; that is a page that failed, and no fault of the caller's."""
    status, error = await refused(recto, chain.small_pdf(), model=ANNOTATOR)
    assert (status, error["code"]) == (500, "ocr_failed")
    assert error["message"] == f"The server that runs {ANNOTATOR} answered with an error (400)."


@pytest.mark.parametrize("model", [DEEPSEEK, LIGHTON, GLM])
async def test_a_prompt_longer_than_the_context(recto: Recto, model: str) -> None:
    """A byte is a token here, so the prompt passes Recto's count, and the server refuses it."""
    status, error = await refused(recto, chain.small_pdf(), model=model, prompt="words " * 800)
    assert (status, error["code"]) == (400, "context_too_long")


async def test_a_full_queue(recto: Recto, servers: dict[str, Server]) -> None:
    server = servers["text"]
    body = question(server, "Read.", max_tokens=3500, ignore_eos=True)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(session(server))
        for running in range(1, MOST_REQUESTS + 1):
            stack.push_async_callback(cancelled, asyncio.create_task(client.post(CHAT, json=body)))
            await until(server, "vllm:num_requests_running", running)
        asked = {"model": DEEPSEEK, "document_annotation_format": ANY}
        answer = await post(recto, chain.small_pdf(), **asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_busy")
    assert int(answer.headers["retry-after"]) > 0
    await until(server, "vllm:num_requests_running", 0)


async def test_a_caller_who_hangs_up_stops_the_server(
    recto: Recto, servers: dict[str, Server]
) -> None:
    """Pages that run end, and pages that wait never begin."""
    server, count = servers["glm_ocr"], 100
    before = await metric(server, "vllm:request_success_total")
    body: Json = {"model": GLM, "document": {"document_content": uri(chain.small_pdf(count))}}
    async with httpx.AsyncClient(base_url=recto.base, timeout=chain.DEADLINE) as client:
        asked = asyncio.create_task(client.post("/v1/ocr", json=body))
        await until(server, "vllm:num_requests_running", 8)
        await cancelled(asked)
    await until(server, "vllm:num_requests_running", 0)
    await until(server, "vllm:num_requests_waiting", 0)
    done = await metric(server, "vllm:request_success_total") - before
    assert done < count / 2
    rows = helpers.wait_for_usage(
        recto.data / "recto.db", lambda row: row["outcome"] == "cancelled"
    )
    assert len(rows) == 1
    assert rows[0]["pages"] <= done
    # The door is open for others.
    assert (await post(recto, chain.small_pdf(), model=GLM)).status_code == 200


async def test_a_server_that_is_killed(recto: Recto, servers: dict[str, Server]) -> None:
    """Pages that it was reading fail at once; later ones are told who does not answer."""
    server = servers["lighton_ocr"]
    asked = asyncio.create_task(post(recto, chain.small_pdf(20), model=LIGHTON))
    await until(server, "vllm:num_requests_running", 8)
    os.killpg(server.pid, signal.SIGKILL)
    answer = await asyncio.wait_for(asked, 30)
    code = answer.json()["error"]["code"]
    # An answer that broke off failed; one that never began may be asked for again.
    assert (answer.status_code, code) in {(500, "ocr_failed"), (503, "engine_unavailable")}
    status, error = await refused(recto, chain.small_pdf(), model=LIGHTON)
    assert (status, error["code"]) == (503, "engine_unavailable")
    # Who asked the server is told so; the next ones are told at once, without asking it.
    assert error["message"].endswith(f"The server that runs {LIGHTON} takes no connection.")
    checks = await readiness(recto)
    assert checks.pop(LIGHTON) == f"The server that runs {LIGHTON} takes no connection."
    assert set(checks.values()) == {"ok"}
    assert (await post(recto, chain.small_pdf(), model=GLM)).status_code == 200
