"""Loops at the end of an answer: found, told from legitimate repetition, and cut."""

from __future__ import annotations

import time

import pytest

from ocr_api.markup.loops import Loop, Watch, cut, is_bad_tail, tail_loop

PROSE = (
    "The committee met on Monday to discuss the budget for the coming year. Three members were "
    "absent; the chair read out their letters. After a short debate the plan was passed.\n\n"
)
CELLS = "<td></td>" * 9 + "</tr><tr>"


@pytest.mark.parametrize(
    ("unit", "times", "found"),
    [
        ("x", 239, False),
        ("x", 240, True),
        ("abcdefg", 34, False),  # 238 characters
        ("abcdefg", 35, True),
        ("The total is 42. ", 14, False),
        ("The total is 42. ", 15, True),
        ("".join(map(chr, range(100, 220))), 3, False),
        ("".join(map(chr, range(100, 220))), 4, True),
        ("".join(map(chr, range(100, 500))), 4, True),
        ("".join(map(chr, range(100, 501))), 6, False),  # 401 characters are no unit
    ],
)
def test_a_loop_is_four_units_and_240_characters(unit: str, times: int, *, found: bool) -> None:
    loop = tail_loop("#" + unit * times)
    assert (loop is not None) == found
    assert loop is None or loop.unit_length == len(unit)


def test_a_run_cut_inside_its_unit_is_found() -> None:
    text = PROSE + ("0123456789" * 30)[:-3]
    assert tail_loop(text) == Loop(10, len(PROSE), len(PROSE) + 10)


def test_the_shortest_unit_is_named_and_the_run_goes_back_to_its_start() -> None:
    loop = tail_loop(PROSE + "ha" * 100_000)
    assert loop == Loop(unit_length=2, start=len(PROSE), kept_end=len(PROSE) + 2)


def test_a_unit_that_ends_in_a_short_run_of_its_own_is_found() -> None:
    unit = "x" * 20 + "abc" + "y" * 200
    loop = tail_loop("begin " + unit * 5)
    assert loop is not None
    assert loop.unit_length == len(unit)


@pytest.mark.parametrize(
    ("before", "unit", "kept"),
    [
        ("Intro. ", "The total is 42. ", "Intro. The total is 42."),
        ("<tr><td>x</td></tr>", "<tr><td>a</td></tr>", "<tr><td>x</td></tr><tr><td>a</td>"),
        ("# Title\n", "same line\n", "# Title\nsame line\n"),
        ("", "ha", "ha"),
    ],
)
def test_one_unit_is_kept_and_ends_at_a_word_or_tag(before: str, unit: str, kept: str) -> None:
    text = before + unit * 200
    loop = tail_loop(text)
    assert loop is not None
    assert cut(text, loop) == kept


@pytest.mark.parametrize(
    "unit",
    [".", ". ", "_", "____ ", "<td></td>", CELLS, "| ", "|  |  |\n", "&nbsp;", "☐ ", " ", "\n"],
)
def test_dots_lines_and_empty_cells_are_bad_only_where_the_room_ran_out(unit: str) -> None:
    text = PROSE + unit * 300
    assert tail_loop(text) is not None
    assert not is_bad_tail(text, "stop")
    assert is_bad_tail(text, "length")


@pytest.mark.parametrize("unit", ["word ", "<td>7</td>", "日本", "a > ", "0 ", "3<"])
@pytest.mark.parametrize("reason", ["stop", "length", "repetition"])
def test_words_over_and_over_are_bad_however_they_end(unit: str, reason: str) -> None:
    assert is_bad_tail(PROSE + unit * 300, reason)


def test_a_tag_cut_in_two_is_still_a_tag() -> None:
    assert not is_bad_tail(PROSE + ("<td></td>" * 100)[:-3], "stop")


def test_what_follows_a_run_makes_it_no_loop() -> None:
    text = PROSE + CELLS * 30 + "</table>\n\nSigned by the board."
    assert tail_loop(text) is None
    assert not is_bad_tail(text, "length")


# --- while it comes -------------------------------------------------------------------------------


def fed(text: str, size: int, max_chars: int | None = None) -> tuple[str | None, int]:
    """Return what the watch says of a text in pieces, and after how many characters."""
    watch = Watch(max_chars)
    for place in range(0, len(text), size):
        if verdict := watch.feed(text[place : place + size]):
            return verdict, min(place + size, len(text))
    return None, len(text)


@pytest.mark.parametrize("size", [1, 4, 224, 100_000])
def test_a_loop_is_seen_soon_whatever_the_pieces(size: int) -> None:
    verdict, after = fed(PROSE + "The total is 42. " * 6000, size)
    assert verdict == "repetition"
    assert after <= max(size, len(PROSE) + 1000 + 17 + 500 + size)


@pytest.mark.parametrize("unit", ["x", "".join(map(chr, range(100, 500)))])
def test_the_shortest_and_the_longest_unit_are_seen(unit: str) -> None:
    verdict, after = fed(PROSE + unit * (4000 // len(unit)), 7)
    assert verdict == "repetition"
    assert after <= len(PROSE) + max(1000, 4 * len(unit)) + 510


def test_runs_that_pages_hold_are_let_through() -> None:
    page = PROSE + CELLS * 20 + "<td>sum</td></tr>" + "." * 900 + " 12\n" + "_" * 1400 + PROSE * 3
    assert fed(page, 5) == (None, len(page))


def test_a_model_stuck_in_empty_cells_is_stopped() -> None:
    verdict, after = fed(PROSE + CELLS * 400, 5)
    assert verdict == "repetition"
    assert after <= len(PROSE) + 3000 + len(CELLS) + 505


@pytest.mark.parametrize("cell", ["<td>0</td>", "| 0 ", "<td>N/A</td>"])
def test_a_table_of_zeros_is_no_loop(cell: str) -> None:
    table = cell * (2400 // len(cell))
    assert fed(PROSE + table + "\n\nThe end.", 64)[0] is None
    assert fed(PROSE + cell * (4000 // len(cell)), 64)[0] == "repetition"


def test_an_answer_beyond_its_bound_is_implausible_at_once() -> None:
    text = "".join(f"{number} " for number in range(1000))
    assert fed(text, 1, 800) == ("implausible", 801)
    assert fed(text, 1, len(text)) == (None, len(text))


def test_a_long_loop_is_called_a_loop_even_where_it_is_too_long() -> None:
    assert fed("spam " * 1000, 5000, 3000)[0] == "repetition"


def test_a_run_of_millions_of_characters_takes_no_time() -> None:
    text = PROSE + "The total is 42. " * 400_000
    begun = time.perf_counter()
    loop = tail_loop(text)
    assert loop is not None
    assert loop.start == len(PROSE)
    assert time.perf_counter() - begun < 2  # unit by unit and slice by slice it takes minutes
