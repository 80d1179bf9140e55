"""`/v1/uploads`, as OpenAI's clients call it: files too large for one request. Success is 200.

The parts come from ``app.state``, where `files_api.app.FilesService.attach` puts them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from files_api.callers import FilesWriter, acting_in_body
from files_api.idempotency import Claim, fingerprint
from files_api.kit.bodies import ClientGoneError, JsonBodies
from files_api.kit.errors import (
    AppError,
    BodyTimeout,
    InvalidFileId,
    InvalidJson,
    InvalidRequest,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    StorageFull,
    StorageUnavailable,
    TooLarge,
    UploadClosed,
    UploadIncomplete,
    UploadNotFound,
    ValidationFailed,
)
from files_api.kit.multipart import Event, FileData, FileEnd, FileStart, parts
from files_api.kit.multipart import Field as FormField
from files_api.kit.web import documented, door_route
from files_api.limits import Limits
from files_api.routes import idempotent, upload
from files_api.routes.wire import FileObject, file_object
from files_api.uploads import (
    MAX_PART_BYTES,
    MAX_PARTS,
    PartRecord,
    Remember,
    UploadRecord,
    Uploads,
)

Record = TypeVar("Record")

_KIB = 1024
# 10,000 ids of parts are 390,000 bytes of JSON.
_MOST_JSON, _MOST_JSON_AT_ONCE = 1024 * _KIB, 16 * 1024 * _KIB
# Room for other fields and the form's own lines beside the part.
_ENVELOPE_BYTES = 1024 * _KIB

_Errors = tuple[type[AppError], ...]
_STORAGE: _Errors = (StorageUnavailable, StorageFull)
_ONE_UPLOAD: _Errors = (InvalidFileId, UploadNotFound, UploadClosed, *_STORAGE)
_BODY: _Errors = (InvalidRequest, BodyTimeout, TooLarge, ValidationFailed, Overloaded)
_OPEN: _Errors = (InvalidJson, *_BODY, QuotaExceeded, *_STORAGE, *idempotent.ERRORS)
_PART: _Errors = (*_BODY, RateLimited, *_ONE_UPLOAD, *idempotent.ERRORS)
_COMPLETE: _Errors = (InvalidJson, *_BODY, UploadIncomplete, QuotaExceeded, *_ONE_UPLOAD)
UploadId = Annotated[str, Path(json_schema_extra={"format": "uuid"})]
"""Checked by `Uploads`, not by the framework: a bad one is our 400, as clients know it."""


class _Wire(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class _Body(_Wire):
    org_id: Annotated[Any, Field(json_schema_extra={"type": ["string", "null"]})] = None
    """The organisation, as in X-Org-Id; another than the key's needs a service key."""


class ExpiresAfter(_Wire):
    """When the file will be deleted."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]
    """From when the upload is completed."""


class NewUpload(_Body):
    """What will be uploaded."""

    bytes: Annotated[int, Field(ge=1)]
    """What the parts will add up to."""
    filename: str
    mime_type: Annotated[str, Field(pattern=r"^[ -~]{0,127}$")]
    """What the client holds it for; the file's own type is sniffed from the content."""
    purpose: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    expires_after: ExpiresAfter | None = None


class Completion(_Body):
    """Which parts make up the file."""

    part_ids: Annotated[list[str], Field(max_length=MAX_PARTS)]
    """In the order of the content; each once."""
    md5: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{32}$")] | None = None
    """Of the whole content, in hexadecimal."""


class UploadObject(_Wire):
    """An upload."""

    id: str
    """UUIDv7."""
    object: Literal["upload"] = "upload"
    bytes: int
    """As declared."""
    created_at: int
    """Unix seconds."""
    expires_at: int
    """Unix seconds: when the upload ends if it is not completed."""
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None
    """The file it became; null before, and when the file is deleted."""


class PartObject(_Wire):
    """A part of an upload."""

    id: str
    """UUIDv7."""
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    """Unix seconds."""
    upload_id: str


def router() -> APIRouter:
    """Return the routes of the Uploads API."""
    routes = APIRouter(tags=["uploads"], route_class=door_route())
    door = _Door()
    routes.add_api_route(
        "/v1/uploads",
        door.open_upload,
        methods=["POST"],
        response_model=UploadObject,
        openapi_extra={**_WITH_KEY, **_json_body(NewUpload, expires_after=ExpiresAfter)},
        responses=documented(*_OPEN),
    )
    routes.add_api_route(
        "/v1/uploads/{upload_id}/parts",
        add_part,
        methods=["POST"],
        response_model=PartObject,
        openapi_extra={**_WITH_KEY, **_PART_BODY},
        responses=documented(*_PART),
    )
    routes.add_api_route(
        "/v1/uploads/{upload_id}/complete",
        door.complete_upload,
        methods=["POST"],
        openapi_extra=_json_body(Completion),
        responses=documented(*_COMPLETE),
    )
    routes.add_api_route(
        "/v1/uploads/{upload_id}/cancel",
        cancel_upload,
        methods=["POST"],
        responses=documented(*_ONE_UPLOAD),
    )
    return routes


