"""Drives Gemini CLI over the Agent Client Protocol: one `gemini --acp`, a session a conversation.

Owns what makes gemini a plain model: no tools but the caller's, a private home and working
folder, the caller's text as the only text beside the few lines that gemini adds. The home is
gemini_home's, a conversation gemini_session's, the protocol acp's.

    check -> blocks; open -> lease a process -> session/new -> session/prompt -> events
"""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from clinvk import toolserver
from clinvk.backends import claims, gemini_home, structured
from clinvk.backends.acp import AcpAgent
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
from clinvk.backends.gemini_api import CONTEXT_TOKENS, LOGIN_FIX, estimate_tokens
from clinvk.backends.gemini_home import EFFORTS, VENDOR_ENV, Home, Login, find_login
from clinvk.backends.gemini_prompt import prompt
from clinvk.backends.gemini_session import Conversation, GeminiServer
from clinvk.backends.gemini_tools import check_tools, must_call, offered_tools
from clinvk.backends.mcp_tools import SERVER
from clinvk.config import GeminiConfig
from clinvk.errors import CliCrashedError, ClinvkError, ContextTooLongError, NotLoggedInError
from clinvk.events import Event
from clinvk.procs.capture import capture
from clinvk.procs.environment import child_environment
from clinvk.procs.pool import ServerPool
from clinvk.procs.process import Command, Process, ProcessStartError, start, when_stopped
from clinvk.procs.supervisor import Supervisor
from clinvk.toolserver import Offer, ToolServer
from clinvk.turn import Turn, require_known_calls

TESTED_VERSION = "0.61.0"
INSTALL_FIX = "npm install -g @google/gemini-cli"
RECYCLE_AFTER = 50  # sessions are never freed: 1 to 2 MB each, and session/new slows
VERSION_S = 15.0
RECORD_FLAG = "record-responses"

_LOGIN_PROMPT = b"authorize the application"

_log = logging.getLogger(__name__)


