"""The guarded way out: fetch a caller's URL without becoming their hand inside our network.

Every address that is dialled was vetted, and every address that was vetted is the one dialled:
names are resolved here and handed to the connector, so a second answer from the DNS cannot
change the target. Redirects are followed by hand, each one vetted like the first.

Why: a URL in a request is an order to connect somewhere, and what listens on private addresses
trusts who reaches it; `addresses` says where a fetch may go. Errors name scheme and host only: the
query of a signed link is a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import BinaryIO

import aiohttp

from files_api.kit import metrics
from files_api.kit.errors import FetchFailed, TooLarge
from ocr_api.outbound.addresses import Refusal, Target, refused, vet, vet_redirect
from ocr_api.outbound.names import Resolve, SystemNames, VettingResolver

_WRITE_BYTES = 1 << 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "its name could not be resolved"),
    (aiohttp.ClientConnectorCertificateError, "its TLS certificate is not valid"),
    (aiohttp.ClientSSLError, "no TLS connection could be made"),
    (aiohttp.ClientConnectorError, "no connection could be made"),
    (aiohttp.ServerDisconnectedError, "the server hung up without an answer"),
    (aiohttp.ClientPayloadError, "the answer broke off"),
    (aiohttp.ClientOSError, "the connection broke"),
    (aiohttp.ClientResponseError, "the answer is not valid HTTP"),
)


@dataclass(frozen=True, slots=True)
class OutboundLimits:
    """What a fetch may cost and where it may go."""

    max_bytes: int
    """Largest body, in bytes."""
    seconds: float = 30.0
    """Deadline for the whole fetch: names, connections, redirects and body."""
    redirects: int = 3
    allowed_hosts: tuple[str, ...] = ()
    """``host`` (any port) or ``host:port``, exact, IPv6 in brackets; for tests and intranets.
    Such a host may be a name without a dot, and may resolve to any address."""


class Outbound:
    """Fetches URLs that callers name; one for the process, used by one event loop.

    Args:
        limits: what a fetch may cost and where it may go.
        resolve: looks names up instead of the system, for tests.
    """

    def __init__(self, limits: OutboundLimits, resolve: Resolve | None = None) -> None:
        self._limits = limits
        self._allowed = frozenset(host.lower() for host in limits.allowed_hosts)
        self._names = SystemNames()
        self._resolver = VettingResolver(resolve or self._names, self._allowed)
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str, into: BinaryIO) -> int:
        """Stream the body behind the URL into an open file; count it where it is refused.

        Args:
            url: an absolute http or https address.
            into: a file opened for writing; it is neither flushed nor closed.

        Returns:
            Number of bytes written.

        Raises:
            FetchRefused: the URL, an address behind it, or a redirect is not allowed.
            FetchFailed: the server does not answer, not in time, or not with 2xx.
            TooLarge: the body has more bytes than the limit.
        """
        try:
            return await self._follow(url, into)
        except Refusal as refusal:
            metrics.fetch_refused(refusal.reason)
            raise refusal.error from None

    async def close(self) -> None:
        """Close the session, wait for no name; a later fetch opens anew."""
        self._names.close()
        session, self._session = self._session, None
        if session:
            await session.close()

    async def _follow(self, url: str, into: BinaryIO) -> int:
        """Fetch through the redirects; return the bytes written."""
        target = vet(url, self._allowed)
        try:
            async with asyncio.timeout(self._limits.seconds):
                for _ in range(self._limits.redirects + 1):
                    outcome = await self._step(target, into)
                    if isinstance(outcome, int):
                        return outcome
                    target = outcome
        except TimeoutError:
            reason = f"it took longer than {self._limits.seconds:g} seconds"
            raise Refusal("time", _failed(target.place, reason)) from None
        most = f"it redirects more than {self._limits.redirects} times"
        raise refused("redirect", most, target.place)

    async def _step(self, target: Target, into: BinaryIO) -> int | Target:
        """Do one request; return the bytes written, or where the server sends us next."""
        with _plain_reasons(target.place):
            # The client itself would follow a redirect without vetting it.
            response = await self._open_session().get(target.url, allow_redirects=False)
        async with response:
            if response.status in _REDIRECTS:
                return self._next(target, response.headers.get("Location", ""))
            if response.status not in range(200, 300):
                raise _failed(target.place, f"it answered {response.status}")
            if _is_encoded(response):
                why = "its answer is compressed, although not asked for"
                raise refused("encoding", why, target.place)
            return await self._save(target, response, into)

    def _next(self, target: Target, location: str) -> Target:
        if not location:
            raise _failed(target.place, "it redirects to nowhere")
        return vet_redirect(target, location, self._allowed)

    async def _save(self, target: Target, response: aiohttp.ClientResponse, into: BinaryIO) -> int:
        limit = self._limits.max_bytes
        # Only for an early answer: what counts is what comes.
        self._check_size(response.content_length or 0, target)
        total, waiting = 0, bytearray()
        while chunk := await _read(response, target.place):
            total += len(chunk)
            self._check_size(total, target)
            waiting += chunk
            if len(waiting) >= min(_WRITE_BYTES, limit):
                await asyncio.to_thread(into.write, waiting)
                waiting = bytearray()
        await asyncio.to_thread(into.write, waiting)
        return total

    def _check_size(self, size: int, target: Target) -> None:
        if size > self._limits.max_bytes:
            limit = self._limits.max_bytes / 1_000_000
            text = f"The document at {target.place} is larger than the {limit:.4g} MB allowed."
            raise Refusal("size", TooLarge(text))

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No connection is kept: each fetch is vetted at its own time. No DNS cache, no
            # cookies, no proxy variables, no netrc, no decompression.
            connector = aiohttp.TCPConnector(
                resolver=self._resolver, use_dns_cache=False, force_close=True
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": _user_agent(), "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


def _is_encoded(response: aiohttp.ClientResponse) -> bool:
    """Tell whether the body is anything but the document's own bytes, perhaps in chunks."""
    headers = response.headers
    codings = [value.strip().lower() for value in headers.getall("Content-Encoding", ())]
    transfer = [value.strip().lower() for value in headers.getall("Transfer-Encoding", ())]
    return codings not in ([], ["identity"]) or transfer not in ([], ["chunked"], ["identity"])


async def _read(response: aiohttp.ClientResponse, place: str) -> bytes:
    """Return what has come of the body, nothing at its end."""
    with _plain_reasons(place):
        return await response.content.readany()


@contextmanager
def _plain_reasons(place: str) -> Iterator[None]:
    """Turn what the network and the HTTP client raise into FetchFailed; time-outs pass."""
    try:
        yield
    except TimeoutError:
        raise
    except (aiohttp.ClientError, OSError, ValueError) as error:
        known = (reason for kind, reason in _REASONS if isinstance(error, kind))
        # The cause is cut off: its text has the whole URL in it, and logs print causes.
        raise _failed(place, next(known, "the answer is not valid HTTP")) from None


def _failed(place: str, reason: str) -> FetchFailed:
    return FetchFailed(f"The document URL could not be fetched from {place}: {reason}.")


def _user_agent() -> str:
    try:
        return f"recto/{version('recto')}"
    except PackageNotFoundError:
        return "recto"
