"""The servers behind a name: each address that it has is a replica (a headless Service).

The names are the operator's, so the rules for addresses that callers name do not apply here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from files_api.kit.observe import log
from model_registry.routing import is_service, place, plain_url

MOST = 256
"""Addresses of one name that are taken; what is beyond is left out."""
KEPT_SECONDS = 60.0
"""How long the last addresses of a name are good that is no longer found: a name server that is
restarted must not take the models away."""
SECONDS = 5.0
"""Longest time of one question."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host, IPv6 without brackets; the second argument is the port.

Raises:
    OSError, UnicodeError: it has none.
"""


@dataclass(frozen=True, slots=True)
class _Found:
    urls: tuple[str, ...]
    at: float
    """When they were seen last, in the clock's seconds."""


class Discovery:
    """What names stand for now; it asks only when it is told to."""

    def __init__(self, clock: Callable[[], float], resolve: Resolve | None = None) -> None:
        """Take seconds that never go back, and what asks the name servers."""
        self._clock = clock
        self._resolve = resolve or _resolve
        self._found: dict[str, _Found] = {}
        self._missing: set[str] = set()

    def addresses(self, urls: tuple[str, ...]) -> tuple[str, ...]:
        """Return the base URLs of the servers that base URLs stand for, each once.

        A name that was never found stands for itself: asking there fails as a server that is
        away does.
        """
        if not any(map(is_service, urls)):
            return urls
        found = (self._found[url].urls if url in self._found else (plain_url(url),) for url in urls)
        return tuple(dict.fromkeys(one for some in found for one in some))

    async def look(self, urls: Iterable[str]) -> None:
        """Ask for the names among base URLs, all at once; forget all other names."""
        names = {url for url in urls if _is_found(url)}
        for gone in self._found.keys() - names:
            del self._found[gone]
        self._missing &= names
        await asyncio.gather(*map(self._ask, sorted(names)))

    async def add(self, urls: Iterable[str]) -> None:
        """Ask for the names among base URLs that are not known yet."""
        names = {url for url in urls if _is_found(url)} - self._found.keys()
        await asyncio.gather(*map(self._ask, sorted(names)))

    async def _ask(self, url: str) -> None:
        parts = urlsplit(plain_url(url))
        try:
            async with asyncio.timeout(SECONDS):
                hosts = await self._resolve(parts.hostname or "", parts.port or 80)
        except (OSError, UnicodeError) as error:  # a TimeoutError is an OSError
            hosts = ()
            if _is_silence(error) and (known := self._found.get(url)):
                # Nobody said that it is gone: the servers may be as well as ever.
                self._found[url] = _Found(known.urls, self._clock())
        now, known = self._clock(), self._found.get(url)
        if hosts:
            self._take(url, tuple(_at(url, host) for host in _sorted(hosts)), now)
            return
        if known is not None and now - known.at > KEPT_SECONDS:
            del self._found[url]
        if url not in self._missing:
            self._missing.add(url)
            log(__name__, "service_not_found", level=logging.WARNING, service=place(plain_url(url)))

    def _take(self, url: str, urls: tuple[str, ...], now: float) -> None:
        known = self._found.get(url)
        if url in self._missing or known is None or known.urls != urls:
            log(__name__, "service_found", service=place(plain_url(url)), servers=len(urls))
        self._missing.discard(url)
        self._found[url] = _Found(urls, now)


def _is_silence(error: Exception) -> bool:
    """Tell whether no name server answered, or none could: it is not the name that is gone."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return isinstance(error, TimeoutError)


def _is_found(url: str) -> bool:
    """Tell whether a base URL's name is looked up.

    With TLS it is not: a certificate is made out to a name, so the name is what must be asked,
    and stands for one server.
    """
    return is_service(url) and urlsplit(plain_url(url)).scheme == "http"


def _at(url: str, host: str) -> str:
    """Return a service's base URL with an address in place of its name."""
    parts = urlsplit(plain_url(url))
    port = f":{parts.port}" if parts.port else ""
    host = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=f"{host}{port}").geturl()


def _sorted(hosts: Collection[str]) -> list[str]:
    """Return addresses in an order that does not change; not those of one link (IPv6 scopes)."""
    return sorted({host for host in hosts if "%" not in host})[:MOST]


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]
