"""What the probabilities of a model's tokens say of a page, of its blocks, and of its words.

The tokens, joined, are the raw answer. The page's text is the answer after a parser, and perhaps
with tables moved out and pictures named, so its words are looked for in the answer: word after
word, and where text was left out or moved, by three words in a row. Runs of letters and digits
are compared and nothing else, since parsers and doors add and remove markup. Everything needs
time in proportion to the text.

Page and block scores are plain means and least values over tokens, the score of a word is the
geometric mean of its tokens, as Mistral defines them.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean

from ocr_api.result import Block, Token

NEAR = 8
"""How many runs may be passed over to find a run of its own; farther, it takes three in a row."""
LEAST = 1e-9
"""Smallest probability that is counted; 0 has no logarithm."""

# One run of letters and digits. In writings without spaces a run is a clause.
_RUN = re.compile(r"[^\W_]+")
_WORD = re.compile(r"\S+")
# Markup that a model writes as tokens: labels and boxes, control tokens, tags, picture names.
_MARKUP = re.compile(
    r"<\|ref\|>[a-z_]{0,40}<\|/ref\|>|<\|det\|>[^<]*<\|/det\|>|<\|[^|<>\s]{1,40}\|>"
    r"|</?[A-Za-z][^<>]{0,500}>"
    r"|\((?:page|image)_[\d_]{1,60}\.?\w{0,5}\)(?:\s*\d{1,4},\d{1,4},\d{1,4},\d{1,4})?"
)


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the page's markdown; ``text`` keeps the space before it.

    ``markdown[start : start + len(text)] == text``; ``confidence`` is 0 to 1.
    """

    text: str
    start: int
    confidence: float


class Aligner:
    """Walks through a raw answer and finds the words of texts that were made of it, in order."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        """Index the runs of letters and digits of the joined tokens."""
        self._tokens = tokens
        self._raw = "".join(token.text for token in tokens)
        self._starts = list(accumulate((len(token.text) for token in tokens), initial=0))
        self._runs = list(_runs(self._raw))
        self._near: dict[str, list[int]] = {}
        self._triples: dict[tuple[str, ...], list[int]] = {}
        texts = [self._raw[start:end] for start, end in self._runs]
        for place, text in enumerate(texts):
            self._near.setdefault(text, []).append(place)
            if place + 2 < len(texts):
                self._triples.setdefault(tuple(texts[place : place + 3]), []).append(place)
        self._texts = texts
        self._next = 0

    def found(self, text: str) -> Iterator[tuple[int, int, range]]:
        """Yield start and end in the text, and the tokens, of each word that is in the answer.

        A next call goes on where this one ended.
        """
        words = list(_spans(text))
        runs = list(_runs(text))
        texts = [text[start:end] for start, end in runs]
        first = 0
        for start, end in words:
            last = first
            while last < len(runs) and runs[last][0] < end:
                last += 1
            tokens = self._match(text[start:end].lstrip(), texts, first, last)
            if tokens is not None:
                yield start, end, tokens
            first = last

    def _match(self, word: str, texts: list[str], first: int, last: int) -> range | None:
        """Return the tokens of a word that has the runs ``texts[first:last]``."""
        if first == last:
            return self._match_symbol(word)
        place = self._place(texts, first)
        if place is None or self._texts[place : place + last - first] != texts[first:last]:
            return None
        self._next = place + last - first
        start, end = self._runs[place][0], self._runs[self._next - 1][1]
        before = word.find(texts[first])
        if self._raw.startswith(word, start - before) and start >= before:
            start, end = start - before, start - before + len(word)
        return self._tokens_of(start, end)

    def _match_symbol(self, word: str) -> range | None:
        """Return the tokens of a word without letters, if it comes next in the answer."""
        start = self._runs[self._next - 1][1] if self._next else 0
        stop = self._runs[self._next][0] if self._next < len(self._runs) else len(self._raw)
        at = self._raw.find(word, start, min(stop, start + len(word) + NEAR))
        return None if at < 0 else self._tokens_of(at, at + len(word))

    def _place(self, texts: list[str], first: int) -> int | None:
        """Return the place in the answer of a run of the text: near, ahead, or else behind."""
        places = self._near.get(texts[first], [])
        at = bisect_left(places, self._next)
        if at < len(places) and places[at] <= self._next + NEAR:
            return places[at]
        places = self._triples.get(tuple(texts[first : first + 3]), [])
        if not places:
            return None
        at = bisect_left(places, self._next)
        return places[at] if at < len(places) else places[0]

    def _tokens_of(self, start: int, end: int) -> range:
        """Return the tokens that hold the characters from ``start`` to before ``end``."""
        return range(bisect_right(self._starts, start) - 1, bisect_left(self._starts, end))

    def probabilities(self, tokens: range) -> list[float]:
        """Return the probabilities of tokens, 0 to 1."""
        return [self._tokens[number].probability for number in tokens]


def words(markdown: str, tokens: Sequence[Token]) -> list[Word]:
    """Return the words of the markdown that stand in the answer, with their confidence.

    Words are parted by white space and by markup, such as the tags of a table. What a parser or a
    door added is left out.
    """
    aligner = Aligner(tokens)
    return [
        Word(markdown[start:end], start, _geometric_mean(aligner.probabilities(numbers)))
        for start, end, numbers in aligner.found(markdown)
    ]


def block_scores(blocks: Sequence[Block], tokens: Sequence[Token]) -> tuple[Block, ...]:
    """Return the blocks with mean and least probability of their tokens.

    Blocks must come in the order of the answer. One whose text is not found, and one without a
    text, stays as it is.
    """
    aligner = Aligner(tokens)
    scored = []
    for block in blocks:
        numbers = {number for _, _, found in aligner.found(block.text) for number in found}
        values = [tokens[number].probability for number in numbers]
        scored.append(
            replace(block, confidence=fmean(values), minimum_confidence=min(values))
            if values
            else block
        )
    return tuple(scored)


def page_confidences(tokens: Sequence[Token]) -> tuple[float, ...]:
    """Return the probabilities of all tokens with letters or digits that are not markup."""
    raw = "".join(token.text for token in tokens)
    runs = _runs(raw)
    run = next(runs, None)
    end = 0
    values = []
    for token in tokens:
        start, end = end, end + len(token.text)
        while run is not None and run[1] <= start:
            run = next(runs, None)
        if run is not None and run[0] < end:
            values.append(token.probability)
    return tuple(values)


def _runs(raw: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of letters and digits outside markup."""
    at = 0
    for markup in _MARKUP.finditer(raw):
        for run in _RUN.finditer(raw, at, markup.start()):
            yield run.span()
        at = markup.end()
    for run in _RUN.finditer(raw, at):
        yield run.span()


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each word with the space before it; markup parts words."""
    at = 0
    for stop, after in [*(found.span() for found in _MARKUP.finditer(text)), (len(text), 0)]:
        for word in _WORD.finditer(text, at, stop):
            yield at, word.end()
            at = word.end()
        at = after


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(max(value, LEAST)) for value in values) / len(values))
