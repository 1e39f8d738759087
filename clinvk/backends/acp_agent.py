"""Drives any agent that speaks the Agent Client Protocol: one process, a session a conversation.

Owns how such a process is started and what may be asked of it, by what it says of itself. The
agent's own tools cannot be switched off by the protocol: it runs in an empty private folder, gets
no files or terminals of clinvk's, and every permission it asks for is refused but for the
caller's tools. A conversation is acp_session's, the protocol acp's.
"""

import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

from clinvk import toolserver
from clinvk.backends import acp_prompt, claims, structured
from clinvk.backends.acp import AcpAgent
from clinvk.backends.acp import Message as Json
from clinvk.backends.acp_errors import words
from clinvk.backends.acp_options import as_dict
from clinvk.backends.acp_session import AgentServer, Conversation, Wanted
from clinvk.backends.base import (
    Health,
    Processes,
    State,
    find_program,
    leased,
    processes_of,
    warmed,
)
from clinvk.backends.caller_tools import offered
from clinvk.backends.mcp_tools import check_tools, object_schema
from clinvk.capabilities import Capabilities, Level
from clinvk.config import AcpConfig
from clinvk.errors import (
    CliCrashedError,
    ClinvkError,
    NotInstalledError,
    NotLoggedInError,
    UnsupportedError,
)
from clinvk.events import Event
from clinvk.procs import scratch
from clinvk.procs.environment import child_environment
from clinvk.procs.pool import ServerPool
from clinvk.procs.process import Command, ProcessStartError, start, when_stopped
from clinvk.procs.rpc import RpcError
from clinvk.procs.supervisor import Supervisor
from clinvk.toolserver import Offer, Tool, ToolServer
from clinvk.turn import Message, Role, TextPart, ToolMode, Turn, require_known_calls

INSTALL_FIX = "install it, or mend `command` in backends.yaml"
LOGIN_FIX = "start the agent by hand and log in"
SCRATCH = "acp"
DEAF_AFTER = 2  # turns with tools that the agent did not ask for

_log = logging.getLogger(__name__)


def can(info: Json, *, pdf: bool) -> Capabilities:
    """Return what an agent can do, by its reply to `initialize` and whether it passes PDF on."""
    takes = as_dict(as_dict(info, "agentCapabilities"), "promptCapabilities")
    found = claims.ACP
    if takes.get("image") is True:
        found = replace(found, vision=Level.NATIVE, image_urls=Level.EMULATED)
    if takes.get("audio") is True:
        found = replace(found, audio=Level.NATIVE)
    if pdf and takes.get("embeddedContext") is True:
        found = replace(found, pdf=Level.NATIVE)
    return found


def reach(info: Json, wanted: str) -> str:
    """Return how an agent gets at the caller's tools: by http if it says so, or as is wanted."""
    if wanted != "auto":
        return wanted
    can = as_dict(as_dict(info, "agentCapabilities"), "mcpCapabilities")
    return "http" if can.get("http") is True else "stdio"


