"""Who answers a request, and what pages say about who read them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from files_api.accounts import Principal
from files_api.kit import errors
from model_registry.card import Card
from model_registry.registry import Choice, Registry
from model_registry.routing import Routes
from ocr_api.engines import PageRefused
from ocr_api.pages import DrawnPage
from ocr_api.pipeline.choosing import choose
from ocr_api.pipeline.outcomes import blames_the_target, outcome_of
from ocr_api.pipeline.run import MOST_NOTED, Run
from ocr_api.pipeline.tries import Read
from ocr_api.request import (
    Ask,
    FileSource,
    InlineSource,
    OcrOptions,
    OcrRequest,
    PathSource,
    Source,
    UrlSource,
)
from ocr_api.result import WHOLE_PAGE, Parsed, Reading

ONE, OTHER = "a/one", "a/other"


def card(name: str) -> Card:
    facts = {"engine": "echo", "parser": "plain", "name": "n", "description": "d", "licence": "MIT"}
    return Card.model_validate({"id": name, "source": "s", "embedded": True, **facts})


def registry(sticky: str) -> Registry:
    route = {
        "sticky": sticky,
        "targets": [{"card": ONE}, {"card": OTHER}],
        "shadow": [{"card": OTHER, "share": 1}],
    }
    table = Routes.model_validate({"default": "mix", "routes": {"mix": route}})
    return Registry([card(ONE), card(OTHER)], table)


async def chosen(sticky: str, source: Source, org: str = "org") -> str:
    request = OcrRequest(source, None, OcrOptions(), "id")
    return (await choose(registry(sticky), request, Principal(org))).card.id


async def test_a_file_stays_with_its_target_whoever_asks() -> None:
    for source in (FileSource("f"), UrlSource("https://host/a.pdf"), InlineSource("QUJD")):
        found = {await chosen("file", source, f"org {number}") for number in range(20)}
        assert len(found) == 1
    found = {await chosen("file", FileSource(f"file {number}")) for number in range(40)}
    assert found == {ONE, OTHER}


async def test_a_signed_address_is_the_same_document_each_time() -> None:
    urls = [f"https://host/a.pdf?sig={number}" for number in range(20)]
    assert len({await chosen("file", UrlSource(url)) for url in urls}) == 1
    assert UrlSource("https://host/a.pdf?sig=1").key() == "https://host/a.pdf"


async def test_an_organisation_stays_with_its_target_whatever_it_asks() -> None:
    found = {await chosen("org", FileSource(f"file {number}")) for number in range(20)}
    assert len(found) == 1
    found = {await chosen("org", FileSource("f"), f"org {number}") for number in range(40)}
    assert found == {ONE, OTHER}


async def test_what_the_command_line_reads_has_no_shadow() -> None:
    for source, shadows in ((PathSource(Path("a.pdf")), 0), (FileSource("f"), 1)):
        request = OcrRequest(source, "mix", OcrOptions(), "id")
        assert len((await choose(registry("org"), request, Principal("org"))).shadows) == shadows


async def test_nobody_answers() -> None:
    request = OcrRequest(FileSource("f"), "gone", OcrOptions(), "id")
    with pytest.raises(errors.ModelUnknown):
        await choose(registry("org"), request, Principal("org"))


def read(text: str = "words", **facts: object) -> Read:
    drawn = DrawnPage(0, 10, 10, 72, b"", blank=False, pictures=())
    return replace(Read(drawn, Reading(text), Parsed(text), b""), **facts)  # type: ignore[arg-type]


BLANK = DrawnPage(0, 10, 10, 72, b"", blank=True, pictures=())


@pytest.mark.parametrize(
    ("page", "outcome"),
    [
        (read(), "ok"),
        (read("\n"), "empty"),
        (read("", parsed=Parsed("", regions=(WHOLE_PAGE,))), "ok"),
        (read(tried=("length",)), "ok"),
        (read(tried=("repetition",)), "repetition"),
        (read(tried=("sideways", "implausible")), "repetition"),
        (read(bad="repetition"), "repetition"),
        (read("", drawn=BLANK), None),
    ],
)
def test_what_a_page_says_about_its_target(page: Read, outcome: str | None) -> None:
    assert outcome_of(page) == outcome


def run_of(prompt: str | None = None) -> Run:
    facts: dict[str, Any] = dict.fromkeys(field.name for field in fields(Run) if field.init)
    choice = Choice("mix", card(ONE))
    return Run(**{**facts, "choice": choice, "ask": Ask(prompt), "noted": 0})


def test_one_request_does_not_judge_a_target_alone() -> None:
    run = run_of()
    assert [run.may_judge() for _ in range(MOST_NOTED + 3)] == [True] * MOST_NOTED + [False] * 3


def test_a_prompt_of_the_callers_own_judges_nobody() -> None:
    assert not run_of("Answer with NOTHING.").may_judge()


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (errors.EngineUnavailable(), True),
        (errors.EngineBusy(), True),
        (errors.EngineTimeout(), True),
        (errors.PageFailed(), True),
        (PageRefused(), False),
        (errors.ContextTooLong(), False),
        (errors.DocumentDamaged(), False),
        (errors.DocumentTooComplex(), False),
        (errors.DeadlineExceeded(), False),
    ],
)
def test_which_errors_are_the_servers_own(error: errors.AppError, blamed: bool) -> None:
    assert blames_the_target(error) is blamed
