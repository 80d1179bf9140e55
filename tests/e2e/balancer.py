"""A small balancer of connections, as a Kubernetes Service is one: each goes to a process whole.

It stands in for the cluster's; what it proves is what our processes do when they are replaced.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Balancer:
    """Gives connections to servers in turn; one that is taken out keeps those that it has."""

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()
        """Connections that each server got."""
        self._servers: list[str] = []
        self._turns = itertools.count()

    def add(self, base: str) -> None:
        self._servers.append(base)

    def remove(self, base: str) -> None:
        self._servers.remove(base)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Give the address of its near end."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        base = self._servers[next(self._turns) % len(self._servers)]
        self.served[base] += 1
        place = urlsplit(base)
        answers, out = await asyncio.open_connection(place.hostname, place.port)
        ways = [
            asyncio.create_task(_pump(reader, out)),
            asyncio.create_task(_pump(answers, writer)),
        ]
        # Our clients end with their whole connection, and so do the servers.
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way, end in zip(ways, (out, writer), strict=True):
            way.cancel()
            end.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
