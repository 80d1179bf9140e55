"""Memory of the service: does it grow with the document, and with its pictures?"""

from __future__ import annotations

from pathlib import Path

from tests.bench import documents, server
from tests.bench.files import upload
from tests.bench.processes import peak_mib, resident_mib, watched
from tests.bench.table import Row

FEW, MANY, WINDOW = 40, 2000, 16


def measure(folder: Path) -> list[Row]:
    """Measure documents inside requests, then long documents that were uploaded."""
    return [*_inline(folder / "inline"), _long(folder / "long")]


def _inline(folder: Path) -> list[Row]:
    """Read 10 pages, then 500, then 200 with pictures; compare the resident memory after each."""
    with server.running(folder) as (base, pid):
        for _ in range(3):
            server.read(base, documents.fresh(documents.text(10)), "echo")
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


def _long(folder: Path) -> Row:
    """Compare the most memory of all processes while 40 pages are read, and while 2,000 are."""
    settings = server.with_places(folder, "echo", WINDOW)
    peaks = []
    with server.running(folder, MAX_PAGES=str(MANY), **settings) as (base, pid):
        _read(folder, base, FEW)  # starts the children
        for pages in (FEW, MANY):
            with watched(pid) as peak:
                _read(folder, base, pages)
            peaks.append((peak.together, peak.alone))
    (few, few_alone), (many, many_alone) = peaks
    alone = f"{WINDOW} in flight (the API alone {many_alone - few_alone:+.0f})"
    return Row(
        f"peak RSS of API and workers, MiB, {MANY:,} pages over {FEW}, {alone}",
        f"{many:.0f}",
        f"{few:.0f}",
        f"+{many - few:.0f} MiB",
        "< +30 MB",
    )


def _read(folder: Path, base: str, pages: int) -> None:
    path = folder / "document.pdf"
    path.write_bytes(documents.fresh(documents.text(pages)))
    answer = server.read_file(base, upload(base, path), "echo")
    assert answer["usage_info"]["pages_processed"] == pages
