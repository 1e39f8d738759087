"""Codex, driven over one long-lived `codex app-server`: a thread for each conversation."""

import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from clinvk.backends import claims, codex_home, structured
from clinvk.backends.base import (
    Health,
    Processes,
    State,
    find_program,
    leased,
    processes_of,
    require_program,
    warmed,
)
from clinvk.backends.codex_catalog import Catalog
from clinvk.backends.codex_errors import LOGIN
from clinvk.backends.codex_format import output_schema
from clinvk.backends.codex_home import Home
from clinvk.backends.codex_items import check_parts, check_size
from clinvk.backends.codex_live import Conversation
from clinvk.backends.codex_server import AppServer, launch
from clinvk.backends.codex_stderr import LOG_FILTER
from clinvk.backends.codex_tools import check_tools
from clinvk.backends.codex_turns import begin
from clinvk.config import CodexConfig
from clinvk.errors import CliCrashedError, NotInstalledError
from clinvk.events import Event
from clinvk.procs.capture import Captured, capture
from clinvk.procs.environment import child_environment
from clinvk.procs.pool import ServerPool
from clinvk.procs.process import Command, ProcessStartError
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import Turn, require_known_calls

INSTALL = "npm install -g @openai/codex"
LOGIN_BY_KEY = "printenv OPENAI_API_KEY | codex login --with-api-key"
LOGIN_TO_FILE = """codex login -c 'cli_auth_credentials_store="file"'"""
MODELS = ("debug", "models")
SUMMARY_KEY = "model_reasoning_summary"
TESTED = "0.169.0"
ASK_S = 10.0  # for a command that tells of codex; `debug models` may ask the model API
RECYCLE_AFTER = 500  # threads; codex logs 50 kB of each in its home, which ends with it

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Setup:
    """How codex is to run; made anew for each process, for the user may change it meanwhile."""

    program: tuple[str, ...]
    env: dict[str, str]
    folder: Path
    user: dict[str, Any]
    table: dict[str, Any]

    @property
    def uses_login(self) -> bool:
        """Whether it is the login of `codex login` that counts."""
        provider = codex_home.provider_of(self.table)
        return bool(provider.get("requires_openai_auth")) and "env_key" not in provider

    @property
    def missing_key(self) -> str | None:
        """The variable that the model provider reads its key from, if it is not set."""
        key = codex_home.provider_of(self.table).get("env_key")
        return key if isinstance(key, str) and not self.env.get(key) else None

    def home(self) -> Home:
        """Make a private home for one process."""
        return Home(self.folder, self.table)

    def command(self, home: Home, *arguments: str) -> Command:
        """Return the command that runs codex in a home."""
        env = {**self.env, **home.env, "RUST_LOG": LOG_FILTER}
        return Command((*self.program, *arguments), env, home.work)


