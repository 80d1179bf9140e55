"""Who is calling: the FastAPI dependency that gives a route its principal."""

from __future__ import annotations

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from files_api.accounts import Principal
from files_api.kit.errors import CallerRefused


class Callers:
    """Tells who sent a request; `files_api.app` puts one at ``app.state.callers``.

    Why the checks: without keys, whoever reaches the port is the local caller. The server listens
    on loopback only, but the browser of the same person reaches it too, on behalf of any page:
    one of another site, or one whose name was rebound to 127.0.0.1.
    """

    def __init__(self, local: Principal, public_url: str | None) -> None:
        self._local = local
        self._public_host = urlsplit(public_url or "").hostname

    async def identify(self, request: Request) -> Principal:
        """Return the caller.

        No keys are configured: any ``Authorization``, ``X-Org-Id`` or ``org_id`` is accepted
        and means the local organisation.

        Raises:
            CallerRefused: a browser sent it for another site, or it names a foreign host.
        """
        # Browsers leave Sec-Fetch-Site out where the address is plain HTTP on another machine.
        foreign = not all(map(self._is_ours, map(_host_in, request.headers.getlist("origin"))))
        if foreign or request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
            raise CallerRefused("Requests from web pages of other sites are refused.")
        if not self._is_ours(request.url.hostname):
            raise CallerRefused
        return self._local

    def _is_ours(self, host: str | None) -> bool:
        """Tell whether a host names this machine or is that of the public URL."""
        return host is not None and (host == self._public_host or _is_loopback(host))


def _host_in(origin: str) -> str | None:
    """Return the host of an ``Origin`` header; None for ``null`` and what is malformed."""
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def caller(request: Request) -> Principal:
    """Return the principal of a request."""
    callers: Callers = request.app.state.callers
    return await callers.identify(request)


Caller = Annotated[Principal, Depends(caller)]
"""The type of a route's parameter that receives the principal."""
