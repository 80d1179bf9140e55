"""The guarded way out: fetch a caller's URL without becoming their hand inside our network.

Every address that is dialled was vetted, and every address that was vetted is the one dialled:
names are resolved here and handed to the connector, so a second answer from the DNS cannot
change the target. Redirects are followed by hand, each one vetted like the first.

Why: a URL in a request is an order to connect somewhere. Cloud metadata services, cluster APIs
and our own database listen on private addresses, and a URL has more ways to spell those than a
deny-list of texts has lines (RFC 1918, legacy IPv4 forms, IPv6 tunnels, DNS rebinding,
redirects). So a URL is taken apart by one strict grammar, and put together again from the
vetted parts. Errors name scheme and host only: the query of a signed link is a secret.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import unicodedata
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from string import punctuation
from typing import BinaryIO
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from files_api.kit.errors import AppError, FetchFailed, FetchRefused, TooLarge

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Name and port in, addresses as text out; raises OSError where the name has none."""

_PARAM = "document.document_url"
_MAX_URL = 8192  # signed links with session tokens pass 2,048; servers refuse above 8 KiB
_MAX_NAME = 253  # RFC 1035, 2.3.4, without the final dot
_WRITE_BYTES = 1 << 20
_DEFAULT_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_FORBIDDEN = re.compile(r"[\s\x00-\x20\x7f-\x9f\\]")
# An IPv6 address in brackets or a name, then perhaps a port; no user, no escapes.
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|([^\[\]:@%/]+))(?::([0-9]{1,5}))?")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
# WHATWG URL, "ends in a number": such a host is an IPv4 address or nothing.
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")

# Names that only ever mean something inside a machine, a cluster or a company (RFC 6761, 6762,
# 8375; ICANN reserved .internal in 2024).
_INSIDE = (
    *(".local", ".localhost", ".localdomain", ".internal", ".intranet", ".home.arpa"),
    *(".svc", ".cluster.local", ".lan", ".corp", ".private"),
)

# IANA IPv4 and IPv6 special-purpose registries (2024). `ipaddress.is_global` alone is not enough:
# its answer changes between Python releases, and it knows no cloud's own addresses.
_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's host agent, on a public address
    )
)
# All that is routed on the IPv6 Internet today lies in 2000::/3. Outside it are loopback,
# unspecified, IPv4-mapped and -compatible, NAT64 64:ff9b::/96, unique local, link local, site
# local and multicast.
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(text)
    # IETF protocols with Teredo and ORCHID; documentation; 6to4; documentation.
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)

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


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL that passed: what is dialled, and how errors call it."""

    url: URL
    place: str


class Outbound:
    """Fetches URLs that callers name; one for the process, used by one event loop.

    Args:
        limits: what a fetch may cost and where it may go.
        resolve: looks names up instead of the system, for tests.
    """

    def __init__(self, limits: OutboundLimits, resolve: Resolve | None = None) -> None:
        self._limits = limits
        self._allowed = frozenset(host.lower() for host in limits.allowed_hosts)
        self._resolver = _VettingResolver(resolve or _system_resolve, self._allowed)
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str, into: BinaryIO, *, param: str = _PARAM) -> int:
        """Stream the body behind the URL into an open file.

        Args:
            url: an absolute http or https address.
            into: a file opened for writing; it is neither flushed nor closed.
            param: the request field to name in errors.

        Returns:
            Number of bytes written.

        Raises:
            FetchRefused: the URL, an address behind it, or a redirect is not allowed.
            FetchFailed: the server does not answer, not in time, or not with 2xx.
            TooLarge: the body has more bytes than the limit.
        """
        try:
            return await self._fetch_in_time(url, into)
        except AppError as error:
            error.param = error.param or param
            raise

    async def close(self) -> None:
        """Close the session; a later fetch opens a new one."""
        session, self._session = self._session, None
        if session:
            await session.close()

    async def _fetch_in_time(self, url: str, into: BinaryIO) -> int:
        target = _vet(url, self._allowed)
        try:
            async with asyncio.timeout(self._limits.seconds):
                for _ in range(self._limits.redirects + 1):
                    outcome = await self._step(target, into)
                    if isinstance(outcome, int):
                        return outcome
                    target = outcome
        except TimeoutError:
            reason = f"it took longer than {self._limits.seconds:g} seconds"
            raise _failed(target.place, reason) from None
        raise _refused(f"it redirects more than {self._limits.redirects} times", target.place)

    async def _step(self, target: _Target, into: BinaryIO) -> int | _Target:
        """Do one request; return the bytes written, or where the server sends us next."""
        with _plain_reasons(target.place):
            # The client itself would follow a redirect without vetting it.
            response = await self._open_session().get(target.url, allow_redirects=False)
        async with response:
            if response.status in _REDIRECTS:
                return self._next(target, response.headers.get("Location", ""))
            if response.status not in range(200, 300):
                raise _failed(target.place, f"it answered {response.status}")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise _refused("its answer is compressed, although not asked for", target.place)
            return await self._save(target, response, into)

    def _next(self, target: _Target, location: str) -> _Target:
        if not location:
            raise _failed(target.place, "it redirects to nowhere")
        try:
            joined = urljoin(str(target.url), location)
        except ValueError:
            raise _failed(target.place, "it redirects to a malformed URL") from None
        found = _vet(joined, self._allowed)
        if target.url.scheme == "https" and found.url.scheme == "http":
            raise _refused("it redirects from https to http", target.place)
        return found

    async def _save(self, target: _Target, response: aiohttp.ClientResponse, into: BinaryIO) -> int:
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

    def _check_size(self, size: int, target: _Target) -> None:
        if size > self._limits.max_bytes:
            limit = self._limits.max_bytes / 1_000_000
            raise TooLarge(
                f"The document at {target.place} is larger than the {limit:.4g} MB allowed."
            )

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


class _VettingResolver(AbstractResolver):
    """Gives the connector the addresses of a name if all of them are public."""

    def __init__(self, look_up: Resolve, allowed: frozenset[str]) -> None:
        self._look_up = look_up
        self._allowed = allowed

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - all families are vetted
    ) -> list[ResolveResult]:
        addresses = await self._look_up(host, port)
        if not addresses:
            raise OSError(f"{host} has no address")
        if not _is_allowed(host, port, self._allowed) and not all(map(is_public, addresses)):
            raise _refused("its name leads to an address that is not public", host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


def is_public(address: str) -> bool:
    """Tell whether the IP address is one that anybody on the Internet could reach.

    Addresses that carry another one inside (IPv4-mapped, NAT64, 6to4, Teredo) are not, whatever
    is inside. Neither is a text that is no address.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not any(found in network for network in _NOT_PUBLIC_4)
    inside = found in _PUBLIC_6 and not any(found in network for network in _NOT_PUBLIC_6)
    return inside and found.is_global and not found.scope_id


