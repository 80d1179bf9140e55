"""Servers of models: real processes and real HTTP, with a stand-in for vLLM."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from model_registry.card import Card
from model_registry.serving import NoServerError
from ocr_api.servers import Patience, ServerFailed, Servers, VllmMissing, find_vllm

ROOT = Path(__file__).resolve().parents[3]
STANDIN = ROOT / "tests" / "engines" / "serving.py"
QUICK = Patience(start=20, news=0.02, look=0.02, stop=5, pauses=(0.0,))


def make_card(name: str, *serve: str, **facts: object) -> Card:
    plain = {"engine": "vllm", "parser": "plain", "name": "n", "description": "d"}
    more = {"licence": "MIT", "source": "s", "serve": serve, "context": 4096}
    return Card.model_validate({"id": name, **plain, **more, **facts})


class Heard:
    """Keeps what is said, and waits until something is."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._news.set()

    async def wait_for(self, part: str) -> str:
        async with asyncio.timeout(20):
            while True:
                self._news.clear()
                for line in self.lines:
                    if part in line:
                        return line
                await self._news.wait()


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of files that tell the stand-in what to do."""
    folder = tmp_path / "orders"
    folder.mkdir()
    monkeypatch.setenv("STANDIN", str(folder))
    return folder


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return make_program(tmp_path / "bin" / "vllm")


def make_program(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STANDIN}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


def servers(
    program: Path, logs: Path, say: Heard, *cards: Card, patience: Patience = QUICK
) -> Servers:
    chosen = cards or (make_card("org/one"),)
    return Servers(chosen, program, logs, plugins=Path("plugins"), say=say, patience=patience)


async def get(url: str, path: str) -> Any:
    address = url.removesuffix("/v1") + path

    def ask() -> Any:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)

    return await asyncio.to_thread(ask)


def is_open(url: str) -> bool:
    port = int(url.removesuffix("/v1").rpartition(":")[2])
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


async def test_servers_answer_while_the_context_is_open(
    orders: Path, program: Path, logs: Path
) -> None:
    cards = [make_card("org/one", aliases=("one",)), make_card("two", weights="elsewhere/two")]
    async with servers(program, logs, Heard(), *cards) as running:
        urls = running.urls
        assert list(urls) == ["org/one", "two"]
        assert len({*urls.values()}) == 2
        listed = await get(urls["org/one"], "/v1/models")
        assert [model["id"] for model in listed["data"]] == ["org/one", "one"]
        facts = await get(urls["two"], "/facts")
        assert facts["words"][:4] == ["serve", "elsewhere/two", "--served-model-name", "two"]
    assert not any(is_open(url) for url in urls.values())
    assert "loading org/one" in (logs / "org--one.log").read_text()
    assert "loading elsewhere/two" in (logs / "two.log").read_text()


async def test_a_server_gets_what_vllm_needs_and_none_of_our_secrets(
    orders: Path, program: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECTO_SECRET", "hidden")
    monkeypatch.setenv("VLLM_API_KEY", "wanted of everybody")
    monkeypatch.setenv("PYTHONPATH", "ours")
    async with servers(program, logs, Heard()) as running:
        facts = await get(running.urls["org/one"], "/facts")
    environment = facts["environment"]
    assert environment["PYTHONPATH"] == "plugins"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["PATH"].split(os.pathsep)[0] == str(program.parent)
    assert not [name for name in environment if name.startswith(("RECTO_", "VLLM_API_KEY"))]


@pytest.mark.parametrize(
    ("cards", "shares"),
    [
        ([make_card("a")], [[]]),
        ([make_card("a"), make_card("b")], [["--gpu-memory-utilization", "0.460"]] * 2),
        (
            [make_card("a"), make_card("b", "--kv-cache-memory-bytes=9G"), make_card("c")],
            [["--gpu-memory-utilization", "0.306"], [], ["--gpu-memory-utilization", "0.306"]],
        ),
        ([make_card("a", "--gpu-memory-utilization", ".5"), make_card("b")], [[], ["0.460"]]),
    ],
)
async def test_servers_share_the_gpu(
    cards: list[Card], shares: list[list[str]], orders: Path, program: Path, logs: Path
) -> None:
    async with servers(program, logs, Heard(), *cards) as running:
        for card, share in zip(cards, shares, strict=True):
            words = (await get(running.urls[card.id], "/facts"))["words"]
            end = ["--max-model-len", "4096", *card.serve]
            assert words[words.index("--max-model-len") :][: len(end)] == end
            rest = words[words.index("--max-model-len") + len(end) :]
            assert rest[-len(share) :] == share if share else rest == []


async def test_what_is_waited_for_is_said(orders: Path, program: Path, logs: Path) -> None:
    (orders / "closed").touch()
    heard = Heard()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:

        async def use() -> None:
            async with servers(program, logs, heard):
                pass

        group.create_task(use())
        line = await heard.wait_for("loading org/one")
        (orders / "closed").unlink()
    assert re.fullmatch(r"org/one: waiting for the server since \d+ s: loading org/one", line)


async def test_a_server_that_ends_at_once_is_an_error_with_its_last_lines(
    orders: Path, program: Path, logs: Path
) -> None:
    (orders / "broken").touch()
    with pytest.raises(ServerFailed) as caught:
        async with servers(program, logs, Heard()):
            pytest.fail("it is not ready")
    text = str(caught.value)
    assert text.startswith("org/one: the server ended with code 3 before it was ready. Its log is ")
    assert text.endswith("the end:\n  loading org/one\n  no such weights")


@pytest.mark.parametrize("order", ["closed", "other"])
async def test_a_server_that_is_never_ready_is_stopped(
    order: str, orders: Path, program: Path, logs: Path
) -> None:
    (orders / order).touch()
    limited = Patience(start=0.3, news=9, look=0.02, stop=5)
    ours = servers(program, logs, Heard(), patience=limited)
    with pytest.raises(ServerFailed, match=r"was not ready after 0\.3 s"):
        await ours.__aenter__()
    assert not is_open(ours.urls["org/one"])


async def test_when_one_server_fails_none_is_left(
    orders: Path, program: Path, logs: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_text(f'#!/bin/sh\n[ "$2" = bad ] && exit 5\nexec "{program}" "$@"\n')
    broken.chmod(0o755)
    ours = servers(broken, logs, Heard(), make_card("good"), make_card("bad"))
    with pytest.raises(ServerFailed, match="bad: the server ended with code 5"):
        await ours.__aenter__()
    assert not is_open(ours.urls["good"])


async def test_a_server_that_dies_is_started_again_at_the_same_address(
    orders: Path, program: Path, logs: Path
) -> None:
    heard = Heard()
    async with servers(program, logs, heard) as running:
        url = running.urls["org/one"]
        before = (await get(url, "/facts"))["pid"]
        with pytest.raises(OSError, match=r"."):
            await get(url, "/die")
        line = await heard.wait_for("starting it again")
        await heard.wait_for("org/one: the server answers again")
        assert (await get(url, "/facts"))["pid"] != before
    assert line == ("org/one: the server ended with code 7: told to die; starting it again in 0 s")


async def test_a_server_that_does_not_come_back_is_tried_at_growing_distances(
    orders: Path, program: Path, logs: Path
) -> None:
    heard = Heard()
    growing = Patience(start=20, news=9, look=0.02, stop=5, pauses=(0.0, 0.01, 0.02))
    async with servers(program, logs, heard, patience=growing) as running:
        (orders / "broken").touch()
        with pytest.raises(OSError, match=r"."):
            await get(running.urls["org/one"], "/die")
        await heard.wait_for("again in 0.02 s")
        (orders / "broken").unlink()
        await heard.wait_for("answers again")
        pauses = [line.rpartition(" in ")[2] for line in heard.lines[:-1]]
        assert pauses[:3] == ["0 s", "0.01 s", "0.02 s"]
        assert {*pauses[3:]} <= {"0.02 s"}
        assert "no such weights" in heard.lines[1]
        assert "told to die" not in heard.lines[1]
        heard.lines.clear()
        with pytest.raises(OSError, match=r"."):
            await get(running.urls["org/one"], "/die")
        await heard.wait_for("again in 0 s")


async def test_a_server_that_does_not_stop_is_killed(
    orders: Path, program: Path, logs: Path
) -> None:
    (orders / "deaf").touch()
    hasty = Patience(start=20, look=0.02, stop=0.2)
    async with servers(program, logs, Heard(), patience=hasty) as running:
        url = running.urls["org/one"]
        assert is_open(url)
    assert not is_open(url)


@pytest.fixture
def litter(orders: Path) -> Iterator[int]:
    """The reading end of a pipe that a process which the server leaves behind holds open."""
    os.mkfifo(orders / "litter")
    pipe = os.open(orders / "litter", os.O_RDONLY | os.O_NONBLOCK)
    yield pipe
    os.close(pipe)


def said_in(pipe: int) -> bytes:
    assert select.select([pipe], [], [], 20)[0]
    return os.read(pipe, 100)


async def test_what_a_server_leaves_behind_is_killed(
    litter: int, program: Path, logs: Path
) -> None:
    async with servers(program, logs, Heard()):
        assert said_in(litter) == b"here\n"
    assert said_in(litter) == b""  # the end of the pipe: nobody holds it any more


async def test_nothing_is_left_when_we_are_cancelled_at_the_start(
    orders: Path, program: Path, logs: Path
) -> None:
    (orders / "closed").touch()
    heard = Heard()
    ours = servers(program, logs, heard)
    task = asyncio.create_task(ours.__aenter__())
    while not is_open(ours.urls["org/one"]):
        heard.lines.clear()
        await heard.wait_for("loading org/one")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_open(ours.urls["org/one"])


PARENT = """
import asyncio, sys
from pathlib import Path
from model_registry.card import Card
from ocr_api.servers import Servers

