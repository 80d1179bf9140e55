"""Supervised children: answers, deaths, limits, waiting, and what a hostile child can do."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from ocr_api import processes
from ocr_api.processes import (
    ChildDied,
    ChildKilled,
    ChildTimedOut,
    Limits,
    Pool,
    PoolUnavailable,
    TaskRefused,
)
from ocr_api.processes.line import Line
from ocr_api.processes.link import Child, Work

HANDLERS = """
import os, resource, signal, stat, sys, time
from pathlib import Path
from ocr_api.processes import Refusal

def handle(header, payload):
    return globals()["do_" + header["do"]](header, payload)

def do_echo(header, payload):
    print("noise on stdout", flush=True)
    return {"pid": os.getpid(), "header": header}, payload[::-1]

def do_gate(header, payload):
    return {"pid": os.getpid(), "said": open(header["path"], "rb").read().decode()}, b""

def do_refuse(header, payload):
    raise Refusal("locked", "because")

def do_crash(header, payload):
    return {}["secret text of a document"]

def do_eat(header, payload):
    return {"size": len(bytearray(1 << 40))}, b""

def do_abort(header, payload):
    os.abort()

def do_exit(header, payload):
    os._exit(3)

def do_fate(header, payload):
    # An empty file for each try is all that a child may write.
    folder = Path(header["path"])
    fate = header["fates"][len(list(folder.iterdir()))]
    (folder / str(os.getpid())).touch()
    time.sleep(header.get("after", 0))
    if fate:
        os.kill(os.getpid(), getattr(signal, fate))
        time.sleep(60)
    return {"pid": os.getpid()}, b""

def do_burn(header, payload):
    until = time.process_time() + header["seconds"]
    while time.process_time() < until:
        pass
    return {}, b""

HELD = []

def do_grow(header, payload):
    HELD.append(b"x" * header["bytes"])
    return {"pid": os.getpid()}, b""

def do_spin(header, payload):
    while True:
        pass

def do_say(header, payload):
    for fd in range(3, 64):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode) or stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, payload)
        except OSError:
            pass
    return do_spin(header, payload)

def do_facts(header, payload):
    names = ("RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NOFILE")
    limits = {name: resource.getrlimit(getattr(resource, name))[0] for name in names}
    try:
        Path(header["path"]).write_text("x")
        wrote = True
    except OSError:
        wrote = False
    cpu = resource.getrlimit(resource.RLIMIT_CPU)[0] - time.process_time()
    status = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    return {"limits": limits, "env": dict(os.environ), "wrote": wrote, "status": status,
            "session": os.getsid(0), "pid": os.getpid(), "modules": sorted(sys.modules),
            "cpu": cpu}, b""
"""
LIMITS = Limits(memory_bytes=1 << 30, seconds=20)


@pytest.fixture(autouse=True)
def _handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pool_handlers.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool("pool_handlers:handle", 1, LIMITS)
    yield pool
    await pool.close()


@pytest.fixture
async def pair() -> AsyncIterator[Pool]:
    pool = Pool("pool_handlers:handle", 2, LIMITS)
    yield pool
    await pool.close()


async def pid(pool: Pool, **options: Any) -> int:
    answer, _ = await pool.call({"do": "echo"}, **options)
    return int(answer["pid"])


class Gate:
    """A named pipe on which a child waits until the test opens it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.task: asyncio.Task[Any] | None = None

    def hold(self, pool: Pool, **options: Any) -> asyncio.Task[Any]:
        header = {"do": "gate", "path": str(self.path)}
        self.task = asyncio.ensure_future(pool.call(header, **options))
        return self.task

    async def reached(self) -> int:
        """Return a writing end, once the child waits at the other."""
        async with asyncio.timeout(30):
            while True:
                try:  # an open that blocks could not be given up
                    return os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                await asyncio.sleep(0.005)

    @staticmethod
    def open(end: int, word: bytes = b"go") -> None:
        os.write(end, word)
        os.close(end)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


async def test_answers_carry_header_and_bytes_whatever_a_library_prints(pool: Pool) -> None:
    payload = bytes(range(256)) * 4000
    for _ in range(2):
        answer, data = await pool.call({"do": "echo", "ü": [1, None, 0.5]}, payload)
        assert answer["header"] == {"do": "echo", "ü": [1, None, 0.5]}
        assert data == payload[::-1]


