"""One Claude Code process: set up after its start, given what was said before, asked.

Owns the order of lines on its pipes; what they say is claude_input's and claude_tools'.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from clinvk.backends import claude_tools
from clinvk.backends.claude_input import Line, Script
from clinvk.errors import CliCrashedError, CliProtocolError
from clinvk.procs.process import LineTooLongError, Process, ProcessGoneError

EXIT_GRACE_S = 1.0  # it leaves within 0.04 s of the end of its input
_SETUP = "setup"
_PING = "ping"

_log = logging.getLogger(__name__)


class ClaudeSession:
    """A running process; `initialize` may come long after the start, and comes once."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._lines = process.lines()
        self._tools: tuple[claude_tools.Definition, ...] = ()
        self._results: dict[str, claude_tools.Content] = {}
        self._calls: list[dict[str, Any]] = []

    async def initialize(self, script: Script) -> None:
        """Set the system text, the tools and the form; returns when the CLI is ready for messages.

        Raises:
            CliCrashedError: if it ended instead.
            CliProtocolError: if it refused.
        """
        request: dict[str, Any] = {"subtype": "initialize", "systemPrompt": script.instructions}
        if script.tools:
            self._tools = script.tools
            request["sdkMcpServers"] = [claude_tools.SERVER]
        if script.schema is not None:
            request["jsonSchema"] = script.schema
        await self._send(_request(_SETUP, request))
        reply = await self._reply(_SETUP)
        if reply.get("subtype") != "success":
            raise CliProtocolError(f"claude refused its setup: {reply.get('error')}")

    async def booted(self) -> None:
        """Return when the CLI has come up and waits for its setup.

        Raises:
            CliCrashedError: if it ended instead.
        """
        # Any request is answered then, also by "there is no such request".
        await self._send(_request(_PING, {"subtype": "mcp_status"}))
        await self._reply(_PING)

    async def ask(self, script: Script) -> None:
        """Say what was said before, and ask.

        Raises:
            CliCrashedError: if it ended instead.
            CliProtocolError: if it did not take what was said before.
        """
        for step in script.history:
            await self._send(step.line)
            if step.waits:
                await self._settled()
        await self._send(script.query)

    async def ask_more(self, query: Line) -> None:
        """Ask again in the same conversation, once the turn before has quite ended.

        Raises:
            CliCrashedError: if it ended instead.
            CliProtocolError: if that turn did not end as it seemed to.
        """
        await self._settled()
        await self._send(query)

    async def answer(self, results: Mapping[str, claude_tools.Content]) -> None:
        """Give the results of calls, by their ids; those not yet asked for are given when they are.

        Raises:
            CliCrashedError: if it ended instead.
        """
        self._results |= results
        calls, self._calls = self._calls, []
        for call in calls:
            await self._serve(call)

    async def next(self) -> dict[str, Any]:
        """Return the next message that is no request of the CLI's own; those are answered.

        Raises:
            CliCrashedError: if it ended instead.
            CliProtocolError: if a line is too long to be read.
        """
        while True:
            message = await self._read()
            if message.get("type") != "control_request":
                return message
            await self._serve(message)

    @property
    def alive(self) -> bool:
        """Whether the process runs, and has not been asked to stop."""
        return self.process.running

    def stop_soon(self) -> None:
        """Begin to stop the process; returns at once."""
        self.process.stop_soon()

    def leave(self, *, busy: bool) -> None:
        """Begin to stop the process; one that is not `busy` may first end by itself."""
        self.process.stop_soon(eof_grace_s=0.0 if busy else EXIT_GRACE_S)

    async def close(self) -> None:
        """Begin to stop the process, which ends its turn; waits for nothing."""
        self.process.stop_soon()
        await self._lines.aclose()

    async def _reply(self, ident: str) -> dict[str, Any]:
        while True:
            message = await self.next()
            reply = message.get("response")
            if message.get("type") != "control_response" or not isinstance(reply, dict):
                continue
            if reply.get("request_id", ident) == ident:
                return reply

    async def _settled(self) -> None:
        while True:
            message = await self.next()
            if message.get("type") == "result":
                if message.get("is_error"):
                    raise CliProtocolError(
                        f"claude did not take the conversation so far: {message.get('result')}"
                    )
                return

    async def _send(self, line: dict[str, Any]) -> None:
        try:
            await self.process.write(json.dumps(line).encode() + b"\n")
        except ProcessGoneError:
            raise await self._crash() from None

    async def _serve(self, message: dict[str, Any]) -> None:
        request = message.get("request")
        asked = request.get("message") if isinstance(request, dict) else None
        if not isinstance(asked, dict):
            _log.debug("skipped a request from pid %d", self.process.pid)
            return
        answer = claude_tools.reply(asked, self._tools, self._results)
        if answer is None:
            self._calls.append(message)
            return
        response = {
            "subtype": "success",
            "request_id": message.get("request_id"),
            "response": {"mcp_response": answer},
        }
        await self._send({"type": "control_response", "response": response})

    async def _read(self) -> dict[str, Any]:
        try:
            async for line in self._lines:
                try:
                    message = json.loads(line.decode("utf-8", "replace"))
                except (ValueError, RecursionError):
                    _log.debug("skipped a line that is not JSON from pid %d", self.process.pid)
                    continue
                if isinstance(message, dict):
                    return message
        except LineTooLongError as exc:
            raise CliProtocolError(f"claude wrote more than can be read: {exc}") from exc
        raise await self._crash()

    async def _crash(self) -> CliCrashedError:
        self.process.stop_soon()
        code = await self.process.stopped()
        said = self.process.stderr_tail
        return CliCrashedError(
            f"claude ended with exit code {code} before its answer did"
            + (f": {said}" if said else "; it gave no reason")
        )


def _request(ident: str, request: dict[str, Any]) -> dict[str, Any]:
    return {"type": "control_request", "request_id": ident, "request": request}
