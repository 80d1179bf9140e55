"""Names become addresses: looked up in threads of our own, given out if all are public.

Why threads of our own: `getaddrinfo` blocks, for half a minute where a DNS server is silent. In
the loop's few threads, a handful of such names would stop all reading and writing of files.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp.abc import AbstractResolver, ResolveResult

from ocr_api.outbound.addresses import is_allowed, is_public, refused

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Name and port in, addresses as text out; raises OSError where the name has none."""

PLACES = 8
"""Names that are looked up at the same time; more of them wait, as long as their callers do."""


class SystemNames:
    """Asks the operating system for addresses; a `Resolve`."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a name.

        Raises:
            OSError: it has none.
        """
        if self._threads is None:
            self._threads = ThreadPoolExecutor(PLACES, thread_name_prefix="names")
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [str(address[0]) for *_, address in found]

    def close(self) -> None:
        """Let the threads end by themselves; a later look-up starts new ones."""
        threads, self._threads = self._threads, None
        if threads:
            threads.shutdown(wait=False, cancel_futures=True)


class VettingResolver(AbstractResolver):
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
        """Return the addresses in the connector's form.

        Raises:
            Refusal: one of them is not public, and the host is not on the allow-list.
            OSError: the name has none.
        """
        addresses = await self._look_up(host, port)
        if not addresses:
            raise OSError(f"{host} has no address")
        if not is_allowed(host, port, self._allowed) and not all(map(is_public, addresses)):
            raise refused("address", "its name leads to an address that is not public", host)
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
