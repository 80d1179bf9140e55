"""The page scheduler as the pipeline uses it: what is taken on, and whose page is next."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from files_api.kit import metrics
from files_api.kit.errors import Overloaded, RateLimited
from ocr_api import meters
from ocr_api.scheduler import Bounds, Share
from tests.engines.scheduling import CARD, GOOD, ONE, TWO, World, make_card, settle


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.end()


async def test_a_page_is_asked_for_once(world: World) -> None:
    ticket = world.admit()
    with await ticket.turn():
        assert await ticket.ask(CARD, (ONE,), world.answers(GOOD)) is GOOD
    assert world.asked == [ONE]


# --- admission ------------------------------------------------------------------------------------


async def test_r14_an_organisations_requests_are_bounded() -> None:
    world = World(bounds=Bounds(requests=3, org_requests=2))
    one, other = Share("one"), Share("other")
    with world.scheduler.enter(one), world.scheduler.enter(one):
        with pytest.raises(RateLimited, match="has 2 OCR requests open") as raised:
            world.scheduler.enter(one).__enter__()
        assert raised.value.headers() == {"Retry-After": "5"}
        with world.scheduler.enter(other):
            with pytest.raises(Overloaded) as everybody:
                world.scheduler.enter(other).__enter__()
            assert everybody.value.headers() == {"Retry-After": "5"}
            with pytest.raises(RateLimited):
                world.scheduler.enter(one).__enter__()
        with world.scheduler.enter(other):
            pass
    with world.scheduler.enter(one):
        pass
    await world.end()


async def test_r14_pages_are_bounded_and_a_document_is_taken_whole() -> None:
    world = World(bounds=Bounds(pages=100, org_pages=50))
    world.admit("one", 49)
    world.admit("one", 1000)
    for refuse in (
        lambda: world.admit("one", 1),
        lambda: world.scheduler.enter(Share("one")).__enter__(),
    ):
        with pytest.raises(RateLimited, match="has 50 pages waiting, the most"):
            refuse()
    with pytest.raises(Overloaded):
        world.admit("other", 1)
    world.stack.close()
    world.admit("other", 1)
    await world.end()


async def test_r14_retry_after_is_the_queue_over_the_pace() -> None:
    """And a refusal is counted by the bound that it met."""
    world = World(bounds=Bounds(org_pages=20))
    ticket = world.admit("one", 60)
    pages = world.read(ticket, 60, "a")
    for _ in range(10):  # four pages in two seconds, ten times
        await settle()
        world.clock.now += 2
        world.answer(4)
        await settle()
    assert sum(page.done() for page in pages) == 40
    with pytest.raises(RateLimited) as raised:
        world.admit("one", 1)
    assert raised.value.retry_after in (9, 10, 11)  # 20 pages, 2 a second
    world.clock.now += 1000
    world.admit("other", 1)
    said = metrics.page().decode()
    assert 'ocr_rate_limited_total{limit="org_pages"}' in said
    await world.end()


async def test_a_pause_does_not_slow_the_measured_pace() -> None:
    world = World(bounds=Bounds(org_pages=8))
    for pause in (0.0, 500.0):
        world.clock.now += pause
        ticket = world.admit("one", 8)
        world.read(ticket, 8, "a")
        await settle()
        world.clock.now += 2
        world.answer(4)
        await settle()
        world.clock.now += 2
        world.answer(4)
        await settle()
        world.stack.close()
    world.admit("one", 8)
    with pytest.raises(RateLimited) as raised:
        world.admit("one", 8)
    assert raised.value.retry_after == 4  # 8 pages, 2 a second
    await world.end()


async def test_pages_that_are_done_make_room() -> None:
    world = World(bounds=Bounds(org_pages=2))
    ticket = world.admit("one", 2)
    with pytest.raises(RateLimited):
        world.admit("one", 1)
    with await ticket.turn():
        pass
    world.admit("one", 1)
    await world.end()


# --- turns and places -----------------------------------------------------------------------------


async def test_never_more_at_work_than_the_limits() -> None:
    world = World(bounds=Bounds(ahead=2))
    pages = [world.read(world.admit(f"org{n}"), 10, f"{n}") for n in range(5)]
    await settle()
    assert world.under_way == 4
    assert sum(map(len, pages)) == 6  # turns: two more than places
    while world.under_way:
        world.answer(1)
        await settle()
        assert world.under_way <= 4
    assert sum(map(len, pages)) == len(world.order) == 50
    await world.end()


async def test_replicas_share_the_work(world: World) -> None:
    world.read(world.admit(urls=(ONE, TWO)), 8, "a", urls=(ONE, TWO))
    await settle()
    assert world.asked == [ONE, TWO] * 4


async def test_a_server_is_one_in_all_routes(world: World) -> None:
    """Two routes name it, and an annotator's question goes there: its places are the same."""
    first, second = world.admit(urls=(ONE, TWO)), world.admit(urls=(ONE,))
    for _ in range(4):
        world.run(second.ask(CARD, (ONE,), world.held()))
    await settle()
    for _ in range(6):
        world.run(first.ask(CARD, (ONE, TWO), world.held()))
    await settle()
    assert world.asked == [ONE] * 4 + [TWO] * 4
    world.answer(1)
    await settle()
    assert world.asked[8:] == [ONE]
    other = make_card("other", pages_in_flight=1)
    await second.ask(other, (ONE,), world.answers(GOOD))


