"""An upload form as it arrives: the file goes to the store while the body is still coming.

A form with an ``Idempotency-Key`` that was answered before is read to its end all the same, to
see that it asks for the same, but its file goes nowhere.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, cast

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from files_api.accounts import Principal
from files_api.callers import acting_in_body
from files_api.files import FileRecord, Files, Received, Visibility, new_record
from files_api.idempotency import Claim, fingerprint
from files_api.kit.bodies import ClientGoneError
from files_api.kit.errors import (
    InvalidRequest,
    OrganisationRefused,
    TooLarge,
    ValidationFailed,
)
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

ORG_ID: dict[str, Any] = {
    "type": "string",
    "description": "The organisation, as in X-Org-Id; another than the key's needs a service key, "
    "and stands before the file.",
}
"""What OpenAPI says about the form's field."""
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
                        "org_id": ORG_ID,
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
        OrganisationRefused: as `Turn.take_org`.
        RateLimited, Overloaded: too many bytes, or too many uploads at once.
        BodyTimeout: the body stopped coming.
        IdempotencyKeyBusy, IdempotencyKeyReused: as `idempotent.claimed` and `repeated`.
        ClientGoneError: the client left before the end.
    """
    async with holding(request, principal) as turn:
        return await _receive(request, turn)


class Turn:
    """What an upload holds while it comes: a place among those that run, and its key's claim."""

    who: Principal
    """Whose upload it is."""
    claim: Claim | None

    def __init__(self, request: Request, caller: Principal, held: AsyncExitStack) -> None:
        self._request = request
        self._caller = caller
        self._held = held
        self._named: str | None = None

    async def begin(self, who: Principal) -> None:
        """Take the place and the claim for an organisation."""
        limits: Limits = self._request.app.state.limits
        self.who = who
        self._held.enter_context(limits.uploading(who))
        self.claim = await self._held.enter_async_context(idempotent.claimed(self._request, who))

    async def take_org(self, value: str, *, late: bool) -> None:
        """Take a form's field ``org_id``: what follows is for that organisation.

        Args:
            value: the field.
            late: whether a file came before it, which is the other organisation's already.

        Raises:
            OrganisationRefused: it is not the key's, or it differs and comes late or twice.
            RateLimited, Overloaded, IdempotencyKeyBusy, StorageUnavailable: as for an upload
                that begins.
        """
        if self._caller.key_id is None or value.lower() == self._named:
            return
        if self._named is not None:
            raise OrganisationRefused(param="org_id")
        self._named = value.lower()
        who = await acting_in_body(self._request, self._caller, {"org_id": value})
        if who.org_id == self.who.org_id:
            return
        if late:
            raise OrganisationRefused("Send org_id before the file, or X-Org-Id.", param="org_id")
        if self.claim:
            await self.claim.release()
        await self._held.aclose()
        await self.begin(who)


@asynccontextmanager
async def holding(request: Request, caller: Principal) -> AsyncIterator[Turn]:
    """Hold an upload's turn while the block runs.

    Raises:
        RateLimited, Overloaded: too many bytes, or too many uploads at once.
        IdempotencyKeyBusy, ValidationFailed: as `idempotent.claimed`.
    """
    async with AsyncExitStack() as held:
        turn = Turn(request, caller, held)
        await turn.begin(caller)
        yield turn


async def _receive(request: Request, turn: Turn) -> Response:
    files: Files = request.app.state.files
    most = files.max_bytes + _ENVELOPE_BYTES
    declared = _declared(request)
    if declared > most:
        raise TooLarge(param="file")
    form = _Form(turn, files, max(1, declared - _ENVELOPE_BYTES))
    if not turn.who.service:  # else the form may name another organisation
        await form.check_room()
    try:
        body = _counted(request, turn, most)
        async with aclosing(parts(body, request.headers.get("content-type", ""))) as events:
            async for event in events:
                await form.take(event, events)
        return await form.answer()
    except BaseException:
        await form.discard()
        raise


class _Form:
    """What has come of the form so far."""

    def __init__(self, turn: Turn, files: Files, at_least: int) -> None:
        self._turn = turn
        self._files = files
        self._at_least = at_least
        self._received: Received | None = None
        self._filename = ""
        self._purpose = DEFAULT_PURPOSE
        self._visibility: Visibility = "workspace"
        self._lifetimes: dict[str, int] = {}
        self._anchor = ""

    async def take(self, event: Event, events: AsyncIterator[Event]) -> None:
        """Take a field, or a file with all the events that belong to it."""
        if isinstance(event, Field) and event.name == "org_id":
            await self._turn.take_org(event.value, late=self._received is not None)
        elif isinstance(event, Field):
            self._take_field(event.name, event.value)
        elif isinstance(event, FileStart) and event.name == "file":
            if self._received:
                raise InvalidRequest("The form has two files; send one.", param="file")
            self._filename = event.filename
            if self._turn.who.service:
                await self.check_room()
            take = self._files.measure if self._is_known() else self._files.receive
            self._received = await take(self._turn.who, _file_bytes(events))

    async def check_room(self) -> None:
        """Look whether the organisation has room, unless the file is kept already.

        Raises:
            QuotaExceeded: it has none.
        """
        if not self._is_known():
            await self._files.check_room(self._turn.who, self._at_least)

    async def answer(self) -> Response:
        """Make the form's file a file, unless that was done before; return the answer."""
        if self._received is None:
            raise ValidationFailed("file: the form has no file.", param="file")
        if self._anchor and not self._lifetimes.get(_SECONDS):
            raise ValidationFailed(f"{_SECONDS}: missing.", param=_SECONDS)
        expires_in = min(self._lifetimes.values(), default=None)
        facts = (self._filename, self._purpose, self._visibility, expires_in)
        who, claim = self._turn.who, self._turn.claim
        record = new_record(who.org_id, self._received, *facts)
        answer, within = idempotent.json_text(_file_object(record)), None
        if claim:
            asked = fingerprint(record.sha256, *facts)
            if claim.answer is not None:
                return idempotent.repeated(claim, asked)
            within = claim.finish(asked, answer)
        received, self._received = self._received, None
        await self._files.keep(who, received, *facts, within=within)
        return idempotent.json_response(answer)

    async def discard(self) -> None:
        """Remove a file that came and will not be kept."""
        if self._received and self._received.blob_key:
            await self._files.discard(self._received)

    def _is_known(self) -> bool:
        """Tell whether the request was answered before."""
        return self._turn.claim is not None and self._turn.claim.answer is not None

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


async def _counted(request: Request, turn: Turn, most: int) -> AsyncIterator[bytes]:
    """Yield the body, within the limits; keep the claim alive as it comes."""
    limits: Limits = request.app.state.limits
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise TooLarge(param="file")
            limits.take_bytes(turn.who, len(chunk))
            if turn.claim:
                await turn.claim.renew()
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
