"""Traffic as it is: which targets are left out, what names stand for, whether the file is right."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from files_api.kit.observe import log
from model_registry.registry import Choice, Registry, Routed, Steering
from model_registry.routing import Route, Servers, Target, place
from ocr_api import meters
from ocr_api.traffic.discovery import Discovery, Resolve
from ocr_api.traffic.guard import Guard

EVERY = 5.0
"""Seconds between looks at the names of servers."""

Look = Callable[[str, str | None], Mapping[str, object] | None]
"""Says how the server of a card (its id) at a base URL stands; None where it was never asked."""


@dataclass
class RoutesFile:
    """The file of the routes that are in use."""

    loaded_at: float = field(default_factory=time.time)
    """When, in unix seconds."""
    wrong: list[str] | None = None
    """What is wrong with it as it lies there now; None where it is what is in use."""


class Traffic(Steering):
    """What steers requests beside the routes; one for the whole process."""

    def __init__(
        self,
        registry: Registry,
        *,
        clock: Callable[[], float] = monotonic,
        resolve: Resolve | None = None,
    ) -> None:
        """Steer a registry from now on; nothing runs yet.

        Args:
            registry: whose routes these are.
            clock: seconds, never going back.
            resolve: asks name servers; None for the system's way.
        """
        self.registry = registry
        self.file = RoutesFile()
        self.standing: Look = lambda _, __: None
        """Tells of servers, for the picture."""
        self.on_look: list[Callable[[Mapping[str, tuple[str, ...]]], None]] = []
        """Called after each look at the names with the servers of each card, by its id."""
        self._guard = Guard(registry.routes(), clock)
        self._discovery = Discovery(clock, resolve)
        self._task: asyncio.Task[None] | None = None
        registry.steering = self

    async def start(self) -> None:
        """Look up the names of servers, then again every few seconds."""
        await self._discovery.look(_urls(self.registry))
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def is_away(self, route: str, target: Target) -> bool:
        """Tell whether a target of a route is left out now.

        One whose servers are all asked nothing is, too, where the route has a fall-back: its pages
        need not fail one by one before others read them.
        """
        if self._guard.is_away(route, target):
            return True
        return self._guard.judges(route) and self._is_gone(target)

    def addresses(self, urls: tuple[str, ...]) -> tuple[str, ...]:
        """Return the servers that base URLs stand for now; at least one where there is a URL."""
        return self._discovery.addresses(urls)

    def note(self, choice: Choice, outcome: Routed, count: int = 1) -> None:
        """Count what came of pages of a request.

        Args:
            choice: who read them.
            outcome: how they ended. Pages that no server could be asked for are errors; pages
                that say nothing about the target (blank ones, ones that could not be drawn) are
                not to be noted.
            count: how many.
        """
        if choice.target is None:
            return
        meters.route_pages(choice.route, choice.card.id, outcome, count)
        self._guard.note(choice.route, choice.target, outcome, count)

    async def adopt(self, found: Registry) -> None:
        """Take the routes of another registry; requests under way keep who they chose."""
        await self._discovery.add(_urls(found))
        self.registry.adopt(found)
        self._guard.keep(found.routes())
        self._tell()

    async def look(self) -> None:
        """Look up the names now, bring back targets whose time is over, and tell who listens."""
        await self._discovery.look(_urls(self.registry))
        self._guard.look()
        self._tell()

    def picture(self) -> dict[str, Any]:
        """Return everything that is known of the routes, as JSON would have it."""
        default = default_of(self.registry)
        return {
            "data": [
                self._route(name, route, is_default=name == default)
                for name, route in self.registry.routes().items()
            ],
            "file": {"loaded_at": int(self.file.loaded_at), "wrong": self.file.wrong},
        }

    def _route(self, name: str, route: Route, *, is_default: bool) -> dict[str, Any]:
        shares = _shares(route, [self.is_away(name, target) for target in route.targets])
        return {
            "name": name,
            "aliases": self.registry.aliases(name),
            "default": is_default,
            "sticky": route.sticky,
            "targets": [
                self._target(name, target, share)
                for target, share in zip(route.targets, shares, strict=True)
            ],
            "shadow": [
                {"card": one.card, "share": one.share, "servers": self._servers(one)}
                for one in route.shadow
            ],
            "fallback": route.fallback.model_dump() if route.fallback else None,
        }

    def _target(self, route: str, target: Target, share: float) -> dict[str, Any]:
        found = self._guard.standing(route, target)
        away = {"reason": found.reason, "seconds_left": round(found.seconds_left)}
        return {
            "card": target.card,
            "weight": target.weight,
            "share": round(share, 4),
            "away": away if found.reason else None,
            "pages": found.pages,
            "errors": round(found.errors, 4),
            "empty": round(found.empty, 4),
            "repetition": round(found.repetition, 4),
            "servers": self._servers(target),
        }

    def _servers(self, servers: Servers) -> list[dict[str, object]]:
        """Return how the servers stand; ``address`` is None for an engine in this process."""
        unused = {"in_flight": 0, "limit": None, "circuit": "closed"}
        return [
            {
                "address": place(url) if url else None,
                **(self.standing(servers.card, url) or unused),
            }
            for url in self.addresses(servers.urls) or (None,)
        ]

    def _is_gone(self, target: Target) -> bool:
        """Tell whether the circuit of each of a target's servers is open."""
        found = [self.standing(target.card, url) for url in self.addresses(target.urls)]
        return bool(found) and all(one and one["circuit"] == "open" for one in found)

    def _tell(self) -> None:
        servers = self.registry.servers()
        for listener in self.on_look:
            listener(servers)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - the watch must live
                log(__name__, "look_failed", level=logging.ERROR, why=type(error).__name__)


def default_of(registry: Registry) -> str | None:
    """Return the route that a request without a model means; None where nothing runs it."""
    try:
        return registry.choose(None, "").route
    except LookupError:
        return None


def _urls(registry: Registry) -> Iterator[str]:
    """Yield every base URL of the routes, as they name it."""
    for route in registry.routes().values():
        for one in (*route.targets, *route.shadow):
            yield from one.urls


def _shares(route: Route, away: list[bool]) -> list[float]:
    """Return the part of the keys that each target has now; where all are away, none is."""
    weights = [
        0 if is_away else target.weight for target, is_away in zip(route.targets, away, strict=True)
    ]
    if not any(weights):
        weights = [target.weight for target in route.targets]
    return [weight / sum(weights) for weight in weights]