async def test_an_embedded_engine_has_its_own_places() -> None:
    world = World(bounds=Bounds(ahead=0))
    world.engine.places = 2
    world.read(world.admit(urls=()), 9, "a", urls=())
    await settle()
    assert world.asked == [None, None]
    await world.end()


async def test_r15_a_small_organisation_overtakes_a_large_one(world: World) -> None:
    """Ten pages, behind 10,000 that were there first, are done in two rounds and a page."""
    world.read(world.admit("large", 10_000), 10_000, "large")
    await settle()
    small = world.read(world.admit("small", 10), 10, "small")
    rounds = 0
    # Alone it would take three rounds of four; it shares the places, so that it takes twice that.
    while len(small) < 10 or not all(page.done() for page in small):
        world.answer()
        await settle()
        rounds += 1
    assert rounds <= 2 * 3 + 1
    assert world.order.count("large") >= 8


async def test_r15_a_small_document_overtakes_a_large_one(world: World) -> None:
    world.read(world.admit("org", 1000), 1000, "large")
    await settle()
    one = world.read(world.admit("org", 1), 1, "small")
    rounds = 0
    while not one or not one[0].done():
        world.answer(1)
        await settle()
        rounds += 1
    # Its turn comes with the first page that is done, its place with the second.
    assert rounds <= 4 + 2
    assert world.order.index("small") <= 5


async def test_r15_the_only_place_is_shared(world: World) -> None:
    """Both have nothing at work whenever it is free: neither keeps it to its end."""
    card = make_card("narrow", pages_in_flight=1)
    large = world.admit("large", 100, urls=(), card=card)
    for _ in range(8):
        world.run(large.ask(card, (), world.held("large")))
    await settle()
    small = world.admit("small", 2, urls=(), card=card)
    for _ in range(2):
        world.run(small.ask(card, (), world.held("small")))
    for _ in range(4):
        await settle()
        world.answer(1)
    assert world.order[:4] == ["large", "small", "large", "small"]


@pytest.mark.parametrize(("weight", "wanted"), [(100, 0.5), (200, 2 / 3), (300, 0.75)])
async def test_r15_places_are_shared_by_weight(world: World, weight: int, wanted: float) -> None:
    world.read(world.admit("heavy", 200, weight=weight), 200, "heavy")
    world.read(world.admit("light", 200), 200, "light")
    await settle()
    while len(world.order) < 200:
        world.answer(1)
        await settle()
    share = Counter(world.order[12:])["heavy"] / len(world.order[12:])
    assert share == pytest.approx(wanted, abs=0.1)


async def test_r16_somebody_who_waits_comes_before_the_background(world: World) -> None:
    world.read(world.admit("batch", 1000, lane="background"), 1000, "batch")
    await settle()
    for number in range(3):
        page = world.read(world.admit(f"org{number}", 1), 1, "now")
        before = len(world.order)
        while not page or not page[0].done():
            world.answer(1)
            await settle()
        # One place had to become free for its turn, and one for itself.
        assert world.order[before : before + 2].count("now") == 1


async def test_the_background_is_not_idle_while_it_can_work(world: World) -> None:
    world.read(world.admit("batch", 10, lane="background"), 10, "batch")
    world.read(world.admit("org", 2), 2, "now")
    await settle()
    assert world.under_way == 4


# --- cancellation ---------------------------------------------------------------------------------


async def test_a_turn_that_was_just_given_is_handed_on() -> None:
    world = World(bounds=Bounds(ahead=0))
    ticket = world.admit()
    turns = [await ticket.turn() for _ in range(4)]
    first, second = world.run(ticket.turn()), world.run(ticket.turn())
    await settle()
    with turns.pop():
        pass
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()
    with second.result():
        pass
    for turn in turns:
        with turn:
            pass
    await world.end()


