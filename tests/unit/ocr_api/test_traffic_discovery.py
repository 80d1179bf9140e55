"""What names of servers stand for, and servers that nobody names any more."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from files_api.kit import metrics
from files_api.kit.errors import EngineUnavailable
from ocr_api.scheduler import Share
from ocr_api.traffic.discovery import KEPT_SECONDS, MOST, Discovery
from tests.engines.scheduling import CARD, GOOD, Clock, World, settle

LONG = "a" * 70
"""No name may have so long a part: asking fails before anybody is asked."""
NAME = "dns+http://vllm:8000/v1"
ONE, TWO, THREE = (f"http://10.0.0.{number}:8000/v1" for number in (1, 2, 3))


class Names:
    """A name server that knows what a test says."""

    def __init__(self, **known: tuple[str, ...]) -> None:
        self.known: dict[str, tuple[str, ...]] = known
        self.asked: list[tuple[str, int]] = []
        self.silence: OSError | None = None

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        if self.silence is not None:
            raise self.silence
        if host not in self.known:
            raise OSError(-2, "Name or service not known")
        return self.known[host]


def made(*hosts: str) -> tuple[Discovery, Names, Clock]:
    clock, names = Clock(), Names(vllm=hosts)
    return Discovery(clock, names), names, clock


async def test_each_address_of_a_name_is_a_server() -> None:
    found, names, _ = made("10.0.0.2", "10.0.0.1", "10.0.0.2", "fd00::7", "fe80::1%eth0")
    await found.look([NAME, "http://plain:1/v1"])
    assert found.addresses((NAME,)) == (ONE, TWO, "http://[fd00::7]:8000/v1")
    assert found.addresses(("http://plain:1/v1", NAME, ONE)) == (
        "http://plain:1/v1",
        ONE,
        TWO,
        "http://[fd00::7]:8000/v1",
    )
    assert names.asked == [("vllm", 8000)]


async def test_a_name_without_a_port_and_a_crowd() -> None:
    hosts = [f"10.0.{number // 250}.{number % 250}" for number in range(2 * MOST)]
    found, names, _ = made(*hosts)
    await found.look(["dns+http://vllm/v1"])
    urls = found.addresses(("dns+http://vllm/v1",))
    assert len(urls) == MOST
    assert urls[0] == "http://10.0.0.0/v1"
    assert names.asked == [("vllm", 80)]


async def test_with_tls_the_name_is_one_server() -> None:
    found, names, _ = made("10.0.0.1")
    await found.look(["dns+https://vllm:8000/v1"])
    assert found.addresses(("dns+https://vllm:8000/v1",)) == ("https://vllm:8000/v1",)
    assert names.asked == []


async def test_a_name_that_is_not_found_stands_for_itself() -> None:
    """So that asking fails as a server that is away does, and not as an engine of ours."""
    found, _, _ = made()
    assert found.addresses((NAME,)) == ("http://vllm:8000/v1",)
    await found.look([NAME])
    assert found.addresses((NAME,)) == ("http://vllm:8000/v1",)


@pytest.mark.parametrize("gone", ["nothing", "error"])
async def test_the_last_addresses_stay_for_a_minute(
    gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    found, names, clock = made("10.0.0.1")
    await found.look([NAME])
    names.known = {"vllm": ()} if gone == "nothing" else {}
    for _ in range(3):
        clock.now += KEPT_SECONDS / 3
        await found.look([NAME])
        assert found.addresses((NAME,)) == (ONE,)
    clock.now += 0.1
    await found.look([NAME])
    assert found.addresses((NAME,)) == ("http://vllm:8000/v1",)
    assert [record.msg for record in caplog.records].count("service_not_found") == 1
    names.known = {"vllm": ("10.0.0.2",)}
    await found.look([NAME])
    assert found.addresses((NAME,)) == (TWO,)


async def test_a_name_server_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocr_api.traffic.discovery.SECONDS", 0.01)

    async def hang(host: str, port: int) -> Sequence[str]:
        raise AssertionError(await asyncio.Event().wait(), host, port)

    found = Discovery(Clock(), hang)
    await found.look([NAME])
    assert found.addresses((NAME,)) == ("http://vllm:8000/v1",)


async def test_names_that_are_not_named_any_more_are_forgotten() -> None:
    found, names, _ = made("10.0.0.1")
    await found.look([NAME])
    await found.add([NAME, "dns+http://other/v1"])
    assert names.asked == [("vllm", 8000), ("other", 80)]
    await found.look([])
    assert found.addresses((NAME,)) == ("http://vllm:8000/v1",)


async def test_the_system_finds_this_machine() -> None:
    found = Discovery(Clock())
    await found.look(
        ["dns+http://127.0.0.1:5/v1", "dns+http://[::1]:5/v1", f"dns+http://{'a' * 70}"]
    )
    urls = ("dns+http://127.0.0.1:5/v1", "dns+http://[::1]:5/v1")
    assert found.addresses(urls) == ("http://127.0.0.1:5/v1", "http://[::1]:5/v1")


# --- the scheduler --------------------------------------------------------------------------------


class Service:
    """A name in the scheduler whose servers a test changes."""

    def __init__(self, *urls: str) -> None:
        self.urls = urls
        self.world = World(addresses=lambda _: self.urls, probes=(0.0, 0.0))
        self.ticket = self.world.admit(urls=(NAME,))

    def move(self, *urls: str) -> None:
        self.urls = urls
        self.world.scheduler.forget({CARD.id: urls})

    async def ask(self) -> str | None:
        with await self.ticket.turn():
            await self.ticket.ask(CARD, (NAME,), self.world.answers(GOOD))
        return self.world.asked[-1]

    def shown(self) -> set[str]:
        """Return the servers that Prometheus is shown."""
        every = {ONE, TWO, THREE}
        page = metrics.page().decode()
        return {url for url in every if f'in_flight{{model="m",replica="{url[7:-3]}"}}' in page}


async def test_r18_a_document_outlives_the_servers_that_it_began_with() -> None:
    """A rolling replace of a model's pods: each page asks those that are there."""
    service = Service(ONE, TWO)
    assert {await service.ask(), await service.ask()} == {ONE, TWO}
    service.move(THREE)
    assert await service.ask() == THREE
    await service.world.end()


