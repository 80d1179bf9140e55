"""Measure pages, models' servers, parsers, files, the CPU engine and memory; print one table.

Each figure is a ratio to a bare loop that does the unavoidable on the same pages in the same
run, so that a slow or busy machine changes both sides alike. Linux only: it reads /proc.
``python -m tests.bench NAME...`` runs some of the measurements.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import (
    bombs,
    documents,
    engine,
    files,
    gpu,
    latency,
    memory,
    observing,
    overload,
    parsers,
    pipeline,
    resume,
    single,
    streaming,
    vlm,
)
from tests.bench.table import Row, show


def _pages(folder: Path) -> list[Row]:
    """Compare CPU per page with the bare loop, with the constant engine and a model's server."""
    rows: list[Row] = []
    for name, data in (("text", documents.text(40)), ("scanned", documents.scans(40))):
        path = folder / f"{name}.pdf"
        path.write_bytes(data)
        rows.append(pipeline.measure(name, path, folder))
        rows += vlm.measure(name, path, folder)
    return rows


MEASUREMENTS: dict[str, Callable[[Path], list[Row]]] = {
    "pages": _pages,
    "gpu": gpu.measure,
    "streaming": lambda _: streaming.measure(),
    "single": single.measure,
    "memory": memory.measure,
    "latency": latency.measure,
    "overload": overload.measure,
    "observing": observing.measure,
    "resume": resume.measure,
    "bombs": bombs.measure,
    "parsers": lambda _: parsers.measure(),
    "files": files.measure,
    "engine": lambda folder: [engine.measure(folder)],
}


def main(names: list[str]) -> None:
    """Run the measurements of these names, or all of them."""
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        sys.exit(f"There is no {', '.join(unknown)}; known: {', '.join(MEASUREMENTS)}.")
    rows: list[Row] = []
    for name in names or MEASUREMENTS:
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="recto-bench-") as folder:
            rows += MEASUREMENTS[name](Path(folder))
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    cores, load = os.cpu_count(), os.getloadavg()[2]
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}", end=", ")
    print(f"mean load of the last 15 minutes {load:.1f}\n")
    show(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
