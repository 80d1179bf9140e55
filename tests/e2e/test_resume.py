"""R6: a repeated request pays only for what is missing, and nobody else's pages are ever used."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from model_registry.card import DEFAULT_PROMPT
from tests.e2e.reading import (
    HURRIED,
    IN_FLIGHT,
    SMALL,
    Service,
    Standin,
    Tokens,
    leaving,
    new_name,
    pdf,
    serving,
    standin,
    until,
)

PAGES = 20
NOTHING = Tokens()

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def running() -> Iterator[Standin]:
    with standin("--mode", "fixed", "--delay", "0.02") as engine:
        yield engine


@pytest.fixture
def engine(running: Standin) -> Standin:
    """The stand-in without faults and without a past."""
    running.fault()
    return running


@pytest.fixture(scope="module")
def service(running: Standin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with keys of two organisations."""
    with serving(tmp_path_factory.mktemp("resume"), [running.base], "one", "two") as service:
        yield service


class Reader:
    """Has documents read, and counts what each reading cost the stand-in."""

    def __init__(self, service: Service, engine: Standin) -> None:
        self.service = service
        self.engine = engine
        self._before = 0

    def read(self, document: bytes | str, **more: Any) -> dict[str, Any]:
        """Return the answer, which is a whole one."""
        answer = self.service.post(document, **more)
        assert answer.status_code == 200, answer.text[:500]
        found: dict[str, Any] = answer.json()
        assert [page["error"] for page in found["pages"]] == [None] * len(found["pages"])
        return found

    def calls(self) -> int:
        """Return how many pages the stand-in was asked for since this was asked last."""
        now = int(self.engine.settled()["requests"])
        before, self._before = self._before, now
        return now - before


@pytest.fixture
def reader(service: Service, engine: Standin) -> Reader:
    return Reader(service, engine)


def reused(answer: dict[str, Any]) -> list[int]:
    """Return the pages that were not read for this answer."""
    found = [page["index"] for page in answer["pages"] if page["reused"]]
    assert answer["usage_info"]["pages_reused"] == len(found)
    return found


def tokens(usage: dict[str, Any]) -> Tokens:
    return Tokens(usage["prompt_tokens"], usage["completion_tokens"])


def total(counts: Tokens) -> int:
    return counts.prompt + counts.completion


# --- a page that failed ---------------------------------------------------------------------------


def test_a_repeat_reads_the_one_page_that_failed(reader: Reader) -> None:
    """R6: 1 page of 200, not 200; and 200 pages are charged in all, each once."""
    pages, document = 200, pdf("one page fails", 200)
    reader.engine.fault("do=http500,distinct=123,attempt=1|2")
    first, second = new_name(), new_name()
    failed = reader.service.post(document, name=first)
    assert (failed.status_code, failed.json()["code"]) == (500, "ocr_failed")
    named = [int(number) for number in re.findall(r"\d+", failed.json()["message"])]
    assert reader.calls() == pages + 1
    answer = reader.read(document, name=second)
    assert reader.calls() == 1
    [anew] = sorted({*range(pages)} - {*reused(answer)})
    assert anew in named
    before, after = reader.service.usage(first), reader.service.usage(second)
    assert (before.outcome, before.pages, before.failed, before.reused) == ("failed", 199, 1, 0)
    assert (after.outcome, after.pages, after.failed, after.reused) == ("ok", 1, 0, 199)
    assert before.charged + after.charged == reader.engine.tokens()
    assert after.saved == before.charged
    counted = answer["usage_info"]
    assert counted["pages_processed"] == pages
    assert (counted["reused_tokens"], counted["wasted_tokens"]) == (total(after.saved), 0)
    assert tokens(counted) == tokens(answer["usage"]) == after.charged


def test_what_was_thrown_away_is_wasted_and_not_charged(reader: Reader) -> None:
    reader.engine.fault("do=loop,distinct=7,attempt=1")
    document, name = pdf("one page loops", PAGES), new_name()
    answer = reader.read(document, name=name)
    usage = reader.service.usage(name)
    assert reader.calls() == PAGES + 1
    assert usage.charged == reader.engine.tokens()
    assert total(usage.wasted) > 0
    assert answer["usage_info"]["wasted_tokens"] == total(usage.wasted)
    again = reader.read(document)
    assert (reader.calls(), again["usage_info"]["wasted_tokens"]) == (0, 0)
    assert again["usage_info"]["reused_tokens"] == total(usage.charged)


