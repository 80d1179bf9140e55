"""A small reader of Dockerfiles and of .dockerignore: what ours use, and an error for all else.

Source: Docker's Dockerfile reference. Left out on purpose: heredocs, parser directives, ONBUILD,
``ADD``, and expansions other than ``$NAME`` and ``${NAME}``.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

KNOWN = {
    *("FROM", "ARG", "ENV", "LABEL", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "STOPSIGNAL"),
    *("HEALTHCHECK", "ENTRYPOINT", "CMD"),
}
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\}|\{[^}]*\})")


class Unknown(ValueError):
    """The file has something that this reader does not know."""


@dataclass(frozen=True)
class Instruction:
    """One instruction, its lines joined, comments between them dropped."""

    line: int
    name: str
    flags: Mapping[str, str]
    text: str

    def exec_form(self) -> list[str] | None:
        """Return the words of the JSON form, or None for the shell's."""
        if not self.text.startswith("["):
            return None
        words = json.loads(self.text)
        assert all(isinstance(word, str) for word in words)
        return list(words)

    def pairs(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Return the NAME=value pairs of an ENV or LABEL, or an ARG's with "" for no default."""
        words = shlex.split(expanded(self.text, variables))
        return {word.partition("=")[0]: word.partition("=")[2] for word in words}


@dataclass(frozen=True)
class Stage:
    """One FROM and what follows it."""

    base: str
    name: str
    instructions: Sequence[Instruction]

    def all(self, name: str) -> list[Instruction]:
        """Return the instructions of one kind, in their order."""
        return [each for each in self.instructions if each.name == name]

    def last(self, name: str) -> Instruction:
        """Return the instruction that counts where the last one does."""
        return self.all(name)[-1]


@dataclass(frozen=True)
class Dockerfile:
    """All stages, and the ARGs before the first."""

    arguments: Mapping[str, str]
    stages: Sequence[Stage]


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """Replace variables as Docker does; one that nobody set is empty.

    Raises:
        Unknown: an expansion with an operator.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name is None:
            raise Unknown(f"expansion {found[0]}")
        return variables.get(name, "")

    return _VARIABLE.sub(value, text)


def instructions(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile.

    Raises:
        Unknown: an instruction, a heredoc or a flag without value that is not known here.
    """
    found: list[Instruction] = []
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        first = first if parts else number
        parts.append(line.strip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            found.append(_instruction(first, " ".join(parts)))
            parts = []
    if parts:
        raise Unknown("the file ends in the middle of an instruction")
    return found


def _instruction(line: int, text: str) -> Instruction:
    name, _, rest = text.partition(" ")
    name, flags = name.upper(), {}
    if name not in KNOWN or "<<" in rest:
        raise Unknown(f"line {line}: {text[:40]}")
    while found := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        flags[found[1]] = found[2]
        rest = rest[found.end() :]
    if rest.startswith("--"):
        raise Unknown(f"line {line}: {rest[:40]}")
    return Instruction(line, name, flags, rest)


def read(text: str, arguments: Mapping[str, str] | None = None) -> Dockerfile:
    """Return the stages of a Dockerfile; ``arguments`` replaces values of the ARGs before them.

    Raises:
        Unknown: see `instructions`.
    """
    given = dict(arguments or {})
    before: dict[str, str] = {}
    stages: list[Stage] = []
    body: list[Instruction] = []
    for each in instructions(text):
        if each.name == "FROM":
            base, _, name = re.sub(r"(?i)\s+as\s+", " ", each.text).partition(" ")
            body = []
            stages.append(Stage(expanded(base, before), name or str(len(stages)), body))
        elif stages:
            body.append(each)
        elif each.name == "ARG":
            before |= {key: given.get(key, value) for key, value in each.pairs(before).items()}
        else:
            raise Unknown(f"line {each.line}: {each.name} before FROM")
    return Dockerfile(before, stages)


class Ignored:
    """What a .dockerignore keeps out of the build: the last line that fits a path decides.

    A line fits a path when it fits the path itself or a folder above it.
    """

    def __init__(self, text: str) -> None:
        """Read the lines of a .dockerignore."""
        lines = [line.strip() for line in text.splitlines()]
        self._rules = [
            (_pattern(line.removeprefix("!").strip("/")), not line.startswith("!"))
            for line in lines
            if line and not line.startswith("#")
        ]

    def __call__(self, path: PurePosixPath | Path) -> bool:
        """Return whether a path, relative to the context, is kept out."""
        names = [path.as_posix(), *(each.as_posix() for each in path.parents)]
        verdict = False
        for pattern, keeps_out in self._rules:
            if any(pattern.fullmatch(name) for name in names):
                verdict = keeps_out
        return verdict


def _pattern(line: str) -> re.Pattern[str]:
    """Return the pattern of a line: Go's filepath.Match, and ``**`` for any number of folders."""
    made, rest = "", line
    while rest:
        for text, meaning in (("**/", "(?:.*/)?"), ("**", ".*"), ("*", "[^/]*"), ("?", "[^/]")):
            if rest.startswith(text):
                made, rest = made + meaning, rest[len(text) :]
                break
        else:
            if found := re.match(r"\[[^\]/]+\]", rest):
                made, rest = made + found[0], rest[found.end() :]
            else:
                made, rest = made + re.escape(rest[0]), rest[1:]
    return re.compile(made)
