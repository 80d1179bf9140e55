"""Commands in a folder that is their root: namespaces and mounts as a container engine makes them.

Needs root, and util-linux on this machine and in the folder. Every mount lies in a mount namespace
of its own, so that it goes with the process that asked for it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

UID = 10001
_MOUNTS = """
set -eu
root=$1 data=$2; shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 dev "$root/dev"
for each in null zero full random urandom; do
    : >"$root/dev/$each"; mount --bind "/dev/$each" "$root/dev/$each"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm"; mount -t tmpfs -o mode=1777,size=64m shm "$root/dev/shm"
ip link set lo up
if [ -n "$data" ]; then
    mount --bind "$data" "$root/data"
    mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"
    mount -o remount,bind,ro "$root"
fi
exec chroot "$root" "$@"
"""
"""As ``docker run --read-only --tmpfs /tmp -v data:/data`` where there is a data folder."""
_AS_USER = (
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
    *("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"),
)
"""As ``--user 10001 --cap-drop ALL --security-opt no-new-privileges``."""


def children(pid: int) -> list[int]:
    """Return the children of a process, those that are dead and not waited for included."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def why_not() -> str | None:
    """Return why this machine cannot do this, or None."""
    if os.geteuid() != 0:
        return "needs root: chroot and mounts"
    probe = ["unshare", "--mount", "--pid", "--net", "--fork", "mount", "-t", "tmpfs", "x", "/mnt"]
    done = subprocess.run(probe, check=False, capture_output=True, text=True, timeout=30)
    return None if done.returncode == 0 else f"needs namespaces and mounts: {done.stderr.strip()}"


def build_step(root: Path, env: Mapping[str, str], folder: str, command: str) -> None:
    """Run a shell command as root in ``root``, without a network.

    Raises:
        AssertionError: it failed; with what it said.
    """
    inner = [*_env(env, folder), "/bin/sh", "-c", command]
    done = subprocess.run(
        _room(root, None, inner), check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def _env(env: Mapping[str, str], folder: str) -> list[str]:
    return ["env", "-i", "-C", folder, *(f"{name}={value}" for name, value in env.items())]


def _room(root: Path, data: Path | None, command: Sequence[str]) -> list[str]:
    spaces = ("--mount", "--pid", "--net", "--ipc", "--uts", "--fork")
    where = (str(root), "" if data is None else str(data))
    return ["unshare", *spaces, "/bin/sh", "-c", _MOUNTS, "room", *where, *command]


@dataclass(frozen=True)
class Config:
    """What an image says about its container."""

    env: Mapping[str, str]
    folder: str
    entry: Sequence[str]
    command: Sequence[str]


class Container:
    """A running process 1, and commands beside it, all as the unprivileged user."""

    def __init__(self, process: subprocess.Popen[bytes], config: Config, log: Path) -> None:
        """Take a process that `run` started."""
        self.process = process
        self.began = time.time()
        self._config = config
        self._log = log

    def execute(self, *command: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command beside process 1, as ``docker exec`` does."""
        inner = [*_AS_USER, *_env(self._config.env, self._config.folder), *command]
        inside = ("nsenter", f"--target={self.first_pid()}", "--all", "--root", "--wd=/")
        return subprocess.run(
            [*inside, *inner], check=False, capture_output=True, text=True, timeout=seconds
        )

    def first_pid(self) -> int:
        """Return the number that process 1 has on this machine.

        Raises:
            AssertionError: it has ended; with what it said.
        """
        found = children(self.process.pid) if self.process.poll() is None else []
        assert found, self.log()
        return found[0]

    def log(self) -> str:
        """Return what it wrote to its standard output and error."""
        return self._log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """End process 1, and the kernel everything else in its room; nothing where it has ended."""
        for pid in children(self.process.pid) if self.process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)

    def stop(self, seconds: float) -> int:
        """Send SIGTERM to process 1, wait, and return its exit code; 128 + N for a signal N."""
        os.kill(self.first_pid(), signal.SIGTERM)
        code = self.process.wait(seconds)
        return code if code >= 0 else 128 - code


@contextmanager
def run(
    root: Path, data: Path, config: Config, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[Container]:
    """Start the image's entry point, with ``arguments`` instead of its own where there are any."""
    config = Config({**config.env, **(env or {})}, config.folder, config.entry, config.command)
    words = [*config.entry, *(arguments or config.command)]
    command = _room(root, data, [*_AS_USER, *_env(config.env, config.folder), *words])
    log = data.with_name(data.name + ".log")
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        container = Container(process, config, log)
        try:
            yield container
        finally:
            container.kill()


def once(
    root: Path, data: Path, config: Config, *arguments: str, entry: Sequence[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the entry point with ``arguments`` to its end."""
    words = [*(config.entry if entry is None else entry), *arguments]
    command = _room(root, data, [*_AS_USER, *_env(config.env, config.folder), *words])
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done
