"""Who is calling: the FastAPI dependency that gives a route its principal.

A route says at its parameter what it needs and which credentials it reads::

    async def list_files(who: FilesReader): ...
    async def read(who: Annotated[Principal, Depends(needs("ocr", readers=(raw_key,)))]): ...
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from files_api.accounts import Principal, Scope
from files_api.keys import Keys
from files_api.kit.errors import CallerRefused
from files_api.limits import Limits

Reader = Callable[[Request], str | None]
"""Takes the key out of a request; None when the request has none in this place."""


def bearer(request: Request) -> str | None:
    """Read ``Authorization: Bearer KEY``, as OpenAI's and Mistral's clients send it."""
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() or None if kind.lower() == "bearer" else None


def x_api_key(request: Request) -> str | None:
    """Read ``X-API-Key: KEY``."""
    return request.headers.get("x-api-key") or None


def raw_key(request: Request) -> str | None:
    """Read ``Authorization: KEY``, without a scheme, as Mindee's clients send it."""
    value = request.headers.get("authorization", "").strip()
    return value or None if " " not in value else None


def query_token(request: Request) -> str | None:
    """Read ``?token=KEY``; only for clients that cannot send a header."""
    return request.query_params.get("token") or None


class Callers:
    """Tells who sent a request; `files_api.app` puts one at ``app.state.callers``.

    Why the checks: without keys, whoever reaches the port is the local caller. The server listens
    on loopback only, but the browser of the same person reaches it too, on behalf of any page:
    one of another site, or one whose name was rebound to 127.0.0.1.
    """

    def __init__(
        self, local: Principal, keys: Keys, limits: Limits, public_url: str | None
    ) -> None:
        self._local = local
        self._keys = keys
        self._limits = limits
        self._public_host = urlsplit(public_url or "").hostname

    async def identify(
        self, request: Request, readers: Sequence[Reader], scopes: Sequence[Scope]
    ) -> Principal:
        """Return the caller, whose key has all the scopes.

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


READERS: tuple[Reader, ...] = (bearer, x_api_key)
"""What a route reads unless it says otherwise."""


def needs(
    *scopes: Scope, readers: Sequence[Reader] = READERS
) -> Callable[[Request], Awaitable[Principal]]:
    """Return a dependency: the caller, whose key has all the scopes."""

    async def caller(request: Request) -> Principal:
        callers: Callers = request.app.state.callers
        return await callers.identify(request, readers, scopes)

    return caller


Caller = Annotated[Principal, Depends(needs())]
"""The type of a route's parameter that receives the principal: any valid key will do."""
FilesReader = Annotated[Principal, Depends(needs("files:read"))]
FilesWriter = Annotated[Principal, Depends(needs("files:write"))]
OcrCaller = Annotated[Principal, Depends(needs("ocr"))]
