"""An upload form as it arrives: the file goes to the store while the body is still coming."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from fastapi import Request
from starlette.requests import ClientDisconnect

from files_api.accounts import Principal
from files_api.files import FileRecord, Files, Received, Visibility
from files_api.kit.bodies import ClientGoneError
from files_api.kit.errors import InvalidRequest, TooLarge, ValidationFailed
from files_api.kit.multipart import Event, Field, FileData, FileEnd, FileStart, parts

DEFAULT_PURPOSE = "ocr"
# Room for the other fields and the form's own lines beside the file.
_ENVELOPE_BYTES = 8 * 1024 * 1024
_HOUR = 3600
_MOST_HOURS = 10 * 366 * 24
_FEWEST_SECONDS, _MOST_SECONDS = 3600, 2_592_000
_PURPOSE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NUMBER = re.compile(r"[0-9]{1,12}")

REQUEST_BODY: dict[str, Any] = {
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
                            "description": "Hours until the file is deleted (Mistral).",
                        },
                        "expires_after[anchor]": {"const": "created_at"},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": _FEWEST_SECONDS,
                            "maximum": _MOST_SECONDS,
                            "description": "Seconds until the file is deleted (OpenAI).",
                        },
                    },
                }
            }
        },
    }
}
"""What OpenAPI says about the form, which FastAPI does not read itself."""


async def receive(request: Request, principal: Principal, files: Files) -> FileRecord:
    """Read an upload form and keep its file.

    Raises:
        InvalidRequest: the body is no proper form, or holds two files.
        ValidationFailed: the file is missing or a field has a bad value.
        TooLarge: the file or the whole form is too large.
        ClientGoneError: the client left before the end.
    """
    form = _Form(principal, files)
    try:
        body = _limited(request, files.max_bytes + _ENVELOPE_BYTES)
        async with aclosing(parts(body, request.headers.get("content-type", ""))) as events:
            async for event in events:
                await form.take(event, events)
        return await form.keep()
    except BaseException:
        await form.discard()
        raise


class _Form:
    """What has come of the form so far."""

    def __init__(self, principal: Principal, files: Files) -> None:
        self._principal = principal
        self._files = files
        self._received: Received | None = None
        self._filename = ""
        self._purpose = DEFAULT_PURPOSE
        self._visibility: Visibility = "workspace"
        self._lifetimes: list[int] = []

    async def take(self, event: Event, events: AsyncIterator[Event]) -> None:
        """Take a field, or a file with all the events that belong to it."""
        if isinstance(event, Field):
            self._take_field(event.name, event.value)
        elif isinstance(event, FileStart) and event.name == "file":
            if self._received:
                raise InvalidRequest("The form has two files; send one.", param="file")
            self._filename = event.filename
            self._received = await self._files.receive(self._principal, _file_bytes(events))

    async def keep(self) -> FileRecord:
        """Make the form's file a file."""
        if self._received is None:
            raise ValidationFailed("file: the form has no file.", param="file")
        received, self._received = self._received, None
        return await self._files.keep(
            self._principal,
            received,
            self._filename,
            self._purpose,
            self._visibility,
            min(self._lifetimes, default=None),
        )

    async def discard(self) -> None:
        """Remove a file that came and will not be kept."""
        if self._received:
            await self._files.discard(self._received)

    def _take_field(self, name: str, value: str) -> None:
        if name == "file":
            raise InvalidRequest("The part `file` has no filename.", param="file")
        if name == "purpose":
            if not _PURPOSE.fullmatch(value):
                raise ValidationFailed("purpose: not a known purpose.", param=name)
            self._purpose = value
        elif name == "visibility":
            self._visibility = cast(Visibility, _one_of(name, value, "workspace", "user"))
        elif name == "expiry":
            self._lifetimes.append(_number(name, value, 1, _MOST_HOURS) * _HOUR)
        elif name == "expires_after[anchor]":
            _one_of(name, value, "created_at")
        elif name == "expires_after[seconds]":
            self._lifetimes.append(_number(name, value, _FEWEST_SECONDS, _MOST_SECONDS))


async def _limited(request: Request, most: int) -> AsyncIterator[bytes]:
    """Yield the body; what the client declares is only a reason to refuse it sooner."""
    declared = request.headers.get("content-length", "")
    size = int(declared) if _NUMBER.fullmatch(declared) else 0
    if size > most:
        raise TooLarge(param="file")
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise TooLarge(param="file")
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
