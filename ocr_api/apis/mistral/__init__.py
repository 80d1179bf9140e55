"""The Mistral and Nebul OCR API: `POST /v1/ocr` and `POST /v1/files/{id}/ocr`.

Why one door: the two share a path and an answer, so the answer is the superset of both
(design, decision 16).
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from files_api.callers import Caller
from files_api.kit import errors
from files_api.kit.observe import request_id
from files_api.kit.web import documented, door_route, read_json, until_gone
from ocr_api.apis import Door, Services
from ocr_api.apis.mistral.answer import to_wire
from ocr_api.apis.mistral.body import FileOcrBody, OcrBody, source_of, to_options
from ocr_api.request import FileSource, OcrRequest

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
    errors.InvalidFileId,
    errors.FileNotFound,
    errors.TooLarge,
    errors.ValidationFailed,
    errors.PageFailed,
    errors.StorageUnavailable,
    errors.EngineUnavailable,
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

        @router.post(
            "/v1/ocr",
            responses={**documented(*_COMMON, *_DIRECT), **_ANSWER},
            openapi_extra=_documented_body(OcrBody, required=True),
        )
        async def read_document(request: Request, caller: Caller) -> Response:
            """Read a document that the request names or holds."""
            body = await read_json(request, OcrBody, services.max_body_bytes)
            return await _read(services, request, caller, OcrRequest(source_of(body)), body)

        @router.post(
            "/v1/files/{file_id}/ocr",
            responses={**documented(*_COMMON), **_ANSWER},
            openapi_extra=_documented_body(FileOcrBody, required=False),
        )
        async def read_file(file_id: str, request: Request, caller: Caller) -> Response:
            """Read an uploaded file; the body may be absent."""
            body = await read_json(request, FileOcrBody, services.max_body_bytes, absent={})
            return await _read(services, request, caller, OcrRequest(FileSource(file_id)), body)

        return router


async def _read(
    services: Services, request: Request, caller: Caller, wanted: OcrRequest, body: FileOcrBody
) -> Response:
    options = to_options(body)
    full = OcrRequest(wanted.source, body.model, options, request_id.get())
    result = await until_gone(request, services.pipeline.run(full, caller))
    return Response(
        to_wire(result, options),
        media_type="application/json",
        headers={"x-recto-card": result.card},
    )


_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The document's pages.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


def _documented_body(model: type[FileOcrBody], *, required: bool) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}
    }
