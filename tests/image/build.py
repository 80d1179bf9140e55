"""Executes a Dockerfile's steps in folders, without a container engine; refuses what it knows not.

What is mapped: the base image becomes the folder that ``base.sh`` made (Debian 12 with its own
Python), whatever FROM names; packages come from ``base.sh``'s downloads (``PIP_NO_INDEX``,
``PIP_FIND_LINKS``) and no step has a network. Layers, caches and the registry's side are not here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tests.image import rooms
from tests.image.dockerfile import Dockerfile, Ignored, Instruction, Stage, Unknown, expanded

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WHEELS = "/tmp/wheels"
_ONLY_NOTED = frozenset(["EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "LABEL", "ENTRYPOINT", "CMD"])


class Build:
    """Makes the roots of all stages, in a folder of its own."""

    def __init__(self, file: Dockerfile, context: Path, base: Path, folder: Path) -> None:
        """Make nothing yet. ``base`` has ``root`` and ``wheels``; ``folder`` is empty."""
        self._file = file
        self._context = context
        self._ignored = Ignored((context / ".dockerignore").read_text("utf-8"))
        self._base = base
        self._folder = folder

    def image(self, arguments: Mapping[str, str]) -> tuple[Path, rooms.Config]:
        """Execute every step; return the last stage's root and how it runs.

        Raises:
            Unknown: an instruction, or a way to use it, that is not known here.
            AssertionError: a RUN failed.
        """
        for stage in self._file.stages:
            root = self._folder / stage.name
            subprocess.run(["cp", "-a", self._base / "debian", root], check=True)
            last = stage is self._file.stages[-1]
            if not last:
                shutil.copytree(self._base / "wheels", root / _WHEELS.strip("/"))
            config = _Steps(self, stage, root, {} if last else _pip()).run(arguments)
        return root, config

    def source(self, instruction: Instruction, name: str) -> list[tuple[Path, Path]]:
        """Return the files that a COPY's source means, each with its path under the target.

        A folder stands for what lies in it.
        """
        if stage := instruction.flags.get("from"):
            return [(self._folder / stage / name.strip("/"), Path())]
        top = self._context / name
        files = [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
        found = [
            (path, path.relative_to(top))
            for path in files
            if not self._ignored(path.relative_to(self._context))
        ]
        if not found:
            raise Unknown(f"line {instruction.line}: {name} is missing or ignored")
        return found

    def before(self) -> Mapping[str, str]:
        """Return the ARGs before the first stage."""
        return self._file.arguments


def _pip() -> dict[str, str]:
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": _WHEELS, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


class _Steps:
    """The steps of one stage."""

    def __init__(self, build: Build, stage: Stage, root: Path, extra: Mapping[str, str]) -> None:
        self._build = build
        self._stage = stage
        self._root = root
        self._extra = extra  # what the machine gives to RUN, and the image does not keep
        self._env = {"PATH": _PATH}
        self._args: dict[str, str] = {}
        self._folder = "/"
        self._user = ""

    def run(self, arguments: Mapping[str, str]) -> rooms.Config:
        steps = {
            "ENV": self._set,
            "USER": self._become,
            "WORKDIR": self._enter,
            "RUN": self._run,
            "COPY": self._copy,
        }
        for each in self._stage.instructions:
            if each.name == "ARG":
                for name, value in each.pairs({}).items():
                    default = value or self._build.before().get(name, "")
                    self._args[name] = arguments.get(name, default)
            elif each.name in steps:
                steps[each.name](each)
            elif each.name not in _ONLY_NOTED:
                raise Unknown(f"line {each.line}: {each.name}")
        entry, command = (
            (self._stage.last(name).exec_form() if self._stage.all(name) else None) or []
            for name in ("ENTRYPOINT", "CMD")
        )
        return rooms.Config(self._env, self._folder, entry, command)

    def _variables(self) -> dict[str, str]:
        return {**self._args, **self._env}

    def _set(self, each: Instruction) -> None:
        self._env |= each.pairs(self._variables())

    def _become(self, each: Instruction) -> None:
        self._user = each.text

    def _enter(self, each: Instruction) -> None:
        self._folder = str(PurePosixPath(self._folder) / expanded(each.text, self._variables()))
        (self._root / self._folder.strip("/")).mkdir(parents=True, exist_ok=True)

    def _run(self, each: Instruction) -> None:
        if self._user or each.flags or each.exec_form():
            raise Unknown(f"line {each.line}: RUN after USER, with a flag, or in the exec form")
        env = {**self._variables(), **self._extra}
        rooms.build_step(self._root, env, self._folder, each.text)

    def _copy(self, each: Instruction) -> None:
        *names, target = expanded(each.text, self._variables()).split()
        if self._user or each.exec_form() or each.flags.keys() - {"from"} or "*" in each.text:
            raise Unknown(f"line {each.line}: COPY after USER, with patterns or such flags")
        into = self._root / str(PurePosixPath(self._folder) / target).strip("/")
        if len(names) > 1 and not target.endswith("/"):
            raise Unknown(f"line {each.line}: several sources want a folder, with / at the end")
        for name in names:
            for path, below in self._build.source(each, name):
                is_file = not below.parts and path.is_file()
                _copy(path, into / path.name if is_file and target.endswith("/") else into / below)


def _copy(path: Path, to: Path) -> None:
    """Copy a file, or a folder with links and modes as they are; root owns the copy."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        # Linked, not copied: no step of the stage that it comes from follows.
        subprocess.run(["cp", "-alT", path, to], check=True)
        return
    shutil.copy2(path, to)
    os.chown(to, 0, 0)
