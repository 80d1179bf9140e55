"""Every card of a server's model through the whole service: what is asked, and what comes back.

The server behind the service is a small one of the tests that says what a case scripts; what real
vLLM says is tested in `tests/vllm`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from model_registry.card import Card, read_cards
from ocr_api import app as ocr_app
from ocr_api.settings import Settings
from tests import helpers
from tests.conftest import running
from tests.engines import fake_server
from tests.engines.fake_server import DONE, Answer, event, stream, usage

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
CARDS = {card.id: card for card in read_cards(ROOT / "configs" / "models") if card.engine == "vllm"}
DEEPSEEK, LIGHTON, GLM = (
    "deepseek-ai/DeepSeek-OCR",
    "lightonai/LightOnOCR-2-1B",
    "zai-org/GLM-OCR",
)
BBOX, CHAT = "lightonai/LightOnOCR-2-1B-bbox-soup", "Qwen/Qwen3-VL-4B-Instruct"
PDF = base64.b64encode(helpers.pages_pdf(2)).decode()
PICTURES = base64.b64encode(helpers.two_pictures_pdf()).decode()
SCHEMA = {
    "type": "object",
    "properties": {
        "total": {"type": ["number", "null"]},
        "items": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["total", "items"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "receipt", "schema": SCHEMA}}


def says(text: str, finish: str = "stop", tokens: tuple[int, int] = (7, 5)) -> Answer:
    """Return a streamed answer."""
    return stream(event(text), event(finish=finish), usage(*tokens), DONE)


@dataclass
class Site:
    """A service whose models are all run by one scripted server."""

    client: httpx.AsyncClient
    server: fake_server.Server

    async def ask(self, model: str, status: int = 200, pdf: str = PDF, **body: Any) -> Any:
        uri = f"data:application/pdf;base64,{pdf}"
        document = {"type": "document_url", "document_url": uri}
        asked = {"model": model, "document": document, "pages": 0, **body}
        answer = await self.client.post("/v1/ocr", json=asked)
        assert answer.status_code == status, answer.text[:500]
        return answer.json()

    def sent(self, number: int = -1) -> dict[str, Any]:
        """Return the body of a request that the server got."""
        body: dict[str, Any] = json.loads(self.server.requests[number].body)
        return body


def paid(answer: dict[str, Any]) -> tuple[int, int]:
    """Return the tokens of the answers that were used, and of those that were thrown away."""
    counts = answer["usage_info"]
    assert counts["total_tokens"] == answer["usage"]["total_tokens"]
    assert (counts["pages_reused"], counts["reused_tokens"]) == (0, 0)
    return counts["total_tokens"], counts["wasted_tokens"]


Open = Callable[..., Any]


@pytest.fixture
def site(settings: Settings, tmp_path: Path) -> Open:
    @asynccontextmanager
    async def opened(
        *answers: Answer,
        cards: Any = CARDS,
        annotator: str = '""',
        default: str = "rapidocr",
        before: tuple[str, ...] = (),
        **more: Any,
    ) -> AsyncIterator[Site]:
        routes = tmp_path / "routes.yaml"
        routes.write_text(f"default: {default}\nannotator: {annotator}\n")
        async with fake_server.serving(*answers) as server:
            urls = dict.fromkeys(cards, (*before, server.url))
            # Every question counts here, also the second one about a page.
            facts = {"engine_urls": urls, "routes": routes, "ledger_hours": 0, **more}
            service = ocr_app.create(settings.model_copy(update=facts))
            transport = httpx.ASGITransport(service)
            async with (
                running(service),
                httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
            ):
                yield Site(client, server)

    return opened


# --- golden requests -----------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "default-prompt": {"prompt": "Read all text in this image and format it as markdown."},
    "table": {"prompt": "table"},
    "own-prompt": {"prompt": "Which <image>dates<|im_start|> are there?"},
    "annotation-prompt": {"document_annotation_prompt": "Extract the total amount and date"},
    "schema-prompt": {"document_annotation_prompt": json.dumps(SCHEMA)},
    "annotation-format": {"document_annotation_format": FORMAT},
    "confidence": {"confidence_scores_granularity": "word"},
}


def shown(request: fake_server.Request) -> dict[str, Any]:
    """Return what a person would review: the body with the size of the picture in its place."""
    body: dict[str, Any] = json.loads(request.body)
    assert request.line.startswith("POST /v1/chat/completions ")
    for part in body["messages"][0]["content"]:
        if part["type"] == "image_url":
            head, data = part["image_url"]["url"].split(",")
            assert base64.b64decode(data)[:2] == b"\xff\xd8"
            part["image_url"]["url"] = f"{head},<JPEG>"
    return body


@pytest.mark.parametrize("card", sorted(CARDS))
async def test_golden_requests(site: Open, card: str) -> None:
    sent = {}
    async with site(says('{"total": null, "items": []}'), cards=[card]) as opened:
        for case, options in CASES.items():
            opened.server.requests.clear()
            await opened.ask(card, **options)
            sent[case] = [shown(request) for request in opened.server.requests]
    path = GOLDEN / f"{card.split('/')[1]}.json"
    # To accept a change: delete the file, run this test, and review what git shows.
    if not path.exists():
        GOLDEN.mkdir(exist_ok=True)
        path.write_bytes(orjson.dumps(sent, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        pytest.fail(f"{path.name} was missing and was written; review it")
    assert json.loads(path.read_bytes()) == sent


def test_no_golden_request_is_left_over() -> None:
    assert {path.name for path in GOLDEN.glob("*")} == {
        f"{card.split('/')[1]}.json" for card in CARDS
    }


# --- answers -------------------------------------------------------------------------------------

GROUNDED = (
    "<|ref|>title<|/ref|><|det|>[[99, 99, 899, 199]]<|/det|>\n# Total\n"
    "<|ref|>image<|/ref|><|det|>[[0, 200, 499, 499]]<|/det|>\n"
    "<|ref|>table<|/ref|><|det|>[[99, 600, 899, 899]]<|/det|>\n"
    "<table><tr><td>a</td><td>b</td></tr><tr><td>1</td><td>2</td></tr></table>\n"
    "<|ref|>text<|/ref|><|det|>[[99, 900, 899, 950]]<|/det|>\n"
    "See [us](https://example.org/x).\n"
)


async def test_deepseek_gives_blocks_pictures_and_tables(site: Open) -> None:
    async with site(says(GROUNDED)) as opened:
        found = await opened.ask(
            DEEPSEEK, pages="0-1", include_image_base64=True, include_blocks=True,
            table_format="markdown",
        )  # fmt: skip
    first, second = found["pages"]
    assert first["markdown"] == (
        "# Total\n\n![img-0.jpeg](img-0.jpeg)\n\n[tbl-0.md](tbl-0.md)\n\n"
        "See [us](https://example.org/x)."
    )
    size = first["dimensions"]
    (image,) = first["images"]
    assert image["id"] == "img-0.jpeg"
    assert (image["top_left_x"], image["bottom_right_x"]) == (0, round(size["width"] * 499 / 999))
    assert (image["top_left_y"], image["bottom_right_y"]) == (
        round(size["height"] * 200 / 999),
        round(size["height"] * 499 / 999),
    )
    assert image["image_base64"].startswith("data:image/jpeg;base64,/9j/")
    (table,) = first["tables"]
    assert (table["id"], table["format"]) == ("tbl-0.md", "markdown")
    assert re.findall(r"\w", table["content"]) == ["a", "b", "1", "2"]
    assert first["hyperlinks"] == ["https://example.org/x"]
    kinds = [(block["type"], block["image_id"], block["table_id"]) for block in first["blocks"]]
    assert kinds == [
        ("title", None, None),
        ("image", "img-0.jpeg", None),
        ("table", None, "tbl-0.md"),
        ("text", None, None),
    ]
    assert "img-1.jpeg" in second["markdown"]
    assert second["tables"][0]["id"] == "tbl-1.md"
    assert found["usage"] == {"prompt_tokens": 14, "completion_tokens": 10, "total_tokens": 24}
    assert found["warnings"] == first["warnings"] == []


async def test_two_tables_alike_have_numbers_of_their_own(site: Open) -> None:
    row = "<table><tr><td>a</td><td>b</td></tr></table>\n"
    tag = "<|ref|>table<|/ref|><|det|>[[99, {0}, 899, {1}]]<|/det|>\n" + row
    text = tag.format(100, 200) + tag.format(300, 400)
    async with site(says(text)) as opened:
        found = await opened.ask(DEEPSEEK, include_blocks=True, table_format="html")
    ids = [block["table_id"] for block in found["pages"][0]["blocks"]]
    assert ids == ["tbl-0.html", "tbl-1.html"]


async def test_special_tokens_are_kept_when_asked(site: Open) -> None:
    async with site(says(GROUNDED)) as opened:
        kept = await opened.ask(DEEPSEEK, skip_special_tokens=False)
        cleaned = await opened.ask(DEEPSEEK)
    assert kept["pages"][0]["markdown"] == GROUNDED
    assert "<|" not in cleaned["pages"][0]["markdown"]
    assert cleaned["pages"][0]["images"] == []
    assert "img-" not in cleaned["pages"][0]["markdown"]


async def test_small_pictures_are_left_out_and_the_others_numbered(site: Open) -> None:
    boxes = "".join(
        f"<|ref|>image<|/ref|><|det|>[[0, {top}, {size}, {top + size}]]<|/det|>\n"
        for top, size in ((0, 20), (100, 300), (500, 300))
    )
    async with site(says(boxes)) as opened:
        found = await opened.ask(DEEPSEEK, include_image_base64=True, image_min_size=100)
        fewer = await opened.ask(DEEPSEEK, include_image_base64=True, image_limit=1)
    (page,) = found["pages"]
    assert page["markdown"] == "![img-0.jpeg](img-0.jpeg)\n\n![img-1.jpeg](img-1.jpeg)"
    assert [image["id"] for image in page["images"]] == ["img-0.jpeg", "img-1.jpeg"]
    assert len(fewer["pages"][0]["images"]) == 1
    assert fewer["pages"][0]["markdown"] == "![img-0.jpeg](img-0.jpeg)"


async def test_lighton_asks_the_weights_with_boxes_for_pictures(site: Open) -> None:
    text = "Hello\n\n![image](image_1.png) 100,200,300,400"
    async with site(says(text)) as opened:
        found = await opened.ask(LIGHTON, include_image_base64=True)
        assert opened.sent()["model"] == BBOX
        assert found["model"] == LIGHTON
        await opened.ask(LIGHTON, include_blocks=True)
        assert opened.sent()["model"] == LIGHTON
    (page,) = found["pages"]
    assert page["markdown"] == "Hello\n\n![img-0.jpeg](img-0.jpeg)"
    assert page["images"][0]["top_left_x"] == round(page["dimensions"]["width"] * 0.1)


async def test_lighton_without_those_weights_says_so(site: Open) -> None:
    async with site(says("Hello"), cards=[LIGHTON]) as opened:
        found = await opened.ask(LIGHTON, include_image_base64=True, pdf=PICTURES)
    assert [warning["param"] for warning in found["warnings"]] == ["include_image_base64"]
    # The pictures inside the PDF page are offered instead.
    assert len(found["pages"][0]["images"]) == 2


async def test_glm_offers_the_page_where_there_is_no_picture(site: Open) -> None:
    async with site(says("Text")) as opened:
        found = await opened.ask(GLM, include_image_base64=True)
    (page,) = found["pages"]
    (image,) = page["images"]
    assert (image["bottom_right_x"], image["bottom_right_y"]) == (
        page["dimensions"]["width"],
        page["dimensions"]["height"],
    )


async def test_confidence_comes_from_the_tokens(site: Open) -> None:
    pieces = [("Hel", -0.1), ("lo", -0.3), (" you", 0.0)]
    logprobs = [{"token": text, "logprob": value, "bytes": None} for text, value in pieces]
    answer = stream(
        event("Hello you", logprobs={"content": logprobs}), event(finish="stop"), usage(1, 3), DONE
    )
    async with site(answer) as opened:
        found = await opened.ask(GLM, confidence_scores_granularity="word")
    (page,) = found["pages"]
    scores = page["confidence_scores"]
    assert scores["minimum_page_confidence_score"] == 0.7408
    words = scores["word_confidence_scores"]
    assert [(word["text"], word["start_index"]) for word in words] == [("Hello", 0), (" you", 5)]
    assert words[0]["confidence"] == 0.8187  # exp(-.2): the geometric mean
    assert words[1]["confidence"] == 1.0


# --- pages that go wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("card", [DEEPSEEK, LIGHTON, GLM])
async def test_a_loop_is_asked_again_and_never_a_success(site: Open, card: str) -> None:
    loop = says("Total: " + "and again " * 200, finish="length")
    async with site(loop, says("Read.")) as opened:
        found = await opened.ask(card)
        assert found["pages"][0]["markdown"] == "Read."
        assert found["pages"][0]["warnings"][0]["code"] == "asked_again"
    async with site(loop) as opened:
        failed = await opened.ask(card, status=500)
        assert failed["code"] == "ocr_failed"
        assert len(opened.server.requests) == 1 + len(CARDS[card].retries)
        partial = await opened.ask(card, allow_partial=True)
        assert partial["pages"][0]["error"]


def refuses(status: str, message: str) -> Answer:
    """Return an error as vLLM words it."""
    return fake_server.plain(orjson.dumps({"error": {"message": message, "code": 1}}), status)


TOO_LONG = "This model's maximum context length is 5 tokens."
ERRORS: list[tuple[Answer, int, str]] = [
    (refuses("503 Service Unavailable", "queue full"), 503, "engine_busy"),
    (refuses("404 Not Found", "no such model"), 503, "engine_unavailable"),
    (refuses("401 Unauthorized", "key"), 503, "engine_unavailable"),
    (refuses("502 Bad Gateway", "upstream"), 503, "engine_unavailable"),
    (refuses("400 Bad Request", TOO_LONG), 400, "context_too_long"),
    (refuses("500 Internal Server Error", "oops"), 500, "ocr_failed"),
    (fake_server.plain(b"<html>", kind="text/html"), 500, "ocr_failed"),
]


@pytest.mark.parametrize(("answer", "status", "code"), ERRORS)
async def test_errors_of_the_server(site: Open, answer: Answer, status: int, code: str) -> None:
    async with site(answer) as opened:
        failed = await opened.ask(GLM, status=status)
    assert failed["code"] == code


async def test_a_server_that_is_away_is_named_and_others_go_on(site: Open) -> None:
    async with site(fake_server.cut(fake_server.nothing, reset=True), cards=[GLM]) as opened:
        ready = await opened.client.get("/readyz")
        checks = ready.json()["checks"]
        name = f"model {GLM} at {opened.server.url.split('/')[2]}"
        assert [one for one, answer in checks.items() if answer != "ok"] == [name]
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        routes = ready.json()["routes"]
        assert [one for one, answer in routes.items() if answer != "ok"] == [GLM]
        failed = await opened.ask(GLM, status=503)
        assert failed["code"] == "engine_unavailable"


async def test_without_any_model_files_are_still_served(site: Open, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "one.yaml").write_bytes((ROOT / "configs/models/glm-ocr.yaml").read_bytes())
    away = fake_server.cut(fake_server.nothing, reset=True)
    async with site(away, cards=[GLM], default=GLM, models_dir=models) as opened:
        ready = await opened.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert set(ready.json()["routes"].values()) == {"none of its models answers"}
        kept = await opened.client.post("/v1/files", files={"file": b"kept"})
        assert kept.status_code == 200


# --- annotation ----------------------------------------------------------------------------------


async def test_the_nebul_way_folds_what_the_pages_say(site: Open) -> None:
    async with site(says('{"total": "12"}')) as opened:
        one = await opened.ask(DEEPSEEK, document_annotation_prompt="Total?")
        assert json.loads(one["document_annotation"]) == {"total": "12"}
        assert json.loads(one["pages"][0]["markdown"]) == {"total": "12"}
        assert one["usage_info"]["pages_processed_annotation"] == 1
        assert [warning["code"] for warning in one["warnings"]] == ["prompt_untrained"]
    async with site(says("It is 12."), says("Thanks.")) as opened:
        two = await opened.ask(GLM, document_annotation_prompt="Total?", pages="0-1")
        assert json.loads(two["document_annotation"]) == ["It is 12.", "Thanks."]


async def test_a_schema_as_the_prompt_constrains_the_pages(site: Open) -> None:
    async with site(says('{"total": 12, "items": []}')) as opened:
        found = await opened.ask(GLM, document_annotation_prompt=json.dumps(SCHEMA))
        sent = opened.sent()
    assert json.loads(found["document_annotation"]) == {"total": 12, "items": []}
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA
    assert '{"total":"","items":[""]}' in sent["messages"][0]["content"][1]["text"]
    assert sent["repetition_penalty"] == 1.0


PAIR = json.dumps({"total": 12, "items": []})
AGAIN = ["it is no JSON", '{"total": "twelve"}', '{"total": 12, "items": [', '{"total": 12, "mor']


@pytest.mark.parametrize("bad", AGAIN)
@pytest.mark.parametrize("card", [GLM, DEEPSEEK, CHAT])
async def test_an_answer_that_does_not_fit_the_schema_is_asked_for_again(
    site: Open, card: str, bad: str
) -> None:
    async with site(says(bad), says(PAIR)) as opened:
        found = await opened.ask(card, document_annotation_prompt=json.dumps(SCHEMA))
        first, second = (json.loads(request.body) for request in opened.server.requests)
    (page,) = found["pages"]
    assert json.loads(found["document_annotation"]) == {"total": 12, "items": []}
    assert json.loads(page["markdown"]) == {"total": 12, "items": []}
    assert [warning["code"] for warning in page["warnings"]] == ["asked_again"]
    assert page["usage"] == found["usage"]
    assert paid(found) == (12, 12)
    assert second["messages"] == first["messages"]
    assert second["response_format"] == first["response_format"]
    assert second["temperature"] == 0.2
    untrained = [warning["code"] for warning in found["warnings"]]
    assert untrained == (["annotation_best_effort"] if card == DEEPSEEK else [])


async def test_a_schema_as_the_prompt_that_is_never_kept_to(site: Open) -> None:
    prompt = json.dumps(SCHEMA)
    async with site(says("Sorry, I cannot.")) as opened:
        failed = await opened.ask(GLM, status=500, document_annotation_prompt=prompt)
        assert failed["code"] == "annotation_failed"
        assert len(opened.server.requests) == 2
        partial = await opened.ask(GLM, document_annotation_prompt=prompt, allow_partial=True)
    assert partial["document_annotation"] is None
    assert partial["pages"][0]["markdown"] == "Sorry, I cannot."
    codes = [warning["code"] for warning in partial["pages"][0]["warnings"]]
    assert codes == ["annotation_failed"]
    assert partial["pages"][0]["usage"] == partial["usage"]
    assert paid(partial) == (12, 12)  # the first answer is the page's text
    assert partial["usage_info"]["pages_processed_annotation"] == 0


@pytest.mark.parametrize("card", [GLM, CHAT, DEEPSEEK])
async def test_json_is_not_tidied_up(site: Open, card: str) -> None:
    said = json.dumps({"iban": "DE................12", "note": "a ![x](y.png) <img>c</img>"})
    async with site(says(f"{said}<|im_end|>")) as opened:
        found = await opened.ask(card, document_annotation_prompt="Give JSON")
    assert found["document_annotation"] == said


async def test_words_are_for_who_reads_the_text(site: Open) -> None:
    cut = says("Half an ans", finish="length")
    async with site(cut, annotator=CHAT) as opened:
        found = await opened.ask("echo", document_annotation_prompt="Summarise")
        assert json.loads(found["document_annotation"]) == "Half an ans"
        assert [warning["code"] for warning in found["warnings"]] == ["truncated"]
        assert "# Page 0" in opened.sent()["messages"][0]["content"][0]["text"]
    async with site(cut, annotator=GLM) as opened:
        failed = await opened.ask("echo", status=400, document_annotation_prompt="Summarise")
        assert failed["code"] == "annotation_not_supported"
        assert failed["param"] == "document_annotation_prompt"


BLANK = base64.b64encode(helpers.blank_pdf()).decode()


@pytest.mark.parametrize(
    ("card", "options"),
    [
        (CHAT, {"document_annotation_format": FORMAT}),
        (GLM, {"document_annotation_format": FORMAT}),
        (GLM, {"document_annotation_prompt": "Total?"}),
        (GLM, {"document_annotation_prompt": json.dumps(SCHEMA)}),
    ],
)
async def test_nothing_is_made_of_a_blank_document(
    site: Open, card: str, options: dict[str, Any]
) -> None:
    async with site(says(PAIR)) as opened:
        found = await opened.ask(card, pdf=BLANK, **options)
        assert opened.server.requests == []
    assert found["document_annotation"] is None
    assert found["warnings"][-1]["code"] == "annotation_empty"
    assert found["usage_info"]["pages_processed_annotation"] == 0


async def test_the_mistral_way_reads_and_then_annotates(site: Open) -> None:
    filled = says('{"total": "12.50", "items": ["tea"]}')
    async with site(says("Total 12.50"), filled) as opened:
        found = await opened.ask(GLM, document_annotation_format=FORMAT)
        read, asked = (json.loads(request.body) for request in opened.server.requests)
    assert found["pages"][0]["markdown"] == "Total 12.50"
    assert json.loads(found["document_annotation"]) == {"total": 12.5, "items": ["tea"]}
    assert paid(found) == (24, 0)
    assert found["usage_info"]["pages_processed_annotation"] == 1
    assert "response_format" not in read
    assert asked["response_format"]["type"] == "json_schema"


async def test_a_value_that_does_not_fit_becomes_null_where_it_may(site: Open) -> None:
    filled = says('{"total": "N/A", "items": ["tea"]}')
    async with site(says("Tea"), filled) as opened:
        found = await opened.ask(GLM, document_annotation_format=FORMAT)
    assert json.loads(found["document_annotation"]) == {"total": None, "items": ["tea"]}
    assert [warning["code"] for warning in found["warnings"]] == ["annotation_incomplete"]


async def test_a_wrong_schema_as_the_prompt_is_not_taken_for_prose(site: Open) -> None:
    async with site(says("x")) as opened:
        wrong = json.dumps({"type": "objekt", "properties": {"a": {"type": "string"}}})
        failed = await opened.ask(GLM, status=422, document_annotation_prompt=wrong)
    assert failed["param"] == "document_annotation_prompt.type"


async def test_confidence_that_a_server_does_not_give_is_a_warning(site: Open) -> None:
    async with site(says("Text")) as opened:
        found = await opened.ask(GLM, confidence_scores_granularity="page")
    assert [warning["param"] for warning in found["pages"][0]["warnings"]] == [
        "confidence_scores_granularity"
    ]


async def test_a_model_that_nobody_runs_says_what_to_do(site: Open) -> None:
    async with site(says("x"), cards=[GLM]) as opened:
        failed = await opened.ask(DEEPSEEK, status=400)
    assert "RECTO_ENGINE_URLS" in failed["message"]


async def test_the_annotator_reads_the_markdown_of_all_pages(site: Open) -> None:
    filled = says('{"total": 3, "items": []}')
    async with site(says("Alpha"), says("Beta"), filled, annotator=CHAT) as opened:
        found = await opened.ask(
            LIGHTON, pages="0-1", document_annotation_format=FORMAT,
            document_annotation_prompt="The sum, please.",
        )  # fmt: skip
        sent = opened.sent()
    assert json.loads(found["document_annotation"]) == {"total": 3, "items": []}
    assert found["warnings"] == []
    assert sent["model"] == CHAT
    (text,) = sent["messages"][0]["content"]
    assert all(part in text["text"] for part in ("The sum, please.", "Alpha", "Beta"))


async def test_pictures_are_annotated_one_by_one(site: Open) -> None:
    filled = says('{"total": "1", "items": ["red"]}')
    async with site(says("Two pictures."), filled) as opened:
        found = await opened.ask(GLM, pdf=PICTURES, bbox_annotation_format=FORMAT)
    images = found["pages"][0]["images"]
    assert [json.loads(image["image_annotation"]) for image in images] == [
        {"total": 1, "items": ["red"]},
        {"total": 1, "items": ["red"]},
    ]
    assert [image["image_base64"] for image in images] == [None, None]
    assert found["document_annotation"] is None
    assert found["usage_info"]["pages_processed_annotation"] == 1


HEADED = (
    "<|ref|>header<|/ref|><|det|>[[1, 1, 900, 50]]<|/det|>\nACME 4711\n"
    "<|ref|>text<|/ref|><|det|>[[10, 100, 500, 500]]<|/det|>\nBody words\n"
)


@pytest.mark.parametrize(
    "options",
    [{}, {"extract_header": True}, {"skip_special_tokens": False}, {"table_format": "html"}],
)
async def test_the_annotator_sees_the_page_whatever_the_caller_wants_to_see(
    site: Open, options: dict[str, Any]
) -> None:
    async with site(says(HEADED), says(PAIR), annotator=CHAT) as opened:
        await opened.ask(DEEPSEEK, document_annotation_format=FORMAT, **options)
        text = opened.sent()["messages"][0]["content"][0]["text"]
    assert "ACME 4711\n\nBody words" in text
    assert "ref" not in text.partition("<document>\n")[2]


async def test_the_annotators_next_replica_is_asked(site: Open) -> None:
    away = fake_server.serving(fake_server.cut(fake_server.nothing, reset=True))
    async with away as first, site(says(PAIR), annotator=CHAT, before=(first.url,)) as opened:
        for _ in range(3):
            found = await opened.ask("echo", document_annotation_format=FORMAT)
            assert json.loads(found["document_annotation"]) == {"total": 12, "items": []}
        assert len(opened.server.requests) == 3


def pictures(*boxes: tuple[int, int, int, int]) -> str:
    """Return what DeepSeek says of pictures at these places."""
    return "Text\n" + "".join(
        f"<|ref|>image<|/ref|><|det|>[{list(box)}]<|/det|>\n" for box in boxes
    )


LARGE = (100, 100, 500, 300)


async def test_pictures_that_nobody_asked_for_stay_here(site: Open) -> None:
    async with site(says(pictures(LARGE)), says(PAIR)) as opened:
        found = await opened.ask(
            DEEPSEEK, document_annotation_prompt="Say all", bbox_annotation_format=FORMAT
        )
    (image,) = found["pages"][0]["images"]
    assert image["image_base64"] is None
    assert json.loads(image["image_annotation"]) == {"total": 12, "items": []}
    assert "Text" in json.loads(found["document_annotation"])


async def test_pictures_of_pages_that_failed_stay_here(site: Open) -> None:
    looped = pictures(LARGE) + "and again " * 200
    async with site(says(looped, finish="length")) as opened:
        found = await opened.ask(DEEPSEEK, bbox_annotation_format=FORMAT, allow_partial=True)
    (page,) = found["pages"]
    assert page["error"]
    assert [image["image_base64"] for image in page["images"]] == []


async def test_one_picture_that_fails_leaves_the_others(site: Open) -> None:
    read = says(pictures(LARGE, (100, 500, 500, 700)))
    async with site(read, says(PAIR), says("no")) as opened:
        found = await opened.ask(DEEPSEEK, bbox_annotation_format=FORMAT, allow_partial=True)
        assert len(opened.server.requests) == 4
    (page,) = found["pages"]
    annotations = [image["image_annotation"] for image in page["images"]]
    assert sorted(annotation is None for annotation in annotations) == [False, True]
    assert [warning["code"] for warning in page["warnings"]] == ["annotation_failed"]
    assert page["usage"] == found["usage"]
    assert paid(found) == (2 * 12, 2 * 12)
    assert found["usage_info"]["pages_processed_annotation"] == 1


async def test_no_more_pictures_are_annotated_than_are_shown(site: Open) -> None:
    read = says(pictures(LARGE))
    async with site(read, read, says(PAIR)) as opened:
        found = await opened.ask(
            DEEPSEEK, pages="0-1", bbox_annotation_format=FORMAT, image_limit=1
        )
        assert len(opened.server.requests) == 3
    one, two = found["pages"]
    assert json.loads(one["images"][0]["image_annotation"]) == {"total": 12, "items": []}
    assert one["images"][0]["image_base64"] is None
    assert two["images"] == []
    assert paid(found) == (3 * 12, 0)


async def test_pictures_that_fail_are_counted_once(site: Open) -> None:
    """With a limit, too, where pictures are annotated after their pages were counted."""
    limited = {"bbox_annotation_format": FORMAT, "image_limit": 1}
    async with site(says(pictures(LARGE)), says("no")) as opened:
        found = await opened.ask(DEEPSEEK, allow_partial=True, **limited)
        assert len(opened.server.requests) == 3
    assert found["pages"][0]["usage"] == found["usage"]
    assert paid(found) == (12, 2 * 12)


async def test_pictures_too_thin_for_a_model_are_left_out(site: Open) -> None:
    async with site(says(pictures((0, 500, 999, 503), LARGE)), says(PAIR)) as opened:
        found = await opened.ask(DEEPSEEK, bbox_annotation_format=FORMAT)
        assert len(opened.server.requests) == 2
    (page,) = found["pages"]
    assert [image["image_annotation"] is None for image in page["images"]] == [True, False]
    assert [warning["code"] for warning in page["warnings"]] == ["picture_too_thin"]


async def test_pictures_share_the_cards_places(site: Open, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    text = (ROOT / "configs/models/glm-ocr.yaml").read_text("utf-8")
    (models / "glm.yaml").write_text(
        re.sub(r"(?m)^pages_in_flight: .*$", "pages_in_flight: 1", text), "utf-8"
    )
    under_way: list[int] = []
    running_now = 0

    async def counted(writer: Any) -> None:
        nonlocal running_now
        running_now += 1
        under_way.append(running_now)
        await fake_server.late(says('{"total": "12", "items": []}'))(writer)
        running_now -= 1

    async with site(counted, cards=[GLM], default=GLM, models_dir=models) as opened:
        found = await opened.ask(GLM, pdf=PICTURES, bbox_annotation_format=FORMAT)
    assert len(found["pages"][0]["images"]) == 2
    assert set(under_way) == {1}  # and not one for each picture


async def test_a_warning_names_the_field_of_an_empty_schema(site: Open) -> None:
    everything = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    async with site(says(PAIR)) as opened:
        found = await opened.ask(DEEPSEEK, document_annotation_format=everything)
    (warning,) = found["warnings"]
    assert warning["code"] == "annotation_best_effort"
    assert warning["param"] == "document_annotation_format"


async def test_large_integers_are_422_and_pointed_at(site: Open) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 10**23}}}
    async with site(says(PAIR)) as opened:
        for card in (GLM, CHAT):
            prompt = json.dumps(schema)
            failed = await opened.ask(card, status=422, document_annotation_prompt=prompt)
            assert failed["param"] == "document_annotation_prompt.properties.a.maximum"
        assert opened.server.requests == []


async def test_an_annotation_that_cannot_be_valid_says_why(site: Open) -> None:
    async with site(says("Text"), says('{"total": [], "items": 7}')) as opened:
        failed = await opened.ask(DEEPSEEK, status=500, document_annotation_format=FORMAT)
        assert failed["code"] == "annotation_failed"
        assert "items" in failed["message"]
    async with site(says("Text"), says("no")) as opened:
        partial = await opened.ask(DEEPSEEK, document_annotation_format=FORMAT, allow_partial=True)
    assert partial["document_annotation"] is None
    assert partial["pages"][0]["markdown"] == "Text"
    assert "annotation_failed" in json.dumps(partial["pages"][0]["warnings"])


@pytest.mark.parametrize("field", ["document_annotation_format", "bbox_annotation_format"])
async def test_a_schema_that_is_none_is_422_and_pointed_at(site: Open, field: str) -> None:
    bad = {"type": "object", "properties": {"total": {"type": "money"}}}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": bad}}
    async with site(says("x")) as opened:
        failed = await opened.ask(GLM, status=422, **{field: response_format})
        assert opened.server.requests == []
    assert failed["param"] == f"{field}.json_schema.schema.properties.total.type"
    assert failed["detail"][0]["loc"] == ["body", *failed["param"].split(".")]


async def test_who_can_annotate_is_named(site: Open) -> None:
    async with site(says("x"), cards=[GLM]) as opened:
        failed = await opened.ask("rapidocr", status=400, document_annotation_format=FORMAT)
        assert failed["code"] == "annotation_not_supported"
        assert GLM in failed["message"]
        unknown = await opened.ask("gpt-4", status=400)
        assert GLM in unknown["message"]


def test_every_server_card_is_tried() -> None:
    assert {DEEPSEEK, LIGHTON, GLM, BBOX, CHAT} <= set(CARDS)
    assert all(isinstance(card, Card) for card in CARDS.values())
