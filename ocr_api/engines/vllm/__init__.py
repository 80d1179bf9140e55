"""Models on a server that speaks OpenAI's chat API: vLLM, or another one.

Answers are streamed, so that one that loops can be stopped: closing the connection makes vLLM
give the page up. Whatever else a server does to us ends in one of our errors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import closing, suppress
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson

from files_api.kit import traces
from files_api.kit.errors import (
    AppError,
    ContextTooLong,
    EngineTimeout,
    EngineUnavailable,
    PageFailed,
)
from files_api.kit.observe import log
from model_registry.card import Card
from ocr_api import genai
from ocr_api.engines import Engine, Load, PageTask, Question, Supplies, Task
from ocr_api.engines.vllm import body, errors
from ocr_api.engines.vllm.answer import DONE, MAX_BYTES, Answer, Lines
from ocr_api.engines.vllm.load import Loads
from ocr_api.engines.vllm.wire import BROKEN, Wire, whole
from ocr_api.result import Reading

_PROBLEM_SECONDS = 3.0
_END_SECONDS = 1.0
"""How long the end of the body is waited for after the end of the answer."""
_MAX_ERROR_BYTES = 64 << 10
_NAMED_MODELS = 5
_MAX_NAME = 200


class Vllm(Engine):
    """Asks the server that a task names."""

    def __init__(self, supplies: Supplies) -> None:
        super().__init__(supplies)
        self._wire = Wire(supplies.api_key)
        self._loads = Loads(self._wire)
        self._contexts: dict[tuple[str, str], int] = {}
        self._asking: dict[tuple[str, str], asyncio.Future[str | None]] = {}

    async def start(self) -> None:
        """Make the pool of connections; it holds none yet."""
        self._wire.open()

    async def close(self) -> None:
        """Close every connection, those in use too."""
        await self._wire.close()

    async def read(self, task: PageTask) -> Reading:
        """Return the page in the model's own notation."""
        return await self._answer(task, task.page.jpeg)

    async def ask(self, question: Question) -> Reading:
        """Return the model's answer to a question."""
        return await self._answer(question, question.image)

    async def problem(self, card: Card, url: str | None) -> str | None:
        """Return why the server cannot serve the card now, or None; takes 3 s at most.

        Remembers the context of the server, so that no more tokens are asked for than it has.
        """
        if url is None:
            return errors.NOWHERE.format(card=card.id)
        try:
            async with asyncio.timeout(_PROBLEM_SECONDS):
                with closing(await self._wire.get(f"{url.rstrip('/')}/models")) as response:
                    status, said = response.status, await whole(response, MAX_BYTES)
        except TimeoutError:
            return f"The server that runs {card.id} did not answer in {_PROBLEM_SECONDS:g} s."
        except (*BROKEN, ValueError, PageFailed) as error:
            return errors.unreachable(card.id, error).message
        if status != HTTPStatus.OK:
            return errors.does(card.id, status)
        return self._missing(card, url, said)

    async def load(self, card: Card, url: str) -> Load | None:
        """Return how many requests the server has for the card's model, as vLLM says it."""
        return await self._loads.ask(card, url)

    async def _answer(self, task: Task, image: bytes | None) -> Reading:
        """Ask, within the card's time; log what went wrong."""
        begun = time.monotonic()
        error: AppError
        try:
            async with asyncio.timeout(task.card.page_seconds):
                return await self._exchange(task, image)
        except TimeoutError:
            limit = task.card.page_seconds
            error = EngineTimeout(f"{task.card.id} took longer than {limit:g} s over a page.")
        except AppError as failed:
            error = failed
        seconds = round(time.monotonic() - begun, 3)
        facts = {"card": task.card.id, "task": task.request_id, "seconds": seconds}
        if isinstance(task, PageTask):
            facts["page"] = task.page.index
        log(__name__, error.code, level=logging.WARNING, why=error.message, **facts)
        raise error

    async def _exchange(self, task: Task, image: bytes | None) -> Reading:
        """Ask the server; once more where it has less context than was thought.

        Until somebody asks for `problem`, only the card says how much it has; and a server may
        come back with less.
        """
        if task.url is None:
            raise EngineUnavailable(errors.NOWHERE.format(card=task.card.id))
        most = self._most(task, task.url)
        try:
            return await self._once(task, task.url, image, most)
        except errors.AnswerTooLong:
            if self._most(task, task.url) >= most:
                await self._learn(task.card, task.url)
            if self._most(task, task.url) >= most:
                raise ContextTooLong from None
        return await self._once(task, task.url, image, self._most(task, task.url))

    def _most(self, task: Task, url: str) -> int:
        """Return the most tokens that may be asked for: no more than the server's context."""
        return min(task.max_tokens, self._contexts.get((url, task.card.id), task.max_tokens))

    async def _learn(self, card: Card, url: str) -> None:
        """Ask for the server's context; pages that need it at the same time share one question."""
        key = (url, card.id)
        if key not in self._asking:
            self._asking[key] = asyncio.ensure_future(self.problem(card, url))
            self._asking[key].add_done_callback(lambda _: self._asking.pop(key))
        await asyncio.shield(self._asking[key])

    async def _once(self, task: Task, url: str, image: bytes | None, most: int) -> Reading:
        """Send the request and read the answer; leaving early closes the connection."""
        parts = body.parts(task, image, most)
        try:
            address = f"{url.rstrip('/')}/chat/completions"
            response = await self._wire.post(address, parts, task.request_id)
        except (*BROKEN, ValueError) as error:
            raise errors.unreachable(task.card.id, error) from None
        del parts  # some 500 kB, and the answer may take minutes
        answer = Answer(task)
        with closing(response):
            try:
                await _listen(response, answer, task)
            except BROKEN as error:
                if not answer.begun:
                    raise errors.unreachable(task.card.id, error) from None
        if answer.model:
            traces.current().note({genai.RESPONSE_MODEL: answer.model[:_MAX_NAME]})
        return answer.reading()

    def _missing(self, card: Card, url: str, said: bytes) -> str | None:
        """Return why a server's list of models does not do for the card, or None."""
        try:
            models = {str(model["id"]): model for model in orjson.loads(said)["data"]}
        except (ValueError, TypeError, KeyError):
            return f"The server that runs {card.id} does not list its models."
        if card.id not in models:
            names = ", ".join(list(models)[:_NAMED_MODELS]) or "nothing"
            return f"The server does not serve {card.id}; it serves {names}."
        self._remember(card, url, models[card.id].get("max_model_len"))
        return None

    def _remember(self, card: Card, url: str, context: Any) -> None:
        known = self._contexts.get((url, card.id))
        if type(context) is not int or context < 1 or context == known:
            return
        self._contexts[url, card.id] = context
        if card.context is not None and context < card.context:
            facts = {"card": card.id, "server": context, "on_card": card.context}
            log(__name__, "server_has_less_context", level=logging.WARNING, **facts)


async def _listen(response: aiohttp.ClientResponse, answer: Answer, task: Task) -> None:
    """Read the answer to its end, or until it should be stopped.

    Raises:
        AppError: the server refuses, or what it says makes no sense.
        aiohttp.ClientError, OSError: the connection broke.
    """
    if response.status != HTTPStatus.OK:
        said = b""
        with suppress(*BROKEN, PageFailed):
            said = await whole(response, _MAX_ERROR_BYTES)
        raise errors.refusal(task, response.status, said, response.headers.get("Retry-After"))
    if response.content_type != "text/event-stream":
        # Its head comes with the answer, whereas that of a stream comes before the first token.
        answer.begun = True
        answer.add(await whole(response, MAX_BYTES))
        return
    lines = Lines()
    while data := await response.content.readany():
        for event in lines.feed(data):
            if event == DONE:
                await _finish(response)
                return
            answer.add(event)
            if answer.stopped:
                return


async def _finish(response: aiohttp.ClientResponse) -> None:
    """Wait for the end of the body: only then the connection can be used again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await response.content.readany()
