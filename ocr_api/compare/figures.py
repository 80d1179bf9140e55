"""What the models did, page by page and added up: the figures of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ocr_api.compare.differences import Difference, compare
from ocr_api.compare.reading import Attempt, Reading, ReadPage
from ocr_api.result import Usage


@dataclass(frozen=True, slots=True)
class Cell:
    """One page by one model."""

    attempt: Attempt
    page: ReadPage | None
    """None where the model did not come to it; the attempt's error says why."""
    difference: Difference | None
    """From the first model's text; None for that itself, and where one of the two was not read."""

    @property
    def error(self) -> str | None:
        """Return why the page was not read, or None where it was."""
        if self.page is None:
            return self.attempt.error or "The model did not come to this page."
        return self.page.error


def rows(reading: Reading) -> Iterator[tuple[int, list[Cell]]]:
    """Yield each page of a file: its place from 0, and a cell for each model."""
    for index in reading.indices:
        first = _text(reading.attempts[0], index)
        cells = []
        for attempt in reading.attempts:
            text = None if attempt is reading.attempts[0] else _text(attempt, index)
            difference = compare(first, text) if first is not None and text is not None else None
            cells.append(Cell(attempt, attempt.pages.get(index), difference))
        yield index, cells


def _text(attempt: Attempt, index: int) -> str | None:
    """Return what a model read on a page; None where it did not."""
    page = attempt.pages.get(index)
    return None if page is None or page.error is not None else page.markdown


@dataclass(slots=True)
class Figures:
    """What one model did in all files."""

    model: str
    cards: list[str] = field(default_factory=list)
    """Who answered, in the order in which they did."""
    pages: int = 0
    """Pages that were read."""
    failed_pages: int = 0
    failed_files: int = 0
    """Files that could not be read at all, or not to their ends."""
    seconds: list[float] = field(default_factory=list)
    """Of each page that was read."""
    total_seconds: float = 0.0
    """Of the files, one after the other; their pages are read side by side."""
    usage: Usage = field(default_factory=Usage)
    wasted: Usage = field(default_factory=Usage)
    similarities: list[float] = field(default_factory=list)
    """To the first model, of each page that both read."""

    def add_file(self, attempt: Attempt) -> None:
        """Count what is known of the file as a whole."""
        if attempt.card is not None and attempt.card not in self.cards:
            self.cards.append(attempt.card)
        self.failed_files += attempt.error is not None
        self.total_seconds += attempt.seconds
        self.usage += attempt.usage
        self.wasted += attempt.wasted

    def add_page(self, cell: Cell) -> None:
        """Count one page."""
        if cell.page is None or cell.error is not None:
            self.failed_pages += 1
            return
        self.pages += 1
        self.seconds.append(cell.page.seconds)
        if cell.difference is not None:
            self.similarities.append(cell.difference.similarity)

    @property
    def similarity(self) -> float | None:
        """Return the mean similarity to the first model, 0 to 1; None where there is none."""
        return fmean(self.similarities) if self.similarities else None

    def within(self, share: float) -> float | None:
        """Return the seconds within which a share of the pages were read (nearest rank)."""
        if not self.seconds:
            return None
        return sorted(self.seconds)[max(0, math.ceil(share * len(self.seconds)) - 1)]

    def per_page(self, tokens: int) -> float | None:
        """Return tokens per page that was read."""
        return tokens / self.pages if self.pages else None

    def facts(self) -> dict[str, object]:
        """Return the figures with their names in JSON; seconds are rounded to milliseconds."""
        prompt, completion = self.usage.prompt_tokens, self.usage.completion_tokens
        return {
            "model": self.model,
            "cards": self.cards,
            "pages": self.pages,
            "failed_pages": self.failed_pages,
            "failed_files": self.failed_files,
            "similarity": self.similarity,
            "seconds_p50": rounded(self.within(0.5)),
            "seconds_p95": rounded(self.within(0.95)),
            "seconds_total": rounded(self.total_seconds),
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "wasted_prompt_tokens": self.wasted.prompt_tokens,
            "wasted_completion_tokens": self.wasted.completion_tokens,
            "tokens_per_page": rounded(self.per_page(prompt + completion)),
        }


def rounded(number: float | None) -> float | None:
    """Return a number with three digits behind the point."""
    return None if number is None else round(number, 3)


def add(figures: Sequence[Figures], reading: Reading) -> None:
    """Count a file for each model."""
    for one, attempt in zip(figures, reading.attempts, strict=True):
        one.add_file(attempt)


def add_row(figures: Sequence[Figures], cells: Sequence[Cell]) -> None:
    """Count a page for each model."""
    for one, cell in zip(figures, cells, strict=True):
        one.add_page(cell)
