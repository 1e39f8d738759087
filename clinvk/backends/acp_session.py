"""A process of any ACP agent as its turns see it, and one conversation in it, which may go on.

Owns what an agent is told at the opening of a session, which calls it waits for, and whether its
conversation may go on. The protocol is acp's, what is said acp_prompt's.
"""

import json
import re
import secrets
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from clinvk.backends.acp import REFUSED, AcpAgent, Message, content
from clinvk.backends.acp_errors import session_error
from clinvk.backends.acp_options import (
    as_dict,
    as_dicts,
    choose_effort,
    choose_mode,
    choose_model,
    has_efforts,
)
from clinvk.backends.acp_parser import AgentParser
from clinvk.backends.acp_prompt import GUARD, mark_of, may_be_command, result_content, said_since
from clinvk.backends.base import Live
from clinvk.backends.mcp_tools import SERVER
from clinvk.errors import CliCrashedError
from clinvk.events import Event, Failed, Finished, FinishReason, ToolCall
from clinvk.media import read_document
from clinvk.procs.rpc import RpcError
from clinvk.procs.supervisor import Supervisor
from clinvk.toolserver import Call, Offer
from clinvk.transcript import Block
from clinvk.turn import FilePart, Turn
from clinvk.turn import Message as Said

LIST_S = 5.0  # for an agent to ask which tools there are; some do so beside the opening
_CALL = "clinvk/call"  # among an agent's messages: a call that came over HTTP


