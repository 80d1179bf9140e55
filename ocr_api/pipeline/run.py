"""One request under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from files_api.accounts import Principal
from files_api.kit import observe
from files_api.kit.errors import AppError, ContextTooLong, SchemaRefused
from model_registry.registry import Choice
from ocr_api.annotate import Form
from ocr_api.documents import Document
from ocr_api.pipeline.stops import Stop
from ocr_api.request import Ask, OcrRequest
from ocr_api.result import Page, Result, Usage, Warn
from ocr_api.scheduler import Ticket
from ocr_api.usage import Entry, Outcome

FAILURES_BASE, FAILURES_SHARE = 3, 10
"""A document is given up when more pages failed than this number, and than one in so many."""
OF_THE_REQUEST = (ContextTooLong, SchemaRefused)
"""Errors that every further page would meet, too."""
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request's annotations are made."""

    folds: bool = False
    """The pages' own answers are the annotation."""
    document: Choice | None = None
    """Who fills the document's annotation in a second pass."""
    form: Form | None = None
    """Of the document; None where a prompt alone says what is wanted."""
    guidance: str | None = None
    regions: Choice | None = None
    """Who says what pictures show."""
    region_form: Form | None = None
    warnings: tuple[Warn, ...] = ()

    @property
    def annotates(self) -> bool:
        """Tell whether an annotation was asked for, of the document or of its pictures."""
        return self.folds or self.document is not None or self.regions is not None

    @property
    def by_page(self) -> bool:
        """Tell whether the second pass asks about each page's picture."""
        annotation = self.document.card.annotation if self.document else None
        return annotation is not None and annotation.by != "chat"


@dataclass(frozen=True, slots=True)
class Keys:
    """Where a run's pages stand in the ledger."""

    on: bool = False
    """Whether pages are looked for and kept."""
    by_page: Mapping[int, str] = field(default_factory=dict)
    document: str = ""
    """SHA-256 of the document."""
    known: frozenset[str] = frozenset()
    """The keys of the pages that were there when the run began."""


MOST_NOTED = 10
"""Pages of one request that a target is judged by: one caller's odd documents are not its fault."""


@dataclass
class Run:
    """One request under way: what is known before the first page, and what has been read."""

    request: OcrRequest
    """Without the document, where that came inside."""
    choice: Choice
    ask: Ask
    plan: Plan
    document: Document
    indices: list[int]
    """Pages to read, ascending, counted from 0."""
    warnings: tuple[Warn, ...]
    principal: Principal
    keys: Keys
    """Under which its pages are kept, and which of them are."""
    ticket: Ticket
    """Its place in the queue."""
    stop: Stop
    drawing: asyncio.Semaphore
    """Held while a page is drawn: a document with hundreds of pages at work must not have all of
    them wait for the drawing processes before the only page of another."""
    shared: bool = False
    """Whether another request read the same document meanwhile."""
    begun: float = field(default_factory=time.perf_counter)
    read: int = 0
    """Pages that were read, or reused."""
    reused: int = 0
    unseen: int = 0
    """Pages that were read and kept, and could not be given."""
    failures: dict[int, AppError] = field(default_factory=dict)
    """Why pages could not be read, by index."""
    tokens: Usage = field(default_factory=Usage)
    """Of the answers that pages are made of."""
    wasted: Usage = field(default_factory=Usage)
    """Of answers that were thrown away."""
    saved: Usage = field(default_factory=Usage)
    """Of pages that were reused, when they were read."""
    annotation: str | None = None
    """A JSON string; known when the last page was given."""
    noted: int = 0
    """Pages that its target was judged by."""
    annotated: int = 0
    """Pages that an annotation was made of."""
    texts: dict[int, str] = field(default_factory=dict)
    """What stands on pages that were read, by index, until their annotator has taken it."""

    @property
    def failed(self) -> int:
        """Return how many pages could not be read."""
        return len(self.failures)

    @property
    def is_usual(self) -> bool:
        """Tell whether pages are asked what the card's model is asked as a rule."""
        return self.ask.schema is None and self.ask.prompt == self.choice.card.prompts.get(
            "document"
        )

    def may_judge(self) -> bool:
        """Tell whether one more page may say something about its target; count it."""
        self.noted += self.is_usual
        return self.is_usual and self.noted <= MOST_NOTED

    @property
    def missing(self) -> int:
        """Return how many pages are not kept from before, so that they must be read."""
        return len(self.indices) - len(self.keys.known)

    def count(self, page: Page) -> None:
        """Add a page that was worked on to what has been used."""
        self.wasted += page.wasted
        self.tokens += page.usage
        if page.error is None:
            self.read += 1
            self.reused += page.reused
            self.saved += page.saved

    def lost(self, page: Page) -> None:
        """Add a page that was read and is not given: what came after failed, or the caller left."""
        self.wasted += page.wasted
        if self.keys.on:
            self.tokens += page.usage  # it is kept: another try gets it for nothing
            self.unseen += not page.reused
        else:
            self.wasted += page.usage

    def give_up(self) -> bool:
        """Tell whether no more pages should be tried for a caller who wants all or nothing.

        Pages that can be read are kept, so that another try pays for the others alone; but a
        document most of whose pages fail, or one that nobody keeps, is not worth the rest.
        """
        if not self.failures or self.request.options.allow_partial:
            return False
        most = max(FAILURES_BASE, len(self.indices) // FAILURES_SHARE)
        fatal = any(isinstance(error, OF_THE_REQUEST) for error in self.failures.values())
        return fatal or not self.keys.on or self.failed > most

    def failure(self) -> AppError:
        """Return why the whole request failed: the first of its pages that did."""
        index = min(self.failures)
        first = self.failures[index]
        if self.failed == 1 and len(self.indices) > 1 and not first.message.startswith("Page "):
            first.message = f"Page {index} (counted from 0) could not be read: {first.message}"
        if self.failed > 1:
            pages = ", ".join(map(str, sorted(self.failures)[:_NAMED]))
            more = ", ..." if self.failed > _NAMED else ""
            first.message = (
                f"{self.failed} pages could not be read ({pages}{more}, counted from 0); the "
                f"first: {first.message}"
            )
            first.args = (first.message,)
        return first

    def result(self, pages: Iterable[Page]) -> Result:
        """Return the answer made of the pages that were read."""
        return Result(
            id=self.request.id,
            model=self.choice.name,
            card=self.choice.card.id,
            document_bytes=self.document.size,
            pages=tuple(pages),
            warnings=self.warnings,
            annotation=self.annotation,
            usage=self.tokens,
        )

    def tell(self, entry: Entry) -> None:
        """Write the line of the log that says what came of the request."""
        observe.log(
            "recto.ocr",
            "ocr",
            org=self.principal.org_id,
            key=self.principal.key_id,
            outcome=entry.outcome,
            model=entry.model,
            card=entry.card,
            pages=entry.pages,
            reused=entry.pages_reused,
            failed=entry.pages_failed,
            seconds=round(entry.seconds, 4),
        )

    def entry(self, outcome: Outcome) -> Entry:
        """Return what the request used so far."""
        return Entry(
            request_id=self.request.id,
            model=self.choice.name,
            card=self.choice.card.id,
            outcome=outcome,
            pages=self.read - self.reused + self.unseen,
            tokens=self.tokens,
            document_bytes=self.document.size,
            seconds=time.perf_counter() - self.begun,
            pages_reused=self.reused,
            pages_failed=self.failed,
            reused=self.saved,
            wasted=self.wasted,
        )
