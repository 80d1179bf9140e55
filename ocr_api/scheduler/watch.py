"""Looking at the servers: how much work they have, and whether those that failed are well again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from itertools import chain, repeat

from files_api.kit.observe import log
from model_registry.routing import place
from ocr_api.scheduler.circuit import PROBES
from ocr_api.scheduler.replica import Clock, Replica

_EVERY = 1.0
"""Seconds between looks at the servers that work."""
_LOAD_SECONDS, _LOOK_SECONDS = 2.0, 10.0
"""Longest time of one look."""


class Watch:
    """Looks at servers until it is closed."""

    def __init__(
        self,
        replicas: Callable[[], Collection[Replica]],
        publish: Callable[[], None],
        clock: Clock,
        probes: Sequence[float] = PROBES,
    ) -> None:
        self._replicas = replicas
        self._publish = publish
        self._clock = clock
        self._probes = probes
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to look at the servers that work, in one task."""
        self._run(self._watch())

    async def close(self) -> None:
        """Look no more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def suspect(self, replica: Replica) -> None:
        """Look at a server that failed, at once and then now and then until it is well."""
        self._run(self._mend(replica))

    async def look(self) -> None:
        """Ask each server that has work of ours for its load, and show how everything stands."""
        busy = [one for one in self._replicas() if one.in_flight and one.url is not None]
        if busy:
            await asyncio.gather(*map(self._load, busy))
        for replica in self._replicas():
            replica.tell()
        self._publish()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            await self.look()

    async def _load(self, replica: Replica) -> None:
        load = None
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                load = await replica.engine.load(replica.card, replica.url or "")
        except Exception as error:  # noqa: BLE001 - the watch must live
            _failed("load_unknown", replica, type(error).__name__)
        if load is not None:
            replica.limit.loaded(load.running, load.waiting, replica.in_flight)

    async def _mend(self, replica: Replica) -> None:
        """Look at a server until it is well; then let it be asked again.

        One that is forgotten is not looked at any more, and never asked again.
        """
        pauses = chain(self._probes, repeat(self._probes[-1]))
        pause = next(pauses)
        while True:
            await asyncio.sleep(pause)
            if replica.forgotten:
                return
            problem = await self._problem(replica)
            if problem is None:
                break
            pause = next(pauses)
            if replica.circuit.looks == 0:
                _failed("server_away", replica, problem)
            replica.circuit.ill(self._clock() + pause, problem)
            replica.tell()
        if replica.circuit.looks:
            log(__name__, "server_back", card=replica.card.id, server=place(replica.url or ""))
        replica.circuit.well(self._clock())
        replica.tell()

    async def _problem(self, replica: Replica) -> str | None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await replica.engine.problem(replica.card, replica.url)
        except Exception as error:  # noqa: BLE001 - whatever fails, it is not well
            return type(error).__name__


def _failed(event: str, replica: Replica, why: str) -> None:
    server = place(replica.url or "")
    log(__name__, event, level=logging.WARNING, card=replica.card.id, server=server, why=why)
