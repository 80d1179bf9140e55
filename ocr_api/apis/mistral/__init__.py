"""The Mistral and Nebul OCR API: `POST /v1/ocr` and `POST /v1/files/{id}/ocr`.

A key needs the scope ``ocr``, and to read a stored file ``files:read``, too: what is read is
what it says, so that a key for inline documents alone must not see the organisation's files. A
signed link needs no more than ``ocr``: it is its own permission.

Why one door: the two share a path and an answer, so the answer is the superset of both
(design, decision 16).

Either route answers whole, or with a stream: ``start``, a ``page`` for each page in order, then
``done`` with the totals, or ``error`` with the body of an HTTP error. A whole answer is bounded
(`Services.max_answer_bytes`), a stream is not: no more than one event of it is held.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Send

from files_api.accounts import Principal
from files_api.callers import OcrCaller, acting_in_body, needs, require
from files_api.kit import errors
from files_api.kit.bodies import ClientGoneError, HeldBody
from files_api.kit.observe import request_id
from files_api.kit.web import Deferred, documented, door_route, known, superset, until_gone
from ocr_api.apis import Door, Services
from ocr_api.apis.mistral.answer import Answer, Part, joined
from ocr_api.apis.mistral.body import (
    EVENT_STREAM,
    MOST_SECONDS,
    TIMEOUT_HEADER,
    FileOcrBody,
    OcrBody,
    organisations_of,
    source_of,
    timeout_of,
    to_options,
    wants_events,
)
from ocr_api.apis.mistral.events import BEAT_SECONDS, Events
from ocr_api.apis.mistral.wire import OcrAnswer
from ocr_api.pipeline import Run
from ocr_api.request import FileSource, InlineSource, OcrRequest
from ocr_api.result import Page

FileOcrCaller = Annotated[Principal, Depends(needs("ocr", "files:read"))]

_SHORT_BYTES = 1 << 16
"""So much the server takes without waiting for the client (uvicorn's high-water mark)."""
_PIECE_BYTES = 1 << 20
_SEND_SECONDS, _LEAST_RATE = 60.0, 1 << 16
"""How long a client may take over a whole answer: seconds, and bytes a second beyond."""
_COMMON = (
    errors.InvalidRequest,
    errors.InvalidJson,
    errors.UnsupportedFormat,
    errors.DocumentEmpty,
    errors.DocumentDamaged,
    errors.DocumentEncrypted,
    errors.DocumentTooComplex,
    errors.ImageTooLarge,
    errors.TooManyPages,
    errors.PagesOutOfRange,
    errors.ModelUnknown,
    errors.ModelUnavailable,
    errors.AnnotationUnsupported,
    errors.ContextTooLong,
    errors.AnswerTooLarge,
    errors.InvalidFileId,
    errors.FileNotFound,
    errors.BodyTimeout,
    errors.TooLarge,
    errors.ValidationFailed,
    errors.SchemaRefused,
    errors.PageFailed,
    errors.AnnotationFailed,
    errors.Unavailable,
    errors.Overloaded,
    errors.StorageUnavailable,
    errors.EngineUnavailable,
    errors.EngineBusy,
    errors.EngineTimeout,
    errors.DeadlineExceeded,
    errors.StorageFull,
)
_DIRECT = (
    errors.MissingDocument,
    errors.InvalidBase64,
    errors.InvalidLink,
    errors.FetchRefused,
    errors.FetchFailed,
)


class Mistral(Door):
    """Both OCR routes."""

    beat = BEAT_SECONDS
    """Seconds of silence in a stream before a comment is sent."""

    def router(self, services: Services) -> APIRouter:
        """Return the two routes."""
        router = APIRouter(route_class=door_route(), tags=["ocr"])

        @router.post(
            "/v1/ocr",
            responses={**documented(*_COMMON, *_DIRECT), **_ANSWER},
            openapi_extra=_documented_request(OcrBody, required=True),
        )
        async def read_document(request: Request, caller: OcrCaller) -> Response:
            """Read a document that the request names or holds."""
            return Deferred(_Reading(services, request, caller, self.beat).answer)

        @router.post(
            "/v1/files/{file_id}/ocr",
            responses={**documented(*_COMMON), **_ANSWER},
            openapi_extra=_documented_request(FileOcrBody, required=False),
        )
        async def read_file(file_id: str, request: Request, caller: FileOcrCaller) -> Response:
            """Read an uploaded file; the body may be absent."""
            return Deferred(_Reading(services, request, caller, self.beat, file_id).answer)

        return router


@dataclass(frozen=True, slots=True)
class _Reading:
    """One request, from before its body comes until it is answered."""

    services: Services
    request: Request
    caller: Principal
    beat: float
    file_id: str | None = None
    """The file in the path; None where the body says what to read."""

    async def answer(self, send: Send) -> None:
        """Read the document while its client waits, and answer; stop when the client leaves.

        A whole answer takes room until the client has it.

        Raises:
            AppError: something went wrong before the first byte; later, in a stream, it is an
                event.
        """
        with ExitStack() as stack:
            whole = await self._whole_or_streamed(send, stack)
            if whole is not None:
                size = int(whole.headers["content-length"])
                # Who takes it drop by drop must not hold its room for ever.
                async with asyncio.timeout(_SEND_SECONDS + size / _LEAST_RATE):
                    await whole(self.request.scope, self.request.receive, send)

    async def _whole_or_streamed(self, send: Send, stack: ExitStack) -> Response | None:
        """Do what `answer` does, but for sending a whole answer.

        Returns:
            The whole answer, or None where it was sent as a stream.

        Raises:
            AppError: something went wrong before the first event; later it is an event.
        """
        async with Events(send, self.beat) as events:
            try:
                answer = await self._answered(events, stack)
            except ClientGoneError:
                raise
            except Exception as error:
                if not events.begun:
                    raise
                answer = Part("error", orjson.dumps(superset(known(error), request_id.get())))
            # The request is over and holds nothing: its last word may wait for a slow client.
            if isinstance(answer, Response):
                return answer
            await until_gone(self.request, events.send(answer.event, answer.data))
        # Nobody listens for a hang-up now: the end of an answer looks like one.
        await events.end()
        return None

    async def _answered(self, events: Events, stack: ExitStack) -> Response | Part:
        """Return the whole answer, or the last part of one whose others were sent.

        The request is counted before its body comes, and so for the organisation of its key: a
        service key's body may name another one, for which its pages are counted.
        """
        headers = self.request.headers
        seconds = timeout_of(headers.getlist(TIMEOUT_HEADER))
        with self.services.pipeline.enter(self.caller):
            async with self._body() as held:
                named = organisations_of(held.body)
                who = await acting_in_body(self.request, self.caller, named)
                work: Coroutine[Any, Any, Response | Part]
                if wants_events(held.body, headers.getlist("accept")):
                    work = self._stream(events, held, who, seconds)
                else:
                    work = self._whole(held, who, seconds, stack)
                return await until_gone(self.request, work)

    @asynccontextmanager
    async def _body(self) -> AsyncIterator[HeldBody[FileOcrBody]]:
        hold, owner = self.services.bodies.hold, self.caller.org_id
        if self.file_id is None:
            async with hold(self.request, OcrBody, owner=owner) as held:
                yield held
        else:
            async with hold(self.request, FileOcrBody, absent={}, owner=owner) as held:
                yield held

    async def _whole(
        self, held: HeldBody[FileOcrBody], who: Principal, seconds: float | None, stack: ExitStack
    ) -> Response:
        """Return the answer once all of it is there; the stack gets its room."""
        hold = stack.enter_context(self.services.answers.hold(who.org_id))
        async with self._opened(held, who, seconds) as (run, pages):
            answer = Answer(run)
            async with aclosing(answer.parts(pages)) as parts:
                pieces = await joined(parts, self.services.max_answer_bytes, hold)
        headers = _of_card(run)
        if warned := answer.warned():
            # The Mistral SDK drops keys that it does not know; a header reaches its users' hooks.
            headers["x-recto-warnings"] = ", ".join(warned)
        return _json(pieces, headers)

    async def _stream(
        self, events: Events, held: HeldBody[FileOcrBody], who: Principal, seconds: float | None
    ) -> Part:
        """Send the answer while it is made; return its last part, not before the run has ended.

        A client that takes no events must not keep its run beyond its time, nor its file beyond
        its deletion: sending is a part of the run.
        """
        last = Part("done", b"")
        async with self._opened(held, who, seconds) as (run, pages):
            async with run.stop.limit():
                await events.begin(_of_card(run))
            async with aclosing(Answer(run).parts(pages)) as parts:
                async for part in parts:
                    if part.event == "done":
                        last = part
                        continue
                    async with run.stop.limit():
                        await events.send(part.event, part.data)
        return last

    @asynccontextmanager
    async def _opened(
        self, held: HeldBody[FileOcrBody], who: Principal, seconds: float | None
    ) -> AsyncIterator[tuple[Run, AsyncGenerator[Page, None]]]:
        """Give the run and its pages; the body is let go once the document is on disk.

        Nothing here or above may keep the request or its source: it may be sixty megabytes,
        and its pages may wait for minutes.
        """
        pipeline, limits = self.services.pipeline, self.services.limits
        async with pipeline.open(self._wanted(held.body, who, seconds), who) as run:
            held.release()
            if run.missing:  # who repeats a request has paid for the others
                limits.take_pages(who, run.missing)
            async with aclosing(pipeline.pages(run)) as pages:
                yield run, pages

    def _wanted(self, body: FileOcrBody, who: Principal, seconds: float | None) -> OcrRequest:
        """Return what is to be read, in the waist's words; count a document in the body."""
        if isinstance(body, OcrBody):
            source = source_of(body)
            if isinstance(source, FileSource):
                require(who, "files:read")
            elif isinstance(source, InlineSource):
                self.services.limits.take_document(who, len(source.text))
        else:
            source = FileSource(self.file_id or "", "file_id")
        options = to_options(body)
        return OcrRequest(source, body.model, options, request_id.get(), seconds)


def _of_card(run: Run) -> dict[str, str]:
    return {"x-recto-card": run.choice.card.id}


def _json(pieces: list[bytes], headers: dict[str, str]) -> Response:
    """Return an answer: a long one without a copy, others in one piece, which costs less.

    All but short ones are streams, since those end when the client has them.
    """
    size, media_type = sum(map(len, pieces)), "application/json"
    if size <= _PIECE_BYTES:
        pieces = [b"".join(pieces)]
    if size <= _SHORT_BYTES:
        return Response(pieces[0], headers=headers, media_type=media_type)
    headers = {**headers, "Content-Length": str(size)}
    return StreamingResponse(_each(pieces), headers=headers, media_type=media_type)


async def _each(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


_EVENTS = """\
Where `stream` is true, or `Accept` names this type. Each event's data is JSON:

- `start`: `id`, `object`, `model`, and `pages`, the indices that will come
- `page`: one object of the whole answer's `pages`; one event per page, in page order
- `done`: the whole answer without `pages`
- `error`: instead of `done`, the body of an error

A comment comes after 15 seconds of silence. A stream may be longer than a whole answer may.
"""
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The document's pages.",
        "model": OcrAnswer,
        "content": {EVENT_STREAM: {"schema": {"type": "string", "description": _EVENTS}}},
    }
}
_TIMEOUT = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "description": "Seconds that the request may take once its body is here; then it is a 504.",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_SECONDS},
}


def _documented_request(model: type[FileOcrBody], *, required: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": model.model_json_schema()}}
    body = {"required": required, "content": content}
    return {"requestBody": body, "parameters": [_TIMEOUT]}
