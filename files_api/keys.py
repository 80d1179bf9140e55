"""API keys: make, check, list, revoke. A key belongs to one organisation; no web here.

    ocr_<key id: 16 hexadecimal digits>_<secret: 32 random bytes as 43 base62 digits>

The table holds the id and HMAC-SHA256(pepper, secret), so that neither the table nor a backup of
it can be used as a key. The pepper is derived from the master secret with HKDF-SHA256 (RFC 5869).

Why no slow hash: those make guessing passwords dear, and nobody guesses 256 random bits.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import string
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, replace
from hashlib import sha256
from logging import WARNING
from typing import Any, TypeVar

from sqlalchemy import Row, Select, select, update

from files_api.accounts import (
    ALL_SCOPES,
    AccountError,
    OrgLimits,
    OrgRecord,
    Principal,
    checked_name,
    limits_of,
    read_limits,
)
from files_api.kit.db import Database
from files_api.kit.errors import OrganisationRefused, StorageUnavailable, Unauthorized
from files_api.kit.ids import is_id
from files_api.kit.observe import log
from files_api.kit.recent import Recent
from files_api.links import hkdf_sha256
from files_api.tables import ApiKeyRow, Organisation

TRUST_SECONDS = 10.0
"""How long a good answer is believed without asking the database: revocation is felt by then."""
ASK_SECONDS = 3.0
"""While there is no key, how often the database is asked whether there is one now."""
USED_SECONDS = 300
"""How often the last use of a key is written, at most."""

_MOST_HELD = 4096
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_BYTES = 32
_SECRET_DIGITS = 43  # 62 ** 43 is just above 2 ** 256
_KEY = re.compile(r"ocr_([0-9a-f]{16})_([0-9A-Za-z]{43})")
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_NO_ID = "0" * 16
_NO_MAC = "-" * 64
"""Fits no secret: a MAC is hexadecimal."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known about a key; times are unix seconds."""

    id: str
    org_id: str
    org_name: str
    name: str
    scopes: tuple[str, ...]
    service: bool
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None


