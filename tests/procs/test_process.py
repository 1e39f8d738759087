"""Real children that misbehave: what they say is heard, and none is left behind."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import psutil
import pytest

from clinvk.procs import process as procs
from clinvk.procs.process import (
    Command,
    LineTooLongError,
    Process,
    ProcessGoneError,
    ProcessStartError,
    start,
)
from clinvk.procs.supervisor import Supervisor
from clinvk.procs.tail import TAIL_BYTES

HUNG_S = 15


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as running:
        yield running


def python(script: str, *arguments: str, **env: str) -> Command:
    argv = (sys.executable, "-u", "-c", f"import os, signal, sys, time\n{script}", *arguments)
    return Command(argv, {"PATH": os.environ["PATH"], **env}, Path("/"))


async def spawn(supervisor: Supervisor, script: str, *arguments: str) -> Process:
    with anyio.fail_after(HUNG_S):
        return await start(supervisor, python(script, *arguments))


async def first_line(process: Process) -> bytes:
    with anyio.fail_after(HUNG_S):
        async for line in process.lines():
            return line
    raise AssertionError("it said nothing")


async def everything(process: Process) -> list[bytes]:
    with anyio.fail_after(HUNG_S):
        return [line async for line in process.lines()]


async def ended(process: Process) -> int:
    with anyio.fail_after(HUNG_S):
        return await process.stopped()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def seen_gone(pid: int) -> None:
    """Wait until a process is gone, and the loop has seen its pipes close."""
    with anyio.fail_after(HUNG_S):
        while not gone(pid):
            await anyio.lowlevel.checkpoint()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()


HANG = "print('up')\nwhile True: time.sleep(60)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + HANG


# --- what it says --------------------------------------------------------------------------


async def test_lines_come_as_they_are_written(supervisor: Supervisor) -> None:
    process = await spawn(supervisor, "for line in sys.stdin: print(line.strip().upper())")
    said: list[bytes] = []
    with anyio.fail_after(HUNG_S):
        lines = process.lines()
        for word in (b"one\n", b"two\n"):
            await process.write(word)
            said.append(await anext(lines))
        await lines.aclose()
    assert said == [b"ONE", b"TWO"]
    assert process.returncode is None


async def test_a_line_without_its_end_is_still_heard(supervisor: Supervisor) -> None:
    process = await spawn(supervisor, "sys.stdout.write('whole\\nhalf'); sys.exit(3)")
    assert await everything(process) == [b"whole", b"half"]
    assert await ended(process) == 3
    assert process.returncode == 3


async def test_all_that_a_dead_child_said_is_heard(supervisor: Supervisor) -> None:
    process = await spawn(supervisor, "for n in range(50_000): print('line', n)")
    lines = await everything(process)
    assert len(lines) == 50_000
    assert lines[-1] == b"line 49999"


async def test_a_slow_reader_hears_all_that_a_dead_child_said(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procs, "DRAIN_S", 0.05)
    process = await spawn(supervisor, "for n in range(3000): print('line', n)")
    lines: list[bytes] = []
    with anyio.fail_after(HUNG_S):
        async for line in process.lines():
            if not lines:
                await process.stopped()
            lines.append(line)
    assert len(lines) == 3000


async def test_a_line_over_the_limit_is_an_error(supervisor: Supervisor) -> None:
    process = await spawn(supervisor, "print('x' * 100)\n" + HANG)
    with anyio.fail_after(HUNG_S), pytest.raises(LineTooLongError):
        async for _ in process.lines(limit=50):
            pass
    process.stop_soon()
    await ended(process)


async def test_a_flood_of_stderr_does_not_block_and_its_end_is_kept(
    supervisor: Supervisor,
) -> None:
    process = await spawn(
        supervisor,
        "sys.stderr.write('x' * 5_000_000 + '\\nlast words\\n'); print('done')",
    )
    assert await everything(process) == [b"done"]
    await ended(process)
    assert process.stderr_tail.endswith("last words")
    assert len(process.stderr_tail) <= TAIL_BYTES


async def test_writing_to_a_dead_child_is_an_error(supervisor: Supervisor) -> None:
    process = await spawn(supervisor, "pass")
    await ended(process)
    with pytest.raises(ProcessGoneError):
        await process.write(b"hello\n")


async def test_a_big_write_to_a_child_that_dies_is_an_error(supervisor: Supervisor) -> None:
    process = await spawn(supervisor, "sys.stdin.read(10)")
    with anyio.fail_after(HUNG_S), pytest.raises(ProcessGoneError):
        await process.write(b"x" * 10_000_000)


async def test_the_child_sees_its_own_environment_and_folder(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    command = python("print(os.getcwd(), sorted(os.environ))", ONLY="this")
    process = await start(supervisor, Command(command.argv, {"ONLY": "this"}, tmp_path))
    (line,) = await everything(process)
    assert line.startswith(os.fsencode(tmp_path))
    assert b"'ONLY'" in line
    assert b"'HOME'" not in line


@pytest.mark.parametrize(
    "command",
    [
        Command(("/no/such/program",), {}, Path("/")),
        Command((__file__,), {}, Path("/")),
        Command((sys.executable,), {}, Path("/no/such/folder")),
        Command((sys.executable, "nul\0"), {}, Path("/")),
        Command((sys.executable,), {"A": "nul\0"}, Path("/")),
    ],
)
async def test_what_cannot_be_started_is_an_error(supervisor: Supervisor, command: Command) -> None:
    with anyio.fail_after(HUNG_S), pytest.raises(ProcessStartError):
        await start(supervisor, command)


# --- how it ends ---------------------------------------------------------------------------


async def test_a_stop_terminates_it(supervisor: Supervisor) -> None:
    process = await spawn(supervisor, HANG)
    await first_line(process)
    process.stop_soon()
    process.stop_soon()
    assert await ended(process) == -signal.SIGTERM


async def test_a_child_that_ignores_the_term_is_killed(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procs, "TERM_GRACE_S", 0.1)
    process = await spawn(supervisor, DEAF)
    await first_line(process)
    process.stop_soon()
    assert await ended(process) == -signal.SIGKILL


async def test_a_child_may_end_by_itself_when_its_input_closes(supervisor: Supervisor) -> None:
    process = await spawn(supervisor, "print('up'); sys.stdin.read(); print('bye'); sys.exit(7)")
    await first_line(process)
    process.stop_soon(eof_grace_s=HUNG_S)
    assert await ended(process) == 7


async def test_waiting_readers_end_with_the_child(supervisor: Supervisor) -> None:
    process = await spawn(supervisor, HANG)
    lines = []
    with anyio.fail_after(HUNG_S):
        async for line in process.lines():
            lines.append(line)
            process.stop_soon()
    assert lines == [b"up"]


async def test_a_stopped_child_whose_words_nobody_reads_holds_no_pipe(
    supervisor: Supervisor,
) -> None:
    first = await spawn(supervisor, "pass")  # and with it the guard, which has a pipe
    await ended(first)
    before = psutil.Process().num_fds()
    process = await spawn(supervisor, "print('x' * (1 << 20)); time.sleep(60)")
    async with contextlib.aclosing(process.lines(2 << 20)) as lines:
        await anext(lines)
    flooding = await spawn(supervisor, "sys.stdout.write('x' * (1 << 20)); time.sleep(60)")
    process.stop_soon()
    flooding.stop_soon()
    await ended(process)
    await ended(flooding)
    await asyncio.sleep(0)  # the loop closes a pipe at its next step
    assert psutil.Process().num_fds() == before


async def test_an_exit_is_told_before_the_pipes_are_closed(supervisor: Supervisor) -> None:
    process = await spawn(supervisor, "sys.exit(5)")
    with anyio.fail_after(HUNG_S):
        await process.exited()
    assert process.returncode == 5


FAMILY = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"] , **OPTIONS)
print(child.pid)
"""


