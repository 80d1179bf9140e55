"""What the ledger keeps of a page, where it belongs, and the key that names it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from ocr_api.result import Box, Reading

KEY_FORMAT: Final = 1
"""To be raised when the same facts no longer mean the same page; all older keys are new then."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A finished page: what the engine said, and what the drawing told."""

    reading: Reading
    width: int
    """Pixels of the drawn page."""
    height: int
    dpi: int
    blank: bool
    """Whether the page was empty, so that no engine was asked."""
    pictures: tuple[Box, ...]
    """Where the document says that pictures stand."""
    scale: float = 1.0
    """Size of the drawing that was read, over the card's."""
    tried: tuple[str, ...] = ()
    """What was tried before this reading, in order."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which page of whose document a `Kept` is."""

    key: str
    """What `key_of` gave."""
    org_id: str
    document: str
    """SHA-256 of the document's content, in hexadecimal."""
    page: int
    """Place in the document, from 0."""
    card: str
    """Id of the card that read it."""
    file_id: str | None
    """The stored file that was read; None where the document came with the request or by URL."""


def key_of(org_id: str, document: str, page: int, facts: Mapping[str, Any]) -> str:
    """Return the key of a page: SHA-256, in hexadecimal, of all that decides what is read.

    Args:
        org_id: whose page.
        document: SHA-256 of the content, in hexadecimal.
        page: place in the document, from 0.
        facts: card and revision, prompt, sampling, size of the drawing and so on; values that
            JSON has, in any order.

    Raises:
        TypeError, ValueError: a fact is nothing that JSON has.
    """
    whole = [KEY_FORMAT, org_id, document, page, dict(facts)]
    # Not orjson, which refuses half a surrogate pair: a prompt may hold one.
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode("ascii")).hexdigest()
