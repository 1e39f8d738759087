"""Commands that run to their end."""

import os
import sys
from pathlib import Path

import pytest

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
