"""Answers that end in a loop: the same piece of text, over and over.

Why: a vision-language model that loses its place repeats itself until its room is used up. About
one page in thirty of DeepSeek-OCR does (its authors' own figures), so a loop is found while the
answer comes, and again in the finished answer. Both tests look at the end of the text only and
compare slices, so that they cost microseconds whatever the length of the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Bad = Literal["repetition", "implausible"]
"""Why an answer is stopped, in the words of `Reading.finish_reason`."""

_LONGEST_UNIT = 400
_FEWEST_UNITS = 4
_LEAST_RUN = 240
"""Characters of a loop at the end of a finished answer."""
_PROBE = 180
"""At most ``_LEAST_RUN - 60``: then a run of any unit holds the probe at its end twice, one unit
apart (units up to 60 are repeated for 240 characters, longer ones 4 times, which is unit + 180)."""
_WINDOW = 4000

_EVERY = 500
_STREAM_RUN = 1000
_STREAM_RUN_FORM = 3000
"""Empty cells of a form, or a table of zeros, reach 2000 characters; a model that is stuck in them
goes on."""
_CELL_CHARS = 4
"""Most letters and digits of a repeated piece of a form or table that may be real."""

_TAG = re.compile(r"^[^<>]{0,80}>|<[^<>]*>|<[^<>]*$|&[a-z]+;")
_BREAKS = frozenset(" \t\n>|.,;:!?")


@dataclass(frozen=True, slots=True)
class Loop:
    """A run of one unit up to the end of a text; places count characters from its start."""

    unit_length: int
    """Characters of the shortest unit that explains the run, 1 to 400."""
    start: int
    """Where the run begins."""
    kept_end: int
    """Where a text ends that keeps one unit: within the second unit, at the end of a word or tag
    where there is one."""


def tail_loop(text: str) -> Loop | None:
    """Return the loop that the text ends in, or None.

    A loop is a unit of 1 to 400 characters, at least 4 times and for at least 240 characters.
    """
    unit = _unit(text[-_WINDOW:], _LEAST_RUN)
    if unit is None:
        return None
    start = len(text) - _run(text, unit)
    return Loop(unit, start, _kept_end(text, start + unit, unit))


def cut(text: str, loop: Loop) -> str:
    """Return the text with one unit of its loop."""
    return text[: loop.kept_end]


def is_bad_tail(text: str, finish_reason: str) -> bool:
    """Return whether an answer that ended so (`Reading.finish_reason`) ends in a loop.

    Leader dots, lines to write on and empty cells are no loop where the model ended by itself.
    """
    loop = tail_loop(text)
    if loop is None:
        return False
    return finish_reason != "stop" or not _wordless(text[-loop.unit_length :])


class Watch:
    """Looks for a loop in an answer while it comes.

    Stricter than `tail_loop`: a run has at least 1000 characters (3000 where its unit has next to
    no letters or digits), because pages do hold long rows of dots, empty cells and zeros.

    Args:
        max_chars: characters beyond which the answer is implausible; None: any length.
    """

    def __init__(self, max_chars: int | None = None) -> None:
        self._room = max_chars
        self._fresh: list[str] = []
        self._fresh_chars = 0
        self._tail = ""
        self._seen = 0

    def feed(self, piece: str) -> Bad | None:
        """Take the next piece; return why the answer should be stopped, or None.

        The text is looked at once in 500 characters, not once a piece.
        """
        self._fresh.append(piece)
        self._fresh_chars += len(piece)
        too_long = self._room is not None and self._seen + self._fresh_chars > self._room
        if self._fresh_chars < _EVERY and not too_long:
            return None
        self._seen += self._fresh_chars
        self._tail = (self._tail + "".join(self._fresh))[-_WINDOW:]
        self._fresh.clear()
        self._fresh_chars = 0
        if self._loops():
            return "repetition"
        return "implausible" if too_long else None

    def _loops(self) -> bool:
        unit = _unit(self._tail, _STREAM_RUN)
        if unit is None:
            return False
        if _is_form(self._tail[-unit:]):
            return _repeats(self._tail, unit, _STREAM_RUN_FORM)
        return True


def _unit(tail: str, least: int) -> int | None:
    """Return the length of the shortest unit whose repetition ends the text, or None.

    Candidates are the distances back to earlier places of the text's last characters.
    """
    home = len(tail) - _PROBE
    if home <= 0:
        return None
    probe = tail[home:]
    place, first = home, max(0, home - _LONGEST_UNIT)
    while (place := tail.rfind(probe, first, place + _PROBE - 1)) >= 0:
        if _repeats(tail, home - place, least):
            return home - place
    return None


def _repeats(tail: str, unit: int, least: int) -> bool:
    """Return whether the text ends in enough whole units: ``least`` characters and four units."""
    run = unit * max(_FEWEST_UNITS, -(-least // unit))
    if run > len(tail):
        return False
    begun = len(tail) - run
    return tail[begun:-unit] == tail[begun + unit :]


def _run(text: str, unit: int) -> int:
    """Return how many characters at the end of the text repeat with this unit.

    Blocks that double in size are compared, then halved at the first that differs, so that a run
    of a million characters takes some twenty comparisons.
    """
    run, step, growing = unit, unit, True
    while step:
        step = min(step, len(text) - run)
        end = len(text) - run
        if step and text[end - step : end] == text[end - step + unit : end + unit]:
            run += step
            step = step * 2 if growing else step
        else:
            growing = False
            step //= 2
    return run


def _kept_end(text: str, end: int, unit: int) -> int:
    """Return ``end``, or the next end of a word or tag within one unit after it.

    The text before a run often ends as the unit does, by chance; the run then seems to begin a
    little early, and one unit of it ends inside a word or tag.
    """
    if text[end - 1] in _BREAKS:
        return end
    for place in range(end, end + unit):
        if text[place] in _BREAKS:
            return place + 1
    return end


def _wordless(unit: str) -> bool:
    """Return whether a unit has neither letter nor digit outside of tags and entities."""
    return _letters_of_two(unit) == 0


def _is_form(unit: str) -> bool:
    """Return whether a unit is of a form or table: cells with next to nothing, or no word."""
    letters = _letters_of_two(unit)
    cells = "|" in unit or "td>" in unit + unit
    return letters == 0 or (cells and letters <= 2 * _CELL_CHARS)


def _letters_of_two(unit: str) -> int:
    """Return the letters and digits of two units, since a run may be cut inside a tag."""
    return sum(map(str.isalnum, _TAG.sub("", unit + unit)))
