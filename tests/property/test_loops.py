"""Any unit is found after any text, and text that only resembles itself is let alone."""

from __future__ import annotations

import random

from hypothesis import assume, given
from hypothesis import strategies as st

from ocr_api.markup.loops import Watch, cut, is_bad_tail, tail_loop

letters = st.characters(exclude_categories=["Cs"])
prefixes = st.text(letters, max_size=600)
units = st.text(letters, min_size=1, max_size=64) | st.text("ab <", min_size=1, max_size=400)


@given(prefixes, units, st.integers(0, 399), st.integers(0, 40))
def test_every_repeated_unit_is_found_and_cut(prefix: str, unit: str, end: int, more: int) -> None:
    times = max(4, -(-240 // len(unit)))
    text = prefix + unit * (times + more) + unit[: end % len(unit)]
    loop = tail_loop(text)
    assert loop is not None
    assert loop.unit_length <= len(unit)
    assert loop.start <= len(prefix)
    run = text[loop.start :]
    assert run == (run[: loop.unit_length] * len(run))[: len(run)]
    kept = cut(text, loop)
    assert text.startswith(kept)
    assert loop.unit_length <= len(kept) - loop.start <= 2 * loop.unit_length


@given(prefixes, st.text(letters, min_size=1, max_size=64), st.integers(1, 700))
def test_the_watch_sees_every_unit_with_a_word(prefix: str, unit: str, size: int) -> None:
    assume(any(map(str.isalnum, unit)) and "<" not in unit and "&" not in unit)
    assume(">" not in unit and "|" not in unit)
    text = prefix + unit * (3200 // len(unit) + 1)
    watch = Watch()
    verdicts = [watch.feed(text[at : at + size]) for at in range(0, len(text), size)]
    assert "repetition" in verdicts
    seen = (verdicts.index("repetition") + 1) * size
    assert seen <= len(prefix) + 1000 + len(unit) + 500 + 2 * size


def _word(dice: random.Random) -> str:
    return "".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 9)))


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_prose_contents_and_tables_are_no_loops(seed: int, count: int) -> None:
    dice = random.Random(seed)
    prose = " ".join(_word(dice) for _ in range(count * 8))
    contents = "\n".join(
        f"{number} {_word(dice)} {'.' * dice.randint(40, 120)} {dice.randint(1, 900)}"
        for number in range(count)
    )
    rows = "".join(
        f"<tr><td>{_word(dice)}</td><td>{dice.randint(0, 99)}.{dice.randint(0, 99):02}</td></tr>"
        for _ in range(count)
    )
    cells = "<table><tr>" + "<td></td>" * 30 + "</tr></table>\n\n" + prose
    for text in (prose, contents, f"<table>{rows}</table>", cells):
        assert tail_loop(text) is None
        assert not is_bad_tail(text, "stop")
        watch = Watch()
        assert not any(watch.feed(text[at : at + 90]) for at in range(0, len(text), 90))
