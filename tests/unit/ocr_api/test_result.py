"""Boxes and marks."""

from __future__ import annotations

from ocr_api.result import Box, mark, plain, replace_marks


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
    assert plain(f"a{mark(7)}b") == "a7b"
