"""Who is calling: the FastAPI dependency that gives a route its principal.

A route says at its parameter what it needs and which credentials it reads::

    async def list_files(who: FilesReader): ...
    async def read(who: Annotated[Principal, Depends(needs("ocr", readers=(raw_key,)))]): ...
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from files_api.accounts import Principal, Scope
from files_api.keys import Keys
from files_api.kit.errors import (
    CallerRefused,
    OrganisationRefused,
    ScopeMissing,
    Unauthorized,
)
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

    Once a key was made, every caller needs one, and its organisation is the key's. Another one
    may be named, in the header ``X-Org-Id`` or in the body, by a service key only.

    Why the checks of browsers: without keys, whoever reaches the port is the local caller. The
    server listens on loopback only, but the browser of the same person reaches it too, on behalf
    of any page: one of another site, or one whose name was rebound to 127.0.0.1. With keys there
    is nothing to gain: a browser sends none by itself.
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
        """Return the caller, whose key has all the scopes, and count the request.

        No key was ever made: any ``Authorization``, ``X-Org-Id`` or ``org_id`` is accepted and
        means the local organisation.

        Raises:
            CallerRefused: a browser sent it for another site, or it names a foreign host.
            Unauthorized: there are keys, and the first that is presented, if any, is not good.
            ScopeMissing: the key may not do this.
            OrganisationRefused: ``X-Org-Id`` names another organisation.
            RateLimited: the organisation sent too many requests.
            StorageUnavailable: the database does not answer.
        """
        if not await self._keys.any():
            self._check_browser(request)
            self._local = await self._keys.with_limits(self._local)
            return self._count(request, self._local)
        presented = next(filter(None, (reader(request) for reader in readers)), None)
        if presented is None:
            raise Unauthorized
        who = await self._keys.principal(presented)
        require(who, *scopes)
        named = set(request.headers.getlist("x-org-id"))
        if len(named) > 1:
            raise OrganisationRefused
        for org_id in named:
            who = await self._keys.acting_for(who, org_id)
        return self._count(request, who)

    async def acting_in_body(
        self, request: Request, who: Principal, named: Mapping[str, object]
    ) -> Principal:
        """Return whom the organisations that a body names stand for; see the function below."""
        if who.key_id is None:
            return who
        acting, settled = who, "x-org-id" in request.headers
        for param, org_id in named.items():
            if org_id is None:
                continue
            try:
                meant = await self._keys.acting_for(who, str(org_id))
            except OrganisationRefused as error:
                error.param = param
                raise
            if settled and meant.org_id != acting.org_id:
                raise OrganisationRefused(param=param)
            acting, settled = meant, True
        return who if acting.org_id == who.org_id else self._count(request, acting)

    async def count_link(self, request: Request, org_id: str) -> None:
        """Count a request that a signed link let in; see the function below."""
        self._count(request, await self._keys.with_limits(Principal(org_id)))

    def _count(self, request: Request, who: Principal) -> Principal:
        """Count the request; leave what is left of the organisation's rate for the answer."""
        # Asked for when the answer begins: pages and bytes are counted until then.
        request.state.rate_headers = partial(self._limits.headers, who)
        request.state.caller = {"org": who.org_id, "key": who.key_id}  # for the log line
        self._limits.take_request(who)
        return who

    def _check_browser(self, request: Request) -> None:
        # Browsers leave Sec-Fetch-Site out where the address is plain HTTP on another machine.
        foreign = not all(map(self._is_ours, map(_host_in, request.headers.getlist("origin"))))
        if foreign or request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
            raise CallerRefused("Requests from web pages of other sites are refused.")
        if not self._is_ours(request.base_url.hostname):
            raise CallerRefused

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


def require(who: Principal, *scopes: Scope) -> None:
    """Check what a key may do.

    Raises:
        ScopeMissing: it lacks a scope, which the message names.
    """
    if "admin" in who.scopes:
        return
    if missing := [scope for scope in scopes if scope not in who.scopes]:
        raise ScopeMissing(f"The API key lacks the scope {' and '.join(missing)}.")


async def acting_in_body(
    request: Request, who: Principal, named: Mapping[str, object]
) -> Principal:
    """Return the principal for the organisations that a request's body names.

    A service key acts for the organisation, unless ``X-Org-Id`` named another one already. The
    request is then counted for that organisation, too.

    Args:
        request: the request, which `Callers.identify` has let in.
        who: what it gave.
        named: what stands in the body's fields, by their paths; None where a field is absent.

    Raises:
        OrganisationRefused: one is not that of the key, or not the one that is acted for.
        RateLimited, StorageUnavailable: as `Callers.identify`.
    """
    callers: Callers = request.app.state.callers
    return await callers.acting_in_body(request, who, named)


async def count_link(request: Request, org_id: str) -> None:
    """Count a request that a signed link let in, for the organisation that the link is of.

    Raises:
        RateLimited: the organisation sent too many requests.
    """
    callers: Callers = request.app.state.callers
    await callers.count_link(request, org_id)


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
