"""The face of the models: which names exist, and who answers to one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from model_registry.card import Card, CardError, read_cards
from model_registry.routing import DEFAULT, Route, Routes, Target, pick, read_routes


class UnknownModelError(LookupError):
    """No model of this name; ``names`` lists those that exist."""

    def __init__(self, name: str, names: list[str]) -> None:
        self.names = names
        super().__init__(f"There is no model {name!r}. Models here: {', '.join(names)}.")


class UnservedModelError(LookupError):
    """The model has a card, but neither a route nor an engine of its own runs it."""

    def __init__(self, name: str, names: list[str]) -> None:
        self.names = names
        super().__init__(
            f"The model {name!r} is known, but no server runs it: give it a route with a URL. "
            f"Models here: {', '.join(names)}."
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
        meant = self._routes.aliases.get(asked, asked)
        meant = self._routes.default if meant == DEFAULT else meant
        meant = self._aliases.get(meant, meant)
        if meant in self._served:
            target = pick(self._served[meant], key)
            return Choice(asked, self._cards[target.card], target.urls)
        if meant in self._cards:
            raise UnservedModelError(asked, self.names())
        raise UnknownModelError(asked, self.names())

    def names(self) -> list[str]:
        """Return the public names that answer, without aliases."""
        return sorted(self._served)

    def aliases(self, name: str) -> list[str]:
        """Return the other names of a public name."""
        own = [alias for alias, card in self._aliases.items() if card == name]
        default = self._routes.default
        routed = [
            alias
            for alias, meant in self._routes.aliases.items()
            if (default if meant == DEFAULT else meant) == name
        ]
        return sorted({*own, *routed})

    def annotators(self) -> list[str]:
        """Return the public names whose every target can annotate."""
        return [
            name
            for name in self.names()
            if all(
                self._cards[target.card].capabilities.annotation
                for target in self._served[name].targets
            )
        ]

    def cards(self) -> list[Card]:
        """Return the cards that some public name may answer with."""
        served = {target.card for route in self._served.values() for target in route.targets}
        return [card for card in self._cards.values() if card.id in served]


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
    problems: list[str] = []
    cards: list[Card] = []
    table: Routes | None = None
    try:
        cards = read_cards(models)
    except CardError as error:
        problems += error.problems
    try:
        table = read_routes(routes)
    except CardError as error:
        problems += error.problems
    problems += _unknown_leaves(cards, "engine", sorted(engines))
    problems += _unknown_leaves(cards, "parser", sorted(parsers))
    if table and cards:
        problems += _broken_routes(cards, table)
    if problems or table is None:
        raise CardError(problems)
    return Registry(cards, table, show_hidden=show_hidden)


def _unknown_leaves(cards: list[Card], field: str, known: list[str]) -> list[str]:
    return [
        f"{card.id}: {field} {getattr(card, field)!r} does not exist; known: {', '.join(known)}"
        for card in cards
        if getattr(card, field) not in known
    ]


def _broken_routes(cards: list[Card], table: Routes) -> list[str]:
    by_id = {card.id: card for card in cards}
    names = {*by_id, *table.routes, *(alias for card in cards for alias in card.aliases)}
    problems = []
    for name, route in table.routes.items():
        for target in route.targets:
            card = by_id.get(target.card)
            if card is None:
                problems.append(f"route {name}: there is no card {target.card!r}")
            elif not card.embedded and not target.urls:
                problems.append(f"route {name}: {target.card} runs on a server and needs urls")
    for alias, meant in {**table.aliases, "(default)": table.default}.items():
        if meant not in names and not (meant == DEFAULT and alias != "(default)"):
            problems.append(f"alias {alias}: there is no model or route {meant!r}")
    if table.annotator and table.annotator not in names:
        problems.append(f"annotator: there is no model or route {table.annotator!r}")
    return problems
