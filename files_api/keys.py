"""API keys: make, check, list, revoke. A key belongs to one organisation; no web here."""

from __future__ import annotations

import time
from collections.abc import Callable

from files_api.accounts import Principal
from files_api.kit.db import Database


class Keys:
    """Makes and checks keys; one for the process."""

    def __init__(
        self,
        database: Database,
        secret: bytes,
        previous: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the master secret, from which the pepper is derived, and the one before it."""
        self._database = database
        self._clock = clock

    async def any(self) -> bool:
        """Tell whether a key was ever made, revoked or not; from then on every caller needs one."""
        return False

    async def principal(self, presented: str) -> Principal:
        """Return who presents a key.

        Raises:
            Unauthorized: the key is malformed, unknown, wrong, expired or revoked.
            StorageUnavailable: the database does not answer.
        """
        raise NotImplementedError

    async def acting_for(self, principal: Principal, org_id: str) -> Principal:
        """Return a service key's principal in another organisation.

        Raises:
            OrganisationRefused: it is no service key, or there is no such organisation.
        """
        raise NotImplementedError
