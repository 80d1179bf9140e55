"""R21: work that nobody waits for any more stops at the engine, at once and entirely.

Each document of 40 pages has ten that are read and then eight that hang, which is as many as the
card gives a server; how a request ends there, the stand-in counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from files_api.kit.errors import every_error
from tests.e2e.reading import (
    IN_FLIGHT,
    Service,
    Standin,
    Tokens,
    leaving,
    new_name,
    pdf,
    serving,
    standin,
)

PAGES, READ = 40, 10
HANG = f"do=hang,nth={READ + 1}-"
DEADLINE, PROMPT = 3.0, 1.0
"""Seconds of a request, and those in which a request must have ended, on a slow machine."""
CODES = {(cls.status, cls.code) for cls in every_error()}

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def running() -> Iterator[Standin]:
    with standin("--mode", "fixed", "--delay", "0.02") as engine:
        yield engine


@pytest.fixture
def engine(running: Standin) -> Standin:
    """The stand-in that answers ten pages and no more."""
    running.fault(HANG)
    return running


@pytest.fixture(scope="module")
def service(running: Standin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("cancel"), [running.base]) as service:
        yield service


def wait_until_it_hangs(engine: Standin, pages: int = READ, hung: int = IN_FLIGHT) -> None:
    engine.until(lambda now: (now["completed"], now["in_flight"]) == (pages, hung))


def check_stopped(service: Service, engine: Standin, name: str, outcome: str = "cancelled") -> None:
    """Check that what was in flight is aborted, and that what waited is never sent.

    Then that the pages which were read are charged, and that the request's repeat has them.
    """
    counts = engine.until(lambda now: now["aborted"] == IN_FLIGHT)
    assert (counts["in_flight"], counts["requests"]) == (0, READ + IN_FLIGHT)
    usage = service.usage(name)
    assert (usage.outcome, usage.pages, usage.reused) == (outcome, READ, 0)
    assert (usage.charged, usage.wasted) == (engine.tokens(), Tokens())
    check_nothing_follows(service, engine)


def check_nothing_follows(service: Service, engine: Standin) -> None:
    """Check that the next page that is asked for is another document's."""
    engine.cure()
    before = engine.stats()["requests"]
    name = new_name()
    assert service.post(pdf(f"after {name}", IN_FLIGHT), name=name).status_code == 200
    asked = engine.asked()[before:]
    assert sorted(asked) == [(name, page) for page in range(IN_FLIGHT)]


def check_repeat(service: Service, engine: Standin, document: bytes | str) -> None:
    """Check that the pages which were read before are not read again (R6)."""
    before = engine.stats()["requests"]
    answer = service.post(document)
    assert answer.status_code == 200
    assert answer.json()["usage_info"]["pages_reused"] == READ
    assert engine.settled()["requests"] - before == PAGES - READ


