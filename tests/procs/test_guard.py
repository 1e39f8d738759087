"""What a server that is killed leaves behind: nothing, and what it ended itself is left alone."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator

import anyio
import anyio.to_thread
import psutil
import pytest

from clinvk.procs import guard
from clinvk.procs.guard import Guard
from clinvk.procs.supervisor import Supervisor

HUNG_S = 20  # a guard against hanging tests, not a measure

# It starts a child that minds neither the end of its input nor SIGTERM, tells its number, hangs.
SERVER = """
import anyio, os, sys
from pathlib import Path
from clinvk.procs.process import Command, start
from clinvk.procs.supervisor import Supervisor
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n" \\
    "print('up', flush=True); time.sleep(600)"
async def main():
    async with Supervisor() as supervisor:
        command = Command((sys.executable, "-c", CHILD), dict(os.environ), Path("/"))
        child = await start(supervisor, command)
        async for line in child.lines():
            print(child.pid, flush=True)
anyio.run(main)
"""


STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as running:
        yield running


def gone(*processes: psutil.Process) -> None:
    _, alive = psutil.wait_procs(processes, timeout=HUNG_S)
    assert alive == []


def test_a_killed_server_takes_its_children_along() -> None:
    server = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SERVER)], stdout=-1)
    assert server.stdout is not None
    child = psutil.Process(int(server.stdout.readline()))
    family = psutil.Process(server.pid).children(recursive=True)
    assert len(family) == 2  # the guard, too
    server.kill()
    server.wait(HUNG_S)
    server.stdout.close()
    gone(child, *family)


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], start_new_session=True)


def test_only_who_is_still_named_is_stopped() -> None:
    left, ended = sleeper(), sleeper()
    reader, writer = os.pipe()
    os.write(writer, b"+%d\n+%d\n-%d\n+999999999\n" % (left.pid, ended.pid, ended.pid))
    os.close(writer)
    reaper = threading.Thread(target=left.wait)  # or it would stay as a zombie
    reaper.start()
    guard.guard(reader)
    reaper.join(HUNG_S)
    assert left.returncode == -signal.SIGTERM
    assert ended.poll() is None
    ended.kill()
    ended.wait(HUNG_S)


def test_who_does_not_mind_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "TERM_GRACE_S", 0.05)
    stubborn = subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    reader, writer = os.pipe()
    os.write(writer, b"+%d\n" % stubborn.pid)
    os.close(writer)
    guard.guard(reader)
    assert stubborn.wait(HUNG_S) == -signal.SIGKILL
    stubborn.stdout.close()


async def test_a_guard_that_was_killed_is_replaced(supervisor: Supervisor) -> None:
    left = sleeper()
    watcher = supervisor.shared(Guard)
    assert supervisor.shared(Guard) is watcher
    watcher.watch(left.pid)
    [first] = [p for p in psutil.Process().children() if p.pid != left.pid]
    first.kill()
    with anyio.fail_after(HUNG_S):
        while first.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - its end is told to nobody
            await anyio.sleep(0.01)
        watcher.forget(999_999_999)
        [second] = [p for p in psutil.Process().children() if p.pid not in (left.pid, first.pid)]
        watcher.close()
        await anyio.to_thread.run_sync(left.wait)
    assert left.returncode == -signal.SIGTERM
    assert not second.is_running()


async def test_a_guard_ends_with_its_supervisor() -> None:
    async with Supervisor() as supervisor:
        supervisor.shared(Guard).watch(999_999_999)
        [program] = psutil.Process().children()
    assert not program.is_running()
