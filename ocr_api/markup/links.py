"""The addresses that a page's markdown links to."""

from __future__ import annotations

import re

from ocr_api.markup.notation import code_spans

MAX_LENGTH = 2000
"""Longest address; browsers and servers take no longer ones for granted."""

_SCHEME = r"(?:https?://|mailto:)"
# Brackets belong to an address when they come in pairs, as in encyclopedias.
_IN_TARGET = r"[^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*"
_IN_TEXT = _IN_TARGET.replace("<>", "<>\\[\\]\"'`|")
# A picture is passed over; then what stands in brackets, in an attribute, in the text, in angles.
_LINK = re.compile(
    rf"!\[[^\[\]\n]{{0,999}}\]\({_IN_TARGET}"
    rf"|\]\(\s{{0,9}}<?(?P<target>{_SCHEME}{_IN_TARGET})"
    rf"|href\s{{0,9}}=\s{{0,9}}[\"']?(?P<attribute>{_SCHEME}[^\s<>\"']+)"
    rf"|(?P<bare>{_SCHEME}{_IN_TEXT})"
    r"|<(?P<mail>[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5})>"
    r"|`[^`\n]*`",
    re.IGNORECASE,
)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_SOMEWHERE = re.compile(rf"{_SCHEME}[^\w]*\w", re.IGNORECASE)
_PRIVATE = re.compile("[\ue000-\uf8ff].*", re.DOTALL)
_AFTER = "?!.,:;*_~'"
"""What ends a sentence and not an address (GFM 6.9, with the semicolon)."""


def hyperlinks(markdown: str) -> tuple[str, ...]:
    """Return the targets of all links, in order, each once.

    Links are markdown's and HTML's, and addresses that stand in the text as they are. Only
    ``http``, ``https`` and ``mailto`` count; pictures and code do not.
    """
    if not any(sign in markdown for sign in ("://", "@")) and "mailto:" not in markdown.casefold():
        return ()  # most pages; the rest costs a quarter of a millisecond
    targets: dict[str, None] = {}
    at = 0
    for start, stop in [*code_spans(markdown), (len(markdown), len(markdown))]:
        for found in _LINK.finditer(markdown, at, start):
            target = _target(found)
            if target:
                targets[target] = None
        at = stop
    return tuple(targets)


def _target(found: re.Match[str]) -> str:
    """Return the address of a link; nothing for a picture, for code, or for a bare scheme."""
    if found["mail"]:
        return f"mailto:{found['mail']}"
    address = found["target"] or found["attribute"] or found["bare"] or ""
    if len(address) > MAX_LENGTH:
        return ""
    address = _ESCAPED.sub(r"\1", _PRIVATE.sub("", address)).replace("&amp;", "&")
    if found["bare"]:
        address = address.rstrip(_AFTER)
    return address if _SOMEWHERE.match(address) else ""
