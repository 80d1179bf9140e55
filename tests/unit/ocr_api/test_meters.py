"""What is counted of pages, under which names and labels."""

from __future__ import annotations

import re
import timeit
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from files_api.kit import metrics
from ocr_api import meters
from ocr_api.processes import ChildDied, ChildKilled, ChildTimedOut, Limits, Pool, TaskRefused

CARD = "test/meters"
STAGES: tuple[meters.Stage, ...] = ("render", "infer", "post", "total")
OUTCOMES: tuple[meters.Outcome, ...] = ("ok", "failed", "reused", "cancelled")
GIB = 1 << 30


def value(name: str, **labels: str) -> float:
    """Return what the page says of one time series; 0 where it says nothing."""
    found = metrics.REGISTRY.get_sample_value(name, labels)
    return found or 0.0


def test_pages_are_counted_by_outcome() -> None:
    before = {name: value("ocr_pages_total", model=CARD, outcome=name) for name in OUTCOMES}
    for outcome in OUTCOMES:
        meters.page(CARD, outcome)
    for outcome in OUTCOMES:
        assert value("ocr_pages_total", model=CARD, outcome=outcome) == before[outcome] + 1


def test_stages_are_timed_one_by_one() -> None:
    labels = {"model": CARD, "stage": "infer"}
    before = value("ocr_page_duration_seconds_count", **labels)
    meters.stage("infer", CARD, 3.0)
    meters.stage("post", CARD, 0.001)
    assert value("ocr_page_duration_seconds_count", **labels) == before + 1
    bucket = "ocr_page_duration_seconds_bucket"
    assert value(bucket, le="4.0", **labels) - value(bucket, le="2.0", **labels) == 1
    assert value(bucket, model=CARD, stage="post", le="0.005") >= 1


def test_tokens_are_counted_by_direction_and_kind() -> None:
    labels = {"model": CARD, "direction": "prompt", "kind": "wasted"}
    before = value("ocr_tokens_total", **labels)
    meters.tokens(CARD, "wasted", "prompt", 7)
    meters.tokens(CARD, "wasted", "prompt", 0)
    meters.tokens(CARD, "wasted", "completion", 5)
    assert value("ocr_tokens_total", **labels) == before + 7


def test_what_stands_now_is_shown() -> None:
    meters.queue(CARD, {"background": 40}, 3)
    meters.oldest({"background": 7.5})
    meters.replica(CARD, "host:8000", 12, 64, is_open=False)
    meters.replica(CARD, "other:8000", 0, 64, is_open=True)
    sample = metrics.REGISTRY.get_sample_value
    lanes = ("interactive", "background")
    waiting = [sample("ocr_queue_pages_waiting", {"lane": lane, "model": CARD}) for lane in lanes]
    oldest = [sample("ocr_queue_oldest_seconds", {"lane": lane}) for lane in lanes]
    assert (waiting, oldest) == ([0, 40], [0, 7.5])  # both lanes, always
    assert value("ocr_pages_working", model=CARD) == 3
    one, other = ({"model": CARD, "replica": f"{name}:8000"} for name in ("host", "other"))
    assert value("ocr_engine_requests_in_flight", **one) == 12
    assert value("ocr_engine_limit", **one) == 64
    assert value("ocr_engine_circuit_open", **one) == 0
    assert value("ocr_engine_circuit_open", **other) == 1
    meters.replica_gone(CARD, "other:8000")
    meters.replica_gone(CARD, "never:8000")
    assert metrics.REGISTRY.get_sample_value("ocr_engine_limit", other) is None
    assert value("ocr_engine_limit", **one) == 64


def test_routes_are_counted_by_route_and_card() -> None:
    target = {"route": "test-ocr", "model": CARD}
    meters.route_pages("test-ocr", CARD, "ok")
    meters.route_pages("test-ocr", CARD, "empty")
    meters.route_pages("test-ocr", CARD, "empty")
    assert value("ocr_route_pages_total", outcome="ok", **target) == 1
    assert value("ocr_route_pages_total", outcome="empty", **target) == 2
    meters.target_away("test-ocr", CARD, True)
    meters.fell_back("test-ocr", CARD, "errors")
    meters.fell_back("test-ocr", CARD, "a word that nobody knows")
    assert value("ocr_route_target_away", **target) == 1
    assert value("ocr_route_fallbacks_total", reason="errors", **target) == 1
    assert value("ocr_route_fallbacks_total", reason="other", **target) == 1
    meters.target_away("test-ocr", CARD, False)
    assert metrics.REGISTRY.get_sample_value("ocr_route_target_away", target) == 0


