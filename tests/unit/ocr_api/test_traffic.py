"""Traffic as a whole: what it counts, who it tells, and the picture that it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from files_api.kit import metrics
from model_registry.registry import Choice, Registry
from model_registry.routing import Routes
from ocr_api.traffic import Traffic
from tests.engines.scheduling import Clock, make_card

NAME = "dns+http://user-less:8000/v1"
MIX = {
    "sticky": "file",
    "targets": [
        {"card": "a", "urls": [NAME], "weight": 75},
        {"card": "b", "urls": ["http://b:1/v1"], "weight": 25},
        {"card": "c", "weight": 0},
    ],
    "shadow": [{"card": "b", "urls": ["http://shadow:1/v1"], "share": 0.1}],
    "fallback": {"pages": 4},
}


class Names:
    """A name server whose only name leads where a test says."""

    def __init__(self, *hosts: str) -> None:
        self.hosts, self.asked = hosts, [""]

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(f"{host}:{port}")
        return self.hosts


def registry(**routes: Any) -> Registry:
    cards = [make_card(name, embedded=name == "c", aliases=(f"also-{name}",)) for name in "abc"]
    table = {"default": "mix", "aliases": {"usual": "mix"}, "routes": {"mix": MIX, **routes}}
    return Registry(cards, Routes.model_validate(table))


def made(**routes: Any) -> tuple[Traffic, Names, Clock]:
    names, clock = Names("10.0.0.2", "10.0.0.1"), Clock()
    return Traffic(registry(**routes), clock=clock, resolve=names), names, clock


async def test_the_picture() -> None:
    traffic, _, clock = made()
    await traffic.look()
    known = {"http://10.0.0.1:8000/v1": {"in_flight": 3, "limit": 8, "circuit": "open"}}
    traffic.standing = lambda card, url: known.get(url or "") if card == "a" else None
    mix = traffic.registry.routes()["mix"]
    card = make_card("b")
    traffic.note(Choice("mix", card, route="mix", target=mix.targets[1]), "repetition", 4)
    clock.now += 10.2
    unused = {"in_flight": 0, "limit": None, "circuit": "closed"}
    counted = {"pages": 0, "errors": 0.0, "empty": 0.0, "repetition": 0.0}
    here, shown = traffic.picture()["data"]  # the embedded card has a route of its own
    assert here["name"] == "c"
    assert here["targets"][0]["servers"] == [{"address": None, **unused}]
    assert shown == {
        "name": "mix",
        "aliases": ["default", "usual"] if "default" in shown["aliases"] else ["usual"],
        "default": True,
        "sticky": "file",
        "targets": [
            {
                "card": "a",
                "weight": 75,
                "share": 1.0,
                "away": None,
                **counted,
                "servers": [
                    {"address": "10.0.0.1:8000", **known["http://10.0.0.1:8000/v1"]},
                    {"address": "10.0.0.2:8000", **unused},
                ],
            },
            {
                "card": "b",
                "weight": 25,
                "share": 0.0,
                "away": {"reason": "repetition", "seconds_left": 290},
                **counted,
                "pages": 4,
                "repetition": 1.0,
                "servers": [{"address": "b:1", **unused}],
            },
            {
                "card": "c",
                "weight": 0,
                "share": 0.0,
                "away": None,
                **counted,
                "servers": [{"address": None, **unused}],
            },
        ],
        "shadow": [
            {"card": "b", "share": 0.1, "servers": [{"address": "shadow:1", **unused}]},
        ],
        "fallback": {"errors": 0.5, "empty": 0.5, "repetition": 0.5, "pages": 4, "seconds": 300.0},
    }


async def test_who_answers_follows_what_is_known() -> None:
    traffic, names, _ = made()
    choices = [traffic.registry.choose("mix", f"key {number}") for number in range(100)]
    assert {choice.card.id for choice in choices} == {"a", "b"}
    first = next(choice for choice in choices if choice.card.id == "a")
    assert first.urls == ("http://user-less:8000/v1",)
    traffic.note(first, "empty", 4)
    choices = [traffic.registry.choose("mix", f"key {number}") for number in range(100)]
    assert {choice.card.id for choice in choices} == {"b"}
    assert names.asked == [""]


async def test_pages_are_counted_by_route_card_and_outcome() -> None:
    def count(outcome: str) -> float:
        name = f'ocr_route_pages_total{{model="b",outcome="{outcome}",route="counted"}} '
        lines = metrics.page().decode().splitlines()
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    traffic, _, _ = made(counted={"targets": [{"card": "b", "urls": ["http://b:1/v1"]}]})
    choice = traffic.registry.choose("counted", "")
    traffic.note(choice, "ok")
    traffic.note(choice, "ok")
    traffic.note(choice, "error", 30)
    traffic.note(Choice("of no route", choice.card), "error")
    assert (count("ok"), count("error")) == (2, 30)


async def test_new_names_are_looked_up_before_they_are_used() -> None:
    traffic, names, _ = made()
    heard: list[Mapping[str, tuple[str, ...]]] = []
    traffic.on_look.append(heard.append)
    await traffic.start()
    other = {"targets": [{"card": "b", "urls": ["dns+http://other:9/v1"]}]}
    await traffic.adopt(registry(other=other))
    assert names.asked == ["", "user-less:8000", "other:9"]
    urls = ("http://10.0.0.1:9/v1", "http://10.0.0.2:9/v1")
    assert traffic.registry.choose("other", "").urls == urls
    assert heard[-1]["b"] == ("http://b:1/v1", "http://shadow:1/v1", *urls)
    await traffic.close()


async def test_without_a_default_that_runs_there_is_a_picture() -> None:
    table = Routes.model_validate({"default": "a"})
    traffic = Traffic(Registry([make_card("a"), make_card("c", embedded=True)], table))
    assert [route["default"] for route in traffic.picture()["data"]] == [False]


async def test_a_target_that_no_server_answers_is_left_out_at_once() -> None:
    """As long as it is so, and where its route has a fall-back."""
    traffic, _, _ = made(strict={**MIX, "fallback": None})
    circuits = {"http://b:1/v1": "open"}
    traffic.standing = lambda _, url: {"circuit": circuits.get(url or "", "closed")}
    routes = traffic.registry.routes()
    a, b, _ = routes["mix"].targets
    assert [traffic.is_away("mix", target) for target in (a, b)] == [False, True]
    assert not traffic.is_away("strict", b)
    chosen = {traffic.registry.choose("mix", str(key)).card.id for key in range(200)}
    assert chosen == {"a"}
    circuits.clear()
    assert not traffic.is_away("mix", b)
