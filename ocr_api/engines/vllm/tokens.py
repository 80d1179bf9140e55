"""The pieces of an answer with their probabilities, laid along its text.

Why: a server's list of tokens is not quite its text. Special tokens are in the list and not in
the text, a character may take several tokens, and the first token may lose its leading space.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator, Sequence
from typing import Any

from ocr_api.result import Token

_SLACK = 8
"""Most characters of text that tokens of broken characters may stand for."""


def align(text: str, said: Sequence[Any], length: int) -> tuple[Token, ...]:
    """Return the pieces of the first ``length`` characters; joined they are those characters.

    A piece that took several tokens has the product of their probabilities.

    Args:
        text: the whole answer.
        said: the server's ``logprobs.content``, the items of all events.
        length: characters of the text that are kept.

    Returns:
        Nothing where the items do not fit the text.
    """
    try:
        tokens = list(_along(text, list(_pieces(said))))
    except (AttributeError, TypeError, ValueError, KeyError, OverflowError):
        return ()
    kept, place = [], 0
    for token in tokens:
        if place < length:
            kept.append(Token(token.text[: length - place], token.probability))
        place += len(token.text)
    return tuple(kept) if place == len(text) else ()


def _pieces(said: Sequence[Any]) -> Iterator[tuple[str, float]]:
    """Give text and probability of each token; of a split character, its last token has it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for item in said:
        raw = item.get("bytes")
        # Of a number, bytes() would make that many zeros.
        piece = decoder.decode(bytes(raw)) if isinstance(raw, list) else item["token"]
        yield piece, min(1.0, math.exp(item["logprob"]))


def _along(text: str, pieces: Sequence[tuple[str, float]]) -> Iterator[Token]:
    place, held, broken = 0, 1.0, False
    for piece, probability in pieces:
        if not piece or "\ufffd" in piece:  # part of a character that a later token ends
            held, broken = held * probability, True
            continue
        if place == 0 and not text.startswith(piece):
            piece = piece.lstrip()  # noqa: PLW2901 - some tokenizers write a space before the text
        at = text.find(piece, place, place + len(piece) + (_SLACK if broken else 0))
        if not piece or at < 0:
            continue  # a special token, which the server took out of the text
        yield Token(text[place : at + len(piece)], held * probability)
        place, held, broken = at + len(piece), 1.0, False
    if broken and 0 < len(text) - place <= _SLACK:
        yield Token(text[place:], held)
