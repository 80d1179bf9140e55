"""Which image objects of a PDF page are pictures: pure geometry on sides as fractions of a page.

Runs in the child only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

Sides = tuple[float, float, float, float]
"""Left, top, right, bottom; 0 to 1."""

_MOST = 64
_SMALLEST = 16  # pixels; smaller ones are bullets and rules
_WHOLE = 0.9  # share of the page from which an image is the page itself
_TOUCH = 0.002  # of the page: strips of one scan leave no larger gap


def covers(boxes: Iterable[Sides]) -> bool:
    """Return whether one box, or boxes that touch, cover the page."""
    boxes = list(boxes)
    if any(_area(box) >= _WHOLE for box in boxes):
        return True
    if sum(map(_area, boxes)) < _WHOLE:
        return False
    return any(_area(box) >= _WHOLE for box in _merged(boxes))


def choose(boxes: Iterable[Sides], width: int, height: int) -> list[Sides]:
    """Return the pictures of a page of that many pixels, in reading order.

    Left out: images that are the page itself, alone or as strips that touch; those under 16
    pixels; duplicates; all but the 64 largest.
    """
    large = [
        box
        for box in _merged(set(boxes))
        if _area(box) < _WHOLE
        and (box[2] - box[0]) * width >= _SMALLEST
        and (box[3] - box[1]) * height >= _SMALLEST
    ]
    large.sort(key=_area, reverse=True)
    return _reading_order(large[:_MOST])


def _area(box: Sides) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _merged(boxes: Iterable[Sides]) -> list[Sides]:
    """Return the boxes with strips, then tiles, that touch made one."""
    rows = _join(boxes, lambda box: box)
    return _join(rows, lambda box: (box[1], box[0], box[3], box[2]))


def _join(boxes: Iterable[Sides], turn: Callable[[Sides], Sides]) -> list[Sides]:
    """Return the boxes with those made one that stand on each other, equally wide.

    ``turn`` swaps the axes, both ways, for boxes that stand beside each other.
    """
    joined: list[Sides] = []
    turned = sorted(map(turn, boxes), key=lambda box: (_step(box[0]), _step(box[2]), box[1]))
    for box in turned:
        if joined:
            last = joined[-1]
            same = _step(last[0]) == _step(box[0]) and _step(last[2]) == _step(box[2])
            if same and abs(box[1] - last[3]) <= _TOUCH:
                joined[-1] = (
                    min(last[0], box[0]),
                    last[1],
                    max(last[2], box[2]),
                    max(last[3], box[3]),
                )
                continue
        joined.append(box)
    return [turn(box) for box in joined]


def _step(side: float) -> int:
    return round(side / (2 * _TOUCH))


def _reading_order(boxes: list[Sides]) -> list[Sides]:
    """Return the boxes by rows from the top, each row from the left."""
    ordered: list[Sides] = []
    row: list[Sides] = []
    for box in sorted(boxes, key=lambda box: (box[1], box[0])):
        if row and box[1] > (row[0][1] + row[0][3]) / 2:
            ordered += sorted(row)
            row = []
        row.append(box)
    return ordered + sorted(row)
