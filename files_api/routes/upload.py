"""An upload form as it arrives: the file goes to the store while the body is still coming.

A form with an ``Idempotency-Key`` that was answered before is read to its end all the same, to
see that it asks for the same, but its file goes nowhere.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from files_api.accounts import Principal
from files_api.files import FileRecord, Files, Received, Visibility, new_record
from files_api.idempotency import Claim, fingerprint
from files_api.kit.bodies import ClientGoneError
from files_api.kit.errors import InvalidRequest, TooLarge, ValidationFailed
from files_api.kit.multipart import Event, Field, FileData, FileEnd, FileStart, parts
from files_api.limits import Limits
from files_api.routes import idempotent
from files_api.routes.wire import FileObject, file_object

DEFAULT_PURPOSE = "ocr"
# Room for the other fields and the form's own lines beside the file.
_ENVELOPE_BYTES = 8 * 1024 * 1024
_HOUR = 3600
_MOST_HOURS = 10 * 366 * 24
_FEWEST_SECONDS, _MOST_SECONDS = 3600, 2_592_000
_PURPOSE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NUMBER = re.compile(r"[0-9]{1,12}")
_AFTER = "expires_after"
_ANCHOR, _SECONDS = f"{_AFTER}[anchor]", f"{_AFTER}[seconds]"

REQUEST: dict[str, Any] = {
    "parameters": [idempotent.PARAMETER],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {
                            "type": "string",
                            "pattern": f"^{_PURPOSE.pattern}$",
                            "default": DEFAULT_PURPOSE,
                        },
                        "visibility": {
                            "enum": ["workspace", "user"],
                            "default": "workspace",
                        },
                        "expiry": {
                            "type": "integer",
                            "minimum": 1,
                            "maximum": _MOST_HOURS,
                            "description": "Hours until the file is deleted (Mistral). With "
                            "`expires_after` too, the earlier end counts.",
                        },
                        _ANCHOR: {"const": "created_at"},
                        _SECONDS: {
                            "type": "integer",
                            "minimum": _FEWEST_SECONDS,
                            "maximum": _MOST_SECONDS,
                            "description": "Seconds until the file is deleted (OpenAI).",
                        },
                    },
                }
            }
        },
    },
}
"""What OpenAPI says about the request, which FastAPI does not read itself."""


async def receive(request: Request, principal: Principal) -> Response:
    """Read an upload form, keep its file, and answer it.

    Raises:
        InvalidRequest: the body is no proper form, or holds two files.
        ValidationFailed: the file is missing or a field has a bad value.
        TooLarge: the file or the whole form is too large.
        QuotaExceeded: the organisation has no room for the file.
        RateLimited, Overloaded: too many bytes, or too many uploads at once.
        BodyTimeout: the body stopped coming.
        IdempotencyKeyBusy, IdempotencyKeyReused: as `idempotent.claimed` and `repeated`.
        ClientGoneError: the client left before the end.
    """
    limits: Limits = request.app.state.limits
    with limits.uploading(principal):
        async with idempotent.claimed(request, principal) as claim:
            return await _receive(request, principal, claim)


async def _receive(request: Request, principal: Principal, claim: Claim | None) -> Response:
    files: Files = request.app.state.files
    most = files.max_bytes + _ENVELOPE_BYTES
    declared = _declared(request)
    if declared > most:
        raise TooLarge(param="file")
    if claim is None or claim.answer is None:
        await files.check_room(principal, max(1, declared - _ENVELOPE_BYTES))
    form = _Form(principal, files, claim)
    try:
        body = _counted(request, principal, most, claim)
        async with aclosing(parts(body, request.headers.get("content-type", ""))) as events:
            async for event in events:
                await form.take(event, events)
        return await form.answer()
    except BaseException:
        await form.discard()
        raise


class _Form:
    """What has come of the form so far."""

    def __init__(self, principal: Principal, files: Files, claim: Claim | None) -> None:
        self._principal = principal
        self._files = files
        self._claim = claim
        self._received: Received | None = None
        self._filename = ""
        self._purpose = DEFAULT_PURPOSE
        self._visibility: Visibility = "workspace"
        self._lifetimes: dict[str, int] = {}
        self._anchor = ""

    async def take(self, event: Event, events: AsyncIterator[Event]) -> None:
        """Take a field, or a file with all the events that belong to it."""
        if isinstance(event, Field):
            self._take_field(event.name, event.value)
        elif isinstance(event, FileStart) and event.name == "file":
            if self._received:
                raise InvalidRequest("The form has two files; send one.", param="file")
            self._filename = event.filename
            known = self._claim and self._claim.answer is not None
            take = self._files.measure if known else self._files.receive
            self._received = await take(self._principal, _file_bytes(events))

    async def answer(self) -> Response:
        """Make the form's file a file, unless that was done before; return the answer."""
        if self._received is None:
            raise ValidationFailed("file: the form has no file.", param="file")
        if self._anchor and not self._lifetimes.get(_SECONDS):
            raise ValidationFailed(f"{_SECONDS}: missing.", param=_SECONDS)
        expires_in = min(self._lifetimes.values(), default=None)
        facts = (self._filename, self._purpose, self._visibility, expires_in)
        record = new_record(self._principal.org_id, self._received, *facts)
        answer, within = idempotent.json_text(_file_object(record)), None
        if self._claim:
            asked = fingerprint(record.sha256, *facts)
            if self._claim.answer is not None:
                return idempotent.repeated(self._claim, asked)
            within = self._claim.finish(asked, answer)
        received, self._received = self._received, None
        await self._files.keep(self._principal, received, *facts, within=within)
        return idempotent.json_response(answer)

    async def discard(self) -> None:
        """Remove a file that came and will not be kept."""
        if self._received and self._received.blob_key:
            await self._files.discard(self._received)

    def _take_field(self, name: str, value: str) -> None:
        if name == "file":
            raise InvalidRequest("The part `file` has no filename.", param="file")
        if name == "purpose":
            if not _PURPOSE.fullmatch(value):
                raise ValidationFailed(
                    "purpose: must be 1 to 64 letters, digits, `-` and `_`.", param=name
                )
            self._purpose = value
        elif name == "visibility":
            self._visibility = cast(Visibility, _one_of(name, value, "workspace", "user"))
        elif name == "expiry":
            self._lifetimes[name] = _number(name, value, 1, _MOST_HOURS) * _HOUR
        elif name == _ANCHOR:
            self._anchor = _one_of(name, value, "created_at")
        elif name == _SECONDS:
            self._lifetimes[name] = _number(name, value, _FEWEST_SECONDS, _MOST_SECONDS)
        elif name == _AFTER:
            raise ValidationFailed(f"{name}: send the fields {_ANCHOR} and {_SECONDS}.", param=name)


