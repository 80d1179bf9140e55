"""Tables, links and confidence of a page's markdown."""

from __future__ import annotations

import pytest

from ocr_api.markup.confidence import Word, block_scores, page_confidences, words
from ocr_api.markup.links import hyperlinks
from ocr_api.markup.tables import lift_tables
from ocr_api.result import WHOLE_PAGE, Block, Table, Token, mark, table_mark

# --- tables --------------------------------------------------------------------------------------

HTML = "<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>"
PIPES = "| A | B |\n| --- | --- |\n| 1 | 2 |"
HTML_OF_PIPES = (
    "<table>\n<thead>\n<tr><th>A</th><th>B</th></tr>\n</thead>\n"
    "<tbody>\n<tr><td>1</td><td>2</td></tr>\n</tbody>\n</table>"
)


def pipes(html: str) -> str:
    """Return an HTML table as a pipe table."""
    markdown, tables = lift_tables(html, "markdown")
    assert markdown == table_mark(0)
    assert tables[0].format == "markdown"
    return tables[0].content


def cells(html: str) -> list[list[str]]:
    """Return the cells of an HTML table as a pipe table has them, without the rule."""
    lines = pipes(html).split("\n")
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:1] + lines[2:]]


def test_tables_of_both_forms_leave_marks() -> None:
    text = f"Before\n\n{PIPES}\n\nBetween {HTML} after"
    markdown, tables = lift_tables(text, "html")
    assert markdown == f"Before\n\n{table_mark(0)}\n\nBetween \n\n{table_mark(1)}\n\n after"
    assert tables == (Table(HTML_OF_PIPES, "html"), Table(HTML, "html"))
    _, tables = lift_tables(text, "markdown")
    assert tables == (Table(PIPES, "markdown"), Table(PIPES, "markdown"))


def test_a_page_without_tables_stays_as_it_is() -> None:
    text = "\nA | B\n\n---\n\nC <tablet> \n"
    assert lift_tables(text, "html") == (text, ())


def test_tables_in_code_stay() -> None:
    text = f"```\n{PIPES}\n{HTML}\n```\n\nx"
    assert lift_tables(text, "html") == (text, ())
    open_end = f"{PIPES}\n\n~~~\n{HTML}"
    markdown, tables = lift_tables(open_end, "markdown")
    assert markdown == f"{table_mark(0)}\n\n~~~\n{HTML}"
    assert len(tables) == 1


def test_spans_are_repeated_or_left_empty() -> None:
    assert cells(
        "<table><tr><td rowspan='2'>Mode</td><td colspan=2>Size</td></tr>"
        "<tr><td>w</td><td>h</td></tr><tr><td colspan='3'>All</td></tr></table>"
    ) == [["Mode", "Size", "Size"], ["Mode", "w", "h"], ["All", "", ""]]


def test_short_rows_are_filled_and_rows_without_cells_left_out() -> None:
    html = "<table><tr></tr><tr><td>A<td>B</tr><tr><td>1</tr></table>"
    assert cells(html) == [["A", "B"], ["1", ""]]


def test_cells_are_escaped() -> None:
    html = (
        "<table><tr><td>a|b</td><td>x<br/>y</td></tr><tr><td>R&amp;D &amp;lt; &lt;b&gt; 1 < 2</td>"
        "<td>\n m<sup>2</sup>\n <b>bold</b></td></tr></table>"
    )
    assert pipes(html) == (
        "| a\\|b | x<br>y |\n| --- | --- |\n| R&D &amp;lt; &lt;b> 1 < 2 | m<sup>2</sup> bold |"
    )


def test_escaped_pipes_and_angles_become_html() -> None:
    _, tables = lift_tables("a | b\n-|:-:\n1 \\| 2 | <i> &amp; x<br>y<sub>2</sub>\n3", "html")
    assert tables[0].content == (
        "<table>\n<thead>\n<tr><th>a</th><th>b</th></tr>\n</thead>\n<tbody>\n"
        "<tr><td>1 | 2</td><td>&lt;i&gt; &amp; x<br>y<sub>2</sub></td></tr>\n</tbody>\n</table>"
    )


def test_a_table_in_a_table_is_part_of_its_cell() -> None:
    html = f"<table><tr><td>out</td><td>{HTML} more</td></tr></table>"
    assert cells(html) == [["out", "A B 1 2 more"]]
    assert lift_tables(html, "html")[1] == (Table(html, "html"),)


def test_a_table_that_was_cut_ends_at_a_blank_line() -> None:
    text = f"<table><tr><td>A</td></tr><tr><td>B\n\n{mark(0)}"
    markdown, tables = lift_tables(text, "html")
    assert markdown == f"{table_mark(0)}\n\n{mark(0)}"
    assert tables[0].content == "<table><tr><td>A</td></tr><tr><td>B</table>"
    assert lift_tables(text, "markdown")[1][0].content == "| A |\n| --- |\n| B |"


def test_text_outside_cells_is_not_lost() -> None:
    html = "<table><caption>Table 1</caption><tr><td>A</td></tr></table>"
    assert pipes(html) == "Table 1\n\n| A |\n| --- |"
    assert lift_tables("x <table>Only text</table> y", "html") == ("x \n\nOnly text\n\n y", ())


def test_marks_of_pictures_stay_and_none_can_be_forged() -> None:
    html = f"<table><tr><td>{mark(3)}</td><td>&#xe000;1&#57345;</td></tr></table>"
    assert pipes(html) == f"| {mark(3)} | 1 |\n| --- | --- |"
    _, tables = lift_tables(f"{mark(3)} | &#xe000;1&#xe001;\n-|-", "html")
    assert f"<th>{mark(3)}</th><th>1</th>" in tables[0].content


