"""Reading one page, and asking again where the answer is bad.

A model may repeat itself without end, or write more than the page can hold. Such an answer is
thrown away and the page asked again with other sampling, another size, another prompt or turned,
as its card's ``retries`` say (the ladder of chandra and olmOCR, in our words).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from files_api.kit.errors import ContextTooLong
from model_registry.card import Card, Retry
from ocr_api import stages
from ocr_api.engines import MOST_TOKENS, Engine, PageTask
from ocr_api.markup.loops import is_bad_tail
from ocr_api.pages import DrawnPage, Pages
from ocr_api.parsers import Parser
from ocr_api.pipeline.run import Run
from ocr_api.result import WHOLE_PAGE, Parsed, Reading, Usage, Warn

CHARS_BASE, BYTES_PER_CHAR = 2000, 8
"""How much text a page can hold, told by the size of its JPEG, which costs nothing to know: print
takes 71 bytes of JPEG and more per character (19 real pages, 2026), so that 8 leave room for
markup nine times as long as the text."""
NOTHING = Usage()
LEAST_ROOM = 16
"""Fewest tokens of an answer that are worth asking for."""
_TEMPLATE_TOKENS = 64
_CHARS_PER_TOKEN = 2  # of a prompt, at worst on average

_REASONS = {
    "repetition": "it repeated itself",
    "implausible": "it was longer than the page can hold",
    "sideways": "the model said that the page lies on its side",
    "length": "it ran out of room",
}


@dataclass(frozen=True, slots=True)
class Read:
    """A page as it was read in the end."""

    drawn: DrawnPage
    """As it was drawn, not turned."""
    reading: Reading
    parsed: Parsed
    jpeg: bytes
    """The page as the model saw it, turned where it was."""
    tried: tuple[str, ...] = ()
    """Why earlier tries were thrown away."""
    bad: str | None = None
    """Why the last try is not to be believed either."""
    wasted: Usage = NOTHING
    """Of the tries that were thrown away."""
    saved: Usage = NOTHING
    """What it took when it was read, where it was read before."""
    scale: float = 1.0
    """Size of the page against what its card says."""
    parsing: float = 0.0
    """Seconds that it took to understand the answer."""

    def warnings(self) -> tuple[Warn, ...]:
        """Return what was tried, for the reader of the page."""
        if not self.tried:
            return ()
        count = "once" if len(self.tried) == 1 else f"{len(self.tried)} times"
        reasons = ", ".join(dict.fromkeys(_REASONS[reason] for reason in self.tried))
        return (Warn("asked_again", f"The model's answer was thrown away {count}: {reasons}."),)

    def failure(self) -> str | None:
        """Return why the page counts as not read, in a sentence."""
        if self.bad is None:
            return None
        tries = len(self.tried) + 1
        return (
            f"Page {self.drawn.index} (counted from 0) could not be read: the model's answer was "
            f"bad in each of {tries} tries ({_REASONS[self.bad]})."
        )


def plausible_chars(drawn: DrawnPage) -> int:
    """Return how many characters an answer about the page may have."""
    paper = drawn.width * drawn.height // 64  # what a page without ink takes
    return CHARS_BASE + max(0, len(drawn.jpeg) - paper) // BYTES_PER_CHAR


def room(card: Card, drawn: DrawnPage, prompt: str | None) -> int | None:
    """Return how many tokens the context leaves for the answer; None where nobody counts.

    Raises:
        ContextTooLong: too few.
    """
    if card.context is None:
        return None
    image = card.vision.tokens(drawn.width, drawn.height) if card.vision else 0
    left = card.context - image - _TEMPLATE_TOKENS - len(prompt or "") // _CHARS_PER_TOKEN
    if left < LEAST_ROOM:
        raise ContextTooLong(param="prompt")
    return left


def answer_tokens(card: Card, drawn: DrawnPage, prompt: str | None) -> int:
    """Return how many tokens an answer is given: the card's, or what its context leaves.

    Raises:
        ContextTooLong: it leaves too few.
    """
    wanted, most = card.max_tokens or MOST_TOKENS, room(card, drawn, prompt)
    return wanted if most is None else min(wanted, most)


class Tries:
    """Draws and reads pages, as often as their cards allow."""

    def __init__(
        self,
        pages: Pages,
        engines: Mapping[str, Engine],
        parsers: Mapping[str, Parser],
    ) -> None:
        self._pages = pages
        self._engines = engines
        self._parsers = parsers

    async def read(self, run: Run, index: int) -> Read:
        """Return the page, read as well as it can be.

        Raises:
            AppError: it cannot be drawn, or its engine fails.
        """
        first = await self.draw(run, index)
        if first.blank:
            return Read(first, Reading(), self.parse(run, first, Reading()), first.jpeg)
        spent: list[Usage] = []
        try:
            last: Read | None = None
            upright: Read | None = None
            tried: list[str] = []
            rungs = deque((Retry(), *run.choice.card.retries))
            while True:
                rung = rungs.popleft()
                got = await self._climb(run, first, rung, len(tried), spent)
                tried += got.tried
                got = replace(got, bad=_judged(got, last, rung))
                if got.bad == "sideways":
                    upright, rungs = got, deque(_turned(rungs, got.parsed.turn))
                if got.bad is None or not rungs or not run.ticket.budget.spend():
                    return _with(got, upright, tried, sum(spent, Usage()))
                tried.append(got.bad)
                last = got
        except BaseException:
            run.wasted += sum(spent, Usage())
            raise

    async def _climb(
        self, run: Run, first: DrawnPage, rung: Retry, number: int, spent: list[Usage]
    ) -> Read:
        """Ask as one rung of the ladder says, with the page drawn at its size."""
        drawn = first
        if rung.scale != 1:
            drawn = await self.draw(run, first.index, rung.scale)
        got = await self._try(run, drawn, rung, number, spent)
        return replace(got, scale=rung.scale)

    async def draw(self, run: Run, index: int, scale: float = 1.0) -> DrawnPage:
        """Return a page, drawn as its card says, times ``scale``.

        Raises:
            AppError: it cannot be drawn.
        """
        document, render = run.document, run.choice.card.drawn(scale)
        async with run.drawing:
            with stages.stage("render", run.choice.card.id, index):
                return await self._pages.draw(
                    document.path,
                    document.media_type,
                    index,
                    render,
                    owner=run.principal.org_id,
                )

    async def turn(self, run: Run, drawn: DrawnPage, degrees: int) -> bytes:
        """Return a drawn page turned clockwise by 90, 180 or 270 degrees, as a JPEG."""
        owner = run.principal.org_id
        [jpeg] = await self._pages.crop(drawn.jpeg, (WHOLE_PAGE,), turned=degrees, owner=owner)
        return jpeg

    def parse(self, run: Run, drawn: DrawnPage, reading: Reading) -> Parsed:
        """Return what stands on a page, with the pictures that the caller wants."""
        pictures = drawn.turned(reading.turned).pictures
        wanted = pictures if run.request.options.want_regions else ()
        return self._parsers[run.choice.card.parser].parse(reading, wanted)

    async def _try(
        self, run: Run, drawn: DrawnPage, rung: Retry, number: int, spent: list[Usage]
    ) -> Read:
        """Ask once; once more with more room where the answer was cut off for want of it."""
        task = self._task(run, drawn, rung, number)
        if rung.turn:
            jpeg = await self.turn(run, drawn, rung.turn)
            task = replace(task, page=replace(drawn.turned(rung.turn), jpeg=jpeg))
        reading = await self._ask(run, task, spent)
        bad, tried = verdict(reading), tuple[str, ...]()
        most = room(task.card, drawn, task.prompt)
        cut = reading.finish_reason == "length" and bad is None
        if cut and most and task.max_tokens < most and run.ticket.budget.spend():
            reading = await self._ask(run, replace(task, max_tokens=most), spent)
            bad, tried = verdict(reading), ("length",)
        if rung.turn:
            reading = replace(reading, turned=rung.turn)
        begun = time.perf_counter()
        parsed = self.parse(run, drawn, reading)
        parsing = time.perf_counter() - begun
        return Read(drawn, reading, parsed, task.page.jpeg, tried, bad, parsing=parsing)

    def _task(self, run: Run, drawn: DrawnPage, rung: Retry, number: int) -> PageTask:
        card, options, ask = run.choice.card, run.request.options, run.ask
        prompt = ask.prompt
        if rung.prompt and ask.native:
            prompt = card.prompts[rung.prompt]
        sampling = card.sampling.changed(rung.sampling)
        if ask.schema is not None:
            sampling = sampling.within_schema()
        return PageTask(
            page=drawn,
            card=card,
            prompt=prompt,
            request_id=f"{run.request.id}-p{drawn.index}-t{number}",
            sampling=sampling,
            max_tokens=answer_tokens(card, drawn, prompt),
            max_chars=plausible_chars(drawn) if ask.native else None,
            schema=ask.schema,
            want_probabilities=options.confidence in card.capabilities.confidence,
        )

    async def _ask(self, run: Run, task: PageTask, spent: list[Usage]) -> Reading:
        """Return an answer; ``spent`` gets what it took."""
        engine = self._engines[task.card.engine]

        async def ask(url: str | None) -> Reading:
            with stages.question(task.card.id, url, task.page.index) as asking:
                reading = await engine.read(replace(task, url=url))
                asking.answered(reading)
                return reading

        reading = await run.ticket.ask(run.choice.card, run.choice.named, ask)
        spent.append(reading.usage)
        return reading


def verdict(reading: Reading) -> str | None:
    """Return why an answer is not to be believed, or None."""
    if reading.finish_reason in ("repetition", "implausible"):
        return reading.finish_reason
    if is_bad_tail(reading.text, reading.finish_reason):
        return "repetition"
    return None


def _judged(got: Read, last: Read | None, rung: Retry) -> str | None:
    """Return why a try is not to be believed, in the light of the one before it."""
    if got.parsed.turn and not rung.turn and got.bad is None:
        return "sideways"
    # What two tries say alike, and both end by themselves, stands on the page.
    same = last is not None and last.reading.text == got.reading.text
    return None if same and got.reading.finish_reason == "stop" else got.bad


def _turned(rungs: Iterable[Retry], turn: int) -> Iterator[Retry]:
    """Return the ladder that is left, turned by what the model said, from its first rung on."""
    for rung in (Retry(), *rungs):
        if not rung.turn:
            yield rung.model_copy(update={"turn": turn})


def _with(got: Read, upright: Read | None, tried: list[str], spent: Usage) -> Read:
    """Return what was read in the end; what else was spent is wasted.

    Where turning the page did not help, it is the answer that called the page turned.
    """
    if got.bad is not None and upright is not None:
        got = replace(upright, bad=None)
    if got.bad is not None:
        got = replace(got, reading=replace(got.reading, usage=Usage()))
    return replace(got, tried=tuple(tried), wasted=spent - got.reading.usage)
