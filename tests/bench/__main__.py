"""Measure pages, models' servers, parsers, files, the CPU engine and memory; print one table.

Each figure is a ratio to a bare loop that does the unavoidable on the same pages in the same
run, so that a slow or busy machine changes both sides alike. Linux only: it reads /proc.
"""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

from tests.bench import documents, engine, files, memory, parsers, pipeline, streaming, vlm
from tests.bench.table import Row, show


def main() -> None:
    """Run every measurement."""
    with tempfile.TemporaryDirectory(prefix="recto-bench-") as folder:
        root = Path(folder)
        rows: list[Row] = []
        for name, data in (("text", documents.text(40)), ("scanned", documents.scans(40))):
            path = root / f"{name}.pdf"
            path.write_bytes(data)
            rows.append(pipeline.measure(name, path, root))
            rows += vlm.measure(name, path, root)
        rows += streaming.measure()
        rows += parsers.measure()
        rows += memory.measure(root)
        rows += files.measure(root)
        rows.append(engine.measure(root))
    cores, load = os.cpu_count(), os.getloadavg()[2]
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}", end=", ")
    print(f"mean load of the last 15 minutes {load:.1f}\n")
    show(rows)


if __name__ == "__main__":
    main()
