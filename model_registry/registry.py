"""The face of the models: which names exist, and who answers to one."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from model_registry import audit
from model_registry.card import Card, CardError, scan_cards
from model_registry.routing import (
    DEFAULT,
    Route,
    Routes,
    Servers,
    Shadow,
    Sticky,
    Target,
    pick,
    plain_url,
    read_routes,
)

_LONGEST_QUOTE = 100
"""Characters of a name that a message repeats: a client may send a whole data URI as model."""


class UnknownModelError(LookupError):
    """No model of this name; ``names`` lists those that exist."""

    def __init__(self, name: str, names: list[str]) -> None:
        self.names = names
        super().__init__(f"There is no model {_quote(name)}. Models here: {', '.join(names)}.")


class UnservedModelError(LookupError):
    """The model has a card, but neither a route nor an engine of its own runs it."""

    def __init__(self, name: str, names: list[str], routes: list[str]) -> None:
        self.names = names
        why = "no server runs it: name one in RECTO_ENGINE_URLS or in a route"
        if routes:
            why = f"it answers as {', '.join(routes)} here"
        super().__init__(
            f"The model {_quote(name)} is known, but {why}. Models here: {', '.join(names)}."
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """Who answers a request."""

    name: str
    """The public name, as it was asked for; the default's where none was."""
    card: Card
    urls: tuple[str, ...] = ()
    """Base URLs of the replicas, as they are now; none for an embedded engine."""
    route: str = ""
    """The name of the route, which is the card's id where the card has none of its own."""
    target: Target | None = None
    """What the route names."""
    shadows: tuple[Shadow, ...] = ()
    """Who reads some of the pages, too."""
    missing: str | None = None
    """The card that knows where pictures are, where they are wanted and no server runs it."""

    @property
    def named(self) -> tuple[str, ...]:
        """Base URLs as the route names them: what they stand for may change while pages wait."""
        return self.target.urls if self.target else self.urls


Routed = Literal["ok", "error", "empty", "repetition"]
"""What came of a page: read well, not answered, read as empty though it has print, or repeated."""


class Steering:
    """What is known of traffic beside the routes; this one knows nothing."""

    def note(self, choice: Choice, outcome: Routed, count: int = 1) -> None:
        """Take note of what came of pages."""
        del choice, outcome, count

    def is_away(self, route: str, target: Target) -> bool:
        """Tell whether a target of a route is left out now."""
        del route, target
        return False

    def addresses(self, urls: tuple[str, ...]) -> tuple[str, ...]:
        """Return the servers that base URLs stand for now; at least one where there is a URL."""
        return tuple(map(plain_url, urls))


