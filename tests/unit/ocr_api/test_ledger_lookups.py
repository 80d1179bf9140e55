"""Lookups that come together are one question, for each organisation its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ocr_api.ledger.lookups import Lookups


class Store:
    """A fake of the ledger's table that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.gate = asyncio.Semaphore(0)

    async def ask(self, org_id: str, keys: Sequence[str]) -> set[str]:
        self.asked.append((org_id, [*keys]))
        await self.gate.acquire()
        return {key for key in keys if key.isupper()}


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_those_who_wait_are_asked_together() -> None:
    store = Store()
    lookups = Lookups(store.ask)
    first = asyncio.create_task(lookups.known("one", ["A", "b"]))
    await settle()
    others = [asyncio.create_task(lookups.known("one", [key])) for key in ("C", "d", "C")]
    apart = asyncio.create_task(lookups.known("two", ["A"]))
    await settle()
    for _ in range(3):
        store.gate.release()
    assert await first == {"A"}
    assert await asyncio.gather(*others) == [{"C"}, set(), {"C"}]
    assert await apart == {"A"}
    assert sorted(store.asked) == [("one", ["A", "b"]), ("one", ["C", "d"]), ("two", ["A"])]


async def test_who_leaves_takes_no_answer_from_the_others() -> None:
    store = Store()
    lookups = Lookups(store.ask)
    busy = asyncio.create_task(lookups.known("one", ["A"]))
    await settle()
    leaves = asyncio.create_task(lookups.known("one", ["B"]))
    await settle()
    stays = asyncio.create_task(lookups.known("one", ["C"]))
    store.gate.release()
    await busy
    await settle()
    leaves.cancel()
    await settle()
    store.gate.release()
    assert await stays == {"C"}
    await asyncio.gather(leaves, return_exceptions=True)
    store.gate.release()
    assert await lookups.known("one", ["D"]) == {"D"}
