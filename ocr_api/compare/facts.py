"""The comparison as JSON: the figures of the report, for programs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

import orjson

from ocr_api.compare.figures import Cell, Figures, rounded
from ocr_api.compare.reading import Reading
from ocr_api.compare.report import shown
from ocr_api.pages import DrawnPage


class JsonReport:
    """Takes pages one by one: an object with `models`, `files` and `pages`."""

    def __init__(self, spool: BinaryIO) -> None:
        """Take an empty file for the pages until `finish`."""
        self._spool = spool
        self._files: list[dict[str, Any]] = []
        self._pages = 0

    def add_file(self, reading: Reading) -> None:
        """Note a file; its pages come next."""
        results = [
            {
                "model": attempt.model,
                "card": attempt.card,
                "seconds": rounded(attempt.seconds),
                "warnings": attempt.warnings,
                "error": attempt.error,
            }
            for attempt in reading.attempts
        ]
        self._files.append({"file": shown(reading.path), "results": results})

    def add_page(
        self, reading: Reading, index: int, cells: Sequence[Cell], drawn: DrawnPage | str
    ) -> None:
        """Write a page, without its picture."""
        del drawn
        facts = {
            "file": shown(reading.path),
            "index": index,
            "results": [_result(cell) for cell in cells],
        }
        self._spool.write((b",\n" if self._pages else b"") + orjson.dumps(facts))
        self._pages += 1

    def finish(self, totals: Sequence[Figures], out: BinaryIO) -> None:
        """Write the whole object."""
        models = orjson.dumps([one.facts() for one in totals])
        out.write(b'{"models": %b,\n"files": %b,\n' % (models, orjson.dumps(self._files)))
        out.write(b'"pages": [\n')
        self._spool.seek(0)
        shutil.copyfileobj(self._spool, out)
        out.write(b"\n]}\n")


def _result(cell: Cell) -> dict[str, Any]:
    page, difference = cell.page, cell.difference
    return {
        "model": cell.attempt.model,
        "card": cell.attempt.card,
        "markdown": page and page.markdown,
        "similarity": difference and difference.similarity,
        "by_lines": difference and difference.by_lines,
        "seconds": page and rounded(page.seconds),
        "usage": page and asdict(page.usage),
        "wasted": page and asdict(page.wasted),
        "warnings": page.warnings if page else (),
        "error": cell.error,
    }
