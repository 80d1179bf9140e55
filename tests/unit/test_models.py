"""Cards, routes and the choice between them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from model_registry.card import Card, CardError, read_cards
from model_registry.registry import Registry, UnknownModelError, UnservedModelError, load
from model_registry.routing import Route, Routes, Target, pick

CARD = """
id: {id}
engine: echo
parser: plain
name: A model
description: It reads.
licence: MIT
source: here
"""


def make_card(name: str, **facts: object) -> Card:
    plain = {"engine": "echo", "parser": "plain", "name": "n", "description": "d"}
    return Card.model_validate({"id": name, **plain, "licence": "MIT", "source": "s", **facts})


def make_registry(**routes: object) -> Registry:
    cards = [
        make_card("cpu", embedded=True, aliases=("small",)),
        make_card("org/vlm", capabilities={"annotation": True}),
        make_card("fake", embedded=True, hidden=True),
    ]
    return Registry(cards, Routes.model_validate({"default": "cpu", **routes}))


@pytest.mark.parametrize("name", [None, "", "cpu", "small", "mistral-ocr-latest"])
def test_names_of_the_default(name: str | None) -> None:
    registry = make_registry(aliases={"mistral-ocr-latest": "default"})
    choice = registry.choose(name, "org")
    assert choice.card.id == "cpu"
    assert choice.name == (name or "cpu")
    assert registry.aliases("cpu") == ["mistral-ocr-latest", "small"]


def test_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(UnknownModelError, match="Models here: cpu"):
        make_registry().choose("gpt-4", "org")


def test_a_card_without_a_server_is_known_and_not_served() -> None:
    with pytest.raises(UnservedModelError, match="no server runs it"):
        make_registry().choose("org/vlm", "org")
    assert make_registry().names() == ["cpu"]
    assert make_registry().annotators() == []


def test_hidden_cards_need_a_setting() -> None:
    with pytest.raises(UnknownModelError):
        make_registry().choose("fake", "org")


def test_a_route_serves_a_card() -> None:
    target = {"card": "org/vlm", "urls": ["http://gpu:8000/v1"]}
    registry = make_registry(routes={"best": {"targets": [target]}})
    choice = registry.choose("best", "org")
    assert (choice.name, choice.card.id, choice.urls) == (
        "best",
        "org/vlm",
        ("http://gpu:8000/v1",),
    )
    assert registry.annotators() == ["best"]


def test_picks_follow_the_weights_and_only_the_changed_target_moves() -> None:
    def picks(weight: int) -> dict[str, str]:
        targets = (Target(card="a", weight=weight), Target(card="b", weight=30), Target(card="c"))
        route = Route(targets=targets)
        return {str(key): pick(route, str(key)).card for key in range(20_000)}

    before, after = picks(70), picks(35)
    shares = Counter(before.values())
    assert abs(shares["a"] / 20_000 - 70 / 200) < 0.015
    assert abs(shares["b"] / 20_000 - 30 / 200) < 0.015
    moved = {key for key in before if before[key] != after[key]}
    assert moved
    assert all(before[key] == "a" for key in moved)


def test_weight_zero_gets_nothing() -> None:
    route = Route(targets=(Target(card="a", weight=0), Target(card="b", weight=1)))
    assert {pick(route, str(key)).card for key in range(500)} == {"b"}


def test_check_lists_every_problem_of_every_file(tmp_path: Path) -> None:
    cards = tmp_path / "models"
    cards.mkdir()
    (cards / "a.yaml").write_text(CARD.format(id="a") + "enginee: x\nrender: {edge: 3}\n")
    (cards / "b.yaml").write_text(CARD.format(id="b").replace("echo", "nothing"))
    (cards / "c.yaml").write_text("id: [")
    (tmp_path / "routes.yaml").write_text("default: nobody\nroutes: {x: {targets: []}}\n")
    with pytest.raises(CardError) as caught:
        load(cards, tmp_path / "routes.yaml", engines=["echo"], parsers=["plain"])
    problems = "\n".join(caught.value.problems)
    for part in ("a.yaml: enginee", "a.yaml: render.edge", "c.yaml: not readable", "targets"):
        assert part in problems


def test_check_finds_broken_routes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CARD.format(id="a"))
    (tmp_path / "b.yaml").write_text(CARD.format(id="b") + "aliases: [a]\nparser: odd\n")
    routes = tmp_path / "routes"
    routes.write_text(
        "default: nobody\naliases: {x: gone}\nannotator: none\n"
        "routes: {y: {targets: [{card: a}, {card: zz}]}}\n"
    )
    with pytest.raises(CardError) as caught:
        load(tmp_path, routes, engines=["echo"], parsers=["plain"])
    problems = "\n".join(caught.value.problems)
    assert "the name 'a' belongs to a" in problems
    (tmp_path / "b.yaml").write_text(CARD.format(id="b").replace("plain", "odd"))
    with pytest.raises(CardError) as caught:
        load(tmp_path, routes, engines=["echo"], parsers=["plain"])
    problems = "\n".join(caught.value.problems)
    for part in (
        "b: parser 'odd' does not exist",
        "a runs on a server and needs urls",
        "no card 'zz'",
        "alias x",
        "alias (default)",
        "annotator",
    ):
        assert part in problems, part


def test_the_cards_that_ship_are_right() -> None:
    cards = read_cards(Path(__file__).resolve().parents[2] / "configs" / "models")
    assert {"rapidocr", "echo"} <= {card.id for card in cards}
    assert all(card.hidden == (card.engine == "echo") for card in cards)