def check_error(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text[:500]
    assert (status, code) in CODES


# --- the client leaves ----------------------------------------------------------------------------


def test_a_client_that_hangs_up_stops_the_engine(service: Service, engine: Standin) -> None:
    """R21: its pages in flight are aborted, those that wait are dropped."""
    document = pdf("hangs up", PAGES)
    with leaving(service, document) as name:
        wait_until_it_hangs(engine)
    check_stopped(service, engine, name)
    check_repeat(service, engine, document)


def test_a_client_that_leaves_a_stream_stops_the_engine(service: Service, engine: Standin) -> None:
    document = pdf("leaves a stream", PAGES)
    with leaving(service, document, stream=True) as name:
        wait_until_it_hangs(engine)
    check_stopped(service, engine, name)


def test_a_client_that_hangs_up_while_its_pages_wait(service: Service, engine: Standin) -> None:
    """R21: a document that has no page at the engine never gets one."""
    engine.fault(f"do=hang,nth=1-{IN_FLIGHT}")
    second = new_name()
    with leaving(service, pdf("in front", PAGES)) as first:
        wait_until_it_hangs(engine, 0)
        waiting = service.stream(pdf("behind", PAGES), name=second)
        assert next(waiting)[0] == "start"
        waiting.close()
        usage = service.usage(second)
    engine.until(lambda now: now["aborted"] == IN_FLIGHT)
    assert (usage.outcome, usage.pages, usage.charged) == ("cancelled", 0, Tokens())
    assert service.usage(first).outcome == "cancelled"
    assert {request for request, _ in engine.asked()} == {first}
    check_nothing_follows(service, engine)


# --- the deadline passes --------------------------------------------------------------------------


def test_a_deadline_that_passes_stops_the_engine(service: Service, engine: Standin) -> None:
    """R21: 504 at once, and nothing is left running."""
    document, name = pdf("deadline", PAGES), new_name()
    begun = time.monotonic()
    answer = service.post(document, name=name, headers={"x-request-timeout": str(DEADLINE)})
    took = time.monotonic() - begun
    check_error(answer, 504, "deadline_exceeded")
    assert DEADLINE <= took < DEADLINE + PROMPT
    check_stopped(service, engine, name, "failed")
    check_repeat(service, engine, document)


def test_the_server_has_a_deadline_of_its_own(engine: Standin, tmp_path: Any) -> None:
    """R21: also where a client asks for more."""
    with serving(tmp_path, [engine.base], REQUEST_SECONDS=str(DEADLINE)) as service:
        name = new_name()
        headers = {"x-request-timeout": "3000"}
        answer = service.post(pdf("own deadline", PAGES), name=name, headers=headers)
        check_error(answer, 504, "deadline_exceeded")
        check_stopped(service, engine, name, "failed")


def test_a_deadline_that_does_not_pass_changes_nothing(service: Service, engine: Standin) -> None:
    engine.fault()
    answer = service.post(pdf("in time", PAGES), headers={"x-request-timeout": "30"})
    assert answer.status_code == 200
    assert engine.settled()["requests"] == PAGES


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e999", ""])
def test_a_deadline_that_is_none_is_refused(service: Service, engine: Standin, value: str) -> None:
    answer = service.post(pdf("nonsense", 1), headers={"x-request-timeout": value})
    check_error(answer, 422, "validation_error")
    assert engine.stats()["requests"] == 0


# --- the file goes --------------------------------------------------------------------------------


def test_a_file_that_is_deleted_is_not_read_on(service: Service, engine: Standin) -> None:
    """R21: its reader hears 404 at once, the engine stops, and its pages are gone."""
    content = pdf("deleted", PAGES)
    file_id, name = service.upload(content), new_name()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(service.post, file_id, name=name)
        wait_until_it_hangs(engine)
        service.delete(file_id)
        check_error(reading.result(PROMPT), 404, "file_not_found")
    counts = engine.until(lambda now: now["aborted"] == IN_FLIGHT)
    assert (counts["in_flight"], counts["requests"]) == (0, READ + IN_FLIGHT)
    usage = service.usage(name)
    assert (usage.outcome, usage.pages, usage.charged) == ("failed", READ, engine.tokens())
    check_nothing_follows(service, engine)
    before = engine.stats()["requests"]
    assert service.post(service.upload(content)).json()["usage_info"]["pages_reused"] == 0
    assert engine.settled()["requests"] - before == PAGES


def test_a_file_with_the_same_content_is_read_on(service: Service, engine: Standin) -> None:
    """Deleting one of two ends the readings of that one alone."""
    engine.fault(f"do=slow,delay=1,nth={READ + 1}-{READ + IN_FLIGHT}")
    content = pdf("two files", PAGES)
    one, two = (service.upload(content) for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(service.post, one)
        wait_until_it_hangs(engine)
        service.delete(two)
        answer = reading.result(30)
    assert answer.status_code == 200
    assert len(answer.json()["pages"]) == PAGES
    assert engine.settled()["aborted"] == 0
