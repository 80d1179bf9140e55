"""Parsers and markup take whatever a model writes: broken, cut, hostile, and a megabyte of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from html import escape
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocr_api.markup.confidence import Aligner, block_scores, page_confidences, words
from ocr_api.markup.links import hyperlinks
from ocr_api.markup.tables import lift_tables
from ocr_api.parsers import Parser
from ocr_api.parsers.deepseek import Deepseek
from ocr_api.parsers.glm import Glm
from ocr_api.parsers.lighton import Lighton
from ocr_api.parsers.qwen import Qwen
from ocr_api.result import Box, Reading, Token, mark, replace_marks, replace_table_marks

PARSERS: list[type[Parser]] = [Deepseek, Glm, Lighton, Qwen]

share = st.floats(0, 1)
boxes = st.builds(Box.of, share, share, share, share)
pictures = st.lists(boxes, max_size=4).map(tuple)
# Pieces of all notations, whole and broken: thrown together they meet as no model writes them.
pieces = st.sampled_from(
    [
        *("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "[[1, 2, 300, 400]]", "image", "table"),
        *("<|ref|>image<|/ref|><|det|>[[10, 20, 300, 400]]<|/det|>", "title[[1, 2, 300, 400]]\n"),
        *("<|ref|>table<|/ref|><|det|>[[1,2,30,40],[50,60,70,80]]<|/det|>", "table_caption"),
        *(
            "![image](image_1.png)",
            "![image](image_1.png)120,300,480,700 ",
            "![",
            "](",
            "page_1_2_3_4.png)",
            ")",
        ),
        *("```", "```markdown", "\n", "\n\n", " ", "---", "is_rotation_valid: False", "rotation"),
        *("rotation_correction: 90", "<img>", "</img>", "<watermark>", "<page_number>", "<header>"),
        *(
            "</header>",
            "<table>",
            "</table>",
            "<tr>",
            "<td rowspan=3>",
            "<td colspan='2'>",
            "</td>",
        ),
        *("| a | b |", "|---|---|", "&amp;", "&#xe000;", "\\|", "|", "<", ">", "\ue000", "\ue001"),
        *("\ue002", "\ue0000\ue001", "http://a.org", "[a](", "mailto:a@b.c", "`", "word", "ÿ", "1"),
    ]
)
texts = st.lists(pieces | st.text(max_size=8), max_size=40).map("".join)


@pytest.mark.parametrize("parser", PARSERS)
@given(text=texts, given_pictures=pictures)
def test_parser_keeps_its_word_on_any_mixture(
    parser: type[Parser], text: str, given_pictures: tuple[Box, ...]
) -> None:
    page = parser().parse(Reading(text=text), given_pictures)
    regions = given_pictures if page.regions is None else page.regions
    for number in range(len(regions)):
        assert page.markdown.count(mark(number)) == 1
    left = replace_marks(page.markdown, lambda _: "")
    assert not {"\ue000", "\ue001"} & set(left)
    assert mark(len(regions)) not in page.markdown
    images = [block.region for block in page.blocks if block.kind == "image"]
    assert images == (list(range(len(page.regions))) if page.regions else [])
    for block in page.blocks:
        assert 0 <= block.box.left < block.box.right <= 1
        assert 0 <= block.box.top < block.box.bottom <= 1
        assert (block.region is None) == (block.kind != "image")
    assert page.turn in (0, 90, 180, 270)


PAGES = {
    Deepseek: (
        "<|ref|>title<|/ref|><|det|>[[330, 198, 558, 230]]<|/det|>\n# Spending\n\n"
        "<|ref|>image<|/ref|><|det|>[[91, 380, 905, 640]]<|/det|>\n\n"
        "<|ref|>table<|/ref|><|det|>[[91, 680, 905, 940]]<|/det|>\n"
        "<table><tr><td>One</td><td>Two</td></tr></table>\n<\uff5cend\u2581of\u2581sentence\uff5c>"
    ),
    Glm: "```markdown\n# Spending\n\n<table><tr><td>One</td><td>Two</td></tr></table>\n```",
    Lighton: (
        "# Spending\n\n![image](image_1.png) 120,300,480,700\n\nWords\n\n"
        "![image](image_2.png) 0,0,500,500\n\n<table><tr><td>One</td></tr></table>"
    ),
    Qwen: (
        "---\nprimary_language: en\nis_rotation_valid: True\n---\n# Spending\n\n"
        "<img>A logo</img>\n\n![A chart](page_1_2_3_4.png)\n\n<watermark>COPY</watermark>\n\n"
        "<table><tr><td>One</td></tr></table>\n\n<page_number>3</page_number>"
    ),
}
CLEAN = re.compile(r"(?:[\w# .\n]|-{1,3}|</?(?:table|tr|td)>|\ue000\d\ue001)*")
"""What may stand in those pages: words, whole tags of tables, marks."""


@pytest.mark.parametrize("parser", PARSERS)
def test_no_debris_wherever_an_answer_is_cut(parser: type[Parser]) -> None:
    text = PAGES[parser]
    fence = len("```markdown") if parser is Glm else 0
    for end in range(fence, len(text) + 1):
        page = parser().parse(Reading(text=text[:end], finish_reason="length"), ())
        assert CLEAN.fullmatch(page.markdown), text[:end]


@pytest.mark.parametrize("parser", PARSERS)
def test_a_longer_answer_never_says_less(parser: type[Parser]) -> None:
    text = PAGES[parser]
    cuts = [text[:end] for end in range(0, len(text) + 1, 7)] + [text]
    counts = [
        len(re.findall(r"\w+", parser().parse(Reading(text=cut), ()).markdown)) for cut in cuts
    ]
    # A cut tag, name of a picture or word may pass for some words that the whole is not.
    assert all(later >= earlier - 3 for earlier, later in pairwise(counts))
    assert counts[-1] == max(counts)


# --- tables --------------------------------------------------------------------------------------

cell_texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Co", "Zl", "Zp"]) | st.sampled_from("|\\&<>;`*"),
    max_size=12,
).map(lambda text: " ".join(text.split()))
likely = st.sampled_from(
    ["&amp;", "&lt", "a|b", "\\|", "\\", "<br>", "<b>", "-", "---", ":-:", "|"]
)
grids = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(cell_texts | likely, min_size=width, max_size=width), min_size=1, max_size=5
    )
)


def html_of(grid: list[list[str]]) -> str:
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in grid)
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def grid_of(html: str) -> list[list[str]]:
    """Return the texts of a table that holds no tags in its cells."""
    unescape = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"', "&#x27;": "'"}
    entity = re.compile("|".join(unescape))
    return [
        [entity.sub(lambda found: unescape[found[0]], cell) for cell in row]
        for row in (
            re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)
        )
    ]


@given(grids)
def test_a_grid_survives_the_way_to_pipes_and_back(grid: list[list[str]]) -> None:
    markdown, tables = lift_tables(html_of(grid), "markdown")
    assert markdown.count("\ue000t") == len(tables) == 1
    _, back = lift_tables(tables[0].content, "html")
    assert len(back) == 1
    assert grid_of(back[0].content) == grid


@given(texts, st.sampled_from(["markdown", "html"]))
def test_lifting_never_raises_and_counts_its_marks(text: str, wanted: str) -> None:
    text = text.replace("\ue000", "").replace("\ue001", "")
    markdown, tables = lift_tables(text, wanted)  # type: ignore[arg-type]
    seen: list[int] = []
    replace_table_marks(markdown, lambda number: str(seen.append(number)))
    assert seen == list(range(len(tables)))
    assert all(table.content and table.format == wanted for table in tables)


# --- links and confidence ------------------------------------------------------------------------


@given(texts)
def test_links_are_addresses_without_spaces(text: str) -> None:
    found = hyperlinks(text)
    assert len(set(found)) == len(found)
    assert all(re.match(r"(?i)(https?://|mailto:)\S+\Z", target) for target in found)


@given(st.lists(pieces | st.text(max_size=6), max_size=40), texts)
def test_words_stand_where_they_say(said: list[str], markdown: str) -> None:
    tokens = tuple(Token(text, (number % 9 + 1) / 9) for number, text in enumerate(said))
    end = 0
    for word in words(markdown, tokens):
        assert markdown[word.start : word.start + len(word.text)] == word.text
        assert word.start >= end
        assert 0 < word.confidence <= 1 + 1e-9
        end = word.start + len(word.text)
    assert len(page_confidences(tokens)) <= len(tokens)
    assert block_scores((), tokens) == ()


@given(st.lists(st.text(max_size=6), max_size=30))
def test_every_word_of_the_answer_itself_is_found(said: list[str]) -> None:
    tokens = tuple(Token(text, 0.5) for text in said)
    markdown = "".join(said)
    if "<" in markdown or "(" in markdown:
        return
    expected = [word for word in markdown.split() if re.search(r"[^\W_]", word)]
    found = [word.text.strip() for word in words(markdown, tokens)]
    assert [word for word in found if re.search(r"[^\W_]", word)] == expected


# --- a megabyte of it ----------------------------------------------------------------------------

SIZE = 1_000_000
PATTERNS = [
    *(
        "<|ref|>",
        "<|/ref|>",
        "<|det|>",
        "<|det|>[[",
        "<|ref|>a<|/ref|><|det|>[[1,2,3",
        "[[1,",
        "a[[",
    ),
    *("<|ref|>image<|/ref|><|det|>[[1, 2, 300, 400]]<|/det|>", "ab[[1,2,300,400]]\n", "a[[\n", "<"),
    *("<|ref|>table<|/ref|><|det|>[[1,2,30,40]]<|/det|>", "<|/ref|>x", "\uff5c", "<\uff5c", "<|"),
    *("![", "![image](image_1.png)", "![image](image_1.png) 1,2,300,400", "![image](", "](", "!["),
    *(
        "```\n",
        "```a\n",
        "`",
        "~~~\n",
        "\n",
        " ",
        "\t",
        "\\t",
        "\\t\\t ",
        "\\_",
        ".",
        "- ",
        "---\n",
    ),
    *("<img>", "</img>", "<img ", "<img>\n\n", "<watermark>", "<header><page_number>", "</footer>"),
    *("is_table: True\n", "<|im_end|>", "<|im_end|> ", "<|endoftext|>x", "(", "((", ")", "[", "]"),
    *("<table>", "</table>", "<table", "<tr>", "<td>", "<td rowspan=99 colspan=9>", "<tr><td>a"),
    *("<table><tr><td>a</table>", "<td rowspan=65534>x</td><tr>", "&", "&#", "&amp;", "&#xe000;"),
    *(
        "<table>\n\n",
        "|",
        "a|",
        "|a|\n|-|\n",
        "|a\n|-\n",
        "|-",
        "|\n",
        "a|b\n-|-\n",
        "\\|",
        "a",
        "1",
    ),
    *("http://", "http://a(", "http://a.b ", "[a](http://", "<a@b.", "href=", "mailto:", "![a](x("),
    *("a ", "a b ", "the cat sat ", "\ue000", "\ue0000\ue001", "\ue002", "\u3042", "a\n\n", "<!--"),
]
# What opens a notation, so that the pattern is met inside of it.
TABLE = "<table><tr><td>"
OPENERS = (
    "",
    "<|ref|>text<|/ref|><|det|>[[",
    "```markdown\n",
    "---\n",
    TABLE,
    "![",
    "<a",
)
LIMIT_S = 60.0
BOUND_S = 2.0
"""Seconds for a megabyte: what is linear takes 1 to 3, what is quadratic an hour."""


def took(work: Callable[[str], object], text: str) -> float:
    """Return the seconds of processor time, which a busy machine does not change."""
    start = time.process_time()
    work(text)
    return time.process_time() - start


def parse_as(parser: type[Parser]) -> Callable[[str], object]:
    return lambda text: parser().parse(Reading(text=text), ())


def align(text: str) -> object:
    tokens = tuple(Token(text[at : at + 4], 0.5) for at in range(0, len(text), 4))
    page_confidences(tokens)
    return sum(1 for _ in Aligner(tokens).found(text))


WORK: dict[str, Callable[[str], object]] = {
    **{parser.__name__: parse_as(parser) for parser in PARSERS},
    "to markdown": lambda text: lift_tables(text, "markdown"),
    "to html": lambda text: lift_tables(text, "html"),
    "links": hyperlinks,
    "align": align,
}


@pytest.mark.parametrize("name", WORK)
def test_no_pattern_takes_more_than_its_length(name: str) -> None:
    """What is linear takes some milliseconds here, what is quadratic many seconds."""
    openers = OPENERS if name in {parser.__name__ for parser in PARSERS} else ("", f"{TABLE}<a")
    size = 10_000 if name == "align" else 30_000  # its steps are slower, and so easier to tell
    for opener in openers:
        for pattern in PATTERNS:
            text = opener + pattern * (size // len(pattern))
            for whole in (text, text + "x"):
                # At its best: a long test run collects garbage in between.
                seconds = (took(WORK[name], whole) for _ in range(3))
                assert any(each < BOUND_S for each in seconds), (opener, pattern, whole[-1])


@pytest.mark.parametrize("name", WORK)
def test_a_megabyte_of_everything(name: str) -> None:
    text = "".join(opener + pattern for opener in OPENERS for pattern in PATTERNS)
    assert took(WORK[name], (text * (SIZE // len(text) + 1))[:SIZE]) < LIMIT_S
