"""R1, R20: `kill -9` again and again during uploads; nothing that was answered is lost."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import httpx
from sqlalchemy import text

from tests.durability.checker import Stores, left_over, problems
from tests.durability.conftest import Sweep
from tests.durability.driver import Driver, damage, listed
from tests.durability.process import Recto
from tests.durability.scale import SEED, scaled

UPLOADS = {"local": scaled(200, 1000), "remote": scaled(80, 1000)}
ROUNDS = scaled(2, 20)
KILLS = {"local": scaled(6, 20), "remote": scaled(3, 20)}


async def minute_passes(stores: Stores) -> None:
    """Let what has no answer look a minute older, where several processes share a database.

    A process that is alone on its SQLite file releases the claims of its past by itself.
    """
    if not stores.database.is_sqlite:
        async with stores.database.unit() as session:
            older = "UPDATE idempotency_keys SET claimed_at = claimed_at - 61 WHERE answer IS NULL"
            await session.execute(text(older))


async def test_r1_killed_server_loses_nothing(
    recto: Recto, kind: str, database_url: str, blob_url: str, sweep_later: Sweep
) -> None:
    """R1, and R20 for what was sent again with its Idempotency-Key: one file for each key."""
    async with Stores(database_url, blob_url) as stores:
        recto.start()
        driver = Driver(recto, UPLOADS[kind], KILLS[kind], SEED, partial(minute_passes, stores))
        history = await driver.run()
        found = await damage(recto.base, history)
        recto.stop()
        found += await problems(stores, swept=False, gone=history.gone)
        swept = await sweep_later()
        found += await problems(stores, swept=True, gone=history.gone)
        if urlsplit(blob_url).scheme == "file":  # a bucket's lifecycle rule aborts multiparts
            assert left_over(blob_url) == []
    print(f"seed {SEED}: {history}; swept {swept}")
    assert found == [], f"RECTO_SEED={SEED}"
    assert history.kills >= KILLS[kind]
    assert history.unanswered > 0
    assert len(history.acknowledged) > UPLOADS[kind] * 0.8


async def test_r20_one_key_fifty_times_with_kills_in_between(
    recto: Recto, database_url: str, blob_url: str, sweep_later: Sweep
) -> None:
    """R20: all who send the same thing with the same key get the same answer, about one file."""
    rng = random.Random(SEED)
    cut_off = 0
    async with Stores(database_url, blob_url) as stores, httpx.AsyncClient(timeout=60) as http:
        recto.start()
        for number in range(ROUNDS):
            up = asyncio.Event()
            up.set()
            asked = Asked(http, recto, up, f"key {number}", f"{number}.bin", rng.randbytes(50_000))
            sending = asyncio.gather(*(asked.until_answered() for _ in range(50)))
            await asked.heard(rng.randrange(1, 25))
            up.clear()
            await asyncio.to_thread(recto.kill)
            await minute_passes(stores)
            await asyncio.to_thread(recto.start)
            up.set()
            assert len(set(await sending)) == 1, f"RECTO_SEED={SEED}"
            cut_off += asked.cut_off
        names = [file["filename"] async for file in listed(http, recto.base)]
        assert sorted(names) == sorted(f"{number}.bin" for number in range(ROUNDS))
        recto.stop()
        await sweep_later()
        assert await problems(stores, swept=True) == []
    assert cut_off > 0


@dataclass
class Asked:
    """One upload with a key, sent until it is answered."""

    http: httpx.AsyncClient
    recto: Recto
    up: asyncio.Event
    key: str
    name: str
    content: bytes
    cut_off: int = 0
    _answers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def heard(self, answers: int) -> None:
        """Return when so many answers have come; about as many senders wait for theirs."""
        for _ in range(answers):
            await self._answers.acquire()

    async def until_answered(self) -> bytes:
        """Return the body of the 200."""
        for _ in range(60):
            await self.up.wait()
            try:
                answer = await self.http.post(
                    f"{self.recto.base}/v1/files",
                    headers={"Idempotency-Key": self.key},
                    files={"file": (self.name, self.content)},
                )
            except httpx.TransportError:
                self.cut_off += 1
                continue
            self._answers.release()
            if answer.status_code == 200:
                return answer.content
            assert answer.status_code == 409, answer.text
            await asyncio.sleep(float(answer.headers["Retry-After"]))
        raise AssertionError("the key stayed in use")
