"""A child process: the only place that spawns, writes to, reads from and stops one.

Each child is kept by a job of the supervisor, so no caller's cancellation can orphan it:

    start -> the keeper spawns it in a session of its own and drains stderr
    stop_soon or exit -> close stdin, wait; SIGTERM the group, wait; SIGKILL the group
"""

import contextlib
import os
import signal
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import anyio
import anyio.abc

from clinvk.procs.guard import Guard
from clinvk.procs.lines import LineFramer, LineTooLongError
from clinvk.procs.supervisor import Supervisor
from clinvk.procs.tail import StderrTail, remember

TERM_GRACE_S = 2.0  # every CLI driven here leaves within 0.1 s of SIGTERM
DRAIN_S = 0.5  # for a reader to take what a dead child left in the pipe
LINE_LIMIT = 64 * 1024 * 1024  # a CLI echoes the whole conversation in one line


class ProcessStartError(Exception):
    """The program could not be started; the text is the system's."""


class ProcessGoneError(Exception):
    """The child no longer takes input."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: `argv[0]` is a path, `env` the child's whole environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path


class Process:
    """A running child, held by its keeper."""

    def __init__(self, raw: anyio.abc.Process, tail: StderrTail | None = None) -> None:
        self._raw = raw
        self._tail = StderrTail() if tail is None else tail
        self._stop_asked = anyio.Event()
        self._unwanted = False
        self._eof_grace_s = 0.0
        self._exited = anyio.Event()
        self._stopped = anyio.Event()
        self._stdout_done = anyio.Event()
        self._has_reader = False
        self._receiving = False
        self._over = False
        self._discarding = False
        self._stderr_done = anyio.Event()

    @property
    def pid(self) -> int:
        """The system's number of the process, which is also that of its group."""
        return self._raw.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._raw.returncode

    @property
    def running(self) -> bool:
        """Whether it runs, and has not been asked to stop."""
        return self.returncode is None and not self._stop_asked.is_set()

    @property
    def stderr_tail(self) -> str:
        """The last of its stderr, secrets removed."""
        return self._tail.text

    async def write(self, data: bytes) -> None:
        """Write all of `data` to stdin.

        Raises:
            ProcessGoneError: if the child no longer reads.
        """
        stdin = self._raw.stdin
        try:
            if stdin is not None:
                await stdin.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as exc:
            raise ProcessGoneError(str(exc)) from exc

    async def end_input(self) -> None:
        """Close stdin: nothing more will be written."""
        if self._raw.stdin is not None:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                await self._raw.stdin.aclose()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield stdout as it comes, in pieces of any length."""
        stdout = self._raw.stdout
        self._has_reader = True
        try:
            while stdout is not None:
                try:
                    chunk = await self._receive(stdout)
                except (anyio.EndOfStream, anyio.ClosedResourceError):
                    break
                yield chunk
        finally:
            self._stdout_done.set()

    async def lines(self, limit: int = LINE_LIMIT) -> AsyncGenerator[bytes, None]:
        """Yield each line of stdout, the last also if its newline is missing.

        Raises:
            LineTooLongError: if a line is longer than `limit` bytes.
        """
        framer = LineFramer(limit)
        ready: deque[bytes] = deque()
        stdout = self._raw.stdout
        self._has_reader = True
        try:
            while stdout is not None:
                try:
                    ready.extend(framer.push(await self._receive(stdout)))
                except (anyio.EndOfStream, anyio.ClosedResourceError):
                    break
                while ready:
                    yield ready.popleft()
            if rest := framer.flush():
                yield rest
        finally:
            self._stdout_done.set()

    def stop_soon(self, *, eof_grace_s: float = 0.0) -> None:
        """Ask the keeper to stop the child; returns at once, and may be called again.

        Args:
            eof_grace_s: how long a closed stdin may take to end it before SIGTERM does.
        """
        self._unwanted = True
        if not self._stop_asked.is_set():
            self._eof_grace_s = eof_grace_s
            self._stop_asked.set()

    async def stopped(self) -> int:
        """Wait until the child and its group are gone; returns the exit code."""
        await self._stopped.wait()
        return -1 if self._raw.returncode is None else self._raw.returncode

    async def exited(self) -> None:
        """Wait until the child has ended by itself or by a signal."""
        await self._exited.wait()

    async def keep(self) -> None:
        """Hold the child until it has ended; the supervisor's job, nobody else's."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._drain_stderr)
            group.start_soon(self._watch_exit)
            try:
                await self._stop_asked.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._stop()
                    await self._close_pipes()
                self._stopped.set()
                group.cancel_scope.cancel()

    async def _receive(self, stdout: anyio.abc.ByteReceiveStream) -> bytes:
        if self._discarding:
            raise anyio.EndOfStream
        if not self._over:
            self._receiving = True
            try:
                return await stdout.receive()
            finally:
                self._receiving = False
        # What the dead child said is there at once; only a grandchild that fled could say more.
        with anyio.move_on_after(DRAIN_S):
            return await stdout.receive()
        raise anyio.EndOfStream

    async def _watch_exit(self) -> None:
        await self._raw.wait()
        self._exited.set()
        self._stop_asked.set()

    async def _drain_stderr(self) -> None:
        stderr = self._raw.stderr
        with contextlib.suppress(anyio.EndOfStream, anyio.ClosedResourceError):
            while stderr is not None:
                self._tail.push(await stderr.receive())
        self._stderr_done.set()

    async def _stop(self) -> None:
        if self._raw.stdin is not None:
            with contextlib.suppress(OSError, anyio.BrokenResourceError):
                await self._raw.stdin.aclose()
        if not await self._gone_within(self._eof_grace_s):
            self._signal_group(signal.SIGTERM)
            if not await self._gone_within(TERM_GRACE_S):
                self._signal_group(signal.SIGKILL)
                await self._raw.wait()
        # Children of the child that outlived it share its group, and may hold its pipes.
        self._signal_group(signal.SIGKILL)

    async def _gone_within(self, seconds: float) -> bool:
        if self._raw.returncode is not None:
            return True
        with anyio.move_on_after(seconds):
            await self._raw.wait()
        return self._raw.returncode is not None

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._raw.pid, number)

    async def _close_pipes(self) -> None:
        if not self._unwanted:
            with anyio.move_on_after(DRAIN_S):
                await self._stderr_done.wait()
                await self._stdout_done.wait()
        elif not self._receiving:
            await self._discard_stdout()
        self._over = True
        # A reader that is behind takes the rest in its own time; closing would lose it.
        behind = self._has_reader and not self._receiving and not self._unwanted
        for stream in (None if behind else self._raw.stdout, self._raw.stderr):
            if stream is not None:
                await stream.aclose()

    async def _discard_stdout(self) -> None:
        """Read what nobody wants: a pipe is closed by nothing but its end."""
        self._discarding = True
        stdout = self._raw.stdout
        ends = (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError)
        with anyio.move_on_after(DRAIN_S), contextlib.suppress(*ends):
            while stdout is not None:
                await stdout.receive()


