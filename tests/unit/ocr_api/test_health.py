"""Readiness: one look for all who ask at about the same time, and no addresses for strangers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from files_api.kit import errors
from ocr_api.apis import Check, Services
from ocr_api.apis.health import Health, Shared


class Question:
    """Counts how often it is asked; answers when it is let."""

    def __init__(self) -> None:
        self.asked, self.now = 0, 1000.0
        self.begun, self.free = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None

    async def find(self) -> int:
        self.asked += 1
        number = self.asked
        self.begun.set()
        await self.free.wait()
        if self.error:
            raise self.error
        return number

    def clock(self) -> float:
        return self.now


async def test_fifty_at_once_are_one_look() -> None:
    question = Question()
    shared = Shared(question.find, 1, question.clock)
    asking = [asyncio.create_task(shared.get()) for _ in range(50)]
    await question.begun.wait()
    asking += [asyncio.create_task(shared.get()) for _ in range(50)]
    question.free.set()
    assert await asyncio.gather(*asking) == [1] * 100
    assert question.asked == 1


async def test_an_answer_is_good_for_its_second_and_no_longer() -> None:
    """Counted from when it was found, however long that took."""
    question = Question()
    shared = Shared(question.find, 1, question.clock)
    asking = asyncio.create_task(shared.get())
    await question.begun.wait()
    question.now += 60
    question.free.set()
    assert await asking == 1
    question.now += 0.99
    assert await shared.get() == 1
    question.now += 0.01
    assert await shared.get() == 2
    assert await shared.get() == 2


async def test_who_leaves_does_not_end_the_look_of_others() -> None:
    question = Question()
    shared = Shared(question.find, 1, question.clock)
    first = asyncio.create_task(shared.get())
    await question.begun.wait()
    second = asyncio.create_task(shared.get())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    question.free.set()
    assert await second == 1


async def test_a_look_that_failed_is_not_kept() -> None:
    question = Question()
    shared = Shared(question.find, 1, question.clock)
    question.free.set()
    question.error = errors.StorageUnavailable()
    for _ in range(2):
        with pytest.raises(errors.StorageUnavailable):
            await shared.get()
    question.error = None
    assert (await shared.get(), question.asked) == (3, 3)


async def ready(services: dict[str, Any], times: int = 1) -> dict[str, Any]:
    """Return the answer of `/readyz`, the same for all who ask at once."""
    app = FastAPI()
    parts: dict[str, Any] = dict.fromkeys(
        (
            "pipeline",
            "registry",
            "traffic",
            "bodies",
            "max_answer_bytes",
            "answers",
            "limits",
            "usage",
        )
    )
    models = services.pop("model_checks")
    parts["model_checks"] = lambda: models
    parts["routes"] = lambda: {
        card: [one for one in models if one[0] == card] for card, _ in models
    }
    app.include_router(Health().router(Services(**{**parts, **services})))  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(times)))
    assert len({answer.content for answer in answers}) == 1
    body: dict[str, Any] = answers[0].json()
    assert answers[0].status_code == (503 if body["status"] == "not ready" else 200)
    return body


def says(problem: str | None) -> Check:
    async def check() -> str | None:
        return problem

    return check


async def test_fifty_calls_make_each_check_once() -> None:
    counts = dict.fromkeys(("database", "model"), 0)

    def counted(name: str) -> Check:
        async def check() -> None:
            counts[name] += 1
            await asyncio.sleep(0)

        return check

    checks = {"database": counted("database")}
    body = await ready({"checks": checks, "model_checks": {("m", None): counted("model")}}, 50)
    assert body == {
        "status": "ok",
        "checks": {"database": "ok", "model m": "ok"},
        "routes": {"m": "ok"},
    }
    assert counts == {"database": 1, "model": 1}


MODELS = {
    ("one", "10.0.0.1:8001"): says(None),
    ("one", "10.0.0.2:8001"): says("It is away."),
    ("two", "10.0.0.2:8001"): says("It is away."),
    ("cpu", None): says(None),
}


async def test_with_keys_no_addresses_are_shown() -> None:
    async def some() -> bool:
        return True

    async def broken() -> bool:
        raise errors.StorageUnavailable

    for any_keys in (some, broken):
        body = await ready({"checks": {}, "model_checks": MODELS, "any_keys": any_keys})
        assert body["checks"] == {
            "model one at server 1": "ok",
            "model one at server 2": "It is away.",
            "model two at server 1": "It is away.",
            "model cpu": "ok",
        }


async def test_without_keys_the_addresses_are_shown() -> None:
    body = await ready({"checks": {}, "model_checks": MODELS})
    assert body["checks"] == {
        "model one at 10.0.0.1:8001": "ok",
        "model one at 10.0.0.2:8001": "It is away.",
        "model two at 10.0.0.2:8001": "It is away.",
        "model cpu": "ok",
    }


async def test_what_makes_the_service_not_ready() -> None:
    away, fine = says("It is away."), says(None)
    for checks, models, status in (
        ([fine, fine], [fine, fine], "ok"),
        ([fine, away], [fine, fine], "not ready"),
        ([fine, fine], [away, fine], "degraded"),
        ([fine, fine], [away, away], "degraded"),
        ([fine], [], "ok"),
    ):
        named = {f"part {number}": check for number, check in enumerate(checks)}
        servers = {(f"model {number}", None): check for number, check in enumerate(models)}
        assert (await ready({"checks": named, "model_checks": servers}))["status"] == status


async def test_a_route_answers_while_one_of_its_servers_does() -> None:
    body = await ready({"checks": {}, "model_checks": MODELS})
    assert body["routes"] == {"one": "ok", "two": "none of its models answers", "cpu": "ok"}
    assert body["status"] == "degraded"
