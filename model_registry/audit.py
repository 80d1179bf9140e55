"""What is wrong with cards and routes, all of it: no name may dangle or mean two things."""

from __future__ import annotations

from model_registry.card import Card
from model_registry.routing import DEFAULT, Routes, Target


def check_cards(cards: list[Card], engines: list[str], parsers: list[str]) -> list[str]:
    """Return what is wrong with cards that can be read: unknown leaves, the reserved name."""
    return [
        *_unknown_leaves(cards, "engine", engines),
        *_unknown_leaves(cards, "parser", parsers),
        *(
            f"{card.id}: the name {DEFAULT!r} is reserved"
            for card in cards
            if DEFAULT in (card.id, *card.aliases)
        ),
    ]


def check_routes(table: Routes) -> list[str]:
    """Return what is wrong with routes whatever the cards are."""
    problems = [
        f"{kind} {DEFAULT}: the name {DEFAULT!r} is reserved"
        for kind, names in (("route", table.routes), ("alias", table.aliases))
        if DEFAULT in names
    ]
    for name, route in table.routes.items():
        if not any(target.weight for target in route.targets):
            problems.append(f"route {name}: the weights are all 0, so nothing would be chosen")
        if route.sticky == "file":
            problems.append(f"route {name}: sticky: file is not supported yet; use org or request")
    if table.annotator:
        problems.append("annotator: not supported yet; remove it")
    return problems


def _unknown_leaves(cards: list[Card], field: str, known: list[str]) -> list[str]:
    return [
        f"{card.id}: {field} {getattr(card, field)!r} does not exist; known: {', '.join(known)}"
        for card in cards
        if getattr(card, field) not in known
    ]


class Names:
    """Checks the names of routes against the cards that are served."""

    def __init__(self, cards: list[Card], table: Routes, *, show_hidden: bool) -> None:
        self._table = table
        self._cards = {card.id: card for card in cards if show_hidden or not card.hidden}
        self._hidden = {
            name
            for card in cards
            if card.id not in self._cards
            for name in (card.id, *card.aliases)
        }
        self._card_aliases = {
            alias: card.id for card in self._cards.values() for alias in card.aliases
        }
        self._known = {*self._cards, *table.routes, *self._card_aliases}

    def problems(self) -> list[str]:
        """Return every problem: targets, then what names point at, then names with two meanings."""
        found = [
            f"route {name}: {problem}"
            for name, route in self._table.routes.items()
            for target in route.targets
            if (problem := self._target_problem(target))
        ]
        named = [(f"alias {alias}", meant) for alias, meant in self._table.aliases.items()]
        found += [
            f"{where}: {self._missing(meant)}"
            for where, meant in [*named, ("default", self._table.default)]
            if meant not in self._known and not (meant == DEFAULT and where != "default")
        ]
        if self._table.annotator and self._table.annotator not in self._known:
            found.append(f"annotator: {self._missing(self._table.annotator)}")
        return found + self._ambiguous()

    def _target_problem(self, target: Target) -> str | None:
        card = self._cards.get(target.card)
        if card is None:
            hint = "; it is hidden" if target.card in self._hidden else ""
            return f"there is no card {target.card!r}{hint}"
        if not card.embedded and not target.urls:
            return f"{target.card} runs on a server and needs urls"
        return None

    def _missing(self, name: str) -> str:
        hint = "; it is hidden" if name in self._hidden else ""
        return f"there is no model or route {name!r}{hint}"

    def _ambiguous(self) -> list[str]:
        """Return the aliases that are also the name of something else."""
        routed = {
            alias: self._final(meant)
            for alias, meant in self._table.aliases.items()
            if alias != DEFAULT
        }
        own = {name: name for name in (*self._table.routes, *self._cards)}
        found = [
            f"alias {alias}: this is the name of {taken!r} already, and would mean {meant!r}"
            for alias, meant in routed.items()
            if (taken := (self._card_aliases | own).get(alias, meant)) != meant
        ]
        return found + [
            f"{card}: its alias {alias!r} is the name of a route"
            for alias, card in self._card_aliases.items()
            if alias in self._table.routes
        ]

    def _final(self, name: str) -> str:
        meant = self._table.default if name == DEFAULT else name
        return self._card_aliases.get(meant, meant)
