"""Servers that are busy, fail, die and come back, as the page scheduler sees them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from files_api.kit.errors import (
    AppError,
    ContextTooLong,
    EngineBusy,
    EngineTimeout,
    EngineUnavailable,
    PageFailed,
    SchemaRefused,
)
from ocr_api.engines import Load
from ocr_api.scheduler import Bounds, Budget
from ocr_api.scheduler.replica import Replica
from tests.engines.scheduling import CARD, GOOD, ONE, TWO, World, make_card, settle

BOTH = (ONE, TWO)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.end()


def replica(world: World, url: str = ONE) -> Replica:
    [found] = [one for one in world.scheduler._replicas() if one.url == url]
    return found


async def fails(world: World, error: AppError, urls: tuple[str, ...] = (ONE,)) -> AppError:
    with pytest.raises(type(error)) as raised:
        await world.admit(urls=urls).ask(CARD, urls, world.answers(error))
    return raised.value


# --- the retry table ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ContextTooLong, SchemaRefused, EngineTimeout])
async def test_what_would_be_refused_again_is_not_repeated(
    world: World, error: type[AppError]
) -> None:
    assert await fails(world, said := error(), BOTH) is said
    assert world.asked == [ONE]


async def test_a_page_that_fails_is_asked_once_more_elsewhere(world: World) -> None:
    ticket = world.admit(urls=BOTH)
    assert await ticket.ask(CARD, BOTH, world.answers(PageFailed(), GOOD)) is GOOD
    assert world.asked == [ONE, TWO]
    await fails(world, PageFailed(), BOTH)
    assert world.asked == [ONE, TWO, ONE, TWO]


async def test_a_page_that_fails_is_asked_once_more_at_the_only_server(world: World) -> None:
    await fails(world, PageFailed())
    assert world.asked == [ONE, ONE]


@pytest.mark.parametrize("error", [EngineBusy, EngineUnavailable])
async def test_r6_an_answer_is_looked_for_elsewhere_and_then_again(
    world: World, error: type[AppError]
) -> None:
    ticket = world.admit(urls=BOTH)
    assert await ticket.ask(CARD, BOTH, world.answers(error(), GOOD)) is GOOD
    assert world.asked == [ONE, TWO]
    world.asked.clear()
    failed = await fails(world, error(), BOTH)
    assert (failed.status, failed.retry_after) == (503, 5)
    assert Counter(world.asked) == {ONE: 4, TWO: 4}
    for turn in range(0, 8, 2):
        assert set(world.asked[turn : turn + 2]) == {ONE, TWO}


async def test_pauses_are_drawn_up_to_the_longest(world: World) -> None:
    paced = World(pauses=(0.01, 0.02))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await fails(paced, EngineBusy())
    assert loop.time() - begun < 5
    assert paced.asked == [ONE] * 3
    await paced.end()


async def test_failures_of_all_kinds_end_in_an_error(world: World) -> None:
    """A page fails at one server while the other goes away: no server is left in the round."""
    ticket = world.admit(urls=BOTH)
    said = world.answers(PageFailed(), EngineUnavailable(), EngineBusy(), EngineBusy(), GOOD)
    assert await ticket.ask(CARD, BOTH, said) is GOOD
    assert len(world.asked) == 5


async def test_repeats_have_a_budget(world: World) -> None:
    budget = Budget(9)
    assert [budget.spend() for _ in range(12)] == [True] * 10 + [False] * 2
    ticket = world.admit(pages=4)
    for _ in range(9):
        assert await ticket.ask(CARD, (ONE,), world.answers(PageFailed(), GOOD)) is GOOD
    with pytest.raises(PageFailed):
        await ticket.ask(CARD, (ONE,), world.answers(PageFailed(), GOOD))
    # A refusal costs the server nothing, and does not use it up.
    assert await ticket.ask(CARD, (ONE,), world.answers(EngineBusy(), GOOD)) is GOOD
    with pytest.raises(EngineUnavailable):
        await ticket.ask(CARD, (ONE,), world.answers(EngineUnavailable(), GOOD))


async def test_an_embedded_engine_is_asked_once(world: World) -> None:
    ticket = world.admit(urls=())
    for error in (PageFailed(), EngineUnavailable(), EngineBusy()):
        for _ in range(5):
            world.asked.clear()
            with pytest.raises(type(error)):
                await ticket.ask(CARD, (), world.answers(error))
            assert world.asked == [None]
    assert not world.engine.looked
    assert await ticket.ask(CARD, (), world.answers(GOOD)) is GOOD


# --- circuits -------------------------------------------------------------------------------------


async def test_r6_the_pages_of_a_server_that_dies_go_to_the_other_at_once() -> None:
    """However many they are: they are moved, which uses up no repeats."""
    card = make_card("wide", pages_in_flight=40)
    world = World(pauses=(60.0,))
    ticket = world.admit(pages=80, urls=BOTH, card=card)
    world.engine.ill = {ONE}
    dies = asyncio.Event()

    async def ask(url: str | None) -> Any:
        world.asked.append(url)
        await dies.wait()
        if url == ONE:
            raise EngineUnavailable
        return GOOD

    pages = [world.run(ticket.ask(card, BOTH, ask)) for _ in range(80)]
    await settle()
    assert world.asked == [ONE, TWO] * 40
    dies.set()
    await settle()
    assert [page.result() for page in pages] == [GOOD] * 80
    assert world.asked[80:] == [TWO] * 40
    assert ticket.budget.spend()
    [one, two] = [replica.circuit.state for replica in world.scheduler._replicas()]
    assert (one, two) == ("open", "closed")
    assert world.engine.looked == {ONE: 1}
    await world.end()


async def test_a_server_that_is_away_is_looked_at_until_it_is_well() -> None:
    world = World(probes=(0.0, 0.001))
    world.engine.ill = {ONE}
    failed = await fails(world, EngineUnavailable())
    assert failed.retry_after == 5
    assert world.asked == [ONE] * 3
    assert replica(world).circuit.state == "open"
    with pytest.raises(EngineUnavailable, match="No server that runs m answers") as raised:
        world.admit()
    assert raised.value.retry_after == 1
    await world.until(lambda: world.engine.looked[ONE] >= 4)
    world.engine.ill.clear()
    await world.until(lambda: replica(world).circuit.state == "closed")
    assert await world.admit().ask(CARD, (ONE,), world.answers(GOOD)) is GOOD
    await world.end()


async def test_those_who_wait_fail_when_no_server_is_left() -> None:
    world = World(bounds=Bounds(ahead=0), probes=(0.0, 0.0, 0.0, 30.0))
    ticket = world.admit(pages=20)
    world.engine.ill = {ONE}
    turns = [await ticket.turn() for _ in range(4)]
    turn = world.run(ticket.turn())
    places = [world.run(ticket.ask(CARD, (ONE,), world.held())) for _ in range(6)]
    await settle()
    for _ in range(3):
        replica(world).circuit.failed(0)
    world.scheduler._watch.suspect(replica(world))
    await settle()
    for task in (turn, *places[4:]):
        assert isinstance(task.exception(), EngineUnavailable)
        assert task.exception().retry_after == 30
    assert world.under_way == 4
    with pytest.raises(EngineUnavailable):
        await ticket.turn()
    for turn in turns:
        with turn:
            pass
    await world.end()


async def test_r6_a_page_that_was_cut_off_by_the_end_of_its_server_is_not_at_fault() -> None:
    """Its answer broke off, and there is nobody left to be asked again: 503, not 500."""
    world = World(probes=(0.0, 0.0, 0.0, 30.0))
    world.engine.ill = {ONE}

    async def cut_off(url: str | None) -> Any:
        world.asked.append(url)
        for _ in range(3):
            replica(world).circuit.failed(0)
        world.scheduler._watch.suspect(replica(world))
        await settle()
        raise PageFailed

    with pytest.raises(EngineUnavailable, match="No server that runs m answers"):
        await world.admit().ask(CARD, (ONE,), cut_off)
    assert world.asked == [ONE]
    await world.end()


async def test_while_a_server_is_looked_at_its_pages_wait(world: World) -> None:
    """They are neither sent there nor refused: in a moment it is known."""
    world.engine.hangs = True
    ticket = world.admit()
    page = world.run(ticket.ask(CARD, (ONE,), world.answers(*[EngineUnavailable()] * 3, GOOD)))
    await settle()
    assert world.asked == [ONE] * 3
    assert not page.done()
    world.admit()


async def test_a_server_that_fails_and_says_it_is_well_is_passed_over(world: World) -> None:
    """And gets one page now and then, until it answers."""
    ticket = world.admit(pages=1000, urls=BOTH)

    async def ask(url: str | None) -> Any:
        world.asked.append(url)
        if url == ONE and failing:
            raise EngineUnavailable
        return GOOD

    failing = True
    for _ in range(20):
        await ticket.ask(CARD, BOTH, ask)
        await settle()
    assert world.asked.count(ONE) == 3
    assert replica(world).most == 1
    world.clock.now += 1.1
    await ticket.ask(CARD, BOTH, ask)
    assert world.asked.count(ONE) == 4
    failing = False
    world.clock.now += 60
    await asyncio.gather(*(ticket.ask(CARD, BOTH, ask) for _ in range(4)))
    assert replica(world).most == 4


async def test_failures_of_before_do_not_count_against_a_server_that_is_back(world: World) -> None:
    ticket = world.admit(pages=1000)
    dies = asyncio.Event()

    async def ask(url: str | None) -> Any:
        world.asked.append(url)
        if len(world.asked) <= 4:
            await dies.wait()
            raise EngineUnavailable
        return GOOD

    pages = [world.run(ticket.ask(CARD, (ONE,), ask)) for _ in range(4)]
    await settle()
    dies.set()
    await settle()
    assert [page.result() for page in pages] == [GOOD] * 4
    assert world.engine.looked == {ONE: 1}
    assert replica(world).most == 4


# --- limits ---------------------------------------------------------------------------------------


async def test_a_place_rests_after_a_refusal() -> None:
    world = World(pauses=())
    ticket = world.admit()
    for _ in range(4):
        with pytest.raises(EngineBusy):
            await ticket.ask(CARD, (ONE,), world.answers(EngineBusy()))
    page = world.run(ticket.ask(CARD, (ONE,), world.answers(GOOD)))
    await settle()
    assert world.asked == [ONE] * 4
    assert await page is GOOD
    await world.end()


async def test_a_server_that_has_too_much_gets_less(world: World) -> None:
    """Its own words, asked for while it has work of ours; one burst changes nothing."""
    card = make_card("wide", pages_in_flight=100)
    ticket = world.admit(pages=100, card=card)
    for _ in range(100):
        world.run(ticket.ask(card, (ONE,), world.held()))
    await settle()
    world.engine.says[ONE] = Load(running=40, waiting=60)
    for _ in range(4):
        await world.scheduler._watch.look()
    assert replica(world).limit.value == 100
    await world.scheduler._watch.look()
    assert replica(world).limit.value == 44
    world.answer(60)
    await settle()
    assert world.under_way == 40


async def test_the_watch_survives_what_an_engine_raises(world: World) -> None:
    async def breaks(card: object, url: object) -> Load:
        raise RuntimeError(card, url)

    world.engine.load = breaks  # type: ignore[method-assign]
    world.run(world.admit().ask(CARD, (ONE,), world.held()))
    await settle()
    await world.scheduler._watch.look()


async def test_the_watch_begins_and_ends(world: World) -> None:
    await world.scheduler.start()
    await settle()
    assert len(world.scheduler._watch._tasks) == 1
    await world.scheduler.close()
    assert not world.scheduler._watch._tasks
