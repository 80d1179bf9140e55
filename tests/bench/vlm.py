"""CPU per page of the service with a model's server, over the bare render and encode loop.

The server is the stand-in for vLLM beside the project, which answers at once, so that what is
left is ours: HTTP, drawing, base64, scheduling, watching, parsing, keeping, assembling. Only the
service's own processes are counted. An answer has 915 tokens in 15 events, as with the cards'
``--stream-interval 64``; or in 900, as from a vLLM without it.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from tests.bench import documents, fake, server
from tests.bench.pipeline import ROUNDS, bare_seconds
from tests.bench.processes import tree_cpu_seconds
from tests.bench.table import Row

EVENTS, ALL_EVENTS, CHARACTERS = 15, 900, 3200


def measure(name: str, path: Path, folder: Path) -> list[Row]:
    """Compare with the bare loop on one document, in turns; medians of the rounds."""
    if fake.is_absent(f"{name} pages read by a model's server"):
        return []
    document = path.read_bytes()
    bare, few, all_of_them = [], [], []
    with (
        fake.running(*_options(EVENTS)) as (base, _),
        fake.running(*_options(ALL_EVENTS)) as (streaming, _),
        server.running(folder / f"{name}-few", **server.at(base)) as one,
        server.running(folder / f"{name}-all", **server.at(streaming)) as other,
    ):
        for running in (one, other):
            _seconds(*running, document)  # starts the children
        for _ in range(ROUNDS):
            bare.append(bare_seconds(path))
            few.append(_seconds(*one, document))
            all_of_them.append(_seconds(*other, document))
    return _rows(name, *(statistics.median(taken) * 1000 for taken in (bare, few, all_of_them)))


def _rows(name: str, bare: float, few: float, all_of_them: float) -> list[Row]:
    return [
        Row(
            f"CPU ms per page, {fake.CARD} at a server, 40 {name} pages",
            f"{few:.1f}",
            f"{bare:.1f}",
            f"{few / bare:.2f}",
            "≤ 1.15",
        ),
        Row(
            f"the same with {ALL_EVENTS} events a page, over itself with {EVENTS}",
            f"{all_of_them:.1f}",
            f"{few:.1f}",
            f"{all_of_them / few:.2f}",
            "report",
        ),
    ]


def _options(events: int) -> tuple[str, ...]:
    sizes = ("--stream-chunks", str(events), "--answer-chars", str(CHARACTERS))
    return ("--model", fake.CARD, *sizes)


def _seconds(base: str, pid: int, document: bytes) -> float:
    """Return the CPU seconds per page of the service's processes."""
    document = documents.fresh(document)
    begun = tree_cpu_seconds(pid)
    answer = server.read(base, document, fake.CARD)
    taken = tree_cpu_seconds(pid) - begun
    assert all(len(page["markdown"]) > 0.9 * CHARACTERS for page in answer["pages"])
    return taken / len(answer["pages"])
