"""A document through the whole chain: client, door, pipeline, engine, real vLLM, parser, answer.

The models recite; see README.md. So what is read is known to the letter, and the tokens are
counted by the server itself.
"""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from mistralai.client.models import OCRImageObject
from PIL import Image

from ocr_api.engines import PageTask, Supplies
from ocr_api.engines.vllm import Vllm
from ocr_api.pages import DrawnPage
from ocr_api.processes import Pool
from ocr_api.result import Usage
from tests import helpers, samples
from tests.e2e import test_seed
from tests.e2e.conftest import Server as Recto
from tests.vllm import chain
from tests.vllm.asking import metric, until
from tests.vllm.chain import DEADLINE, DEEPSEEK, GLM, LIGHTON, MODELS, Json, mistral, read
from tests.vllm.servers import Server

ISSUED = "Issued on 3 May in Orléans, payable within 30 days."
TABLE = "| item | price |\n| --- | --- |\n| paper | 12.50 |\n| ink, black | 31.00 |"
TOTAL = "The total is $12.50 + 31.00 = 43.50$ EUR."
SUM = "$$\n\\sum_{i=1}^{2} p_i = 43.50\n$$"


def html(head: str, before: str = "", middle: str = "", after: str = "", between: str = "") -> str:
    """The table in HTML, with what may stand between its rows."""
    rows = "<tr><td>paper</td><td>12.50</td></tr>", "<tr><td>ink, black</td><td>31.00</td></tr>"
    top = f"<tr><{head}>item</{head}><{head}>price</{head}></tr>"
    return f"<table>{before}{top}{middle}{between.join(rows)}{after}</table>"


@dataclass(frozen=True)
class Expected:
    """What comes of the small page with two pictures."""

    server: str
    """Model folder of the server that reads, where pictures are wanted."""
    size: tuple[int, int, int]
    """Width, height, and dots per inch."""
    boxes: tuple[tuple[int, int, int, int], ...]
    """Of pictures: left, top, right, bottom in pixels."""
    table: str
    """As the model writes it."""
    html: str
    """The table where HTML is asked for."""
    paragraphs: tuple[str, ...]
    """Of the markdown; ``{table}`` and ``{images}`` stand where those are."""

    def markdown(self, table: str, images: int) -> str:
        """Return the page with a table, or its mark, and the marks of some images."""
        marks = "\n\n".join(f"![img-{n}.jpeg](img-{n}.jpeg)" for n in range(images))
        places = {"{table}": table, "{images}": marks}
        return "\n\n".join(text for part in self.paragraphs if (text := places.get(part, part)))


HEAD = "# Invoice 2041"
READ = {
    # [640, 210, 910, 420] of 999.
    DEEPSEEK: Expected(
        "deepseek_ocr",
        (662, 933, 160),
        ((424, 196, 603, 392),),
        html("td"),
        html("td"),
        (HEAD, ISSUED, "{images}", "{table}"),
    ),
    # [120, 300, 480, 700] of 1000.
    LIGHTON: Expected(
        "lighton_ocr_bbox",
        (1093, 1540, 264),
        ((131, 462, 525, 1078),),
        TABLE,
        html("th", "\n<thead>\n", "\n</thead>\n<tbody>\n", "\n</tbody>\n", between="\n"),
        (HEAD, ISSUED, "{images}", "{table}", TOTAL),
    ),
    # Where the PDF has them: it says nothing of pictures itself.
    GLM: Expected(
        "glm_ocr",
        (704, 992, 170),
        ((71, 260, 354, 402), (71, 756, 354, 898)),
        html("th"),
        html("th"),
        (f'{HEAD}: a screen, 27"', ISSUED, "{table}", SUM, "{images}"),
    ),
}


async def tokens(server: Server) -> Usage:
    """What a server has counted so far."""
    prompt = await metric(server, "vllm:prompt_tokens_total")
    return Usage(int(prompt), int(await metric(server, "vllm:generation_tokens_total")))


async def counted(server: Server, before: Usage, used: Json) -> None:
    """Wait until a server has counted these tokens; it may be a little late."""
    prompt, completion = used["prompt_tokens"], used["completion_tokens"]
    assert used["total_tokens"] == prompt + completion
    await until(server, "vllm:prompt_tokens_total", before.prompt_tokens + prompt)
    await until(server, "vllm:generation_tokens_total", before.completion_tokens + completion)


def picture(data: object) -> Image.Image:
    """The picture in a data URI."""
    head, _, text = str(data).partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


