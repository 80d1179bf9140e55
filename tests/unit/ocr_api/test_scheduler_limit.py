"""The adaptive limit against simulated servers, in virtual time."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from itertools import count

import pytest

from ocr_api.scheduler.circuit import Circuit
from ocr_api.scheduler.limit import Limit

MANY = 10**9


@dataclass
class Client:
    """One process of ours at the server."""

    limit: Limit
    in_flight: int = 0
    resting: int = 0
    answered: int = 0
    refused: int = 0
    levels: list[int] = field(default_factory=list)


@dataclass
class Simulation:
    """A server with so many places and no queue, and clients that have work without end."""

    most: int
    places: int
    seconds: float
    refused: float = 0.0
    clients: int = 1
    now: float = 0.0
    running: int = 0
    area: float = 0.0
    dice: random.Random = field(default_factory=lambda: random.Random(7))

    def run(self, until: float) -> list[Client]:
        self.events: list[tuple[float, int, str, Client, float]] = []
        self.numbers = count()
        clients = [Client(Limit(self.most)) for _ in range(self.clients)]
        for client in clients:
            self.fill(client)
        while self.now < until:
            now, _, kind, client, begun = heapq.heappop(self.events)
            self.area += self.running * (now - self.now)
            self.now = now
            self.end(client, kind, begun)
            if now > until / 4:
                client.levels.append(client.limit.value)
            self.fill(client)
        return clients

    def end(self, client: Client, kind: str, begun: float) -> None:
        if kind == "rested":
            client.resting -= 1
            return
        full = client.in_flight >= client.limit.value
        client.in_flight -= 1
        if kind == "answered":
            self.running -= 1
            client.answered += 1
            client.limit.answered(self.now - begun, self.now, full=full)
        else:
            client.refused += 1
            client.limit.refused(client.in_flight)
            client.resting += 1
            rest = min(0.25, client.limit.seconds or 0.25) * self.dice.uniform(0.5, 1)
            self.later(rest, "rested", client)

    def fill(self, client: Client) -> None:
        while client.in_flight + client.resting < client.limit.value:
            client.in_flight += 1
            if self.running >= self.places or self.dice.random() < self.refused:
                self.later(0.005, "refused", client)
            else:
                self.running += 1
                self.later(self.seconds * self.dice.lognormvariate(0, 0.3), "answered", client)

    def later(self, seconds: float, kind: str, client: Client) -> None:
        heapq.heappush(
            self.events, (self.now + seconds, next(self.numbers), kind, client, self.now)
        )


def mean(levels: list[int]) -> float:
    return sum(levels) / len(levels)


@pytest.mark.parametrize(("most", "seconds"), [(192, 5), (64, 1), (16, 0.5), (4, 0.5)])
def test_a_few_random_refusals_change_nothing(most: int, seconds: float) -> None:
    simulation = Simulation(most, MANY, seconds, refused=0.03)
    [client] = simulation.run(200)
    assert client.refused > 10
    assert min(client.levels) >= 0.8 * most
    assert simulation.area / simulation.now >= 0.9 * most


@pytest.mark.parametrize(
    ("most", "places", "seconds"), [(192, 32, 5), (192, 32, 0.5), (16, 4, 0.5), (64, 1, 0.5)]
)
def test_the_limit_comes_down_to_what_the_server_takes(
    most: int, places: int, seconds: float
) -> None:
    simulation = Simulation(most, places, seconds)
    [client] = simulation.run(200)
    assert mean(client.levels) == pytest.approx(places, abs=1 + places / 10)
    assert simulation.area / simulation.now >= 0.94 * places
    # Those refused at first are not in it; few are refused in the long run.
    assert client.refused - most < 0.6 * client.answered


def test_both_at_once() -> None:
    simulation = Simulation(192, 32, 5, refused=0.03)
    [client] = simulation.run(200)
    assert 0.75 * 32 <= mean(client.levels) <= 36


def test_several_processes_share_a_server() -> None:
    simulation = Simulation(192, 64, 5, clients=3)
    clients = simulation.run(1500)
    assert simulation.area / simulation.now >= 0.95 * 64
    shares = [mean(client.levels[-200:]) for client in clients]
    assert min(shares) >= 10


def test_the_limit_is_at_least_one_and_at_most_the_cards() -> None:
    limit = Limit(8)
    for _ in range(500):
        limit.refused(0)
        limit.timed_out()
    assert limit.value == 1
    for second in range(200):
        limit.answered(1, second, full=True)
    assert limit.value == 8
    assert Limit(0).value == 1


def test_what_was_not_full_does_not_grow() -> None:
    limit = Limit(8)
    limit.timed_out()
    assert limit.value == 7
    for second in range(100):
        limit.answered(1, second, full=False)
    assert limit.value == 7


def test_a_queue_at_the_server_lowers_the_limit_by_our_share() -> None:
    limit = Limit(100)
    for waiting in (150, 120, 80, 40, 25, 12):
        limit.loaded(100, waiting, 100)  # a burst that is being taken in
    assert limit.value == 100
    for _ in range(5):
        limit.loaded(100, 10, 100)  # a short queue keeps it busy
    assert limit.value == 100
    limit = Limit(100)
    for _ in range(5):
        limit.loaded(100, 100, 50)  # others have as many again, three times
    assert limit.value == 27
    limit.loaded(100, 100, 50)
    assert limit.value == 27  # what was sent before must end first


def test_a_circuit_opens_after_three_failures_in_a_row() -> None:
    circuit = Circuit()
    assert [circuit.failed(0), circuit.failed(0)] == [False, False]
    circuit.answered(0)
    assert [circuit.failed(0), circuit.failed(0), circuit.failed(0)] == [False, False, True]
    assert circuit.state == "suspect"
    assert not circuit.failed(0)
    circuit.ill(5)
    assert (circuit.state, circuit.next_look) == ("open", 5)
    circuit.well(9)
    assert (circuit.state, circuit.is_doubted) == ("closed", False)
    assert not any(circuit.failed(0) for _ in range(9))  # they began before


def test_doubt_doubles_until_there_is_an_answer() -> None:
    circuit = Circuit()
    waits = []
    for _ in range(7):
        while not circuit.failed(circuit.period):
            pass
        circuit.well(100)
        waits.append(circuit._doubted_until - 100)
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert circuit.is_shunned(129)
    assert not circuit.is_shunned(131)
    circuit.answered(circuit.period)
    assert not circuit.is_doubted
