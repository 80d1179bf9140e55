"""Text formats: markdown, the same as plain text file, and the neutral result as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import orjson

from ocr_api.exports import Export
from ocr_api.result import Page, Result, replace_marks


class Text(Export):
    """Markdown, text and JSON."""

    formats: ClassVar[Mapping[str, str]] = {
        "md": "text/markdown",
        "txt": "text/plain",
        "json": "application/json",
    }

    def render(self, result: Result, fmt: str) -> bytes:
        """Return the pages one after another: a form feed between them in txt, a blank in md."""
        if fmt == "json":
            return orjson.dumps(_facts(result), option=orjson.OPT_INDENT_2) + b"\n"
        between = "\f" if fmt == "txt" else "\n\n"
        return (between.join(_markdown(page) for page in result.pages) + "\n").encode()


def _markdown(page: Page) -> str:
    return replace_marks(page.markdown, lambda _: "")


def _facts(result: Result) -> dict[str, Any]:
    return {
        "model": result.model,
        "card": result.card,
        "document_bytes": result.document_bytes,
        "pages": [
            {
                **{key: getattr(page, key) for key in ("index", "width", "height", "dpi")},
                "markdown": _markdown(page),
                "seconds": round(page.seconds, 3),
                "usage": asdict(page.usage),
                "error": page.error,
            }
            for page in result.pages
        ],
        "usage": asdict(result.usage),
        "warnings": [asdict(warning) for warning in result.warnings],
    }
