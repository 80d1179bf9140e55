"""Words of real documents: our whole path against the bare engine on the same pixels.

Why word recall: the ground truths differ in reading order and notation, and a parser that loses
or breaks words is what this test is for. Thresholds of the layout were set on
``multi-page-history``, ``azure-sample-invoice``, ``paper-page-with-table`` and, for narrow
gutters, ``latex-two-column``; the numbers of the others are the honest ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from model_registry.card import read_cards
from ocr_api.engines import PageTask, Supplies
from ocr_api.engines.rapidocr import RapidOcr
from ocr_api.pages import Pages
from ocr_api.parsers.layout import Layout
from ocr_api.processes import Limits, Pool
from ocr_api.result import replace_marks

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ROOT.parent / "shared" / "documents"
CORES = max(1, min(4, os.cpu_count() or 1))
TOLERANCE = 0.01
PDF, TIFF, PNG, JPEG = "application/pdf", "image/tiff", "image/png", "image/jpeg"


@dataclass(frozen=True)
class Sample:
    """A document, the text of its first page, and the least recall to expect."""

    path: str
    media_type: str
    truth: str
    least: float


SAMPLES = [
    Sample("scans/phototest.tif", TIFF, ".txt", 0.98),
    Sample("scans/eurotext.tif", TIFF, ".txt", 0.98),
    Sample("scans/linn-two-column.pdf", PDF, ".txt", 0.95),
    Sample("scans/ocr-test.pdf", PDF, ".md", 0.98),
    Sample("scans/synthetic-scan-en.pdf", PDF, ".txt", 0.97),
    Sample("scans/synthetic-scan-fr.pdf", PDF, ".txt", 0.97),
    Sample("scans/synthetic-scan-invoice.pdf", PDF, ".txt", 0.97),
    Sample("invoices/azure-sample-invoice.pdf", PDF, ".txt", 0.97),
    Sample("receipts/contoso-receipt-photo.png", JPEG, ".txt", 0.95),
    Sample("receipts/swiss-receipt-photo.png", PNG, ".txt", 0.95),
    Sample("born-digital/libreoffice-lorem.pdf", PDF, ".txt", 0.97),
    Sample("languages/zh-street-sign.jpg", JPEG, ".txt", 0.90),
]


def words(text: str) -> Counter[str]:
    """Return the words of a text; a word split at a line end counts as one."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"(\w)[-\u00ad]\s*\n\s*([^\W\dA-Z_])", r"\1\2", text)
    return Counter(re.findall(r"\w+", text.lower()))


def recall(found: Counter[str], truth: Counter[str]) -> float:
    """Return the share of the truth's words that were found."""
    return (found & truth).total() / truth.total()


def _available() -> list[Sample]:
    if not DOCUMENTS.is_dir():
        return []
    missing = [sample for sample in SAMPLES if not (DOCUMENTS / sample.path).is_file()]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{DOCUMENTS} lacks {', '.join(sample.path for sample in missing)}")
    return [sample for sample in SAMPLES if sample not in missing]


@pytest.mark.shared
async def test_no_word_is_lost_on_the_way() -> None:
    samples = _available()
    if len(samples) < 10:
        pytest.skip(f"needs the documents in {DOCUMENTS}")
    card = next(card for card in read_cards(ROOT / "configs" / "models") if card.id == "rapidocr")
    pages = Pages(1, Limits(2 << 30, 60.0), 50_000_000)
    pools: list[Pool] = []

    def make_pool(entry: str, memory_bytes: int) -> Pool:
        pools.append(Pool(entry, CORES, Limits(memory_bytes, 120.0)))
        return pools[-1]

    engine = RapidOcr(Supplies(make_pool))
    bare = Pool("tests.accuracy.bare:read", 1, Limits(3 << 30, 120.0))

    async def compare(sample: Sample) -> tuple[float, float]:
        path = DOCUMENTS / sample.path
        page = await pages.draw(path, sample.media_type, 0, card.render)
        _, raw = await bare.call({}, page.jpeg)
        reading = await engine.read(PageTask(page=page, card=card))
        markdown = replace_marks(Layout().parse(reading, page.pictures).markdown, lambda _: "")
        truth = words(path.with_name(path.name + sample.truth).read_text("utf-8"))
        return recall(words(markdown), truth), recall(words("\n".join(json.loads(raw))), truth)

    try:
        found = await asyncio.gather(*map(compare, samples))
    finally:
        await asyncio.gather(engine.close(), bare.close(), pages.close())
    _judge(list(zip(samples, found, strict=True)))


def _judge(table: list[tuple[Sample, tuple[float, float]]]) -> None:
    problems = []
    print("\nword recall of the first page: ours, bare engine")
    for sample, (ours, raw) in table:
        print(f"{ours:.3f}  {raw:.3f}  {sample.path}")
        if ours < raw - TOLERANCE or ours < sample.least:
            problems.append(f"{sample.path}: {ours:.3f}, bare engine {raw:.3f}")
    assert not problems, problems
