"""What each parser makes of answers as its model writes them."""

from __future__ import annotations

import pytest

from ocr_api.parsers import Parser
from ocr_api.parsers.deepseek import Deepseek
from ocr_api.parsers.glm import Glm
from ocr_api.parsers.lighton import Lighton
from ocr_api.parsers.qwen import Qwen
from ocr_api.result import WHOLE_PAGE, Box, Parsed, Reading, mark

LEFT = Box(0.0, 0.0, 0.5, 1.0)
END = "<\uff5cend\u2581of\u2581sentence\uff5c>"


def parsed(parser: type[Parser], text: str, *pictures: Box) -> Parsed:
    """Return what a parser makes of a text."""
    return parser().parse(Reading(text=text), pictures)


def tag(label: str, *boxes: tuple[int, int, int, int]) -> str:
    """Return a tag as DeepSeek-OCR writes it."""
    return f"<|ref|>{label}<|/ref|><|det|>{[list(box) for box in boxes]}<|/det|>\n"


def blocks(page: Parsed) -> list[tuple[str, str]]:
    """Return kind and text of all blocks."""
    return [(block.kind, block.text) for block in page.blocks]


def codes(page: Parsed) -> list[str]:
    return [warning.code for warning in page.warnings]


# --- DeepSeek ------------------------------------------------------------------------------------

BOX = (111, 222, 333, 444)
FRACTIONS = Box(111 / 999, 222 / 999, 333 / 999, 444 / 999)


def test_deepseek_tags_become_blocks_and_pictures_become_regions() -> None:
    page = parsed(
        Deepseek,
        f"{tag('title', (0, 0, 999, 99))}# R&D Spending  \n\n{tag('image', BOX)}\n"
        f"{tag('text', (0, 500, 999, 600))}It grew.{END}",
        LEFT,
    )
    assert page.markdown == f"# R&D Spending\n\n{mark(0)}\n\nIt grew."
    assert page.regions == (FRACTIONS,)
    assert blocks(page) == [("title", "# R&D Spending"), ("image", ""), ("text", "It grew.")]
    assert [block.region for block in page.blocks] == [None, 0, None]
    assert page.blocks[0].box == Box(0.0, 0.0, 1.0, 99 / 999)
    assert page.blocks[1].box == FRACTIONS


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("sub_title", "title"),
        ("image_caption", "caption"),
        ("table_caption", "caption"),
        ("formula", "equation"),
        ("equation", "equation"),
        ("reference", "references"),
        ("Title", "title"),
        ("never_seen", "text"),
    ],
)
def test_deepseek_labels(label: str, kind: str) -> None:
    assert blocks(parsed(Deepseek, f"{tag(label, BOX)}Words")) == [(kind, "Words")]


def test_deepseek_several_boxes_are_one_block_but_several_pictures() -> None:
    two = [(100, 100, 200, 200), (300, 50, 400, 150)]
    union = Box(100 / 999, 50 / 999, 400 / 999, 200 / 999)
    assert parsed(Deepseek, f"{tag('text', *two)}Words").blocks[0].box == union
    page = parsed(Deepseek, tag("image", *two))
    assert page.markdown == f"{mark(0)}\n\n{mark(1)}"
    assert page.regions is not None
    assert [region.left for region in page.regions] == [100 / 999, 300 / 999]


def test_deepseek_boxes_are_sorted_cut_to_the_page_and_never_thin() -> None:
    page = parsed(Deepseek, tag("image", (999, 1200, -5, 500), (5, 5, 6, 900)))
    assert page.regions == (Box(0.0, 500 / 999, 1.0, 1.0),)
    assert page.markdown == mark(0)


def test_deepseek_the_same_picture_again_is_a_loop() -> None:
    page = parsed(Deepseek, tag("image", BOX) * 50)
    assert page.regions == (FRACTIONS,)
    assert page.markdown == mark(0)


