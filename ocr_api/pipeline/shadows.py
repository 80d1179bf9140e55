"""Cards that read a sample of a route's pages, too, in the background, and never answer.

A page is drawn for its shadow as soon as it has its turn, so that the document is not needed
later; what is held for long is one drawn page. Where the answer is there first, the shadow is
skipped: nobody waits for it. The shadow's question waits behind everybody
else's. Its tokens are on nobody's account, and its text goes nowhere: it is compared with the
answer's, and the metrics say how it did.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from files_api.kit.errors import AppError, Overloaded, RateLimited
from files_api.kit.observe import log
from model_registry.card import Card
from model_registry.registry import Registry
from model_registry.routing import Shadow
from ocr_api import meters, stages
from ocr_api.engines import Engine, PageTask
from ocr_api.meters import Shadowed
from ocr_api.pages import DrawnPage, Pages
from ocr_api.parsers import Parser
from ocr_api.pipeline.order import Started
from ocr_api.pipeline.outcomes import is_empty, similarity
from ocr_api.pipeline.run import Run
from ocr_api.pipeline.tries import Read, answer_tokens, plausible_chars, verdict
from ocr_api.result import Reading
from ocr_api.scheduler import Scheduler, Share

MOST = 64
"""Pages that shadows read, or wait to read, at a time; further ones are skipped."""
_APART = "#shadow"
"""Whose drawing it is: all shadows together get the share of one organisation."""
SECONDS = 900.0
"""Longest time of one, with its wait."""


@dataclass(eq=False)
class _Glance:
    """One page that one shadow reads."""

    shadow: Shadow
    card: Card
    answer: asyncio.Future[str]
    """What stands on the page, as it was answered."""
    drawn: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the document is not needed any more."""
    task: asyncio.Task[None] | None = None


class Watched:
    """One page on its way, for a ``with`` block; most have no shadow."""

    def __init__(self, glances: Iterable[_Glance], begin: Callable[[_Glance], None]) -> None:
        self._glances = [*glances]
        self._begin = begin
        self._answered = False

    def __enter__(self) -> Watched:
        """Nothing runs yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what shadows do where the page was not answered: there is nothing to compare."""
        for one in self._glances:
            if one.task is not None and not self._answered:
                one.task.cancel()

    def then(self, started: Started) -> Started:
        """Return what is to be called at the page's turn: the shadows begin, too."""
        if not self._glances:
            return started

        def begin() -> None:
            started()
            for one in self._glances:
                if one.task is None:
                    self._begin(one)

        return begin

    def answered(self, read: Read) -> None:
        """Give the shadows what was answered; end those that need the document yet: it may go."""
        for one in self._glances:
            if one.task is None or read.bad is not None:
                continue
            if not one.drawn.is_set():
                meters.shadow_page(one.card.id, "skipped")
                one.task.cancel()
            elif not one.answer.done():
                one.answer.set_result(read.parsed.markdown)
        self._answered = read.bad is None


class Shadows:
    """Has pages read in the shadow."""

    def __init__(
        self,
        registry: Registry,
        engines: Mapping[str, Engine],
        parsers: Mapping[str, Parser],
        pages: Pages,
        scheduler: Scheduler,
    ) -> None:
        self._registry = registry
        self._engines = engines
        self._parsers = parsers
        self._pages = pages
        self._scheduler = scheduler
        self._tasks: dict[asyncio.Task[None], str | None] = {}
        """What is under way, with the file that it is of."""

    def watch(self, run: Run, index: int, key: str | None) -> Watched:
        """Return one page with the shadows that are to read it, if any.

        Args:
            run: the request; one with a prompt of its own would be no fair comparison.
            index: the page.
            key: where the page stands in the ledger; one that is kept is not read.
        """
        if not run.choice.shadows or not run.is_usual or key in run.keys.known:
            return _UNWATCHED
        loop = asyncio.get_running_loop()
        glances = [
            _Glance(shadow, self._registry.card(shadow.card), loop.create_future())
            for shadow in run.choice.shadows
            if is_sampled(run.request.id, index, shadow)
        ]
        return Watched(glances, lambda one: self._begin(run, index, one))

    def files(self) -> set[str]:
        """Return the files whose pages are read now."""
        return {file_id for file_id in self._tasks.values() if file_id is not None}

    def gone(self, file_id: str) -> None:
        """End what is read of a file: it was deleted."""
        for task, of in self._tasks.items():
            if of == file_id:
                task.cancel()

    async def close(self) -> None:
        """End everything."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, run: Run, index: int, glance: _Glance) -> None:
        if len(self._tasks) >= MOST:
            meters.shadow_page(glance.card.id, "skipped")
            return
        glance.task = asyncio.get_running_loop().create_task(self._look(run, index, glance))
        self._tasks[glance.task] = run.document.file_id
        glance.task.add_done_callback(lambda task: self._ended(task, glance))

    def _ended(self, task: asyncio.Task[None], glance: _Glance) -> None:
        del self._tasks[task]
        glance.drawn.set()

    async def _look(self, run: Run, index: int, glance: _Glance) -> None:
        """Read one page; count how it ended, unless nobody wants it any more."""
        outcome: Shadowed | None = None
        try:
            async with asyncio.timeout(SECONDS):
                outcome = await self._read(run, index, glance)
        except (RateLimited, Overloaded):
            outcome = "skipped"
        except (AppError, TimeoutError):
            outcome = "failed"
        except Exception as error:  # noqa: BLE001 - its text may quote the page
            log(__name__, "shadow_failed", level=logging.ERROR, error=type(error).__name__)
            outcome = "failed"
        if outcome is not None:
            meters.shadow_page(glance.card.id, outcome)

    async def _read(self, run: Run, index: int, glance: _Glance) -> Shadowed | None:
        """Return how the page was read; None where it is blank."""
        card, owner = glance.card, run.principal.org_id
        document = run.document
        drawn = await self._pages.draw(
            document.path, document.media_type, index, card.drawn(), owner=_APART, apart=_APART
        )
        glance.drawn.set()
        if drawn.blank:
            return None
        name = f"{run.request.id}-p{index}-shadow"
        reading = await self._ask(glance, drawn, name, Share(owner, lane="background"))
        if verdict(reading) is not None:
            return "repetition"
        parsed = self._parsers[card.parser].parse(reading, ())
        if is_empty(parsed):
            return "empty"
        meters.shadow_similarity(card.id, similarity(await glance.answer, parsed.markdown))
        return "ok"

    async def _ask(self, glance: _Glance, drawn: DrawnPage, name: str, share: Share) -> Reading:
        card, engine, urls = glance.card, self._engines[glance.card.engine], glance.shadow.urls
        prompt = card.prompts.get("document")
        task = PageTask(
            page=drawn,
            card=card,
            prompt=prompt,
            request_id=name,
            sampling=card.sampling,
            max_tokens=answer_tokens(card, drawn, prompt),
            max_chars=plausible_chars(drawn),
        )

        async def ask(url: str | None) -> Reading:
            with stages.question(card.id, url, drawn.index):
                return await engine.read(replace(task, url=url))

        with self._scheduler.admit(share, card, urls, 1) as ticket, await ticket.turn():
            return await ticket.ask(card, urls, ask)


def is_sampled(request_id: str, index: int, shadow: Shadow) -> bool:
    """Tell whether a shadow reads a page: as many as its share, the same ones at every try."""
    digest = sha256(f"{shadow.card}\n{request_id}\n{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < shadow.share * 2**64


_UNWATCHED = Watched((), lambda _: None)
