"""Boxes and marks."""

from __future__ import annotations

from ocr_api.result import (
    Block,
    Box,
    Parsed,
    keep_regions,
    mark,
    plain,
    replace_marks,
    replace_table_marks,
    table_mark,
)


def test_box_is_sorted_and_cut_to_the_page() -> None:
    assert Box.of(0.9, 1.5, -0.2, 0.5) == Box(0.0, 0.5, 0.9, 1.0)
    assert Box(0.1, 0.2, 0.5, 0.9).pixels(1000, 500) == (100, 100, 500, 450)
    assert Box(0.0, 0.0, 0.5, 0.5).area == 0.25


def test_a_box_turns_with_its_page() -> None:
    box = Box(0.1, 0.2, 0.3, 0.6)
    assert box.turned(0) is box
    turned = box.turned(90)
    assert [round(edge, 9) for edge in (turned.left, turned.top, turned.right, turned.bottom)] == [
        0.4,
        0.1,
        0.8,
        0.3,
    ]
    back = turned.turned(270)
    assert all(
        abs(getattr(back, edge) - getattr(box, edge)) < 1e-9
        for edge in ("left", "top", "right", "bottom")
    )


def test_marks_become_placeholders_or_vanish_with_their_paragraph() -> None:
    text = f"{mark(0)}\n\nOne\n\n{mark(1)}\n\nTwo {mark(2)} end\n\n{mark(3)}"
    shown = replace_marks(text, lambda number: f"<{number}>")
    assert shown == "<0>\n\nOne\n\n<1>\n\nTwo <2> end\n\n<3>"
    assert replace_marks(text, lambda _: "") == "One\n\nTwo  end"
    assert replace_marks(mark(0), lambda _: "") == ""


def test_a_document_cannot_forge_a_mark() -> None:
    assert plain(f"a{mark(7)}b\0c") == "a7bc"


def test_kept_regions_are_numbered_anew_in_markdown_and_blocks() -> None:
    boxes = tuple(Box(0, 0, share, share) for share in (0.1, 0.2, 0.3))
    blocks = (
        Block("text", boxes[0], "a"),
        *(Block("image", box, region=n) for n, box in enumerate(boxes)),
    )
    parsed = Parsed(f"a\n\n{mark(0)}\n\nb {mark(1)}\n\n{mark(2)}", blocks, regions=boxes)
    kept = keep_regions(parsed, [1, 2])
    assert kept.markdown == f"a\n\nb {mark(0)}\n\n{mark(1)}"
    assert kept.regions == boxes[1:]
    assert [block.region for block in kept.blocks] == [None, 0, 1]
    none = keep_regions(parsed, [])
    assert (none.markdown, none.regions, len(none.blocks)) == ("a\n\nb ", (), 1)


def test_table_marks_and_marks_of_pictures_do_not_meet() -> None:
    text = f"{table_mark(0)} {mark(0)}"
    assert replace_marks(text, lambda n: f"p{n}") == f"{table_mark(0)} p0"
    assert replace_table_marks(text, lambda n: f"t{n}") == f"t0 {mark(0)}"
