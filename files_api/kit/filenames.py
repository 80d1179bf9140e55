"""File names from clients: cleaned for keeping, encoded for a header. They are never paths."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import quote

MAX_CHARACTERS = 255
DEFAULT = "upload"

# Control characters, lone surrogates, line and paragraph separators.
_UNWANTED = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Marks that make `exe.pdf` out of `fdp.exe` on a screen.
_DIRECTION = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c")
_UNSAFE_IN_QUOTES = re.compile(r"[^ !#$&-\[\]-~]")
# RFC 8187, 3.2.1: attr-char, as far as quote() does not know it already.
_ATTRIBUTE_CHARACTERS = "!#$&+^`|"


def clean(name: str) -> str:
    """Return a name to keep: NFC, without folders, control and direction marks, not too long."""
    name = "".join(
        letter
        for letter in re.split(r"[/\\]", name)[-1]
        if unicodedata.category(letter) not in _UNWANTED and letter not in _DIRECTION
    )
    # After that, because a mark that goes may have stood between a letter and its accent.
    name = unicodedata.normalize("NFC", name).strip()
    if len(name) > MAX_CHARACTERS:
        suffix = PurePosixPath(name).suffix[:16]
        name = (name[: MAX_CHARACTERS - len(suffix)] + suffix).strip()
    return name if name.strip(".") else DEFAULT


def attachment(name: str) -> str:
    """Return a Content-Disposition that saves under the name (RFC 6266, with RFC 8187)."""
    plain = _UNSAFE_IN_QUOTES.sub("_", name)
    value = f'attachment; filename="{plain}"'
    if plain != name:
        value += f"; filename*=UTF-8''{quote(name, safe=_ATTRIBUTE_CHARACTERS)}"
    return value
