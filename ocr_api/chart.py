"""`recto chart`: writes the chart's copies of what this repository says about models.

Why copies: a chart is packed and installed without the repository around it. A test compares them
with a fresh rendering, so that a card that changed cannot be forgotten.
"""

from __future__ import annotations

import re
from pathlib import Path

import click
import orjson

from model_registry import serving
from model_registry.card import Card, CardError, read_as
from ocr_api.settings import configs

HOST, PORT = "0.0.0.0", 8000  # noqa: S104 - inside a pod, which a network policy closes
"""Where every server of the chart listens."""

PLUGIN = "recto_ngram.py"
"""The logits processor; a vLLM pod mounts it where its card names it."""

LONGEST_STEM = 18
"""Most characters of a card's file name: 63 of a Kubernetes label less 36 of the release's name
and 9 of ``-weights-``."""

# A file name becomes part of the names of Kubernetes objects (RFC 1123).
_STEM = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_HEADER = b"# Written by `make chart` from the cards in configs/models; do not edit.\n"


def render(source: Path) -> dict[str, bytes]:
    """Return the files of the chart by their path below its folder.

    Args:
        source: the folder of ``models/`` and ``vllm/`` (`ocr_api.settings.configs`).

    Raises:
        CardError: a card cannot be read, or its file name cannot name an object in Kubernetes.
        OSError: a file is missing.
    """
    paths = sorted((source / "models").glob("*.yaml"))
    cards = {path.stem: read_as(Card, path) for path in paths}
    shown = {stem: card for stem, card in cards.items() if not card.hidden}
    served = {stem: card for stem, card in shown.items() if not card.embedded}
    if problems := [problem for stem in served for problem in _problems(stem)]:
        raise CardError(problems)
    files = {
        f"files/models/{stem}.yaml": (source / "models" / f"{stem}.yaml").read_bytes()
        for stem in shown
    }
    files[f"files/{PLUGIN}"] = (source / "vllm" / PLUGIN).read_bytes()
    files["files/servers.yaml"] = _servers(served)
    return files


def write(folder: Path, source: Path) -> list[str]:
    """Write the files, and remove copies of cards that are gone; return what changed, sorted.

    Args:
        folder: the chart.
        source: as `render` takes it.

    Raises:
        CardError: as `render` raises it.
        OSError: a file cannot be read or written.
    """
    files = render(source)
    changed = []
    for name, data in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            changed.append(name)
    for path in (folder / "files" / "models").glob("*.yaml"):
        name = f"files/models/{path.name}"
        if name not in files:
            path.unlink()
            changed.append(name)
    return sorted(changed)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, exists=True, path_type=Path))
def chart(folder: Path) -> None:
    """Write the cards, and how vLLM is started for each, into the Helm chart in FOLDER."""
    if not (folder / "Chart.yaml").is_file():
        raise click.ClickException(f"{folder} is no chart: it holds no Chart.yaml.")
    try:
        changed = write(folder, configs())
    except CardError as error:
        raise click.ClickException("\n".join(error.problems)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror or error}.") from error
    for name in changed:
        click.echo(name)
    click.echo(f"{len(changed)} changed.", err=True)


def _problems(stem: str) -> list[str]:
    problems = []
    if not _STEM.fullmatch(stem):
        problems.append(f"{stem}.yaml: a name in Kubernetes is of a-z, 0-9 and hyphens")
    if len(stem) > LONGEST_STEM:
        problems.append(f"{stem}.yaml: the name has more than {LONGEST_STEM} characters")
    return problems


def _servers(cards: dict[str, Card]) -> bytes:
    """Return the YAML of what the chart needs to know of each server."""
    stems = {card.id: stem for stem, card in cards.items()}
    return _HEADER + b"".join(
        _block(stem, _facts(card, stems.get(card.regions_card or "", "")))
        for stem, card in sorted(cards.items())
    )


def _facts(card: Card, regions: str) -> dict[str, object]:
    """Return the facts of one server.

    ``regions`` is the stem of the card that reads in its place when pictures are asked for.
    """
    _, *args = serving.command(card, host=HOST, port=PORT)
    return {
        "card": card.id,
        "names": serving.served_names(card),
        "model": card.weights or card.id,
        "plugin": any(Path(PLUGIN).stem in word for word in args),
        "regions": regions,
        "args": args,
    }


def _block(stem: str, facts: dict[str, object]) -> bytes:
    """Return a key and its map as YAML; every value is JSON, which YAML includes."""
    lines = [f"{stem}:".encode()]
    for name, value in facts.items():
        if isinstance(value, list):
            lines.append(f"  {name}:".encode())
            lines += [b"    - " + orjson.dumps(item) for item in value]
        else:
            lines.append(f"  {name}: ".encode() + orjson.dumps(value))
    return b"\n".join(lines) + b"\n"
