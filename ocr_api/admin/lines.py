"""Organisations and keys as lines of a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from files_api.accounts import LIMITS, OrgRecord
from files_api.keys import KeyRecord


def organisation_line(record: OrgRecord) -> tuple[str, ...]:
    """Return an organisation as a line of a table."""
    own = {name: getattr(record.limits, name) for name in LIMITS}
    limits = [f"{name}={most or 'none'}" for name, most in own.items() if most is not None]
    return (
        record.id,
        record.name,
        time_text(record.created_at, "-"),
        str(record.stored_files),
        str(record.stored_bytes),
        " ".join(limits) or "-",
    )


def key_line(record: KeyRecord) -> tuple[str, ...]:
    """Return a key as a line of a table, without its secret."""
    now = datetime.now(UTC).timestamp()
    state = "revoked" if record.revoked_at else "active"
    if state == "active" and record.expires_at and record.expires_at <= now:
        state = "expired"
    times = (record.created_at, record.expires_at, record.last_used_at)
    return (
        record.id,
        record.org_name,
        record.name or "-",
        ",".join(record.scopes) + (" (service)" if record.service else ""),
        *(time_text(moment, "-") for moment in times),
        state,
    )


def time_text(moment: int | None, absent: str) -> str:
    """Return a time as people read it, UTC."""
    if moment is None:
        return absent
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print lines with their cells below each other; the first is the head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