class GeminiBackend:
    """Gemini CLI as a backend."""

    kind = "gemini"
    vendor = "google"
    capabilities = claims.GEMINI

    def __init__(self, name: str, config: GeminiConfig, supervisor: Supervisor) -> None:
        self.name = name
        self._config = config
        self._supervisor = supervisor
        self._pool: ServerPool[GeminiServer] = ServerPool(
            self._start, recycle_after=RECYCLE_AFTER, background=supervisor.start
        )
        self._tools = ToolServer(supervisor)
        self._proven: Login | None = None
        self._swept = False
        self._records = True

    def __repr__(self) -> str:
        return f"<GeminiBackend {self.name!r} {self._pool!r}>"

    @property
    def installed(self) -> bool:
        """Whether the program is found."""
        return find_program(self._config.command, self._env()) is not None

    def login(self) -> Login:
        """Look up the login that holds now."""
        return find_login(self._env())

    def check(self, turn: Turn) -> tuple[str, ...]:
        """Return the fields without effect; see `Backend.check`."""
        self._argv()
        left_out = check_tools(turn)
        require_known_calls(turn)
        structured.check_format(turn.format)
        prompt(turn)  # names what is wrong by its place in the caller's own messages
        blocks = prompt(structured.told(turn))
        estimate = estimate_tokens(block for block in blocks if isinstance(block, str))
        if estimate > CONTEXT_TOKENS:
            raise ContextTooLongError(
                f"the messages are about {estimate} tokens by gemini's estimate of 4 characters "
                f"a token, and it takes {CONTEXT_TOKENS}; shorten them",
                param="messages",
            )
        unknown = turn.effort is not None and turn.effort not in EFFORTS
        return (*(("reasoning_effort",) if unknown else ()), *left_out)

    def open(
        self, turn: Turn, model: str | None
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run the turn; see `Backend.open`."""
        return structured.opened(turn, partial(self._ask, model=model))

    @asynccontextmanager
    async def _ask(self, turn: Turn, model: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        blocks = prompt(turn)
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(self._lease())
            conversation = Conversation(server, self._supervisor, turn)
            offer: Offer | None = None
            if tools := offered_tools(turn):
                offered = self._tools.offer(tools, conversation.called)
                offer = await stack.enter_async_context(offered)

            def folder() -> Path:
                if offer is None:
                    return server.home.folder(turn.effort)
                access = {"httpUrl": offer.url, "headers": offer.headers}
                made = server.home.folder_with_tools(
                    turn.effort, SERVER, access, must_call=must_call(turn)
                )
                stack.callback(server.home.drop, made)
                return made

            session = await server.open_session(folder, model)
            stack.push_async_callback(conversation.leave)
            await conversation.begin(session, blocks, offer)
            yield conversation

    @property
    def trouble(self) -> str | None:
        """Why no process is started now; see `Backend.trouble`."""
        return self._pool.trouble

    @property
    def processes(self) -> Processes:
        """How many processes there are now."""
        return processes_of(self._pool)

    async def health(self) -> Health:
        """Look at version and login; a login in a keyring is tried by opening a session."""
        env = self._env()
        program = find_program(self._config.command, env)
        if program is None:
            missing = f"{self._config.command[0]!r} was not found"
            return Health(State.MISSING, reason=missing, fix=INSTALL_FIX)
        version = _package_version(Path(program)) or await self._asked_version()
        tested = None if version is None else version == TESTED_VERSION
        login = self.login()
        try:
            self._require(login)
            if login.hidden and login != self._proven:
                async with self._lease() as server:
                    await server.open_session(lambda: server.home.folder(None), None)
                self._proven = login
        except NotLoggedInError as exc:
            return Health(State.NOT_LOGGED_IN, version, tested, exc.message, LOGIN_FIX)
        except ClinvkError as exc:
            return Health(State.FAILING, version, tested, exc.message, "clinvk doctor")
        return Health(State.READY, version, tested)

    async def warm(self) -> None:
        """Start a process, which takes a second, before the first turn needs it."""
        self._require(self.login())
        await warmed(self._pool)

    def close(self) -> None:
        """Begin to stop every process."""
        self._pool.stop()

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[GeminiServer]:
        self._require(self.login())
        async with leased(self._pool) as server:
            yield server

    def _require(self, login: Login) -> None:
        if login.missing is not None:
            raise NotLoggedInError(f"gemini is not logged in: {login.missing}; {LOGIN_FIX}")

    def _env(self) -> dict[str, str]:
        return child_environment(VENDOR_ENV, self._config.env)

    def _argv(self) -> tuple[str, ...]:
        return require_program(self.name, self._config.command, self._env(), fix=INSTALL_FIX)

    async def _start(self) -> GeminiServer:
        argv = self._argv()
        if not self._swept:
            self._swept = True
            gemini_home.remove_stale()
        login = self.login()
        home = Home(login, attempts=self._config.retries + 1)
        try:
            process = await start(
                self._supervisor,
                Command(
                    (*argv, "--acp", *self._record_to(home)),
                    toolserver.reachable({**dict(login.extra_env), **self._env(), **home.env}),
                    home.folder(None),
                ),
            )
        except ProcessStartError as exc:
            home.remove()
            raise CliCrashedError(f"{argv[0]!r} could not be started: {exc}") from exc
        except BaseException:
            home.remove()
            raise
        self._supervisor.start(lambda: when_stopped(process, home.remove))
        try:
            return GeminiServer(await self._greet(process), home, login, self.login)
        except CliCrashedError:
            if not self._records or RECORD_FLAG not in process.stderr_tail:
                raise
        _log.warning(
            "this gemini does not know --%s: finish reasons and cached tokens stay unknown",
            RECORD_FLAG,
        )
        self._records = False
        return await self._start()

    def _record_to(self, home: Home) -> tuple[str, ...]:
        """The hidden flag that tells how answers end; a gemini without it does without."""
        return (f"--{RECORD_FLAG}", str(home.responses)) if self._records else ()

    async def _greet(self, process: Process) -> AcpAgent:
        asked_to_log_in = False

        def hear(line: bytes) -> None:
            # It would wait minutes for a code, and take our first message for one.
            nonlocal asked_to_log_in
            if _LOGIN_PROMPT in line:
                asked_to_log_in = True
                process.stop_soon()

        try:
            return await AcpAgent.greet(self._supervisor, process, on_noise=hear)
        except CliCrashedError:
            if asked_to_log_in:
                raise NotLoggedInError(
                    f"gemini's Google login has expired or cannot be refreshed; {LOGIN_FIX}"
                ) from None
            raise

    async def _asked_version(self) -> str | None:
        """Ask the program itself, which takes a second or two."""
        env = {**self._env(), "GEMINI_CLI_NO_RELAUNCH": "1"}
        command = Command((*self._argv(), "--version"), env, Path("/"))
        try:
            said = await capture(self._supervisor, command, timeout_s=VERSION_S)
        except ProcessStartError as exc:
            _log.debug("no version of %r: %s", self.name, exc)
            return None
        return (said.stdout.strip() or None) if said.code == 0 else None


def _package_version(program: Path) -> str | None:
    """Return the version in the package.json beside an installed program, None if it has none."""
    for folder in program.resolve().parents[:3]:
        try:
            package = json.loads((folder / "package.json").read_text("utf-8"))
            if package["name"] == "@google/gemini-cli":
                return str(package["version"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
