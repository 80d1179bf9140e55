"""A file's bytes as an answer: whole, a range, "not modified", or a link to the store's own."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from files_api.callers import count_link
from files_api.files import Download, Files
from files_api.kit import ranges
from files_api.kit.filenames import attachment

OCTETS = "application/octet-stream"


async def answer(request: Request, files: Files, download: Download) -> Response:
    """Return the response to a GET or HEAD of a file's content.

    Raises:
        FileNotFound: the bytes are gone.
        RangeUnsatisfiable: the file has no byte in the range that was asked for.
        RateLimited: a signed link's organisation had too many requests.
    """
    if download.link:
        await count_link(request, download.link.org)
    record = download.record
    tag = ranges.entity_tag(record.sha256)
    headers = _headers(download, tag)
    if ranges.not_modified(request.headers.getlist("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    # The Mistral SDKs refuse any other type here, whatever the file is.
    headers["Content-Type"] = record.media_type if download.link else OCTETS
    if request.method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(record.bytes)})
    if request.app.state.redirect_downloads and (url := await files.presign(download)):
        del headers["Content-Type"]
        return Response(status_code=307, headers={**headers, "Location": url})
    return await _bytes(request, files, download, headers, tag)


async def _bytes(
    request: Request, files: Files, download: Download, headers: dict[str, str], tag: str
) -> Response:
    """Stream what the request asks for: the whole, or a range of it."""
    size = download.record.bytes
    asked = request.headers.getlist
    place = ranges.wanted(asked("range"), asked("if-range"), tag, size)
    start, stop = place or (0, size)
    headers["Content-Length"] = str(stop - start)
    if place:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    chunks = await files.content(download, start, stop if place else None)
    response = StreamingResponse(chunks, status_code=206 if place else 200)
    # Set here because Starlette would add a charset to text types.
    response.headers.update(headers)
    return response


def _headers(download: Download, tag: str) -> dict[str, str]:
    return {
        "Accept-Ranges": "bytes",
        "ETag": tag,
        "Content-Disposition": attachment(download.record.filename),
        # A file is never a page of ours: browsers neither guess its type nor run what is in it.
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "private, no-store",
    }
