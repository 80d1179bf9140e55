"""Asks a model to fill a schema, and believes only what fits it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from files_api.kit.errors import AnnotationFailed, AnnotationUnsupported, ContextTooLong
from model_registry.card import Card, Sampling
from ocr_api.annotate import prompts
from ocr_api.annotate.coerce import coerce
from ocr_api.annotate.fitting import problems
from ocr_api.annotate.form import Form
from ocr_api.annotate.merge import NotJson, dump, fold, merge_pages, parse_json
from ocr_api.engines import Question
from ocr_api.result import Reading, Usage, Warn

BYTES_PER_TOKEN = 3
"""UTF-8 bytes that a token holds at least, on average; real text in any script has more."""
LEAST_ROOM = 1024
"""Bytes of document below which a question is not worth asking."""
_NAMED = 3

_CALM = Sampling(temperature=0.0)
# The second try must be able to say something else: top_k 1, or a tiny top_p, would make it the
# first again. Only what the first one set is changed: a server may not know the other fields.
_OTHER_WAY = Sampling(temperature=0.2, top_p=0.95, top_k=-1)

_STOPPED = {
    "length": "the answer was cut off at its length limit",
    "repetition": "the answer repeated itself without an end",
    "implausible": "the answer grew beyond what is plausible",
}


Ask = Callable[[Question], Awaitable[Reading]]
"""Gets a question answered; whoever makes the annotator knows by which server."""


class Annotator:
    """Asks one model for one request."""

    def __init__(
        self,
        ask: Ask,
        card: Card,
        request_id: str = "",
        sampling: Sampling | None = None,
    ) -> None:
        """Take who is asked, and how.

        Args:
            ask: gets each question answered.
            card: must have an ``annotation``.
            request_id: begins the name of each try in the server's log.
            sampling: None for the card's own, with temperature 0 and no repetition penalty.

        Raises:
            AnnotationUnsupported: the card cannot annotate.
        """
        if card.annotation is None:
            raise AnnotationUnsupported(f"{card.id} cannot annotate documents.")
        self._answer = ask
        self._card = card
        self._how = card.annotation
        self._request_id = request_id
        calm = card.sampling.within_schema().changed(_CALM)
        self._sampling = calm if sampling is None else sampling
        self._asked = 0
        self.usage = Usage()
        """Tokens of the answers so far."""
        self.wasted = Usage()
        """Tokens of those that were thrown away."""
        self.warnings: tuple[Warn, ...] = ()
        """What a reader of the answers should know."""

    async def ask_json(
        self, prompt: str, image: bytes | None, schema: Mapping[str, Any]
    ) -> tuple[Any, Usage]:
        """Return a value that fits the schema, and the tokens of all tries.

        A bad answer is asked for once more: with more room where it was cut off, and less calmly.

        Raises:
            AnnotationFailed: the second answer was bad as well; the message says why, and quotes
                nothing of the document.
            SchemaRefused: the server cannot keep to the schema.
            AppError: as `Engine.ask` does.
        """
        self._asked += 1
        reading = await self._ask(prompt, image, schema, self._sampling, self._first_room(), 1)
        value, reason = await judged(reading, schema)
        if not reason:
            return value, reading.usage
        self._throw_away(reading)
        value, used = await self.ask_again(reading, prompt, image, schema)
        return value, reading.usage + used

    async def ask_again(
        self, bad: Reading, prompt: str, image: bytes | None, schema: Mapping[str, Any]
    ) -> tuple[Any, Usage]:
        """Return a value that fits the schema, and its tokens, after an answer that did not.

        Raises:
            AppError: as `ask_json` does.
        """
        sampling = _otherwise(self._sampling)
        most = self._second_room(bad, self._first_room())
        reading = await self._ask(prompt, image, schema, sampling, most, 2)
        value, reason = await judged(reading, schema)
        if reason:
            self._throw_away(reading)
            raise AnnotationFailed(f"No valid annotation could be made: {reason}.")
        return value, reading.usage

    async def document(
        self,
        markdowns: Sequence[prompts.DocumentPage],
        schema: Mapping[str, Any] | None,
        guidance: str | None = None,
    ) -> tuple[str, Usage]:
        """Return a document's annotation as JSON text, asked with its markdown.

        One question; as many as it takes, one after the other, where the document is longer than
        the model's context. Their answers are then merged.

        Args:
            markdowns: pages that were read: their place, from 0, and their text.
            schema: what the answer must fit; None: the guidance alone says what it is.
            guidance: the caller's own words.

        Raises:
            ContextTooLong: schema and guidance leave no room for the document.
            AppError: as `ask_json` does.
        """
        waiting = deque(await asyncio.to_thread(self._groups, markdowns, schema, guidance))
        answers: list[Any] = []
        spent = Usage()
        while waiting:
            group = waiting.popleft()
            try:
                answer, used = await self._about(group, schema, guidance)
            except ContextTooLong:
                # The bytes of a token are an estimate: unusual text has more tokens.
                smaller = prompts.page_groups(group, _size(group) // 2)
                if not smaller[1:] or _size(group) < LEAST_ROOM:
                    raise
                waiting.extendleft(reversed(smaller))
                continue
            answers.append(answer)
            spent += used
        if schema is None:
            return await asyncio.to_thread(fold, answers), spent
        return await self.finish(answers, schema), spent

    async def page(self, image: bytes, form: Form) -> tuple[Any, Usage]:
        """Return what one page's picture (JPEG) says for the form; `finish` takes all pages'.

        The way of skeletons gives strings and nulls in the schema's shape.
        """
        return await self.ask_json(form.page, image, form.asked)

    async def region(self, image: bytes, form: Form) -> tuple[str, Usage]:
        """Return the annotation of a picture that was cut out of a page, as JSON text.

        Raises:
            AnnotationUnsupported: the model takes no pictures.
        """
        if not self._how.images:
            raise AnnotationUnsupported(f"{self._card.id} cannot annotate pictures.")
        value, used = await self.ask_json(form.region, image, form.asked)
        return await self.finish([value], form.schema), used

    async def finish(self, values: Sequence[Any], schema: Mapping[str, Any]) -> str:
        """Return the pages' values as the one JSON text of the document.

        Raises:
            AnnotationFailed: merged, and turned into the declared types, they do not fit.
        """
        strings = self._how.by == "skeleton"
        text, dropped = await asyncio.to_thread(_finished, values, schema, strings=strings)
        if dropped:
            said = f"{dropped} of the values that were read did not fit their type and are null."
            self.warnings = (*self.warnings, Warn("annotation_incomplete", said))
        return text

    async def _about(
        self,
        pages: Sequence[prompts.DocumentPage],
        schema: Mapping[str, Any] | None,
        guidance: str | None,
    ) -> tuple[Any, Usage]:
        card = self._card
        prompt = await asyncio.to_thread(prompts.document_question, card, pages, schema, guidance)
        if schema is not None:
            return await self.ask_json(prompt, None, schema)
        self._asked += 1
        most = self._first_room()
        reading = await self._ask(prompt, None, None, self._sampling, most, 1)
        if reading.finish_reason in {"repetition", "implausible"}:
            self._throw_away(reading)
            raise AnnotationFailed(
                f"No valid annotation could be made: {_STOPPED[reading.finish_reason]}."
            )
        if reading.finish_reason == "length":
            said = "The annotation stopped at its length limit."
            self.warnings = (Warn("truncated", said),)
        return reading.text, reading.usage

    async def _ask(
        self,
        prompt: str,
        image: bytes | None,
        schema: Mapping[str, Any] | None,
        sampling: Sampling,
        max_tokens: int,
        attempt: int,
    ) -> Reading:
        reading = await self._answer(
            Question(
                card=self._card,
                prompt=prompt,
                request_id=f"{self._request_id}-n{self._asked}-a{attempt}",
                sampling=sampling,
                max_tokens=max_tokens,
                schema=schema,
                image=image,
            )
        )
        self.usage += reading.usage
        return reading

    def _throw_away(self, reading: Reading) -> None:
        self.usage -= reading.usage
        self.wasted += reading.usage

    def _first_room(self) -> int:
        """Return the most tokens of a first answer: half of the context at most."""
        if self._card.context is None:
            return self._how.max_tokens
        return min(self._how.max_tokens, self._card.context // 2)

    def _second_room(self, reading: Reading, most: int) -> int:
        """Return the most tokens of a second answer, within what the prompt leaves."""
        if reading.finish_reason != "length":
            return most
        if self._card.context is None:
            return most * 2
        return max(most, min(most * 4, self._card.context - reading.usage.prompt_tokens))

    def _groups(
        self,
        pages: Sequence[prompts.DocumentPage],
        schema: Mapping[str, Any] | None,
        guidance: str | None,
    ) -> list[list[prompts.DocumentPage]]:
        return prompts.page_groups(pages, self._room(schema, guidance))

    def _room(self, schema: Mapping[str, Any] | None, guidance: str | None) -> int:
        """Return the bytes of a document that fit one question."""
        if self._card.context is None:
            return 1 << 62
        room = (self._card.context - self._first_room()) * BYTES_PER_TOKEN
        room -= prompts.overhead(self._card, schema, guidance)
        if room < LEAST_ROOM:
            raise ContextTooLong(
                "The annotation's schema and prompt leave no room for the document."
            )
        return room


async def judged(reading: Reading, schema: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the value of an answer, and why it is of no use; "" where it is of use."""
    return await asyncio.to_thread(_judged, reading, schema)


