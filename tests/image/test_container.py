"""The image's container: unprivileged, its root read-only, without a network, as process 1."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image import rooms
from tests.image.conftest import ROOT, Image

ASK = (Path(__file__).with_name("ask.py")).read_text("utf-8")
START_SECONDS = 60.0
STATUS = "print(open('/proc/1/status').read())"
WRITE = """
import errno, sys
for path in sys.argv[1:]:
    try:
        open(path + "/written", "w").close()
        print(path)
    except OSError as error:
        assert error.errno in (errno.EROFS, errno.EACCES), error
"""


def until(condition: Callable[[], bool], container: rooms.Container) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, container.log()
        assert container.process.poll() is None, container.log()
        time.sleep(0.05)


@pytest.fixture
def served(image: Image, data: Path) -> Iterator[rooms.Container]:
    """The image's own command, after `recto init`, when it answers."""
    rooms.once(image.root, data, image.config, "init", "/data/first.key")
    shutil.copy(ROOT / "docs" / "demo" / "scan.pdf", data)
    with rooms.run(image.root, data, image.config) as container:
        until(lambda: "Recto listens on" in container.log(), container)
        yield container


def read_page(container: rooms.Container, page: int) -> str:
    """Have the server read one page of the demo's scan."""
    asked = ("python", "-c", ASK, "/data/first.key", "/data/scan.pdf", str(page))
    done = container.execute(*asked, seconds=120)
    assert done.returncode == 0, done.stderr + container.log()
    return done.stdout


def test_commands_answer(image: Image, data: Path) -> None:
    """The same image for every role: its commands run without a server."""
    version = rooms.once(image.root, data, image.config, "--version").stdout
    assert version == "recto, version 0.1.0\n"
    checked = rooms.once(image.root, data, image.config, "check").stdout
    assert "ok: rapidocr (card rapidocr, engine rapidocr" in checked
    helped = rooms.once(image.root, data, image.config, "serve", "--help").stdout
    assert "--role" in helped


def test_process_has_no_rights(image: Image, data: Path) -> None:
    """That the room is as strict as it says; else the tests here would prove nothing."""
    lines = image.once(data, "python", "-c", STATUS).splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert status["Uid"] == status["Gid"] == ["10001"] * 4
    assert status["Groups"] == []
    assert status["NoNewPrivs"] == ["1"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name][0], 16) == 0
    folders = ("/", "/opt/recto", "/etc", "/root", "/usr/local", "/var/tmp", "/dev")
    written = image.once(data, "python", "-c", WRITE, *folders, "/data", "/tmp", "/dev/shm")
    assert written.split() == ["/data", "/tmp", "/dev/shm"]


def test_reads_a_page_and_ends_in_order(image: Image, served: rooms.Container) -> None:
    """R13, R18: process 1 waits for the children that die, reads on, and hears SIGTERM."""
    assert served.execute("recto", "health").returncode == 0
    ready = served.execute("recto", "health", "--ready")
    assert ready.returncode == 0, ready.stdout
    assert served.execute("recto", "health", "--port", "8001").returncode == 1

    first = served.first_pid()
    until(lambda: bool(rooms.children(first)), served)  # one that draws pages, started ahead
    killed = set(rooms.children(first))
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    # One that nobody waited for would stay in this list, dead.
    until(lambda: not killed & set(rooms.children(first)), served)

    assert "Friends of the Village Library, Aldermere" in read_page(served, 0)
    changed = [path for path in image.root.rglob("*") if path.lstat().st_ctime > served.began]
    assert changed == []
    assert served.stop(seconds=20) == 0
    assert "Traceback" not in served.log()


def test_without_a_key_it_does_not_serve_the_network(image: Image, data: Path) -> None:
    """The image listens on every address: with no key in the database it refuses to start."""
    with rooms.run(image.root, data, image.config) as container:
        assert container.process.wait(START_SECONDS) == 1
        assert "recto: " in container.log()
        assert "key" in container.log()
