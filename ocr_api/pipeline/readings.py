"""Pages as they were read: from the ledger, from another request that reads them now, or anew."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from files_api.accounts import Principal
from files_api.kit.errors import AppError
from model_registry.card import Card
from ocr_api.documents import Document, digest
from ocr_api.ledger import Kept, LeaderFailedError, Ledger, Place, key_of
from ocr_api.pages import DrawnPage
from ocr_api.pipeline.order import Started
from ocr_api.pipeline.run import Keys, Plan, Run
from ocr_api.pipeline.tries import Read, Tries
from ocr_api.request import Ask, OcrOptions
from ocr_api.result import Usage

FLUSH_SECONDS = 1.0
_OF_THE_CARD = {
    *("aliases", "name", "description", "licence", "source", "hidden"),
    *("pages_in_flight", "page_seconds", "serve", "regions_card", "annotation"),
}
"""What stands on a card and changes nothing about what is read."""


class Readings:
    """Gives pages, and keeps those that are read."""

    def __init__(self, ledger: Ledger | None, tries: Tries) -> None:
        """Take the ledger; without one every page is read anew."""
        self._ledger = ledger if ledger is not None and ledger.on else None
        self._tries = tries
        self._cards: dict[str, str] = {}
        """What of a card decides what is read, by its id."""
        self._flushing: set[asyncio.Future[None]] = set()
        self._readers: Counter[tuple[str, str]] = Counter()

    async def keys(
        self,
        principal: Principal,
        document: Document,
        card: Card,
        ask: Ask,
        options: OcrOptions,
        indices: Sequence[int],
    ) -> Keys:
        """Return where the pages of a request stand, and which of them are there already."""
        if self._ledger is None or options.skip_cache:
            return Keys()
        org, name = principal.org_id, await digest(document)
        facts = {"reading": self._fingerprint(card, ask, options)}
        by_page = {index: key_of(org, name, index, facts) for index in indices}
        known = await self._ledger.known(org, [*by_page.values()])
        return Keys(on=True, by_page=by_page, document=name, known=known)

    @contextmanager
    def reading(self, run: Run) -> Iterator[None]:
        """Note that a run reads a document, so that others of the same find its pages."""
        place = (run.principal.org_id, run.keys.document)
        self._readers[place] += 1
        run.shared = self._readers[place] > 1
        try:
            yield
        finally:
            self._readers[place] -= 1
            if not self._readers[place]:
                del self._readers[place]

    async def get(
        self, run: Run, index: int, started: Started, held: ExitStack
    ) -> tuple[Read, bool]:
        """Return a page, and whether it was read before; say when it waits for no turn.

        Where more is made of the page than its text, ``held`` gets the page's turn, so that no
        more pictures are in memory than turns allow.

        Raises:
            AppError: it cannot be drawn, or its engine fails.
        """
        ledger, key = self._ledger, run.keys.by_page.get(index)
        if ledger is None or key is None:
            return await self._read(run, index, started, held), False
        if (kept := await self._find(ledger, run, key, started)) is not None:
            return await self._again(run, index, kept, held), True
        with ledger.reading.lead(key) as landing:
            try:
                read = await self._read(run, index, started, held)
            except AppError:
                landing.fail()
                raise
            if read.bad is not None:
                landing.fail()
                return read, False
            kept = _kept(read)
            landing.land(kept)
            ledger.keep(_place(run, index, key), kept)
        return read, False

    def _fingerprint(self, card: Card, ask: Ask, options: OcrOptions) -> str:
        """Return a hash of what an answer depends on, beside the page."""
        if card.id not in self._cards:
            self._cards[card.id] = card.model_dump_json(exclude=_OF_THE_CARD)
        facts = {
            "prompt": ask.prompt,
            "native": ask.native,
            "schema": ask.schema,
            "probabilities": options.confidence in card.capabilities.confidence,
        }
        return key_of("", self._cards[card.id], 0, facts)

    async def flush(self) -> None:
        """Have what was read written now; a database that is slow is not waited for."""
        if self._ledger is None:
            return
        flushing = asyncio.ensure_future(self._ledger.flush())
        self._flushing.add(flushing)
        flushing.add_done_callback(self._flushing.discard)
        await asyncio.wait({flushing}, timeout=FLUSH_SECONDS)

    async def _find(self, ledger: Ledger, run: Run, key: str, started: Started) -> Kept | None:
        """Return a page that is kept, or that somebody reads now; None: it must be read."""
        org = run.principal.org_id
        while True:
            if ledger.reading.is_flying(key):
                started()
                try:
                    kept = await ledger.reading.follow(key)
                except LeaderFailedError:
                    return None  # all who followed try at once, not one after the other
                if kept is not None:
                    return kept
                continue
            if key not in run.keys.known and not self._is_shared(run):
                return None
            kept = (await ledger.get(org, [key])).get(key)
            if kept is not None:
                started()
                return kept
            if not ledger.reading.is_flying(key):
                return None

    def _is_shared(self, run: Run) -> bool:
        """Tell whether another run has read the same document since this one began."""
        run.shared |= self._readers[run.principal.org_id, run.keys.document] > 1
        return run.shared

    async def _read(self, run: Run, index: int, started: Started, held: ExitStack) -> Read:
        held.enter_context(await run.ticket.turn())
        started()
        read = await self._tries.read(run, index)
        if not _needs_pixels(run.plan, run.request.options):
            held.close()
        return read

    async def _again(self, run: Run, index: int, kept: Kept, held: ExitStack) -> Read:
        """Return a kept page as if it had been read now; it is drawn where its pixels matter."""
        reading = replace(kept.reading, usage=Usage())
        drawn = DrawnPage(
            index=index,
            width=kept.width,
            height=kept.height,
            dpi=kept.dpi,
            jpeg=b"",
            blank=kept.blank,
            pictures=kept.pictures,
        )
        if _needs_pixels(run.plan, run.request.options):
            held.enter_context(await run.ticket.turn())
            drawn = await self._tries.draw(run, index, kept.scale)
        jpeg = drawn.jpeg
        if jpeg and reading.turned:
            jpeg = await self._tries.turn(run, drawn, reading.turned)
        begun = time.perf_counter()
        parsed = self._tries.parse(run, drawn, reading)
        parsing = time.perf_counter() - begun
        saved = kept.reading.usage
        return Read(drawn, reading, parsed, jpeg, kept.tried, saved=saved, parsing=parsing)


def _kept(read: Read) -> Kept:
    drawn = read.drawn
    return Kept(
        reading=read.reading,
        width=drawn.width,
        height=drawn.height,
        dpi=drawn.dpi,
        blank=drawn.blank,
        pictures=drawn.pictures,
        scale=read.scale,
        tried=read.tried,
    )


def _place(run: Run, index: int, key: str) -> Place:
    return Place(
        key=key,
        org_id=run.principal.org_id,
        document=run.keys.document,
        page=index,
        card=run.choice.card.id,
        file_id=run.document.file_id,
    )


def _needs_pixels(plan: Plan, options: OcrOptions) -> bool:
    """Tell whether more is made of a page than its text: pictures cut out, questions about it."""
    cut = options.image_limit != 0 and (options.want_images or plan.regions is not None)
    return cut or plan.by_page or (plan.folds and plan.form is not None)
