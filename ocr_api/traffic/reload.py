"""Reading the routes again while the service runs: when the file changes, and at SIGHUP."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from files_api.kit.observe import log
from model_registry.card import CardError
from model_registry.registry import Registry
from ocr_api import meters
from ocr_api.traffic import Traffic, default_of

EVERY = 2.0
"""Seconds between looks at the file. Its content is compared, not its time or number: Kubernetes
swaps a link to a folder, and an editor may write a new file."""
_MISSING = 2
"""Looks in a row at which the file must be missing: while a file is replaced there may be none."""
_NONE = ""
"""Stands for the content of a file that cannot be read."""


class Reloader:
    """Keeps the routes of a `Traffic` as the file has them."""

    def __init__(
        self,
        path: Path,
        load: Callable[[], Registry],
        traffic: Traffic,
        every: float = EVERY,
    ) -> None:
        """Keep what it needs; nothing runs yet.

        Args:
            path: the routes file.
            load: reads and checks cards and routes in any thread; raises CardError.
            traffic: whose routes they are.
            every: seconds between looks at the file.
        """
        self._path = path
        self._load = load
        self._traffic = traffic
        self._every = every
        self._content: str | None = None
        """A hash of what was read last, right or wrong; None before the first look."""
        self._absent = 0
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._before: Callable[[int, FrameType | None], Any] | int | None = None
        self._has_signal = False

    async def start(self) -> None:
        """Look at the file from now on, and read it again at SIGHUP."""
        meters.routes_wrong(False)
        self._begin(self._watch())
        # Signals are the main thread's; a service in another one (in a test) has the file alone.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGHUP)
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self.reload()))
            self._has_signal = True

    async def close(self) -> None:
        """Stop looking, and leave SIGHUP as it was."""
        if self._has_signal:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, self._before)
            self._has_signal = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def reload(self) -> bool:
        """Read the routes again, whether they changed or not; tell whether they were right.

        Wrong ones are logged with all their problems, and the old ones stay.
        """
        async with self._lock:
            self._content = await self._read()
            return await self._take(quiet=False)

    async def look(self) -> None:
        """Read the routes again where the file's content is another one than last time."""
        async with self._lock:
            content = await self._read()
            self._absent = self._absent + 1 if content == _NONE else 0
            if content == self._content or 0 < self._absent < _MISSING:
                return
            # The first look may find what the service was started with.
            first, self._content = self._content is None, content
            await self._take(quiet=first)

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - the watch must live
                kind = type(error).__name__
                log(__name__, "routes_not_looked_at", level=logging.ERROR, why=kind)
            await asyncio.sleep(self._every)

    async def _read(self) -> str:
        """Return a hash of the file."""
        with suppress(OSError):
            content = await asyncio.to_thread(self._path.read_bytes)
            return hashlib.sha256(content).hexdigest()
        return _NONE

    async def _take(self, *, quiet: bool) -> bool:
        """Load the routes and take them; without a word where nothing changed, when ``quiet``."""
        try:
            found = await asyncio.to_thread(self._load)
            _check_cards(self._traffic.registry, found)
        except CardError as error:
            self._refuse(error.problems)
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, the old routes are good
            self._refuse([f"the files cannot be read ({type(error).__name__})"])
            return False
        changes = _changes(self._traffic.registry, found)
        if any(changes.values()) or not quiet:
            await self._traffic.adopt(found)
            meters.routes_reloaded("ok")
            facts: dict[str, Any] = {**changes}
            log(__name__, "routes_reloaded", **facts)
            self._traffic.file.loaded_at = time.time()
        meters.routes_wrong(False)
        self._traffic.file.wrong = None
        return True

    def _refuse(self, problems: list[str]) -> None:
        meters.routes_reloaded("refused")
        meters.routes_wrong(True)
        self._traffic.file.wrong = problems
        log(__name__, "routes_refused", level=logging.ERROR, problems=problems)

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _check_cards(old: Registry, new: Registry) -> None:
    """Refuse cards that are not those of the start: engines and parsers were made for those.

    Raises:
        CardError: with every card that is another one, new, or gone.
    """
    was = {card.id: card for card in old.every_card()}
    now = {card.id: card for card in new.every_card()}
    others = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if others:
        raise CardError(
            [f"{name}: the card is not that of the start; restart the service" for name in others]
        )


def _changes(old: Registry, new: Registry) -> dict[str, list[str]]:
    """Return the public names that were added or removed, or whose routes or names changed."""
    was, now = _facts(old), _facts(new)
    return {
        "added": sorted(now.keys() - was.keys()),
        "removed": sorted(was.keys() - now.keys()),
        "changed": sorted(name for name in was.keys() & now.keys() if was[name] != now[name]),
    }


def _facts(registry: Registry) -> dict[str, object]:
    default, annotator = default_of(registry), registry.annotator("")
    helper = annotator.route if annotator else None
    return {
        name: (route, registry.aliases(name), name == default, name == helper)
        for name, route in registry.routes().items()
    }