def test_deepseek_running_header_and_footer_are_not_in_the_markdown() -> None:
    page = parsed(
        Deepseek,
        f"{tag('header', BOX)}Annual report\n{tag('text', BOX)}Words\n"
        f"{tag('footer', BOX)}Confidential\n{tag('page_number', BOX)}7",
    )
    assert (page.header, page.markdown, page.footer) == (
        "Annual report",
        "Words",
        "Confidential\n7",
    )
    assert [kind for kind, _ in blocks(page)] == ["header", "text", "footer", "footer"]


def test_deepseek_a_table_under_its_caption_is_the_tables() -> None:
    # As real answers have it: both tags, then both texts.
    table = "<table><tr><td>A</td></tr></table>"
    page = parsed(
        Deepseek,
        f"{tag('table', (0, 100, 999, 900))}{tag('table_caption', (0, 0, 999, 90))}"
        f"<center>Table 1 | Modes </center>  \n\n{table}\n\n{tag('text', BOX)}Words",
    )
    assert page.markdown == f"Table 1 | Modes\n\n{table}\n\nWords"
    assert blocks(page) == [("caption", "Table 1 | Modes"), ("table", table), ("text", "Words")]
    assert page.blocks[1].box.bottom == 900 / 999


def test_deepseek_two_tables_without_text_lose_nothing() -> None:
    page = parsed(Deepseek, f"{tag('table', BOX)}{tag('table', BOX)}{tag('text', BOX)}Words")
    assert page.markdown == "Words"


def test_deepseek_text_in_the_label_is_text() -> None:
    page = parsed(Deepseek, f"{tag('Total due', BOX)}{tag('a < b', BOX)}", LEFT)
    assert page.markdown == f"Total due\na < b\n\n{mark(0)}"
    assert blocks(page) == [("text", "Total due"), ("text", "a < b")]
    assert page.regions is None


def test_deepseek_text_without_tags_keeps_the_given_pictures() -> None:
    page = parsed(Deepseek, f"# Plain\n\n\n\nx \\coloneqq y \\eqqcolon z{END}", LEFT, WHOLE_PAGE)
    assert page == Parsed(f"# Plain\n\nx := y =: z\n\n{mark(0)}\n\n{mark(1)}")


def test_deepseek_tags_that_a_server_stripped_are_understood() -> None:
    page = parsed(
        Deepseek,
        "title[[330, 198, 558, 230]]\n# R&D\n\nimage[[111, 222, 333, 444]]\ntext[[1, 2, 300, 400]]"
        "\nWords [[1, 2, 3, 4]] stay.\n",
    )
    assert page.markdown == f"# R&D\n\n{mark(0)}\n\nWords [[1, 2, 3, 4]] stay."
    assert page.regions == (FRACTIONS,)
    assert blocks(page)[0] == ("title", "# R&D")


def test_deepseek_a_page_that_only_looks_like_stripped_tags_stays() -> None:
    text = "The call\ntext[[1, 2, 3, 4]]\nreturns"
    assert parsed(Deepseek, text).markdown == text


def test_deepseek_the_form_with_the_label_among_the_boxes() -> None:
    page = parsed(Deepseek, "<|det|>title [111, 222, 333, 444]<|/det|>Report\n<|det|>image [[1,")
    assert page.markdown == "Report"
    assert page.blocks[0].box == FRACTIONS


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        (f"{tag('text', BOX)}Words <|ref|>ima", "Words"),
        (f"{tag('text', BOX)}Words\n<|ref|>image<|/ref|><|det|>[[1, 2, 300, 40", "Words"),
        (f"{tag('text', BOX)}Words\n<|ref|>image<|/ref|><|d", "Words"),
        (f"{tag('text', BOX)}Words<", "Words"),
        (f"{tag('text', BOX)}Words<\uff5cend\u2581of", "Words"),
        ("<|ref|>text<|/ref|>Words <|/det|> more <|/ref|>", "Words  more"),
        ("<|grounding|>Words<|det|>not a box", "Wordsnot a box"),
        ("title[[330, 198, 558, 230]]\nWords\ntext[[330, 1", "Words"),
        ("title[[330, 198,", ""),
        (f"{tag('table', BOX)}<table><tr><td>A</td><t", "<table><tr><td>A</td>"),
    ],
)
def test_deepseek_broken_text_leaves_no_debris(text: str, markdown: str) -> None:
    assert parsed(Deepseek, text).markdown == markdown