def block_content(block: Block) -> Message:
    """Return a block of a prompt as the protocol has it; a PDF is an embedded resource."""
    if not isinstance(block, FilePart):
        # Some look for a command in the last text of a prompt, so the guard stands within.
        return content(f"{GUARD}{block}" if may_be_command(block) else block)
    document = read_document(block, "")
    return {
        "type": "resource",
        "resource": {
            "uri": f"file:///{re.sub(r'[^A-Za-z0-9._-]', '_', document.name)}",
            "mimeType": "application/pdf",
            "blob": document.data,
        },
    }


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a session shall be set to; None is the agent's default.

    A `mode` that the agent does not have is left, and so is an `effort` if it has none.
    """

    model: str | None = None
    mode: str | None = None
    effort: str | None = None


class AgentServer:
    """A running agent with its private folder, as the pool and the turns see it.

    `reach` is how it gets at the caller's tools: `http` or `stdio`. `has_efforts` is known from
    the last session, `unheard` counts the last turns with tools that it did not ask for.
    """

    def __init__(self, agent: AcpAgent, folder: Path, reach: str = "http") -> None:
        self.agent = agent
        self.folder = folder
        self.reach = reach
        self.has_efforts = False
        self.unheard = 0
        self._lists_late = False

    @property
    def alive(self) -> bool:
        """Whether it can take another session."""
        return self.agent.alive

    def stop_soon(self) -> None:
        """Begin to stop the process."""
        self.agent.stop_soon()

    def new_folder(self) -> Path:
        """Make an empty working folder for a session."""
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        return folder

    async def open_session(self, folder: Path, wanted: Wanted, offer: Offer | None) -> str:
        """Open a session as it is wanted, as far as the agent lets one choose.

        Raises:
            ModelNotFoundError: if the agent has no such model, or no choice of models.
            NotLoggedInError: if the agent wants a login first.
        """
        servers = [] if offer is None else [self._server(offer)]
        try:
            opened = await self.agent.new_session(folder, servers)
            session = str(opened["sessionId"])
            for request in choose_mode(session, opened, wanted.mode):
                await self.agent.opening(*request)
            if wanted.model is not None:
                request = choose_model(session, opened, wanted.model)
                opened = {**opened, **await self.agent.opening(*request)}
            self.has_efforts = has_efforts(opened)
            for request in choose_effort(session, opened, wanted.effort or ""):
                await self.agent.opening(*request)
        except RpcError as exc:
            raise session_error(exc, methods(self.agent.info)) from exc
        if offer is not None and not self._lists_late:
            with anyio.move_on_after(LIST_S) as waiting:
                await offer.listing.wait()
            self._lists_late = waiting.cancelled_caught
        return session

    def _server(self, offer: Offer) -> Message:
        if self.reach == "http":
            headers = [{"name": name, "value": value} for name, value in offer.headers.items()]
            return {"type": "http", "name": SERVER, "url": offer.url, "headers": headers}
        (program, *words), env = offer.bridge
        given = [{"name": name, "value": value} for name, value in env.items()]
        return {"name": SERVER, "command": program, "args": words, "env": given}


class Conversation(Live):
    """A session and what was asked in it; `leave` it when done."""

    def __init__(self, server: AgentServer, supervisor: Supervisor, turn: Turn) -> None:
        self._agent = server.agent
        self._supervisor = supervisor
        self._parallel = turn.parallel_calls
        self._names = [tool.name for tool in turn.tools]
        self._session = ""
        self._mark: str | None = None
        self._prompt = AsyncExitStack()
        self._messages: MemoryObjectReceiveStream[Message] | None = None
        self._parser = AgentParser()
        self._events: deque[Event] = deque()
        self._last: Finished | Failed | None = None
        self._held: deque[Call] = deque()
        self._told: dict[str, Call] = {}
        self._called = 0
        self._seen: set[str] = set()
        self._ours: set[str] = set()

    def called(self, call: Call) -> None:
        """Take a call that the agent waits for; returns at once."""
        self._agent.tell(self._session, {"method": _CALL, "call": call})

    def permits(self, call: Message) -> bool:
        """Whether a call that the agent asks about is one of the caller's tools."""
        return str(call.get("toolCallId")) in self._ours or self._is_ours(call)

    async def begin(self, session: str, blocks: tuple[Block, ...]) -> None:
        """Ask the first prompt in a session that was just opened."""
        self._session, self._mark = session, mark_of(blocks)
        self._agent.permits[session] = self.permits
        await self._ask(blocks)

    async def leave(self) -> None:
        """Cancel what still runs in the session."""
        self._agent.permits.pop(self._session, None)
        await self._prompt.aclose()
        await self._agent.close_session(self._session)

    @property
    def answered(self) -> bool:
        """Whether its last turn has come to an end by itself."""
        return isinstance(self._last, Finished)

    @property
    def waits(self) -> bool:
        """See `Live.waits`."""
        match self._last:
            case Finished(reason=FinishReason.TOOL_CALLS):
                calls = (*self._told.values(), *self._held)
                sound = not any(call.gone for call in calls)
            case Finished(reason=FinishReason.STOP):
                # What the agent did by itself, or answered itself, it remembers alone.
                sound = self._seen == self._ours and len(self._ours) <= self._called
            case _:
                sound = False
        return sound and self._agent.alive

    async def go_on(self, news: tuple[Said, ...]) -> None:
        """See `Live.go_on`."""
        if not self._agent.alive:
            raise await self._agent.crash()
        if self._told:
            results = {str(message.call_id): result_content(message) for message in news}
            texts = [part.get("text", "") for r in results.values() for part in r or ()]
            self._require_sayable(texts, whole=None not in results.values())
            if any(call.gone for call in self._told.values()):
                raise CliCrashedError("the agent has given up waiting for the results")
            self._start(silence_ends=True)
            for call_id, call in self._told.items():
                call.answer(results[call_id] or [])
            self._told = {}
            if self._held:
                self._events.extend(self._tell())
        else:
            blocks = said_since(news)
            texts = [block for block in blocks or () if isinstance(block, str)]
            self._require_sayable(texts, whole=blocks is not None)
            await self._ask(blocks or ("",))

    def _require_sayable(self, texts: Sequence[str], *, whole: bool) -> None:
        """Refuse what a session cannot be told, but a transcript can."""
        if not whole or (self._mark is not None and any(self._mark in text for text in texts)):
            raise CliCrashedError("the agent has no way to be told this where it is")

    async def __anext__(self) -> Event:
        while not self._events:
            if self._last is not None or self._messages is None:
                raise StopAsyncIteration
            try:
                message = await self._messages.receive()
            except anyio.EndOfStream:
                raise await self._agent.crash() from None
            self._events.extend(self._take(message))
        event = self._events.popleft()
        if isinstance(event, Finished | Failed):
            self._last = event
        return event

    async def _ask(self, blocks: tuple[Block, ...]) -> None:
        await self._prompt.aclose()
        told = blocks[1:] if blocks[0] == GUARD else blocks
        prompt = self._agent.prompt(self._supervisor, self._session, told, say=block_content)
        self._messages = await self._prompt.enter_async_context(prompt)
        self._start()

    def _start(self, *, silence_ends: bool = False) -> None:
        self._parser = AgentParser(silence_ends=silence_ends)
        self._last = None

    def _take(self, message: Message) -> list[Event]:
        if message.get("method") == _CALL:
            self._held.append(message["call"])
            return [] if self._told else self._tell()
        params = as_dict(message, "params")
        if message.get("method") == REFUSED:
            call = as_dict(params, "toolCall")
            self._parser.refused(str(call.get("title") or call.get("kind") or "a permission"))
            return []
        update = as_dict(params, "update")
        if str(update.get("sessionUpdate")).startswith("tool_call"):
            call_id = str(update.get("toolCallId"))
            self._seen.add(call_id)
            if self._is_ours(update):
                self._ours.add(call_id)
            if call_id in self._ours:
                return []
        return self._parser.feed(message)

    def _tell(self) -> list[Event]:
        """Return the events that tell of the calls that the agent waits for now."""
        while self._held and (self._parallel or not self._told):
            self._told[f"call_{secrets.token_hex(12)}"] = self._held.popleft()
        self._called += len(self._told)
        calls = [
            ToolCall(call_id, call.name, json.dumps(call.arguments, ensure_ascii=False))
            for call_id, call in self._told.items()
        ]
        return [*self._parser.paused(), *calls, Finished(FinishReason.TOOL_CALLS)]

    def _is_ours(self, call: Message) -> bool:
        """Whether the agent speaks of one of the caller's tools.

        Agents have no common word for it: they name tool and server in the title, or the tool
        with its arguments, or in a field `toolName` of their own. None of these is a command
        that a shell would take.
        """
        if call.get("kind") not in {None, "other"}:
            return False
        named = [call.get("title"), *_tool_names(call.get("_meta"))]
        return any(is_tool(str(said), name) for said in named for name in self._names)


