"""R6, and the fault matrix: what each fault costs a document of 80 pages, and what its repeat does.

Every fault goes through the whole service. What is counted is the stand-in's: how many pages it was
asked for; tokens are those of the service's usage rows. With ``-s`` the table is printed, and with
RECTO_FAULT_MATRIX=FILE it is written there too, one JSON object per line.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.reading import (
    HURRIED,
    IN_FLIGHT,
    SMALL,
    TRIES,
    Service,
    Standin,
    Tokens,
    Wire,
    new_name,
    pdf,
    serving,
    standin,
    until,
)

PAGES = 80
DELAY = ("--mode", "fixed", "--delay", "0.02")
TABLE = os.environ.get("RECTO_FAULT_MATRIX")
THRICE = "nth=10|43|76"
"""Three requests of the 80: 3.75 %, each for a page that is then asked for again."""
ONE = "distinct=41"
"""One page, at every try."""
KILLED_AT = 37

pytestmark = pytest.mark.shared


@dataclass(frozen=True)
class Case:
    """One fault, and what it must come to."""

    name: str
    rule: str
    status: int = 200
    code: str | None = None
    calls: int = PAGES
    """Pages that the stand-in is asked for."""
    again: int = 0
    """Pages that it is asked for when the request is repeated, the fault being over."""
    aborted: int = 0
    wastes: bool = False
    """Whether tokens were spent that made no page."""
    model: str = SMALL
    warning: str | None = None

    @property
    def read(self) -> int:
        """Return the pages that are read although the request may fail."""
        return PAGES - self.again


def passing(name: str, rule: str, **facts: Any) -> Case:
    """Return a fault that three pages meet once: they are asked for again, and nobody notices."""
    return Case(name, f"{rule},{THRICE}", calls=PAGES + 3, **facts)


def lasting(name: str, rule: str, code: str = "ocr_failed", **facts: Any) -> Case:
    """Return a fault that one page always meets: that page is lost, and no other."""
    facts = {"status": 500, "calls": PAGES + 1, "again": 1} | facts
    return Case(name, f"{rule},{ONE}", code=code, **facts)


LATE: dict[str, Any] = {"status": 504, "calls": PAGES, "aborted": 1, "model": HURRIED}
STOPPED: dict[str, Any] = {"wastes": True, "warning": "asked_again", "calls": PAGES + 1}
LOOPS: dict[str, Any] = {"wastes": True, "calls": PAGES - 1 + TRIES, "aborted": TRIES}
"""A loop is stopped while it is made."""

CASES = [
    passing("500 on three pages, once", "do=http500"),
    lasting("500 always on one page", "do=http500"),
    passing("3 % 429", "do=http429"),
    passing("3 % 503", "do=http503"),
    passing("502 on three pages, once", "do=http502"),
    lasting("400 on one page", "do=http400", calls=PAGES),
    lasting("422 on one page", "do=http422", calls=PAGES),
    lasting("endless repetition on one page", "do=loop", **LOOPS),
    Case("repetition on one page, once", f"do=loop,{ONE},attempt=1", aborted=1, **STOPPED),
    Case("one page cut off, once", f"do=truncate,{ONE},attempt=1", **STOPPED),
    Case("empty answer for one page", f"do=empty-content,{ONE}", warning="nothing_read"),
    lasting("one page takes 60 s", "do=slow,delay=60", "engine_timeout", **LATE),
    lasting("one page hangs", "do=hang", "engine_timeout", **LATE),
    lasting("one page hangs half-way", "do=hang,at=0.5", "engine_timeout", **LATE),
    passing("garbage on three pages, once", "do=garbage"),
    lasting("garbage always on one page", "do=garbage"),
    passing("HTML on three pages, once", "do=garbage,kind=html"),
    passing("no choices on three pages, once", "do=empty-choices"),
    passing("connection reset on three pages, once", "do=reset,at=0"),
    passing("connection reset half-way, once", "do=reset"),
    lasting("connection reset always on one page", "do=reset"),
    passing("truncated stream on three pages, once", "do=close"),
    lasting("truncated stream always on one page", "do=close"),
    passing("error inside the stream, once", "do=stream-error"),
    passing("engine gives three pages up, once", "do=finish,reason=abort"),
    lasting("one page filtered", "do=finish,reason=content_filter"),
]


@dataclass(frozen=True)
class Row:
    """What one request came to, as the table shows it."""

    status: int
    code: str | None
    pages: int
    """Pages with text in the answer."""
    kept: int | None
    """Pages that were read and charged, answered or not; None where no usage row was written."""
    reused: int | None
    calls: int
    """Pages that engines were asked for."""
    charged: Tokens | None
    wasted: Tokens | None


@pytest.fixture(scope="module")
def engine() -> Iterator[Standin]:
    with standin(*DELAY) as engine:
        yield engine


@pytest.fixture(scope="module")
def service(engine: Standin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("matrix"), [engine.base]) as service:
        yield service


def ask(service: Service, document: bytes, model: str = SMALL) -> tuple[httpx.Response, str]:
    name = new_name()
    return service.post(document, model=model, name=name), name


def row_of(service: Service, answer: httpx.Response, name: str, calls: int) -> Row:
    """Return what a request came to, from its answer and its usage row."""
    said = answer.json()
    usage = service.usage(name)
    return Row(
        status=answer.status_code,
        code=said.get("code"),
        pages=len([page for page in said.get("pages", ()) if page["error"] is None]),
        kept=usage.pages,
        reused=usage.reused,
        calls=calls,
        charged=usage.charged,
        wasted=usage.wasted,
    )


def show(name: str, first: Row | None, repeat: Row, calls: int, wasted: int) -> None:
    """Print one line of the table, and append it to the file of the environment variable."""
    facts = {
        "fault": name,
        "pages": PAGES,
        "calls": calls,
        "calls_wasted": wasted,
        "first": first and asdict(first),
        "repeat": asdict(repeat),
    }
    print(json.dumps(facts))
    if TABLE:
        with Path(TABLE).open("a", encoding="utf-8") as out:
            out.write(json.dumps(facts) + "\n")


def index_of(message: str) -> int:
    """Return the page that an error names."""
    found = re.search(r"[Pp]ages? (\d+)", message)
    assert found, message
    return int(found[1])


def check_repeat(repeat: httpx.Response, row: Row, reused: int) -> None:
    """Check that the repeat has every page, and that so many of them cost nothing."""
    assert (row.status, row.pages, row.calls) == (200, PAGES, PAGES - reused), repeat.text[:300]
    assert (row.kept, row.reused) == (PAGES - reused, reused)
    pages = repeat.json()["pages"]
    assert [page["index"] for page in pages] == list(range(PAGES))
    assert all(page["markdown"] for page in pages if "nothing_read" not in codes(page))
    assert len([page for page in pages if page["reused"]]) == reused
    assert repeat.json()["usage_info"]["pages_reused"] == reused


def codes(page: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in page["warnings"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_a_fault_costs_its_page_alone(case: Case, service: Service, engine: Standin) -> None:
    """R6: the others are read once, charged once, and never read again."""
    document = pdf(case.name, PAGES)
    engine.fault(case.rule)
    answer, name = ask(service, document, case.model)
    counts = engine.settled()
    first = row_of(service, answer, name, counts["requests"])
    good = engine.tokens()
    engine.cure()
    repeated, second = ask(service, document, case.model)
    again = row_of(service, repeated, second, engine.settled()["requests"] - first.calls)
    show(case.name, first, again, first.calls + again.calls, first.calls + again.calls - PAGES)

    assert (first.status, first.code) == (case.status, case.code), answer.text[:300]
    assert (first.calls, counts["aborted"]) == (case.calls, case.aborted)
    assert (first.kept, first.reused) == (case.read, 0)
    assert first.pages == (PAGES if case.status == 200 else 0)
    check_tokens(case, first, again, good, engine.tokens())
    check_repeat(repeated, again, case.read)
    if case.status == 200:
        warned = [page for page in answer.json()["pages"] if page["warnings"]]
        assert [codes(page) for page in warned] == ([[case.warning]] if case.warning else [])
    else:
        [anew] = [page["index"] for page in repeated.json()["pages"] if not page["reused"]]
        assert index_of(answer.json()["message"]) == anew


def check_tokens(case: Case, first: Row, again: Row, good: Tokens, in_all: Tokens) -> None:
    """Check that good answers are charged, once, and that what made no page is named so."""
    assert first.charged is not None
    assert again.charged is not None
    assert again.wasted == Tokens()
    assert (first.wasted != Tokens()) == case.wastes
    if "empty" not in case.name:
        assert first.charged == good
        assert first.charged + again.charged == in_all


def test_a_fault_of_the_request_gives_the_document_up(service: Service, engine: Standin) -> None:
    """What every page would meet is not asked for each of them; no page is asked twice."""
    engine.fault(f"do=http400,message=maximum context length,{ONE}")
    answer, name = ask(service, pdf("too long", PAGES))
    calls = engine.settled()["requests"]
    assert (answer.status_code, answer.json()["code"]) == (400, "context_too_long")
    assert 41 <= calls <= PAGES
    usage = service.usage(name)
    assert (usage.outcome, usage.failed) == ("failed", 1)
    assert 40 - IN_FLIGHT <= usage.pages < calls


def test_a_document_that_fails_all_over_is_given_up(service: Service, engine: Standin) -> None:
    """R6: a server that fails over each page is not asked for the rest of them."""
    engine.fault("do=http500,after=20")
    document = pdf("all over", PAGES)
    answer, name = ask(service, document)
    calls = engine.settled()["requests"]
    assert (answer.status_code, answer.json()["code"]) == (500, "ocr_failed")
    assert "pages could not be read" in answer.json()["message"]
    first = service.usage(name)
    assert (first.outcome, first.pages) == ("failed", 20)
    assert first.failed > PAGES // 10
    assert calls < PAGES
    engine.cure()
    repeated, second = ask(service, document)
    again = row_of(service, repeated, second, engine.settled()["requests"] - calls)
    check_repeat(repeated, again, 20)


# --- processes that die ---------------------------------------------------------------------------


def test_a_replica_that_dies_costs_what_it_had_in_flight(tmp_path: Path) -> None:
    """R6: its pages go to the other one; nobody notices, and nothing is read again."""
    died_at = 20
    document = pdf("replica dies", PAGES)
    with (
        standin(*DELAY, "--fault", f"do=die,nth={died_at}") as mortal,
        standin(*DELAY) as other,
        serving(tmp_path, [mortal.base, other.base]) as service,
    ):
        answer, name = ask(service, document)
        calls = died_at + other.settled()["requests"]
        first = row_of(service, answer, name, calls)
        assert (first.status, first.pages) == (200, PAGES), answer.text[:300]
        assert PAGES < calls <= PAGES + IN_FLIGHT
        assert (first.kept, first.reused, first.wasted) == (PAGES, 0, Tokens())
        repeated, second = ask(service, document)
        calls_again = died_at + other.settled()["requests"] - calls
        again = row_of(service, repeated, second, calls_again)
        show("one of two replicas dies", first, again, calls, calls - PAGES)
        check_repeat(repeated, again, PAGES)


def test_an_engine_that_dies_and_comes_back(tmp_path: Path) -> None:
    """R6: what it had read is not read again when the request is repeated."""
    died_at = 40
    document = pdf("engine dies", PAGES)
    with (
        standin(*DELAY, "--fault", f"do=die,nth={died_at}") as mortal,
        serving(tmp_path, [mortal.base]) as service,
    ):
        answer, name = ask(service, document)
        first = row_of(service, answer, name, died_at)
        assert (first.status, first.code) == (503, "engine_unavailable"), answer.text[:300]
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        assert first.kept is not None
        assert died_at - IN_FLIGHT <= first.kept < died_at
        with standin(*DELAY, "--port", mortal.base.rsplit(":", 1)[1]) as back:
            repeated, second = until_taken(service, document)
            again = row_of(service, repeated, second, back.settled()["requests"])
            calls = died_at + again.calls
            show("the only engine dies, and comes back", first, again, calls, calls - PAGES)
            check_repeat(repeated, again, first.kept)


async def test_an_engine_that_cannot_be_reached_for_a_moment(
    engine: Standin, tmp_path: Path
) -> None:
    """R6: its pages wait until it has been looked at again, and the request does not fail."""
    document = pdf("a moment", PAGES)
    engine.fault()
    wire = Wire(engine.base)
    async with wire.laid() as base:
        with serving(tmp_path, [base]) as service:
            waiting = asyncio.create_task(asyncio.to_thread(ask, service, document))
            await asyncio.to_thread(engine.until, lambda now: now["completed"] >= 20)
            wire.cut()
            await asyncio.to_thread(until, lambda: is_given_up(service))
            wire.mend()
            answer, name = await waiting
            calls = engine.settled()["requests"]
            first = row_of(service, answer, name, calls)
            assert (first.status, first.pages) == (200, PAGES), answer.text[:300]
            assert (first.kept, first.reused) == (PAGES, 0)
            # What it was asked and could not answer, and no more.
            assert calls <= PAGES + IN_FLIGHT
            repeated, second = await asyncio.to_thread(ask, service, document)
            again = row_of(service, repeated, second, engine.settled()["requests"] - calls)
            show("the only engine is cut off", first, again, calls, calls - PAGES)
            check_repeat(repeated, again, PAGES)


def is_given_up(service: Service) -> bool:
    """Tell whether the service has seen that its engine is away."""
    shown = re.findall(r"^ocr_engine_circuit_open{.*} (.*)", service.metrics(), re.MULTILINE)
    return "1.0" in shown


def until_taken(service: Service, document: bytes) -> tuple[httpx.Response, str]:
    """Ask until the service has noticed that its engine is back: it tells nobody else."""
    end = time.monotonic() + 30
    while (found := ask(service, document))[0].status_code == 503:
        assert time.monotonic() < end, found[0].text
        time.sleep(0.05)
    return found


def test_we_are_killed_half_way(engine: Standin, tmp_path: Path) -> None:
    """R6: a process that is killed at page 37 has kept them, but for those of its last moments."""
    document = pdf("we are killed", PAGES)
    # A quarter of a second for each, so that the last moments are a few pages.
    engine.fault(f"do=hang,after={KILLED_AT}", "do=slow,delay=0.25")
    with serving(tmp_path, [engine.base]) as service, ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, service, document)
        engine.until(lambda now: now["completed"] == KILLED_AT)
        engine.until(lambda now: now["in_flight"] == IN_FLIGHT)
        service.recto.kill()
        check_broken(waiting)
        calls = engine.settled()["requests"]
        engine.cure()
        service.recto.start()
        repeated, name = ask(service, document)
        again = row_of(service, repeated, name, engine.settled()["requests"] - calls)
        assert calls == KILLED_AT + IN_FLIGHT
        assert again.reused is not None
        # Pages are written together, every 50 ms.
        assert KILLED_AT - 3 * IN_FLIGHT <= again.reused <= KILLED_AT
        show("we are killed at page 37", None, again, calls + again.calls, calls - again.reused)
        check_repeat(repeated, again, again.reused)


def check_broken(waiting: Future[Any]) -> None:
    """Check that the client of the process that was killed has lost its connection."""
    with pytest.raises(httpx.TransportError):
        waiting.result(30)
