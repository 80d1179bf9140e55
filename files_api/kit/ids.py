"""Ids: UUIDv7 (RFC 9562, 5.7), so that the order of ids is the order of creation."""

from __future__ import annotations

import re

from uuid_utils import uuid7

from files_api.kit.errors import InvalidFileId

_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id() -> str:
    """Return a new UUIDv7, lower case with hyphens; later ids sort after earlier ones."""
    return str(uuid7())


def is_id(text: str) -> bool:
    """Tell whether the text is a UUID of any version in canonical form."""
    return _CANONICAL.fullmatch(text) is not None


def check_id(text: str) -> str:
    """Return the id in canonical form; capital letters become small.

    Raises:
        InvalidFileId: the text is no UUID with hyphens.
    """
    # ASCII first: lower() makes ASCII letters of some others.
    lowered = text.lower() if text.isascii() else ""
    if not is_id(lowered):
        raise InvalidFileId
    return lowered


def seconds_of(made: str) -> int:
    """Return when a UUIDv7 was made, in unix seconds: its first 48 bits are milliseconds."""
    return int(made.replace("-", "")[:12], 16) // 1000
