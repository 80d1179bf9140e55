"""The Mistral and Nebul OCR API: `POST /v1/ocr` and `POST /v1/files/{id}/ocr`.

A key needs the scope ``ocr``, and to read a stored file ``files:read``, too: what is read is
what it says, so that a key for inline documents alone must not see the organisation's files. A
signed link needs no more than ``ocr``: it is its own permission.

Why one door: the two share a path and an answer, so the answer is the superset of both
(design, decision 16).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from files_api.accounts import Principal
from files_api.callers import OcrCaller, acting_in_body, needs, require
from files_api.kit import errors
from files_api.kit.observe import request_id
from files_api.kit.web import documented, door_route, until_gone
from ocr_api.apis import Door, Services
from ocr_api.apis.mistral.answer import Answer
from ocr_api.apis.mistral.body import (
    FileOcrBody,
    OcrBody,
    organisations_of,
    source_of,
    to_options,
)
from ocr_api.apis.mistral.wire import OcrAnswer
from ocr_api.request import FileSource, InlineSource, OcrRequest

FileOcrCaller = Annotated[Principal, Depends(needs("ocr", "files:read"))]

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

    def router(self, services: Services) -> APIRouter:
        """Return the two routes."""
        router = APIRouter(route_class=door_route(), tags=["ocr"])
        read = services.bodies.read

        @router.post(
            "/v1/ocr",
            responses={**documented(*_COMMON, *_DIRECT), **_ANSWER},
            openapi_extra=_documented_body(OcrBody, required=True),
        )
        async def read_document(request: Request, caller: OcrCaller) -> Response:
            """Read a document that the request names or holds."""
            async with read(request, OcrBody, owner=caller.org_id) as body:
                who = await acting_in_body(request, caller, organisations_of(body))
                source = source_of(body)
                if isinstance(source, FileSource):
                    require(who, "files:read")
                wanted = OcrRequest(source, body.model, to_options(body), request_id.get())
                return await _read(services, request, who, wanted)

        @router.post(
            "/v1/files/{file_id}/ocr",
            responses={**documented(*_COMMON), **_ANSWER},
            openapi_extra=_documented_body(FileOcrBody, required=False),
        )
        async def read_file(file_id: str, request: Request, caller: FileOcrCaller) -> Response:
            """Read an uploaded file; the body may be absent."""
            async with read(request, FileOcrBody, absent={}, owner=caller.org_id) as body:
                who = await acting_in_body(request, caller, organisations_of(body))
                source = FileSource(file_id, "file_id")
                wanted = OcrRequest(source, body.model, to_options(body), request_id.get())
                return await _read(services, request, who, wanted)

        return router


async def _read(
    services: Services, request: Request, caller: Principal, wanted: OcrRequest
) -> Response:
    """Read the document while its client waits; stop when the client leaves."""
    if isinstance(wanted.source, InlineSource):
        services.limits.take_document(caller, len(wanted.source.text))

    async def work() -> tuple[list[bytes], str, list[str]]:
        answer = Answer(wanted.options, services.max_answer_bytes)
        async with (
            services.pipeline.open(wanted, caller) as run,
            aclosing(services.pipeline.pages(run)) as pages,
        ):
            services.limits.take_pages(caller, len(run.indices))
            async for page in pages:
                answer.add(page)
        return answer.pieces(run), run.choice.card.id, answer.warned(run)

    pieces, card, warned = await until_gone(request, work())
    headers = {"x-recto-card": card, "Content-Length": str(sum(map(len, pieces)))}
    if warned:
        # The Mistral SDK drops keys that it does not know; a header reaches its users' hooks.
        headers["x-recto-warnings"] = ", ".join(warned)
    return StreamingResponse(_each(pieces), media_type="application/json", headers=headers)


async def _each(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "The document's pages.", "model": OcrAnswer}
}


def _documented_body(model: type[FileOcrBody], *, required: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": required, "content": content}}
