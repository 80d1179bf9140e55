"""Small things that the notations of several models share: fences, cut tags, places of pictures.

Every function takes the text that a model wrote, whatever it holds, and needs time in proportion
to its length. Texts are expected without marks of their own (`ocr_api.result.plain`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

from ocr_api.result import Reading, Warn, mark

MAX_REGIONS = 300
"""More pictures than any page has; a model that loops says the same picture over and over."""

GONE = "\ue002"
"""Stands for something that became nothing, until `without_gone`: a private-use character."""
_GONE_PARAGRAPH = re.compile(f"(?:\\A|\n\n){GONE}(?=\n\n|\\Z)")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\n]*)$", re.MULTILINE)
_WRAPPERS = ("markdown", "md", "html", "json")
# Ends of a turn in the chat formats of the models served (ChatML, GLM, DeepSeek).
_END_TOKENS = frozenset(
    f"<|{name}|>"
    for name in ("im_end", "im_start", "endoftext", "user", "assistant", "observation")
)
_LONGEST_END_TOKEN = max(map(len, _END_TOKENS))
_CUT_IN_TABLE = re.compile(r"</?(?:[A-Za-z]{1,10}(?:\s[^<>]*)?)?")
_CUT_TABLE = re.compile(r"<t(?:a(?:b(?:l(?:e(?:\s[^<>]*)?)?)?)?)?")
_CUT_CHARACTER = re.compile(r"(?:<|(?<!\S)!)\Z")
_CUT_FENCE = re.compile(r"\n`{1,2}\Z")


def code_spans(text: str) -> list[tuple[int, int]]:
    """Return start and end of each fenced code block, fences and all, in order.

    A block that is never closed reaches to the end of the text (CommonMark 4.5).
    """
    spans: list[tuple[int, int]] = []
    opened = None
    for found in _FENCE.finditer(text):
        fence, info = found[1], found[2]
        if opened is None:
            if fence[0] == "~" or "`" not in info:
                opened = (found.start(), fence)
        elif fence.startswith(opened[1]) and not info.strip():
            spans.append((opened[0], found.end()))
            opened = None
    if opened is not None:
        spans.append((opened[0], len(text)))
    return spans


def without_wrapper(text: str) -> str:
    """Return the text without the code fence that a model put around its whole answer.

    Only a fence that says markdown, html or json is one: a page may be one listing of code. A
    fence that the answer's end cut off is taken away too.
    """
    text = text.strip()
    first = _FENCE.match(text)
    if first is not None and first.end() == len(text):
        return "" if any(name.startswith(first[2]) for name in _WRAPPERS) else text
    if first is None or first[2].strip().lower() not in _WRAPPERS:
        return text
    depth, last = 1, None
    for found in _FENCE.finditer(text, first.end()):
        if depth == 0:
            return text
        depth += 1 if found[2].strip() else -1
        last = found
    if depth or last is None:
        return _CUT_FENCE.sub("", text[first.end() :]).strip("\n")
    return text[first.end() : last.start()].strip("\n") if last.end() == len(text) else text


def without_end_tokens(text: str) -> str:
    """Return the text without the control tokens at its end that a server left there."""
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        start = text.rfind("<|", max(0, end - _LONGEST_END_TOKEN), end)
        if start < 0 or text[start:end] not in _END_TOKENS:
            return text[:end]
        end = start


def without_cut_end(text: str, reading: Reading, tokens: Iterable[str] = ()) -> str:
    """Return the text without a tag or a picture that its end cut off.

    Args:
        text: what the model wrote.
        reading: says whether the model ended by itself; then a last ``<`` or ``!`` is text.
        tokens: the notation's own tags, ``<...>``. Tags of tables are known.
    """
    if reading.finish_reason != "stop":
        text = _CUT_CHARACTER.sub("", text)
    return _without_cut_html(_without_cut_picture(_without_cut_token(text, tokens)))


def _without_cut_token(text: str, tokens: Iterable[str]) -> str:
    start = text.rfind("<")
    if start < 0:
        return text
    tail = text[start:]
    cut = any(len(tail) < len(token) and token.startswith(tail) for token in tokens)
    return text[:start].rstrip() if cut else text


def _without_cut_html(text: str) -> str:
    start = text.rfind("<")
    if start < 0:
        return text
    inside = text.rfind("<table", 0, start) > text.rfind("</table>")
    cut = (_CUT_IN_TABLE if inside else _CUT_TABLE).fullmatch(text, start)
    return text[:start].rstrip() if cut else text


def _without_cut_picture(text: str) -> str:
    start = text.rfind("![")
    if start < 0 or "\n" in text[start:] or ")" in text[start:]:
        return text
    return text[:start].rstrip()


def replaced(text: str, pattern: re.Pattern[str], render: Callable[[re.Match[str]], str]) -> str:
    """Return the text with each match rendered; one that becomes nothing takes its paragraph."""
    return without_gone(pattern.sub(lambda found: render(found) or GONE, text))


def without_gone(text: str) -> str:
    """Return the text without the paragraphs, and the places, that became nothing."""
    if GONE not in text:
        return text.strip()
    return _GONE_PARAGRAPH.sub("", text).replace(GONE, "").strip()


def few_blank_lines(text: str) -> str:
    """Return the text with at most one blank line in a row."""
    return re.sub(r"\n{3,}", "\n\n", text)


def with_marks(text: str, numbers: Iterable[int]) -> str:
    """Return the text and after it a mark for each number, each in a paragraph of its own."""
    marks = [mark(number) for number in numbers]
    return "\n\n".join([text, *marks] if text else marks)


class Places:
    """Gives the pictures of a page to the places that a notation names, in order.

    Why by order: such a notation says that a picture stands here, and not which one.
    """

    def __init__(self, pictures: Collection[object]) -> None:
        self._count = len(pictures)
        self._next = 0
        self.unknown = 0
        """Places for which no picture was left."""

    def take(self) -> str:
        """Return the mark of the next picture, or nothing when all have a place."""
        if self._next == self._count:
            self.unknown += 1
            return ""
        self._next += 1
        return mark(self._next - 1)

    def finish(self, text: str) -> str:
        """Return the text with the pictures that have no place after it."""
        return with_marks(text, range(self._next, self._count))

    def warnings(self) -> tuple[Warn, ...]:
        """Return a warning when the model saw pictures whose place is not known."""
        return places_unknown(self.unknown)


def places_unknown(count: int) -> tuple[Warn, ...]:
    """Return the warning that ``count`` pictures are missing, or nothing for none."""
    if not count:
        return ()
    return (
        Warn(
            "picture_places_unknown",
            f"The model saw {count} picture{'s' if count > 1 else ''} on the page and did not "
            "say where; they are not among the images.",
        ),
    )
