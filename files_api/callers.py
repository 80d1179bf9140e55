"""Who is calling: the FastAPI dependency that gives a route its principal."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from files_api.accounts import Principal


class Callers:
    """Tells who sent a request; `files_api.app` puts one at ``app.state.callers``."""

    def __init__(self, local: Principal) -> None:
        self._local = local

    async def identify(self, request: Request) -> Principal:
        """Return the caller.

        No keys are configured: any ``Authorization``, ``X-Org-Id`` or ``org_id`` is accepted
        and means the local organisation. The server listens on loopback only.
        """
        del request
        return self._local


async def caller(request: Request) -> Principal:
    """Return the principal of a request."""
    callers: Callers = request.app.state.callers
    return await callers.identify(request)


Caller = Annotated[Principal, Depends(caller)]
"""The type of a route's parameter that receives the principal."""