@pytest.mark.parametrize("options", ["{}", "{'stdout': subprocess.DEVNULL}"])
@pytest.mark.parametrize("last", ["sys.exit(0)", HANG])
async def test_grandchildren_go_with_it_and_hold_no_pipe(
    supervisor: Supervisor, options: str, last: str
) -> None:
    process = await spawn(supervisor, f"{FAMILY.replace('**OPTIONS', f'**{options}')}\n{last}")
    pid = int(await first_line(process))
    process.stop_soon()
    await ended(process)
    await seen_gone(pid)


async def test_a_grandchild_that_fled_holds_no_reader(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procs, "DRAIN_S", 0.05)
    script = FAMILY.replace("**OPTIONS", "start_new_session=True")
    process = await spawn(supervisor, f"{script}\nsys.exit(0)")
    (line,) = await everything(process)
    assert await ended(process) == 0
    os.kill(int(line), signal.SIGKILL)
    await seen_gone(int(line))


# --- whoever goes --------------------------------------------------------------------------


async def test_leaving_the_supervisor_stops_every_child() -> None:
    async with Supervisor() as supervisor:
        children = [await spawn(supervisor, HANG) for _ in range(3)]
        for child in children:
            await first_line(child)
    assert all(gone(child.pid) for child in children)


async def test_the_callers_raw_cancellation_does_not_orphan_the_child(
    supervisor: Supervisor,
) -> None:
    kept: list[Process] = []
    reading = anyio.Event()

    async def caller() -> None:
        process = await start(supervisor, python(HANG))
        kept.append(process)
        try:
            async for _ in process.lines():
                reading.set()
        finally:
            process.stop_soon()

    task = asyncio.create_task(caller())
    with anyio.fail_after(HUNG_S):
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await ended(kept[0]) == -signal.SIGTERM


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_a_cancellation_at_any_step_of_the_start_leaves_no_child(steps: int) -> None:
    before = set(psutil.Process().children())

    async def caller(supervisor: Supervisor) -> None:
        await start(supervisor, python(HANG))
        raise AssertionError("not reached in time")

    with anyio.fail_after(HUNG_S):
        async with Supervisor() as supervisor:
            task = asyncio.create_task(caller(supervisor))
            for _ in range(steps):
                if not task.done():
                    await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, AssertionError):
                await task
    assert {child for child in psutil.Process().children() if not gone(child.pid)} <= before
