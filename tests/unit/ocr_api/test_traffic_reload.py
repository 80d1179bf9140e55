"""The routes file changes while the service runs: a right one is taken, a wrong one is not."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from files_api.kit import metrics
from model_registry.registry import Registry, load
from ocr_api.traffic import Traffic
from ocr_api.traffic.reload import Reloader
from tests.engines.scheduling import Clock

CARD = """\
id: {name}
engine: any
parser: plain
name: x
description: x
licence: x
source: x
embedded: true
"""


def routes(a: int = 1, b: int = 1, **more: Any) -> str:
    targets = [{"card": "a", "weight": a}, {"card": "b", "weight": b}]
    rule = {"pages": 2, "seconds": 60}
    mix = {"targets": targets, "fallback": rule if a and b else None}
    return json.dumps({"default": "a", "routes": {"mix": mix}, **more})


class World:
    """Cards and a routes file, and what looks after it."""

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self.models = folder / "models"
        self.models.mkdir()
        for name in ("a", "b"):
            (self.models / f"{name}.yaml").write_text(CARD.format(name=name))
        self.path = path or folder / "routes.yaml"
        if path is None:
            self.path.write_text(routes())
        self.loaded = 0
        self.registry = self.load()
        self.traffic = Traffic(self.registry, clock=Clock())
        self.reloader = Reloader(self.path, self.load, self.traffic, every=0.001)

    def load(self) -> Registry:
        self.loaded += 1
        return load(self.models, self.path, engines=["any"], parsers=["plain"])

    async def taken(self) -> None:
        """Wait until other routes are taken."""
        taken = asyncio.Event()
        self.traffic.on_look.append(lambda _: taken.set())
        await asyncio.wait_for(taken.wait(), 10)

    def weights(self) -> list[int]:
        return [target.weight for target in self.registry.routes()["mix"].targets]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.reloader.look()
    yield world
    await world.reloader.close()


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(record.msg, getattr(record, "facts", {})) for record in caplog.records]


def counted(outcome: str) -> float:
    name = f'ocr_routes_reloads_total{{outcome="{outcome}"}} '
    lines = metrics.page().decode().splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


async def test_another_content_is_taken(world: World, caplog: pytest.LogCaptureFixture) -> None:
    before = counted("ok")
    world.path.write_text(routes(1, 9, aliases={"also": "b"}))
    with caplog.at_level("INFO"):
        await world.reloader.look()
        await world.reloader.look()
    assert world.weights() == [1, 9]
    assert world.registry.choose("also", "").card.id == "b"
    assert events(caplog) == [
        ("routes_reloaded", {"added": [], "removed": [], "changed": ["b", "mix"]})
    ]
    assert counted("ok") == before + 1


async def test_nothing_is_loaded_or_said_while_the_file_stays(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = world.loaded
    world.path.touch()
    os.utime(world.path, (1, 1))
    for _ in range(5):
        await world.reloader.look()
    assert (world.loaded, events(caplog)) == (loaded, [])


async def test_names_come_and_go(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.path.write_text('{"default": "b", "routes": {"new": {"targets": [{"card": "a"}]}}}')
    with caplog.at_level("INFO"):
        await world.reloader.look()
    [(_, facts)] = events(caplog)
    assert facts == {"added": ["new"], "removed": ["mix"], "changed": ["a", "b"]}
    assert world.traffic.picture()["file"]["wrong"] is None


@pytest.mark.parametrize("text", ["default: [", "default: nobody\nroutes: {a: {targets: []}}"])
async def test_a_wrong_file_changes_nothing_and_is_said_once(
    text: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    before = counted("refused")
    world.path.write_text(text)
    for _ in range(5):
        await world.reloader.look()
    [(event, facts)] = events(caplog)
    assert event == "routes_refused"
    assert facts["problems"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert world.traffic.picture()["file"]["wrong"] == facts["problems"]
    assert world.weights() == [1, 1]
    assert counted("refused") == before + 1
    assert "ocr_routes_wrong 1.0" in metrics.page().decode()
    world.path.write_text(routes())  # as it was: nothing changes, and all is well again
    await world.reloader.look()
    assert world.traffic.picture()["file"]["wrong"] is None
    assert "ocr_routes_wrong 0.0" in metrics.page().decode()


async def test_every_problem_of_a_wrong_file_is_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.path.write_text('{"default": "nobody", "aliases": {"x": "nowhere"}}')
    await world.reloader.look()
    [(_, facts)] = events(caplog)
    assert len(facts["problems"]) == 2


async def test_a_file_that_is_missing_for_a_moment_is_no_change(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    text = world.path.read_text()
    world.path.unlink()
    await world.reloader.look()
    world.path.write_text(text)
    await world.reloader.look()
    assert events(caplog) == []
    world.path.unlink()
    await world.reloader.look()
    await world.reloader.look()
    await world.reloader.look()
    assert [event for event, _ in events(caplog)] == ["routes_refused"]
    assert world.weights() == [1, 1]


def config_map(folder: Path, number: int, text: str) -> None:
    """Write as the kubelet does: a new folder, a link to it, swapped in by a rename."""
    data = folder / f"..2026_{number}"
    data.mkdir()
    (data / "routes.yaml").write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(data.name)
    link.rename(folder / "..data")
    if number:
        (folder / f"..2026_{number - 1}" / "routes.yaml").unlink()


async def test_a_config_map_is_swapped(tmp_path: Path) -> None:
    mounted = tmp_path / "routes"
    mounted.mkdir()
    config_map(mounted, 0, routes())
    (mounted / "routes.yaml").symlink_to("..data/routes.yaml")
    world = World(tmp_path, mounted / "routes.yaml")
    await world.reloader.look()
    config_map(mounted, 1, routes(0, 1))
    await world.reloader.look()
    assert world.weights() == [0, 1]


async def test_the_file_is_watched(world: World) -> None:
    await world.reloader.start()
    world.path.write_text(routes(3, 4))
    await world.taken()
    assert world.weights() == [3, 4]


async def test_what_changed_between_the_start_and_the_first_look_is_taken(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.path.write_text(routes(3, 4))
    await world.reloader.look()
    assert world.weights() == [3, 4]


async def test_sighup_has_the_file_read_and_is_left_as_it_was(world: World) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    world.reloader._every = 3600  # so that nothing else looks
    await world.reloader.start()
    await asyncio.sleep(0)  # now the watch's first look is under way,
    await world.reloader.look()  # and done before this one
    world.path.write_text(routes(3, 4))
    os.kill(os.getpid(), signal.SIGHUP)
    await world.taken()
    assert world.weights() == [3, 4]
    await world.reloader.close()
    assert signal.signal(signal.SIGHUP, before) is signal.SIG_IGN


async def test_who_asks_is_told_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.path.write_text("default: nobody")
    assert not await world.reloader.reload()
    assert not await world.reloader.reload()
    await world.reloader.look()
    assert [event for event, _ in events(caplog)] == ["routes_refused"] * 2


async def test_cards_are_those_of_the_start(world: World) -> None:
    """Their engines, parsers and servers were made then; a new one needs a restart."""
    (world.models / "c.yaml").write_text(CARD.format(name="c"))
    path = world.models / "a.yaml"
    path.write_text(path.read_text().replace("licence: x", "licence: y"))
    world.path.write_text(routes(3, 4))
    await world.reloader.look()
    assert world.traffic.file.wrong == [
        f"{name}: the card is not that of the start; restart the service" for name in "ac"
    ]
    assert world.weights() == [1, 1]


async def test_a_fault_while_it_loads_does_not_end_the_watch(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Registry:
        raise RuntimeError("secret")

    monkeypatch.setattr(world.reloader, "_load", fail)
    world.path.write_text(routes(3, 4))
    await world.reloader.look()
    assert world.traffic.file.wrong == ["the files cannot be read (RuntimeError)"]
    assert "secret" not in caplog.text
    monkeypatch.setattr(world.reloader, "_load", partial(World.load, world))
    await world.reloader.reload()
    assert world.weights() == [3, 4]


async def test_what_is_known_of_targets_stays(world: World) -> None:
    choice = world.registry.choose("mix", "key")
    world.traffic.note(choice, "error", 2)
    assert choice.target is not None
    assert world.traffic.is_away("mix", choice.target)
    world.path.write_text(routes(5, 6))
    await world.reloader.look()
    assert world.traffic.is_away("mix", choice.target)
    assert world.registry.choose("mix", "key").card.id != choice.card.id
