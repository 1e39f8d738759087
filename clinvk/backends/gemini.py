"""Drives Gemini CLI over the Agent Client Protocol: one `gemini --acp`, a session per turn.

Owns what makes gemini a plain model: no tools, a private home and working folder, the caller's
text as the only text beside the few lines that gemini adds. The home is gemini_home's, what the
model API did gemini_api's, the protocol acp's.

    check -> blocks; open -> lease a process -> session/new -> session/prompt -> events
"""

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from clinvk.backends import claims, gemini_home, structured
from clinvk.backends.acp import AcpAgent, Message
from clinvk.backends.base import Health, State, find_program, require_program, start_failure
from clinvk.backends.gemini_api import (
    CONTEXT_TOKENS,
    LOGIN_FIX,
    GeminiParser,
    Recordings,
    classify,
    estimate_tokens,
)
from clinvk.backends.gemini_home import EFFORTS, VENDOR_ENV, Home, Login, find_login
from clinvk.backends.gemini_prompt import prompt
from clinvk.config import GeminiConfig
from clinvk.errors import (
    CliCrashedError,
    ClinvkError,
    ContextTooLongError,
    NotLoggedInError,
    UpstreamUnreachableError,
)
from clinvk.events import Event, Failed, Finished
from clinvk.procs.capture import capture
from clinvk.procs.environment import child_environment
from clinvk.procs.pool import ServerPool, StartBackoffError
from clinvk.procs.process import Command, Process, ProcessStartError, start, when_stopped
from clinvk.procs.rpc import RpcError
from clinvk.procs.supervisor import Supervisor
from clinvk.transcript import Block
from clinvk.turn import Turn, require_no_tools

TESTED_VERSION = "0.61.0"
INSTALL_FIX = "npm install -g @google/gemini-cli"
RECYCLE_AFTER = 50  # sessions are never freed: 1 to 2 MB each, and session/new slows
VERSION_S = 15.0
RECORD_FLAG = "record-responses"

_LOGIN_PROMPT = b"authorize the application"

_log = logging.getLogger(__name__)


class _Server:
    """A gemini process with its private home, as the pool and the turns see it."""

    def __init__(self, backend: "GeminiBackend", agent: AcpAgent, home: Home, login: Login) -> None:
        self.agent = agent
        self.home = home
        self.login = login
        self.recordings = Recordings(home.responses)
        self._backend = backend
        self._turns = 0
        # Two session/new at once fight for a lock on a file, and the loser waits 0.1 s, then 0.2,
        # 0.4 …: the eighth came after 13 s (observed with 0.61.0). One at a time is 30 ms each.
        self._opening = anyio.Lock()

    @property
    def alive(self) -> bool:
        """Whether it can take a turn as the login that holds now."""
        return self.agent.alive and self._backend.login() == self.login

    def stop_soon(self) -> None:
        """Begin to stop the process."""
        self.agent.stop_soon()

    async def open_session(self, effort: str | None, model: str | None) -> str:
        """Open a session that asks `model` with an effort."""
        try:
            async with self._opening:
                session = await self.agent.open_session(self.home.folder(effort))
            if model is not None and model != self.login.model:
                await self.agent.request(
                    "session/set_model", {"sessionId": session, "modelId": model}
                )
        except RpcError as exc:
            raise _session_error(exc) from exc
        return session

    @asynccontextmanager
    async def turn(
        self, supervisor: Supervisor, session: str, blocks: tuple[Block, ...]
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Ask in a session; yields the events of the answer."""
        self._turns += 1
        try:
            async with (
                self.agent.prompt(supervisor, session, blocks) as messages,
                aclosing(self._events(messages)) as events,
            ):
                yield events
        finally:
            self._turns -= 1
            if not self._turns:
                self.home.sweep()
                self.recordings.clear()

    async def _events(
        self, messages: MemoryObjectReceiveStream[Message]
    ) -> AsyncGenerator[Event, None]:
        parser = GeminiParser()
        async for message in messages:
            if "result" in message:
                parser.record = self.recordings.claim(parser.text)
            elif "error" in message and message["error"]["code"] == 500:
                parser.error_class = self.home.error_class(message["error"]["message"])
            for event in parser.feed(message):
                yield event
                if isinstance(event, Finished | Failed):
                    return
        raise await self.agent.crash()


class GeminiBackend:
    """Gemini CLI as a backend."""

    kind = "gemini"
    vendor = "google"
    capabilities = claims.GEMINI

    def __init__(self, name: str, config: GeminiConfig, supervisor: Supervisor) -> None:
        self.name = name
        self._config = config
        self._supervisor = supervisor
        self._pool: ServerPool[_Server] = ServerPool(self._start, recycle_after=RECYCLE_AFTER)
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
        require_no_tools(turn, self.name)
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
        return ("reasoning_effort",) if unknown else ()

    @asynccontextmanager
    async def open(self, turn: Turn, model: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        """Run the turn; see `Backend.open`."""
        if turn.format is None:
            async with self._ask(turn, model) as events:
                yield events
        else:
            ask = partial(self._ask, model=model)
            asked = structured.told(turn)
            async with aclosing(structured.answer(asked, turn.format, ask)) as events:
                yield events

    @asynccontextmanager
    async def _ask(self, turn: Turn, model: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        blocks = prompt(turn)
        async with self._lease() as server:
            session = await server.open_session(turn.effort, model)
            async with server.turn(self._supervisor, session, blocks) as events:
                yield events

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
                    await server.open_session(None, None)
                self._proven = login
        except NotLoggedInError as exc:
            return Health(State.NOT_LOGGED_IN, version, tested, exc.message, LOGIN_FIX)
        except ClinvkError as exc:
            return Health(State.FAILING, version, tested, exc.message, "clinvk doctor")
        return Health(State.READY, version, tested)

    async def warm(self) -> None:
        """Start a process, which takes a second, before the first turn needs it."""
        try:
            self._require(self.login())
            await self._pool.warm()
        except StartBackoffError as exc:
            raise start_failure(exc) from exc

    def close(self) -> None:
        """Begin to stop every process."""
        self._pool.stop()

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[_Server]:
        self._require(self.login())
        try:
            async with self._pool.lease() as server:
                yield server
        except StartBackoffError as exc:
            raise start_failure(exc) from exc

    def _require(self, login: Login) -> None:
        if login.missing is not None:
            raise NotLoggedInError(f"gemini is not logged in: {login.missing}; {LOGIN_FIX}")

    def _env(self) -> dict[str, str]:
        return child_environment(VENDOR_ENV, self._config.env)

    def _argv(self) -> tuple[str, ...]:
        return require_program(self.name, self._config.command, self._env(), fix=INSTALL_FIX)

    async def _start(self) -> _Server:
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
                    {**dict(login.extra_env), **self._env(), **home.env},
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
            return _Server(self, await self._greet(process), home, login)
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


def _session_error(exc: RpcError) -> ClinvkError:
    if exc.code != -32000:
        return classify(exc.code, exc.message)
    network = classify(500, exc.message)
    if isinstance(network, UpstreamUnreachableError):
        return network
    return NotLoggedInError(f"gemini is not logged in: {exc.message} {LOGIN_FIX}")


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
