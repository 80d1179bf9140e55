"""Everything that a model's server can do wrong, through the whole service.

No loop is ever a success, no fault is an accident of ours: each answer is a documented error, or
a page with the right warnings, and the server's log holds no trace.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from files_api.kit.errors import every_error
from tests import helpers, samples
from tests.bench import documents
from tests.bench.fake import running
from tests.e2e.conftest import CARDS, HURRIED, FakeVlm, Server, started

DEEPSEEK, LIGHTON, GLM = MODELS = (
    "deepseek-ai/DeepSeek-OCR",
    "lightonai/LightOnOCR-2-1B",
    "zai-org/GLM-OCR",
)
# A dense page: the fuller the page, the longer an answer may grow before it is implausible.
PAGE = base64.b64encode(documents.text(1)).decode()
_RED = samples.colour_jpeg((400, 200), (220, 30, 30))
PICTURE = base64.b64encode(
    samples.picture_pdf(
        [(_RED, (400, 200), (50, 600, 200, 100))], content=samples.line("A", 72, 400)
    )
).decode()
THREE = base64.b64encode(helpers.pages_pdf(3)).decode()
SCHEMA = {
    "type": "object",
    "properties": {"total": {"type": "string"}},
    "required": ["total"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "receipt", "schema": SCHEMA}}
CODES = {(cls.status, cls.code) for cls in every_error()} - {(500, "internal_error")}
WORDS = "and the total is 42, as was said above; it follows that so on "
SAID = "fake fault"
"""In the words of every error that the stand-in makes up."""

pytestmark = pytest.mark.shared


@pytest.fixture(autouse=True)
def _no_accident(vlm_server: Server) -> Iterator[None]:
    """Check after each test that the service's log holds no trace, and nothing of the answers."""
    yield
    lines = (vlm_server.data / "log.jsonl").read_text("utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert [event for event in events if "trace" in event or event["level"] == "error"] == []
    assert [line for line in lines if SAID in line or WORDS[:20] in line] == []


class Site:
    """The service and the stand-in behind it."""

    def __init__(self, server: Server, fake: FakeVlm) -> None:
        self.server = server
        self.fake = fake

    def post(self, model: str, document: str = PAGE, **body: Any) -> httpx.Response:
        asked = {"model": model, "document": {"document_content": document}, **body}
        return httpx.post(f"{self.server.base}/v1/ocr", json=asked, timeout=60)

    def answer(self, model: str, document: str = PAGE, **body: Any) -> dict[str, Any]:
        """Return an answer of one page."""
        answer = self.post(model, document, **body)
        assert answer.status_code == 200, answer.text[:500]
        found: dict[str, Any] = answer.json()
        (page,) = found["pages"]
        assert page["usage"] == found["usage"]
        assert (page["reused"], found["usage_info"]["reused_tokens"]) == (False, 0)
        return found

    def read(self, model: str, document: str = PAGE, **body: Any) -> dict[str, Any]:
        """Return the one page of an answer."""
        page: dict[str, Any] = self.answer(model, document, **body)["pages"][0]
        return page

    def fails(self, model: str, status: int, code: str, **body: Any) -> str:
        """Return the message of the error."""
        answer = self.post(model, **body)
        check_error(answer, status, code)
        message: str = answer.json()["message"]
        return message


@pytest.fixture
def site(vlm_server: Server, fake: FakeVlm) -> Site:
    return Site(vlm_server, fake)


def check_error(answer: httpx.Response, status: int, code: str) -> None:
    """Check an error body in all its parts; it is documented and quotes nobody."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text[:500]
    assert (status, code) in CODES
    body = answer.json()
    facts = {name: body[name] for name in ("message", "type", "param", "code")}
    assert body == {
        "error": facts,
        "object": "error",
        **facts,
        "detail": body["message"],
        "request_id": answer.headers["x-request-id"],
    }
    assert ("retry-after" in answer.headers) == (status in (503, 504))
    assert SAID not in body["message"]
    assert WORDS[:20] not in body["message"]


def codes(page: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in page["warnings"]]


# --- loops ----------------------------------------------------------------------------------------

LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 64, 224)
"""Characters of a pattern; the last one is 64 tokens of the stand-in."""
PATTERNS = [(WORDS * 4)[: length - 1] + "~" for length in LENGTHS]
WORDLESS = ["_", ". ", "| ", "<td></td>"]
loops = pytest.mark.parametrize(
    ("pattern", "rule"),
    # vLLM's own detection knows patterns of 16 tokens; what it does not see we do.
    [(pattern, {"ignore_detection": 1}) for pattern in (*PATTERNS, *WORDLESS)]
    + [(pattern, {}) for pattern in (*PATTERNS[::3], *WORDLESS[::3])],
)


def tokens(*sent: dict[str, Any]) -> int:
    """Return the tokens of these requests, as the stand-in counted them."""
    return sum(one["prompt_tokens"] + one["completion_tokens"] for one in sent)


def check_waste(answer: dict[str, Any], model: str, *thrown: dict[str, Any]) -> None:
    """Check that tries that were thrown away are counted, apart from what the page is made of.

    Each took a quarter of the tokens that it might have taken at most.
    """
    prompts = sum(one["prompt_tokens"] for one in thrown)
    spent = answer["usage_info"]["wasted_tokens"] - prompts
    assert 0 < spent <= len(thrown) * (CARDS[model].max_tokens or 0) / 4


def of_each(check: Callable[[str], Any]) -> dict[str, Any]:
    """Run the check for all models at the same time; return what each gave."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(MODELS, pool.map(check, MODELS), strict=True))


@loops
def test_no_loop_is_a_success(site: Site, pattern: str, rule: dict[str, int]) -> None:
    site.fake.fault({"do": "loop", "pattern": pattern} | rule)

    def check(model: str) -> dict[str, Any]:
        answer = site.answer(model, allow_partial=True)
        (page,) = answer["pages"]
        tries = 1 + len(CARDS[model].retries)
        assert f"in each of {tries} tries (it repeated itself)" in page["error"]
        # A run of less than 240 characters is not cut.
        assert len(page["markdown"]) <= max(2 * len(pattern), 0 if rule else 240)
        assert codes(page)[0] == "asked_again"
        assert page["usage"]["total_tokens"] == 0
        return answer

    answers = of_each(check)
    site.fake.until(lambda now: now["in_flight"] == 0)
    log = site.fake.log()
    tried = Counter(sent["model"] for sent in log)
    assert tried == {model: 1 + len(CARDS[model].retries) for model in MODELS}
    for model, answer in answers.items():
        check_waste(answer, model, *(sent for sent in log if sent["model"] == model))


@loops
def test_a_loop_is_asked_again(site: Site, pattern: str, rule: dict[str, int]) -> None:
    site.fake.fault({"do": "loop", "attempt": 1, "pattern": pattern} | rule)

    def check(model: str) -> None:
        answer = site.answer(model)
        (page,) = answer["pages"]
        assert codes(page) == ["asked_again"]
        assert page["error"] is None
        assert page["markdown"].startswith("# Page ")
        assert pattern * 8 not in page["markdown"]
        looped, passed = (sent for sent in site.fake.log() if sent["model"] == model)
        assert (looped["fault"], passed["fault"]) == ("loop", None)
        assert page["usage"]["total_tokens"] == tokens(passed)
        check_waste(answer, model, looped)

    of_each(check)


def test_a_loop_in_every_try_is_an_error(site: Site) -> None:
    site.fake.fault({"do": "loop", "pattern": WORDS})

    def check(model: str) -> None:
        assert "(it repeated itself)" in site.fails(model, 500, "ocr_failed")

    of_each(check)


def test_a_loop_is_stopped_while_it_is_made(site: Site) -> None:
    """The engine is told at once: it stops early in the time that the whole loop would take."""
    loop = {"content": WORDS * 300, "finish_reason": "length", "completion_tokens": 4096}
    site.fake.says(by_order=[loop | {"delay": 10}], default="Read.")
    page = site.read(LIGHTON)
    assert (page["markdown"], codes(page)) == ("Read.", ["asked_again"])
    site.fake.until(lambda now: now["aborted"] == 1)
    stopped = site.fake.log()[0]
    assert stopped["outcome"] == "aborted"
    assert stopped["service_s"] <= 2.5


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_loop_too_short_to_be_stopped_is_found_in_the_end(site: Site, reason: str) -> None:
    loop = {"content": "# Report\n\n" + WORDS * 8, "finish_reason": reason}
    site.fake.says(by_order=[loop], default="Read.")
    page = site.read(GLM)
    assert (page["markdown"], codes(page)) == ("Read.", ["asked_again"])


def test_an_answer_longer_than_its_page_is_asked_again(site: Site) -> None:
    endless = {"content": " ".join(map(str, range(9000))), "completion_tokens": 4096}
    site.fake.says(by_order=[endless], default="Read.")
    answer = site.answer(LIGHTON, THREE, pages=0)
    (page,) = answer["pages"]
    assert (page["markdown"], codes(page)) == ("Read.", ["asked_again"])
    assert "longer than the page can hold" in page["warnings"][0]["message"]
    thrown, passed = site.fake.log()
    assert page["usage"]["total_tokens"] == tokens(passed)
    check_waste(answer, LIGHTON, thrown)


# --- answers that are not what they seem ----------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_that_was_cut_off_says_so(site: Site, model: str) -> None:
    site.fake.fault("do=truncate,tokens=60")
    page = site.read(model)
    assert codes(page)[-1] == "truncated"
    assert page["markdown"].startswith("# Page ")
    asked = [sent["sampling"]["max_tokens"] for sent in site.fake.log()]
    assert codes(page)[:-1] == ["asked_again"] * (len(asked) - 1)
    # Once more with all the room there is, where the card asks for less at first.
    assert asked == sorted(set(asked))
    assert asked[0] == CARDS[model].max_tokens


def test_an_answer_that_was_cut_off_once_is_whole(site: Site) -> None:
    site.fake.fault("do=truncate,attempt=1")
    answer = site.answer(LIGHTON)
    assert codes(answer["pages"][0]) == ["asked_again"]
    cut, whole = site.fake.log()
    assert answer["usage"]["total_tokens"] == tokens(whole)
    assert answer["usage_info"]["wasted_tokens"] == tokens(cut)


@pytest.mark.parametrize("kind", ["", ",kind=null"])
def test_an_empty_answer_says_so(site: Site, kind: str) -> None:
    site.fake.fault(f"do=empty-content{kind}")
    page = site.read(GLM)
    assert (page["markdown"], codes(page)) == ("", ["nothing_read"])


@pytest.mark.parametrize("kind", ["huge", "zero", "negative", "string", "null", "missing"])
def test_wrong_counts_are_nothing(site: Site, kind: str) -> None:
    site.fake.fault(f"do=usage,kind={kind}")
    answer = site.post(DEEPSEEK)
    assert answer.status_code == 200
    found = answer.json()
    assert found["pages"][0]["markdown"].startswith("# Page ")
    (sent,) = site.fake.log()
    # Where only the last count is missing, those of the events before it stand.
    true = [sent[name] * (kind == "null") for name in ("prompt_tokens", "completion_tokens")]
    usage = dict(zip(("prompt_tokens", "completion_tokens"), true, strict=True))
    assert found["pages"][0]["usage"] == found["usage"] == usage | {"total_tokens": sum(true)}
    assert found["usage_info"]["pages_processed"] == 1


def test_a_slow_answer_is_waited_for(site: Site) -> None:
    site.fake.fault("do=slow,delay=1")
    page = site.read(GLM)
    assert page["markdown"].startswith("# Page ")
    assert page["seconds"] >= 1


# --- errors ---------------------------------------------------------------------------------------

ERRORS = [
    ("do=garbage", 500, "ocr_failed"),
    ("do=garbage,kind=html", 500, "ocr_failed"),
    ("do=garbage,kind=empty", 500, "ocr_failed"),
    ("do=empty-choices", 500, "ocr_failed"),
    ("do=stream-error", 500, "ocr_failed"),
    ("do=stream-error,at=0", 500, "ocr_failed"),
    ("do=finish,reason=abort", 503, "engine_unavailable"),
    ("do=finish,reason=error", 500, "ocr_failed"),
    ("do=finish,reason=content_filter", 500, "ocr_failed"),
    *[(f"do=close,at={at}", 500, "ocr_failed") for at in (0, 0.1, 0.5, 0.99)],
    *[(f"do=reset,at={at}", 500, "ocr_failed") for at in (0, 0.1, 0.5, 0.99)],
    ("do=http400", 500, "ocr_failed"),
    ("do=http400,message=maximum context length is 5", 400, "context_too_long"),
    ("do=http401", 503, "engine_unavailable"),
    ("do=http404", 503, "engine_unavailable"),
    ("do=http422", 500, "ocr_failed"),
    ("do=http429", 503, "engine_busy"),
    ("do=http500", 500, "ocr_failed"),
    ("do=http502", 503, "engine_unavailable"),
    ("do=http503", 503, "engine_busy"),
    ("do=http302", 503, "engine_unavailable"),
]


ASKED = {"ocr_failed": 2, "engine_unavailable": 4, "engine_busy": 4, "context_too_long": 1}
"""How often a page is asked for in all, by the error that it ends in."""
REFUSED = ("do=http400", "do=http422")
"""Faults that are never asked again."""


@pytest.mark.parametrize(("rule", "status", "code"), ERRORS)
def test_a_fault_has_one_error(site: Site, rule: str, status: int, code: str) -> None:
    """And it is over when the server is well again."""
    site.fake.fault(rule)
    with ThreadPoolExecutor() as pool:
        failed = pool.submit(site.fails, DEEPSEEK, status, code)
        partial = pool.submit(site.read, DEEPSEEK, allow_partial=True)
    page = partial.result()
    assert (page["error"], page["markdown"], page["dimensions"]) == (failed.result(), "", None)
    site.fake.until(lambda now: now["in_flight"] == 0)
    assert len(site.fake.log()) == 2 * (1 if rule in REFUSED else ASKED[code])
    site.fake.fault()
    assert site.read(DEEPSEEK)["error"] is None


@pytest.mark.parametrize(
    "rule", [rule for rule, _, code in ERRORS if ASKED[code] > 1 and rule not in REFUSED]
)
def test_a_fault_that_passes_is_not_seen(site: Site, rule: str) -> None:
    site.fake.fault(f"{rule},attempt=1")
    page = site.read(DEEPSEEK)
    assert page["markdown"].startswith("# Page ")
    assert (page["error"], codes(page)) == (None, [])
    assert len(site.fake.log()) == 2


@pytest.mark.parametrize("rule", ["do=hang", "do=hang,at=0.5"])
def test_a_server_that_hangs_is_given_up(site: Site, rule: str) -> None:
    site.fake.fault(f"{rule},times=1")
    assert "0.5 s" in site.fails(HURRIED, 504, "engine_timeout")
    assert site.fake.until(lambda now: now["aborted"] == 1)["running"] == 0
    (left,) = site.fake.log()
    assert left["service_s"] < 5
    assert site.read(HURRIED)["error"] is None


@pytest.mark.parametrize("rule", ["do=garbage", "do=reset", "do=http503", "do=finish,reason=abort"])
def test_one_page_that_fails_is_that_page_alone(site: Site, rule: str) -> None:
    site.fake.fault(f"{rule},distinct=2")
    answer = site.post(GLM, THREE, allow_partial=True)
    assert answer.status_code == 200
    pages = answer.json()["pages"]
    assert [page["index"] for page in pages] == [0, 1, 2]
    assert len([page for page in pages if page["error"]]) == 1
    assert len([page for page in pages if page["markdown"].startswith("# Page ")]) == 2
    assert answer.json()["usage_info"]["pages_processed"] == 2


# --- annotation -----------------------------------------------------------------------------------


ANNOTATION_ERRORS = [
    ("do=loop", 500, "annotation_failed"),
    ("do=loop,ignore_detection=1", 500, "annotation_failed"),
    ("do=truncate,tokens=2", 500, "annotation_failed"),
    ("do=empty-content", 500, "annotation_failed"),
    ("do=empty-content,kind=null", 500, "annotation_failed"),
    ("do=garbage", 500, "ocr_failed"),
    ("do=empty-choices", 500, "ocr_failed"),
    ("do=reset", 500, "ocr_failed"),
    ("do=http400", 500, "ocr_failed"),
    ("do=http400,message=Grammar error", 422, "schema_refused"),
]


@pytest.mark.parametrize(
    ("model", "rule", "status", "code"),
    [(model, *error) for model in MODELS for error in ANNOTATION_ERRORS]
    # These are asked for again after pauses, and take long.
    + [(GLM, "do=http404", 503, "engine_unavailable"), (LIGHTON, "do=http503", 503, "engine_busy")],
)
def test_an_annotation_that_fails(
    site: Site, model: str, rule: str, status: int, code: str
) -> None:
    """The pages are read, the questions after them go wrong."""
    site.fake.fault(f"{rule},nth=2-")
    answer = site.post(model, document_annotation_format=FORMAT)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text[:500]
    if status != 422:
        check_error(answer, status, code)
    site.fake.fault(f"{rule},nth=2-")
    partial = site.post(model, document_annotation_format=FORMAT, allow_partial=True)
    assert partial.status_code == 200
    assert partial.json()["document_annotation"] is None
    (page,) = partial.json()["pages"]
    assert page["markdown"].startswith("# Page ")
    assert "annotation_failed" in partial.headers["x-recto-warnings"]


@pytest.mark.parametrize("field", ["document_annotation_format", "bbox_annotation_format"])
@pytest.mark.parametrize("model", MODELS)
def test_tokens_of_an_annotation_that_fails_are_counted(site: Site, model: str, field: str) -> None:
    site.fake.fault("do=truncate,tokens=2,nth=2-")
    answer = site.answer(model, PICTURE, allow_partial=True, **{field: FORMAT})
    read, *bad = site.fake.log()
    assert len(bad) == 2  # answers about the page or its picture
    assert "annotation_failed" in codes(answer["pages"][0])
    for kind in ("prompt_tokens", "completion_tokens"):
        assert answer["usage"][kind] == read[kind]
    assert answer["usage_info"]["wasted_tokens"] == tokens(*bad)


@pytest.mark.parametrize("model", MODELS)
def test_a_picture_that_fails_leaves_the_document_its_annotation(site: Site, model: str) -> None:
    site.fake.fault("do=http500,nth=3-")
    formats = dict.fromkeys(("document_annotation_format", "bbox_annotation_format"), FORMAT)
    answer = site.post(model, PICTURE, allow_partial=True, **formats)
    assert json.loads(answer.json()["document_annotation"])["total"]
    (page,) = answer.json()["pages"]
    assert [image["image_annotation"] for image in page["images"]] == [None]
    assert "annotation_failed" in codes(page)


@pytest.mark.parametrize("rule", ["do=loop,ignore_detection=1", "do=truncate,tokens=2"])
def test_an_annotation_is_asked_for_again(site: Site, rule: str) -> None:
    site.fake.fault(f"{rule},nth=2")
    answer = site.post(LIGHTON, document_annotation_format=FORMAT)
    assert answer.status_code == 200
    assert json.loads(answer.json()["document_annotation"])["total"]
    assert len(site.fake.log()) == 3


# --- callers who leave ----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["do=hang", "do=hang,at=0.5", "do=slow,delay=30"])
async def test_a_caller_who_leaves_stops_the_engine(site: Site, rule: str) -> None:
    site.fake.fault(rule)
    body = {"model": DEEPSEEK, "document": {"document_content": THREE}}
    headers = {"x-request-id": f"leaver-{rule}".translate(str.maketrans("=,", "--"))}
    async with httpx.AsyncClient(base_url=site.server.base, timeout=30) as client:
        asked = asyncio.create_task(client.post("/v1/ocr", json=body, headers=headers))
        await asyncio.to_thread(site.fake.until, lambda now: now["in_flight"] == 3)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    counts = await asyncio.to_thread(site.fake.until, lambda now: now["aborted"] == 3)
    assert (counts["in_flight"], counts["requests"]) == (0, 3)
    rows = helpers.wait_for_usage(
        site.server.data / "recto.db", lambda row: row["request_id"] == headers["x-request-id"]
    )
    assert [(row["outcome"], row["pages"]) for row in rows] == [("cancelled", 0)]


def test_a_server_that_dies(fake: FakeVlm, tmp_path: Path) -> None:
    """Its pages fail as what they are, and readiness names it; the rest goes on."""
    with running("--model", GLM, "--fault", "do=die,nth=2") as (base, _):
        urls = json.dumps({GLM: f"{base}/v1", LIGHTON: f"{fake.base}/v1"})
        # Its only page is read once, and must be asked for when the server is dead.
        with started(tmp_path, ENGINE_URLS=urls, LEDGER_HOURS="0") as server:
            site = Site(server, fake)
            assert site.read(GLM)["error"] is None
            site.fails(GLM, 503, "engine_unavailable")
            assert site.read(LIGHTON)["error"] is None
            ready = httpx.get(f"{server.base}/readyz")
            assert ready.status_code == 200  # the other models still answer
            wrong = [name for name, said in ready.json()["checks"].items() if said != "ok"]
            assert wrong == [f"model {GLM} at {base.removeprefix('http://')}"]