class _Door:
    """The routes with JSON bodies, which share one bound of all bodies at once."""

    def __init__(self) -> None:
        self._bodies = JsonBodies(_MOST_JSON, _MOST_JSON_AT_ONCE)

    async def open_upload(self, request: Request, who: FilesWriter) -> Response:
        """Begin an upload: its parts may come within an hour, then it is completed."""
        async with self._bodies.read(request, NewUpload, owner=who.org_id) as body:
            who = await acting_in_body(request, who, {"org_id": body.org_id})
            expires_in = body.expires_after.seconds if body.expires_after else None
            facts = (body.bytes, body.filename, body.mime_type, body.purpose, expires_in)
            async with idempotent.claimed(request, who) as claim:
                asked = fingerprint(*facts)
                if claim and claim.answer is not None:
                    return idempotent.repeated(claim, asked)
                remember = _remember(claim, lambda _: asked, _upload_object)
                upload = await _uploads(request).open(who, *facts, remember)
        return idempotent.json_response(idempotent.json_text(_upload_object(upload)))

    async def complete_upload(
        self, request: Request, who: FilesWriter, upload_id: UploadId
    ) -> UploadObject:
        """Make the parts a file, in the order that is given; asked again, answer the same."""
        async with self._bodies.read(request, Completion, owner=who.org_id) as body:
            who = await acting_in_body(request, who, {"org_id": body.org_id})
            part_ids, md5 = body.part_ids, body.md5
        return _upload_object(await _uploads(request).complete(who, upload_id, part_ids, md5))


async def add_part(request: Request, who: FilesWriter, upload_id: UploadId) -> Response:
    """Add a part of at most 64 MiB; parts may come at the same time and in any order."""
    uploads = _uploads(request)
    async with upload.holding(request, who) as turn:
        body = _body(request, turn)
        async with aclosing(parts(body, request.headers.get("content-type", ""))) as events:
            await _reach_data(events, turn)  # before it the form may name the organisation
            data, claim = _data(events, turn), turn.claim
            if claim and claim.answer is not None:
                sha256 = await uploads.measure_part(turn.who, data)
                return idempotent.repeated(claim, fingerprint(sha256))
            remember = _remember(claim, lambda part: fingerprint(part.sha256), _part_object)
            part = await uploads.add_part(turn.who, upload_id, data, remember)
    return idempotent.json_response(idempotent.json_text(_part_object(part)))


async def cancel_upload(request: Request, who: FilesWriter, upload_id: UploadId) -> UploadObject:
    """End an upload and remove its parts."""
    return _upload_object(await _uploads(request).cancel(who, upload_id))


async def _body(request: Request, turn: upload.Turn) -> AsyncIterator[bytes]:
    """Yield the body as it comes, counted: what the client declares is not believed."""
    limits: Limits = request.app.state.limits
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_PART_BYTES + _ENVELOPE_BYTES:
                raise TooLarge(f"A part has at most {MAX_PART_BYTES} bytes.", param="data")
            limits.take_bytes(turn.who, len(chunk))
            if turn.claim:
                await turn.claim.renew()
            yield chunk
    except ClientDisconnect:
        raise ClientGoneError from None


async def _reach_data(events: AsyncIterator[Event], turn: upload.Turn) -> None:
    """Read the form up to the bytes of its `data`.

    Raises:
        InvalidRequest: the form is broken.
        ValidationFailed: it has no `data`.
        OrganisationRefused: as `upload.Turn.take_org`.
    """
    async for event in events:
        if isinstance(event, FileStart) and event.name == "data":
            return
        if isinstance(event, FormField):
            await _take_field(event, turn, late=False)
    raise ValidationFailed("data: the form has no part `data`.", param="data")


async def _data(events: AsyncIterator[Event], turn: upload.Turn) -> AsyncIterator[bytes]:
    """Yield the bytes of `data`, which was reached, then see the form to its end.

    Raises:
        InvalidRequest: the form is broken or has two of them; also after the last byte.
        OrganisationRefused: as `upload.Turn.take_org`.
    """
    inside = True
    async for event in events:
        if isinstance(event, FileStart) and event.name == "data":
            raise InvalidRequest("The form has two parts `data`; send one.", param="data")
        if isinstance(event, FormField):
            await _take_field(event, turn, late=True)
        elif isinstance(event, FileData) and inside:
            yield event.data
        elif isinstance(event, FileEnd):
            inside = False


async def _take_field(field: FormField, turn: upload.Turn, *, late: bool) -> None:
    if field.name == "data":
        raise InvalidRequest("The part `data` has no filename.", param="data")
    if field.name == "org_id":
        await turn.take_org(field.value, late=late)


def _remember(
    claim: Claim | None, asked: Callable[[Record], str], answer: Callable[[Record], BaseModel]
) -> Remember[Record] | None:
    """Return what remembers the answer with the thing itself, where the request has a key."""
    if claim is None:
        return None
    return lambda record: claim.finish(asked(record), idempotent.json_text(answer(record)))


def _uploads(request: Request) -> Uploads:
    uploads: Uploads = request.app.state.uploads
    return uploads


def _upload_object(upload: UploadRecord) -> UploadObject:
    return UploadObject(
        id=upload.id,
        bytes=upload.bytes,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
        filename=upload.filename,
        purpose=upload.purpose,
        status=upload.status,
        file=file_object(upload.file) if upload.file else None,
    )


def _part_object(part: PartRecord) -> PartObject:
    return PartObject(id=part.id, created_at=part.created_at, upload_id=part.upload_id)


def _json_body(model: type[BaseModel], **inner: type[BaseModel]) -> dict[str, Any]:
    """Return what OpenAPI says about a body that FastAPI does not read itself.

    Inner models are written out, since a reference would lead nowhere in the whole document.
    """
    schema = model.model_json_schema()
    schema.pop("$defs", None)
    for name, other in inner.items():
        schema["properties"][name] = {"anyOf": [other.model_json_schema(), {"type": "null"}]}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


_WITH_KEY: dict[str, Any] = {"parameters": [idempotent.PARAMETER]}
_PART_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {
                        "org_id": upload.ORG_ID,
                        "data": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}