def box(image: OCRImageObject) -> tuple[int | None, ...]:
    return (image.top_left_x, image.top_left_y, image.bottom_right_x, image.bottom_right_y)


# --- The clients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
async def test_mistral_sdk_reads_a_file_by_signed_url(
    recto: Recto, servers: dict[str, Server], model: str
) -> None:
    """Upload, signed URL, OCR with pictures, delete: the page to the letter, boxes in pixels."""
    expected = READ[model]
    server = servers[expected.server]
    before = await tokens(server)
    async with mistral(recto) as client:
        content = {"file_name": "two.pdf", "content": chain.picture_pdf()}
        file = await client.files.upload_async(file=content, purpose="ocr")  # type: ignore[arg-type]
        link = await client.files.get_signed_url_async(file_id=file.id, expiry=1)
        answer = await client.ocr.process_async(
            model=model,
            document={"type": "document_url", "document_url": link.url},
            include_image_base64=True,
        )
        assert (await client.files.delete_async(file_id=file.id)).deleted
    assert answer.model == model
    (page,) = answer.pages
    assert page.dimensions
    size = page.dimensions
    assert (size.width, size.height, size.dpi) == expected.size
    assert page.markdown == expected.markdown(expected.table, len(expected.boxes))
    assert tuple(box(image) for image in page.images) == expected.boxes
    for number, image in enumerate(page.images):
        left, top, right, bottom = expected.boxes[number]
        shown = picture(image.image_base64)
        assert (image.id, shown.format) == (f"img-{number}.jpeg", "JPEG")
        assert shown.size == (right - left, bottom - top)
    assert answer.usage_info.pages_processed == 1
    assert answer.usage_info.doc_size_bytes == len(chain.picture_pdf())
    # The client drops the counts of tokens; another test has them.
    assert (await tokens(server)).prompt_tokens > before.prompt_tokens