def is_tool(said: str, name: str) -> bool:
    """Whether an agent's word for a tool means one of clinvk's server."""
    server, tool = re.escape(SERVER), re.escape(name)
    one = rf"(?:[A-Za-z]+: )?(?:mcp_{{1,2}})?{server}(?:__|[_./:-]){tool}"
    forms = rf"{one}|{tool} \({server} MCP Server\)(?:: .*)?"
    if re.fullmatch(forms, said) is not None:
        return True
    # To a shell the colon is a part of the command's name, and these have nothing to expand.
    called, colon, arguments = said.partition(": ")
    return called == name and bool(colon) and _is_plain_object(arguments)


def _is_plain_object(text: str) -> bool:
    if re.search(r"[$`\r\n]", text):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _tool_names(meta: object) -> list[object]:
    if not isinstance(meta, dict):
        return []
    inner = [value.get("toolName") for value in meta.values() if isinstance(value, dict)]
    return [meta.get("toolName"), *inner]


def methods(info: Message) -> str:
    """Return what the agent says of how to log in, and which ways `auth` could name."""
    told = as_dicts(info, "authMethods")
    how = [str(each.get("description") or each.get("name")) for each in told]
    ways = [repr(each.get("id")) for each in told if each.get("type") != "terminal"]
    named = f"; `auth` in backends.yaml may name one of {', '.join(ways)}" if ways else ""
    return f"{'; or '.join(how)}{named}"