def test_deepseek_a_box_cut_after_its_last_bracket_counts() -> None:
    page = parsed(Deepseek, "<|ref|>image<|/ref|><|det|>[[111, 222, 333, 444]]<")
    assert page.regions == (FRACTIONS,)


def test_deepseek_absurd_numbers() -> None:
    page = parsed(Deepseek, f"<|ref|>image<|/ref|><|det|>[[0, 0, {'9' * 9999}, 999]]<|/det|>")
    assert page == Parsed("")  # longer than any list of boxes, so there is no box


# --- LightOn -------------------------------------------------------------------------------------


def test_lighton_boxes_become_regions() -> None:
    page = parsed(
        Lighton,
        "Before\n\n![image](image_1.png) 120,300,480,700\n\n"
        "Between ![image](image_2.png)0,0,500,500 x",
        WHOLE_PAGE,
        WHOLE_PAGE,
        WHOLE_PAGE,
    )
    assert page.markdown == f"Before\n\n{mark(0)}\n\nBetween {mark(1)} x"
    assert page.regions == (Box(0.12, 0.3, 0.48, 0.7), Box(0.0, 0.0, 0.5, 0.5))
    assert [(block.kind, block.region) for block in page.blocks] == [("image", 0), ("image", 1)]
    assert page.warnings == ()


def test_lighton_the_same_picture_again_is_a_loop() -> None:
    page = parsed(Lighton, "![image](image_1.png) 120,300,480,700\n\n" * 30)
    assert page.markdown == mark(0)
    assert page.regions == (Box(0.12, 0.3, 0.48, 0.7),)


def test_lighton_placeholders_without_boxes_meet_the_pictures_in_order() -> None:
    text = "A\n\n![image](image_1.png)\n\nB\n\n![image](image_2.png)\n\n2024"
    page = parsed(Lighton, text, LEFT, WHOLE_PAGE, LEFT)
    assert page == Parsed(f"A\n\n{mark(0)}\n\nB\n\n{mark(1)}\n\n2024\n\n{mark(2)}")


def test_lighton_placeholders_without_a_picture_vanish_with_a_warning() -> None:
    text = "A\n\n![image](image_1.png)\n\nB\n\n![image](image_2.png)"
    page = parsed(Lighton, text, LEFT)
    assert page.markdown == f"A\n\n{mark(0)}\n\nB"
    assert codes(page) == ["picture_places_unknown"]
    page = parsed(Lighton, f"{text} 1,2,300,400", LEFT)
    assert page.markdown == f"A\n\nB\n\n{mark(0)}"
    assert (page.regions, codes(page)) == (
        (Box(0.001, 0.002, 0.3, 0.4),),
        ["picture_places_unknown"],
    )


def test_lighton_links_and_other_pictures_stay() -> None:
    text = "[a](image_1.png) ![chart](https://example.org/a.png) ![image](image_x.png)"
    assert parsed(Lighton, text).markdown == text


@pytest.mark.parametrize(
    "tail",
    [
        "\n1,250,300,400 tons",
        "\n\n1,250,300,400",
        " 1,250,300,400tons",
        " 1,250,300,400_",
        " 1,250,300,4000000",
        " 1,250,300,400,500",
        " 1,250,300,400.5",
    ],
)
def test_lighton_numbers_of_the_page_are_no_box(tail: str) -> None:
    page = parsed(Lighton, f"Words ![image](image_2.png){tail} end", LEFT)
    assert page.markdown == f"Words {mark(0)}{tail} end"
    assert page.regions is None


def test_lighton_a_box_may_end_a_sentence() -> None:
    page = parsed(Lighton, "![image](image_2.png) 1,250,300,400. Words", LEFT)
    assert page.markdown == f"{mark(0)}. Words"
    assert page.regions == (Box(0.001, 0.25, 0.3, 0.4),)


