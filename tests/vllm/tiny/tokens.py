"""The tokenizer of a tiny model: control tokens, single bytes, and the pieces of its page.

No merges: a prompt becomes one token per byte, and one per control token that it spells. The
pieces of the page are tokens that no prompt is ever split into, but that decode like any other.
Each piece stands in the page once, so that the last token alone says which comes next.

Control tokens in a page, such as ``<|ref|>``, are spelled inside ordinary pieces. They decode to
the same text, and may so occur as often as the page likes; but unlike the real ones,
``skip_special_tokens`` does not take them out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

VOCABULARY = 640
"""Entries of every tiny model: more than any page needs."""


def split(page: str, taken: set[str]) -> list[str]:
    """Split a page into distinct pieces of whole words; none of them is one of ``taken``."""
    pieces, seen, piece = [], set(taken), ""
    for word in re.findall(r"\s*\S+|\s+$", page):
        piece += word
        if piece not in seen:
            pieces.append(piece)
            seen.add(piece)
            piece = ""
    if piece:
        pieces[-1] += piece
    if len(set(pieces)) != len(pieces):
        raise ValueError("this page does not split into distinct pieces")
    return pieces


def byte_names() -> list[str]:
    """Return how vocabularies write each byte: one printable character.

    Bytes that print in Latin-1 stand for themselves; the others take the code points from 256
    on, in order. That is the rule of the tokenizers' ``ByteLevel``.
    """
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]


def vocabulary(controls: Sequence[str], page: str) -> tuple[dict[str, int], list[int]]:
    """Return the ids of all entries, and the ids that spell the page."""
    names = byte_names()
    pieces = split(page, {*controls, *map(chr, range(128))})
    spelled = ["".join(names[byte] for byte in piece.encode()) for piece in pieces]
    entries = [*controls, *names, *spelled]
    unused = [f"<|unused_{number}|>" for number in range(VOCABULARY - len(entries))]
    ids = {entry: number for number, entry in enumerate([*entries, *unused])}
    if len(ids) != VOCABULARY:
        raise ValueError(f"a page of {len(pieces)} pieces is too long")
    return ids, [ids[piece] for piece in spelled]


def tokenizer(ids: dict[str, int], controls: Sequence[str]) -> dict[str, Any]:
    """Return the contents of ``tokenizer.json``."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[name], "content": name, "special": True, **flags} for name in controls
        ],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [],
        },
    }
