"""A bare harness for each real CLI: the least code that asks a process that is already up.

It speaks the protocol that clinvk speaks, to a process started as clinvk starts it, and knows no
more of it than an answer needs: what clinvk takes longer than this is clinvk's own.
"""

import asyncio
import contextlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Any, ClassVar

from benchmarks.processes import BenchmarkError
from benchmarks.real import Start
from benchmarks.told import Timed, Told

HUNG_S = 60.0
_LINE_LIMIT = 1 << 26

Message = dict[str, Any]


class Lines:
    """A process that is written to and read from in lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, start: Start, argv: list[str] | None = None) -> "Lines":
        """Start a process; `argv` stands in for the noted one."""
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *(argv or start.argv),
            stdin=pipe,
            stdout=pipe,
            stderr=null,
            env=start.env,
            cwd=start.cwd,
            limit=_LINE_LIMIT,
        )
        return cls(process)

    def send(self, message: Message) -> None:
        """Write a line."""
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes, *, last: bool = False) -> None:
        """Write bytes; no more come after the last."""
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        if last:
            self._process.stdin.close()

    async def next(self) -> Message:
        """Return the next line that is JSON.

        Raises:
            BenchmarkError: if there is none any more.
        """
        assert self._process.stdout is not None
        async with asyncio.timeout(HUNG_S):
            while line := await self._process.stdout.readline():
                with contextlib.suppress(ValueError):
                    message = json.loads(line)
                    if isinstance(message, dict):
                        return message
        raise BenchmarkError("a bare CLI ended before its answer did")

    async def stop(self) -> None:
        """Stop the process and wait for its end."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            async with asyncio.timeout(HUNG_S / 6):
                await self._process.communicate()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class Bare(ABC):
    """One CLI: `new` begins a conversation, `again` goes on with it."""

    def __init__(self, start: Start) -> None:
        self.start = start

    @abstractmethod
    async def prepare(self) -> None:
        """Have a process wait for the next conversation; nobody waits for this."""

    @abstractmethod
    async def new(self, asked: str) -> Told:
        """Ask in a new conversation."""

    @abstractmethod
    async def again(self, asked: str) -> Told:
        """Ask in the last conversation."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop what runs."""


_SET_UP: Message = {"subtype": "initialize", "systemPrompt": ""}


class Claude(Bare):
    """A process a conversation, started and set up ahead."""

    ahead: ClassVar[Message] = _SET_UP

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._ready: Lines | None = None
        self._used: Lines | None = None

    async def prepare(self) -> None:
        """Start the next process, and end the last."""
        if self._ready is None:
            self._ready = await Lines.start(self.start)
            await self._control(self._ready, self.ahead)

    async def new(self, asked: str) -> Told:
        """Ask the process that waits."""
        assert self._ready is not None
        if self._used is not None:
            await self._used.stop()
        self._used, self._ready = self._ready, None
        return await self.again(asked)

    async def again(self, asked: str) -> Told:
        """Ask the process that answered before."""
        assert self._used is not None
        timed = Timed()
        self._used.send({"type": "user", "message": {"role": "user", "content": asked}})
        while (message := await self._used.next()).get("type") != "result":
            timed.say(claude_text(message))
        return timed.end()

    @staticmethod
    async def _control(process: Lines, request: Message) -> None:
        process.send({"type": "control_request", "request_id": "r", "request": request})
        while (await process.next()).get("type") != "control_response":
            pass

    async def stop(self) -> None:
        """Stop both."""
        for process in (self._ready, self._used):
            if process is not None:
                await process.stop()


class LateClaude(Claude):
    """A process started ahead, and set up once its system text is known: it takes only one."""

    ahead: ClassVar[Message] = {"subtype": "mcp_status"}

    async def new(self, asked: str) -> Told:
        """Set up the process that waits, and ask it."""
        assert self._ready is not None
        began = time.perf_counter()
        await self._control(self._ready, _SET_UP)
        late_s = time.perf_counter() - began
        told = await super().new(asked)
        told.first_s += late_s
        told.whole_s += late_s
        return told


def claude_text(message: Message) -> str:
    """Return the text of a delta of Claude Code's, an empty one for any other message."""
    event = message.get("event") or {}
    delta = event.get("delta") or {}
    return str(delta.get("text", "")) if event.get("type") == "content_block_delta" else ""


