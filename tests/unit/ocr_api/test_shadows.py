"""What shadows may never do to the answer beside them; tests/e2e/test_shadows.py has the rest."""

from __future__ import annotations

import asyncio
import logging

import pytest

from files_api.kit import metrics
from model_registry.routing import Shadow
from ocr_api.pages import DrawnPage
from ocr_api.pipeline.shadows import Shadows, Watched, _Glance
from ocr_api.pipeline.tries import Read
from ocr_api.result import Parsed, Reading
from tests.engines.scheduling import make_card

PAGE = Read(DrawnPage(0, 10, 10, 72, b"", blank=False, pictures=()), Reading("a"), Parsed("a"), b"")


def glance(name: str) -> _Glance:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    return _Glance(Shadow(card=name, share=1), make_card(name), answer)


def counted(card: str) -> dict[str, float]:
    """Return how many pages of a shadow ended how."""
    lines = [line for line in metrics.page().decode().splitlines() if f'model="{card}"' in line]
    lines = [line for line in lines if line.startswith("ocr_shadow_pages_total")]
    return {line.split('outcome="')[1].split('"')[0]: float(line.split()[-1]) for line in lines}


async def test_an_answer_waits_for_no_shadow() -> None:
    one = glance("late")
    never = asyncio.Event()

    def begin(_: _Glance) -> None:
        one.task = asyncio.get_running_loop().create_task(never.wait())  # type: ignore[arg-type]

    with Watched([one], begin) as watched:
        watched.then(lambda: None)()
        watched.answered(PAGE)  # the shadow is not drawn yet
    assert one.task is not None
    with pytest.raises(asyncio.CancelledError):
        await one.task
    assert counted("late") == {"skipped": 1}


async def test_a_shadow_that_has_ended_does_not_fail_the_answer() -> None:
    one = glance("ended")

    def begin(_: _Glance) -> None:
        one.task = asyncio.get_running_loop().create_task(asyncio.sleep(0))
        one.drawn.set()

    with Watched([one], begin) as watched:
        watched.then(lambda: None)()
        one.answer.cancel()  # as its time limit does
        watched.answered(PAGE)


async def test_what_a_shadow_stumbles_over_is_not_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shadows = Shadows.__new__(Shadows)

    async def stumble(*_: object) -> None:
        raise ValueError("cannot parse: SECRET TEXT")

    shadows._read = stumble  # type: ignore[method-assign, assignment]
    with caplog.at_level(logging.DEBUG):
        await shadows._look(None, 0, glance("odd"))  # type: ignore[arg-type]
    assert counted("odd") == {"failed": 1}
    assert "SECRET" not in caplog.text
    [record] = [record for record in caplog.records if record.getMessage() == "shadow_failed"]
    assert record.facts == {"error": "ValueError"}  # type: ignore[attr-defined]