def _judged(reading: Reading, schema: Mapping[str, Any]) -> tuple[Any, str]:
    value = parse_json(reading.text)
    if reading.finish_reason in _STOPPED:
        return value, _STOPPED[reading.finish_reason]
    if isinstance(value, NotJson):
        return value, "the answer is not JSON"
    return value, _listed(problems(schema, value))


def _otherwise(sampling: Sampling) -> Sampling:
    """Return the sampling of a second try."""
    fields = _OTHER_WAY.model_dump(exclude_none=True)
    changed = {name: to for name, to in fields.items() if getattr(sampling, name) is not None}
    return sampling.model_copy(update=changed)


def _listed(found: Sequence[str]) -> str:
    return f"the answer does not fit the schema: {'; '.join(found[:_NAMED])}" if found else ""


def _finished(
    values: Sequence[Any], schema: Mapping[str, Any], *, strings: bool
) -> tuple[str, int]:
    """Return the annotation, and how many values became null because they did not fit."""
    value, dropped = merge_pages(values), 0
    found = problems(schema, value)
    if strings or found:
        value, dropped = coerce(schema, value)
        found = problems(schema, value)
    if found:
        raise AnnotationFailed(f"No valid annotation could be made: {_listed(found)}.")
    return dump(value), dropped


def _size(group: Sequence[prompts.DocumentPage]) -> int:
    return sum(len(text.encode("utf-8", "replace")) for _, text in group)
