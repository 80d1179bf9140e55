"""The routes of a running service: changed while it reads, left by themselves, and shown."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.durability.process import Recto
from tests.e2e.conftest import recto
from tests.e2e.reading import SMALL, Service, Standin, pdf, serving, standin, until

ROUTE = "house-ocr"
PAGES = 3


def table(one: Standin, other: Standin, weights: tuple[int, int], **more: Any) -> str:
    """Return a routes file with the two stand-ins as the targets of one route."""
    targets = [
        {"card": SMALL, "urls": [f"{engine.base}/v1"], "weight": weight}
        for engine, weight in zip((one, other), weights, strict=True)
    ]
    route = {"sticky": "request", "targets": targets, **more}
    return json.dumps({"default": SMALL, "routes": {ROUTE: route}})


class Fleet:
    """A service, its two servers, and its routes file."""

    def __init__(self, service: Service, path: Path, one: Standin, other: Standin) -> None:
        self.service, self.path, self.one, self.other = service, path, one, other
        self._http = httpx.Client(base_url=service.recto.base)

    def close(self) -> None:
        self._http.close()

    def route(self) -> dict[str, Any] | None:
        """Return how the route works now; None before there is one."""
        routes = self._http.get("/v1/routes").json()["data"]
        return next((route for route in routes if route["name"] == ROUTE), None)

    def write(self, weights: tuple[int, int], **more: Any) -> None:
        """Change the routes file as an editor does, and wait until the service has seen it."""
        new = self.path.with_suffix(".new")
        new.write_text(table(self.one, self.other, weights, **more))
        new.rename(self.path)

        def is_seen() -> bool:
            route = self.route()
            return route is not None and [one["weight"] for one in route["targets"]] == [*weights]

        until(is_seen)

    def read(self, name: str) -> httpx.Response:
        return self.service.post(pdf(name, PAGES), model=ROUTE)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with (
        standin("--mode", "fixed", "--delay", "0.05") as one,
        standin("--mode", "fixed", "--delay", "0.05") as other,
        serving(tmp_path, [one.base]) as service,
    ):
        made = Fleet(service, tmp_path / "small-routes.yaml", one, other)
        yield made
        made.close()


def crowd(fleet: Fleet, turn: Callable[[], None]) -> list[httpx.Response]:
    """Read documents side by side while something is done; return all answers."""
    ending = False

    def client(number: int) -> list[httpx.Response]:
        answers: list[httpx.Response] = []
        while not ending:
            answers.append(fleet.read(f"client {number}, document {len(answers)}"))
        return answers

    with ThreadPoolExecutor(24) as pool:
        clients = [pool.submit(client, number) for number in range(24)]
        try:
            turn()
        finally:
            ending = True
        return [answer for each in clients for answer in each.result()]


@pytest.mark.shared
def test_r18_weights_change_under_load_and_no_request_is_lost(fleet: Fleet) -> None:
    fleet.write((100, 0))

    def turn() -> None:
        fleet.one.until(lambda now: now["in_flight"] > 0)
        fleet.write((50, 50))
        fleet.other.until(lambda now: now["in_flight"] > 0)
        fleet.write((0, 100))

    answers = crowd(fleet, turn)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["model"] for answer in answers} == {ROUTE}
    assert all(len(answer.json()["pages"]) == PAGES for answer in answers)
    before = len(fleet.one.log())
    for number in range(10):
        assert fleet.read(f"later {number}").status_code == 200
    assert len(fleet.one.log()) == before
    assert len(fleet.other.log()) >= 10 * PAGES
    log = fleet.service.recto.log.read_text()
    assert log.count('"routes_reloaded"') == 3
    assert "routes_refused" not in log


@pytest.mark.shared
def test_a_target_whose_answers_fail_is_left_out_by_itself(fleet: Fleet) -> None:
    fleet.other.fault("do=http,status=500")
    fleet.write((50, 50), fallback={"errors": 0.5, "pages": 6, "seconds": 600})

    def is_away() -> bool:
        fleet.read(f"at {time.monotonic()}")
        route = fleet.route()
        return route is not None and route["targets"][1]["away"] is not None

    until(is_away)
    answers = [fleet.read(f"after {number}") for number in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 10
    route = fleet.route()
    assert route is not None
    assert [target["share"] for target in route["targets"]] == [1.0, 0.0]
    assert route["targets"][1]["away"]["reason"] == "errors"
    shown = fleet.service.metrics()
    assert f'ocr_route_target_away{{model="{SMALL}",route="{ROUTE}"}} 1.0' in shown
    counted = f'{{model="{SMALL}",reason="errors",route="{ROUTE}"}} 1.0'
    assert f"ocr_route_fallbacks_total{counted}" in shown
    log = fleet.service.recto.log.read_text()
    assert log.count('"target_away"') == 1
    asked = len(fleet.other.log())
    assert fleet.read("at last").status_code == 200
    assert len(fleet.other.log()) == asked


@pytest.mark.shared
def test_a_wrong_file_changes_nothing(fleet: Fleet) -> None:
    fleet.write((100, 0))
    fleet.path.write_text("default: [")
    until(lambda: "ocr_routes_wrong 1.0" in fleet.service.metrics())
    assert fleet.read("a document").status_code == 200
    done = recto(fleet.path.parent, "routes", "--url", fleet.service.recto.base)
    assert done.returncode == 0
    assert "The routes file changed and is wrong" in done.stdout
    assert ROUTE in done.stdout


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Recto]:
    service = Recto(tmp_path)
    service.start()
    yield service
    service.close()


def test_sighup_has_the_routes_read_and_ends_nothing(served: Recto) -> None:
    """The file is as it was, so that only the signal can be why it was read."""
    os.kill(served.pid, signal.SIGHUP)
    until(lambda: '"routes_reloaded"' in served.log.read_text())
    assert httpx.get(f"{served.base}/livez").status_code == 200
    served.stop()


def test_the_command_shows_the_live_picture(served: Recto, tmp_path: Path) -> None:
    done = recto(tmp_path, "routes", "--url", served.base)
    assert (done.returncode, done.stderr) == (0, "")
    head, line = done.stdout.splitlines()
    assert head.split()[:5] == ["NAME", "TARGET", "WEIGHT", "SHARE", "STATE"]
    assert line.split() == [
        *("echo", "(default)", "echo", "100", "100.0%", "in", "use"),
        *("0", "-", "-", "-", "in", "this", "process"),
    ]
    done = recto(tmp_path, "routes", "--url", f"{served.base}/v1/", "--json")
    picture = json.loads(done.stdout)
    assert picture["live"] is True
    assert [route["name"] for route in picture["data"]] == ["echo"]


def test_without_a_service_the_command_says_what_the_files_say(tmp_path: Path) -> None:
    done = recto(tmp_path, "routes", "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr == (
        "recto: No service answers at http://127.0.0.1:1. This is what the files say:\n"
    )
    assert "rapidocr (default)" in done.stdout
    picture = json.loads(recto(tmp_path, "routes", "--url", "http://127.0.0.1:1", "--json").stdout)
    assert picture["live"] is False


def test_the_command_says_why_it_is_refused(served: Recto, tmp_path: Path) -> None:
    for url in ("127.0.0.1:8000", "ftp://127.0.0.1", "http://"):
        done = recto(tmp_path, "routes", "--url", url)
        assert done.returncode == 1
        assert done.stderr == "recto: --url must be an address such as http://127.0.0.1:8000.\n"
    done = recto(tmp_path, "routes", "--key-file", str(tmp_path / "none"))
    assert done.stderr.startswith("recto: --key-file:")
    assert served.base
