"""One model as data: a card, and the reading of a folder of cards.

A card holds facts about a model; who is sent to it, and where it runs, stands in the routes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

DEFAULT_PROMPT = "Read all text in this image and format it as markdown."
"""The API's default prompt (Nebul OCR API); a card maps it to the one its model was trained on."""

Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Render(_Strict):
    """How a page is drawn for the model."""

    edge: Annotated[int, Field(ge=64, le=10_000)] = 1540
    """Longest edge in pixels; a page is never drawn larger than a scan inside it."""
    max_pixels: Annotated[int, Field(ge=4096)] = 12_000_000
    """Most pixels of a drawn page."""
    quality: Annotated[int, Field(ge=30, le=100)] = 85
    """JPEG quality (libjpeg scale)."""


class Capabilities(_Strict):
    """What the model can do; what it cannot is answered with a warning, never dropped."""

    annotation: bool = False
    """Fills ``document_annotation``."""
    blocks: bool = False
    """Gives layout blocks with boxes."""
    confidence: tuple[Literal["page", "block", "word"], ...] = ()
    """Granularities of confidence scores."""
    free_prompts: bool = False
    """Was trained to follow a prompt of the caller's own."""
    tables: bool = False
    """Gives tables as tables."""
    headers: bool = False
    """Tells running headers and footers from the text."""


class Card(_Strict):
    """One model."""

    id: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.\-]+(/[\w.\-]+)*$")]
    aliases: tuple[str, ...] = ()
    engine: str
    """A file name in ``ocr_api/engines``."""
    parser: str
    """A file name in ``ocr_api/parsers``."""
    name: str
    """What people call it."""
    description: str
    licence: str
    """SPDX identifier of the weights."""
    source: str
    """Where the facts on this card come from."""
    embedded: bool = False
    """Runs inside Recto and needs no server."""
    hidden: bool = False
    """Served only where the settings show hidden models (the fakes)."""
    prompts: dict[str, str] = Field(default_factory=dict)
    """Trained prompts by task; ``document`` answers the default prompt. Empty: takes no prompt."""
    prompt_policy: Literal["passthrough", "native_only"] = "passthrough"
    """Whether a caller's own prompt reaches the model."""
    control_tokens: tuple[str, ...] = ()
    """Stripped from a caller's prompt, where they would act as commands."""
    render: Render = Render()
    capabilities: Capabilities = Capabilities()
    pages_in_flight: Annotated[int, Field(ge=1, le=1024)] = 16
    """Most pages of one document that are drawn or read at a time."""
    page_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Longest time one page may take in the engine."""


class CardError(ValueError):
    """One or more cards are wrong; ``problems`` lists all of them."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


def read_cards(folder: Path) -> list[Card]:
    """Return the cards of a folder of YAML files, in file-name order.

    Raises:
        CardError: with every problem of every file, not only the first.
    """
    cards, problems = scan_cards(folder)
    if problems:
        raise CardError(problems)
    return cards


def scan_cards(folder: Path) -> tuple[list[Card], list[str]]:
    """Return the cards that can be read, and every problem of the folder."""
    cards: list[Card] = []
    problems: list[str] = []
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        problems.append(f"{folder}: holds no card (*.yaml)")
    for path in paths:
        try:
            cards.append(read_as(Card, path))
        except CardError as error:
            problems += error.problems
    return cards, problems + _clashes(cards)


def read_as(kind: type[Model], path: Path) -> Model:
    """Return a YAML file as a pydantic model.

    Raises:
        CardError: with every problem of the file.
    """
    try:
        return kind.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except ValidationError as error:
        raise CardError([f"{path.name}: {line}" for line in explain(error)]) from error
    except OSError as error:
        raise CardError([f"{path.name}: not readable: {error.strerror or error}"]) from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: not UTF-8, or a 30th of February
        raise CardError([f"{path.name}: not readable as YAML: {error}"]) from error


def explain(error: ValidationError) -> list[str]:
    """Return one line per problem of a pydantic error, without the values."""
    return [
        f"{'.'.join(str(part) for part in item['loc']) or 'file'}: {item['msg']}"
        for item in error.errors(include_url=False, include_input=False)
    ]


def _clashes(cards: list[Card]) -> list[str]:
    owners: dict[str, str] = {}
    problems = []
    for card in cards:
        for name in (card.id, *card.aliases):
            if name in owners:
                problems.append(f"{card.id}: the name {name!r} belongs to {owners[name]}")
            owners[name] = card.id
    return problems
