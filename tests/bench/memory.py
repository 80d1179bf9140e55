"""Memory of the API process: does it grow with the document, and with its pictures?"""

from __future__ import annotations

from pathlib import Path

from tests.bench import documents, server
from tests.bench.processes import peak_mib, resident_mib
from tests.bench.table import Row


def measure(folder: Path) -> list[Row]:
    """Read 10 pages, then 500, then 200 with pictures; compare the resident memory after each."""
    with server.running(folder) as (base, pid):
        for _ in range(3):
            server.read(base, documents.text(10), "echo")
        small = resident_mib(pid)
        answer = server.read(base, documents.text(500), "echo")
        assert answer["usage_info"]["pages_processed"] == 500
        large = resident_mib(pid)
        pictures = server.read(base, documents.text(200), "echo", include_image_base64=True)
        carried = sum(len(page["images"][0]["image_base64"]) for page in pictures["pages"])
        peak = peak_mib(pid)
    return [
        Row(
            "RSS of the API process, MiB, after 500 pages over after 10",
            f"{large:.0f}",
            f"{small:.0f}",
            f"+{large - small:.0f} MiB",
            "< +50 MB",
        ),
        Row(
            "peak RSS of the API process, MiB, 200 pages with pictures over the answer's pictures",
            f"{peak - small:.0f}",
            f"{carried / 2**20:.0f}",
            f"{(peak - small) / (carried / 2**20):.2f}",
            "report",
        ),
    ]
