"""The tables of docs/capacity.md follow from its inputs."""

from __future__ import annotations

import re
from math import ceil

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "capacity.md").read_text("utf-8")
LOADS = (1, 10, 100, 1000)


def rows(title: str) -> dict[str, list[str]]:
    """Return the first table below a heading: cells by their row's first one."""
    section = TEXT.split(f"## {title}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


INPUTS = {name: float(cells[0]) for name, cells in rows("Inputs").items()}


def test_gpus_follow_from_the_rates() -> None:
    found = rows("GPUs")
    assert len(found) == 3
    for card, cells in found.items():
        each = INPUTS[f"{card} pages/s per H100"] * INPUTS["GPU headroom"]
        assert [int(cell) for cell in cells] == [ceil(load / each) for load in LOADS]


def test_pods_follow_from_the_processor_time() -> None:
    cores = INPUTS["cores per `ocr` pod"] * INPUTS["API headroom"] * 1000
    each = {
        "text pages in long documents": cores / INPUTS["API CPU ms per text page"],
        "scanned pages in long documents": cores / INPUTS["API CPU ms per scanned page"],
        "one-page requests": INPUTS["event loop headroom"]
        * 1000
        / INPUTS["API process ms per one-page request"],
    }
    for load, (per_pod, *cells) in rows("API pods").items():
        assert float(per_pod) == round(each[load], 1)
        assert [int(cell) for cell in cells] == [ceil(pages / each[load]) for pages in LOADS]


def test_measured_inputs_stand_in_the_figures_they_name() -> None:
    figures = (ROOT / "docs" / "performance.md").read_text("utf-8")
    for name in ("API CPU ms per text page", "API CPU ms per scanned page"):
        assert re.search(rf"at a server.*\n?.*\| {INPUTS[name]:g} \|", figures), name
    assert f"+{INPUTS['API process ms per one-page request']:g} ms" in figures


def test_what_breaks_first_is_in_proportion() -> None:
    a_day = INPUTS["ledger bytes per page"] * 86_400
    first = rows("What breaks first")
    assert f"{a_day * 100 / 1e9:.0f} GB a day" in first["100"][0]
    assert f"{a_day * 1000 / 1e9:.0f} GB a day" in first["1,000"][0]
    pictures = INPUTS["JPEG bytes per page"] * 4 / 3 * 1000
    assert f"{pictures / 1e6:.0f} MB/s of pictures" in first["1,000"][1]
