"""Whatever happens in whatever order: the right one is next, no limit is passed, nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from files_api.kit.errors import AppError, EngineBusy, EngineUnavailable, PageFailed
from ocr_api.scheduler import Bounds, Share, Ticket, Turn
from ocr_api.scheduler.order import LANES, Line, Member
from tests.engines.scheduling import CARD, GOOD, ONE, TWO, World, settle

numbers = st.integers(0, 10**6)
shares = st.builds(
    Share, st.sampled_from("abc"), st.sampled_from([1, 100, 200]), st.sampled_from(LANES)
)


class Model:
    """The same order, written the slow way."""

    def __init__(self) -> None:
        self.members: list[tuple[Share, Member[int]]] = []
        self.weights: dict[str, int] = {}
        self.had: dict[str, float] = {}
        self.clock = 0.0
        self.served: list[Member[int]] = []
        """Who was served, the last one last."""

    def join(self, share: Share, member: Member[int]) -> None:
        if share.org not in self.weights:
            self.had[share.org] = self.clock
        self.weights[share.org] = share.weight
        self.members.append((share, member))

    def serve(self, member: Member[int]) -> None:
        [org] = [share.org for share, one in self.members if one is member]
        self.clock = max(self.clock, self.had[org])
        self.had[org] += 1 / self.weights[org]
        self.served = [one for one in self.served if one is not member] + [member]

    def held(self, org: str) -> int:
        return sum(member.held for share, member in self.members if share.org == org)

    def key(self, share: Share, member: Member[int]) -> tuple[Any, ...]:
        held = self.held(share.org)
        load = (held + 1) / self.weights[share.org] if held else 0
        had = self.had[share.org]
        return (
            LANES.index(share.lane),
            load,
            had,
            member.held,
            self.served.index(member) if member in self.served else -1,
            member.number,
        )

    def first(self, accepts: Callable[[int], bool]) -> int | None:
        waiting = sorted(self.members, key=lambda one: self.key(*one))
        return next((w for _, one in waiting for w in one.waiting if accepts(w)), None)


@given(st.lists(st.tuples(st.sampled_from("jwwwnnngx"), numbers, shares), max_size=60))
def test_the_first_by_the_rules_is_next(steps: list[tuple[str, int, Share]]) -> None:
    line: Line[int] = Line()
    model = Model()
    for number, (step, dice, share) in enumerate(steps):
        if step == "j" or not model.members:
            model.join(share, line.join(share))
            continue
        _, member = model.members[dice % len(model.members)]
        if step == "w":
            line.wait(member, number)
        elif step == "x" and member.waiting:
            line.drop(member, member.waiting[dice % len(member.waiting)])
        elif step == "g" and member.held:
            member.count(-1)
        elif step == "n":

            def accepts(waiter: int, dice: int = dice) -> bool:
                return dice % 3 > 0 or waiter % 2 == 0

            wanted = model.first(accepts)
            found = line.next(accepts)
            assert (found and found[1]) == wanted
            if found:
                model.serve(found[0])
                found[0].count(1)
    assert sorted(line.everybody()) == sorted(w for _, one in model.members for w in one.waiting)


@settings(deadline=None, max_examples=25)
@given(st.lists(shares, min_size=2, max_size=8), st.integers(1, 5))
def test_r15_nobody_starves(documents: list[Share], places: int) -> None:
    """Organisations get places by weight, however few there are, and their documents alike."""
    line: Line[int] = Line()
    weights = {share.org: share.weight for share in documents}
    members = [
        (share.org, line.join(Share(share.org, weights[share.org], "interactive")))
        for share in documents
    ]
    for _, member in members:
        line.wait(member, 0)
    at_work: list[Member[int]] = []
    served = {member: 0 for _, member in members}
    rounds = 3000
    for _ in range(rounds):
        if len(at_work) == places:
            at_work.pop(0).count(-1)
        found = line.next(lambda _: True)
        assert found is not None
        found[0].count(1)
        at_work.append(found[0])
        served[found[0]] += 1
        line.wait(found[0], 0)
    for org, weight in weights.items():
        counts = [served[member] for name, member in members if name == org]
        assert max(counts) - min(counts) <= 2
        # With few places each holds one, or none, whatever its weight.
        due = rounds * weight / sum(weights.values())
        assert sum(counts) >= 0.9 * due - 5 or places > 1
        assert sum(counts) >= min(rounds // 300, due // 2)


class Driver:
    """Does to a scheduler whatever it is told, and checks it after each step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tickets: list[Ticket] = []
        self.turns: list[Turn] = []
        self.asked: list[asyncio.Future[Any]] = []

    def pick(self, dice: int, things: list[Any]) -> Any:
        return things[dice % len(things)] if things else None

    async def ask(self, _: str | None) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.asked.append(future)
        try:
            return await future
        finally:
            self.asked.remove(future)

    async def turn(self, ticket: Ticket) -> None:
        self.turns.append(await ticket.turn())

    async def read(self, ticket: Ticket, urls: tuple[str, ...]) -> None:
        with await ticket.turn():
            await ticket.ask(CARD, urls, self.ask)

    def step(self, what: str, dice: int, share: Share) -> None:
        world, urls = self.world, ((ONE,), (TWO,), (ONE, TWO))[dice % 3]
        ticket = self.pick(dice, self.tickets)
        if what == "admit" or ticket is None:
            try:
                self.tickets.append(
                    world.admit(
                        share.org, dice % 7, urls=urls, weight=share.weight, lane=share.lane
                    )
                )
            except EngineUnavailable:
                assert all(world.engine.looked[url] for url in urls)
        elif what == "turn":
            world.run(self.turn(ticket))
        elif what == "read":
            world.run(self.read(ticket, urls))
        elif what == "ask":
            world.run(ticket.ask(CARD, urls, self.ask))
        elif what == "cancel":
            self.pick(dice, world.tasks or [asyncio.Future()]).cancel()
        elif what == "done" and self.turns:
            with self.turns.pop(dice % len(self.turns)):
                pass
        elif what == "ill":
            world.engine.ill = set(((), (ONE,), (TWO,), (ONE, TWO))[dice % 4])
        else:
            self.end(what, dice)

    def end(self, what: str, dice: int) -> None:
        """End a question, if one is under way."""
        errors: dict[str, type[AppError]] = {
            "busy": EngineBusy,
            "away": EngineUnavailable,
            "fail": PageFailed,
        }
        future = self.pick(dice, self.asked)
        if future is None or future.done():
            return
        if what == "answer":
            future.set_result(GOOD)
        elif error := errors.get(what):
            future.set_exception(error())

    def check(self) -> None:
        scheduler = self.world.scheduler
        for places in scheduler._places_of.values():
            for replica in places.all():
                assert 0 <= replica.in_flight <= CARD.pages_in_flight
                assert replica.resting >= 0
                for want in places.line.everybody():
                    assert not (replica.has_room and replica in want.candidates())
                    assert not want.is_hopeless()
        for target in scheduler._targets.values():
            waits = any(not future.done() for future in target.line.everybody())
            assert not (waits and target.working < target.most)
            assert target.working <= CARD.pages_in_flight * 2 + 1
        held = sum(one.in_flight for one in scheduler._replicas())
        assert len(self.asked) == held


WHAT = ["admit", "turn", "turn", "read", "read", "ask", "ask", "answer", "answer", "answer"]
WHAT += ["cancel", "cancel", "done", "done", "busy", "away", "away", "away", "fail", "ill"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(WHAT), numbers, shares, st.booleans()), max_size=80))
def test_whatever_happens_no_limit_is_passed_and_nothing_leaks(
    steps: list[tuple[str, int, Share, bool]],
) -> None:
    async def run() -> None:
        world = World(bounds=Bounds(ahead=1))
        driver = Driver(world)
        for what, dice, share, pauses in steps:
            driver.step(what, dice, share)
            if pauses:  # else the next step comes before anybody noticed
                await settle()
                driver.check()
        for _ in range(3):  # cancelled or not, what is under way ends
            for future in driver.asked:
                if not future.done():
                    future.set_result(GOOD)
            await settle()
        for turn in driver.turns:
            with turn:
                pass
        driver.turns.clear()
        for task in world.tasks:
            task.cancel()
        await settle()
        for turn in driver.turns:
            with turn:
                pass
        await world.end()

    asyncio.run(run())