async def test_a_place_that_was_just_given_is_handed_on(world: World) -> None:
    ticket = world.admit()
    asking = [world.run(ticket.ask(CARD, (ONE,), world.held(str(n)))) for n in range(6)]
    await settle()
    asking[0].cancel()
    await asyncio.sleep(0)  # its place is given to the fifth, who does not know it yet
    asking[4].cancel()
    await settle()
    assert world.order == ["0", "1", "2", "3", "5"]
    assert world.under_way == 4


async def test_what_waits_is_dropped_with_its_document(world: World) -> None:
    with world.scheduler.admit(Share("org"), CARD, (ONE,), 5) as ticket:
        turns = [await ticket.turn() for _ in range(12)]
        waiting = world.run(ticket.turn())
        asking = [world.run(ticket.ask(CARD, (ONE,), world.held())) for _ in range(5)]
        await settle()
    await settle()
    assert waiting.cancelled()
    assert asking[4].cancelled()
    assert world.under_way == 4
    world.answer()
    await settle()
    for turn in turns:
        with turn:
            pass
    world.check_empty()


async def test_a_thousand_documents_are_chosen_from_quickly(world: World) -> None:
    """One choice and the counting around it take well under a millisecond."""
    waiting = [world.run(world.admit(f"org{n % 300}").turn()) for n in range(1000)]
    await settle()
    seconds = 0.0
    for page in range(200):
        turn = next(task for task in waiting if task.done()).result()
        waiting = [task for task in waiting if not (task.done() and task.result() is turn)]
        begun = time.thread_time()
        with turn:
            pass
        seconds += time.thread_time() - begun
        await settle()
        assert sum(task.done() for task in waiting) == 12, page
    assert seconds / 200 < 0.001
    for task in waiting:
        if task.done():
            with task.result():
                task.cancel()
        task.cancel()
        await settle()


# --- what is shown --------------------------------------------------------------------------------


def shown(name: str, lane: str, **labels: str) -> float | None:
    """Return what the metrics say of a lane; None where they do not name it."""
    return metrics.REGISTRY.get_sample_value(name, {"lane": lane, **labels})


def waiting(card: str) -> tuple[float | None, float | None]:
    name = "ocr_queue_pages_waiting"
    return shown(name, "interactive", model=card), shown(name, "background", model=card)


def oldest() -> tuple[float | None, float | None]:
    name = "ocr_queue_oldest_seconds"
    return shown(name, "interactive"), shown(name, "background")


async def test_pages_that_wait_are_shown_by_lane() -> None:
    """Those that are taken on and have no turn, and how long the next one of a lane has waited."""
    world = World(bounds=Bounds(ahead=0))
    card = make_card("shown", pages_in_flight=2)
    one = world.admit("one", 10, card=card)
    other = world.admit("other", 5, card=card, lane="background")
    turns = [await one.turn() for _ in range(2)]
    await world.scheduler._watch.look()
    assert waiting("shown") == (8, 5)
    assert oldest() == (0, 0)
    asking = [world.run(one.turn())]
    await settle()
    world.clock.now += 3
    asking.append(world.run(other.turn()))
    await settle()
    world.clock.now += 4
    await world.scheduler._watch.look()
    assert oldest() == (7, 4)
    with turns[0]:
        pass
    await settle()
    assert asking[0].done()
    await world.scheduler._watch.look()
    assert waiting("shown") == (7, 5)  # one is done, and one more has its turn
    assert oldest() == (0, 4)
    with turns[1], asking[0].result():
        pass
    await settle()
    with asking[1].result():
        world.stack.close()
        await world.scheduler._watch.look()
        assert waiting("shown") == (0, 0)
        assert oldest() == (0, 0)
    await world.end()


async def test_both_lanes_are_shown_from_the_start() -> None:
    """An alert on a series that is not there would never fire."""
    meters._oldest.clear()
    world = World()
    assert oldest() == (None, None)
    await world.scheduler.start()
    assert oldest() == (0, 0)
    await world.end()


async def test_one_who_waits_no_longer_is_not_the_oldest(world: World) -> None:
    ticket = world.admit("one", 20)
    turns = [await ticket.turn() for _ in range(12)]
    asking = world.run(ticket.turn())
    await settle()
    world.clock.now += 9
    await world.scheduler._watch.look()
    assert oldest() == (9, 0)
    asking.cancel()
    await settle()
    await world.scheduler._watch.look()
    assert oldest() == (0, 0)
    for turn in turns:
        with turn:
            pass