class Keys:
    """Makes and checks keys; one for the process."""

    def __init__(
        self,
        database: Database,
        secret: bytes,
        previous: bytes | None = None,
        clock: Callable[[], float] = time.time,
        required: bool = False,
    ) -> None:
        """Take the master secret, from which the pepper is derived, and the one before it.

        ``required``: every caller needs a key, also before the first was made.
        """
        self._database = database
        self._clock = clock
        self._current = _Pepper(secret)
        peppers = [self._current, *([_Pepper(previous)] if previous else [])]
        self._peppers = {pepper.id: pepper for pepper in peppers}
        self._good: Recent[Principal] = Recent(_MOST_HELD)
        self._limits: Recent[OrgLimits] = Recent(_MOST_HELD)
        self._found_any = required
        self._asked_at: float | None = None
        self._asking: dict[str, asyncio.Task[Any]] = {}
        self._noted: Recent[bool] = Recent(_MOST_HELD)
        self._noting: dict[str, asyncio.Task[None]] = {}

    async def any(self) -> bool:
        """Tell whether every caller needs a key: one was ever made, revoked or not.

        Raises:
            StorageUnavailable: the database does not answer; nobody is let in on a guess.
        """
        now = self._clock()
        fresh = self._asked_at is not None and 0 <= now - self._asked_at < ASK_SECONDS
        if not self._found_any and not fresh:
            await self._together("any key", lambda: self._look_for_any(now))
        return self._found_any

    async def principal(self, presented: str) -> Principal:
        """Return who presents a key.

        Raises:
            Unauthorized: the key is malformed, unknown, wrong, expired or revoked.
            StorageUnavailable: the database does not answer.
        """
        # By digest: a plain key must not lie in memory for longer than its request.
        digest = sha256(presented.encode("utf-8", "surrogatepass")).hexdigest()
        begun = self._clock()
        if known := self._good.get(digest, begun):
            return known
        match = _KEY.fullmatch(presented)
        key_id, secret = match.groups() if match else (_NO_ID, presented)
        found = await self._find(key_id)
        if not self._fits(found, secret) or found is None or not _is_live(found[0], self._clock()):
            raise Unauthorized
        row, organisation = found
        principal = Principal(
            org_id=row.org_id,
            key_id=row.id,
            service=row.service,
            scopes=ALL_SCOPES & set(row.scopes.split()),
            limits=limits_of(organisation),
        )
        until = begun + TRUST_SECONDS
        self._good.put(digest, begun, min(until, row.expires_at or until), principal)
        self._note_use(row, secret)
        return principal

    async def acting_for(self, principal: Principal, org_id: str) -> Principal:
        """Return a service key's principal in another organisation; its own may always be named.

        Raises:
            OrganisationRefused: it is no service key, or there is no such organisation.
            StorageUnavailable: the database does not answer.
        """
        org_id = org_id.lower() if org_id.isascii() else ""
        if org_id == principal.org_id:
            return principal
        if not principal.service or not is_id(org_id):
            raise OrganisationRefused
        limits = await self._limits_of(org_id)
        if limits is None:
            raise OrganisationRefused
        return replace(principal, org_id=org_id, limits=limits)

    async def with_limits(self, principal: Principal) -> Principal:
        """Return a principal that came without a key, with its organisation's limits of now.

        While the database does not answer, the principal's limits stay as they are.
        """
        try:
            limits = await self._limits_of(principal.org_id)
        except StorageUnavailable:
            return principal
        return replace(principal, limits=limits) if limits else principal

    async def make(
        self,
        organisation: OrgRecord,
        *,
        scopes: Collection[str],
        name: str = "",
        service: bool = False,
        expires_at: int | None = None,
    ) -> tuple[KeyRecord, str]:
        """Make a key; return what is known about it and its text, which is nowhere else.

        Args:
            organisation: whose key it is.
            scopes: what it may do, one at least.
            name: for people.
            service: whether it may act for any organisation.
            expires_at: unix seconds, or None for never.

        Raises:
            AccountError: the scopes, the name or the expiry cannot be.
            StorageUnavailable, StorageFull: the database cannot be written.
        """
        now = int(self._clock())
        wrong = sorted(set(scopes) - ALL_SCOPES)
        if wrong or not scopes:
            named = ", ".join(map(repr, wrong)) or "none given"
            raise AccountError(f"Unknown scopes ({named}); known: {', '.join(sorted(ALL_SCOPES))}")
        if expires_at is not None and expires_at <= now:
            raise AccountError("The key would be expired already.")
        key_id, secret = secrets.token_hex(8), _new_secret()
        row = ApiKeyRow(
            id=key_id,
            org_id=organisation.id,
            name=checked_name(name),
            mac=self._current.mac(secret),
            pepper=self._current.id,
            scopes=" ".join(sorted(set(scopes))),
            service=service,
            created_at=now,
            expires_at=expires_at,
        )
        async with self._database.unit() as session:
            session.add(row)
        return _record(row, organisation.name), f"ocr_{key_id}_{secret}"

    async def list(self, org_id: str | None = None) -> list[KeyRecord]:
        """Return all keys, or those of an organisation, oldest first.

        Raises:
            StorageUnavailable: the database does not answer.
        """
        query = _joined().order_by(ApiKeyRow.created_at, ApiKeyRow.id)
        if org_id is not None:
            query = query.where(ApiKeyRow.org_id == org_id)
        async with self._database.read() as session:
            rows = (await session.execute(query)).all()
        return [_record(row, organisation.name) for row, organisation in rows]

    async def revoke(self, key_id: str) -> KeyRecord:
        """Revoke a key, once and for all; every process feels it within `TRUST_SECONDS`.

        Args:
            key_id: its id; a whole key is refused, since others see what stands in a command.

        Raises:
            AccountError: there is no such key, or it is no id.
            StorageUnavailable, StorageFull: the database cannot be written.
        """
        if not _KEY_ID.fullmatch(key_id):  # what was given is not repeated: it may be a key
            raise AccountError(
                "Give the key's id only, its 16 digits after ocr_, never the whole key; "
                "see: recto keys list"
            )
        found = await self._find(key_id)
        if found is None:
            raise AccountError("There is no key with this id; see: recto keys list")
        row, organisation = found
        if row.revoked_at is None:
            row.revoked_at = int(self._clock())
            which = (ApiKeyRow.id == row.id) & ApiKeyRow.revoked_at.is_(None)
            async with self._database.unit() as session:
                await session.execute(
                    update(ApiKeyRow).where(which).values(revoked_at=row.revoked_at)
                )
        self._good.clear()
        return _record(row, organisation.name)

    async def close(self) -> None:
        """Wait until the last uses are written; call it before the database is closed."""
        tasks = [*self._noting.values(), *self._asking.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_for_any(self, now: float) -> None:
        self._asked_at = None
        async with self._database.read() as session:
            found = await session.scalar(select(ApiKeyRow.id).limit(1))
        self._found_any, self._asked_at = found is not None, now

    async def _limits_of(self, org_id: str) -> OrgLimits | None:
        begun = self._clock()
        known = self._limits.get(org_id, begun)
        return known or await self._together(org_id, lambda: self._read_limits(org_id, begun))

    async def _read_limits(self, org_id: str, begun: float) -> OrgLimits | None:
        limits = await read_limits(self._database, org_id)
        if limits is not None:
            self._limits.put(org_id, begun, begun + TRUST_SECONDS, limits)
        return limits

    async def _together(self, name: str, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """Ask once for all who want to know the same at the same time; a failure is theirs, too."""
        task: asyncio.Task[Answer] | None = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(ask(), name="ask")
            task.add_done_callback(lambda done: self._answered(name, done))
        return await asyncio.shield(task)  # who leaves does not take the answer from the others

    def _answered(self, name: str, task: asyncio.Task[Any]) -> None:
        del self._asking[name]
        if not task.cancelled():
            task.exception()  # seen, although nobody may wait any more

    async def _find(self, key_id: str) -> Row[ApiKeyRow, Organisation] | None:
        async with self._database.read() as session:
            found = await session.execute(_joined().where(ApiKeyRow.id == key_id))
            return found.one_or_none()

    def _fits(self, found: Row[ApiKeyRow, Organisation] | None, secret: str) -> bool:
        """Tell whether the secret is the row's; without a row, take as long to say no."""
        pepper = self._peppers.get(found[0].pepper) if found else None
        wanted = found[0].mac if found and pepper else _NO_MAC
        return hmac.compare_digest((pepper or self._current).mac(secret), wanted)

    def _note_use(self, row: ApiKeyRow, secret: str) -> None:
        """Write now and then, beside the request, when a key was used; renew an old MAC."""
        now = int(self._clock())
        values: dict[str, object] = {}
        if row.last_used_at is None or now - row.last_used_at >= USED_SECONDS:
            values["last_used_at"] = now
        if row.pepper != self._current.id:
            values |= {"mac": self._current.mac(secret), "pepper": self._current.id}
        # A row that was read before the last note was written is out of date.
        if values and self._noted.get(row.id, now) is None:
            self._noted.put(row.id, now, now + TRUST_SECONDS, True)
            task = asyncio.create_task(self._write_use(row, values), name="key-use")
            self._noting[row.id] = task
            task.add_done_callback(lambda _: self._noting.pop(row.id, None))

    async def _write_use(self, row: ApiKeyRow, values: dict[str, object]) -> None:
        # Another process may have been first to renew the MAC; its word stands.
        which = (ApiKeyRow.id == row.id) & (ApiKeyRow.mac == row.mac)
        try:
            async with self._database.unit() as session:
                await session.execute(update(ApiKeyRow).where(which).values(values))
        except Exception as error:  # noqa: BLE001 - the request must not suffer
            facts = {"key_id": row.id, "error": type(error).__name__}
            log(__name__, "key_use_not_written", level=WARNING, **facts)


class _Pepper:
    """A key for the MACs of secrets, and its id, which tells nothing of it."""

    def __init__(self, master: bytes) -> None:
        self._key = hkdf_sha256(master, b"recto api-key-pepper-v1")
        self.id = sha256(b"pepper id\n" + self._key).hexdigest()[:12]

    def mac(self, secret: str) -> str:
        return hmac.digest(self._key, secret.encode("utf-8", "surrogatepass"), "sha256").hex()


def _joined() -> Select[ApiKeyRow, Organisation]:
    return select(ApiKeyRow, Organisation).join(Organisation, Organisation.id == ApiKeyRow.org_id)


def _is_live(row: ApiKeyRow, now: float) -> bool:
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def _new_secret() -> str:
    number = int.from_bytes(secrets.token_bytes(_SECRET_BYTES))
    digits = ""
    for _ in range(_SECRET_DIGITS):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits


def _record(row: ApiKeyRow, org_name: str) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        org_id=row.org_id,
        org_name=org_name,
        name=row.name,
        scopes=tuple(row.scopes.split()),
        service=row.service,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