def _vet(url: str, allowed: frozenset[str]) -> _Target:
    """Return the URL rebuilt from checked parts, or raise FetchRefused."""
    parts = _split(url)
    scheme, authority = parts.scheme, _AUTHORITY.fullmatch(parts.netloc)
    if scheme not in _DEFAULT_PORTS:
        raise _refused("only http and https URLs are fetched")
    if "@" in parts.netloc:
        raise _refused("it has a user name in it")
    if authority is None:
        raise _refused("its host is malformed")
    host = _ascii_host(authority[1] or authority[2])
    name = _bracketed(host)
    place = f"{scheme}://{name}"
    port = int(authority[3] or _DEFAULT_PORTS[scheme])
    if not _is_allowed(host, port, allowed):
        _check_host(host, place)
        if port not in _DEFAULT_PORTS.values():
            raise _refused("only the ports 80 and 443 are fetched from", place)
    path, ask = (quote(part, safe=punctuation) for part in (parts.path or "/", parts.query))
    # Encoded: a signed link must arrive as it was signed, not as somebody would requote it.
    to = URL.build(scheme=scheme, host=name, port=port, path=path, query_string=ask, encoded=True)
    return _Target(to, place)


def _split(url: str) -> SplitResult:
    if len(url) > _MAX_URL:
        raise _refused(f"it has more than {_MAX_URL} characters")
    if _FORBIDDEN.search(url):
        raise _refused("it contains white space, a control character or a backslash")
    try:
        url.encode()
        return urlsplit(url)
    except ValueError:
        raise _refused("it is malformed") from None


def _ascii_host(text: str) -> str:
    """Return the host as the DNS knows it: IDNA, lower case, no final dot; addresses canonical.

    Full-width digits and dots become plain ones here (UTS 46), before anything is compared.
    """
    host = unicodedata.normalize("NFKC", text).lower()
    if not host.isascii():
        try:
            host = URL.build(scheme="http", host=host).raw_host or ""
        except ValueError:
            raise _refused("its host is malformed") from None
    host = host.removesuffix(".")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if len(host) > _MAX_NAME or not _NAME.fullmatch(host):
            raise _refused("its host is malformed") from None
        return host


def _check_host(host: str, place: str) -> None:
    """Refuse what cannot be a public host, before any name is looked up."""
    if is_public(host):
        return
    if ":" in host or _NUMERIC_END.fullmatch(host):
        raise _refused("its host is not a public IP address in its usual form", place)
    if "." not in host or host.endswith(_INSIDE):
        raise _refused("its host is a name inside a network", place)


def _is_allowed(host: str, port: int, allowed: frozenset[str]) -> bool:
    """Tell whether the allow-list names the host, bare or with this port."""
    name = _bracketed(host)
    return name in allowed or f"{name}:{port}" in allowed


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _system_resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


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


def _refused(reason: str, place: str | None = None) -> FetchRefused:
    name = f" ({place})" if place else ""
    return FetchRefused(f"The document URL{name} is not allowed: {reason}.")


def _user_agent() -> str:
    try:
        return f"recto/{version('recto')}"
    except PackageNotFoundError:
        return "recto"
