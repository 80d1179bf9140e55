"""What a page says about who read it: the words that targets are judged by."""

from __future__ import annotations

import re
from collections import Counter

from files_api.kit.errors import AppError, EngineBusy, EngineTimeout, EngineUnavailable, PageFailed
from model_registry.registry import Routed
from ocr_api.engines import PageRefused
from ocr_api.pipeline.tries import Read
from ocr_api.result import Parsed

_LOOPS = frozenset({"repetition", "implausible"})
_WORD = re.compile(r"\w+")


def outcome_of(read: Read) -> Routed | None:
    """Return what came of a page; None where nobody was asked about it.

    A page that was repeated and then read counts as repetition, too: it cost the server twice,
    and says how the model does on these documents.
    """
    if read.drawn.blank:
        return None
    if _LOOPS.intersection((*read.tried, read.bad)):
        return "repetition"
    return "empty" if is_empty(read.parsed) else "ok"


def is_empty(parsed: Parsed) -> bool:
    """Tell whether an answer has neither text nor pictures."""
    return not parsed.markdown.strip() and not parsed.regions


def blames_the_target(error: AppError) -> bool:
    """Tell whether an error is the servers' own, and neither the page's nor the request's."""
    if isinstance(error, PageRefused):
        return False
    return isinstance(error, EngineUnavailable | EngineBusy | EngineTimeout | PageFailed)


def similarity(one: str, other: str) -> float:
    """Return how alike two texts are, 0 to 1: the Dice coefficient of their words.

    Without regard to order: two models may give a page's columns in another order and be right
    both. It takes some milliseconds for the longest page.
    """
    words = Counter(_WORD.findall(one.casefold())), Counter(_WORD.findall(other.casefold()))
    total = sum(count.total() for count in words)
    return 2 * (words[0] & words[1]).total() / total if total else 1.0
