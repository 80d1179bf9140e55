"""The cards that ship: their facts, the tokens of pages, and what the audit says of wrong ones."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from model_registry.audit import check_cards
from model_registry.card import Card, read_cards
from model_registry.vision import Patches, Tiles, Vision

ROOT = Path(__file__).resolve().parents[2]
CARDS = {card.id: card for card in read_cards(ROOT / "configs" / "models")}
SERVED = [card for card in CARDS.values() if not card.embedded]
DEEPSEEK = "deepseek-ai/DeepSeek-OCR"
DEEPSEEK_2 = "deepseek-ai/DeepSeek-OCR-2"
LIGHTON = "lightonai/LightOnOCR-2-1B"
BOXES = "lightonai/LightOnOCR-2-1B-bbox-soup"
GLM = "zai-org/GLM-OCR"
OLMOCR = "allenai/olmOCR-2-7B-1025-FP8"
QWEN = "Qwen/Qwen3-VL-4B-Instruct"

# Width and height in pixels, then the tokens of DeepSeek-OCR, DeepSeek-OCR-2, LightOnOCR-2,
# GLM-OCR, Qwen2.5-VL and Qwen3-VL, as the functions of vLLM 0.32 and transformers 5.19 gave them
# (run once, November 2026). Among them shapes that lie halfway between two grids of tiles.
TOKENS_IN_VLLM = [
    (640, 640, 273, 257, 529, 529, 529, 400),
    (641, 640, 693, 257, 529, 529, 529, 400),
    (640, 641, 693, 257, 529, 529, 529, 400),
    (768, 768, 693, 257, 784, 729, 729, 576),
    (769, 768, 693, 833, 784, 729, 729, 576),
    (200, 3000, 933, 1121, 220, 749, 749, 564),
    (3000, 200, 883, 1121, 220, 749, 749, 564),
    (1120, 640, 483, 545, 920, 920, 920, 700),
    (1121, 640, 483, 545, 943, 920, 920, 700),
    (2100, 1200, 893, 1121, 1760, 3225, 3225, 2508),
    (1750, 1000, 893, 545, 1760, 2232, 2232, 1705),
    (875, 500, 483, 545, 576, 558, 558, 432),
    (700, 400, 483, 257, 375, 350, 350, 264),
    (2500, 1000, 583, 689, 1210, 3204, 3204, 2418),
    (1250, 500, 583, 545, 810, 810, 810, 624),
    (1000, 2400, 493, 545, 1265, 3096, 3096, 2325),
    (500, 1200, 493, 545, 774, 774, 774, 608),
    (1400, 2400, 903, 1121, 1815, 4300, 4300, 3300),
    (700, 1200, 903, 1121, 1075, 1075, 1075, 836),
    (2000, 2400, 693, 833, 2530, 6106, 6106, 4650),
    (1000, 1200, 693, 833, 1548, 1548, 1548, 1178),
    (1250, 1000, 893, 833, 1620, 1620, 1620, 1209),
    (1875, 1500, 893, 1121, 2420, 3618, 3618, 2773),
    (3500, 1000, 683, 833, 880, 4500, 4500, 3379),
    (900, 4000, 823, 977, 715, 4576, 4576, 3500),
    (450, 2000, 713, 833, 715, 1136, 1136, 868),
    (1280, 1920, 903, 1121, 2035, 3174, 3174, 2400),
    (1536, 2304, 903, 1121, 2035, 4510, 4510, 3456),
    (1346, 3338, 603, 689, 1265, 5712, 5712, 4368),
    (1768, 3128, 493, 545, 1760, 6032, 7056, 5390),
    (2471, 418, 883, 1121, 550, 1320, 1320, 1001),
    (2207, 1320, 893, 1121, 1815, 3713, 3713, 2829),
    (512, 942, 493, 545, 646, 612, 612, 464),
    (763, 1822, 493, 545, 1265, 1755, 1755, 1368),
    (2221, 1309, 893, 1121, 1815, 3713, 3713, 2829),
    (1859, 2527, 903, 1121, 2255, 5940, 5940, 4582),
    (717, 2650, 713, 833, 825, 2470, 2470, 1826),
    (1321, 353, 683, 833, 624, 611, 611, 451),
    (1187, 1971, 903, 1121, 1870, 2940, 2940, 2294),
    (1444, 1045, 893, 1121, 1976, 1924, 1924, 1485),
    (1895, 953, 483, 545, 1540, 2312, 2312, 1770),
    (594, 868, 903, 1121, 682, 651, 651, 513),
    (2122, 818, 583, 689, 1210, 2204, 2204, 1716),
    (841, 307, 583, 689, 341, 330, 330, 260),
    (321, 1157, 713, 833, 504, 451, 451, 360),
    (1182, 979, 693, 833, 1505, 1470, 1470, 1147),
    (981, 1484, 903, 1121, 1908, 1855, 1855, 1426),
    (1584, 1114, 893, 1121, 2145, 2280, 2280, 1750),
    (2508, 3076, 903, 1121, 2475, 6020, 9900, 7488),
    (1138, 1044, 693, 833, 1558, 1517, 1517, 1188),
]

# The same for pages as documents come: see the contract of the models.
PAPERS = {
    "A4 at 72": ((595, 842), (903, 1121, 682, 630)),
    "A4 at 144": ((1191, 1684), (903, 1121, 2145, 2580)),
    "A4 at 200": ((1654, 2339), (903, 1121, 2145, 4956)),
    "A4 at 300": ((2480, 3508), (903, 1121, 2145, 6045)),
    "Letter at 200": ((1700, 2200), (903, 1121, 2365, 4819)),
    "Letter at 300": ((2550, 3300), (903, 1121, 2365, 6052)),
    "A4 landscape at 200": ((2339, 1654), (893, 1121, 2145, 4956)),
    "receipt at 200": ((630, 1969), (603, 689, 990, 1540)),
    "slide at 144": ((1920, 1080), (483, 545, 1705, 2691)),
}


def vision(name: str) -> Tiles | Patches:
    found = CARDS[name].vision
    assert found is not None
    return found


def shrunk_by_pixtral(width: int, height: int) -> tuple[int, int]:
    """Return the size after the server's own limit: the longest edge 1540."""
    ratio = max(width, height) / 1540
    return (int(width / ratio), int(height / ratio)) if ratio > 1 else (width, height)


