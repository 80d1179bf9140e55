"""How many tokens a drawn page takes in a model, by the arithmetic of its image processor.

Why: the room that is left for the answer is the context less the page, and a page that takes
more tokens than the model was trained for is drawn in vain.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_LONGEST_SHAPE = 4.0
"""Long edge over short edge of the longest page that `Patches.max_pixels` speaks for."""

_VIEW_TOKEN = 64
"""Pixels that one token of a DeepSeek view stands for along an edge: patches of 16, joined 4 by 4
(vLLM's ``deepseek_ocr.py`` in ``transformers_utils/processors``)."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Patches(_Strict):
    """One token per square of ``side`` pixels.

    ``up``: a started square counts (Pixtral: LightOnOCR). ``nearest``: each edge is first brought
    to the nearest multiple of ``side`` (Qwen-VL's smart resize: GLM-OCR, Qwen2.5-VL, Qwen3-VL).
    """

    rule: Literal["patches"]
    side: Annotated[int, Field(ge=8)]
    rounding: Literal["up", "nearest"]
    max_tokens: Annotated[int, Field(ge=16)]
    """Most tokens of a page that is worth its cost."""

    def tokens(self, width: int, height: int) -> int:
        """Return the tokens of a page of that many pixels."""
        if self.rounding == "up":
            return math.ceil(width / self.side) * math.ceil(height / self.side)
        return max(1, round(width / self.side)) * max(1, round(height / self.side))

    def max_pixels(self) -> int:
        """Return pixels that never take more than ``max_tokens``, for pages of up to 4 to 1.

        Rounding adds at most ``most`` squares to each edge, so a page as large as n squares takes
        no more than n + most * (its edges in squares) + most ** 2 tokens; this solves for n.
        """
        most = 1.0 if self.rounding == "up" else 0.5
        half = most * (math.sqrt(_LONGEST_SHAPE) + 1 / math.sqrt(_LONGEST_SHAPE)) / 2
        root = math.sqrt(half * half + self.max_tokens - most * most) - half
        return int(root * root * self.side * self.side)


class Tiles(_Strict):
    """One view of the whole page, and a grid of tiles unless the page fits into one.

    DeepSeek-OCR: a line end per row of tokens (``row_ends``); DeepSeek-OCR-2: none. The page is
    stretched to the grid, its shape is not kept. Source: vLLM's ``deepseek_ocr.py`` and
    ``deepseek_ocr2.py`` in ``model_executor/models``.
    """

    rule: Literal["tiles"]
    base: Annotated[int, Field(ge=64, multiple_of=64)]
    """Edge of the view of the whole page, in pixels."""
    tile: Annotated[int, Field(ge=64, multiple_of=64)]
    """Edge of a tile, in pixels."""
    least: Annotated[int, Field(ge=1)]
    """Fewest tiles of a grid."""
    most: Annotated[int, Field(ge=1, le=64)]
    """Most tiles of a grid."""
    row_ends: bool

    @property
    def max_tokens(self) -> int:
        """Return the tokens of the page that takes most of them."""
        return max(self._count(columns, rows) for columns, rows in self._grids())

    def tokens(self, width: int, height: int) -> int:
        """Return the tokens of a page of that many pixels."""
        if max(width, height) <= self.tile:
            return self._count(0, 0)
        return self._count(*self.grid(width, height))

    def max_pixels(self) -> int:
        """Return the pixels of the largest grid; more would be thrown away."""
        return self.most * self.tile * self.tile

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Return the columns and rows of tiles that a page of that many pixels is stretched to.

        The grid of the nearest shape. Where two are as near, the larger one, provided that the
        page has more than half of its pixels.
        """
        grids = self._grids()
        off = [abs(width / height - columns / rows) for columns, rows in grids]
        nearest = [grid for grid, far in zip(grids, off, strict=True) if far == min(off)]
        for columns, rows in reversed(nearest[1:]):
            if 2 * width * height > self.tile * self.tile * columns * rows:
                return columns, rows
        return nearest[0]

    def _grids(self) -> list[tuple[int, int]]:
        """Return every grid, small ones first. No two of the same size are of the same shape."""
        sizes = range(1, self.most + 1)
        grids = [(columns, rows) for columns in sizes for rows in sizes]
        allowed = [grid for grid in grids if self.least <= grid[0] * grid[1] <= self.most]
        return sorted(allowed, key=lambda grid: grid[0] * grid[1])

    def _count(self, columns: int, rows: int) -> int:
        """Return the tokens of the whole view, a separator, and a grid; no grid has 0 rows."""
        end = int(self.row_ends)
        whole, part = self.base // _VIEW_TOKEN, self.tile // _VIEW_TOKEN
        return whole * (whole + end) + 1 + part * rows * (part * columns + end)


Vision = Annotated[Patches | Tiles, Field(discriminator="rule")]
"""A rule of counting; a card names it."""
