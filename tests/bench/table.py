"""A row of the table of measurements, and the printing of all."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure, what it is compared with, and the aim."""

    figure: str
    ours: str
    bare: str
    ratio: str
    aim: str


def show(rows: list[Row]) -> None:
    """Print the rows as markdown."""
    print("| figure | Recto | bare | ratio | aim |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.figure} | {row.ours} | {row.bare} | {row.ratio} | {row.aim} |")


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that so many of a hundred are not above; of two values and more."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
