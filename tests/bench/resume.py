"""How many pages are read again when a document is repeated after one of its pages failed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.bench import client, documents, fake, server
from tests.bench.table import Row

PAGES, BROKEN = 200, 100


def measure(folder: Path) -> list[Row]:
    """Let the stand-in refuse one page whenever it comes; then send the document again."""
    if fake.is_absent("a repeated document"):
        return []
    with (
        fake.running("--model", fake.CARD, "--stream-chunks", "15") as (base, _),
        server.running(folder / "resume", **server.at(base)) as (recto, _),
    ):
        fake.tell(base, "/_faults", f"do=http500,distinct={BROKEN}")
        first, second = asyncio.run(_twice(base, recto))
    return [
        Row(
            f"pages read of {PAGES} when they are sent again after one failed",
            str(second),
            str(first),
            "–",
            "1",
        )
    ]


async def _twice(base: str, recto: str) -> tuple[int, int]:
    """Return how many requests for pages each of two tries made."""
    body = server.asking(documents.text(PAGES), fake.CARD)
    async with client.session(recto) as opened:
        failed = await client.ask(opened, body)
        assert failed.status == 500, failed
        first = fake.stats(base)["requests"]
        fake.tell(base, "/_reset", {"faults": True})
        await client.ask_well(opened, body)
        return first, fake.stats(base)["requests"]