class CodexBackend:
    """The Codex CLI as a plain model."""

    kind = "codex"
    vendor = "openai"
    capabilities = claims.CODEX

    def __init__(self, name: str, config: CodexConfig, supervisor: Supervisor) -> None:
        self.name = name
        self._config = config
        self._supervisor = supervisor
        self._pool: ServerPool[AppServer] = ServerPool(
            self._start, recycle_after=RECYCLE_AFTER, background=supervisor.start
        )

    def check(self, turn: Turn) -> tuple[str, ...]:
        """Refuse what codex cannot carry, and name what it will leave out."""
        self._program()
        left_out = check_tools(turn)
        structured.check_format(turn.format)
        check_parts(turn)
        check_size(turn)
        require_known_calls(turn)  # codex would drop such a result in silence
        named = any(message.name and not message.call_id for message in turn.messages)
        return (*(("messages[].name",) if named else ()), *left_out)

    @property
    def installed(self) -> bool:
        """Whether the program is found."""
        return find_program(self._config.command, self._source()) is not None

    async def warm(self) -> None:
        """Start the server."""
        await warmed(self._pool)

    def close(self) -> None:
        """Begin to stop the server."""
        self._pool.stop()

    def open(
        self, turn: Turn, model: str | None
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run the turn on a new thread; leaving interrupts it and drops the thread."""
        if output_schema(turn.format) is not None:
            return self._run(turn, model)
        return structured.opened(turn, partial(self._run, model=model))

    @asynccontextmanager
    async def _run(self, turn: Turn, model: str | None) -> AsyncIterator[Conversation]:
        async with AsyncExitStack() as stack:
            server = await self._fit(stack)
            try:
                thread = await begin(server, turn, model)
            except CliCrashedError:
                # It may have been dead already; nothing was sent to the model, so once more.
                await stack.aclose()
                server = await stack.enter_async_context(leased(self._pool))
                thread = await begin(server, turn, model)
            conversation = Conversation(server, thread, turn, retries=self._config.retries)
            try:
                yield conversation
            finally:
                conversation.leave()

    @property
    def trouble(self) -> str | None:
        """Why no process is started now; see `Backend.trouble`."""
        return self._pool.trouble

    @property
    def processes(self) -> Processes:
        """How many processes there are now."""
        return processes_of(self._pool)

    async def health(self) -> Health:
        """Ask codex for its version and its login."""
        try:
            setup = self._setup()
        except NotInstalledError:
            reason = f"{self._config.command[0]!r} was not found"
            return Health(State.MISSING, reason=reason, fix=INSTALL)
        home = setup.home()
        try:
            version, login = await self._ask(setup, home, ("--version",), ("login", "status"))
        finally:
            home.remove()
        found = re.search(r"\d+\.\d+\.\d+\S*", version.stdout)
        if found is None:
            reason = f"`codex --version` failed: {version.stderr or 'it said nothing'}"
            return Health(State.FAILING, reason=reason, fix=INSTALL)
        fault = _login_fault(setup, login)
        return Health(
            State.READY if fault is None else State.NOT_LOGGED_IN,
            version=found[0],
            tested=found[0] == TESTED,
            reason=None if fault is None else fault[0],
            fix=None if fault is None else fault[1],
        )

    async def _fit(self, stack: AsyncExitStack) -> AppServer:
        """Lease a server that has answered to the end of every turn that was cut short."""
        server = await stack.enter_async_context(leased(self._pool))
        await server.settled()
        if server.alive:
            return server
        await stack.aclose()
        return await stack.enter_async_context(leased(self._pool))

    async def _start(self) -> AppServer:
        setup = self._setup()
        codex_home.remove_stale()
        home = setup.home()
        try:
            models, login = await self._ask(setup, home, MODELS, ("login", "status"))
            if models.code != 0:
                [models] = await self._ask(setup, home, (*MODELS, "--bundled"))
            catalog = _catalog(models)
            if catalog.entries:
                home.configure(model_catalog_json=str(home.add_catalog(catalog.entries)))
            if "ChatGPT" in login.stderr + login.stdout and setup.uses_login:
                # Not for API keys: the API refuses it to organisations it has not verified.
                home.configure(**{SUMMARY_KEY: setup.table.get(SUMMARY_KEY, "auto")})
        except BaseException:
            home.remove()
            raise
        return await launch(self._supervisor, setup.command(home, "app-server"), home, catalog)

    async def _ask(self, setup: _Setup, home: Home, *questions: tuple[str, ...]) -> list[Captured]:
        """Run commands side by side; one that cannot be run is one that failed."""
        answers: dict[tuple[str, ...], Captured] = {}

        async def ask(arguments: tuple[str, ...]) -> None:
            command = setup.command(home, *arguments)
            try:
                answers[arguments] = await capture(self._supervisor, command, timeout_s=ASK_S)
            except ProcessStartError as exc:
                answers[arguments] = Captured(None, "", str(exc))

        async with anyio.create_task_group() as group:
            for arguments in questions:
                group.start_soon(ask, arguments)
        return [answers[arguments] for arguments in questions]

    def _setup(self) -> _Setup:
        source = self._source()
        program = self._program()
        folder = codex_home.user_folder(source)
        user = codex_home.read_user(folder)
        table = codex_home.settings(user, self._config, source)
        names = codex_home.variables(table)
        env = child_environment((*codex_home.VENDOR_ENV, *names), self._config.env)
        return _Setup(program, env, folder, user, table)

    def _program(self) -> tuple[str, ...]:
        return require_program(self.name, self._config.command, self._source(), fix=INSTALL)

    def _source(self) -> dict[str, str]:
        return {**os.environ, **self._config.env}


def _catalog(told: Captured) -> Catalog:
    try:
        return Catalog.parse(told.stdout)
    except ValueError as exc:
        _log.warning(
            "`codex debug models` gave no list of models (%s): codex may offer its own tools to "
            "the model; clinvk is tested with codex %s. %s",
            exc,
            TESTED,
            told.stderr,
        )
        return Catalog([])


def _login_fault(setup: _Setup, status: Captured) -> tuple[str, str] | None:
    """What keeps codex from reaching its model, and the command that mends it."""
    if (key := setup.missing_key) is not None:
        return (
            f"{key}, which codex's model provider reads its key from, is not set",
            f"export {key}=…",
        )
    if not setup.uses_login or status.code == 0:
        return None
    if status.code is None:
        return f"`codex login status` failed: {status.stderr or 'it did not answer'}", LOGIN
    if setup.user.get(codex_home.STORE_KEY) in ("auto", "keyring"):
        reason = "codex keeps its login in the keyring, where only its own home can reach it"
        return reason, LOGIN_TO_FILE
    if setup.env.get("OPENAI_API_KEY") or os.environ.get("OPENAI_API_KEY"):
        return "codex is not logged in; it does not use OPENAI_API_KEY by itself", LOGIN_BY_KEY
    return "codex is not logged in", LOGIN
