"""Which targets of routes are left out for a while, because they did badly of late."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from files_api.kit.observe import log
from model_registry.registry import Routed
from model_registry.routing import Fallback, Route, Servers, Target
from ocr_api import meters

_USUAL = Fallback()
"""How many pages are looked at where a route has no fall-back; only the picture shows them."""

_Key = tuple[str, str, tuple[str, ...]]
"""Route, card, and base URLs as the route names them: what a target is the same by."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a target did of late."""

    pages: int = 0
    """That are looked at."""
    errors: float = 0.0
    """Part of them that its servers failed to answer; and so on."""
    empty: float = 0.0
    repetition: float = 0.0
    reason: str | None = None
    """Which rate it is left out for; None where it is not."""
    seconds_left: float = 0.0
    """Until it is tried again."""


class _Record:
    """The last pages of one target, and whether it is left out."""

    def __init__(self, most: int) -> None:
        self.last: deque[Routed] = deque(maxlen=most)
        self.counts: Counter[Routed] = Counter()
        self.reason: str | None = None
        self.until = 0.0

    def add(self, outcome: Routed) -> None:
        if len(self.last) == self.last.maxlen:
            self.counts[self.last[0]] -= 1
        self.last.append(outcome)
        self.counts[outcome] += 1

    def rates(self) -> dict[str, float]:
        """Return the part of the pages that went wrong, by the names that `Fallback` has."""
        count = max(1, len(self.last))
        words: dict[str, Routed] = {
            "errors": "error",
            "empty": "empty",
            "repetition": "repetition",
        }
        return {name: self.counts[word] / count for name, word in words.items()}

    def cut(self, most: int) -> None:
        """Look at so many pages from now on."""
        if most != self.last.maxlen:
            self.last = deque(self.last, maxlen=most)
            self.counts = Counter(self.last)

    def clear(self) -> None:
        self.last.clear()
        self.counts.clear()
        self.reason = None


class Guard:
    """Counts what came of pages, and leaves out targets whose rates passed their thresholds.

    It looks at the last pages of each target, not at a time: a target with little traffic is
    judged by as many pages as one with much.
    """

    def __init__(self, routes: Mapping[str, Route], clock: Callable[[], float]) -> None:
        """Take the routes by name, and seconds that never go back."""
        self._clock = clock
        self._routes: dict[str, Route] = {}
        self._records: dict[_Key, _Record] = {}
        self.keep(routes)

    def keep(self, routes: Mapping[str, Route]) -> None:
        """Take other routes; what is known of targets that are in them, too, stays."""
        before = {(name, card) for name, card, _ in self._records}
        records: dict[_Key, _Record] = {}
        for name, route in routes.items():
            rule = route.fallback or _USUAL
            for target in route.targets:
                record = self._records.get(_key(name, target)) or _Record(rule.pages)
                record.cut(rule.pages)
                records[_key(name, target)] = record
        self._routes, self._records = dict(routes), records
        for name, card in before - {(name, card) for name, card, _ in records}:
            meters.target_away(name, card, False)
        for name, route in self._routes.items():
            self._let_one_stay(name, route)
            for target in route.targets:
                self._show(name, target.card)

    def note(self, route: str, target: Target, outcome: Routed, count: int = 1) -> None:
        """Count pages of a target; leave it out where that was one too many.

        Pages that end while it is left out were begun before: they say nothing new.
        """
        record, rules = self._records.get(_key(route, target)), self._routes.get(route)
        if record is None or rules is None or record.reason is not None:
            return
        for _ in range(min(count, record.last.maxlen or 1)):
            record.add(outcome)
        if rules.fallback and outcome != "ok" and len(record.last) == record.last.maxlen:
            self._judge(route, target, record, rules.fallback)

    def is_away(self, route: str, target: Servers) -> bool:
        """Tell whether a target of a route is left out now."""
        record = self._records.get(_key(route, target))
        if record is None or record.reason is None:
            return False
        if self._clock() < record.until:
            return True
        self._back(route, target.card, record)
        return False

    def judges(self, route: str) -> bool:
        """Tell whether targets of a route are left out at all."""
        found = self._routes.get(route)
        return found is not None and found.fallback is not None

    def look(self) -> None:
        """Bring back the targets whose time is over, also where nobody asks for them."""
        for name, route in self._routes.items():
            for target in route.targets:
                self.is_away(name, target)

    def standing(self, route: str, target: Servers) -> Standing:
        """Return how a target of a route did of late."""
        record = self._records.get(_key(route, target))
        if record is None:
            return Standing()
        left = max(0.0, record.until - self._clock()) if record.reason else 0.0
        return Standing(len(record.last), **record.rates(), reason=record.reason, seconds_left=left)

    def _judge(self, route: str, target: Target, record: _Record, rule: Fallback) -> None:
        """Leave a target out where a rate passed its threshold and another one can answer."""
        for reason, rate in record.rates().items():
            most: float = getattr(rule, reason)
            if rate >= most and self._has_another(route, target):
                record.reason, record.until = reason, self._clock() + rule.seconds
                self._show(route, target.card)
                meters.fell_back(route, target.card, reason)
                facts = {"rate": round(rate, 3), "pages": len(record.last), "seconds": rule.seconds}
                _tell("target_away", route, target.card, reason, **facts)
                return

    def _has_another(self, route: str, target: Target) -> bool:
        return any(
            other.weight and _key(route, other) != _key(route, target)
            for other in self._routes[route].targets
            if not self.is_away(route, other)
        )

    def _let_one_stay(self, name: str, route: Route) -> None:
        """Bring all back where new routes, or other rules, leave none that could answer."""
        weighted = [target for target in route.targets if target.weight]
        if route.fallback is None or all(self.is_away(name, target) for target in weighted):
            for target in route.targets:
                record = self._records[_key(name, target)]
                if record.reason is not None:
                    self._back(name, target.card, record)

    def _back(self, route: str, card: str, record: _Record) -> None:
        reason = record.reason or ""
        record.clear()
        self._show(route, card)
        _tell("target_back", route, card, reason)

    def _show(self, route: str, card: str) -> None:
        """Show whether a target is left out; of several with one card, whether any is."""
        same = (key for key in self._records if key[:2] == (route, card))
        meters.target_away(route, card, any(self._records[key].reason for key in same))


def _key(route: str, target: Servers) -> _Key:
    return route, target.card, target.urls


def _tell(event: str, route: str, card: str, reason: str, **facts: object) -> None:
    log(__name__, event, level=logging.WARNING, route=route, card=card, reason=reason, **facts)
