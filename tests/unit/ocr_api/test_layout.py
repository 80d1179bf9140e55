"""Lines with boxes become markdown in reading order."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator

import pytest

from ocr_api.parsers.layout import Layout
from ocr_api.parsers.layout.words import escaped, join, marker, vocabulary
from ocr_api.result import Box, Line, Parsed, Reading, mark

CHARACTER = 0.008
HEIGHT = 0.012
PITCH = 0.015


def at(left: float, row: float, text: str, size: float = 1.0, confidence: float = 0.99) -> Line:
    """Return a line whose box is as wide as its text; rows are ``PITCH`` apart."""
    top = 0.1 + row * PITCH
    right = left + len(text) * CHARACTER * size
    return Line(text, Box.of(left, top, right, top + HEIGHT * size), confidence)


def parsed(*lines: Line, pictures: tuple[Box, ...] = ()) -> Parsed:
    """Return what the parser makes of the lines, which come in the order of a y-sort."""
    ordered = sorted(lines, key=lambda line: (line.box.top, line.box.left))
    return Layout().parse(Reading(lines=tuple(ordered)), pictures)


def kinds(page: Parsed) -> list[tuple[str, str]]:
    """Return kind and text of all blocks."""
    return [(block.kind, block.text) for block in page.blocks]


PROSE = [
    "The library was opened in the spring of that",
    "year by the mayor, who had never been inside",
    "one before, and was closed again by the rain",
    "that came through the roof on the second day",
    "of its existence.",
]


def test_nothing_is_nothing() -> None:
    assert parsed() == Parsed(markdown="")


def test_lines_of_a_paragraph_are_joined_by_a_space() -> None:
    page = parsed(*(at(0.1, row, text) for row, text in enumerate(PROSE)))
    assert page.markdown == " ".join(PROSE)
    assert kinds(page) == [("text", " ".join(PROSE))]


def test_a_gap_starts_a_paragraph() -> None:
    lines = [at(0.1, row, text) for row, text in enumerate(PROSE)]
    more = [at(0.1, row + 5.6, text) for row, text in enumerate(PROSE)]
    assert parsed(*lines, *more).markdown == "\n\n".join([" ".join(PROSE)] * 2)


def test_an_indent_starts_a_paragraph() -> None:
    lines = [at(0.1, row, text) for row, text in enumerate(PROSE[:4])]
    lines[-1] = at(0.1, 3, "that came through the roof, on the next day.")
    more = [at(0.1 + (row == 0) * 0.02, row + 4, text) for row, text in enumerate(PROSE)]
    assert len(parsed(*lines, *more).blocks) == 2


def test_a_line_that_ends_early_keeps_its_end() -> None:
    page = parsed(
        at(0.1, 0, "Miss Agathe Lefèvre"),
        at(0.1, 1, "3 Mill Lane"),
        at(0.1, 2, "over the old bakery, upstairs"),
        at(0.1, 3, "Aldermere"),
    )
    lines = ["Miss Agathe Lefèvre", "3 Mill Lane", "over the old bakery, upstairs", "Aldermere"]
    assert page.markdown == "  \n".join(lines)
    assert page.blocks[0].text == "\n".join(lines)


def test_two_columns_are_read_one_after_the_other() -> None:
    left = [at(0.1, row, text) for row, text in enumerate(PROSE)]
    right = [at(0.55, row, text.upper()) for row, text in enumerate(PROSE)]
    page = parsed(*left, *right)
    assert page.markdown == "\n\n".join([" ".join(PROSE), " ".join(PROSE).upper()])


def test_three_columns_under_a_title_and_over_a_footer() -> None:
    short = [text[:26].rstrip() for text in PROSE[:4]]
    columns = [
        [at(left, row + 4, f"{name}{text}") for row, text in enumerate(short)]
        for name, left in (("a", 0.08), ("b", 0.38), ("c", 0.68))
    ]
    title = at(0.36, 0, "The Aldermere Reader", size=2.2)
    footer = at(
        0.1,
        12,
        "Printed by the Friends of the Village Library in the old bakery, where the stairs are.",
    )
    page = parsed(title, footer, *(line for column in columns for line in column))
    starts = [page.markdown.index(start) for start in ("# The", "aThe", "bThe", "cThe", "Printed")]
    assert starts == sorted(starts)


def test_a_line_across_two_columns_ends_both() -> None:
    above = [at(left, row, PROSE[row]) for row in range(4) for left in (0.1, 0.55)]
    across = at(
        0.1, 6, "A sentence that runs across both of the columns and is as long as both are."
    )
    below = [at(left, row + 8, PROSE[row]) for row in range(4) for left in (0.1, 0.55)]
    found = [text for _, text in kinds(parsed(*above, across, *below))]
    assert found == [" ".join(PROSE[:4])] * 2 + [across.text] + [" ".join(PROSE[:4])] * 2


def test_a_line_read_through_the_gutter_disturbs_only_itself() -> None:
    texts = [f"{text[:40]} {number}" for number, text in enumerate(PROSE * 2)]
    left = [at(0.1, row, text) for row, text in enumerate(texts) if row != 5]
    right = [at(0.5, row, text.upper()) for row, text in enumerate(texts) if row != 5]
    through = at(0.1, 5, "x" * 40 + " " + "y" * 45)
    markdown = parsed(*left, *right, through).markdown
    assert markdown.index(texts[9][:20]) < markdown.index(texts[0].upper()[:20])


def test_titles_by_size() -> None:
    page = parsed(
        at(0.2, 0, "Minutes of the Meeting", size=2.0),
        *(at(0.1, row + 3, text) for row, text in enumerate(PROSE)),
        at(0.1, 10, "Accounts of the year", size=1.35),
        *(at(0.1, row + 12, text) for row, text in enumerate(PROSE)),
    )
    assert page.markdown.split("\n\n")[::2] == [
        "# Minutes of the Meeting",
        "## Accounts of the year",
    ]
    assert [kind for kind, _ in kinds(page)] == ["title", "text", "title", "text"]
    assert page.blocks[0].text == "Minutes of the Meeting"


def test_a_title_of_two_lines_is_one() -> None:
    page = parsed(
        at(0.1, 0, "Minutes of the Annual", size=2.0),
        at(0.1, 2, "Meeting of the Friends", size=2.0),
        *(at(0.1, row + 6, text) for row, text in enumerate(PROSE)),
    )
    assert kinds(page)[0] == ("title", "Minutes of the Annual Meeting of the Friends")


def test_a_title_of_body_size_by_its_place() -> None:
    body = [at(0.1, row + 2, text) for row, text in enumerate(PROSE)]
    page = parsed(at(0.1, 0, "What Was Left Open"), *body)
    assert page.markdown.startswith("## What Was Left Open\n\nThe library")


def test_a_short_line_with_a_colon_is_no_title() -> None:
    body = [at(0.1, row + 2, text) for row, text in enumerate(PROSE)]
    assert "#" not in parsed(at(0.1, 0, "What was bought:"), *body).markdown


def titles(page: Parsed) -> list[str]:
    """Return the texts of the titles."""
    return [text for kind, text in kinds(page) if kind == "title"]


def test_a_text_in_large_print_is_no_row_of_titles() -> None:
    summary = [at(0.1, 4 + row * 1.2, text, size=1.4) for row, text in enumerate(PROSE[:4])]
    body = [at(0.1, row + 12, text) for row, text in enumerate(PROSE * 3)]
    page = parsed(at(0.1, 0, "On Leaking Roofs", size=2.4), *summary, *body)
    assert titles(page) == ["On Leaking Roofs"]
    assert page.blocks[1].text == " ".join(PROSE[:4])


def test_the_second_line_of_an_item_is_no_title() -> None:
    item = at(0.1, 0, "• The lamp has the switches SLOW, FAST", size=1.1)
    more = at(0.11, 1, "BRIGHT, DIM and OUT on its foot", size=1.4)
    page = parsed(item, more, *(at(0.1, row + 4, text) for row, text in enumerate(PROSE * 2)))
    assert page.blocks[0].text == f"- {item.text[2:]} {more.text}"


def test_a_line_that_is_hardly_larger_than_the_one_above_is_no_title() -> None:
    address = ["Miss Agathe Lefèvre", "3 Mill Lane,", "Aldermere."]
    lines = [at(0.1, row, text, size=1.1) for row, text in enumerate(address)]
    page = parsed(
        *lines,
        at(0.1, 3, "North County", size=1.35),
        *(at(0.1, row + 7, text) for row, text in enumerate(PROSE)),
    )
    assert titles(page) == []


def test_a_line_in_the_midst_of_a_sentence_is_no_title() -> None:
    body = [at(0.1, row + 1, text) for row, text in enumerate(PROSE)]
    assert titles(parsed(at(0.1, 0, "Once upon a time", size=1.5), *_lower(body))) == []
    after = [at(0.1, row + 7, text) for row, text in enumerate(PROSE)]
    stop = at(0.1, 0, "Nobody ever came back.", size=1.4)
    assert titles(parsed(stop, *after)) == []


def _lower(lines: list[Line]) -> list[Line]:
    return [Line(line.text.lower(), line.box, line.confidence) for line in lines]


def test_names_and_dates_are_no_titles() -> None:
    body = [at(0.1, row + 2, text) for row, text in enumerate(PROSE)]
    for text in ("Zoë Brandt, Emil Sørensen, Tomás Iglesias", "A. Brandt* and E. Sørensen‡"):
        assert titles(parsed(at(0.1, 0, text), *body)) == []
    assert titles(parsed(at(0.1, 0, "Lamps, Stoves, and Cats"), *body)) == [
        "Lamps, Stoves, and Cats"
    ]


def test_small_print_has_no_titles_of_its_size() -> None:
    body = [at(0.1, row, text) for row, text in enumerate(PROSE)]
    under = [at(0.1, row + 9, text, size=0.85) for row, text in enumerate(PROSE[:2])]
    assert titles(parsed(*body, at(0.1, 7, "Printed March 2014", size=0.85), *under)) == []


def test_names_over_their_affiliations_are_no_title() -> None:
    body = [at(0.1, row + 8, text) for row, text in enumerate(PROSE)]
    page = parsed(
        at(0.1, 0, "The proceedings of a society", size=1.0),
        at(0.1, 2, "Emil Brandt", size=1.15),
        at(0.1, 4.6, "Upper School"),
        at(0.1, 5.6, "in Aldermere"),
        *body,
    )
    assert "Emil Brandt" not in titles(page)


def test_a_running_header_and_a_page_number_do_not_cut_a_sentence() -> None:
    left = [at(0.1, row, text) for row, text in enumerate(PROSE[:4] * 2)]
    right = [at(0.55, row, text) for row, text in enumerate(PROSE * 2)]
    header = [at(0.1, -4, "Notes And Queries"), at(0.86, -4, "447")]
    footer = [at(0.1, 57, "www.example.org")]
    parts = parsed(*left, *right, *header, *footer).markdown.split("\n\n")
    assert parts[0] == "Notes And Queries 447"
    assert parts[-1] == "www.example.org"
    assert parts[1] == " ".join(PROSE[:4] * 2)


def test_a_large_line_in_the_margin_stays_a_title() -> None:
    body = [at(0.1, row, text) for row, text in enumerate(PROSE * 2)]
    page = parsed(at(0.1, -5, "Notes and Queries", size=1.7), *body)
    assert page.markdown.startswith("# Notes and Queries")


def test_a_title_under_the_left_column_belongs_to_what_spans_below() -> None:
    left = [at(0.1, row, PROSE[row]) for row in range(4)]
    right = [at(0.55, row, PROSE[row].upper()) for row in range(4)]
    title = at(0.1, 5.2, "What Was Left Open", size=1.15)
    below = [at(0.1, row + 6.4, f"{PROSE[0]} and {PROSE[1]}") for row in range(3)]
    found = [text for _, text in kinds(parsed(*left, *right, title, *below))]
    assert found[:3] == [" ".join(PROSE[:4]), " ".join(PROSE[:4]).upper(), title.text]


def test_an_indented_first_line_after_a_colon_is_no_item() -> None:
    page = parsed(
        at(0.1, 0, "The following is what the members of a house"),
        at(0.1, 1, "need most from those who keep it in order:"),
        at(0.125, 2, "Somebody who lights the stove before they"),
        at(0.1, 3, "come and who puts the lamp in its window when"),
        at(0.1, 4, "the evening falls."),
    )
    assert "list" not in [block.kind for block in page.blocks]


def test_lists() -> None:
    page = parsed(
        *(at(0.1, row, text) for row, text in enumerate(PROSE)),
        at(0.11, 5.2, "• two lamps for the window seats; and a"),
        at(0.13, 6.2, "third for the stairs"),
        at(0.11, 7.3, "•a cabinet"),
        at(0.11, 8.6, "1. The room is open."),
        at(0.11, 9.7, "2) Tea is allowed."),
        at(0.11, 10.8, "a) Soup is not."),
    )
    assert page.blocks[1].kind == "list"
    assert page.blocks[1].text == (
        "- two lamps for the window seats; and a third for the stairs\n- a cabinet\n"
        "1. The room is open.\n2) Tea is allowed.\n- a) Soup is not."
    )


def test_indented_paragraphs_after_a_colon_are_a_list() -> None:
    page = parsed(
        at(0.1, 0, "The following was bought with the money from"),
        at(0.1, 1, "the summer fair and with some of the gifts:"),
        at(0.14, 2.1, "a second-hand card cabinet;"),
        at(0.14, 3.2, "two lamps."),
        at(0.1, 4.8, "Nothing else was bought with the money, since"),
    )
    assert [kind for kind, _ in kinds(page)] == ["text", "list", "text"]
    assert page.blocks[1].text == "- a second-hand card cabinet;\n- two lamps."


def test_a_number_inside_a_sentence_is_no_list() -> None:
    page = parsed(
        at(0.1, 0, "The meeting took place in the old year of no"),
        at(0.1, 1, "19. Nobody could say which century was meant"),
    )
    assert [block.kind for block in page.blocks] == ["text"]


def test_words_split_at_a_line_end() -> None:
    seen = vocabulary("the post-office and the librarian")
    assert join("he read an exam-", "ple of it", seen) == "he read an example of it"
    assert join("she is well-", "known here", seen) == "she is well-known here"
    assert join("to the post-", "office door", seen) == "to the post-office door"
    for before, after in (("ex-", "plain"), ("pro-", "vide"), ("inter-", "est"), ("ten-", "der")):
        assert join(f"to {before}", after, seen) == f"to {before[:-1]}{after}"
    assert join("the librar-", "ian said", seen) == "the librarian said"
    assert join("from Stratford-", "Upon here", seen) == "from Stratford- Upon here"
    assert join("pages 10-", "12 only", seen) == "pages 10- 12 only"
    assert join("so he said -", "and left", seen) == "so he said - and left"


def test_rows_of_a_form_stay_rows() -> None:
    rows = [("Subscriptions", "1,148.00"), ("Summer fair", "612.45"), ("Gifts", "275.00")]
    lines = []
    for row, (label, value) in enumerate(rows):
        lines += [at(0.1, row, label), at(0.6, row + 0.1, value)]
    page = parsed(*lines)
    assert page.markdown == "Subscriptions 1,148.00  \nSummer fair 612.45  \nGifts 275.00"
    assert len(page.blocks) == 1


def test_a_table_is_read_by_rows() -> None:
    cells = [[f"cell {row}{column}" for column in "abcd"] for row in range(6)]
    lines = [
        at(0.1 + 0.2 * column, row * 1.5, text)
        for row, texts in enumerate(cells)
        for column, text in enumerate(texts)
    ]
    assert parsed(*lines).markdown.split("  \n") == [" ".join(texts) for texts in cells]


def test_pictures_stand_where_they_belong_with_their_text_after_them() -> None:
    above = [at(0.1, row, text) for row, text in enumerate(PROSE)]
    below = [at(0.1, row + 20, text) for row, text in enumerate(PROSE)]
    picture = Box.of(0.1, 0.2, 0.5, 0.35)
    inside = Line("A lighthouse", Box.of(0.2, 0.25, 0.3, 0.26), 0.8)
    page = parsed(*above, inside, *below, pictures=(picture,))
    parts = page.markdown.split("\n\n")
    assert parts == [" ".join(PROSE), mark(0), "A lighthouse", " ".join(PROSE)]
    image = page.blocks[1]
    assert (image.kind, image.region, image.text, image.box) == ("image", 0, "", picture)


def test_pictures_in_columns_and_a_picture_of_the_whole_page() -> None:
    columns = [at(left, row, PROSE[row]) for row in range(5) for left in (0.1, 0.55)]
    under_left = Box.of(0.1, 0.3, 0.4, 0.5)
    parts = parsed(*columns, pictures=(under_left,)).markdown.split("\n\n")
    assert parts == [" ".join(PROSE), mark(0), " ".join(PROSE)]
    whole = parsed(*columns, pictures=(Box.of(0, 0, 1, 1),)).markdown.split("\n\n")
    assert whole == [mark(0), " ".join(PROSE), " ".join(PROSE)]


def test_confidences_are_per_line_in_reading_order() -> None:
    lines = [at(0.1, row, PROSE[row], confidence=0.9 + row / 100) for row in range(4)]
    lines += [at(0.55, row, PROSE[row], confidence=0.5 + row / 100) for row in range(4)]
    page = parsed(*lines)
    assert page.confidences == (0.9, 0.91, 0.92, 0.93, 0.5, 0.51, 0.52, 0.53)
    assert [block.confidence for block in page.blocks] == [0.915, 0.515]
    assert [block.minimum_confidence for block in page.blocks] == [0.9, 0.5]
    box = page.blocks[1].box
    assert (box.left, round(box.top, 4), round(box.bottom, 4)) == (0.55, 0.1, 0.157)


def test_text_that_looks_like_markdown_is_escaped_at_its_start_only() -> None:
    assert parsed(at(0.1, 0, "# no title")).markdown == "\\# no title"
    assert [escaped(text) for text in ("> x", "#hash", "a # b", "---", "3 < 4", "<b>")] == [
        "\\> x",
        "#hash",
        "a # b",
        "\\---",
        "3 < 4",
        "\\<b>",
    ]


def test_a_document_cannot_forge_a_mark() -> None:
    assert parsed(at(0.1, 0, f"see {mark(0)} here")).markdown == "see 0 here"


def test_markers() -> None:
    found = {text: marker(text) for text in ("• x", "- x", "-x", "12. x", "1999. x", "x. y")}
    texts = {text: item.text if item else None for text, item in found.items()}
    assert texts == {
        "• x": "-",
        "- x": "-",
        "-x": None,
        "12. x": "12.",
        "1999. x": None,
        "x. y": "-",
    }


def test_right_to_left_text_keeps_its_own_order() -> None:
    assert parsed(at(0.4, 0, "مكتبة القرية")).markdown == "مكتبة القرية"


@pytest.fixture
def _without_collector() -> Iterator[None]:
    """Hold the collector: late in a session it walks what thousands of tests left."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_without_collector")
def test_five_thousand_boxes_take_less_than_a_second() -> None:
    chance = random.Random(7)
    boxes = [Box.of(*(chance.random() for _ in range(4))) for _ in range(5000)]
    one_row = [Box.of(n / 5000, 0.5, n / 5000 + 1e-4, 0.51) for n in range(5000)]
    for shapes in (boxes, one_row):
        lines = tuple(Line(f"word {n}", box, 0.5) for n, box in enumerate(shapes))
        start = time.process_time()
        Layout().parse(Reading(lines=lines), (Box.of(0.2, 0.2, 0.4, 0.4),))
        assert time.process_time() - start < 4.0  # under 1 s on an idle core