@pytest.mark.parametrize(
    "tail", ["!", "![im", "![image](image_", "![image](image_2.png", "![image](image_2.png)"]
)
def test_lighton_a_cut_placeholder_leaves_nothing(tail: str) -> None:
    assert parsed(Lighton, f"Words {tail}").markdown == ("Words !" if tail == "!" else "Words")


@pytest.mark.parametrize("tail", [" 12", " 120,", "120,300", " 120,300,48", " 120,300,480,"])
def test_lighton_a_cut_box_leaves_nothing(tail: str) -> None:
    page = parsed(Lighton, f"Words ![image](image_1.png){tail}", LEFT)
    assert page.markdown == f"Words {mark(0)}"


# --- GLM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["markdown", "html", "json", "md", "HTML"])
def test_glm_answer_in_a_fence(name: str) -> None:
    text = f"```{name}\n# A\n\n```python\nx = 1\n```\n```"
    assert parsed(Glm, text, LEFT).markdown == f"# A\n\n```python\nx = 1\n```\n\n{mark(0)}"


@pytest.mark.parametrize(
    "text",
    [
        "```python\nx = 1\n```",
        "```\nx = 1\n```",
        "```markdown\nA\n```\n\nB",
        "```html\n<b>\n```\n\n```html\n<i>\n```",
        "Words\n\n```markdown\nA\n```",
    ],
)
def test_glm_other_fences_stay(text: str) -> None:
    assert parsed(Glm, text).markdown == text


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("```markdown\n# A\nB", "# A\nB"),
        ("```markdown\n# A\n``", "# A"),
        ("```markdown\n# A\n\n```sh\nls\n```", "# A\n\n```sh\nls\n```"),
        ("```mark", ""),
        ("\\t\\tA\\tB\\t", "A\\tB"),
        ("Contents..........7 and __________ and ...", "Contents...7 and ___ and ..."),
        ("\\_" * 10 + "·" * 12, "\\_" * 3 + "···"),
        ("DE....12, .........7 and _________", "DE....12, .........7 and _________"),
        ("A<|endoftext|>\n<|user|>", "A"),
        ("<table><tr><td>A</td><td", "<table><tr><td>A</td>"),
        ("a < b", "a < b"),
    ],
)
def test_glm_clean_ups(text: str, markdown: str) -> None:
    assert parsed(Glm, text).markdown == markdown


# --- Qwen-VL's family ----------------------------------------------------------------------------

FACTS = (
    "---\nprimary_language: {}\nis_rotation_valid: {}\nrotation_correction: {}\n"
    "is_table: False\nis_diagram: False\n---\n"
)


@pytest.mark.parametrize(
    ("valid", "correction", "turn"),
    [
        ("True", "0", 0),
        ("True", "90", 0),
        ("False", "90", 90),
        ("false", "270", 270),
        ("False", "'180'", 180),
        ("False", "45", 0),
    ],
)
def test_qwen_front_matter(valid: str, correction: str, turn: int) -> None:
    page = parsed(Qwen, FACTS.format("en", valid, correction) + "# A\n\n---\n\nB")
    assert page == Parsed("# A\n\n---\n\nB", turn=turn)


def test_qwen_a_page_is_turned_only_when_the_model_says_it_stands_wrong() -> None:
    assert parsed(Qwen, "---\nrotation_correction: 90\n---\nA") == Parsed("A")


@pytest.mark.parametrize("length", range(1, len(FACTS.format("en", "False", "90"))))
def test_qwen_cut_front_matter_is_no_page(length: int) -> None:
    assert parsed(Qwen, FACTS.format("en", "False", "90")[:length]).markdown in (
        "",
        "-",
        "--",
        "---",
    )


def test_qwen_front_matter_in_a_fence_and_a_rule_that_is_none() -> None:
    page = parsed(Qwen, f"```markdown\n{FACTS.format('null', 'True', '0')}A\n```")
    assert page == Parsed("A")
    assert parsed(Qwen, "---\nA: b\n---\nC").markdown == "---\nA: b\n---\nC"