def test_absurd_spans_are_not_spread() -> None:
    html = "<table>" + "<tr><td rowspan=65534 colspan=9999>x</td></tr>" * 300 + "</table>"
    assert pipes(html).count("x") == 300
    _, tables = lift_tables("|" * 2000 + "a|\n" + "|-" * 2000 + "|\n" + "|b\n" * 2000, "html")
    assert tables == () or tables[0].content.count("<td>") <= 2000


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markdown", "targets"),
    [
        ("[a](https://a.org/x_(y)?b=1&amp;c=2 'title')", ["https://a.org/x_(y)?b=1&c=2"]),
        ("[a](http://a.org)[b](http://b.org)", ["http://a.org", "http://b.org"]),
        ("[http://a.org](http://a.org) http://a.org", ["http://a.org"]),
        ("See http://a.org/b. (http://c.org/) **http://d.org**", 3 * ["http://a.org/b"]),
        ("<https://a.org> <me@a.org> [m](mailto:b@a.org)", 3 * ["https://a.org"]),
        ("<a href='https://a.org/x y'>x</a>", ["https://a.org/x"]),
        ("[![i](http://picture.org/a.png)](http://a.org)", ["http://a.org"]),
        ("![i](http://picture.org/a(1).png) `http://code.org`", []),
        ("```\nhttp://code.org\n```\nhttp://a.org", ["http://a.org"]),
        ("[f](ftp://a.org) [g](javascript:x) [h](#h) http:// https://.", []),
        ("http://a.org/b\\_c | http://b.org|", ["http://a.org/b_c", "http://b.org"]),
        (f"http://a.org{mark(0)}", ["http://a.org"]),
        (f"http://a.org/{'x' * 3000}", []),
    ],
)
def test_links(markdown: str, targets: list[str]) -> None:
    found = list(hyperlinks(markdown))
    if len(targets) == 3:
        assert found[0] == targets[0]
        assert len(found) == 3
    else:
        assert found == targets


# --- confidence ----------------------------------------------------------------------------------


def tokens(*pieces: tuple[str, float]) -> tuple[Token, ...]:
    return tuple(Token(text, probability) for text, probability in pieces)


ANSWER = tokens(
    ("<|ref|>", 0.9),
    ("title", 0.1),
    ("<|/ref|>", 0.9),
    ("<|det|>", 0.9),
    ("[[330, 1", 0.2),
    ("98]]", 0.2),
    ("<|/det|>", 0.9),
    ("\n#", 0.8),
    (" Hel", 0.5),
    ("lo", 0.32),
    (" world", 1.0),
    (",", 0.25),
    ("\n\n", 1.0),
    ("<td>", 0.9),
    ("12.5", 0.7),
    ("</td>", 0.9),
    (" —", 0.6),
    (" end", 0.3),
)


def test_a_word_has_the_geometric_mean_of_its_tokens() -> None:
    found = words("Hello world,", ANSWER)
    assert [(word.text, word.start) for word in found] == [("Hello", 0), (" world,", 5)]
    assert [round(word.confidence, 9) for word in found] == [0.4, 0.5]


def test_added_words_are_left_out_and_the_rest_is_found() -> None:
    markdown = "# Hello world,\n\n![img-0.jpeg](img-0.jpeg) | 12.5 | — end"
    found = words(markdown, ANSWER)
    assert [word.text for word in found] == [" Hello", " world,", " 12.5", " —", " end"]
    for word in found:
        assert markdown[word.start : word.start + len(word.text)] == word.text
    assert found[3] == Word(" —", 50, pytest.approx(0.6))


def test_page_confidences_are_of_letters_and_digits_and_not_of_markup() -> None:
    assert page_confidences(ANSWER) == (0.5, 0.32, 1.0, 0.7, 0.3)
    boxes = tokens(("![image](", 0.1), ("image_1.png", 0.2), (") 120,300,480,700", 0.3), ("A", 0.4))
    assert page_confidences(boxes)[1:] == (0.4,)
    assert page_confidences(()) == ()


def test_block_scores_are_mean_and_least() -> None:
    blocks = (
        Block("title", WHOLE_PAGE, "# Hello world,"),
        Block("image", WHOLE_PAGE, region=0),
        Block("table", WHOLE_PAGE, "| 12.5 |"),
        Block("text", WHOLE_PAGE, "Never said"),
    )
    scored = block_scores(blocks, ANSWER)
    assert scored[0].confidence == pytest.approx((0.5 + 0.32 + 1.0 + 0.25) / 4)
    assert scored[0].minimum_confidence == 0.25
    assert scored[1] == blocks[1]
    assert (scored[2].confidence, scored[2].minimum_confidence) == (0.7, 0.7)
    assert scored[3] == blocks[3]


def numbered(first: int, last: int) -> list[str]:
    return [f"word{number}" for number in range(first, last)]


def test_text_that_was_left_out_or_moved_is_passed() -> None:
    said = tokens(*((f"{word} ", 0.5) for word in numbered(0, 400)))
    kept = numbered(0, 50) + numbered(300, 350)
    assert len(words(" ".join(kept), said)) == 100
    moved = numbered(380, 400) + numbered(0, 380)
    assert len(words(" ".join(moved), said)) == 400


def test_a_word_that_is_said_again_far_away_does_not_lead_away() -> None:
    said = tokens(*((f"{word} ", 0.5) for word in [*numbered(0, 100), "img", "0", "img"]))
    markdown = "img-0 " + " ".join(numbered(0, 100))
    assert len(words(markdown, said)) == 100


def test_no_probability_is_zero_and_no_text_is_nothing() -> None:
    assert words("a", tokens(("a", 0.0)))[0].confidence == pytest.approx(1e-9)
    assert words("", ANSWER) == []
    assert words("a b", ()) == []
    assert block_scores((), ANSWER) == ()
