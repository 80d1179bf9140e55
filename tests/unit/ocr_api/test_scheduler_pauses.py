"""Pages that waited are sent one after the other, so that their answers do not end together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from model_registry.card import Card
from ocr_api.scheduler import Ticket
from tests.engines.scheduling import GOOD, ONE, World, make_card, settle

CARD = make_card(pages_in_flight=8)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.end()


def ask(world: World, ticket: Ticket, count: int, name: str = "", card: Card = CARD) -> None:
    for _ in range(count):
        world.run(ticket.ask(card, (ONE,), world.held(name)))


async def busy(world: World, seconds: float, card: Card = CARD) -> Ticket:
    """Fill all places, with as many pages in the queue; answers take so long."""
    ticket = world.admit(card=card)
    ask(world, ticket, 2 * card.pages_in_flight, "long", card)
    await settle()
    assert world.under_way == card.pages_in_flight
    world.clock.now += seconds
    return ticket


async def test_places_that_are_freed_together_are_not_filled_together(world: World) -> None:
    await busy(world, seconds=100)
    world.answer()
    await settle()
    assert world.under_way == 1, "the next one goes a second later"


async def test_a_new_document_goes_in_the_pause_and_its_other_pages_wait(world: World) -> None:
    long = await busy(world, seconds=100)
    world.answer()
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
    ask(world, world.admit("much", card=CARD), 7)
    ask(world, world.admit("little", card=CARD), 4)
    await settle()
    world.clock.now += 100
    world.answer(2)
    await settle()
    assert world.under_way == 7, "one of the little one's, then a pause"
    ask(world, world.admit("much", card=CARD), 1)
    await settle()
    assert world.under_way == 7
    ask(world, world.admit("none", card=CARD), 1)
    await settle()
    assert world.under_way == 8


async def test_after_each_pause_one_more_goes(world: World) -> None:
    ticket = world.admit(card=CARD)
    ask(world, ticket, 8)
    await settle()
    waiting = [world.run(ticket.ask(CARD, (ONE,), world.answers(GOOD))) for _ in range(20)]
    world.clock.now += 0.01
    world.answer(7)
    async with asyncio.timeout(30):
        assert await asyncio.gather(*waiting) == [GOOD] * 20


async def test_a_few_places_are_filled_at_once(world: World) -> None:
    few = make_card(pages_in_flight=7)
    await busy(world, seconds=100, card=few)
    world.answer()
    await settle()
    assert world.under_way == 7
