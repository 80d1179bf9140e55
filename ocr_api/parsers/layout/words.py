"""What single lines say: list markers, words split at a line end, and markdown escapes."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BULLET = re.compile(r"\s*([•●▪■◦○‣∙►▶➢✓✔❖])\s*(?=\S)")
_DASH = re.compile(r"\s*([-\u2013\u2014*·])\s+(?=\S)")
_NUMBER = re.compile(r"\s*(\(?(?:\d{1,2}|[a-zA-Z]|[ivx]{1,4})[.)])\s+(?=\S)")
_MARKDOWN_NUMBER = re.compile(r"\d{1,2}[.)]$")
_SPLIT = re.compile(r"(\w*[^\W\d_])(?:-|\u2010|\u00ad|\u00ac)$")
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_UNINTENDED = re.compile(
    r"(?:#{1,6}(?:\s|$)|>|[-+*](?:\s|$)|`{3}|~{3}|\||<|=+\s*$|(?:[-_*]\s*){3,}$)"
)
_COMPOUND = re.compile(
    "all|anti|cross|double|far|first|four|full|half|high|ill|left|long|low|mid|multi|"
    "near|new|non|off|old|one|open|over|post|quasi|right|second|self|semi|short|single|"
    "six|socio|third|three|two|ultra|vice|well"
)
"""Words that make compounds with a hyphen (own list); a hyphen after one of these is kept. Not
among them are syllables that more often start a plain word: "ex" (explain), "pro" (provide),
"pre" (present), "inter" (interest), "co" (colour), "ten" (tender)."""
_SENTENCE_END = (".", "!", "?", ":", ";", "…", "\u3002", "\uff01", "\uff1f", "”", '."', ".)")

TITLE_LENGTH = 90
"""Characters of the longest title that only its place gives away."""
ENUMERATED = 3
"""Fewest parts of a list; "Aldermere, 21 March" is none."""
SMALL_WORD = 3
"""Letters of the longest word that titles write without a capital ("the", "für")."""


@dataclass(frozen=True, slots=True)
class Marker:
    """The start of a list item."""

    text: str
    """How markdown writes it: ``-``, or a number with its point or bracket."""
    rest: str
    sure: bool
    """A bullet is nothing else; a dash or a number may as well belong to a sentence."""


def marker(text: str) -> Marker | None:
    """Return the list marker that the line starts with, or None.

    Markdown knows bullets and numbers only: letters and numerals in brackets stay in the text
    of a bullet.
    """
    if found := _BULLET.match(text):
        return Marker("-", text[found.end() :], sure=True)
    if found := _DASH.match(text):
        return Marker("-", text[found.end() :], sure=False)
    if found := _NUMBER.match(text):
        if _MARKDOWN_NUMBER.match(found[1]):
            return Marker(found[1], text[found.end() :], sure=False)
        return Marker("-", text.strip(), sure=False)
    return None


def ends_sentence(text: str) -> bool:
    """Say whether the line could be the last of a paragraph."""
    return text.rstrip().endswith(_SENTENCE_END)


def reads_like_title(text: str) -> bool:
    """Say whether a short line alone could be a title: it starts like one and does not end."""
    start = re.match(r"(?:\d{1,2}(?:\.\d{1,2})*\.?\s+)?[^\W\d_]", text)
    if start is None or not (start[0][-1].isupper() or start[0][0].isdigit()):
        return False
    if enumerates(text) or re.search("[†‡§]", text):  # footnotes to the names of authors
        return False
    return len(text) <= TITLE_LENGTH and not text.endswith((".", ",", ";", ":", "!", "?", "-"))


def enumerates(text: str) -> bool:
    """Say whether a line is a bare list of names or dates, as authors are; titles have an "and"."""
    parts = [part.strip() for part in re.split("[,;]", text)]
    return len(parts) >= ENUMERATED and all(part[:1].isupper() for part in parts)


def is_section(text: str) -> bool:
    """Say whether a line is the title of a numbered section ("5.1 Method")."""
    return re.match(r"\d{1,2}(?:\.\d{1,2})+\.?\s+[^\W\d_]", text) is not None


def capitalised(text: str) -> bool:
    """Say whether a title is written as titles are: numbered, or most words with a capital."""
    long = [word for word in re.findall(r"[^\W\d_]+", text) if len(word) > SMALL_WORD]
    capitals = sum(word[0].isupper() for word in long)
    return text[0].isdigit() or capitals > len(long) * 2 / 3


def splits_word(text: str) -> bool:
    """Say whether the line ends in a hyphen after a letter."""
    return _SPLIT.search(text) is not None


def join(before: str, after: str, seen: frozenset[str]) -> str:
    """Return two lines of one paragraph as one text.

    A hyphen at the line end goes when the next line continues in lower case, unless the page
    writes the word with its hyphen elsewhere, or the part before it usually makes compounds
    ("self-", "well-").

    Args:
        before: the text so far.
        after: the next line.
        seen: words of the page in lower case, with their hyphens.
    """
    split, word = _SPLIT.search(before[-80:]), _FIRST_WORD.match(after)
    if not split or not word or not word[0][0].islower():
        return f"{before} {after}"
    head, tail = split[1].lower(), word[0].lower()
    if head + tail not in seen and (f"{head}-{tail}" in seen or _COMPOUND.fullmatch(head)):
        return before + after
    return before[:-1] + after


def vocabulary(text: str) -> frozenset[str]:
    """Return the words of a text in lower case; a compound counts as one word."""
    return frozenset(re.findall(r"\w+(?:-\w+)*(?!-?\w)(?!-)", text.lower()))


def escaped(text: str) -> str:
    """Return the text so that its start means nothing to markdown."""
    return "\\" + text if _UNINTENDED.match(text) else text
