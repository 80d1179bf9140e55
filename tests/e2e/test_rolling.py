"""R18 under load: two API processes are replaced, one after the other, and no request fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests import postgres
from tests.e2e.balancer import Balancer
from tests.e2e.conftest import Server, make_key, run_recto, started
from tests.e2e.reading import SMALL, Standin, as_document, pdf, shared_settings, standin

CLIENTS = 6
ROUND = 4
"""Requests that each client has to have answered before the next process is replaced."""

pytestmark = pytest.mark.shared


@pytest.fixture
def engine() -> Iterator[Standin]:
    with standin("--mode", "fixed", "--delay", "0.4") as engine:
        yield engine


class Fleet:
    """API processes on one database and one store, behind a balancer."""

    def __init__(self, folder: Path, settings: dict[str, str], balancer: Balancer) -> None:
        self._folder = folder
        self._settings = settings
        self._balancer = balancer
        self._stack: list[tuple[Server, ExitStack]] = []

    async def grow(self) -> str:
        """Start one more process; return its address."""
        folder = self._folder / f"process-{len(list(self._folder.glob('process-*')))}"
        folder.mkdir()
        stack = ExitStack()
        server = await asyncio.to_thread(stack.enter_context, started(folder, **self._settings))
        self._stack.append((server, stack))
        self._balancer.add(server.base)
        return server.base

    async def shrink(self) -> None:
        """End the oldest process as Kubernetes does: no new connections, then SIGTERM.

        What its preStop hook waits for is here at once.
        """
        server, stack = self._stack.pop(0)
        self._balancer.remove(server.base)
        await asyncio.to_thread(stack.close)

    async def close(self) -> None:
        while self._stack:
            await self.shrink()


class Load:
    """Clients that go on asking: uploads, whole answers, streams."""

    def __init__(self, base: str, key: str) -> None:
        self.answers: Counter[str] = Counter()
        self._base = base
        self._key = key
        self._on = True
        self._answered = asyncio.Condition()

    async def run(self) -> None:
        """Ask until told to stop; the first failure ends it all."""
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(number))

    def stop(self) -> None:
        self._on = False

    async def more(self) -> None:
        """Wait until every client has got some more answers, on average."""
        wanted = self.answers.total() + CLIENTS * ROUND
        async with self._answered:
            await self._answered.wait_for(lambda: self.answers.total() >= wanted)

    async def _client(self, number: int) -> None:
        # Each request is a connection of its own, so that the balancer chooses for each.
        limits = httpx.Limits(max_keepalive_connections=0)
        headers = {"Authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(
            base_url=self._base, timeout=60, limits=limits, headers=headers
        ) as client:
            count = 0
            while self._on:
                document = pdf(f"of client {number}, {count}", 2)
                count += 1
                for ask in (upload, whole, stream):
                    await self._count(ask, client, document)

    async def _count(
        self,
        ask: Callable[[httpx.AsyncClient, bytes], Awaitable[None]],
        client: httpx.AsyncClient,
        document: bytes,
    ) -> None:
        await ask(client, document)
        async with self._answered:
            self.answers[ask.__name__] += 1
            self._answered.notify_all()


async def upload(client: httpx.AsyncClient, document: bytes) -> None:
    answer = await client.post("/v1/files", files={"file": ("a.pdf", document)})
    assert answer.status_code == 200, answer.text
    found = await client.get(f"/v1/files/{answer.json()['id']}/content")
    assert found.content == document


async def whole(client: httpx.AsyncClient, document: bytes) -> None:
    body = {"model": SMALL, "document": as_document(document), "skip_cache": True}
    answer = await client.post("/v1/ocr", json=body)
    assert answer.status_code == 200, answer.text
    assert [page["error"] for page in answer.json()["pages"]] == [None, None]


async def stream(client: httpx.AsyncClient, document: bytes) -> None:
    body = {"model": SMALL, "document": as_document(document), "stream": True, "skip_cache": True}
    async with client.stream("POST", "/v1/ocr", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        lines = [line async for line in answer.aiter_lines()]
    events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert events == ["start", "page", "page", "done"]


async def test_a_rolling_replace_fails_no_request(
    postgres_cluster: postgres.Cluster, engine: Standin, tmp_path: Path
) -> None:
    """R18: two processes are replaced by two others under load; 0 failed requests."""
    with postgres_cluster.database() as url:
        settings = shared_settings(tmp_path, url, engine)
        run_recto(tmp_path, "db", "upgrade", **settings)
        key = make_key(tmp_path, "one", **settings)
        balancer = Balancer()
        fleet = Fleet(tmp_path, settings, balancer)
        async with balancer.listening() as base:
            try:
                first = [await fleet.grow(), await fleet.grow()]
                load = Load(base, key)
                async with asyncio.TaskGroup() as group:
                    group.create_task(load.run())
                    await load.more()
                    later = []
                    for _ in first:
                        later.append(await fleet.grow())
                        await fleet.shrink()
                        await load.more()
                    load.stop()
            finally:
                await fleet.close()
    assert all(balancer.served[server] for server in (*first, *later))
    assert set(load.answers) == {"upload", "whole", "stream"}
    counts = engine.settled()
    assert counts["aborted"] == 0
    assert counts["completed"] == 2 * (load.answers["whole"] + load.answers["stream"])
