"""What the tests of the pipeline share: a process that draws, and the usage rows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ocr_api.pages import Pages
from ocr_api.processes import Limits
from ocr_api.usage import Entry


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    """One process that draws."""
    pages = Pages(1, Limits(memory_bytes=1 << 30, seconds=10), 10_000_000)
    yield pages
    await pages.close()


@pytest.fixture
def entries() -> list[Entry]:
    """The usage rows."""
    return []
