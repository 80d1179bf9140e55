"""Usage as lines of CSV (RFC 4180), for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from ocr_api.usage.report import GROUPS, Bucket

MEDIA_TYPE: Final = "text/csv; charset=utf-8; header=present"
COUNTS: Final = (
    "requests",
    "pages",
    "pages_reused",
    "pages_failed",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "reused_prompt_tokens",
    "reused_completion_tokens",
    "wasted_prompt_tokens",
    "wasted_completion_tokens",
    "document_bytes",
    "seconds",
)
_ACTIVE: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection")."""


def header(groups: Sequence[str]) -> str:
    """Return the first line: times, the columns of the groups, the sums."""
    return _lines([["start_time", "end_time", *(GROUPS[name] for name in groups), *COUNTS]])


def body(buckets: Iterable[Bucket], groups: Sequence[str]) -> str:
    """Return a line for each result; empty buckets have none."""
    columns = [GROUPS[name] for name in groups]
    return _lines(
        [
            *(iso(bucket.start), iso(bucket.end)),
            *(_harmless(getattr(used, name)) for name in columns),
            *(getattr(used, name) for name in COUNTS),
        ]
        for bucket in buckets
        for used in bucket.results
    )


def iso(seconds: int) -> str:
    """Return Unix seconds as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _harmless(text: str | None) -> str:
    """Return a cell that no spreadsheet calculates; the added quote tells it that this is text."""
    text = text or ""
    return f"'{text}" if text.startswith(_ACTIVE) else text


def _lines(rows: Iterable[Iterable[object]]) -> str:
    page = io.StringIO()
    csv.writer(page, lineterminator="\r\n").writerows(rows)
    return page.getvalue()