async def test_pages_that_wait_for_turns_get_those_of_new_servers() -> None:
    service = Service(ONE)
    world, ticket = service.world, service.ticket
    most = CARD.pages_in_flight + world.scheduler._bounds.ahead
    turns = [world.run(ticket.turn()) for _ in range(most + 1)]
    await settle()
    assert [turn.done() for turn in turns].count(False) == 1
    service.move(ONE, TWO)
    await settle()
    for turn in turns:
        with turn.result():
            pass
    await world.end()


async def test_servers_that_nobody_names_are_neither_looked_at_nor_shown() -> None:
    service = Service(ONE)
    world = service.world
    await service.ask()
    await world.scheduler._watch.look()
    assert service.shown() == {ONE}
    service.move(TWO)
    assert service.shown() == set()
    assert world.scheduler.standing(CARD.id, ONE) is None
    await world.scheduler._watch.look()
    assert service.shown() == {TWO}
    await world.end()


async def test_a_server_with_work_is_forgotten_when_it_has_ended() -> None:
    service = Service(ONE)
    world = service.world
    asking = world.run(service.ticket.ask(CARD, (NAME,), world.held()))
    await settle()
    service.move(TWO)
    standing = world.scheduler.standing(CARD.id, ONE)
    assert standing == {"in_flight": 1, "limit": 4, "circuit": "closed"}
    world.answer()
    assert await asking is GOOD
    service.move(TWO)
    assert world.scheduler.standing(CARD.id, ONE) is None
    await world.end()


async def test_a_server_that_is_away_is_not_looked_at_for_ever() -> None:
    service = Service(ONE)
    world = service.world
    world.engine.ill.add(ONE)
    with pytest.raises(EngineUnavailable):
        await service.ticket.ask(CARD, (NAME,), world.answers(EngineUnavailable()))
    await world.engine.looks.wait()
    service.move(TWO)
    _, going_on = await asyncio.wait(world.scheduler._watch._tasks, timeout=5)
    assert not going_on
    await world.end()


async def test_targets_of_routes_that_are_gone_are_forgotten() -> None:
    world = World()
    for number in range(20):
        with world.scheduler.admit(Share("org"), CARD, (f"http://{number}/v1",), 1):
            pass
    world.admit(urls=("http://busy/v1",))
    world.scheduler.forget({CARD.id: ("http://3/v1",)})
    urls = {urls for _, urls in world.scheduler._targets}
    assert urls == {("http://3/v1",), ("http://busy/v1",)}
    await world.end()


async def test_silence_of_the_name_servers_takes_no_server_away() -> None:
    """However long: only a name that is said to be gone is given up."""
    found, names, clock = made("10.0.0.1")
    await found.look([NAME])
    for names.silence in (socket.gaierror(socket.EAI_AGAIN, "try again"), TimeoutError()):
        for _ in range(3):
            clock.now += KEPT_SECONDS - 1
            await found.look([NAME])
        assert found.addresses((NAME,)) == (ONE,)
    names.silence = socket.gaierror(socket.EAI_NONAME, "no such name")
    for _ in range(2):
        clock.now += KEPT_SECONDS - 1
        await found.look([NAME])
    assert found.addresses((NAME,)) == ("http://vllm:8000/v1",)
