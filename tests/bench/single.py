"""CPU per request of one page, through HTTP, beyond drawing the same picture.

The engine is the constant one, so that what is left is ours: HTTP, JSON, base64, the scheduler,
the ledger, the usage row, and what the drawing process does besides drawing. The client's CPU is
not counted. Each picture is new to the server.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import uvloop

from model_registry.card import Render
from ocr_api.pages import Pages
from ocr_api.processes import Limits
from tests.bench import client, documents, server
from tests.bench.processes import children_cpu_seconds, cpu_seconds
from tests.bench.table import Row

REQUESTS = {1: 60, 16: 160, 64: 192}
"""Requests in all, by how many are sent at a time."""
DRAWN = 100
ROUNDS = 3


def measure(folder: Path) -> list[Row]:
    """Draw alone, then ask one, 16 and 64 at a time; medians of the rounds."""
    folder = folder / "single"
    folder.mkdir()
    jpeg = documents.picture()
    drawing: list[float] = []
    ours: dict[int, list[float]] = {at_once: [] for at_once in REQUESTS}
    with server.running(folder) as (base, pid):
        uvloop.run(_ask(base, jpeg, 16, 48))  # starts the children
        for _ in range(ROUNDS):
            drawing.append(uvloop.run(_draw(folder, jpeg)))
            for at_once, requests in REQUESTS.items():
                begun = _seconds(pid)
                uvloop.run(_ask(base, jpeg, at_once, requests))
                ours[at_once].append((_seconds(pid) - begun) / requests)
    bare = statistics.median(drawing) * 1000
    return [_row(at_once, statistics.median(taken) * 1000, bare) for at_once, taken in ours.items()]


def _row(at_once: int, taken: float, bare: float) -> Row:
    return Row(
        f"CPU ms per one-page request, JSON picture, echo, {at_once} at once, over drawing it",
        f"{taken:.1f}",
        f"{bare:.1f}",
        f"+{taken - bare:.1f} ms",
        "< +3 ms",
    )


def _seconds(pid: int) -> float:
    return cpu_seconds(pid) + children_cpu_seconds(pid)


async def _ask(base: str, jpeg: bytes, at_once: int, requests: int) -> None:
    bodies = [server.asking_picture(documents.fresh(jpeg), "echo") for _ in range(requests)]
    async with client.session(base) as opened:
        await client.in_turns(opened, bodies, at_once)


async def _draw(folder: Path, jpeg: bytes) -> float:
    """Return the CPU seconds of a drawing process per picture, without ours for talking to it."""
    path = folder / "picture.jpeg"
    path.write_bytes(jpeg)
    pages = Pages(1, Limits(memory_bytes=2 << 30, seconds=30), 100_000_000)
    render = Render(edge=1540)
    try:
        for _ in range(5):
            await pages.draw(path, "image/jpeg", 0, render)
        begun = children_cpu_seconds(os.getpid())
        for _ in range(DRAWN):
            await pages.draw(path, "image/jpeg", 0, render)
        return (children_cpu_seconds(os.getpid()) - begun) / DRAWN
    finally:
        await pages.close()