def test_partial_answers_are_resumed_too(reader: Reader) -> None:
    """R6: the page with an error is read when the request comes again; it is never kept."""
    reader.engine.fault("do=http500,distinct=5")
    document = pdf("partial", PAGES)
    partial = reader.service.post(document, allow_partial=True).json()
    [bad] = [page["index"] for page in partial["pages"] if page["error"]]
    assert reader.calls() == PAGES + 1
    worse = reader.service.post(document, allow_partial=True).json()
    assert [page["index"] for page in worse["pages"] if page["error"]] == [bad]
    assert reader.calls() == 2
    reader.engine.cure()
    assert {*range(PAGES)} - {*reused(reader.read(document))} == {bad}
    assert reader.calls() == 1


def test_the_same_answer_comes_from_kept_pages(reader: Reader) -> None:
    """Every word of it; only what it cost differs."""
    document = pdf("the same", PAGES)
    asked: dict[str, Any] = {"confidence_scores_granularity": "word", "include_blocks": True}
    fresh, kept = (reader.read(document, **asked) for _ in range(2))
    assert reader.calls() == PAGES
    assert (reused(fresh), reused(kept)) == ([], [*range(PAGES)])
    costs = ("seconds", "usage", "reused")
    plain = [
        [{k: v for k, v in page.items() if k not in costs} for page in answer["pages"]]
        for answer in (fresh, kept)
    ]
    assert plain[0] == plain[1]
    assert tokens(kept["usage"]) == NOTHING
    assert kept["usage_info"]["pages_processed"] == PAGES


# --- what makes a page another one ----------------------------------------------------------------


def test_skip_cache_reads_all_again_and_keeps_none(reader: Reader) -> None:
    document = pdf("skip", PAGES)
    for _ in range(2):
        assert reused(reader.read(document, skip_cache=True)) == []
        assert reader.calls() == PAGES
    reader.read(document)
    assert reader.calls() == PAGES
    assert reused(reader.read(document, skip_cache=True)) == []
    assert reader.calls() == PAGES
    assert len(reused(reader.read(document))) == PAGES
    assert reader.calls() == 0


def test_another_organisation_reads_all_again(reader: Reader) -> None:
    """R12: a page is its organisation's; that another one has read it shows nowhere."""
    document = pdf("tenants", PAGES)
    for key in (0, 1):
        assert reused(reader.read(document, key=key)) == []
        assert reader.calls() == PAGES
    assert len(reused(reader.read(document, key=1))) == PAGES
    assert reader.calls() == 0


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "What is the sum?"},
        {"prompt": "table"},
        {"model": HURRIED},
    ],
    ids=["prompt", "task", "model"],
)
def test_another_question_is_another_page(reader: Reader, other: dict[str, Any]) -> None:
    document = pdf(f"another {other}", PAGES)
    for asked in ({}, other):
        assert reused(reader.read(document, **asked)) == []
        assert reader.calls() == PAGES
    for asked in ({}, other):
        assert len(reused(reader.read(document, **asked))) == PAGES
    assert reader.calls() == 0


def test_other_pages_of_the_same_document_are_read_alone(reader: Reader) -> None:
    document = pdf("selection", PAGES)
    assert reused(reader.read(document, pages="0-4")) == []
    assert reader.calls() == 5
    assert reused(reader.read(document, pages="3-9")) == [3, 4]
    assert reader.calls() == 5
    assert reused(reader.read(document)) == [*range(10)]
    assert reader.calls() == PAGES - 10


def test_how_the_answer_is_shown_makes_no_other_page(reader: Reader) -> None:
    document = pdf("shown", PAGES)
    reader.read(document)
    for shown in (
        {"table_format": "html", "include_blocks": True, "model": SMALL},
        {"prompt": DEFAULT_PROMPT},
    ):
        assert len(reused(reader.read(document, **shown))) == PAGES
    assert reader.calls() == PAGES


# --- files ----------------------------------------------------------------------------------------


