"""The comparison of models: differences, figures, and a report that nothing in it can break."""

from __future__ import annotations

import html
import json
import time
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given
from hypothesis import strategies as st

from ocr_api import compare as room
from ocr_api.compare import differences, figures
from ocr_api.compare.differences import Change
from ocr_api.compare.figures import Figures
from ocr_api.compare.reading import Attempt, Reading, ReadPage
from ocr_api.compare.report import CSP, HtmlReport, escaped
from ocr_api.pages import DrawnPage
from ocr_api.result import Usage
from tests import helpers
from tests.conftest import ROOT

HOSTILE = "</textarea></div><script>alert(1)</script><img src=x onerror=y> &amp; &#60; \"'`\r\n\tz"
VOID = {"meta", "img", "br"}

words = st.lists(st.sampled_from(["a", "b", "c", "c\n", " ", "\n\n", "日", "<b>"]), max_size=30)
sentences = words.map(" ".join)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


class Reader(HTMLParser):
    """Reads a report: elements with their attributes, and the text of each."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        """Tag, attributes and pieces of text, in the order in which the elements began."""
        self._open: list[tuple[str, list[str]]] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append((tag, self.found[-1][2]))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for tag, pieces in self._open:
            inside_gone = any(name == "del" for name, _ in self._open)
            if tag != "div" or not inside_gone:
                pieces.append(data)

    def all(self, tag: str, style: str | None = None) -> list[str]:
        """Return the texts of elements; those of a div are without what is marked as gone."""
        return [
            "".join(pieces)
            for name, attributes, pieces in self.found
            if name == tag and (style is None or style in (attributes.get("class") or "").split())
        ]


# --- differences ----------------------------------------------------------------------------------


def test_what_differs_is_marked_word_by_word() -> None:
    found = differences.compare("The total is 42 Euro.\n", "The sum is  42\nEuro. Thanks")
    assert found.changes == (
        Change("same", "The "),
        Change("gone", "total "),
        Change("new", "sum "),
        Change("same", "is  42\nEuro. "),
        Change("new", "Thanks"),
    )
    assert found.similarity == pytest.approx(2 * 4 / (5 + 6))
    assert not found.by_lines


def test_characters_are_the_words_of_texts_without_spaces() -> None:
    found = differences.compare("東京都港区", "東京市港区")
    assert [change.kind for change in found.changes] == ["same", "gone", "new", "same"]
    assert found.similarity == 0.8


@pytest.mark.parametrize(
    ("first", "second", "similarity"),
    [("", "", 1), ("a", "", 0), ("", "a", 0), (" \n", "", 1), ("a b", "a\n\nb ", 1), ("a", "b", 0)],
)
def test_similarity_of_little(first: str, second: str, similarity: float) -> None:
    assert differences.compare(first, second).similarity == similarity


@given(sentences, sentences)
def test_the_second_text_is_whole_and_so_are_the_first_ones_words(first: str, second: str) -> None:
    changes = differences.compare(first, second).changes
    assert "".join(change.text for change in changes if change.kind != "gone") == second
    old = "".join(change.text for change in changes if change.kind != "new")
    assert "".join(old.split()) == "".join(first.split())


@given(sentences, sentences)
def test_similarity_is_the_longest_common_subsequence(first: str, second: str) -> None:
    old, new = (
        ["日" if "日" in word else word for word in text.split()] for text in (first, second)
    )
    row = [0] * (len(new) + 1)
    for one in old:
        before = row[:]
        for at, other in enumerate(new):
            row[at + 1] = before[at] + 1 if one == other else max(before[at + 1], row[at])
    wanted = 2 * row[-1] / (len(old) + len(new)) if old or new else 1
    assert differences.compare(first, second).similarity == pytest.approx(wanted)


N = 3000


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # difflib takes minutes for the first one.
        (" ".join(f"the A{n}" for n in range(N)), " ".join(f"the B{n}" for n in range(N))),
        ("the " * N + "a " * N, "a " * N + "the " * N),
        ("a b " * N, "b a " * (N - 400) + "c " * 800),
        ("x\n" * 7 * N, "y\n" * 7 * N),
    ],
)
def test_texts_made_to_be_slow_are_compared_by_lines(first: str, second: str) -> None:
    begun = time.process_time()
    found = differences.compare(first, second)
    assert time.process_time() - begun < 3
    assert found.by_lines
    assert "".join(change.text for change in found.changes if change.kind != "gone") == second


def test_lines_stand_in_where_too_many_words_differ() -> None:
    other = " ".join(f"B{n}" for n in range(N))
    found = differences.compare(f"same line\n{'A ' * N}\nlast", f"same line\n{other}\nlast")
    assert [change.kind for change in found.changes] == ["same", "gone", "new", "same"]
    assert found.similarity == pytest.approx(2 * 3 / (2 * N + 6))  # of words, in any order


# --- figures --------------------------------------------------------------------------------------


def page(markdown: str, seconds: float = 1.0, **facts: object) -> ReadPage:
    return ReadPage(markdown, seconds, Usage(10, 5), Usage(), **facts)  # type: ignore[arg-type]


def reading(*attempts: Attempt, name: str = "a.pdf") -> Reading:
    return Reading(Path(name), attempts, None)


def counted(found: Reading) -> list[Figures]:
    totals = [Figures(attempt.model) for attempt in found.attempts]
    figures.add(totals, found)
    for _, cells in figures.rows(found):
        figures.add_row(totals, cells)
    return totals


def test_figures_add_up() -> None:
    usage, wasted = Usage(1000, 200), Usage(0, 30)
    first = Attempt("a", "card-a", seconds=9.0, usage=usage, wasted=wasted)
    first.pages = {number: page("same", seconds=number + 1.0) for number in range(20)}
    second = Attempt("b", "card-b", {0: page("same"), 1: page("other"), 2: page("", error="Bad.")})
    second.error = "The time is over."
    one, two = counted(reading(first, second))
    assert (one.pages, one.failed_pages, one.failed_files, one.similarity) == (20, 0, 0, None)
    assert (one.within(0.5), one.within(0.95), one.total_seconds) == (10.0, 19.0, 9.0)
    assert (one.usage, one.wasted, one.per_page(1200)) == (usage, wasted, 60.0)
    assert (two.pages, two.failed_pages, two.failed_files, two.similarity) == (2, 18, 1, 0.5)
    assert (two.cards, Figures("c").within(0.5), Figures("c").per_page(3)) == (
        ["card-b"],
        None,
        None,
    )


def test_a_page_that_was_not_read_is_compared_with_nothing() -> None:
    first = Attempt("a", "a", {0: page("x", error="Loops."), 1: page("y")})
    second = Attempt("b", "b", {0: page("x")}, error="Gone.")
    (_, row), (_, last) = figures.rows(reading(first, second))
    assert [cell.difference for cell in row + last] == [None] * 4
    assert [cell.error for cell in row + last] == ["Loops.", None, None, "Gone."]


# --- the report -----------------------------------------------------------------------------------


def report(*readings: Reading, drawn: DrawnPage | str = "Not drawn.") -> str:
    models = [attempt.model for attempt in readings[0].attempts]
    out, whole, totals = (
        BytesIO(),
        HtmlReport(models, BytesIO()),
        [Figures(name) for name in models],
    )
    for one in readings:
        figures.add(totals, one)
        whole.add_file(one)
        for index, cells in figures.rows(one):
            figures.add_row(totals, cells)
            whole.add_page(one, index, cells, drawn)
    whole.finish(totals, out)
    return out.getvalue().decode()


@given(texts)
@example(HOSTILE)
@example("\r\n\r \x0c\x85\xa0\ue000 &#0; &amp;lt;")
def test_text_comes_out_as_it_went_in(text: str) -> None:
    assert html.unescape(escaped(text)) == text
    assert set("<>\"'\r") & set(escaped(text)) == set()


def test_text_that_html_cannot_hold() -> None:
    assert escaped("a\0b\ud800c") == "a\ufffdb?c"


@given(texts, texts, texts)
@example(HOSTILE, HOSTILE + " more", HOSTILE)
@example("one", "one", "")
def test_whatever_stands_in_a_document_stays_text(first: str, second: str, said: str) -> None:
    """Model names, file names, warnings, errors and texts: nothing of them becomes an element."""
    attempts = (
        Attempt(f"a{said}", said, {0: page(first), 1: page(first, error=said)}, warnings=(said,)),
        Attempt(f"b{said}", said, {0: page(second, warnings=(said,))}, error=said),
    )
    found = Reader(
        report(Reading(Path(f"x{said.replace('/', '')}.pdf"), attempts, None), drawn=said)
    )
    changes = differences.compare(first, second).changes
    differ = any(change.kind != "same" for change in changes)
    # Where the second differs it stands there twice: with marks, and alone.
    wanted = [first] * bool(first) + [second] * (2 if differ else bool(second))
    assert found.all("div", "text") == wanted + [first] * bool(first)
    gone = "".join(change.text for change in changes if change.kind == "gone")
    assert "".join(found.all("del")).replace("only there", "", 1) == gone
    tags = {tag for tag, _, _ in found.found}
    assert tags <= {
        *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "article"),
        *("h1", "h2", "h3", "h4", "p", "code", "div", "table", "caption", "thead", "tbody", "tr"),
        *("th", "td", "ul", "ol", "li", "a", "figure", "details", "summary", "ins", "del"),
    }
    for tag, attributes, _ in found.found:
        known = {"class", "id", "href", "scope", "lang", "dir", "style", "role", "tabindex"}
        assert tag == "meta" or set(attributes) <= {*known, "aria-labelledby"}
        assert (attributes.get("href") or "#").startswith("#")


def test_the_report_is_closed_to_the_network_and_to_scripts() -> None:
    drawn = DrawnPage(0, 30, 40, 72, b"\xff\xd8jpeg", blank=False, pictures=())
    attempts = (Attempt("a", "a", {0: page("x y")}), Attempt("b", "b", {0: page("x z")}))
    text = report(reading(*attempts), drawn=drawn)
    found = Reader(text)
    policy = [one for tag, one, _ in found.found if "http-equiv" in one]
    assert policy == [{"http-equiv": "Content-Security-Policy", "content": CSP}]
    for part in ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"):
        assert part in CSP.split("; ")
    (image,) = [attributes for tag, attributes, _ in found.found if tag == "img"]
    assert image["src"] == "data:image/jpeg;base64,/9hqcGVn"
    assert (image["alt"], image["width"]) == ("a.pdf, page 0, as it was drawn", "30")
    assert "<script" not in text
    assert "url(" not in text
    assert "://" not in text


def test_the_report_names_the_pages_that_matter() -> None:
    many = {number: page(" ".join(f"w{n}" for n in range(20))) for number in range(14)}
    other = {
        number: page(" ".join("new" if n < number else f"w{n}" for n in range(20)))
        for number in range(14)
    }
    other[13] = page("", error="Loops.")
    found = Reader(report(reading(Attempt("a", "a", many), Attempt("b", "b", other))))
    (worst,) = found.all("ol", "links")
    assert worst.strip().splitlines() == [
        f"a.pdf, page {n}, b: {100 - 5 * n}.0 %" for n in range(12, 2, -1)
    ]
    (failures,) = found.all("ul", "links")
    assert failures.strip() == "a.pdf, page 13 by b"
    ids = {attributes.get("id") for _, attributes, _ in found.found}
    hrefs = [attributes["href"] for tag, attributes, _ in found.found if tag == "a"]
    assert len(hrefs) == 11
    assert {(href or "")[1:] for href in hrefs} <= ids


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECTO_DATA_DIR", "/proc/recto")  # nothing is kept
    monkeypatch.setenv("RECTO_SHOW_HIDDEN_MODELS", "true")
    # Two names of one model, so that nothing has to be read slowly.
    routes = tmp_path / "routes.yaml"
    routes.write_text(json.dumps({"default": "echo", "aliases": {"fake": "echo"}}))
    monkeypatch.setenv("RECTO_ROUTES", str(routes))
    monkeypatch.setenv("RECTO_MODELS_DIR", str(ROOT / "configs" / "models"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "three.pdf"
    path.write_bytes(helpers.pages_pdf(3))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(room.compare, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "echo"), "name two models or more"),
        (("--models", "echo,rapidocr,echo"), "echo stands there twice"),
        (("--models", "echo,gpt"), "There is no model 'gpt'. Models here: echo, rapidocr."),
        (("--models", "echo,zai-org/GLM-OCR"), "no server runs it"),
        (("--models", "echo,rapidocr", "--pages", "2-1"), "backwards"),
        (("--models", "echo,rapidocr", "-o", "none/a.html"), "none does not exist"),
        (("--models", "echo,rapidocr", "-o", ".", "--force"), ". is not a file"),
        (
            ("--models", "echo,rapidocr", "-o", "three.pdf", "--force"),
            "one of the files to be read",
        ),
        (("--models", "echo,rapidocr", "missing.pdf"), "missing.pdf does not exist"),
        (("--models", "echo,rapidocr", "/dev/zero"), "/dev/zero is not a file"),
        ((), "Missing option '--models'"),
    ],
)
def test_wrong_usage_is_a_plain_sentence(
    document: Path, arguments: tuple[str, ...], message: str
) -> None:
    before, names = document.read_bytes(), sorted(document.parent.iterdir())
    done = run(document, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())
    assert sorted(document.parent.iterdir()) == names
    assert document.read_bytes() == before


def test_a_wrong_configuration_compares_nothing(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECTO_MAX_PAGES", "many")
    done = run(document, "--models", "echo,rapidocr")
    assert (done.exit_code, done.stderr.startswith("recto: RECTO_MAX_PAGES: ")) == (2, True)


def test_a_report_is_not_overwritten_unless_that_is_wanted(document: Path) -> None:
    old = document.parent / "report.html"
    old.write_text("old")
    arguments = (document, "--models", "echo,fake", "--pages", "0")
    done = run(*arguments)
    assert (done.exit_code, "report.html is there already" in done.stderr) == (2, True)
    assert old.read_text() == "old"
    done = run(*arguments, "--force")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "report.html written.\n" in done.stderr
    assert Reader(old.read_text("utf-8")).all("h3") == ["Page 0"]
    assert sorted(path.name for path in document.parent.glob("*.html")) == ["report.html"]
    assert not list(document.parent.glob(".recto*"))
    assert old.stat().st_mode & 0o777 == (document.parent / "routes.yaml").stat().st_mode & 0o777


def test_a_report_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")

    def fill() -> None:
        with room._published(target) as file:
            file.write(b"new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill()
    assert (target.read_text(), [*tmp_path.iterdir()]) == ("old", [target])


def test_json_is_for_programs(document: Path) -> None:
    bad = document.parent / "bad.pdf"
    bad.write_bytes(b"<html>")
    done = run(document, bad, "--models", "echo,fake", "--pages", "0,2", "--json")
    assert done.exit_code == 1, done.stderr
    assert not (document.parent / "report.html").exists()
    facts = json.loads(done.stdout)
    one, two = facts["models"]
    assert (one["model"], two["model"], two["cards"]) == ("echo", "fake", ["echo"])
    assert (one["pages"], one["failed_files"], one["similarity"]) == (2, 1, None)
    assert (two["pages"], two["failed_pages"], two["similarity"]) == (2, 0, 1.0)
    assert [file["file"] for file in facts["files"]] == [str(document), str(bad)]
    assert "looks like an HTML page" in facts["files"][1]["results"][0]["error"]
    assert [(page["file"], page["index"]) for page in facts["pages"]] == [
        (str(document), 0),
        (str(document), 2),
    ]
    result = facts["pages"][1]["results"][1]
    assert result["markdown"].startswith("# Page 2\n")
    assert result["usage"]["completion_tokens"] == len(result["markdown"].split())
    assert two["completion_tokens"] == sum(
        page["results"][1]["usage"]["completion_tokens"] for page in facts["pages"]
    )
    assert f"{bad}, echo: The document looks like an HTML page." in done.stderr
    assert f"{document}, fake: 2 pages read in " in done.stderr
