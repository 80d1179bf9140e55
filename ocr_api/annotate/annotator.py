"""Asks a model to fill a schema, and believes only what fits it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from files_api.kit.errors import AnnotationFailed, AnnotationUnsupported, ContextTooLong
from model_registry.card import Card, Sampling
from ocr_api.annotate import prompts
from ocr_api.annotate.coerce import coerce
from ocr_api.annotate.fitting import problems
from ocr_api.annotate.merge import NotJson, dump, fold, merge_pages, parse_json
from ocr_api.annotate.schemas import check
from ocr_api.annotate.skeleton import lenient, skeleton
from ocr_api.engines import Engine, Question
from ocr_api.result import Reading, Usage

BYTES_PER_TOKEN = 3
"""UTF-8 bytes that a token holds at least, on average; real text in any script has more."""
LEAST_ROOM = 1024
"""Bytes of document below which a question is not worth asking."""
_NAMED = 3

_CALM = Sampling(temperature=0.0)
# The second try must be able to say something else: top_k 1, or a tiny top_p, would make it the
# first again.
_OTHER_WAY = Sampling(temperature=0.2, top_p=0.95, top_k=-1)

_STOPPED = {
    "length": "the answer was cut off at its length limit",
    "repetition": "the answer repeated itself without an end",
    "implausible": "the answer grew beyond what is plausible",
}


def accept(card: Card, schema: Mapping[str, Any], param: str) -> None:
    """Refuse a schema that this card's way of annotating cannot be held to; see `schemas.check`.

    Raises:
        ValidationFailed, SchemaRefused: the schema is at fault.
    """
    check(schema, param)
    if card.annotation is not None and card.annotation.by == "skeleton":
        skeleton(schema, param)


class Annotator:
    """Asks one model, on one server, for one request."""

    def __init__(
        self,
        engine: Engine,
        card: Card,
        url: str | None = None,
        request_id: str = "",
        sampling: Sampling | None = None,
    ) -> None:
        """Take who is asked, and how.

        Args:
            engine: what runs the card.
            card: must have an ``annotation``.
            url: base URL of the server; None for an embedded engine.
            request_id: begins the name of each try in the server's log.
            sampling: None for the card's own, with temperature 0 and no repetition penalty.

        Raises:
            AnnotationUnsupported: the card cannot annotate.
        """
        if card.annotation is None:
            raise AnnotationUnsupported(f"{card.id} cannot annotate documents.")
        self._engine = engine
        self._card = card
        self._how = card.annotation
        self._url = url
        self._request_id = request_id
        calm = card.sampling.within_schema().changed(_CALM)
        self._sampling = calm if sampling is None else sampling
        self._asked = 0
        self.usage = Usage()
        """Tokens of every answer so far, also of those that were of no use."""

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
        spent, sampling, most = Usage(), self._sampling, self._first_room()
        reason = ""
        for attempt in (1, 2):
            reading = await self._ask(prompt, image, schema, sampling, most, attempt)
            spent += reading.usage
            value = parse_json(reading.text)
            reason = await _fault(reading, value, schema)
            if not reason:
                return value, spent
            sampling = self._sampling.changed(_OTHER_WAY)
            most = self._second_room(reading, most)
        raise AnnotationFailed(f"No valid annotation could be made: {reason}.")

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
        waiting = deque(prompts.page_groups(markdowns, self._room(schema, guidance)))
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
            return fold(answers), spent
        return await self.finish(answers, schema), spent

    async def page(
        self, image: bytes, schema: Mapping[str, Any], guidance: str | None = None
    ) -> tuple[Any, Usage]:
        """Return what one page's picture (JPEG) says for the schema; `finish` takes all pages'.

        The way of skeletons gives strings and nulls in the schema's shape.
        """
        prompt = prompts.page_question(self._card, schema, guidance)
        return await self.ask_json(prompt, image, self._wanted(schema))

    async def region(
        self, image: bytes, schema: Mapping[str, Any], guidance: str | None = None
    ) -> tuple[str, Usage]:
        """Return the annotation of a picture that was cut out of a page, as JSON text.

        Raises:
            AnnotationUnsupported: the model takes no pictures.
        """
        if not self._how.images:
            raise AnnotationUnsupported(f"{self._card.id} cannot annotate pictures.")
        prompt = prompts.region_question(self._card, schema, guidance)
        value, used = await self.ask_json(prompt, image, self._wanted(schema))
        return await self.finish([value], schema), used

    async def finish(self, values: Sequence[Any], schema: Mapping[str, Any]) -> str:
        """Return the pages' values as the one JSON text of the document.

        Raises:
            AnnotationFailed: merged, and turned into the declared types, they do not fit.
        """
        strings = self._how.by == "skeleton"
        return await asyncio.to_thread(_finished, values, schema, strings=strings)

    async def _about(
        self,
        pages: Sequence[prompts.DocumentPage],
        schema: Mapping[str, Any] | None,
        guidance: str | None,
    ) -> tuple[Any, Usage]:
        prompt = prompts.document_question(self._card, pages, schema, guidance)
        if schema is not None:
            return await self.ask_json(prompt, None, schema)
        self._asked += 1
        most = self._first_room()
        reading = await self._ask(prompt, None, None, self._sampling, most, 1)
        if reading.finish_reason in {"repetition", "implausible"}:
            raise AnnotationFailed(
                f"No valid annotation could be made: {_STOPPED[reading.finish_reason]}."
            )
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
        reading = await self._engine.ask(
            Question(
                card=self._card,
                prompt=prompt,
                url=self._url,
                request_id=f"{self._request_id}-n{self._asked}-a{attempt}",
                sampling=sampling,
                max_tokens=max_tokens,
                schema=schema,
                image=image,
            )
        )
        self.usage += reading.usage
        return reading

    def _wanted(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        return lenient(schema) if self._how.by == "skeleton" else schema

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


async def _fault(reading: Reading, value: Any, schema: Mapping[str, Any]) -> str:
    """Return why an answer is of no use, or nothing."""
    if reading.finish_reason in _STOPPED:
        return _STOPPED[reading.finish_reason]
    if isinstance(value, NotJson):
        return "the answer is not JSON"
    return _listed(await asyncio.to_thread(problems, schema, value))


def _listed(found: Sequence[str]) -> str:
    return f"the answer does not fit the schema: {'; '.join(found[:_NAMED])}" if found else ""


def _finished(values: Sequence[Any], schema: Mapping[str, Any], *, strings: bool) -> str:
    value = merge_pages(values)
    found = problems(schema, value)
    if strings or found:
        value = coerce(schema, value)
        found = problems(schema, value)
    if found:
        raise AnnotationFailed(f"No valid annotation could be made: {_listed(found)}.")
    return dump(value)


def _size(group: Sequence[prompts.DocumentPage]) -> int:
    return sum(len(text.encode("utf-8", "replace")) for _, text in group)