def shrunk_by_glm(width: int, height: int) -> tuple[int, int]:
    """Return the size after the server's own limit: 6144 squares of 28 pixels."""
    most = 6144 * 784
    if round(width / 28) * round(height / 28) <= 6144:
        return width, height
    ratio = math.sqrt(width * height / most)
    return math.floor(width / ratio / 28) * 28, math.floor(height / ratio / 28) * 28


@pytest.mark.parametrize("paper", PAPERS)
def test_tokens_of_common_pages(paper: str) -> None:
    size, (deepseek, deepseek_2, lighton, glm) = PAPERS[paper]
    assert vision(DEEPSEEK).tokens(*size) == deepseek
    assert vision(DEEPSEEK_2).tokens(*size) == deepseek_2
    assert vision(LIGHTON).tokens(*shrunk_by_pixtral(*size)) == lighton
    assert vision(GLM).tokens(*shrunk_by_glm(*size)) == glm


@pytest.mark.parametrize("row", TOKENS_IN_VLLM, ids=lambda row: f"{row[0]}x{row[1]}")
def test_tokens_are_those_of_vllm(row: tuple[int, ...]) -> None:
    width, height, *tokens = row
    found = [
        vision(DEEPSEEK).tokens(width, height),
        vision(DEEPSEEK_2).tokens(width, height),
        vision(LIGHTON).tokens(*shrunk_by_pixtral(width, height)),
        vision(GLM).tokens(*shrunk_by_glm(width, height)),
        vision(OLMOCR).tokens(width, height),
        vision(QWEN).tokens(width, height),
    ]
    assert found == tokens
    assert vision(BOXES) == vision(LIGHTON)