def _file_object(record: FileRecord) -> FileObject:
    # Nebul's documentation promises `complete` here; OpenAI's clients poll for `processed`.
    return file_object(record, "complete" if record.purpose == DEFAULT_PURPOSE else "processed")


def _declared(request: Request) -> int:
    """Return the length that the client declares, or 0: only a reason to refuse it sooner."""
    declared = request.headers.get("content-length", "")
    return int(declared) if _NUMBER.fullmatch(declared) else 0


async def _counted(
    request: Request, principal: Principal, most: int, claim: Claim | None
) -> AsyncIterator[bytes]:
    """Yield the body, within the limits; keep the claim alive as it comes."""
    limits: Limits = request.app.state.limits
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise TooLarge(param="file")
            limits.take_bytes(principal, len(chunk))
            if claim:
                await claim.renew()
            yield chunk
    except ClientDisconnect:
        raise ClientGoneError from None


async def _file_bytes(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async for event in events:
        if isinstance(event, FileData):
            yield event.data
        elif isinstance(event, FileEnd):
            return


def _number(name: str, value: str, least: int, most: int) -> int:
    if not _NUMBER.fullmatch(value) or not least <= int(value) <= most:
        raise ValidationFailed(f"{name}: must be a whole number, {least} to {most}.", param=name)
    return int(value)


def _one_of(name: str, value: str, *known: str) -> str:
    if value not in known:
        raise ValidationFailed(f"{name}: must be {' or '.join(known)}.", param=name)
    return value