class AcpBackend:
    """An ACP agent as a backend."""

    kind = "acp"
    vendor = "acp"

    def __init__(self, name: str, config: AcpConfig, supervisor: Supervisor) -> None:
        self.name = name
        self.capabilities = claims.ACP
        self._config = config
        self._supervisor = supervisor
        self._pool: ServerPool[AgentServer] = ServerPool(
            self._start, recycle_after=config.recycle_after, background=supervisor.start
        )
        self._tools = ToolServer(supervisor)
        self._no_login: NotLoggedInError | None = None
        self._newest: AgentServer | None = None
        self._swept = False

    def __repr__(self) -> str:
        return f"<AcpBackend {self.name!r} {self._pool!r}>"

    @property
    def installed(self) -> bool:
        """Whether the program is found."""
        return find_program(self._config.command, self._env()) is not None

    def check(self, turn: Turn) -> tuple[str, ...]:
        """Return the fields without effect; see `Backend.check`."""
        self._argv()
        left_out = check_tools(turn, self.name)
        if offered(turn) and self.capabilities.tools is Level.NO:
            raise UnsupportedError(
                f"the agent of {self.name!r} does not ask which tools there are, though agents "
                "must; leave them out",
                param="tools",
            )
        require_known_calls(turn)
        structured.check_format(turn.format)
        acp_prompt.prompt(turn, self.name)
        deaf = turn.effort is not None and self.capabilities.reasoning_effort is Level.NO
        return (*(("reasoning_effort",) if deaf else ()), *left_out)

    def open(
        self, turn: Turn, model: str | None
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run the turn; see `Backend.open`."""
        return structured.opened(turn, partial(self._ask, model=model))

    @asynccontextmanager
    async def _ask(self, turn: Turn, model: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        blocks = acp_prompt.prompt(_with_choice(turn), self.name)
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(leased(self._pool))
            conversation = Conversation(server, self._supervisor, turn)
            offer: Offer | None = None
            if tools := offered(turn):
                shown = [
                    Tool(t.name, t.description or "", object_schema(t.parameters or {}))
                    for t in tools
                ]
                offer = await stack.enter_async_context(
                    self._tools.offer(shown, conversation.called)
                )
                stack.callback(self._note_hearing, server, conversation, offer)
            folder = server.new_folder()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                wanted = Wanted(model, self._config.mode, turn.effort)
                session = await server.open_session(folder, wanted, offer)
            except NotLoggedInError as exc:
                self._no_login = exc
                raise
            self._no_login = None
            if server.has_efforts:
                self.capabilities = replace(self.capabilities, reasoning_effort=Level.NATIVE)
            stack.push_async_callback(conversation.leave)
            await conversation.begin(session, blocks)
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
        """Look whether it starts; that a login is missing is known once a session was refused."""
        program = self._config.command[0]
        if not self.installed:
            return Health(
                State.MISSING, reason=f"{program!r} was not found; check `command`", fix=INSTALL_FIX
            )
        try:
            async with leased(self._pool) as server:
                info = server.agent.info.get("agentInfo")
        except NotLoggedInError as exc:
            return Health(State.NOT_LOGGED_IN, reason=exc.message, fix=LOGIN_FIX)
        except ClinvkError as exc:
            return Health(State.FAILING, reason=exc.message, fix="clinvk doctor")
        version = str(info.get("version")) if isinstance(info, dict) else None
        if self._no_login is not None:
            return Health(
                State.NOT_LOGGED_IN, version, reason=self._no_login.message, fix=LOGIN_FIX
            )
        return Health(State.READY, version)

    async def warm(self) -> None:
        """Start the process: what it can do is known only then."""
        self._argv()
        await warmed(self._pool)

    def close(self) -> None:
        """Begin to stop every process."""
        self._pool.stop()

    def _note_hearing(self, server: AgentServer, conversation: Conversation, offer: Offer) -> None:
        """Learn whether the agent asks for tools; some do not look at what they are given."""
        if not conversation.answered:
            return
        server.unheard = 0 if offer.listed else server.unheard + 1
        if server.unheard == DEAF_AFTER and server is self._newest:
            _log.warning("%s: the agent does not ask which tools there are", self.name)
            self.capabilities = replace(
                self.capabilities, tools=Level.NO, tool_choice=Level.NO, resumed_turns=Level.NO
            )

    def _env(self) -> dict[str, str]:
        return child_environment(self._config.pass_env, self._config.env)

    def _argv(self) -> tuple[str, ...]:
        program, *words = self._config.command
        path = find_program([program], self._env())
        if path is None:
            raise NotInstalledError(
                f"{program!r} for backend {self.name!r} was not found; {INSTALL_FIX}"
            )
        return (path, *words)

    async def _start(self) -> AgentServer:
        argv = self._argv()
        if not self._swept:
            self._swept = True
            scratch.remove_stale(SCRATCH)
        folder = scratch.make(SCRATCH)
        command = Command(argv, toolserver.reachable(self._env()), folder)
        try:
            process = await start(self._supervisor, command)
        except ProcessStartError as exc:
            scratch.remove(folder)
            raise CliCrashedError(f"{argv[0]!r} could not be started: {exc}") from exc
        except BaseException:
            scratch.remove(folder)
            raise
        self._supervisor.start(lambda: when_stopped(process, lambda: scratch.remove(folder)))
        config = self._config
        try:
            agent = await AcpAgent.greet(
                self._supervisor, process, patience_s=config.start_s, method=config.auth
            )
        except RpcError as exc:
            raise NotLoggedInError(
                f"the agent refuses the login {config.auth!r}: {words(exc)}; {LOGIN_FIX}"
            ) from exc
        efforts = self.capabilities.reasoning_effort
        self.capabilities = replace(can(agent.info, pdf=config.pdf), reasoning_effort=efforts)
        self._newest = AgentServer(agent, folder, reach(agent.info, config.tools))
        return self._newest


def _with_choice(turn: Turn) -> Turn:
    """Say in words that a tool must be called: the protocol has no place for it."""
    choice = turn.tool_choice
    if choice.mode is not ToolMode.REQUIRED:
        return turn
    what = "at least one of your tools" if choice.name is None else f"the tool {choice.name}"
    asked = Message(Role.SYSTEM, (TextPart(f"Your next reply must be a call of {what}."),))
    # A user's message stays the last, so that it is the one to answer.
    at = len(turn.messages) - (turn.messages[-1].role is Role.USER)
    return replace(turn, messages=(*turn.messages[:at], asked, *turn.messages[at:]))
