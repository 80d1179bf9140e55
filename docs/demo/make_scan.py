"""Typesets the demo document and wears it like a scan: writes scan.pdf and scan.txt beside itself.

Why made and not found: a scan of somebody's paper has an owner, and its exact text is not known.
The village, the library and its people are invented. The same seed gives the same pages.

    python docs/demo/make_scan.py
"""

from __future__ import annotations

import io
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HERE = Path(__file__).parent
SEED = 1907
MADE = time.gmtime(0)
DPI = 150
WIDTH, HEIGHT = 1240, 1754
"""A4 at 150 dpi, in pixels."""
MARGIN = 130
INK, PAPER = 42, 247
"""Grey of the print and of the sheet, 0 to 255."""
BODY = 25
QUALITY = 62

SIGNS = {
    "#": "title",
    "##": "head",
    "^": "centre",
    ">": "right",
    "*": "bullet",
    "+": "number",
    "|": "row",
}
"""What a paragraph of the text below is, by its first word."""

MINUTES = """
# Minutes of the Annual Meeting

^ Friends of the Village Library, Aldermere

The meeting was opened by Mrs. Renée Halloran at half past seven on Thursday, 14 March, in the
reading room above the old bakery. Forty-one members were present, and nine had sent their
apologies. The chair thanked Mr. Björn Åkesson for the loan of the stove, without which the
evening would have been a good deal shorter.

## Report of the Librarian

Miss Agathe Lefèvre reported that the library had lent 6,214 books in the past year, an increase
of 382 over the year before. The children of the lower school borrowed most of them: one in three
books went home in a satchel. The most popular volume was, for the fourth year running, a history
of lighthouses.

Seventeen books were lost and eleven of them came back, one through the letter box of the post
office with a note of apology. The damp in the north wall has been cured. The following purchases
were made with the money from the summer fair:

* a second-hand card cabinet with sixty drawers, from a school in Thornby;

* two reading lamps for the window seats;

* a complete set of walking maps, which are to stay in the room and are not lent out, however
kindly one may ask.

## Accounts

The treasurer, Mr. Tomás Iglesias, presented the accounts. They were found in order by both
auditors and adopted without a vote against.

| Subscriptions | 1,148.00

| Summer fair | 612.45

| Gifts and legacies | 275.00

| Coal and lamp oil | 319.80

| Balance carried forward | 1,715.65
"""

LETTER_HEAD = """
# The Aldermere Reader

^ A leaf for members, issued four times a year. No. 27, Spring
"""

LETTER = """
## The Wall Is Dry

For three winters the north wall of the library was wet to the height of a child. Books were
moved, then shelves, and in the end the whole of natural history stood in the corridor. Last
autumn the mason, Zoë Brandt, found the cause: a gutter that had emptied itself behind the plaster
since before the war.

The repair took nine days and cost less than we had feared. Natural history has gone home. The
corridor looks strangely wide, and several members have asked whether it might hold a bench.

## A Gift of Letters

The family of the late Dr. Emil Sørensen has given us his letters, some four hundred of them,
written between 1889 and 1931. He was the physician of the valley and wrote as he spoke, at length
and without fear of anybody.

Two volunteers are making a list. So far they have found eleven recipes, a plan for a bridge, and
a dispute about a goose that ran for six years.

## Evenings in Spring

On the first Friday of each month somebody reads aloud for an hour. In April it is the turn of Mr.
Padraig O'Neill, who promises sea stories. In May the upper school reads its own verse, and in
June, if the weather allows, we sit in the orchard.

## From the Catalogue

New on the shelves are a grammar of Welsh, three novels from Portugal, a guide to mosses, and the
long awaited second part of the county atlas. The first part was delivered in 1958 and shows a
railway that has since been taken away.

Readers who find a pressed flower in a book are asked to leave it where it is and to tell the
desk. We are keeping count. The number at the time of printing is fifty-three, of which nine are
violets.

## The Cat

The question of the cat was put to the members and answered by the cat, which has moved in. It
sleeps under philosophy.
"""

