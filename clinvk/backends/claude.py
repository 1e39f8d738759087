"""Drives Claude Code over stream-json: a process per conversation, set up by control requests.

Owns what makes claude a plain model whose login is the user's. Arguments and environment are
claude_command's, processes claude_start's, the lines in claude_input's, the caller's tools
claude_tools', the lines out claude_events'.

    check -> script; open -> a process, started ahead -> initialize -> history -> query -> events
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from clinvk.backends import claims, claude_command, claude_input
from clinvk.backends.base import Health, Processes, State, find_program, require_program
from clinvk.backends.claude_command import VENDOR_ENV, Login, find_login
from clinvk.backends.claude_errors import LOGIN_FIX
from clinvk.backends.claude_live import ClaudeConversation
from clinvk.backends.claude_session import ClaudeSession
from clinvk.backends.claude_start import Kind, Starter
from clinvk.config import ClaudeConfig
from clinvk.events import Event
from clinvk.procs import scratch
from clinvk.procs.capture import Captured, capture
from clinvk.procs.environment import child_environment
from clinvk.procs.process import Command, ProcessStartError
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import Turn

TESTED_VERSION = "2.1.197"
INSTALL_FIX = "npm install -g @anthropic-ai/claude-code"
LOOK_TIMEOUT_S = 9.0


class ClaudeBackend:
    """Claude Code as a backend."""

    kind = "claude"
    vendor = "anthropic"
    capabilities = claims.CLAUDE

    def __init__(self, name: str, config: ClaudeConfig, supervisor: Supervisor) -> None:
        self.name = name
        self._config = config
        self._supervisor = supervisor
        self._starter = Starter(config, supervisor)
        self._sessions: set[ClaudeSession] = set()

    def __repr__(self) -> str:
        return f"<ClaudeBackend {self.name!r}, {len(self._sessions)} running, {self._starter!r}>"

    @property
    def installed(self) -> bool:
        """Whether the program is found."""
        return find_program(self._config.command, self._base_env()) is not None

    def check(self, turn: Turn) -> tuple[str, ...]:
        """Return the fields without effect; see `Backend.check`."""
        self._program()
        claude_input.check(turn)
        return () if claude_command.knows_effort(turn.effort) else ("reasoning_effort",)

    @asynccontextmanager
    async def open(self, turn: Turn, model: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        """Run the turn; see `Backend.open`."""
        script = claude_input.script(turn)
        kind = self._kind(model, turn.effort)
        session = await self._starter.ready(kind, script)
        self._sessions.add(session)
        conversation = ClaudeConversation(
            session, script, self._config.retries, partial(self._starter.used, kind)
        )
        try:
            yield conversation
        finally:
            self._sessions.discard(session)
            self._starter.refill()
            await conversation.leave()

    @property
    def trouble(self) -> str | None:
        """Why no process is started now; see `Backend.trouble`."""
        return self._starter.trouble

    @property
    def processes(self) -> Processes:
        """How many processes there are now."""
        return self._starter.processes(len(self._sessions))

    async def health(self) -> Health:
        """Look at version and login; starts no turn."""
        program = find_program(self._config.command, self._base_env())
        if program is None:
            missing = f"{self._config.command[0]!r} was not found"
            return Health(State.MISSING, reason=missing, fix=INSTALL_FIX)
        try:
            said = await self._ask("--version")
            login = await self._ask("auth", "status", "--json")
        except ProcessStartError as exc:
            reason = f"{program!r} could not be started: {exc}"
            return Health(State.FAILING, reason=reason, fix=INSTALL_FIX)
        version = said.stdout.split(" ")[0].strip() or None
        tested = None if version is None else version == TESTED_VERSION
        logged_in = _logged_in(login.stdout)
        if logged_in is None:
            reason = login.stderr or "`claude auth status` gave no answer"
            return Health(State.FAILING, version, tested, reason, INSTALL_FIX)
        if not logged_in:
            return Health(
                State.NOT_LOGGED_IN, version, tested, "claude is not logged in", LOGIN_FIX
            )
        return Health(State.READY, version, tested)

    async def warm(self) -> None:
        """Have processes of the default model wait for their conversation."""
        self._starter.warm(self._kind(self._config.model, None))

    def close(self) -> None:
        """Begin to stop every process."""
        self._starter.close()
        for session in self._sessions:
            session.process.stop_soon()

    def _kind(self, model: str | None, effort: str | None) -> Kind:
        return Kind.of(self._program(), model, effort, self._login())

    async def _ask(self, *arguments: str) -> Captured:
        folder = scratch.make(self.kind)
        try:
            env = {**self._login().env, "CLAUDE_CODE_TMPDIR": str(folder), "TMPDIR": str(folder)}
            command = Command((*self._program(), *arguments), env, Path("/"))
            return await capture(self._supervisor, command, timeout_s=LOOK_TIMEOUT_S)
        finally:
            scratch.remove(folder)

    def _login(self) -> Login:
        return find_login(self._config.env, self._config.retries)

    def _base_env(self) -> dict[str, str]:
        return child_environment(VENDOR_ENV, self._config.env)

    def _program(self) -> tuple[str, ...]:
        return require_program(self.name, self._config.command, self._base_env(), fix=INSTALL_FIX)


def _logged_in(status: str) -> bool | None:
    """Return what `claude auth status --json` says; None if it says nothing."""
    try:
        found = json.loads(status)
    except (ValueError, RecursionError):
        return None
    logged_in = found.get("loggedIn") if isinstance(found, dict) else None
    return logged_in if isinstance(logged_in, bool) else None
