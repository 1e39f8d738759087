"""Starts Claude Code processes: when a turn needs one, and ahead of that once it is known for what.

Owns a process from its start until it is set up for a conversation; what it is started with is
claude_command's. A process that waits for its setup costs about 160 MB and no time (observed
with claude 2.1.197), and answers within 0.1 s where one that must start takes 0.5 s or more.
"""

import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from clinvk.backends import claude_command
from clinvk.backends.base import Processes, start_failure
from clinvk.backends.claude_command import Login
from clinvk.backends.claude_input import Script
from clinvk.backends.claude_session import ClaudeSession
from clinvk.config import ClaudeConfig
from clinvk.errors import CliCrashedError, CliProtocolError
from clinvk.procs import memory, process, scratch
from clinvk.procs.backoff import Backoff, StartBackoffError
from clinvk.procs.process import Command, Process, ProcessStartError
from clinvk.procs.spares import Limits, Spares
from clinvk.procs.supervisor import Supervisor

BOOT_TIMEOUT_S = 60.0
SPARE_MB = 160
FREE_FAILURES = 4  # in a row; the fifth makes those that ask wait
BACKOFF_FIRST_S = 2.0
BACKOFF_MAX_S = 30.0
# A start takes half a second of a processor: more at once than there are only delays each.
STARTS_AT_ONCE = max(2, os.cpu_count() or 1)

_SCRATCH = "claude"

_log = logging.getLogger(__name__)


class NotReadyError(CliProtocolError):
    """The CLI came up, if at all, too late."""


@dataclass(frozen=True, slots=True, repr=False)
class Kind:
    """What processes are started with; those of one kind can stand in for each other."""

    program: tuple[str, ...]
    model: str | None
    effort: str | None
    env: tuple[tuple[str, str], ...]
    settings: str

    @classmethod
    def of(
        cls, program: tuple[str, ...], model: str | None, effort: str | None, login: Login
    ) -> "Kind":
        """Return the kind of a turn's process."""
        settings = json.dumps(login.settings) if login.settings else ""
        return cls(program, model, effort, tuple(sorted(login.env.items())), settings)


class Starter:
    """Gives out processes that are set up for a conversation."""

    def __init__(self, config: ClaudeConfig, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._starts = anyio.Semaphore(STARTS_AT_ONCE)
        self._backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S, free=FREE_FAILURES)
        self._swept = False
        self._started = 0
        limits = Limits(config.warm, config.warm_mb // SPARE_MB)
        self._spares: Spares[Kind, ClaudeSession] = Spares(
            self._boot, limits, afford=lambda: not memory.is_scarce()
        )
        self._warm = False

    def __repr__(self) -> str:
        return repr(self._spares)

    def processes(self, busy: int) -> Processes:
        """Return how many processes there are when so many are not spares."""
        spares = self._spares.waiting
        return Processes(busy + spares, spares, self._started, self._backoff.failures)

    @property
    def trouble(self) -> str | None:
        """Why no process is started now, None if one could be tried."""
        return self._backoff.trouble

    def warm(self, kind: Kind) -> None:
        """Have spares from now on, first of this kind; returns at once."""
        if not self._warm:
            self._warm = True
            self._supervisor.start(self._spares.keep)
        self._spares.expect(kind)

    def close(self) -> None:
        """Begin to stop every process that waits."""
        self._spares.close()

    def used(self, kind: Kind) -> None:
        """Have spares of a kind that has proved to be of use, now that its turn is under way."""
        if self._warm:
            self._spares.expect(kind)

    def refill(self) -> None:
        """Have the spare replaced that a turn has taken, whatever became of it."""
        self._spares.refill()

    async def ready(self, kind: Kind, script: Script) -> ClaudeSession:
        """Return a process that is set up for a conversation; it is the caller's to close.

        Raises:
            CliCrashedError: if it could not be started, or ended.
            CliProtocolError: if it refused its setup, or was not ready in time.
            ClinvkError: if too many starts have failed, and the next is not yet due.
        """
        spare = await self._spares.take(kind)
        if spare is not None:
            try:
                return await _set_up(spare, script)
            except CliCrashedError as exc:
                _log.info("a spare claude process died: %s", exc)
        async with self._starts:
            try:
                self._backoff.require()
            except StartBackoffError as exc:
                raise start_failure(exc) from exc
            with self._counted():
                return await _set_up(ClaudeSession(await self._start(kind)), script)

    async def _boot(self, kind: Kind) -> ClaudeSession:
        """Start a spare, and wait until it would take its setup at once.

        It is tried however many starts have failed: spares have a back-off of their own, and one
        that comes up ends the trouble of all.
        """
        async with self._starts:
            with self._counted():
                session = ClaudeSession(await self._start(kind))
                await _in_time(session, session.booted)
        return session

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count the start within; a setup that is refused is no fault of the start."""
        try:
            yield
        except (CliCrashedError, NotReadyError, OSError) as exc:
            self._backoff.failed(exc)
            raise
        except CliProtocolError:
            self._backoff.succeeded()
            raise
        self._backoff.succeeded()

    async def _start(self, kind: Kind) -> Process:
        if not self._swept:
            self._swept = True
            scratch.remove_stale(_SCRATCH)
        folder = scratch.make(_SCRATCH)
        try:
            options = claude_command.arguments(kind.model, kind.effort, _settings(folder, kind))
            env = {**dict(kind.env), "CLAUDE_CODE_TMPDIR": str(folder), "TMPDIR": str(folder)}
            if not kind.settings:  # what helps to log in may keep something in the user's cache
                # Or each process leaves a log of its tools in the user's.
                env["XDG_CACHE_HOME"] = str(folder / "cache")
            work = folder / "work"
            work.mkdir()
            command = Command((*kind.program, *options), env, work)
            self._started += 1
            child = await process.start(self._supervisor, command)
            remove = partial(scratch.remove, folder)
            self._supervisor.start(lambda: process.when_stopped(child, remove))
        except ProcessStartError as exc:
            scratch.remove(folder)
            raise CliCrashedError(f"{kind.program[0]!r} could not be started: {exc}") from exc
        except BaseException:
            scratch.remove(folder)
            raise
        return child


async def _set_up(session: ClaudeSession, script: Script) -> ClaudeSession:
    await _in_time(session, partial(session.initialize, script))
    return session


async def _in_time(session: ClaudeSession, act: Callable[[], Awaitable[None]]) -> None:
    try:
        with anyio.fail_after(BOOT_TIMEOUT_S):
            await act()
    except TimeoutError:
        await session.close()
        raise NotReadyError(
            f"claude was not ready after {BOOT_TIMEOUT_S:g} s; `clinvk doctor` may tell why"
        ) from None
    except BaseException:
        await session.close()
        raise


def _settings(folder: Path, kind: Kind) -> Path | None:
    """Write the login settings where only this user can read them; they may name a secret."""
    if not kind.settings:
        return None
    path = folder / "settings.json"
    path.write_text(kind.settings, "utf-8")
    return path