def test_qwen_figures_meet_the_pictures_in_order() -> None:
    text = (
        "A\n\n![A bar chart of sales](page_10_20_300_400.png)\n\nB\n\n"
        "![](page_1_2_3_4.png) in line\n\n![Figure](page_1_2_3.png)"
    )
    page = parsed(Qwen, text, LEFT, WHOLE_PAGE)
    assert page.markdown == (f"A\n\n{mark(0)}\n\nA bar chart of sales\n\nB\n\n{mark(1)} in line")
    assert codes(page) == ["picture_places_unknown"]
    assert page.regions is None


def test_qwen_tags_of_nanonets() -> None:
    page = parsed(
        Qwen,
        "<header>Annual report</header>\n\n# A ☐ ☑\n\n<img>A logo\n\nin blue</img>\n\n"
        "<watermark>COPY</watermark>\n\nSigned: <signature>J. Doe</signature>\n\n"
        "<table><tr><td><img>Chart</img></td></tr></table>\n\n<footer>Secret</footer>\n\n"
        "<page_number>3/22</page_number>",
        LEFT,
        WHOLE_PAGE,
        LEFT,
    )
    assert page.markdown == (
        f"# A ☐ ☑\n\n{mark(0)}\n\nA logo\n\nin blue\n\nSigned: J. Doe\n\n"
        f"<table><tr><td>{mark(1)} Chart</td></tr></table>\n\n{mark(2)}"
    )
    assert (page.header, page.footer) == ("Annual report", "Secret\n3/22")


@pytest.mark.parametrize(
    ("text", "markdown", "footer"),
    [
        ("A\n\n<page_number>1", "A", "1"),
        ("A\n\n<page_num", "A", None),
        ("A\n\n<watermark>CO", "A", None),
        ("A\n\n<watermark>COPY</water", "A", None),
        ("<watermark>COPY\n\nA", "A", None),
        ("A </img> B</footer>", "A  B", None),
        ("A\n\n<img src='x.png' al", "A", None),
        ("A\n\n![A char", "A", None),
        ("<footer>F <page_number>2</page_number></footer>", "", "F\n2"),
        ("1 < 2", "1 < 2", None),
    ],
)
def test_qwen_broken_tags(text: str, markdown: str, footer: str | None) -> None:
    page = parsed(Qwen, text)
    assert (page.markdown, page.footer) == (markdown, footer)


def test_qwen_description_without_a_picture_stays() -> None:
    page = parsed(Qwen, "A\n\n<img>A logo</img>\n\n<img src='a.png'/>")
    assert page.markdown == "A\n\nA logo"
    assert "2 pictures" in page.warnings[0].message


@pytest.mark.parametrize("name", ["header", "footer", "page_number", "watermark"])
def test_qwen_a_tag_within_a_line_that_is_never_closed_is_text(name: str) -> None:
    text = f"The page shows a <{name}> tag in text.\n\nNext"
    assert parsed(Qwen, text) == Parsed(text)
    page = parsed(Qwen, f"{text}\n\n<{name}>Real</{name}>")
    assert page.markdown == text
    assert (page.header or page.footer) == (None if name == "watermark" else "Real")


def test_qwen_a_tag_at_the_start_of_a_line_needs_no_end() -> None:
    page = parsed(Qwen, "Words\n <footer>Secret\n\nNext <header>H <img>A</img></header>", LEFT)
    assert (page.header, page.footer) == ("H", "Secret")
    assert page.markdown == f"Words\n \n\nNext {mark(0)} A"


def test_qwen_pictures_in_a_header_stand_in_the_text() -> None:
    page = parsed(
        Qwen,
        "<header>Acme ![logo](page_1_2_3_4.png) Inc</header>\n\n![](page_5_6_7_8.png)\n\nbody"
        "\n\n<footer>![image](a.png)</footer>\n\n<watermark>![W](b.png)</watermark>",
        LEFT,
        WHOLE_PAGE,
        LEFT,
    )
    assert (page.header, page.footer) == ("Acme logo Inc", None)
    assert page.markdown == f"{mark(0)}\n\n{mark(1)}\n\nbody\n\n{mark(2)}"
    assert codes(page) == ["picture_places_unknown"]
