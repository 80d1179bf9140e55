"""Which trace a request belongs to, as its headers say: W3C Trace Context, level 1.

Source: https://www.w3.org/TR/trace-context-1/ ("traceparent", "tracestate", "Versioning of
traceparent"). A request that says it wrong belongs to none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})"
    r"-(?P<span>(?!0{16})[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-[!-~]{0,200})?"
)
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_MEMBERS = 32
SAMPLED = 1
"""The one flag that level 1 knows."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The trace that a request belongs to, as whoever sent it says."""

    parent: str
    """The header ``traceparent``, as it came."""
    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    sampled: bool
    """Whether the caller may have recorded it."""
    state: str = ""
    """The header ``tracestate``; empty where there is none, or a malformed one."""


def read(headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
    """Return the trace that headers name; None where they name none, or say it wrong.

    A ``traceparent`` of a later version is read as far as level 1 knows it; a malformed
    ``tracestate`` is as if there were none.
    """
    parents: list[str] = []
    states: list[str] = []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value.decode("latin-1").strip(" \t"))
        elif name == b"tracestate":
            states.append(value.decode("latin-1"))
    found = _PARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if found is None or (found["version"] == "00" and found["more"] is not None):
        return None
    sampled = bool(int(found["flags"], 16) & SAMPLED)
    return Caller(found[0], found["trace"], found["span"], sampled, _state(",".join(states)))


def _state(text: str) -> str:
    """Return a ``tracestate`` as it is, or empty where it is empty or malformed."""
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    fits = len(keys) == len(members) <= _MEMBERS and all(map(_MEMBER.fullmatch, members))
    return text.strip(" \t") if members and fits else ""
