"""Runs a command to its end, bounded in time, and keeps what it said."""

from dataclasses import dataclass

import anyio

from clinvk.procs import process
from clinvk.procs.process import Command
from clinvk.procs.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Captured:
    """How a command ended; `code` is None if it was stopped because its time was up.

    `stderr` is its tail, secrets removed.
    """

    code: int | None
    stdout: str
    stderr: str


async def capture(supervisor: Supervisor, command: Command, *, timeout_s: float) -> Captured:
    """Run a command with nothing to read from stdin; when this is left, it has ended.

    Raises:
        ProcessStartError: if the program cannot be run.
    """
    child = await process.start(supervisor, command)
    code: int | None = None
    lines: list[bytes] = []
    try:
        with anyio.move_on_after(timeout_s):
            lines = [line async for line in child.lines()]
            code = await child.stopped()
    finally:
        child.stop_soon()
        with anyio.CancelScope(shield=True):
            await child.stopped()
    return Captured(code, b"\n".join(lines).decode("utf-8", "replace"), child.stderr_tail)
