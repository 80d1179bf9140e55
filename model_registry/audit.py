"""What is wrong with cards and routes, all of it: no name may dangle or mean two things."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from model_registry.card import Card
from model_registry.routing import DEFAULT, Route, Routes, Servers

_LEAST_ANSWER = 512
"""Tokens that must be left for the answer to the largest page; print on A4 takes some 900."""
_USEFUL_DPI = (72, 400)
"""No card needs a page coarser or finer than this."""
_USEFUL_EDGE = 256
"""Pixels of the longest edge; print is not legible below."""
_OURS = ("--host", "--port", "--api-key", "--served-model-name", "--model", "--max-model-len")
"""Arguments of ``vllm serve`` that `serving.command` or the operator gives."""
_REFUSED = ("--trust-request-mm-kwargs",)
"""Arguments that would let a request change how its picture is read."""


def check_cards(cards: list[Card], engines: list[str], parsers: list[str]) -> list[str]:
    """Return what is wrong with cards that can be read, each problem with the card's id."""
    by_id = {card.id: card for card in cards}
    return [
        *_unknown_leaves(cards, "engine", engines),
        *_unknown_leaves(cards, "parser", parsers),
        *(
            f"{card.id}: the name {DEFAULT!r} is reserved"
            for card in cards
            if DEFAULT in (card.id, *card.aliases)
        ),
        *(
            f"{card.id}: {problem}"
            for card in cards
            for problem in (
                *_sizes(card),
                *_prompts(card),
                *_regions(card, by_id),
                *_serve(card),
                *_render(card),
            )
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
        if route.fallback and sum(1 for target in route.targets if target.weight) == 1:
            problems.append(f"route {name}: fallback needs another target that has a weight")
    return problems


def _sizes(card: Card) -> list[str]:
    """Return what is wrong with the tokens of a model that a server runs."""
    if card.embedded:
        return []
    found = [
        f"{name} is missing; a model that a server runs needs it"
        for name in ("max_tokens", "context", "vision")
        if getattr(card, name) is None
    ]
    if card.context is None:
        return found
    if card.max_tokens is not None and card.max_tokens >= card.context:
        found.append(f"max_tokens {card.max_tokens} is not below context {card.context}")
    if card.vision and (left := card.context - card.vision.max_tokens) < _LEAST_ANSWER:
        found.append(f"the largest page leaves {left} of {card.context} tokens for the answer")
    return found


def _prompts(card: Card) -> list[str]:
    """Return what is wrong with prompts and with what names them."""
    found = [
        f"prompt {task} needs {gap}"
        for task, gap in (("locate", "{text}"), ("extract", "{skeleton}"))
        if gap not in card.prompts.get(task, gap)
    ]
    found += [
        f"retry {number} names the prompt {retry.prompt!r}, which does not exist"
        for number, retry in enumerate(card.retries, start=1)
        if retry.prompt is not None and retry.prompt not in card.prompts
    ]
    if card.annotation and card.annotation.by == "skeleton" and "extract" not in card.prompts:
        found.append("annotation by skeleton needs a prompt extract")
    return found


def _regions(card: Card, by_id: Mapping[str, Card]) -> list[str]:
    """Return what is wrong with the card that stands in where pictures are wanted."""
    if card.regions_card is None:
        return []
    if card.regions_card == card.id:
        return ["regions_card is the card itself"]
    other = by_id.get(card.regions_card)
    if other is None:
        return [f"regions_card: there is no card {card.regions_card!r}"]
    return [] if other.capabilities.regions else [f"regions_card: {other.id} knows no regions"]


def _serve(card: Card) -> list[str]:
    """Return what is wrong with the arguments of the server."""
    if card.embedded:
        return ["serve: an embedded model has no server"] if card.serve else []
    # vLLM takes --max_model_len and --port=1 as well.
    names = [part.split("=")[0].replace("_", "-") for part in card.serve if part.startswith("-")]
    return [f"serve: {name} is set by Recto" for name in names if name in _OURS] + [
        f"serve: {name} is not allowed: requests must not change how pictures are read"
        for name in names
        if name in _REFUSED
    ]


def _render(card: Card) -> list[str]:
    """Return what is wrong with the size of pages."""
    found = []
    least, most = _USEFUL_DPI
    if card.render.dpi is not None and not least <= card.render.dpi <= most:
        found.append(f"render.dpi {card.render.dpi} is outside {least} to {most}")
    if card.render.edge < _USEFUL_EDGE:
        found.append(f"render.edge {card.render.edge} is below {_USEFUL_EDGE} pixels")
    return found


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
            for target in _servers(route)
            if (problem := self._target_problem(target))
        ]
        named = [(f"alias {alias}", meant) for alias, meant in self._table.aliases.items()]
        found += [
            f"{where}: {self._missing(meant)}"
            for where, meant in [*named, ("default", self._table.default)]
            if meant not in self._known and not (meant == DEFAULT and where != "default")
        ]
        return found + self._annotator() + self._ambiguous()

    def addresses(self, names: Iterable[str]) -> list[str]:
        """Return what is wrong with addresses that settings give to cards, by id or alias."""
        found = []
        named: dict[str, str] = {}
        for name in names:
            card = self._cards.get(self._card_aliases.get(name, name))
            if card is None:
                found.append(self._missing(name))
            elif card.embedded:
                found.append(f"{name} runs inside Recto and takes no address")
            elif card.id in self._table.routes:
                found.append(
                    f"{card.id} has an address here, or by --with-vllm, and a route of this name "
                    "in the routes file; remove one"
                )
            elif named.setdefault(card.id, name) != name:
                found.append(f"{named[card.id]} and {name} are the same card; remove one")
        return [f"RECTO_ENGINE_URLS: {problem}" for problem in found]

    def _annotator(self) -> list[str]:
        name = self._table.annotator
        if not name:
            return []
        if name not in self._known:
            return [f"annotator: {self._missing(name)}"]
        route = self._table.routes.get(self._final(name))
        cards = [target.card for target in route.targets] if route else [self._final(name)]
        return [
            f"annotator: {card} cannot annotate"
            for card in cards
            if card in self._cards and self._cards[card].annotation is None
        ]

    def _target_problem(self, target: Servers) -> str | None:
        card = self._cards.get(target.card)
        if card is None:
            hint = "; it is hidden" if target.card in self._hidden else ""
            meant = self._card_aliases.get(target.card)
            hint = f"; did you mean {meant!r}?" if meant else hint
            return f"there is no card {target.card!r}{hint}"
        if not card.embedded and not target.urls:
            return f"{target.card} runs on a server, and the target names none: give it urls"
        if card.embedded and target.urls:
            return f"{target.card} runs inside Recto and takes no urls"
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


def _servers(route: Route) -> list[Servers]:
    return [*route.targets, *route.shadow]