def test_a_file_is_known_by_its_content(reader: Reader) -> None:
    """Two files with the same bytes, or the bytes inside a request, are one document."""
    document = pdf("content", PAGES)
    one, two = (reader.service.upload(document) for _ in range(2))
    reader.read(one)
    assert reader.calls() == PAGES
    for same in (two, document, one):
        assert len(reused(reader.read(same))) == PAGES
    assert reader.calls() == 0


def test_deleting_a_file_deletes_its_pages(reader: Reader) -> None:
    """Also those that came from the same bytes inside a request; and nobody else's."""
    document = pdf("deleted", PAGES)
    bystander = pdf("not deleted", PAGES)
    file_id, other = reader.service.upload(document), reader.service.upload(bystander)
    theirs = reader.service.upload(document, key=1)
    for asked, key in ((file_id, 0), (other, 0), (theirs, 1)):
        reader.read(asked, key=key)
    assert reader.calls() == 3 * PAGES
    reader.service.delete(file_id)
    assert reused(reader.read(document)) == []
    assert reader.calls() == PAGES
    reader.service.delete(reader.service.upload(document))
    assert reused(reader.read(reader.service.upload(document))) == []
    assert reader.calls() == PAGES
    assert len(reused(reader.read(other))) == PAGES
    assert len(reused(reader.read(theirs, key=1))) == PAGES
    assert reader.calls() == 0


def test_nothing_of_a_deleted_file_is_left_in_the_database(reader: Reader) -> None:
    """The text of the pages goes with the file, not only the way to it."""
    file_id = reader.service.upload(pdf("left", PAGES))
    reader.read(file_id)
    database = reader.service.recto.data / "recto.db"
    # They are on their way for a moment.
    until(lambda: kept_pages(database.as_uri(), file_id) == PAGES)
    reader.service.delete(file_id)
    assert kept_pages(database.as_uri(), file_id) == 0


def kept_pages(database: str, file_id: str) -> int:
    """Return how many pages of a file the ledger holds."""
    with closing(sqlite3.connect(f"{database}?mode=ro", uri=True)) as connection:
        query = "SELECT count(*) FROM ledger_pages WHERE file_id = ?"
        [found] = connection.execute(query, [file_id]).fetchone()
    return int(found)


# --- at the same time -----------------------------------------------------------------------------


def test_identical_documents_at_once_are_read_once(reader: Reader) -> None:
    """Four requests, one reading: each page is charged to one of them, all get all of it."""
    document, names = pdf("at once", PAGES), [new_name() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: reader.read(document, name=name), names))
    assert reader.calls() == PAGES
    texts = [[page["markdown"] for page in answer["pages"]] for answer in answers]
    assert texts == [texts[0]] * 4
    assert sum(len(reused(answer)) for answer in answers) == 3 * PAGES
    charged = [reader.service.usage(name).charged for name in names]
    assert sum(charged, NOTHING) == reader.engine.tokens()


def test_identical_documents_of_two_organisations_are_read_twice(reader: Reader) -> None:
    """R12: also while they are being read."""
    document = pdf("two at once", PAGES)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda key: reader.read(document, key=key), (0, 1)))
    assert reader.calls() == 2 * PAGES
    assert [reused(answer) for answer in answers] == [[], []]


def test_who_follows_reads_on_when_the_first_one_leaves(reader: Reader) -> None:
    """R21: what it had in flight is aborted; who waited for it asks anew and loses nothing."""
    kept = 10
    reader.engine.fault(f"do=hang,nth={kept + 1}-{kept + IN_FLIGHT}")
    document = pdf("leader leaves", PAGES)
    with leaving(reader.service, document):
        hung = {"completed": kept, "in_flight": IN_FLIGHT}
        reader.engine.until(lambda now: hung.items() <= now.items())
        following = reader.service.stream(document)
        assert [next(following)[0] for _ in range(2)] == ["start", "page"]
    reader.engine.until(lambda now: now["aborted"] == IN_FLIGHT)
    *pages, (ending, answer) = following
    assert (ending, len(pages)) == ("done", PAGES - 1)
    assert answer["usage_info"]["pages_reused"] == kept
    assert reader.calls() == PAGES + IN_FLIGHT
