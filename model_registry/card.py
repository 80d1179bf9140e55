"""One model as data: a card, and the reading of a folder of cards.

A card holds facts about a model; who is sent to it, and where it runs, stands in the routes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from model_registry.vision import Vision

DEFAULT_PROMPT = "Read all text in this image and format it as markdown."
"""The API's default prompt (Nebul OCR API); a card maps it to the one its model was trained on."""

Model = TypeVar("Model", bound=BaseModel)
# libyaml's is seven times as fast; a build without it has the other alone.
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Render(_Strict):
    """How a page is drawn for the model."""

    edge: Annotated[int, Field(ge=64, le=10_000)] = 1540
    """Longest edge in pixels; a page is never drawn larger than a scan inside it."""
    dpi: Annotated[int, Field(ge=36, le=600)] | None = None
    """Most pixels per inch of paper, where a document knows its paper; None: the edge alone."""
    max_pixels: Annotated[int, Field(ge=4096)] = 12_000_000
    """Most pixels of a drawn page."""
    quality: Annotated[int, Field(ge=30, le=100)] = 85
    """JPEG quality (libjpeg scale)."""
    chroma: Literal["4:2:0", "4:4:4"] = "4:2:0"
    """JPEG chroma subsampling; 4:4:4 keeps thin coloured print sharp."""
    grey: Literal["auto", "never"] = "auto"
    """``auto``: a page without colour is a grey JPEG, with the same pixels for less work;
    ``never``: every page is RGB."""


class Capabilities(_Strict):
    """What the model can do; what it cannot is answered with a warning, never dropped."""

    regions: bool = False
    """Says where pictures stand; else those inside a PDF page are offered."""
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


class Annotation(_Strict):
    """How the model fills a JSON schema, if it does."""

    by: Literal["skeleton", "prompt", "chat"]
    """``skeleton``: page by page, asked with the schema as empty JSON (GLM-OCR's training);
    ``prompt``: page by page, asked in plain words; ``chat``: asked once, with the document's
    markdown."""
    trained: bool = False
    """False: the JSON is valid and its content a best effort; the routes' annotator, where there
    is one, does it instead."""
    images: bool = True
    """Takes a picture, so that it can annotate regions."""
    max_tokens: Annotated[int, Field(ge=16)] = 4096


class Sampling(_Strict):
    """Sampling fields of a chat request; a field that is None is not sent.

    A server may take missing fields from the model's repository, so cards name each that matters.
    """

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    seed: int | None = None
    stop_token_ids: tuple[int, ...] | None = None
    skip_special_tokens: bool | None = None
    """What the server strips; a notation made of special tokens needs False."""
    vllm_xargs: dict[str, JsonValue] | None = None
    """Arguments of logits processors (vLLM only)."""
    repetition_detection: dict[str, int] | None = None
    """The server's own loop detection (vLLM only)."""

    def changed(self, other: Sampling) -> Sampling:
        """Return the sampling with every field that the other one sets."""
        return self.model_copy(update=other.model_dump(exclude_none=True))

    def within_schema(self) -> Sampling:
        """Return the sampling of an answer that a schema holds.

        Without what punishes repetition: the schema's braces and keys repeat, and a grammar that
        allows one token only, and a rule that bans it, would leave none.
        """
        penalty = None if self.repetition_penalty is None else 1.0
        return self.model_copy(update={"repetition_penalty": penalty, "vllm_xargs": None})


class Retry(_Strict):
    """Another try at a page that went wrong; what is not named stays as in the first one."""

    sampling: Sampling = Sampling()
    scale: Annotated[float, Field(gt=0.2, le=1)] = 1.0
    """Size of the page against the first try's."""
    prompt: str | None = None
    """A task of the card's ``prompts``."""
    turn: Literal[0, 90, 180, 270] = 0
    """Degrees clockwise that the page is turned by."""


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
    """Trained prompts by task; ``document`` answers the default prompt. Empty: takes no prompt.

    ``locate`` holds ``{text}``, ``extract`` holds ``{skeleton}``."""
    text_first: bool = False
    """The prompt stands before the picture, because the model was trained so."""
    prompt_policy: Literal["passthrough", "native_only"] = "passthrough"
    """Whether a caller's own prompt reaches the model."""
    control_tokens: tuple[str, ...] = ()
    """Stripped from a caller's prompt, where they would act as commands."""
    sampling: Sampling = Sampling()
    max_tokens: Annotated[int, Field(ge=16)] | None = None
    """Most tokens of one page's answer; every card of a server's model has it."""
    context: Annotated[int, Field(ge=256)] | None = None
    """Tokens of prompt, page and answer together, as the server is started."""
    vision: Vision | None = None
    """How many tokens a page takes, and how many it may."""
    retries: tuple[Retry, ...] = ()
    """What is tried, in order, when a page loops or is implausible."""
    render: Render = Render()
    capabilities: Capabilities = Capabilities()
    annotation: Annotation | None = None
    regions_card: str | None = None
    """The card (other weights) that reads in this one's place when pictures are asked for."""
    pages_in_flight: Annotated[int, Field(ge=1, le=1024)] = 16
    """Most pages of one document that are drawn or read at a time."""
    page_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Longest time one page may take in the engine."""
    weights: str | None = None
    """What the server loads, where it is not ``id``: a repository or a folder."""
    serve: tuple[str, ...] = ()
    """Arguments of ``vllm serve`` beyond the model, its names and its context."""

    def drawn(self, scale: float = 1.0) -> Render:
        """Return how a page is drawn: the render settings within the model's most tokens."""
        most = self.render.max_pixels
        if self.vision is not None:
            most = min(most, self.vision.max_pixels())
        return self.render.model_copy(
            update={
                "edge": max(64, round(self.render.edge * scale)),
                "dpi": None if self.render.dpi is None else max(36, round(self.render.dpi * scale)),
                "max_pixels": max(4096, round(most * scale * scale)),
            }
        )


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
        found = yaml.load(path.read_text("utf-8"), _LOADER)  # noqa: S506 - one of the safe two
        return kind.model_validate(found)
    except ValidationError as error:
        raise CardError([f"{path.name}: {line}" for line in explain(error)]) from error
    except OSError as error:
        raise CardError([f"{path.name}: not readable: {error.strerror or error}"]) from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: not UTF-8, or a 30th of February
        raise CardError([f"{path.name}: not readable as YAML: {error}"]) from error


def explain(error: ValidationError) -> list[str]:
    """Return one line per problem of a pydantic error, without the values."""
    found = error.errors(include_url=False, include_input=False)
    places = [item["loc"] for item in found]
    lines = []
    for item in found:
        place = item["loc"]
        # A list whose item is wrong counts as too short as well: the item is what to mend.
        if item["type"] == "too_short" and any(
            other[: len(place)] == place and other != place for other in places
        ):
            continue
        message = item["msg"].removeprefix("Value error, ")
        if not place and item["type"] == "model_type":
            message = "is empty, or no mapping of names to values"
        lines.append(f"{'.'.join(map(str, place)) or 'file'}: {message}")
    return lines


def _clashes(cards: list[Card]) -> list[str]:
    owners: dict[str, str] = {}
    problems = []
    for card in cards:
        for name in (card.id, *card.aliases):
            if name in owners:
                problems.append(f"{card.id}: the name {name!r} belongs to {owners[name]}, too")
            owners[name] = card.id
    return problems