def test_reloads_and_shadows_are_counted() -> None:
    before = value("ocr_routes_reloads_total", outcome="refused")
    meters.routes_reloaded("refused")
    meters.routes_wrong(True)
    assert value("ocr_routes_reloads_total", outcome="refused") == before + 1
    assert value("ocr_routes_wrong") == 1
    meters.routes_wrong(False)
    assert value("ocr_routes_wrong") == 0
    meters.shadow_page(CARD, "skipped")
    meters.shadow_similarity(CARD, 0.97)
    meters.shadow_similarity(CARD, 1.0)
    assert value("ocr_shadow_pages_total", model=CARD, outcome="skipped") == 1
    bucket = "ocr_shadow_similarity_bucket"
    assert value(bucket, model=CARD, le="0.95") == 0
    assert value(bucket, model=CARD, le="0.98") == 1
    assert value(bucket, model=CARD, le="1.0") == 2


def test_only_known_words_become_labels() -> None:
    """Each label is kept for ever: what callers could make up must not be one."""
    names = ("ocr_page_retries_total", "ocr_admission_refused_total")
    meters.retried(CARD, "engine_busy")
    meters.retried(CARD, "a word that nobody knows")
    meters.admission_refused("org_pages")
    meters.admission_refused("a word that nobody knows")
    meters.child_restarted("a word that nobody knows")
    assert value(names[0], model=CARD, reason="engine_busy") >= 1
    assert value(names[0], model=CARD, reason="other") >= 1
    assert value(names[1], reason="org_pages") >= 1
    assert value(names[1], reason="other") >= 1
    assert "nobody" not in metrics.page().decode()


def test_no_label_names_an_organisation() -> None:
    meters.tokens(CARD, "charged", "prompt", 1)
    text = metrics.page().decode()
    lines = [line for line in text.splitlines() if CARD in line]
    labels = {label for line in lines for label in re.findall(r'[{,]([a-z_]+)="', line)}
    ours = {"model", "replica", "outcome", "direction", "kind", "reason", "stage", "lane", "route"}
    assert labels <= ours | {"le"}


def test_counting_a_page_costs_next_to_nothing() -> None:
    """Under 100 µs; about 10 µs where it was measured."""

    def count() -> None:
        meters.page(CARD, "ok")
        for name in STAGES:
            meters.stage(name, CARD, 1.0)
        meters.tokens(CARD, "charged", "prompt", 1)

    assert min(timeit.repeat(count, number=200, repeat=5)) / 200 < 100e-6


# --- children that end ----------------------------------------------------------------------------

HANDLERS = """
import os, signal, time

def handle(header, payload):
    if header["do"] == "exit":
        os._exit(3)
    if header["do"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if header["do"] == "sleep":
        time.sleep(60)
    if header["do"] == "fail":
        raise ValueError
    return {"pid": os.getpid()}, b""
"""


@pytest.fixture
async def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pool]:
    """One child that is replaced after three tasks."""
    (tmp_path / "meters_handlers.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = Pool("meters_handlers:handle", 1, Limits(GIB, seconds=20, tasks=3))
    yield pool
    await pool.close()


def deaths() -> dict[str, float]:
    """Return how many children ended so far, by the reason."""
    return {why: value("ocr_render_child_restarts_total", reason=why) for why in meters.DEATHS}


def since(before: dict[str, float]) -> dict[str, float]:
    """Return how many ended since then, by the reason."""
    return {why: more for why, count in deaths().items() if (more := count - before[why])}


@pytest.mark.parametrize(
    ("do", "error", "counted"),
    [
        ("exit", ChildDied, {"died": 2}),  # the task is tried twice
        ("kill", ChildKilled, {"killed": 2}),
        ("sleep", ChildTimedOut, {"time": 1}),
        ("fail", TaskRefused, {}),
    ],
)
async def test_children_that_end_are_counted(
    pool: Pool, do: str, error: type[Exception], counted: dict[str, float]
) -> None:
    await pool.call({"do": "nothing"})
    before = deaths()
    with pytest.raises(error):
        await pool.call({"do": do}, seconds=1 if do == "sleep" else None)
    assert since(before) == counted


async def test_a_worn_child_is_counted_and_a_closed_pool_is_not(pool: Pool) -> None:
    before = deaths()
    for _ in range(4):
        await pool.call({"do": "nothing"})
    await pool.close()
    assert since(before) == {"worn": 1}