def sizes(seed: int) -> list[tuple[int, int]]:
    """Return 50 page sizes in pixels; primes as edges, so that no shape lies halfway."""
    chance = random.Random(seed)
    primes = [n for n in range(211, 4001) if all(n % d for d in range(2, int(n**0.5) + 1))]
    return [(chance.choice(primes), chance.choice(primes)) for _ in range(50)]


@pytest.mark.parametrize(("name", "tile", "row_end"), [(DEEPSEEK, 10, 1), (DEEPSEEK_2, 12, 0)])
def test_tiles_are_counted_in_another_way(name: str, tile: int, row_end: int) -> None:
    """Exact fractions and a search over every grid; vision uses floats, as vLLM does."""
    for width, height in sizes(3):
        shape = Fraction(width, height)
        columns, rows = min(
            ((c, r) for c in range(1, 7) for r in range(1, 7) if 2 <= c * r <= 6),
            key=lambda grid: abs(shape - Fraction(*grid)),
        )
        tokens = 257 + 16 * row_end
        if max(width, height) > tile * 64:
            tokens += sum(columns * tile + row_end for _ in range(rows * tile))
        assert vision(name).tokens(width, height) == tokens, (width, height)


@pytest.mark.parametrize(
    ("name", "side", "up"),
    [(LIGHTON, 28, True), (GLM, 28, False), (OLMOCR, 28, False), (QWEN, 32, False)],
)
def test_patches_are_counted_in_another_way(name: str, side: int, *, up: bool) -> None:
    """Whole numbers only: a square more for the rest of an edge, or for half a square of it."""
    for width, height in sizes(4):
        tokens = 1
        for edge in (width, height):
            whole, rest = divmod(edge, side)
            tokens *= whole + (
                rest > 0 if up else 2 * rest > side or (2 * rest == side and whole % 2)
            )
        assert vision(name).tokens(width, height) == tokens, (width, height)


