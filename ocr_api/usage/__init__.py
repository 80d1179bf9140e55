"""What was used, by whom.

`book` writes one row per request that reached an engine (shadow readings of the A/B routes write
none), `report` sums rows up over a `period`, and `table` makes CSV of the sums.
"""

from __future__ import annotations

from ocr_api.usage.book import BATCH, MOST, PAUSE, SECONDS, Entry, Outcome, UsageBook
from ocr_api.usage.report import Question, UsageReader
from ocr_api.usage.rows import UsageRow

__all__ = [
    "BATCH",
    "MOST",
    "PAUSE",
    "SECONDS",
    "Entry",
    "Outcome",
    "Question",
    "UsageBook",
    "UsageReader",
    "UsageRow",
]
