"""The bare loop: render and encode every page, nothing else. Prints CPU seconds per page."""

from __future__ import annotations

import io
import sys
import time

import pypdfium2


def main(path: str, edge: int) -> None:
    """Render each page to ``edge`` pixels and encode it; print CPU seconds per page."""
    with pypdfium2.PdfDocument(path) as document:
        _draw(document, 0, edge)
        begun = time.process_time()
        for index in range(len(document)):
            _draw(document, index, edge)
        print((time.process_time() - begun) / len(document))


def _draw(document: pypdfium2.PdfDocument, index: int, edge: int) -> None:
    page = document[index]
    bitmap = page.render(scale=edge / max(page.get_size()), rev_byteorder=True)
    bitmap.to_pil().save(io.BytesIO(), "JPEG", quality=85)
    page.close()


main(sys.argv[1], int(sys.argv[2]))
