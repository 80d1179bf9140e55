"""Documents made to hurt: how long each takes, what is answered, and what is left of it.

They are those of the durability tests, and a document of 300 pages of which each takes a minute.
The service has the limits that it has by itself: ten seconds for a page.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path

import aiohttp

from tests.bench import client, documents, server
from tests.bench.processes import children, cpu_seconds, resident_mib, watched
from tests.bench.table import Row
from tests.durability.test_bombs import BOMBS, stroke_pages_pdf

LONG = "300 pages of strokes"


def measure(folder: Path) -> list[Row]:
    """Send one bomb after the other; then see who is left."""
    with server.running(folder / "bombs") as (base, pid):
        server.read(base, documents.text(4), "echo")
        before = resident_mib(pid)
        with watched(pid) as peak:
            taken = asyncio.run(_send(base))
        server.read(base, documents.text(4, 4), "echo")
        after, hung = resident_mib(pid), _busy(pid)
    slowest = max(taken, key=lambda name: taken[name])
    what = f"{len(taken)} bombs"
    return [
        Row(
            f"{what}: s to the slowest answer, all 4xx or page errors ({slowest})",
            f"{taken[slowest]:.1f}",
            "–",
            "–",
            "≤ 15",
        ),
        Row(
            f"{what}: RSS of the API process, MiB, after over before (peak {peak.alone:.0f})",
            f"{after:.0f}",
            f"{before:.0f}",
            f"{after - before:+.0f} MiB",
            "< +50 MB",
        ),
        Row(f"{what}: workers that hang", str(hung), "–", "–", "0"),
    ]


async def _send(base: str) -> dict[str, float]:
    """Return the seconds of each bomb."""
    taken = {}
    bombs = {name: (bomb.make, bomb.pages) for name, bomb in BOMBS.items()}
    async with client.session(base) as opened:
        for name, (make, pages) in {**bombs, LONG: (lambda: stroke_pages_pdf(300), None)}.items():
            taken[name] = await _ask(opened, name, make(), pages)
    return taken


async def _ask(
    opened: aiohttp.ClientSession, name: str, document: bytes, pages: list[int] | None
) -> float:
    """Return the seconds of one bomb, which must be read, refused, or have pages with errors."""
    uri = "data:application/octet-stream;base64," + base64.b64encode(document).decode()
    body = {"model": "echo", "document": {"document_url": uri}, "allow_partial": True}
    answer = await client.ask(opened, json.dumps({**body, "pages": pages}).encode())
    assert answer.status == 200 or 400 <= answer.status < 500, (name, answer)
    return answer.seconds


def _busy(pid: int) -> int:
    """Return how many workers use the processor although nothing is asked of them."""
    begun = {child: cpu_seconds(child) for child in children(pid)}
    time.sleep(1)
    return sum(cpu_seconds(child) - begun.get(child, 0.0) > 0.1 for child in children(pid))
