"""`/v1/files`, as OpenAI's, Mistral's and Nebul's clients call it. Success is always 200.

The parts come from ``app.state``, where `files_api.app.FilesService.attach` puts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from files_api.callers import FilesReader, FilesWriter, needs
from files_api.files import Files, Listing
from files_api.kit.errors import (
    AppError,
    BodyTimeout,
    FileNotFound,
    InvalidFileId,
    InvalidRequest,
    LinkForbidden,
    Overloaded,
    QuotaExceeded,
    RangeUnsatisfiable,
    RateLimited,
    StorageFull,
    StorageUnavailable,
    TooLarge,
    ValidationFailed,
)
from files_api.kit.web import documented, door_route
from files_api.links import DEFAULT_HOURS, MAX_HOURS, QUERY_KEYS
from files_api.routes import download, idempotent, upload, uploads
from files_api.routes.wire import (
    DeletedFile,
    FileList,
    FileObject,
    ListQuery,
    SignedUrl,
    file_list,
    file_object,
)

_ONE_FILE = (InvalidFileId, FileNotFound, StorageUnavailable)
_UPLOADING: list[type[AppError]] = [
    InvalidRequest,
    QuotaExceeded,
    BodyTimeout,
    TooLarge,
    ValidationFailed,
    RateLimited,
    Overloaded,
    StorageUnavailable,
    StorageFull,
    *idempotent.ERRORS,
]
_OCTETS = {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The bytes; with a signed link under the file's own type.", **_OCTETS},
    206: {"description": "The range of bytes that was asked for.", **_OCTETS},
    304: {"description": "The client has this content: `If-None-Match` names its `ETag`."},
    307: {"description": "The store's own link to the bytes, where the server is set up so."},
}
FileId = Annotated[str, Path(json_schema_extra={"format": "uuid"})]
"""Checked by `Files`, not by the framework: a bad one is our 400, as clients know it."""
Hours = Annotated[int, Query(ge=1, le=MAX_HOURS, description="Hours until the link expires.")]


def router() -> APIRouter:
    """Return the routes of the Files API."""
    routes = APIRouter(tags=["files"], route_class=door_route())
    routes.add_api_route(
        "/v1/files",
        upload_file,
        methods=["POST"],
        response_model=FileObject,
        openapi_extra=upload.REQUEST,
        responses=documented(*_UPLOADING),
    )
    routes.add_api_route(
        "/v1/files",
        list_files,
        methods=["GET"],
        responses=documented(ValidationFailed, StorageUnavailable),
    )
    routes.add_api_route(
        "/v1/files/{file_id}", get_file, methods=["GET"], responses=documented(*_ONE_FILE)
    )
    routes.add_api_route(
        "/v1/files/{file_id}",
        delete_file,
        methods=["DELETE"],
        responses=documented(*_ONE_FILE, StorageFull),
    )
    routes.add_api_route(
        "/v1/files/{file_id}/content",
        download_file,
        methods=["GET"],
        response_class=StreamingResponse,
        responses={**documented(*_ONE_FILE, LinkForbidden, RangeUnsatisfiable), **_CONTENT},
    )
    routes.add_api_route(
        "/v1/files/{file_id}/content", head_file, methods=["HEAD"], include_in_schema=False
    )
    routes.add_api_route(
        "/v1/files/{file_id}/url",
        sign_url,
        methods=["GET"],
        responses=documented(InvalidRequest, *_ONE_FILE, ValidationFailed),
    )
    routes.include_router(uploads.router())
    return routes


async def upload_file(request: Request, who: FilesWriter) -> Response:
    """Upload a file; the parts of the form may come in any order."""
    return await upload.receive(request, who)


async def list_files(
    request: Request, who: FilesReader, query: Annotated[ListQuery, Query()]
) -> FileList:
    """List files: with `page` or `page_size` by numbered pages, else by `after` and `limit`."""
    files = _files(request)
    listing: Listing
    if query.page is None and query.page_size is None:
        listing = await files.list_after(
            who,
            after=query.after,
            limit=query.limit,
            newest_first=query.order == "desc",
            filters=query.filters(),
            count=bool(query.include_total),
        )
    else:
        listing = await files.list_page(
            who,
            page=query.page or 0,
            page_size=query.page_size or 100,
            filters=query.filters(),
            count=query.include_total is not False,
        )
    return file_list(listing)


async def get_file(request: Request, who: FilesReader, file_id: FileId) -> FileObject:
    """Return what is known about a file."""
    with _naming_the_id():
        return file_object(await _files(request).get(who, file_id))


async def delete_file(request: Request, who: FilesWriter, file_id: FileId) -> DeletedFile:
    """Delete a file; its signed links end with it."""
    with _naming_the_id():
        return DeletedFile(id=await _files(request).delete(who, file_id))


async def download_file(request: Request, file_id: FileId) -> Response:
    """Return a file's bytes, to its owner or to who has a signed link."""
    with _naming_the_id():
        if QUERY_KEYS.isdisjoint(request.query_params):
            who = await needs("files:read")(request)
            found = await _files(request).read(who, file_id)
        else:
            # Without the host: the signature alone proves a link; a Host header may be anything.
            query = request.scope["query_string"].decode("latin-1")
            found = await _files(request).read_link(f"{request.scope['path']}?{query}")
        return await download.answer(request, _files(request), found)


async def head_file(request: Request, who: FilesReader, file_id: FileId) -> Response:
    """Return the headers of a download; a signed link is for GET alone."""
    with _naming_the_id():
        found = await _files(request).read(who, file_id)
        return await download.answer(request, _files(request), found)


async def sign_url(
    request: Request, who: FilesReader, file_id: FileId, expiry: Hours = DEFAULT_HOURS
) -> SignedUrl:
    """Return a link that downloads the file without a key until it expires."""
    try:
        base = request.app.state.public_url or str(request.base_url)
    except ValueError:
        raise InvalidRequest("The Host header is malformed.") from None
    with _naming_the_id():
        url, expires_at = await _files(request).sign(who, file_id, base, expiry * 3600)
    return SignedUrl(url=url, expires_at=expires_at)


@contextmanager
def _naming_the_id() -> Iterator[None]:
    """Let the errors of a file id name the path's parameter."""
    try:
        yield
    except (InvalidFileId, FileNotFound) as error:
        error.param = "file_id"
        raise


def _files(request: Request) -> Files:
    files: Files = request.app.state.files
    return files
