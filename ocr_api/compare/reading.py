"""One file read by several models, one after the other, so that none slows another down."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from uuid_utils import uuid7

from files_api.kit.errors import AppError
from ocr_api.app import Workshop
from ocr_api.documents import Document
from ocr_api.offline import LOCAL
from ocr_api.pipeline import Run
from ocr_api.request import OcrOptions, OcrRequest, PathSource
from ocr_api.result import Page, Usage, replace_marks


@dataclass(frozen=True, slots=True)
class ReadPage:
    """What one model made of one page."""

    markdown: str
    seconds: float
    """Wall-clock time of drawing, waiting for the model, and reading."""
    usage: Usage
    wasted: Usage
    warnings: tuple[str, ...] = ()
    error: str | None = None
    """Why it counts as not read; there may be text all the same."""


@dataclass(slots=True)
class Attempt:
    """What one model made of one file."""

    model: str
    """The name that was asked for."""
    card: str | None = None
    """The card that answered; None where nobody was asked."""
    pages: dict[int, ReadPage] = field(default_factory=dict)
    """By place in the document, from 0."""
    seconds: float = 0.0
    """Wall-clock time of the whole file."""
    usage: Usage = field(default_factory=Usage)
    wasted: Usage = field(default_factory=Usage)
    warnings: tuple[str, ...] = ()
    error: str | None = None
    """Why the file was not read, or not to its end."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What every model made of one file."""

    path: Path
    attempts: tuple[Attempt, ...]
    document: Document | None
    """The file, as something that can be drawn; None where no model could open it."""

    @property
    def indices(self) -> list[int]:
        """Return the pages that some model came to, ascending."""
        return sorted({index for attempt in self.attempts for index in attempt.pages})

    @property
    def failed(self) -> bool:
        """Tell whether some model could not read some page."""
        return any(
            attempt.error is not None or any(page.error for page in attempt.pages.values())
            for attempt in self.attempts
        )


async def read(
    workshop: Workshop, path: Path, models: Sequence[str], options: OcrOptions
) -> Reading:
    """Return what each model makes of a file; progress goes to standard error.

    A model that fails does not stop the others. The text of one file is held in memory, by every
    model; its pictures are not.
    """
    attempts, document = [], None
    for model in models:
        attempt = Attempt(model)
        document = await _attempt(workshop, path, attempt, options) or document
        attempts.append(attempt)
        _tell(path, attempt)
    return Reading(path, tuple(attempts), document)


async def _attempt(
    workshop: Workshop, path: Path, attempt: Attempt, options: OcrOptions
) -> Document | None:
    """Let a model read a file; return the file, where it could be opened."""
    request = OcrRequest(PathSource(path), attempt.model, options, id=str(uuid7()))
    begun, document = time.perf_counter(), None
    try:
        async with workshop.pipeline.open(request, LOCAL) as run:
            document, attempt.card = run.document, run.choice.card.id
            attempt.warnings = tuple(warning.message for warning in run.warnings)
            try:
                await _take_pages(workshop, run, attempt)
            finally:
                attempt.usage, attempt.wasted = run.tokens, run.wasted
    except AppError as error:
        attempt.error = error.message
    attempt.seconds = time.perf_counter() - begun
    return document


async def _take_pages(workshop: Workshop, run: Run, attempt: Attempt) -> None:
    label, quiet = f"{run.document.name}, {attempt.model}", not sys.stderr.isatty()
    with click.progressbar(
        length=len(run.indices), label=label, file=sys.stderr, hidden=quiet
    ) as bar:
        async for page in workshop.pipeline.pages(run):
            attempt.pages[page.index] = _kept(page)
            bar.update(1)


def _kept(page: Page) -> ReadPage:
    return ReadPage(
        markdown=replace_marks(page.markdown, lambda _: ""),
        seconds=page.seconds,
        usage=page.usage,
        wasted=page.wasted,
        warnings=tuple(warning.message for warning in page.warnings),
        error=page.error,
    )


def _tell(path: Path, attempt: Attempt) -> None:
    """Say on standard error how a file went."""
    failures = [(index, page.error) for index, page in attempt.pages.items() if page.error]
    for index, error in failures:
        click.echo(f"{path}, {attempt.model}, page {index}: {error}", err=True)
    if attempt.error is not None:
        click.echo(f"{path}, {attempt.model}: {attempt.error}", err=True)
    count = len(attempt.pages) - len(failures)
    pages = "1 page" if count == 1 else f"{count} pages"
    click.echo(f"{path}, {attempt.model}: {pages} read in {attempt.seconds:.1f} s", err=True)
