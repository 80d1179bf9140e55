"""`recto compare` in a process of its own, with the CPU engine and with stand-ins for vLLM."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests import samples
from tests.bench.fake import FAKE
from tests.e2e.conftest import recto
from tests.e2e.reading import HURRIED, SMALL, Standin, pdf, standin, write_cards

FIRST = "The total is 42 Euro.\n\n<script>alert(1)</script> </textarea>"
SECOND = "The total is 43 Euro.\n\n<script>alert(1)</script> </textarea>"

LARGE_PRINT = samples.text_pdf(["Invoice number 1234", "Second page of it"], size=(300, 200))


class Report(HTMLParser):
    """What a report shows: its summary, and each model's part of each page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.columns: list[dict[str, list[str]]] = []
        """Texts by the tag, or the class, of what they stand in."""
        self.images: list[bytes] = []
        self.tags: set[str] = set()
        self._open: list[str] = []
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.add(tag)
        if tag == "img":
            head, _, data = (facts["src"] or "").partition(",")
            assert head == "data:image/jpeg;base64"
            self.images.append(base64.b64decode(data, validate=True))
        if tag in ("img", "meta"):
            return
        self._open.append((facts.get("class") or tag).split()[-1])
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if self._open[-1] == "model":
            self.columns.append({})
        elif "model" in self._open:
            self.columns[-1].setdefault(self._open[-1], []).append("")

    def handle_endtag(self, _: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if {"th", "td", "word"} & set(self._open):
            self.rows[-1][-1] += data
        if "model" in self._open:
            for name in self._open[self._open.index("model") + 1 :]:
                self.columns[-1][name][-1] += data

    def summary(self) -> dict[str, dict[str, str]]:
        """Return the cells of the table, by model and heading."""
        head, *rows = self.rows
        return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_engines_that_need_no_server(tmp_path: Path) -> None:
    document = tmp_path / "two.pdf"
    document.write_bytes(LARGE_PRINT)
    target = tmp_path / "out.html"
    done = recto(
        tmp_path / "data", "compare", str(document), "--models", "rapidocr,echo", "--json",
        "--pages", "1",
        "-o", str(target), SHOW_HIDDEN_MODELS="true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    (page,) = facts["pages"]
    assert page["results"][0]["markdown"].split() == ["Second", "page", "of", "it"]
    report = Report(target)
    one, two = report.columns
    assert (one["h4"], two["h4"]) == (["rapidocr"], ["echo"])
    assert one["text"][0].split() == ["Second", "page", "of", "it"]
    assert two["text"][-1].split()[:3] == ["#", "Page", "1"]
    assert [image[:2] for image in report.images] == [b"\xff\xd8"]
    table = report.summary()
    assert [row["Pages read"] for row in table.values()] == ["1", "1"]
    assert table["rapidocr"]["Similarity, mean"] == "\N{EN DASH}"
    tokens = len(page["results"][1]["markdown"].split())
    assert table["echo"]["Completion tokens per page"] == str(tokens)
    median = facts["models"][0]["seconds_p50"]
    assert table["rapidocr"]["Seconds per page, median"] == f"{median:.2f}"
    assert "two.pdf, echo: 1 page read in" in done.stderr
    assert done.stderr.endswith(f"{target} written.\n")
    assert not (tmp_path / "data").exists()


# --- with a stand-in for vLLM ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def both() -> Iterator[Standin]:
    if not FAKE.is_file():
        pytest.skip("there is no stand-in for vLLM here")
    with standin() as fake:
        yield fake


@pytest.fixture
def fake(both: Standin) -> Standin:
    both.fault()
    return both


class Desk:
    """A folder with cards whose servers only a route names, as in an A/B test."""

    def __init__(self, folder: Path, fake: Standin) -> None:
        self._folder = folder
        self._settings = write_cards(folder)
        url = f"{fake.base}/v1"
        targets = [{"card": card, "urls": [url]} for card in (SMALL, HURRIED)]
        routes = {"default": "house-ocr", "routes": {"house-ocr": {"targets": targets}}}
        Path(self._settings["ROUTES"]).write_text(json.dumps(routes))

    def compare(self, content: bytes, code: int = 0) -> tuple[Report, dict[str, Any]]:
        """Return the report of a document, and the same as JSON."""
        document, target = self._folder / "a.pdf", self._folder / "out.html"
        document.write_bytes(content)
        done = recto(
            self._folder / "data", "compare", str(document), "--models", f"{SMALL},{HURRIED}",
            "-o", str(target), "--force", "--json", **self._settings,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return Report(target), json.loads(done.stdout)


@pytest.fixture
def desk(tmp_path: Path, fake: Standin) -> Desk:
    return Desk(tmp_path, fake)


@pytest.mark.shared
def test_cards_of_one_route_are_compared_and_nothing_they_say_is_markup(
    desk: Desk, fake: Standin
) -> None:
    # The models read one after the other, and there is one page: the order is theirs.
    said = [
        {"content": FIRST, "prompt_tokens": 700, "completion_tokens": 41},
        {"content": SECOND, "prompt_tokens": 1710, "completion_tokens": 42},
    ]
    fake.says(by_order=said)
    report, facts = desk.compare(pdf("compared", 1))
    assert "script" not in report.tags
    one, two = report.columns
    assert (one["text"], two["text"][-1:]) == ([FIRST], [SECOND])
    assert [part.strip() for part in two["del"] + two["ins"]] == [
        "only there", "42", "only here", "43",
    ]  # fmt: skip
    assert two["li"][0] == "85.7 % similar"
    assert (one["li"][-1], two["li"][-1]) == ("700 + 41 tokens", "1,710 + 42 tokens")
    table = report.summary()
    assert table[HURRIED]["Similarity, mean"] == "85.7 %"
    assert table[HURRIED]["Prompt tokens per page"] == "1,710"
    assert table[HURRIED]["Completion tokens per page"] == "42"
    assert [one["cards"] for one in facts["models"]] == [[SMALL], [HURRIED]]


@pytest.mark.shared
def test_a_page_that_one_model_cannot_read_does_not_end_the_report(
    desk: Desk, fake: Standin
) -> None:
    document = pdf("failing", 3)
    desk.compare(document)
    (picture,) = {
        image["sha256"]
        for one in fake.log()
        if "-p1-" in one["headers"]["x-request-id"]
        for image in one["images"]
    }
    fake.fault({"do": "http500", "image": picture, "model": HURRIED})
    report, facts = desk.compare(document, code=1)
    errors = [[one["error"] for one in page["results"]] for page in facts["pages"]]
    assert [[error is None for error in page] for page in errors] == [
        [True, True],
        [True, False],
        [True, True],
    ]
    assert [len(page["results"][0]["markdown"]) > 100 for page in facts["pages"]] == [True] * 3
    failed = report.columns[3]
    assert failed["bad"] == [f"Not read: {errors[1][1]}"]
    assert "text" not in failed
    assert [row["Failed"] for row in report.summary().values()] == ["0", "1 page"]
    assert report.summary()[HURRIED]["Pages read"] == "2"
    assert [len(report.columns), len(report.images)] == [6, 3]
    similar = [page["results"][1]["similarity"] for page in facts["pages"]]
    assert similar == [1.0, None, 1.0]


@pytest.mark.shared
def test_tokens_that_were_thrown_away_are_counted_apart(desk: Desk, fake: Standin) -> None:
    fake.fault({"do": "loop", "model": SMALL, "times": 1})
    report, facts = desk.compare(pdf("wasteful", 1))
    (looped,) = [one for one in fake.log() if one["fault"] == "loop"]
    counted = facts["models"][0]
    assert counted["wasted_prompt_tokens"] == looped["prompt_tokens"] > 0
    # It was stopped where it looped.
    assert 0 < counted["wasted_completion_tokens"] <= looped["completion_tokens"]
    wasted = counted["wasted_prompt_tokens"] + counted["wasted_completion_tokens"]
    one, two = report.columns
    assert f"{wasted:,} wasted" in one["li"]
    assert not [fact for fact in two["li"] if "wasted" in fact]
    assert one["warnings"][0].strip().startswith("The model's answer was thrown away once")
    assert report.summary()[SMALL]["Wasted tokens per page"] == f"{wasted:,}"
