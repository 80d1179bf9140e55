"""The story of a document: resolve, choose pages, draw, read, parse, assemble.

Pages flow through a window of a fixed few, in order, so that memory does not grow with the
document; whoever stops taking pages stops the work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from statistics import fmean
from typing import TypeVar

from files_api.accounts import Principal
from files_api.kit import errors, named
from files_api.kit.observe import log
from files_api.kit.tasks import finished
from model_registry.registry import Choice, Registry, UnknownModelError, UnservedModelError
from ocr_api.documents import Document, Documents
from ocr_api.engines import Engine, PageTask
from ocr_api.pages import DrawnPage, Pages
from ocr_api.parsers import Parser
from ocr_api.request import Ask, OcrOptions, OcrRequest, check_support, choose_prompt
from ocr_api.result import (
    WHOLE_PAGE,
    Box,
    Page,
    Parsed,
    Reading,
    Region,
    Result,
    Usage,
    Warn,
    replace_marks,
)
from ocr_api.usage import Entry, Outcome

LOW_CONFIDENCE = 0.85
"""Mean confidence of lines below which a page is doubtful: good print has .97 and more, turned
pages .63 to .72, handwriting .83 (measured with PP-OCRv6 on real pages, 2026)."""

Recorder = Callable[[Principal, Entry], Awaitable[None]]
Item = TypeVar("Item")
Done = TypeVar("Done")


@dataclass
class Run:
    """One request under way: what is known before the first page, and what has been read."""

    request: OcrRequest
    choice: Choice
    ask: Ask
    document: Document
    indices: list[int]
    """Pages to read, ascending, counted from 0."""
    warnings: tuple[Warn, ...]
    begun: float = field(default_factory=time.perf_counter)
    read: int = 0
    failed: int = 0
    tokens: Usage = field(default_factory=Usage)

    def count(self, page: Page) -> None:
        """Add a page to what has been used."""
        if page.error is None:
            self.read += 1
            self.tokens += page.usage
        else:
            self.failed += 1

    def result(self, pages: Iterable[Page]) -> Result:
        """Return the answer made of the pages that were read."""
        return Result(
            id=self.request.id,
            model=self.choice.name,
            card=self.choice.card.id,
            document_bytes=self.document.size,
            pages=tuple(pages),
            warnings=self.warnings,
            usage=self.tokens,
        )

    def entry(self, outcome: Outcome) -> Entry:
        """Return what the request used so far."""
        return Entry(
            request_id=self.request.id,
            model=self.choice.name,
            card=self.choice.card.id,
            outcome=outcome,
            pages=self.read,
            tokens=self.tokens,
            document_bytes=self.document.size,
            seconds=time.perf_counter() - self.begun,
        )


class Pipeline:
    """Reads documents."""

    def __init__(
        self,
        registry: Registry,
        engines: Mapping[str, Engine],
        documents: Documents,
        pages: Pages,
        record: Recorder,
        max_pages: int,
    ) -> None:
        self._registry = registry
        self._engines = engines
        self._documents = documents
        self._pages = pages
        self._record = record
        self._max_pages = max_pages
        self._parsers = {card.parser: _parser(card.parser) for card in registry.cards()}

    async def run(self, request: OcrRequest, principal: Principal) -> Result:
        """Return the whole document.

        Raises:
            AppError: the request, the document, or a page of it is at fault.
        """
        async with self.open(request, principal) as run, aclosing(self.pages(run)) as stream:
            return run.result([page async for page in stream])

    @asynccontextmanager
    async def open(self, request: OcrRequest, principal: Principal) -> AsyncIterator[Run]:
        """Resolve a request into a run; on leaving, write what it used.

        Raises:
            AppError: the model, the options or the document is at fault; nothing was read.
        """
        choice = self.choose(request.model, principal)
        warnings = check_support(request.options, choice.card, self._registry.annotators())
        ask = choose_prompt(request.options, choice.card)
        async with self._documents.open(request.source, principal) as document:
            with _naming(request.source.param):
                indices = await self._choose_pages(document, request.options)
            run = Run(request, choice, ask, document, indices, (*warnings, *ask.warnings))
            outcome: Outcome = "cancelled"
            try:
                with _naming(request.source.param):
                    yield run
                outcome = "partial" if run.failed else "ok"
            except Exception:
                outcome = "failed"
                raise
            finally:
                # A caller that left must not take its usage row with it.
                await finished(self._note(principal, run.entry(outcome)))

    async def _note(self, principal: Principal, entry: Entry) -> None:
        """Write the usage row; an answer that is ready is not thrown away for want of it."""
        try:
            await self._record(principal, entry)
        except errors.AppError as error:
            facts = {**asdict(entry), "org": principal.org_id, "code": error.code}
            log(__name__, "usage_lost", level=logging.ERROR, **facts)

    def choose(self, name: str | None, principal: Principal) -> Choice:
        """Return who answers to a public name.

        Raises:
            ModelUnknown, ModelUnavailable: nobody does.
        """
        try:
            return self._registry.choose(name, principal.org_id)
        except UnknownModelError as error:
            raise errors.ModelUnknown(str(error), param="model") from error
        except UnservedModelError as error:
            raise errors.ModelUnavailable(str(error), param="model") from error

    async def pages(self, run: Run) -> AsyncGenerator[Page, None]:
        """Yield the pages of a run in document order, at most a window of them in work.

        Raises:
            AppError: a page failed and the caller did not allow a partial answer.
        """
        room = run.request.options.image_limit
        work = in_order(run.indices, lambda index: self._page(run, index), self._window(run))
        async with aclosing(work) as stream:
            async for page in stream:
                kept = page if room is None else _limit_regions(page, room)
                room = None if room is None else room - len(kept.regions)
                run.count(kept)
                yield kept

    def _window(self, run: Run) -> int:
        """Return how many pages of the document may be in work.

        An engine with few places gets one page more than it can read at once, so that a small
        document need not wait behind many pages of a large one.
        """
        card = run.choice.card
        places = self._engines[card.engine].places
        return card.pages_in_flight if places is None else min(card.pages_in_flight, places + 1)

    async def _choose_pages(self, document: Document, options: OcrOptions) -> list[int]:
        count = await self._pages.count(document.path, document.media_type)
        if options.pages is not None:
            chosen = options.pages.choose(count)
        elif count > self._max_pages:
            raise errors.TooManyPages(
                f"The document has {count} pages; one request may read {self._max_pages}. "
                "Select some with `pages`.",
                param="pages",
            )
        else:
            chosen = list(range(count))
        if len(chosen) > self._max_pages:
            raise errors.TooManyPages(param="pages")
        return chosen

    async def _page(self, run: Run, index: int) -> Page:
        try:
            return await self._read_page(run, index)
        except errors.AppError as error:
            if not run.request.options.allow_partial:
                raise
            return Page(index, 0, 0, 0, error=error.message)

    async def _read_page(self, run: Run, index: int) -> Page:
        """Draw, read, parse: the life of one page."""
        begun = time.perf_counter()
        document, card, options = run.document, run.choice.card, run.request.options
        drawn = await self._pages.draw(document.path, document.media_type, index, card.render)
        reading = Reading() if drawn.blank else await self._read(run, drawn)
        drawn = drawn.turned(reading.turned)
        pictures = _pictures(drawn, options)
        parsed = self._parsers[card.parser].parse(reading, pictures)
        regions = await self._regions(drawn, reading.turned, pictures, options)
        return Page(
            index=index,
            width=drawn.width,
            height=drawn.height,
            dpi=drawn.dpi,
            markdown=parsed.markdown,
            blocks=parsed.blocks,
            regions=regions,
            confidences=parsed.confidences,
            usage=reading.usage,
            seconds=time.perf_counter() - begun,
            warnings=_doubts(drawn, reading, parsed),
        )

    async def _read(self, run: Run, drawn: DrawnPage) -> Reading:
        card = run.choice.card
        url = run.choice.urls[0] if run.choice.urls else None
        task = PageTask(drawn, card, run.ask.prompt, url, run.request.id)
        return await self._engines[card.engine].read(task)

    async def _regions(
        self, drawn: DrawnPage, turned: int, pictures: tuple[Box, ...], options: OcrOptions
    ) -> tuple[Region, ...]:
        if not options.want_images or options.image_limit == 0:
            return tuple(Region(box) for box in pictures)
        # A page without pictures of its own is the picture, as Nebul's "page images".
        boxes = pictures or _large_enough((WHOLE_PAGE,), drawn, options)
        crops = await self._pages.crop(drawn.jpeg, boxes, turned=turned)
        return tuple(Region(box, crop) for box, crop in zip(boxes, crops, strict=True))


async def in_order(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Done]], window: int
) -> AsyncGenerator[Done, None]:
    """Yield ``work(item)`` for each item, in order, with at most ``window`` of them under way.

    Leaving early, or an error in one, cancels the rest; nothing is left running.
    """
    waiting = iter(items)
    tasks: deque[asyncio.Future[Done]] = deque()
    try:
        tasks.extend(asyncio.ensure_future(work(item)) for item in islice(waiting, window))
        while tasks:
            done = await tasks[0]
            tasks.popleft()
            tasks.extend(asyncio.ensure_future(work(item)) for item in islice(waiting, 1))
            yield done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _parser(name: str) -> Parser:
    return named.leaf("ocr_api.parsers", name, Parser)()  # type: ignore[type-abstract]


def _pictures(drawn: DrawnPage, options: OcrOptions) -> tuple[Box, ...]:
    if not options.want_regions or options.image_limit == 0:
        return ()
    return _large_enough(drawn.pictures, drawn, options)


def _large_enough(boxes: tuple[Box, ...], drawn: DrawnPage, options: OcrOptions) -> tuple[Box, ...]:
    least = max(options.image_min_size or 0, 1)
    sides = [box.pixels(drawn.width, drawn.height) for box in boxes]
    return tuple(
        box
        for box, (left, top, right, bottom) in zip(boxes, sides, strict=True)
        if min(right - left, bottom - top) >= least
    )


@contextmanager
def _naming(param: str) -> Iterator[None]:
    """Let the errors of a document name the request's field that it came in."""
    try:
        yield
    except errors.AppError as error:
        if isinstance(error, errors.InvalidRequest):
            error.param = error.param or param
        raise


def _limit_regions(page: Page, room: int) -> Page:
    if len(page.regions) <= room:
        return page
    blocks = tuple(block for block in page.blocks if block.region is None or block.region < room)
    return replace(page, regions=page.regions[:room], blocks=blocks)


def _doubts(drawn: DrawnPage, reading: Reading, parsed: Parsed) -> tuple[Warn, ...]:
    """Return what a reader of the page should know before believing it."""
    doubts = []
    if reading.finish_reason == "length":
        doubts.append(Warn("truncated", "The model stopped at its length limit."))
    if reading.turned:
        said = f"The page was turned clockwise by {reading.turned} degrees to be read."
        doubts.append(Warn("turned", f"{said} Its size and boxes are those of the turned page."))
    if not drawn.blank and not replace_marks(parsed.markdown, lambda _: "").strip():
        doubts.append(Warn("nothing_read", "The page is not blank, and no text was read on it."))
    if parsed.confidences and (mean := fmean(parsed.confidences)) < LOW_CONFIDENCE:
        doubts.append(
            Warn("low_confidence", f"The lines were read with a mean confidence of {mean:.2f}.")
        )
    return tuple(doubts)
