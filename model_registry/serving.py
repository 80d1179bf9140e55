"""How a server of a card's model is started: the command, its environment, and a line to copy.

One place says it, so that what Recto starts, what a person copies and what a chart holds are
the same. Source of the arguments: ``vllm serve --help=all`` of vLLM 0.32.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from model_registry.card import Card


class NoServerError(ValueError):
    """The card's model runs inside Recto, so there is nothing to start."""


def served_names(card: Card) -> list[str]:
    """Return the names that the server answers to; the first is the one it repeats."""
    return [card.id, *card.aliases]


def command(card: Card, *, program: str = "vllm", host: str, port: int) -> list[str]:
    """Return the program and its arguments.

    Args:
        card: the model.
        program: the ``vllm`` program, by name or path.
        host: address to listen at.
        port: TCP port to listen at.

    Raises:
        NoServerError: the card is embedded.
    """
    if card.embedded:
        raise NoServerError(f"{card.id} runs inside Recto and needs no server")
    words = [program, "serve", card.weights or card.id]
    words += ["--served-model-name", *served_names(card)]
    words += ["--host", host, "--port", str(port)]
    if card.context is not None:
        words += ["--max-model-len", str(card.context)]
    return [*words, *card.serve]


def environment(plugins: Path) -> dict[str, str]:
    """Return the variables that the server needs beyond those it inherits.

    Args:
        plugins: the folder of ``recto_ngram.py``, which vLLM imports by name.
    """
    # vLLM reports its use to its makers unless told not to; Recto sends nothing anywhere.
    return {"PYTHONPATH": str(plugins), "VLLM_NO_USAGE_STATS": "1"}


def shell(
    card: Card, *, program: str = "vllm", host: str, port: int, plugins: Path | None = None
) -> str:
    """Return a line for a shell that starts the server, with what it needs of its environment.

    Raises:
        NoServerError: the card is embedded.
    """
    words = command(card, program=program, host=host, port=port)
    variables = environment(plugins) if plugins is not None else {}
    if not any("recto_ngram" in word for word in words):
        variables.pop("PYTHONPATH", None)
    settings = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    return " ".join([*settings, shlex.join(words)])