class _Rpc(Bare):
    """One process for all conversations, that speaks JSON-RPC."""

    header: ClassVar[Message] = {}

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._lines: Lines | None = None
        self._numbers = count(1)

    async def request(
        self, method: str, params: Message, hear: Callable[[Message], object] = lambda _: None
    ) -> Message:
        """Ask, and return the result; what comes before it is heard."""
        number = self.send(method, params)
        while (message := await self.next()).get("id") != number:
            hear(message)
        if "result" not in message:
            raise BenchmarkError(f"{method} failed: {message}")
        result: Message = message["result"]
        return result

    def send(self, method: str, params: Message) -> int:
        """Ask, and return the number that the reply will have."""
        assert self._lines is not None
        number = next(self._numbers)
        self._lines.send({**self.header, "id": number, "method": method, "params": params})
        return number

    async def next(self) -> Message:
        """Return the next message."""
        assert self._lines is not None
        return await self._lines.next()

    async def stop(self) -> None:
        """Stop the process."""
        if self._lines is not None:
            await self._lines.stop()


class Codex(_Rpc):
    """An app-server, a thread for each conversation."""

    _thread = ""

    async def prepare(self) -> None:
        """Start the server, once."""
        if self._lines is None:
            self._lines = await Lines.start(self.start)
            client = {"name": "bare", "title": "bare", "version": "0"}
            capabilities = {"experimentalApi": True}
            await self.request("initialize", {"clientInfo": client, "capabilities": capabilities})
            self._lines.send({"method": "initialized"})

    async def new(self, asked: str) -> Told:
        """Ask in a thread of its own."""
        timed = Timed()
        started = await self.request(
            "thread/start",
            {
                "cwd": str(self.start.cwd),
                "ephemeral": True,
                "approvalPolicy": "never",
                "sandbox": "read-only",
                "environments": [],
                "baseInstructions": "",
                "config": {},
            },
        )
        self._thread = started["thread"]["id"]
        return await self._turn(asked, timed)

    async def again(self, asked: str) -> Told:
        """Ask in the same thread."""
        return await self._turn(asked, Timed())

    async def _turn(self, asked: str, timed: Timed) -> Told:
        place = {"threadId": self._thread}
        content = [{"type": "input_text", "text": asked}]
        item = {"type": "message", "role": "user", "content": content}
        await self.request("thread/inject_items", {**place, "items": [item]})
        self.send("turn/start", {**place, "input": []})
        while (message := await self.next()).get("method") != "turn/completed":
            if message.get("method") == "item/agentMessage/delta":
                timed.say(message["params"]["delta"])
        return timed.end()


class Gemini(_Rpc):
    """An agent of the Agent Client Protocol, a session for each conversation."""

    header: ClassVar[Message] = {"jsonrpc": "2.0"}
    _session = ""

    async def prepare(self) -> None:
        """Start the agent, once."""
        if self._lines is None:
            self._lines = await Lines.start(self.start)
            files = {"readTextFile": False, "writeTextFile": False}
            capabilities = {"fs": files, "terminal": False}
            await self.request(
                "initialize", {"protocolVersion": 1, "clientCapabilities": capabilities}
            )

    async def new(self, asked: str) -> Told:
        """Ask in a session of its own."""
        timed = Timed()
        opened = await self.request("session/new", {"cwd": str(self.start.cwd), "mcpServers": []})
        self._session = opened["sessionId"]
        return await self._prompt(asked, timed)

    async def again(self, asked: str) -> Told:
        """Ask in the same session."""
        return await self._prompt(asked, Timed())

    async def _prompt(self, asked: str, timed: Timed) -> Told:
        def hear(message: Message) -> None:
            update = (message.get("params") or {}).get("update") or {}
            if update.get("sessionUpdate") == "agent_message_chunk":
                timed.say(update["content"].get("text"))

        prompt = [{"type": "text", "text": asked}]
        await self.request("session/prompt", {"sessionId": self._session, "prompt": prompt}, hear)
        return timed.end()


BARE: dict[str, type[Bare]] = {"claude": Claude, "codex": Codex, "gemini": Gemini}
# What a system text that is known only when it is asked costs by itself.
LATE: dict[str, type[Bare]] = {"claude": LateClaude}
