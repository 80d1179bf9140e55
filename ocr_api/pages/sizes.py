"""How large a page may be drawn. Used in the child, so without pydantic."""

from __future__ import annotations

from typing import NamedTuple


class SizeLimits(NamedTuple):
    """Limits of one drawn page; all of them hold."""

    edge: int
    """Longest edge in pixels."""
    dpi: int | None
    """Most pixels per inch of paper, where the paper is known."""
    max_pixels: int
    """Most pixels of the drawn page."""
    input_pixels: int
    """Most pixels of an image that is decoded for it."""