async def when_stopped(process: Process, act: Callable[[], None]) -> None:
    """Do something once the child and its group are gone, even if this is cancelled meanwhile."""
    try:
        await process.stopped()
    finally:
        with anyio.CancelScope(shield=True):
            await process.stopped()
        act()


async def start(
    supervisor: Supervisor, command: Command, *, tail: StderrTail | None = None
) -> Process:
    """Start a child that the supervisor keeps until it exits or is asked to stop.

    Args:
        supervisor: keeps it.
        command: what to run.
        tail: is given its stderr; a plain one by default.

    Raises:
        ProcessStartError: if the program is missing or cannot be run.
    """
    outcome: list[Process | OSError | ValueError] = []
    ready = anyio.Event()

    async def keep() -> None:
        try:
            with anyio.CancelScope(shield=True):
                raw = await anyio.open_process(
                    command.argv,
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=PIPE,
                    cwd=command.cwd,
                    env=command.env,
                    start_new_session=True,
                )
        except (OSError, ValueError) as exc:  # ValueError: a NUL in an argument or a variable
            outcome.append(exc)
            ready.set()
            return
        guarded = supervisor.shared(Guard)
        guarded.watch(raw.pid)
        process = Process(raw, tail)
        outcome.append(process)
        ready.set()
        try:
            await process.keep()
        finally:
            guarded.forget(raw.pid)

    remember(command.env)
    job = supervisor.start(keep)
    try:
        await ready.wait()
    except BaseException:
        job.cancel()
        with anyio.CancelScope(shield=True):  # whose folder it is may then be removed
            await job.wait()
        raise
    if isinstance(outcome[0], OSError | ValueError):
        raise ProcessStartError(str(outcome[0])) from outcome[0]
    return outcome[0]


__all__ = [
    "Command",
    "LineTooLongError",
    "Process",
    "ProcessGoneError",
    "ProcessStartError",
    "start",
    "when_stopped",
]