RULES = """
# Rules of the Reading Room

These rules were agreed at the annual meeting and come into force on the first of May. They
replace the rules of 1974, which nobody could find.

+ The room is open on weekdays from nine to six, and on Saturdays until noon.

+ Members may borrow five books at a time, for four weeks.

+ A book that another reader is waiting for is to be brought back within eight days. The librarian
writes a card; she does not call at the house.

+ Maps, letters and the large atlas are read at the table by the window.

+ Tea is allowed. Soup is not.

## What Was Left Open

Mr. Núñez asked whether the library should buy a typewriter. The discussion was lively and came to
no end; the matter was put off until the autumn. Mrs. Halloran said that she would lend hers in
the meantime, provided that nobody oils it.

The vote on longer opening hours in winter was taken by show of hands: 26 were in favour, 12
against, and 3 were asleep. The motion was carried.

## Elected for the Coming Year

| Chair | Mrs. Renée Halloran

| Treasurer | Mr. Tomás Iglesias

| Librarian | Miss Agathe Lefèvre

| Keeper of the stove | Mr. Björn Åkesson

The meeting closed at a quarter to ten with thanks to the bakers, whose ovens had kept the floor
warm throughout.

> Aldermere, 21 March
"""


@dataclass
class Sheet:
    """A page while it is typeset, and its text."""

    image: Image.Image
    top: int
    words: list[str]
    numbers: int = 0

    def write(self, kind: str, text: str, left: int, width: int) -> None:
        """Set one paragraph into a column and move down."""
        if kind == "number":
            self.numbers += 1
        sign = {"bullet": "•", "number": f"{self.numbers}."}.get(kind, "")
        size = {"title": 50, "head": 33}.get(kind, BODY)
        indent = 44 if sign else 0
        self.top += {"head": 26, "row": 2, "bullet": 4, "number": 4}.get(kind, 12)
        if kind == "row":
            label, value = text.split(" | ")
            self._row(label, value, left + 40, width - 80)
            return
        font = letters(size)
        if sign:
            self._print((left + 8, self.top), sign, font)
        for line in broken(text, font, width - indent):
            space = {"title": 0.5, "centre": 0.5, "right": 1.0}.get(kind, 0.0)
            shift = round(space * (width - font.getlength(bare(line))))
            place = (left + indent + shift, self.top)
            self._print(place, line, font, bold=kind in {"title", "head"})
            self.top += round(size * 1.36)
        self.words.append(f"{sign} {text}" if sign else text)

    def _row(self, label: str, value: str, left: int, width: int) -> None:
        font = letters(BODY)
        self._print((left, self.top), label, font)
        self._print((left + width - round(font.getlength(bare(value))), self.top), value, font)
        self.top += round(BODY * 1.5)
        self.words.append(f"{label} {value}")

    def _print(
        self, place: tuple[int, int], text: str, font: ImageFont.FreeTypeFont, bold: bool = False
    ) -> None:
        pen, plain = ImageDraw.Draw(self.image), bare(text)
        # The bundled font has one weight; a thin stroke makes headings bold.
        pen.text(place, plain, fill=INK, font=font, stroke_width=0.5 if bold else 0)
        for number, letter in enumerate(text):
            if letter == "•":
                x, y, size = place[0] + 5, place[1] + font.size * 0.62, font.size * 0.16
                pen.ellipse((x - size, y - size, x + size, y + size), fill=INK)
            elif letter != plain[number]:
                left = place[0] + font.getlength(plain[:number])
                box = font.getbbox(plain[number])
                accent(pen, letter, (left + box[0], place[1] + box[1], left + box[2]), font.size)


