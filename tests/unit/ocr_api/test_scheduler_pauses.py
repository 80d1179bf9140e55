"""Pages that waited are sent one after the other, so that their answers do not end together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from model_registry.card import Card
from ocr_api.scheduler import Ticket, replica
from tests.engines.scheduling import GOOD, ONE, TWO, World, make_card, settle

PLACES = 16
CARD = make_card(pages_in_flight=PLACES)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(replica, "_LONGEST_PAUSE", 60.0)  # the test's own seconds are no part of it
    world = World()
    yield world
    await world.end()


def ask(
    world: World,
    ticket: Ticket,
    count: int,
    name: str = "",
    card: Card = CARD,
    urls: tuple[str, ...] = (ONE,),
) -> None:
    for _ in range(count):
        world.run(ticket.ask(card, urls, world.held(name)))


async def busy(world: World, seconds: float, card: Card = CARD) -> Ticket:
    """Fill all places, with as many pages in the queue; answers take so long."""
    ticket = world.admit(card=card)
    ask(world, ticket, 2 * card.pages_in_flight, "long", card)
    await settle()
    assert world.under_way == card.pages_in_flight
    world.clock.now += seconds
    return ticket


async def test_places_that_are_freed_together_are_not_filled_together(world: World) -> None:
    await busy(world, seconds=2000)
    world.answer(8)
    await settle()
    assert world.under_way == PLACES - 8 + 1


async def test_a_new_document_goes_in_the_pause_and_its_other_pages_wait(world: World) -> None:
    long = await busy(world, seconds=2000)
    world.answer(8)
    await settle()
    world.order.clear()
    ask(world, world.admit(card=CARD), 3, "new")
    await settle()
    assert world.order == ["new"]
    ask(world, world.admit(card=CARD), 1, "newer")
    ask(world, long, 1, "long")
    await settle()
    assert world.order == ["new", "newer"]


async def test_in_the_pause_nobody_overtakes_who_is_next(world: World) -> None:
    """A new document of an organisation that has more at work than one whose page waits."""
    ask(world, world.admit("much", card=CARD), PLACES - 1)
    ask(world, world.admit("little", card=CARD), 4)
    await settle()
    world.clock.now += 2000
    world.answer(2)
    await settle()
    assert world.under_way == PLACES - 1, "one of the little one's, then a pause"
    ask(world, world.admit("much", card=CARD), 1)
    await settle()
    assert world.under_way == PLACES - 1
    ask(world, world.admit("none", card=CARD), 1)
    await settle()
    assert world.under_way == PLACES


async def test_new_documents_spread_over_servers_in_a_pause(world: World) -> None:
    urls = (ONE, TWO)
    ask(world, world.admit(card=CARD, urls=urls), 4 * PLACES, urls=urls)
    await settle()
    world.clock.now += 2000
    world.answer()
    await settle()
    world.asked.clear()
    for _ in range(6):
        ask(world, world.admit(card=CARD, urls=urls), 1, urls=urls)
    await settle()
    assert Counter(world.asked) == {ONE: 3, TWO: 3}


async def test_after_each_pause_one_more_goes(world: World) -> None:
    ticket = world.admit(card=CARD)
    ask(world, ticket, PLACES)
    await settle()
    waiting = [world.run(ticket.ask(CARD, (ONE,), world.answers(GOOD))) for _ in range(40)]
    world.clock.now += 0.01
    world.answer(PLACES - 1)
    async with asyncio.timeout(30):
        assert await asyncio.gather(*waiting) == [GOOD] * 40


async def test_a_few_places_are_filled_at_once(world: World) -> None:
    few = make_card(pages_in_flight=PLACES - 1)
    await busy(world, seconds=2000, card=few)
    world.answer()
    await settle()
    assert world.under_way == PLACES - 1


async def test_how_long_a_pause_is(world: World) -> None:
    """Part of the time in which a place becomes free, by the mean or, if less, the newest."""
    await busy(world, seconds=0)
    [server] = world.scheduler._replicas()
    assert server.spacing() == 0, "nothing was answered yet"
    server.limit.answered(100.0, 0.0, full=False)
    assert server.spacing() == pytest.approx(0.6 * 100 / PLACES)
    server.limit.answered(1.0, 0.0, full=False)
    assert server.spacing() == pytest.approx(0.6 * 1 / PLACES)
    server.in_flight, before = PLACES // 4, server.in_flight
    assert server.spacing() == 0
    server.in_flight = before
    server.limit.answered(1e6, 0.0, full=False)
    assert server.spacing() == 60.0