class Registry:
    """Cards and routes together. Build it with `load`, which checks them."""

    def __init__(
        self,
        cards: Iterable[Card],
        routes: Routes,
        *,
        show_hidden: bool = False,
        urls: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.steering = Steering()
        """Asked at every choice; who knows more puts something else here."""
        self._cards = {card.id: card for card in cards if show_hidden or not card.hidden}
        self._aliases = {alias: card.id for card in self._cards.values() for alias in card.aliases}
        self._routes = routes
        known = {self._aliases.get(name, name): found for name, found in (urls or {}).items()}
        self._served = {
            card.id: Route(targets=(Target(card=card.id, urls=known.get(card.id, ())),))
            for card in self._cards.values()
            if card.embedded or card.id in known
        } | routes.routes

    def choose(self, name: str | None, key: str, *, pictures: bool = False) -> Choice:
        """Return who answers to a public name, an alias, or no name at all.

        Args:
            name: what the caller asked for; None or empty means the default.
            key: keeps its choice while the weights stay.
            pictures: the places of pictures are wanted, so a card's ``regions_card`` takes its
                place where a server runs it.

        Raises:
            UnknownModelError: nothing has this name.
            UnservedModelError: a card has it, but nothing runs it.
        """
        asked = name or self._routes.default
        meant = self._meaning(asked)
        if meant in self._served:
            choice = self._choose(asked, meant, key)
            return self._with_pictures(choice, key) if pictures else choice
        if meant in self._cards:
            routes = [name for name in self.names() if self._cards[meant] in self.cards_of(name)]
            raise UnservedModelError(asked, self.names(), routes)
        raise UnknownModelError(asked, self.names())

    def sticky(self, name: str | None) -> Sticky:
        """Return what the key of a choice should be made of; ``org`` where nothing has the name."""
        route = self._served.get(self._meaning(name or self._routes.default))
        return route.sticky if route else "org"

    def adopt(self, other: Registry) -> None:
        """Become what another registry is, at once; whoever holds this one sees the change."""
        self._cards, self._aliases = other._cards, other._aliases
        self._routes, self._served = other._routes, other._served

    def names(self) -> list[str]:
        """Return the public names that answer, without aliases."""
        return sorted(self._served)

    def aliases(self, name: str) -> list[str]:
        """Return the other names of a public name."""
        others = {*self._aliases, *self._routes.aliases} - {name}
        return sorted(other for other in others if self._meaning(other) == name)

    def annotator(self, key: str) -> Choice | None:
        """Return who annotates for models that cannot, where the routes name somebody."""
        return self.choose(self._routes.annotator, key) if self._routes.annotator else None

    def annotators(self) -> list[str]:
        """Return the public names that can annotate: those whose every target can."""
        return [
            name
            for name in self.names()
            if all(card.annotation is not None for card in self.cards_of(name))
        ]

    def routes(self) -> dict[str, Route]:
        """Return the routes by their names, those that cards without one have among them."""
        return {name: self._served[name] for name in self.names()}

    def card(self, name: str) -> Card:
        """Return the card with an id.

        Raises:
            KeyError: there is none.
        """
        return self._cards[name]

    def every_card(self) -> list[Card]:
        """Return all cards, also those that nothing runs now: another routes file may."""
        return [*self._cards.values()]

    def cards(self) -> list[Card]:
        """Return the cards that some public name may answer with, or that read as shadows."""
        return [self._cards[card] for card in self.servers()]

    def servers(self) -> dict[str, tuple[str, ...]]:
        """Return the addresses that run each card that is served; none for an embedded one."""
        found: dict[str, tuple[str, ...]] = {}
        for route in self._served.values():
            everyone: list[Servers] = [*route.targets, *route.shadow]
            for one in everyone:
                urls = self.steering.addresses(one.urls)
                found[one.card] = (*found.get(one.card, ()), *urls)
        return {card: tuple(dict.fromkeys(found[card])) for card in self._cards if card in found}

    def cards_of(self, name: str) -> list[Card]:
        """Return the cards that one of `names` may answer with, in the order of its targets."""
        return [self._cards[target.card] for target in self._served[name].targets]

    def _choose(self, asked: str, name: str, key: str) -> Choice:
        """Return who answers for a route, asked for by some name of it."""
        route = self._served[name]
        key = secrets.token_hex() if route.sticky == "request" else key
        target = pick(route, key, lambda one: self.steering.is_away(name, one))
        urls = self.steering.addresses(target.urls)
        return Choice(asked, self._cards[target.card], urls, name, target, route.shadow)

    def _with_pictures(self, choice: Choice, key: str) -> Choice:
        better = choice.card.regions_card
        if better is None:
            return choice
        if better not in self._served:
            return replace(choice, missing=better)
        return replace(self.choose(better, key), name=choice.name)

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
    urls: Mapping[str, tuple[str, ...]] | None = None,
) -> Registry:
    """Read and check cards and routes.

    Args:
        models: folder of cards.
        routes: the routes file.
        engines: names of the engines that exist.
        parsers: names of the parsers that exist.
        show_hidden: serve the cards marked hidden.
        urls: base URLs of servers by card id or alias; such a card needs no route.

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
        names = audit.Names(cards, table, show_hidden=show_hidden)
        problems += names.problems() + names.addresses(urls or ())
    if problems or table is None:
        raise CardError(problems)
    registry = Registry(cards, table, show_hidden=show_hidden, urls=urls)
    try:
        registry.annotator("")
    except UnservedModelError as error:
        raise CardError([f"annotator: {error}"]) from error
    return registry


def _quote(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_QUOTE else name[:_LONGEST_QUOTE] + "…")