SNIPPETS = {
    "quick start": test_seed.QUICK_START,
    "direct": test_seed.DIRECT,
    "signed": test_seed.SIGNED + "\nprint(result['pages'][0]['markdown'])",
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("snippet", SNIPPETS)
async def test_snippets_of_the_seed(recto: Recto, tmp_path: Path, snippet: str, model: str) -> None:
    """As published; only host, key, model and address are others."""
    (tmp_path / "document.pdf").write_bytes(chain.small_pdf())
    image = samples.saved(samples.print_image((400, 300)), "PNG")
    async with helpers.serving({"/image.png": image}) as base:
        code = (
            SNIPPETS[snippet]
            .replace("https://api.inference.nebul.io", recto.base)
            .replace("<YOUR_API_KEY>", "any")
            .replace(DEEPSEEK, model)
            .replace("https://example.com", base)
        )
        command = [sys.executable, "-c", code]
        run = partial(
            subprocess.run, capture_output=True, text=True, cwd=tmp_path, timeout=DEADLINE
        )
        done = await asyncio.to_thread(run, command, check=False)
    assert done.returncode == 0, done.stderr
    markdown = READ[model].markdown(READ[model].table, 0)
    if snippet == "quick start":
        markdown = f"Page 0: {markdown[:100]}..."
    assert done.stdout == markdown + "\n"


# --- The answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("form", ["markdown", "html"])
async def test_tables_words_and_their_confidence(recto: Recto, model: str, form: str) -> None:
    """Tables apart, in the form that was asked for; each word has its place and its confidence."""
    expected = READ[model]
    options = {"table_format": form, "confidence_scores_granularity": "word"}
    answer = await read(recto, chain.small_pdf(), model=model, **options)
    (page,) = answer["pages"]
    name = {"markdown": "tbl-0.md", "html": "tbl-0.html"}[form]
    (table,) = page["tables"]
    assert (table["id"], table["format"]) == (name, form)
    assert page["markdown"] == expected.markdown(f"[{name}]({name})", 0)
    assert table["content"] == (TABLE if form == "markdown" else expected.html)
    scores = page["confidence_scores"]
    for word in scores["word_confidence_scores"]:
        start = word["start_index"]
        assert page["markdown"][start : start + len(word["text"])] == word["text"]
        assert 0.99 < word["confidence"] <= 1  # a table of weights is sure of itself
    found = "".join(word["text"] for word in scores["word_confidence_scores"])
    assert ISSUED in found
    assert 0.99 < scores["minimum_page_confidence_score"] <= 1
    assert (answer["warnings"], page["warnings"]) == ([], [])
    assert answer["usage"] == page["usage"]


@pytest.mark.parametrize("model", [DEEPSEEK, GLM])
async def test_words_of_a_table_in_html_have_confidence(recto: Recto, model: str) -> None:
    options = {"confidence_scores_granularity": "word"}
    answer = await read(recto, chain.small_pdf(), model=model, **options)
    scores = answer["pages"][0]["confidence_scores"]["word_confidence_scores"]
    cells = ["item", "price", "paper", "12.50", "ink,", " black", "31.00"]
    found = [word["text"] for word in scores]
    start = found.index("item")
    assert found[start : start + len(cells)] == cells
    assert {word["confidence"] for word in scores} == {1}


async def test_blocks(recto: Recto) -> None:
    """DeepSeek-OCR gives them all; a picture with a box is one, too."""
    options = {"include_blocks": True, "confidence_scores_granularity": "block"}
    answer = await read(recto, chain.small_pdf(), model=DEEPSEEK, **options)
    sides = ("top_left_x", "top_left_y", "bottom_right_x", "bottom_right_y")
    blocks = answer["pages"][0]["blocks"]
    assert [(b["type"], tuple(b[side] for side in sides), b["content"]) for b in blocks] == [
        ("title", (60, 56, 404, 103), HEAD),
        ("text", (60, 131, 600, 177), ISSUED),
        ("image", READ[DEEPSEEK].boxes[0], ""),
        ("table", (60, 420, 600, 654), html("td")),
    ]
    scored = [b["confidence_scores"] for b in blocks]
    assert [score and score["average_content_confidence_score"] for score in scored] == [
        1,
        1,
        None,
        1,
    ]


async def test_lightonocr_reads_with_the_weights_that_fit(
    recto: Recto, servers: dict[str, Server]
) -> None:
    """The plain ones, and the -bbox ones where pictures are asked for."""
    plain, boxed = servers["lighton_ocr"], servers["lighton_ocr_bbox"]
    for wanted, reader, other in ((False, plain, boxed), (True, boxed, plain)):
        before = await tokens(reader), await tokens(other)
        answer = await read(recto, chain.small_pdf(), model=LIGHTON, include_image_base64=wanted)
        assert len(answer["pages"][0]["images"]) == wanted
        assert answer["model"] == LIGHTON
        await counted(reader, before[0], answer["usage"])
        assert await tokens(other) == before[1]


async def test_pages_of_a_document_are_read_together(
    recto: Recto, servers: dict[str, Server]
) -> None:
    """In order, each page once, and as many at a time as the server takes."""
    before = await tokens(servers["glm_ocr"])
    answer = await read(recto, chain.small_pdf(12), model=GLM, pages="1-10")
    assert [page["index"] for page in answer["pages"]] == list(range(1, 11))
    expected = READ[GLM].markdown(READ[GLM].table, 0)
    assert {page["markdown"] for page in answer["pages"]} == {expected}
    await counted(servers["glm_ocr"], before, answer["usage"])


# --- The context ---------------------------------------------------------------------------------


def no_pool(entry: str, memory_bytes: int) -> Pool:
    raise AssertionError(entry, memory_bytes)


async def test_context_is_learned_by_the_first_pages(servers: dict[str, Server]) -> None:
    """The cards count on more context than the tiny servers have, and nobody asked for readiness.

    Pages that begin together ask for the models once, and later ones not at all.
    """
    server = servers["glm_ocr"]
    card = next(card for card in chain.cards() if card.id == GLM)
    assert card.max_tokens
    assert card.max_tokens > 4096
    drawn = DrawnPage(0, 400, 300, 72, samples.print_jpeg((400, 300)), blank=False, pictures=())
    url = f"{server.base}/v1"
    task = PageTask(page=drawn, card=card, prompt="Read.", url=url, max_tokens=card.max_tokens)
    lists = server.log.read_text("utf-8").count('"GET /v1/models HTTP/1.1" 200')
    engine = Vllm(Supplies(no_pool))
    await engine.start()
    try:
        readings = await asyncio.gather(*(engine.read(task) for _ in range(4)))
        readings.append(await engine.read(task))
    finally:
        await engine.close()
    assert [reading.text for reading in readings] == [server.page] * 5
    assert {reading.finish_reason for reading in readings} == {"stop"}
    assert server.log.read_text("utf-8").count('"GET /v1/models HTTP/1.1" 200') == lists + 1
