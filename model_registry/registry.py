"""The face of the models: which names exist, and who answers to one."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from model_registry import audit
from model_registry.card import Card, CardError, scan_cards
from model_registry.routing import DEFAULT, Route, Routes, Target, pick, read_routes

_LONGEST_QUOTE = 100
"""Characters of a name that a message repeats: a client may send a whole data URI as model."""


class UnknownModelError(LookupError):
    """No model of this name; ``names`` lists those that exist."""

    def __init__(self, name: str, names: list[str]) -> None:
        self.names = names
        super().__init__(f"There is no model {_quote(name)}. Models here: {', '.join(names)}.")


class UnservedModelError(LookupError):
    """The model has a card, but neither a route nor an engine of its own runs it."""

    def __init__(self, name: str, names: list[str]) -> None:
        self.names = names
        super().__init__(
            f"The model {_quote(name)} is known, but no server runs it: "
            f"give it a route with a URL. Models here: {', '.join(names)}."
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """Who answers a request."""

    name: str
    """The public name, as it was asked for; the default's where none was."""
    card: Card
    urls: tuple[str, ...] = ()
    """Base URLs of the replicas; none for an embedded engine."""


class Registry:
    """Cards and routes together. Build it with `load`, which checks them."""

    def __init__(self, cards: Iterable[Card], routes: Routes, *, show_hidden: bool = False) -> None:
        self._cards = {card.id: card for card in cards if show_hidden or not card.hidden}
        self._aliases = {alias: card.id for card in self._cards.values() for alias in card.aliases}
        self._routes = routes
        self._served = {
            card.id: Route(targets=(Target(card=card.id),))
            for card in self._cards.values()
            if card.embedded
        } | routes.routes

    def choose(self, name: str | None, key: str) -> Choice:
        """Return who answers to a public name, an alias, or no name at all.

        Args:
            name: what the caller asked for; None or empty means the default.
            key: keeps its choice while the weights stay.

        Raises:
            UnknownModelError: nothing has this name.
            UnservedModelError: a card has it, but nothing runs it.
        """
        asked = name or self._routes.default
        meant = self._meaning(asked)
        if meant in self._served:
            route = self._served[meant]
            target = pick(route, secrets.token_hex() if route.sticky == "request" else key)
            return Choice(asked, self._cards[target.card], target.urls)
        if meant in self._cards:
            raise UnservedModelError(asked, self.names())
        raise UnknownModelError(asked, self.names())

    def names(self) -> list[str]:
        """Return the public names that answer, without aliases."""
        return sorted(self._served)

    def aliases(self, name: str) -> list[str]:
        """Return the other names of a public name."""
        others = {*self._aliases, *self._routes.aliases} - {name}
        return sorted(other for other in others if self._meaning(other) == name)

    def annotators(self) -> list[str]:
        """Return the public names that can annotate.

        Those whose every target can; all of them, where the routes name an annotator (`load`
        refuses that while nothing uses it).
        """
        if self._routes.annotator:
            return self.names()
        return [
            name
            for name in self.names()
            if all(card.capabilities.annotation for card in self.cards_of(name))
        ]

    def cards(self) -> list[Card]:
        """Return the cards that some public name may answer with."""
        served = {target.card for route in self._served.values() for target in route.targets}
        return [card for card in self._cards.values() if card.id in served]

    def cards_of(self, name: str) -> list[Card]:
        """Return the cards that one of `names` may answer with, in the order of its targets."""
        return [self._cards[target.card] for target in self._served[name].targets]

    def _meaning(self, name: str) -> str:
        """Return the card id or route name behind a name, which may be an alias of either."""
        meant = self._routes.aliases.get(name, name)
        meant = self._routes.default if meant == DEFAULT else meant
        return self._aliases.get(meant, meant)


def load(
    models: Path,
    routes: Path,
    *,
    engines: Iterable[str],
    parsers: Iterable[str],
    show_hidden: bool = False,
) -> Registry:
    """Read and check cards and routes.

    Args:
        models: folder of cards.
        routes: the routes file.
        engines: names of the engines that exist.
        parsers: names of the parsers that exist.
        show_hidden: serve the cards marked hidden.

    Raises:
        CardError: with every problem of every file.
    """
    table: Routes | None = None
    cards, problems = scan_cards(models)
    every_card = not problems
    problems += audit.check_cards(cards, sorted(engines), sorted(parsers))
    try:
        table = read_routes(routes)
    except CardError as error:
        problems += error.problems
    if table:
        problems += audit.check_routes(table)
    if table and every_card:  # a card that cannot be read would be missed wherever it is named
        problems += audit.Names(cards, table, show_hidden=show_hidden).problems()
    if problems or table is None:
        raise CardError(problems)
    return Registry(cards, table, show_hidden=show_hidden)


def _quote(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_QUOTE else name[:_LONGEST_QUOTE] + "…")
