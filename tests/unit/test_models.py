"""Cards, routes and the choice between them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from model_registry.card import Card, CardError, read_cards
from model_registry.registry import Registry, Steering, UnknownModelError, UnservedModelError, load
from model_registry.routing import Route, Routes, Target, pick, place, plain_url, read_routes

CARD = """
id: {id}
engine: echo
parser: plain
name: A model
description: It reads.
licence: MIT
source: here
"""


VISION = "vision: {rule: patches, side: 28, rounding: up, max_tokens: 2000}"
SERVER = f"max_tokens: 500\ncontext: 4096\n{VISION}\n"
ANNOTATES = "annotation: {by: chat}\n"


def make_card(name: str, **facts: object) -> Card:
    plain = {"engine": "echo", "parser": "plain", "name": "n", "description": "d"}
    return Card.model_validate({"id": name, **plain, "licence": "MIT", "source": "s", **facts})


def make_registry(**routes: object) -> Registry:
    cards = [
        make_card("cpu", embedded=True, aliases=("small",)),
        make_card("org/vlm", annotation={"by": "chat"}, regions_card="org/boxes"),
        make_card("org/boxes"),
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


def test_a_card_that_only_a_route_runs_names_the_route() -> None:
    target = {"card": "org/vlm", "urls": ["http://gpu:8000/v1"]}
    registry = make_registry(routes={"best": {"targets": [target]}})
    with pytest.raises(UnservedModelError, match="it answers as best here"):
        registry.choose("org/vlm", "org")


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


PICKS = 100_000


def picks(*targets: Target, away: str = "") -> list[str]:
    """Return the card of each of many keys."""
    route = Route(targets=targets)
    return [pick(route, str(key), lambda one: one.card == away).card for key in range(PICKS)]


def weighted(**weights: int) -> tuple[Target, ...]:
    return tuple(Target(card=card, weight=weight) for card, weight in weights.items())


def test_picks_follow_the_weights_and_only_the_changed_target_moves() -> None:
    before, after = picks(*weighted(a=70, b=30, c=100)), picks(*weighted(a=35, b=30, c=100))
    shares = Counter(before)
    for card, share in (("a", 0.35), ("b", 0.15), ("c", 0.5)):
        assert abs(shares[card] / PICKS - share) < 0.01  # a percentage point
    moved = {(old, new) for old, new in zip(before, after, strict=True) if old != new}
    assert moved == {("a", "b"), ("a", "c")}


def test_a_target_that_is_left_out_moves_its_own_keys_only() -> None:
    before, after = picks(*weighted(a=70, b=30)), picks(*weighted(a=70, b=30), away="b")
    assert set(after) == {"a"}
    assert picks(*weighted(a=1), away="a") == ["a"] * PICKS  # better than nobody
    moved = {(old, new) for old, new in zip(before, after, strict=True) if old != new}
    assert moved == {("b", "a")}


def test_one_card_may_be_two_targets() -> None:
    targets = (
        Target(card="a", urls=("http://old:8000/v1",), weight=75),
        Target(card="a", urls=("http://new:8000/v1",), weight=25),
    )
    route = Route(targets=targets)
    shares = Counter(pick(route, str(key)).urls for key in range(PICKS))
    assert abs(shares[targets[1].urls] / PICKS - 0.25) < 0.01


def test_weight_zero_gets_nothing() -> None:
    assert set(picks(*weighted(a=0, b=1))) == {"b"}


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
        "a runs on a server, and the target names none: give it urls",
        "no card 'zz'",
        "alias x",
        "default: there is no model or route 'nobody'",
        "annotator: there is no model or route 'none'",
    ):
        assert part in problems, part


def problems_of(folder: Path, routes: str, *, show_hidden: bool = False, **cards: str) -> list[str]:
    """Return what `load` says to cards by id (more lines for each) and a routes file."""
    models = folder / "models"
    models.mkdir()
    for name, more in cards.items():
        (models / f"{name}.yaml").write_text(CARD.format(id=name) + more)
    (folder / "routes.yaml").write_text(routes)
    try:
        load(
            models,
            folder / "routes.yaml",
            engines=["echo"],
            parsers=["plain"],
            show_hidden=show_hidden,
        )
    except CardError as error:
        return error.problems
    return []


HIDDEN = "embedded: true\nhidden: true\naliases: [mock]\n"
TO_HIDDEN = """
default: {name}
aliases: {{x: {name}}}
routes: {{y: {{targets: [{{card: fake}}]}}}}
"""


@pytest.mark.parametrize("name", ["fake", "mock"])
def test_routes_are_checked_against_the_cards_that_are_served(tmp_path: Path, name: str) -> None:
    problems = problems_of(tmp_path, TO_HIDDEN.format(name=name), fake=HIDDEN)
    assert problems == [
        "route y: there is no card 'fake'; it is hidden",
        f"alias x: there is no model or route '{name}'; it is hidden",
        f"default: there is no model or route '{name}'; it is hidden",
    ]


def test_hidden_cards_may_be_routed_to_when_they_are_shown(tmp_path: Path) -> None:
    assert problems_of(tmp_path, TO_HIDDEN.format(name="mock"), show_hidden=True, fake=HIDDEN) == []


@pytest.mark.parametrize(
    ("routes", "problem"),
    [
        ("default: a\naliases: {a: b}", "alias a: this is the name of 'a' already"),
        ("default: a\naliases: {small: b}", "alias small: this is the name of 'a' already"),
        (
            "default: a\naliases: {r: default}\nroutes: {r: {targets: [{card: b}]}}",
            "alias r: this is the name of 'r' already, and would mean 'a'",
        ),
        (
            "default: a\nroutes: {small: {targets: [{card: b}]}}",
            "a: its alias 'small' is the name of a route",
        ),
        (
            "default: a\nroutes: {default: {targets: [{card: b}]}}",
            "route default: the name 'default' is reserved",
        ),
        ("default: a\naliases: {default: b}", "alias default: the name 'default' is reserved"),
        (
            "default: a\nroutes: {r: {targets: [{card: a, weight: 0}, {card: b, weight: 0}]}}",
            "route r: the weights are all 0",
        ),
        (
            "default: a\nroutes: {r: {fallback: {errors: .2}, targets: [{card: a}]}}",
            "route r: fallback needs another target that has a weight",
        ),
        ("default: a\nannotator: b", "annotator: b cannot annotate"),
        ("default: a\nannotator: gone", "annotator: there is no model or route 'gone'"),
    ],
)
def test_routes_that_would_not_do_what_they_say(tmp_path: Path, routes: str, problem: str) -> None:
    found = problems_of(
        tmp_path, routes, a="embedded: true\naliases: [small]\n", b="embedded: true\n"
    )
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_an_alias_may_repeat_what_is_so_anyway(tmp_path: Path) -> None:
    routes = "default: small\naliases: {a: default, small: a, latest: default}"
    assert problems_of(tmp_path, routes, a="embedded: true\naliases: [small]\n") == []


def test_no_card_is_called_default(tmp_path: Path) -> None:
    found = problems_of(
        tmp_path, "default: a", a="embedded: true\n", b="embedded: true\naliases: [default]\n"
    )
    assert found == ["b: the name 'default' is reserved"]


def test_what_cannot_be_read_is_a_problem_and_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "models" / "b.yaml").mkdir(parents=True)
    (tmp_path / "models" / "c.yaml").write_text("name: 2026-02-30\n")
    (tmp_path / "models" / "d.yaml").write_text(
        CARD.format(id="d").replace("plain", "odd") + "embedded: true\n"
    )
    (tmp_path / "routes.yaml").mkdir()
    with pytest.raises(CardError) as caught:
        load(tmp_path / "models", tmp_path / "routes.yaml", engines=["echo"], parsers=["plain"])
    assert caught.value.problems == [
        "b.yaml: not readable: Is a directory",
        "c.yaml: not readable as YAML: day is out of range for month",
        "d: parser 'odd' does not exist; known: plain",
        "routes.yaml: not readable: Is a directory",
    ]


def test_a_message_repeats_only_the_beginning_of_a_long_name() -> None:
    with pytest.raises(UnknownModelError) as caught:
        make_registry().choose("data:" + "a" * 95 + "SECRET", "org")
    assert str(caught.value) == f"There is no model 'data:{'a' * 95}…'. Models here: cpu."
    with pytest.raises(UnknownModelError, match=f"'{'a' * 100}'"):
        make_registry().choose("a" * 100, "org")


def test_a_route_may_choose_anew_for_each_request() -> None:
    targets = [{"card": "cpu"}, {"card": "org/vlm", "urls": ["http://gpu/v1"]}]

    def answers(sticky: str) -> set[str]:
        registry = make_registry(routes={"mix": {"sticky": sticky, "targets": targets}})
        return {registry.choose("mix", "org").card.id for _ in range(100)}

    assert len(answers("org")) == 1
    assert answers("request") == {"cpu", "org/vlm"}


def test_the_routes_name_an_annotator() -> None:
    assert make_registry().annotator("org") is None
    target = {"card": "org/vlm", "urls": ["http://gpu:8000/v1"]}
    registry = make_registry(annotator="chat", routes={"chat": {"targets": [target]}})
    found = registry.annotator("org")
    assert found is not None
    assert (found.card.id, found.urls) == ("org/vlm", ("http://gpu:8000/v1",))


def test_an_annotator_that_no_server_runs_is_a_problem(tmp_path: Path) -> None:
    found = problems_of(
        tmp_path, "default: a\nannotator: b", a="embedded: true\n", b=SERVER + ANNOTATES
    )
    assert len(found) == 1
    assert found[0].startswith("annotator: The model 'b' is known, but no server runs it")


def test_an_address_in_the_settings_serves_a_card() -> None:
    urls = {"org/vlm": ("http://gpu:8000/v1",)}
    cards = [make_card("cpu", embedded=True), make_card("org/vlm", aliases=("vlm",))]
    registry = Registry(cards, Routes(default="cpu"), urls=urls)
    assert registry.names() == ["cpu", "org/vlm"]
    assert registry.choose("vlm", "org").urls == urls["org/vlm"]
    assert registry.servers() == {"cpu": (), **urls}


def test_an_address_for_no_card_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CARD.format(id="a") + "embedded: true\n")
    (tmp_path / "routes").write_text("default: a")
    with pytest.raises(CardError) as caught:
        load(
            tmp_path,
            tmp_path / "routes",
            engines=["echo"],
            parsers=["plain"],
            urls={"b": ("http://gpu/v1",)},
        )
    assert caught.value.problems == ["RECTO_ENGINE_URLS: there is no model or route 'b'"]


def test_pictures_are_read_by_the_weights_that_know_where_they_are() -> None:
    urls = {"org/vlm": ("http://plain/v1",), "org/boxes": ("http://boxes/v1",)}
    cards = [make_card("org/vlm", regions_card="org/boxes"), make_card("org/boxes")]
    registry = Registry(cards, Routes(default="org/vlm"), urls=urls)
    choice = registry.choose("org/vlm", "org", pictures=True)
    assert (choice.name, choice.card.id) == ("org/vlm", "org/boxes")
    assert (choice.urls, choice.missing) == (("http://boxes/v1",), None)
    assert registry.choose("org/vlm", "org").card.id == "org/vlm"


def test_without_those_weights_the_plain_ones_read_and_it_is_known() -> None:
    cards = [make_card("org/vlm", regions_card="org/boxes"), make_card("org/boxes")]
    registry = Registry(cards, Routes(default="org/vlm"), urls={"org/vlm": ("http://plain/v1",)})
    choice = registry.choose("org/vlm", "org", pictures=True)
    assert (choice.card.id, choice.missing) == ("org/vlm", "org/boxes")


def test_an_alias_of_the_default_is_listed_whatever_the_default_is_called() -> None:
    registry = make_registry(default="small", aliases={"latest": "default", "cpu": "cpu"})
    assert registry.aliases("cpu") == ["latest", "small"]
    assert [card.id for card in registry.cards_of("cpu")] == ["cpu"]


def test_the_cards_that_ship_are_right() -> None:
    cards = read_cards(Path(__file__).resolve().parents[2] / "configs" / "models")
    assert {"rapidocr", "echo"} <= {card.id for card in cards}
    assert all(card.hidden == (card.engine == "echo") for card in cards)


@pytest.mark.parametrize(
    "url",
    [
        "http://gpu:8000/v1",
        "https://gpu.example.org",
        "http://under_score:1/a/b",
        "http://127.0.0.1:65535/v1",
        "http://[::1]:8000/v1",
        "http://gpu/v1/at@home",
    ],
)
def test_addresses_of_servers(url: str) -> None:
    assert Target(card="a", urls=(f"{url}/",)).urls == (url,)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gpu:8000/v1",
        "http://",
        "http:///v1",
        "http://:8000/v1",
        "ftp://gpu/v1",
        "http://[",
        "http://[::1",
        "http://[gpu]/v1",
        "http://[1:2]/v1",
        "http://gpu:/v1",
        "http://gpu:0/v1",
        "http://gpu:65536/v1",
        "http://gpu:80:80/v1",
        "http://gpu:80a/v1",
        "http://me@gpu/v1",
        "http://me:hush@gpu/v1",
        "http://gpu/v1?token=abc",
        "http://gpu/v1#here",
        "http://gpu/v1 ",
        " http://gpu/v1",
        "http://gpu/v1\n",
        "http://gpu\\v1",
    ],
)
def test_what_is_no_address_of_a_server(url: str) -> None:
    with pytest.raises(ValidationError):
        Target(card="a", urls=(url,))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://gpu/v1", "gpu"),
        ("http://[::1]:8000/v1", "[::1]:8000"),
        ("http://me:hush@gpu:8000/v1", "gpu:8000"),
        ("http://me:hu@sh@[::1]/v1", "[::1]"),
    ],
)
def test_what_is_shown_of_an_address(url: str, shown: str) -> None:
    assert place(url) == shown


def test_an_embedded_card_takes_no_address_from_a_route(tmp_path: Path) -> None:
    routes = "default: a\nroutes: {r: {targets: [{card: a, urls: ['http://gpu/v1']}]}}"
    found = problems_of(tmp_path, routes, a="embedded: true\n")
    assert found == ["route r: a runs inside Recto and takes no urls"]


class Elsewhere(Steering):
    """Knows that one card is away, and what a name leads to."""

    def is_away(self, route: str, target: Target) -> bool:
        return (route, target.card) == ("mix", "org/vlm")

    def addresses(self, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{plain_url(url)}/{number}" for url in urls for number in range(2))


def test_what_is_known_of_traffic_steers_each_choice() -> None:
    vlm = {"card": "org/vlm", "urls": ["dns+http://gpu:8000/v1"]}
    shadow = {"card": "org/vlm", "urls": ["http://gpu:1/v1"], "share": 0.5}
    registry = make_registry(
        routes={
            "mix": {"targets": [vlm, {"card": "cpu", "weight": 1}], "shadow": [shadow]},
            "one": {"targets": [vlm], "sticky": "file"},
        }
    )
    registry.steering = Elsewhere()
    choice = registry.choose("mix", "key")
    assert (choice.card.id, choice.route, choice.urls) == ("cpu", "mix", ())
    assert [one.share for one in choice.shadows] == [0.5]
    choice = registry.choose("one", "key")
    assert choice.urls == ("http://gpu:8000/v1/0", "http://gpu:8000/v1/1")
    assert choice.target is not None
    assert choice.target.urls == ("dns+http://gpu:8000/v1",)
    assert len(registry.servers()["org/vlm"]) == 4
    assert [registry.sticky(name) for name in ("one", "mix", "nobody", None)] == [
        "file",
        "org",
        "org",
        "org",
    ]


def test_a_registry_becomes_another_for_all_who_hold_it() -> None:
    held = make_registry(routes={"old": {"targets": [{"card": "cpu"}]}})
    steering = held.steering
    held.adopt(make_registry(routes={"new": {"targets": [{"card": "cpu"}]}}))
    assert "new" in held.names()
    assert "old" not in held.names()
    assert held.steering is steering


def test_a_target_by_an_alias_is_told_the_id(tmp_path: Path) -> None:
    routes = "default: a\nroutes: {r: {targets: [{card: small}]}}"
    found = problems_of(tmp_path, routes, a="embedded: true\naliases: [small]\n", b=SERVER)
    assert found == ["route r: there is no card 'small'; did you mean 'a'?"]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["routes.yaml: file: is empty, or no mapping of names to values"]),
        (
            "default: a\nroutes: {r: {targets: [{card: a, wieght: 1}]}}",
            ["routes.yaml: routes.r.targets.0.wieght: Extra inputs are not permitted"],
        ),
    ],
)
def test_what_is_wrong_is_said_once(tmp_path: Path, text: str, problems: list[str]) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(text)
    with pytest.raises(CardError) as caught:
        read_routes(path)
    assert caught.value.problems == problems