async def main():
    card = Card(id="a", engine="e", parser="p", name="n", description="d", licence="l", source="s")
    where = Path(sys.argv[2])
    async with Servers([card], Path(sys.argv[1]), where, plugins=where, say=print) as servers:
        print(servers.urls["a"], flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def parent(orders: Path, program: Path, logs: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a server and prints its address."""
    words = [sys.executable, "-c", PARENT, str(program), str(logs)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_server_ends_when_its_parent_is_killed(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    port = int(parent.stdout.readline().strip().removesuffix("/v1").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as held:
        held.sendall(b"GET /hold HTTP/1.0\r\n\r\n")
        parent.send_signal(signal.SIGKILL)
        with suppress(ConnectionResetError):
            assert held.recv(1) == b""


async def test_the_log_of_the_last_run_is_kept(orders: Path, program: Path, logs: Path) -> None:
    logs.mkdir()
    (logs / "org--one.log").write_text("before\n")
    async with servers(program, logs, Heard()):
        pass
    assert (logs / "org--one.log.old").read_text() == "before\n"
    assert (logs / "org--one.log").read_text() == "loading org/one\n"


def test_an_embedded_card_has_no_server(tmp_path: Path) -> None:
    card = make_card("cpu", embedded=True)
    with pytest.raises(NoServerError, match="cpu runs inside Recto"):
        Servers([card], Path("vllm"), tmp_path, plugins=tmp_path, say=print)


def test_vllm_is_the_one_that_is_named(program: Path, tmp_path: Path) -> None:
    make_program(tmp_path / ".venv-vllm" / "bin" / "vllm")
    assert find_vllm(program, tmp_path) == program


def test_vllm_is_the_one_of_make_vllm_before_that_on_the_path(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_vllm(None, tmp_path) == program
    made = make_program(tmp_path / ".venv-vllm" / "bin" / "vllm")
    assert find_vllm(None, tmp_path) == made


def test_without_vllm_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VllmMissing, match=r"run `make vllm`, or set RECTO_VLLM_BIN"):
        find_vllm(None, tmp_path)
    (tmp_path / "text").write_text("no program")
    with pytest.raises(VllmMissing, match=r"RECTO_VLLM_BIN names .*text, which is not a program"):
        find_vllm(tmp_path / "text", tmp_path)