async def test_a_child_lives_on_after_refusal_crash_and_too_much_memory(pool: Pool) -> None:
    before = await pid(pool)
    for do, code, message in (
        ("refuse", "locked", "because"),
        ("crash", "crash", "KeyError"),
        ("eat", "memory", "out of memory"),
    ):
        with pytest.raises(TaskRefused) as caught:
            await pool.call({"do": do})
        assert (caught.value.code, caught.value.message) == (code, message)
    assert await pid(pool) == before


@pytest.mark.parametrize(("do", "how"), [("abort", "SIGABRT"), ("exit", "status 3")])
async def test_a_child_that_dies_costs_one_task(pool: Pool, do: str, how: str) -> None:
    before = await pid(pool)
    with pytest.raises(ChildDied, match=how) as caught:
        await pool.call({"do": do})
    assert not isinstance(caught.value, ChildTimedOut | ChildKilled | PoolUnavailable)
    assert await pid(pool) != before


KILL, TERM, ABORT = "SIGKILL", "SIGTERM", "SIGABRT"


@pytest.mark.parametrize(
    ("fates", "outcome"),
    [
        ([KILL, ""], None),
        ([ABORT, ""], None),
        ([ABORT, ABORT], ChildDied),
        ([KILL, ABORT], ChildDied),
        ([ABORT, KILL], ChildDied),
        ([KILL, KILL], ChildKilled),
        ([TERM, KILL], ChildKilled),
        (["SIGXCPU"], ChildTimedOut),
        (["SIGALRM", "SIGALRM"], ChildDied),
    ],
)
async def test_a_task_whose_child_died_gets_one_more(
    pool: Pool, tmp_path: Path, fates: list[str], outcome: type[ChildDied] | None
) -> None:
    tries = tmp_path / "tries"
    tries.mkdir()
    before = await pid(pool, affinity="a")
    task = pool.call({"do": "fate", "path": str(tries), "fates": fates}, affinity="a")
    if outcome is None:
        answer, _ = await task
        assert answer["pid"] != before
    else:
        with pytest.raises(ChildDied) as caught:
            await task
        assert type(caught.value) is outcome
    tried = [int(path.name) for path in tries.iterdir()]
    assert len(tried) == len(fates)
    assert before in tried
    assert await pid(pool) not in tried or outcome is None


