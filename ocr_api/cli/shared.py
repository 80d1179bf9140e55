"""What the commands share: the settings, and a card by name."""

from __future__ import annotations

import os

from files_api.kit.db import async_url
from model_registry.card import Card, CardError, read_cards
from model_registry.registry import Registry
from ocr_api import checks
from ocr_api.cli.failing import fail
from ocr_api.settings import Settings

Urls = dict[str, tuple[str, ...]]
"""Base URLs of servers by card."""


def configuration(
    *, connect: bool = False, engine_urls: Urls | None = None
) -> tuple[Settings, Registry]:
    """Return the settings and the models; where something is wrong, print it all and end."""
    try:
        return checks.configuration(connect=connect, engine_urls=engine_urls)
    except checks.Misconfigured as error:
        fail(*error.problems)


def storage_settings() -> Settings:
    """Return the settings when those of the database are right; cards and routes do not matter."""
    settings, problems = checks.read_settings()
    problems = checks.unknown_variables(os.environ) + problems + checks.database_problems(settings)
    if problems:
        fail(*problems)
    return settings


def find_card(settings: Settings, name: str) -> Card:
    """Return the card that a person names, by its id or an alias."""
    try:
        cards = read_cards(settings.models_dir)
    except CardError as error:
        fail(*error.problems)
    found = next((card for card in cards if name in (card.id, *card.aliases)), None)
    if found is None:
        fail(f"There is no card {name!r}. Cards here: {', '.join(card.id for card in cards)}.")
    return found


def is_sqlite(settings: Settings) -> bool:
    """Tell whether the database is a file."""
    return async_url(settings.effective_database_url()).get_backend_name() == "sqlite"
