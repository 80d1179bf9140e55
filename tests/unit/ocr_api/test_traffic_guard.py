"""Targets that do badly are left out for a while, and what is known of them."""

from __future__ import annotations

from typing import Any

import pytest

from files_api.kit import metrics
from model_registry.routing import Fallback, Route, Target
from ocr_api.traffic.guard import Guard, Standing
from tests.engines.scheduling import Clock

GOOD = Target(card="good", urls=("http://good/v1",))
BAD = Target(card="bad", urls=("http://bad/v1",))


def route(*targets: Target, **rule: Any) -> Route:
    rule = {"pages": 10, "seconds": 60, **rule}
    return Route(targets=targets or (GOOD, BAD), fallback=Fallback(**rule))


def guard(clock: Clock, **rule: Any) -> Guard:
    return Guard({"mix": route(**rule)}, clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(record.msg, getattr(record, "facts", {})) for record in caplog.records]


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [("error", "errors"), ("empty", "empty"), ("repetition", "repetition")],
)
def test_a_target_is_away_when_a_rate_passes_its_threshold(
    outcome: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = guard(Clock())
    made.note("mix", BAD, "ok", 5)
    made.note("mix", BAD, outcome, 4)
    assert not made.is_away("mix", BAD)
    made.note("mix", BAD, outcome)
    assert made.is_away("mix", BAD)
    assert not made.is_away("mix", GOOD)
    facts = {"route": "mix", "card": "bad", "reason": reason}
    assert lines(caplog) == [("target_away", {**facts, "rate": 0.5, "pages": 10, "seconds": 60.0})]
    rates = {"errors": 0.0, "empty": 0.0, "repetition": 0.0, reason: 0.5}
    assert made.standing("mix", BAD) == Standing(10, **rates, reason=reason, seconds_left=60.0)
    shown = metrics.page().decode()
    assert 'ocr_route_target_away{model="bad",route="mix"} 1.0' in shown
    assert 'ocr_route_target_away{model="good",route="mix"} 0.0' in shown
    assert f'ocr_route_fallbacks_total{{model="bad",reason="{reason}",route="mix"}} ' in shown


def test_nothing_happens_before_so_many_pages() -> None:
    made = guard(Clock())
    made.note("mix", BAD, "error", 9)
    assert not made.is_away("mix", BAD)
    made.note("mix", BAD, "error")
    assert made.is_away("mix", BAD)


def test_only_the_last_pages_count() -> None:
    made = guard(Clock())
    for _ in range(10):
        made.note("mix", BAD, "error", 4)
        made.note("mix", BAD, "ok", 6)
    assert not made.is_away("mix", BAD)
    assert made.standing("mix", BAD).errors == 0.4


def test_a_threshold_of_one_is_reached() -> None:
    made = guard(Clock(), errors=1.0)
    made.note("mix", BAD, "error", 1000)
    assert made.is_away("mix", BAD)


def test_a_target_comes_back_with_an_empty_window(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    made = guard(clock)
    made.note("mix", BAD, "error", 10)
    clock.now += 59.9
    made.note("mix", BAD, "error", 10)  # begun before: it says nothing new
    assert made.is_away("mix", BAD)
    assert made.standing("mix", BAD).seconds_left == pytest.approx(0.1)
    clock.now += 0.2
    made.look()
    assert lines(caplog)[-1] == (
        "target_back",
        {"route": "mix", "card": "bad", "reason": "errors"},
    )
    assert made.standing("mix", BAD) == Standing()
    assert 'ocr_route_target_away{model="bad",route="mix"} 0.0' in metrics.page().decode()
    made.note("mix", BAD, "error", 9)
    assert not made.is_away("mix", BAD)


def test_the_last_target_with_a_weight_stays() -> None:
    spare = Target(card="spare", urls=("http://spare/v1",), weight=0)
    clock = Clock()
    made = Guard({"mix": route(GOOD, BAD, spare)}, clock)
    made.note("mix", BAD, "error", 10)
    made.note("mix", GOOD, "error", 10)
    assert made.is_away("mix", BAD)
    assert not made.is_away("mix", GOOD)
    clock.now += 61
    made.note("mix", GOOD, "error")  # now another one can answer
    assert made.is_away("mix", GOOD)
    assert not made.is_away("mix", BAD)


def test_without_a_rule_nothing_is_left_out() -> None:
    made = Guard({"mix": Route(targets=(GOOD, BAD))}, Clock())
    made.note("mix", BAD, "error", 1000)
    assert not made.is_away("mix", BAD)
    assert made.standing("mix", BAD) == Standing(50, errors=1.0)


def test_a_reload_keeps_what_is_known_of_targets_that_stay() -> None:
    clock = Clock()
    made = Guard({"mix": route(GOOD, BAD, pages=4), "other": route()}, clock)
    made.note("mix", BAD, "error", 4)
    made.note("mix", GOOD, "empty", 1)
    made.note("mix", GOOD, "ok", 3)
    heavier = BAD.model_copy(update={"weight": 900})
    made.keep({"mix": route(GOOD, heavier, pages=2)})
    assert made.is_away("mix", heavier)
    assert made.standing("mix", GOOD) == Standing(2)
    made.note("other", BAD, "error", 10)  # of a request that was begun before
    assert not made.is_away("other", BAD)
    moved = Target(card="bad", urls=("http://elsewhere/v1",))
    made.keep({"mix": route(GOOD, moved)})
    assert not made.is_away("mix", moved)


def test_where_a_reload_leaves_only_one_that_is_away_it_is_back() -> None:
    made = guard(Clock())
    made.note("mix", BAD, "error", 10)
    idle = GOOD.model_copy(update={"weight": 0})
    made.keep({"mix": route(idle, BAD)})
    assert not made.is_away("mix", BAD)


def test_where_a_reload_takes_the_rule_away_all_are_back() -> None:
    made = guard(Clock())
    made.note("mix", BAD, "error", 10)
    made.keep({"mix": Route(targets=(GOOD, BAD))})
    assert not made.is_away("mix", BAD)


def test_two_targets_of_one_card_are_two() -> None:
    """A new server beside the old one: the metric says that one of them is away."""
    new = Target(card="good", urls=("http://new/v1",))
    made = Guard({"mix": route(GOOD, new)}, Clock())
    made.note("mix", new, "error", 10)
    assert (made.is_away("mix", GOOD), made.is_away("mix", new)) == (False, True)
    assert 'ocr_route_target_away{model="good",route="mix"} 1.0' in metrics.page().decode()
