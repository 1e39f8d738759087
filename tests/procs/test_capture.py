"""Commands that run to their end."""

import os
import sys
from functools import partial
from pathlib import Path

import anyio
import psutil
import pytest

from clinvk.procs import process
from clinvk.procs.capture import Captured, capture
from clinvk.procs.process import Command, ProcessStartError
from clinvk.procs.supervisor import Supervisor


def python(code: str, folder: Path) -> Command:
    return Command((sys.executable, "-c", code), dict(os.environ), folder)


async def test_output_and_exit_code_are_kept(tmp_path: Path) -> None:
    code = "import sys; print('out'); print('more'); sys.stderr.write('err'); sys.exit(3)"
    async with Supervisor() as supervisor:
        for _ in range(5):
            captured = await capture(supervisor, python(code, tmp_path), timeout_s=20)
            assert captured == Captured(3, "out\nmore", "err")


async def test_a_command_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    code = "import time; print('out', flush=True); time.sleep(600)"
    async with Supervisor() as supervisor:
        captured = await capture(supervisor, python(code, tmp_path), timeout_s=0.5)
    assert captured.code is None


async def test_a_missing_program_is_an_error(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(ProcessStartError):
            await capture(supervisor, Command(("/no/such",), {}, tmp_path), timeout_s=5)


async def test_who_leaves_leaves_no_process_that_could_still_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TERM_GRACE_S", 0.2)
    code = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "open('pid', 'w').write(str(os.getpid())); os.rename('pid', 'there'); time.sleep(600)"
    )
    there = tmp_path / "there"
    with anyio.fail_after(30):
        async with Supervisor() as supervisor:
            asking = partial(capture, supervisor, python(code, tmp_path), timeout_s=60)
            async with anyio.create_task_group() as group:
                group.start_soon(asking)
                while not there.exists():  # noqa: ASYNC110 - a file has no event
                    await anyio.sleep(0.01)
                pid = int(there.read_text())
                assert psutil.pid_exists(pid)
                group.cancel_scope.cancel()
            assert not psutil.pid_exists(pid)


async def test_who_leaves_while_a_program_starts_leaves_none(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        async with Supervisor() as supervisor:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await capture(
                    supervisor, python("import time; time.sleep(600)", tmp_path), timeout_s=60
                )
            assert [c for c in psutil.Process().children() if "sleep(600)" in c.cmdline()[-1]] == []
