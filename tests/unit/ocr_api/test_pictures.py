"""Which images of a page are pictures, and what the page process imports."""

from __future__ import annotations

import subprocess
import sys

from ocr_api.pages.pictures import choose, covers


def test_strips_and_tiles_that_touch_are_one_picture() -> None:
    strips = [(0.1, 0.1 + 0.01 * row, 0.5, 0.11 + 0.01 * row) for row in range(30)]
    (one,) = choose(strips, 1000, 1000)
    assert [round(side, 6) for side in one] == [0.1, 0.1, 0.5, 0.4]
    tiles = [(x / 4, y / 4, (x + 1) / 4, (y + 1) / 4) for x in range(4) for y in range(4)]
    assert covers(tiles)
    assert choose(tiles, 1000, 1000) == []
    assert not covers(tiles[:12])
    apart = [(0.1, 0.1, 0.3, 0.3), (0.1, 0.32, 0.3, 0.5)]
    assert choose(apart, 1000, 1000) == apart


def test_pictures_are_in_reading_order_and_at_most_64() -> None:
    tall, upper, lower = (0.0, 0.1, 0.4, 0.9), (0.5, 0.11, 0.9, 0.4), (0.5, 0.7, 0.9, 0.9)
    left, right = (0.0, 0.02, 0.2, 0.06), (0.5, 0.01, 0.7, 0.05)
    assert choose([lower, upper, tall, right, left], 1000, 1000) == [
        left,
        right,
        tall,
        upper,
        lower,
    ]
    many = [
        (x / 10, y / 10, x / 10 + 0.04 + y / 1000, y / 10 + 0.04)
        for x in range(10)
        for y in range(9)
    ]
    kept = choose(many, 1000, 1000)
    assert len(kept) == 64
    assert kept == sorted(kept, key=lambda box: (round(box[1], 3), box[0]))


def test_the_child_imports_little() -> None:
    code = (
        "import sys, ocr_api.pages.drawing;"
        "print({'aiohttp','fastapi','sqlalchemy','pydantic','numpy','yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