def letters(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that comes with Pillow, in pixels."""
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise SystemExit("this Pillow has no FreeType")
    return font


def bare(text: str) -> str:
    """Return the text in the letters that the bundled font has: it knows ASCII only."""
    text = text.translate({ord("ø"): "o", ord("•"): " "})
    return unicodedata.normalize("NFD", text).encode("ascii", "ignore").decode()


def accent(
    pen: ImageDraw.ImageDraw, letter: str, over: tuple[float, float, float], size: float
) -> None:
    """Draw the accent of a letter whose left, top and right edges in pixels are given."""
    left, top, right = over
    middle, unit, thick = (left + right) / 2, size / 25, max(1, round(size / 12))
    kind = "slash" if letter == "ø" else unicodedata.name(letter).split(" WITH ")[1]
    high, low = top - 6 * unit, top - 2 * unit
    if kind in {"ACUTE", "GRAVE"}:
        lean = 2.5 * unit if kind == "ACUTE" else -2.5 * unit
        pen.line((middle - lean, low, middle + lean, high), INK, thick)
    elif kind == "DIAERESIS":
        for x in (middle - 3 * unit, middle + 3 * unit):
            pen.ellipse((x - 1.5 * unit, high, x + 1.5 * unit, high + 3 * unit), INK)
    elif kind == "RING ABOVE":
        pen.ellipse((middle - 3 * unit, high - unit, middle + 3 * unit, top), outline=INK, width=2)
    elif kind == "TILDE":
        wave = [(-4.5, 0), (-2.5, -2.5), (0, -1.2), (2.5, 0), (4.5, -2.5)]
        points = [(middle + x * unit, low - 0.5 * unit + y * unit) for x, y in wave]
        pen.line(points, INK, thick, joint="curve")
    else:
        bottom = top + 14 * unit
        pen.line((left, bottom + unit, right, top - unit), INK, max(1, thick - 1))


def broken(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Return the lines of a paragraph that fit into ``width`` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(bare(f"{lines[-1]} {word}")) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def paragraphs(text: str) -> list[tuple[str, str]]:
    """Return kind and text of each paragraph."""
    found = []
    for paragraph in text.strip().split("\n\n"):
        words = paragraph.split()
        kind = SIGNS.get(words[0], "text")
        found.append((kind, " ".join(words if kind == "text" else words[1:])))
    return found


def one_column(content: str) -> Sheet:
    """Typeset a page of one column."""
    sheet = blank()
    for kind, text in paragraphs(content):
        sheet.write(kind, text, MARGIN, WIDTH - 2 * MARGIN)
    return sheet


def two_columns(head: str, content: str) -> Sheet:
    """Typeset a heading across the page and two columns under it."""
    sheet = blank()
    for kind, text in paragraphs(head):
        sheet.write(kind, text, MARGIN, WIDTH - 2 * MARGIN)
    gutter = 60
    width = (WIDTH - 2 * MARGIN - gutter) // 2
    start = sheet.top = sheet.top + 20
    left = MARGIN
    for kind, text in paragraphs(content):
        if left == MARGIN and sheet.top > HEIGHT - 720 and kind == "head":
            sheet.top, left = start, MARGIN + width + gutter
        sheet.write(kind, text, left, width)
    return sheet


def blank() -> Sheet:
    """Return an empty sheet."""
    return Sheet(Image.new("L", (WIDTH, HEIGHT), PAPER), 120, [])


def worn(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    """Return the page as a flatbed scanner would see it."""
    turn = float(chance.uniform(0.25, 0.6)) * (1 if chance.random() < 0.5 else -1)  # noqa: PLR2004
    image = image.rotate(turn, Image.Resampling.BICUBIC, fillcolor=PAPER)
    image = image.filter(ImageFilter.GaussianBlur(0.7))
    grey = np.asarray(image, dtype=np.float32)
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    # The lamp is weaker at one edge, and the sheet lifts off the glass at the spine.
    light = 1.0 - 0.07 * (down / HEIGHT) ** 2 - 0.16 * np.exp(-across / 45.0)
    grey = grey * light + chance.normal(0.0, 2.2, grey.shape)
    for _ in range(45):
        x, y = chance.integers(20, WIDTH - 20), chance.integers(20, HEIGHT - 20)
        radius, depth = chance.uniform(0.6, 1.8), chance.uniform(20, 110)
        near = np.s_[y - 6 : y + 7, x - 6 : x + 7]
        away = (down[near] - y) ** 2 + (across[near] - x) ** 2
        grey[near] -= depth * np.exp(-away / (2 * radius**2))
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image) -> Image.Image:
    """Return the picture after JPEG; Pillow's PDF writer keeps such bytes as they are."""
    held = io.BytesIO()
    image.save(held, "JPEG", quality=QUALITY)
    return Image.open(held)


def main() -> None:
    """Write scan.pdf (three pages, images only) and scan.txt (pages parted by a form feed)."""
    chance = np.random.default_rng(SEED)
    sheets = [one_column(MINUTES), two_columns(LETTER_HEAD, LETTER), one_column(RULES)]
    if any(sheet.top > HEIGHT - MARGIN for sheet in sheets):
        raise SystemExit("the text runs off the page")
    pages = [as_jpeg(worn(sheet.image, chance)) for sheet in sheets]
    pages[0].save(
        HERE / "scan.pdf",
        "PDF",
        save_all=True,
        append_images=pages[1:],
        resolution=DPI,
        quality=QUALITY,
        title="Minutes of a village library",
        # The time of writing would make every run a new file.
        creationDate=MADE,
        modDate=MADE,
    )
    text = "\f".join("\n\n".join(sheet.words) + "\n" for sheet in sheets)
    (HERE / "scan.txt").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