async def test_a_time_out_is_not_repeated(pool: Pool, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    tries.mkdir()
    header = {"do": "fate", "path": str(tries), "fates": ["", ""], "after": 30}
    with pytest.raises(ChildTimedOut):
        await pool.call(header, seconds=0.5)
    assert len(list(tries.iterdir())) == 1


async def test_both_tries_together_take_little_longer_than_one(pool: Pool, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    tries.mkdir()
    header = {"do": "fate", "path": str(tries), "fates": [ABORT, ABORT], "after": 2.2}
    # 1.3 x 3 s for both; the first dies at 2.2 s, or later on a busy machine.
    with pytest.raises(ChildTimedOut, match=r"killed after (1(\.[0-7]\d*)?|0\.[89]\d*) s"):
        await pool.call(header, seconds=3)
    assert len(list(tries.iterdir())) == 2


async def test_a_busy_child_that_is_killed_once_costs_nothing(pool: Pool, gate: Gate) -> None:
    held = gate.hold(pool)
    end = await gate.reached()
    (child,) = pool._children
    assert child._transport is not None
    first = child._transport.get_pid()
    os.kill(first, 9)
    await asyncio.wait({child.gone})
    os.close(end)
    gate.open(await gate.reached(), b"second")
    answer, _ = await held
    assert answer["said"] == "second"
    assert answer["pid"] != first


async def test_the_second_try_is_on_a_new_child_and_makes_room_for_it(
    pair: Pool, gate: Gate, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    tries.mkdir()
    first = await pid(pair)
    held = gate.hold(pair)
    end = await gate.reached()
    second = await pid(pair)
    header = {"do": "fate", "path": str(tries), "fates": [ABORT, ""], "after": 0.3}
    dying = asyncio.ensure_future(pair.call(header))
    waiting = [asyncio.ensure_future(pid(pair)) for _ in range(3)]
    third = (await dying)[0]["pid"]
    assert third not in (first, second)
    assert first not in {await task for task in waiting}
    gate.open(end)
    await held
    assert len(pair._children) == 2


async def test_a_used_child_makes_room_for_a_new_one(pair: Pool) -> None:
    before = await _both(pair)
    new = await pair._start_for_repeat(Work())
    assert new._transport is not None
    assert new._transport.get_pid() not in before
    assert len(pair._children) == 2


async def _both(pair: Pool) -> set[int]:
    """Return the ids of two children, both idle."""
    return set(await asyncio.gather(pid(pair), pid(pair)))


async def test_a_child_that_overruns_is_killed(pool: Pool) -> None:
    before = await pid(pool)
    with pytest.raises(ChildTimedOut, match=r"0\.2 s"):
        await pool.call({"do": "spin"}, seconds=0.2)
    assert await pid(pool) != before
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


async def test_a_child_is_replaced_after_its_tasks() -> None:
    pool = Pool("pool_handlers:handle", 1, Limits(1 << 30, 20, tasks=2))
    pids = [await pid(pool) for _ in range(5)]
    await pool.close()
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has in use")
async def test_a_child_that_grew_is_replaced_after_its_task() -> None:
    limits = Limits(1 << 30, 20, resident_bytes=200 << 20, resident_every=1)
    pool = Pool("pool_handlers:handle", 1, limits)
    grown = [await pool.call({"do": "grow", "bytes": size << 20}) for size in (50, 50, 150, 1)]
    pids = [answer["pid"] for answer, _ in grown]
    await pool.close()
    assert pids[0] == pids[1] == pids[2] != pids[3]


async def test_a_task_goes_to_the_child_that_had_the_last_of_its_kind(
    pair: Pool, gate: Gate
) -> None:
    first = await pid(pair, affinity="a")
    held = gate.hold(pair, affinity="a")
    end = await gate.reached()
    second = await pid(pair, affinity="b")
    gate.open(end)
    assert (await held)[0]["pid"] == first != second
    for affinity, expected in (("a", first), ("b", second), ("a", first), ("a", first)):
        assert await pid(pair, affinity=affinity) == expected


async def test_a_second_child_joins_when_the_preferred_one_is_busy(pair: Pool, gate: Gate) -> None:
    held = gate.hold(pair, affinity="a")
    end = await gate.reached()
    other = await pid(pair, affinity="a")
    gate.open(end)
    assert (await held)[0]["pid"] != other


async def test_waiting_tasks_are_served_in_order(pool: Pool, gate: Gate) -> None:
    held = gate.hold(pool)
    end = await gate.reached()
    done: list[int] = []

    async def work(number: int) -> None:
        await pool.call({"do": "echo"})
        done.append(number)

    tasks = [asyncio.ensure_future(work(number)) for number in range(5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    gate.open(end)
    await asyncio.gather(held, *tasks, return_exceptions=True)
    assert done == [0, 1, 3, 4]


async def test_a_short_document_does_not_wait_for_a_long_one(
    pair: Pool, gate: Gate, tmp_path: Path
) -> None:
    other = Gate(tmp_path / "other")
    held = [one.hold(pair, affinity="long") for one in (gate, other)]
    ends = [await gate.reached(), await other.reached()]
    done: list[str] = []

    async def work(name: str, affinity: str | None) -> None:
        await pair.call({"do": "echo"}, affinity=affinity)
        done.append(name)

    wanted = [("l1", "long"), ("l2", "long"), ("s1", "short"), ("s2", "short"), ("crop", None)]
    tasks = [asyncio.ensure_future(work(*one)) for one in wanted]
    await asyncio.sleep(0)
    gate.open(ends[0])  # the other child stays with the long document
    await asyncio.gather(*tasks)
    assert done == ["s1", "s2", "crop", "l1", "l2"]
    other.open(ends[1])
    await asyncio.gather(*held)


Wanted = tuple[str, str, str | None, bool]
"""A name, and whose it is, what it works on, and whether it is quick."""


async def _in_which_order(pool: Pool, ends: list[int], wanted: list[Wanted]) -> list[str]:
    """Return the names in the order in which they are done, once the first gate opens."""
    done: list[str] = []

    async def work(name: str, owner: str, affinity: str | None, quick: bool) -> None:
        await pool.call({"do": "echo"}, owner=owner, affinity=affinity, quick=quick)
        done.append(name)

    tasks = [asyncio.ensure_future(work(*one)) for one in wanted]
    await asyncio.sleep(0)
    Gate.open(ends[0])
    await asyncio.gather(*tasks)
    return done


async def test_an_owner_does_not_wait_for_all_documents_of_another(
    pair: Pool, gate: Gate, tmp_path: Path
) -> None:
    other = Gate(tmp_path / "other")
    held = [one.hold(pair, owner="big", affinity=str(one.path)) for one in (gate, other)]
    ends = [await gate.reached(), await other.reached()]
    wanted: list[Wanted] = [(f"b{n}", "big", f"b{n}", False) for n in range(3)]
    wanted += [("s1", "small", "s", False), ("s2", "small", "s", False)]
    # The other child stays with the big owner, so that the small one always has fewer.
    assert await _in_which_order(pair, ends, wanted) == ["s1", "s2", "b0", "b1", "b2"]
    Gate.open(ends[1])
    await asyncio.gather(*held)


async def test_owners_take_turns_where_there_is_one_child(pool: Pool, gate: Gate) -> None:
    held = gate.hold(pool, owner="a")
    ends = [await gate.reached()]
    wanted: list[Wanted] = [(f"a{n}", "a", f"a{n}", False) for n in range(3)]
    wanted += [(f"b{n}", "b", "b", False) for n in range(2)]
    wanted += [("c0", "c", None, False)]
    assert await _in_which_order(pool, ends, wanted) == ["b0", "c0", "a0", "b1", "a1", "a2"]
    await held


async def test_quick_tasks_are_first_of_their_owner_only(pool: Pool, gate: Gate) -> None:
    held = gate.hold(pool, owner="a")
    ends = [await gate.reached()]
    wanted: list[Wanted] = [("b1", "b", "b1", False), ("a1", "a", "a1", False)]
    wanted += [(f"q{n}", "a", f"q{n}", True) for n in range(3)]
    wanted += [("b2", "b", "b2", False), ("b3", "b", "b3", False)]
    expected = ["b1", "q0", "b2", "q1", "b3", "q2", "a1"]
    assert await _in_which_order(pool, ends, wanted) == expected
    await held


def _next(line: Line, *works: Work) -> list[str]:
    """Return whose the next turns are, while nobody is at work."""
    waiting = {line.wait(work, is_repeat=False): work for work in works}
    order = []
    while (following := line.next(())) is not None:
        order.append(waiting[following].owner)
    return order


async def test_what_is_remembered_of_owners_is_bounded() -> None:
    line = Line()
    for number in range(1200):
        line.serve(str(number))
    assert len(line._served) == 1000
    assert _next(line, Work("200"), Work("1199"), Work("0"), Work("201")) == [
        "0",
        "200",
        "201",
        "1199",
    ]
    assert len(line._served) == 1000


async def test_a_repeat_is_before_all_others() -> None:
    line = Line()
    line.serve("a")
    for work, is_repeat in ((Work("b", quick=True), False), (Work("a"), True)):
        line.wait(work, is_repeat=is_repeat)
    repeat = line._waiting[1].child
    assert line.next([Work("a")]) is repeat


async def test_a_cancelled_caller_does_not_spoil_the_next_answer(pool: Pool, gate: Gate) -> None:
    before = await pid(pool)
    held = gate.hold(pool)
    end = await gate.reached()
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    following = asyncio.ensure_future(pool.call({"do": "echo", "mine": True}, b"abc"))
    await asyncio.sleep(0)
    assert not following.done()
    gate.open(end, b"late answer")
    answer, data = await following
    assert answer == {"pid": before, "header": {"do": "echo", "mine": True}}
    assert data == b"cba"


async def test_a_child_left_by_its_caller_is_still_killed_in_time(pool: Pool, gate: Gate) -> None:
    before = await pid(pool)
    held = gate.hold(pool, seconds=0.3)
    end = await gate.reached()
    held.cancel()
    assert await pid(pool) != before
    os.close(end)


async def test_cancelling_during_the_start_wastes_nothing(pool: Pool) -> None:
    starting = asyncio.ensure_future(pool.call({"do": "echo"}))
    for _ in range(3):
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await pid(pool) == await pid(pool)


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\xff\xff\xff\xff\x00\x00\x00\x00",
        b"\x00\x00\x00\x00\x02\xff\xff\xff\xff{}",
        b"\x07\x00\x00\x00\x02\x00\x00\x00\x00{}",
        b"\x00\x00\x00\x00\x02\x00\x00\x00\x00[]",
        b"\x00\x00\x00\x00\x02\x00\x00\x00\x00{}and more",
        b"\x00\x00\x00\x00\x09\x00\x00\x00\x00" + b'{"a":NaN}',
        b"\x00\x00\x00\x00\x02\x00\x00\x00\x00\xff\xfe",
        b"\x00\x00\x01\x86\xa0\x00\x00\x00\x00" + b"[" * 100_000,
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["head", "payload", "status", "list", "more", "nan", "utf8", "deep", "http"],
)
async def test_a_child_that_answers_nonsense_is_killed(pool: Pool, said: bytes) -> None:
    with pytest.raises(ChildDied, match="no answer") as caught:
        await pool.call({"do": "say"}, said)
    assert not isinstance(caught.value, ChildTimedOut)
    assert (await pool.call({"do": "echo"}, b"ab"))[1] == b"ba"


async def test_a_refusal_of_a_hostile_child_is_cut(pool: Pool) -> None:
    head = b'{"code": 5, "message": "%s"}' % (b"x" * 5000)
    frame = b"\x01" + len(head).to_bytes(4, "big") + bytes(4) + head
    with pytest.raises(TaskRefused) as caught:
        await pool.call({"do": "say"}, frame)
    assert caught.value.code == "5"
    assert caught.value.message == "x" * 500


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has all of them")
async def test_a_child_is_shut_in_and_knows_no_secret(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECTO_SECRET_KEY", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    facts, _ = await pool.call({"do": "facts", "path": str(tmp_path / "written")})
    assert facts["limits"] == {
        "RLIMIT_AS": 1 << 30,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NOFILE": 64,
    }
    assert facts["wrote"] is False
    assert "hush" not in facts["env"].values()
    assert facts["env"]["OMP_NUM_THREADS"] == "1"
    assert "NoNewPrivs:\t1" in facts["status"]
    assert facts["session"] == facts["pid"]
    assert not {"pydantic", "fastapi", "aiohttp"} & set(facts["modules"])


async def test_closing_ends_what_is_in_flight_and_leaves_no_process(pool: Pool, gate: Gate) -> None:
    child = await pid(pool)
    held = gate.hold(pool)
    waiting = asyncio.ensure_future(pool.call({"do": "echo"}))
    end = await gate.reached()
    await pool.close()
    os.close(end)
    for task in (held, waiting):
        with pytest.raises(PoolUnavailable, match="closed"):
            await task
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    with pytest.raises(PoolUnavailable, match="closed"):
        await pool.call({"do": "echo"})
    await pool.close()


async def test_closing_during_a_start(pool: Pool) -> None:
    starting = asyncio.ensure_future(pool.call({"do": "echo"}))
    await asyncio.sleep(0)
    await pool.close()
    with pytest.raises(PoolUnavailable):
        await starting


async def test_an_entry_that_cannot_be_imported_is_no_fault_of_the_task() -> None:
    pool = Pool("pool_handlers_that_are_not:handle", 1, LIMITS)
    with pytest.raises(PoolUnavailable, match="did not start"):
        await pool.call({})
    await pool.close()


async def test_warming_starts_the_child_that_the_first_call_uses(pool: Pool) -> None:
    await pool.warm()
    await pool.warm()
    assert await pid(pool) == await pid(pool)


async def test_a_task_for_a_child_killed_while_idle_never_fails(pool: Pool) -> None:
    before = await pid(pool)
    for number in range(10):
        os.kill(before, 9)
        for _ in range(number):  # from "not noticed" to "long gone"
            await asyncio.sleep(0.0005)
        after = await pid(pool)
        assert after != before
        before = after


async def test_children_that_all_die_before_their_task_are_no_fault_of_it(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = pool._spawn

    async def doomed() -> Child:
        child = await spawn()
        child.kill(ChildDied("an accident"))
        return child

    monkeypatch.setattr(pool, "_spawn", doomed)
    with pytest.raises(PoolUnavailable, match="before they take a task"):
        await pid(pool)


async def test_a_first_task_waits_for_the_child_that_is_warming(pair: Pool) -> None:
    warming = asyncio.ensure_future(pair.warm())
    await asyncio.sleep(0)
    first = await pid(pair)
    await warming
    assert await pid(pair) == first
    assert len(pair._children) == 1


async def test_a_problem_is_told_until_a_start_works_or_it_is_old(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool.problem() is None
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/python")
        warming = asyncio.ensure_future(pool.warm())
        await asyncio.sleep(0)
        with pytest.raises(PoolUnavailable):
            await pid(pool)
        with pytest.raises(PoolUnavailable):
            await warming
    assert pool.problem() == "cannot start a child: No such file or directory"
    with monkeypatch.context() as patch:
        patch.setattr(processes, "PROBLEM_SECONDS", 0.0)
        assert pool.problem() is None
    await pool.close()
    assert pool.problem() == "the pool is closed"


async def test_a_start_that_works_ends_the_problem(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/python")
        with pytest.raises(PoolUnavailable):
            await pool.warm()
    assert pool.problem() is not None
    await pid(pool)
    assert pool.problem() is None


async def test_cpu_time_is_limited_anew_for_each_task(pool: Pool, tmp_path: Path) -> None:
    async def left() -> float:
        facts, _ = await pool.call({"do": "facts", "path": str(tmp_path / "x")}, seconds=20)
        return float(facts["cpu"])

    assert 39 <= await left() <= 41
    await pool.call({"do": "burn", "seconds": 1.5})
    assert 39 <= await left() <= 41


async def test_a_child_whose_parent_stands_still_ends_by_itself(pool: Pool) -> None:
    await pid(pool)
    spinning = asyncio.ensure_future(pool.call({"do": "spin"}, seconds=0.4))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    (child,) = pool._children
    assert child._transport is not None
    _stand_still_until_gone(child._transport.get_pid())
    with pytest.raises(ChildTimedOut):
        await spinning


def _stand_still_until_gone(child: int) -> None:
    """Block the event loop, as a stopped process would, while the child runs."""
    until = time.monotonic() + 15
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{child}/stat").read_text().rsplit(") ", 1)[1].startswith("Z"):
                return
        except FileNotFoundError:
            return
        time.sleep(0.02)
    raise AssertionError("the child outlived its CPU time")


@pytest.mark.parametrize("keeps", [False, True])
async def test_only_a_pool_that_asks_for_it_keeps_buffers(tmp_path: Path, keeps: bool) -> None:
    pool = Pool("pool_handlers:handle", 1, Limits(1 << 30, 20, keeps_buffers=keeps))
    facts, _ = await pool.call({"do": "facts", "path": str(tmp_path / "x")})
    await pool.close()
    assert ("MALLOC_MMAP_THRESHOLD_" in facts["env"]) is keeps
    assert ("MALLOC_TRIM_THRESHOLD_" in facts["env"]) is keeps


async def _story() -> list[Any]:
    pool = Pool("pool_handlers:handle", 2, LIMITS)
    seen: list[Any] = [(await pool.call({"do": "echo"}, b"x" * 900_000))[1] == b"x" * 900_000]
    for do in ("abort", "refuse"):
        try:
            await pool.call({"do": do})
        except (ChildDied, TaskRefused) as error:
            seen.append(type(error))
    os.kill(await pid(pool), 9)
    seen.append((await pool.call({"do": "echo"}, b"ab"))[1])
    left = asyncio.ensure_future(pool.call({"do": "spin"}, seconds=0.2))
    await asyncio.sleep(0)
    left.cancel()
    seen.append(len(await asyncio.gather(*(pid(pool) for _ in range(20)))))
    await pool.close()
    return seen


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_event_loops(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    story: Coroutine[Any, Any, list[Any]] = _story()
    with asyncio.Runner(loop_factory=factory, debug=True) as runner:
        assert runner.run(story) == [True, ChildDied, TaskRefused, b"ba", 20]
