"""Memory of the API process: does it grow with the document?"""

from __future__ import annotations

from pathlib import Path

from tests.bench import documents, server
from tests.bench.processes import resident_mib
from tests.bench.table import Row


def measure(folder: Path) -> Row:
    """Read 10 pages, then 500, with the fake engine; compare the resident memory after each."""
    with server.running(folder) as (base, pid):
        for _ in range(3):
            server.read(base, documents.text(10), "echo")
        small = resident_mib(pid)
        answer = server.read(base, documents.text(500), "echo")
        assert answer["usage_info"]["pages_processed"] == 500
        large = resident_mib(pid)
    return Row(
        "RSS of the API process, MiB, 500 pages over 10",
        f"{large:.0f}",
        f"{small:.0f}",
        f"+{large - small:.0f} MiB",
        "< +50 MB",
    )