@pytest.mark.parametrize("rounding", ["up", "nearest"])
@pytest.mark.parametrize("most", [16, 500, 2116, 6000])
def test_max_pixels_never_take_more_than_max_tokens(rounding: str, most: int) -> None:
    facts = {"rule": "patches", "side": 28, "rounding": rounding, "max_tokens": most}
    rule: Vision = TypeAdapter(Vision).validate_python(facts)
    pixels = rule.max_pixels()
    tokens = [
        rule.tokens(width, int(pixels / width))
        for width in range(math.isqrt(pixels // 4) + 1, 2 * math.isqrt(pixels))
    ]
    assert max(tokens) <= most
    assert max(tokens) >= most - math.isqrt(most)  # and not much is given away


def test_the_largest_page_of_tiles() -> None:
    assert vision(DEEPSEEK).max_tokens == 933 == vision(DEEPSEEK).tokens(640, 3840)
    assert vision(DEEPSEEK_2).max_tokens == 1121


# --- pages as they are drawn ---------------------------------------------------------------------

PAPER_MM = [
    *((round(841 / 2 ** (n / 2)), round(1189 / 2 ** (n / 2))) for n in range(9)),  # A0 to A8
    *((round(1000 / 2 ** (n / 2)), round(1414 / 2 ** (n / 2))) for n in range(9)),  # B0 to B8
    *((216, 279), (216, 356), (279, 432), (140, 216), (184, 267), (102, 152), (127, 178)),
    *((80, 250), (80, 120), (58, 200), (76, 300), (80, 320), (85, 54), (105, 148), (110, 220)),
    *((339, 191), (254, 190), (254, 143), (200, 200), (300, 300), (148, 148), (420, 297)),
    *((297, 210), (420, 210), (610, 914), (289, 380), (375, 600), (162, 229), (210, 330)),
    *((229, 324), (114, 162), (90, 330)),
]


def drawn(card: Card, paper: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
    """Return the pixels of a page on paper of that many millimetres, as `pages` draws it."""
    limits = card.drawn(scale)
    inches = [side / 25.4 for side in paper]
    density = min(limits.edge / max(inches), math.sqrt(limits.max_pixels / (inches[0] * inches[1])))
    if limits.dpi is not None:
        density = min(density, limits.dpi)
    return math.floor(inches[0] * density), math.floor(inches[1] * density)


@pytest.mark.parametrize("name", [card.id for card in SERVED])
def test_no_page_is_drawn_larger_than_is_useful(name: str) -> None:
    card = CARDS[name]
    assert len(PAPER_MM) == 50
    assert card.vision is not None
    for paper in PAPER_MM:
        width, height = drawn(card, paper)
        assert card.vision.tokens(width, height) <= card.vision.max_tokens, paper
        assert max(width, height) <= card.render.edge, paper
        if isinstance(card.vision, Tiles):
            assert width * height <= card.vision.most * card.vision.tile**2, paper
        if card.render.dpi:
            assert max(width, height) <= max(paper) / 25.4 * card.render.dpi, paper
        smaller = drawn(card, paper, 0.8)
        assert max(smaller) <= 0.81 * max(width, height) + 1, paper


@pytest.mark.parametrize(
    ("name", "pixels", "tokens"),
    [
        (DEEPSEEK, (1318, 1864), 903),
        (DEEPSEEK_2, (1570, 2221), 1121),
        (LIGHTON, (1088, 1540), 2145),
        (GLM, (1405, 1987), 3550),
        (OLMOCR, (910, 1288), 1472),
        (QWEN, (1013, 1432), 1440),
    ],
)
def test_a4_as_it_is_drawn(name: str, pixels: tuple[int, int], tokens: int) -> None:
    assert drawn(CARDS[name], (210, 297)) == pixels
    assert vision(name).tokens(*pixels) == tokens


def test_a_long_receipt_keeps_its_six_tiles() -> None:
    width, height = drawn(CARDS[DEEPSEEK], (80, 480))
    assert (width, height) == (503, 3023)
    rule = vision(DEEPSEEK)
    assert isinstance(rule, Tiles)
    assert rule.grid(width, height) == (1, 6)


# --- the cards that ship -------------------------------------------------------------------------


def test_the_cards_that_ship_have_no_problem() -> None:
    engines = sorted({card.engine for card in CARDS.values()})
    parsers = sorted({card.parser for card in CARDS.values()})
    assert check_cards(list(CARDS.values()), engines, parsers) == []
    assert {card.parser for card in SERVED} == {"deepseek", "lighton", "glm", "qwen"}
    assert {card.engine for card in SERVED} == {"vllm"}


@pytest.mark.parametrize("card", SERVED, ids=lambda card: card.id)
def test_every_sampling_field_is_sent(card: Card) -> None:
    """A server takes the rest from the repository of the weights, which changes."""
    sent = card.sampling
    fields = (sent.temperature, sent.top_p, sent.top_k, sent.repetition_penalty)
    assert None not in (*fields, sent.skip_special_tokens)
    assert sent.skip_special_tokens is (card.parser != "deepseek")
    detection = {"max_pattern_size": 16, "min_pattern_size": 1, "min_count": 200}
    assert sent.repetition_detection == detection


@pytest.mark.parametrize("card", SERVED, ids=lambda card: card.id)
def test_every_retry_differs_from_the_tries_before(card: Card) -> None:
    assert [retry.turn for retry in card.retries] == [0] * (len(card.retries) - 2) + [90, 270]
    tries: list[tuple[object, ...]] = [(card.sampling, 1.0, None, 0)]
    for retry in card.retries:
        changed = card.sampling.changed(retry.sampling)
        tries.append((changed, retry.scale, retry.prompt, retry.turn))
        if not retry.turn and retry.sampling.temperature:
            assert changed.top_k != 1  # which would make any temperature 0
    assert len({repr(one) for one in tries}) == len(tries)
    first, second = (card.sampling.changed(retry.sampling) for retry in card.retries[:2])
    assert (first.temperature, first.top_p) == (0.2, 0.95)
    assert (second.temperature, card.retries[1].scale) == (0.5, 0.8)


@pytest.mark.parametrize("name", [DEEPSEEK, DEEPSEEK_2])
def test_deepseek_never_writes_an_n_gram_twice(name: str) -> None:
    card = CARDS[name]
    cells = [128821, 128822]
    wanted = {"ngram_size": 30, "window_size": 90, "whitelist_token_ids": cells}
    assert card.sampling.vllm_xargs == wanted
    firmer = {"ngram_size": 20, "window_size": 50, "whitelist_token_ids": cells}
    assert [retry.sampling.vllm_xargs for retry in card.retries[:3]] == [firmer] * 3
    assert card.retries[2].prompt == "plain"
    at = card.serve.index("--logits-processors")
    assert card.serve[at + 1] == "recto_ngram:NGramGuard"


def test_every_card_refuses_addresses_as_pictures() -> None:
    for card in SERVED:
        at = card.serve.index("--allowed-media-domains")
        assert card.serve[at + 1] == "invalid.example"
        assert "--trust-remote-code" not in card.serve


def test_prompts_by_task() -> None:
    assert CARDS[DEEPSEEK].prompts["locate"] == "Locate <|ref|>{text}<|/ref|> in the image."
    assert CARDS[GLM].prompts["extract"] == "请按下列JSON格式输出图中信息:\n{skeleton}"
    assert CARDS[LIGHTON].prompts == CARDS[BOXES].prompts == {}
    document = CARDS[OLMOCR].prompts["document"]
    assert len(document) == 557
    assert [line[:20] for line in document.split("\n")] == [
        "Attached is one page",
        "If there are any fig",
        "Return your output a",
    ]
    assert "  " not in document
    assert CARDS[OLMOCR].text_first


@pytest.mark.parametrize("card", SERVED, ids=lambda card: card.id)
def test_control_tokens_are_those_of_the_prompts(card: Card) -> None:
    assert len({*card.control_tokens}) == len(card.control_tokens)
    for prompt in card.prompts.values():
        at = prompt.find("<|")
        while at >= 0:
            token = prompt[at : prompt.index("|>", at) + 2]
            assert token in card.control_tokens
            at = prompt.find("<|", at + 1)


def test_who_annotates_and_how() -> None:
    ways = {
        card.id: (card.annotation.by, card.annotation.trained)
        for card in SERVED
        if card.annotation is not None
    }
    assert ways == {
        DEEPSEEK: ("prompt", False),
        DEEPSEEK_2: ("prompt", False),
        LIGHTON: ("prompt", False),
        BOXES: ("prompt", False),
        OLMOCR: ("prompt", False),
        GLM: ("skeleton", True),
        QWEN: ("chat", True),
    }
    assert CARDS[QWEN].capabilities.free_prompts


def test_the_boxes_of_lighton_have_weights_of_their_own() -> None:
    assert CARDS[LIGHTON].regions_card == BOXES
    assert CARDS[BOXES].capabilities.regions
    assert not CARDS[LIGHTON].capabilities.regions


# --- what the audit says of wrong cards ----------------------------------------------------------

GOOD: dict[str, Any] = {
    "id": "org/a",
    "engine": "e",
    "parser": "p",
    "name": "n",
    "description": "d",
    "licence": "MIT",
    "source": "s",
    "max_tokens": 1000,
    "context": 4096,
    "vision": {"rule": "patches", "side": 28, "rounding": "up", "max_tokens": 2000},
    "prompts": {"document": "Read."},
}


def problems(*others: Card, **facts: object) -> list[str]:
    """Return what the audit says of a good card with some facts changed."""
    cards = [Card.model_validate({**GOOD, **facts}), *others]
    found = check_cards(cards, ["e"], ["p"])
    assert all(line.startswith("org/a: ") for line in found)
    return [line.removeprefix("org/a: ") for line in found]


def test_a_good_card_has_no_problem() -> None:
    assert problems() == []
    assert problems(embedded=True, max_tokens=None, context=None, vision=None) == []


@pytest.mark.parametrize("name", ["max_tokens", "context", "vision"])
def test_a_server_needs_to_know_its_tokens(name: str) -> None:
    missing = f"{name} is missing; a model that a server runs needs it"
    assert problems(**{name: None}) == [missing]


NOT_ALLOWED = "is not allowed: requests must not change how pictures are read"


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"max_tokens": 4096}, "max_tokens 4096 is not below context 4096"),
        (
            {"context": 2511},
            "the largest page leaves 511 of 2511 tokens for the answer",
        ),
        ({"engine": "x"}, "engine 'x' does not exist; known: e"),
        ({"prompts": {"locate": "Where is it?"}}, "prompt locate needs {text}"),
        ({"prompts": {"extract": "Fill it in."}}, "prompt extract needs {skeleton}"),
        (
            {"retries": [{"turn": 90}, {"prompt": "plain"}]},
            "retry 2 names the prompt 'plain', which does not exist",
        ),
        ({"annotation": {"by": "skeleton"}}, "annotation by skeleton needs a prompt extract"),
        ({"regions_card": "org/b"}, "regions_card: there is no card 'org/b'"),
        ({"regions_card": "org/a"}, "regions_card is the card itself"),
        ({"serve": ["--host", "0.0.0.0"]}, "serve: --host is set by Recto"),
        ({"serve": ["--port=80"]}, "serve: --port is set by Recto"),
        ({"serve": ["--api-key", "x"]}, "serve: --api-key is set by Recto"),
        ({"serve": ["--served_model_name", "x"]}, "serve: --served-model-name is set by Recto"),
        ({"serve": ["--max-model-len", "9"]}, "serve: --max-model-len is set by Recto"),
        (
            {"serve": ["--trust-request-mm-kwargs"]},
            f"serve: --trust-request-mm-kwargs {NOT_ALLOWED}",
        ),
        (
            {"serve": ["--seed", "1"], "embedded": True},
            "serve: an embedded model has no server",
        ),
        ({"render": {"dpi": 36}}, "render.dpi 36 is outside 72 to 400"),
        ({"render": {"dpi": 401}}, "render.dpi 401 is outside 72 to 400"),
        ({"render": {"edge": 255}}, "render.edge 255 is below 256 pixels"),
    ],
)
def test_a_wrong_card_is_found(facts: dict[str, object], problem: str) -> None:
    assert problems(**facts) == [problem]


@pytest.mark.parametrize(
    "facts",
    [
        {"max_tokens": 4095},
        {"context": 2512},
        {"prompts": {"locate": "Where is {text}?", "extract": "{skeleton}"}},
        {"retries": [{"prompt": "document"}]},
        {"annotation": {"by": "skeleton"}, "prompts": {"extract": "{skeleton}"}},
        {"serve": ["--seed", "1", "--limit-mm-per-prompt", '{"image":1}']},
        {"render": {"dpi": 400, "edge": 256}},
    ],
)
def test_a_card_at_the_limits_is_right(facts: dict[str, object]) -> None:
    assert problems(**facts) == []


def test_the_card_that_knows_regions_must_know_them() -> None:
    other = {**GOOD, "id": "org/b"}
    blind = Card.model_validate(other)
    assert problems(blind, regions_card="org/b") == ["regions_card: org/b knows no regions"]
    seeing = Card.model_validate({**other, "capabilities": {"regions": True}})
    assert problems(seeing, regions_card="org/b") == []
