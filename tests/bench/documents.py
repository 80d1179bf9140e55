"""Documents to measure with: dense text pages, and the pages of the demo scan."""

from __future__ import annotations

import io
from itertools import count
from pathlib import Path

import pypdfium2

from tests import samples

SCAN = Path(__file__).resolve().parents[2] / "docs" / "demo" / "scan.pdf"
_WORDS = "the quick brown fox jumps over a lazy dog while seven wizards box with jolly quacks"
_COPIES = count()


def text(pages: int, first: int = 0) -> bytes:
    """Return a PDF of dense text pages: 45 lines of 80 characters each, no two pages alike."""
    return samples.text_pdf([_text(page) for page in range(first, first + pages)])


def fresh(document: bytes) -> bytes:
    """Return the PDF or JPEG with some bytes after its end, so that it was never read before.

    A document that is read again is answered from the ledger, which would measure nothing.
    """
    return document + b"\n%% copy %d\n" % next(_COPIES)


def scans(pages: int) -> bytes:
    """Return a PDF whose pages are those of the demo scan, each with a picture of its own."""
    pictures = _pictures()
    kids = b" ".join(b"%d 0 R" % (3 + 3 * number) for number in range(pages))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, pages),
    ]
    for number in range(pages):
        jpeg, size = pictures[number % len(pictures)]
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
            b" /Resources << /XObject << /I %d 0 R >> >> >>" % (4 + 3 * number, 5 + 3 * number),
            samples.stream(b"q 595 0 0 842 0 0 cm /I Do Q"),
            samples.jpeg_object(jpeg, size),
        ]
    return samples.pdf(objects)


def picture() -> bytes:
    """Return a text page as a JPEG of 1089 x 1540 pixels and 300 kB."""
    with pypdfium2.PdfDocument(samples.text_pdf([_text(0, 32)])) as document:
        image = document[0].render(scale=1540 / 842, rev_byteorder=True).to_pil()
    return samples.saved(image, "JPEG", quality=85)


def _text(page: int, lines: int = 45) -> str:
    return "\n".join(f"{page}.{row} {_WORDS}"[:80] for row in range(lines))


def _pictures() -> list[tuple[bytes, tuple[int, int]]]:
    found = []
    with pypdfium2.PdfDocument(SCAN) as document:
        for page in document:
            (picture,) = page.get_objects()
            image = picture.get_bitmap().to_pil().convert("RGB")
            out = io.BytesIO()
            image.save(out, "JPEG", quality=75)
            found.append((out.getvalue(), image.size))
    return found
