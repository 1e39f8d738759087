"""A JSON-RPC peer over a child's stdin and stdout, one object a line.

Owns ids, replies and routing; knows no method. Codex leaves the `jsonrpc` field out, ACP
agents require it: `version` says which.
"""

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup

from clinvk.procs.lines import LineTooLongError
from clinvk.procs.process import Process, ProcessGoneError

METHOD_NOT_FOUND = -32601

_log = logging.getLogger(__name__)

OnNotification = Callable[[str, dict[str, Any]], None]
OnRequest = Callable[[int | str, str, dict[str, Any]], Awaitable[None]]
OnNoise = Callable[[bytes], None]


class RpcError(Exception):
    """The peer answered a request with an error."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data


class RpcClosedError(Exception):
    """The peer is gone, or closed its side; no reply will come."""


class _Pending:
    __slots__ = ("done", "error", "result")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.result: Any = None
        self.error: Exception | None = None


class RpcPeer:
    """Requests to and from one child.

    `on_notification` must not wait. `on_request` answers by `reply` or `refuse`; without it
    every incoming request is refused as unknown. `on_noise` is told of each line that is not
    JSON, which is skipped.
    """

    def __init__(
        self,
        process: Process,
        *,
        version: str | None,
        on_notification: OnNotification,
        on_request: OnRequest | None = None,
        on_noise: OnNoise | None = None,
    ) -> None:
        self.process = process
        self._header: dict[str, str] = {} if version is None else {"jsonrpc": version}
        self._on_notification = on_notification
        self._on_request = on_request
        self._on_noise = on_noise
        self._pending: dict[int, _Pending] = {}
        self._next_id = 0
        self._closed: RpcClosedError | None = None

    @property
    def closed(self) -> bool:
        """Whether the reading side has ended."""
        return self._closed is not None

    async def serve(self) -> None:
        """Read and route lines until the child closes its stdout, then fail what is pending."""
        reason = "the process closed its output"
        try:
            # What the child asks is answered beside the reader: a child that waits for us to
            # read would not take the answer.
            async with anyio.create_task_group() as answers:
                try:
                    async for line in self.process.lines():
                        self._route(line, answers)
                except LineTooLongError as exc:
                    reason = str(exc)
                answers.cancel_scope.cancel()
        finally:
            self._closed = RpcClosedError(reason)
            for pending in self._pending.values():
                pending.error = self._closed
                pending.done.set()
            self._pending.clear()

    async def request(self, method: str, params: dict[str, Any] | None = None) -> Any:  # noqa: ANN401 - JSON
        """Send a request and return its result.

        Raises:
            RpcError: if the peer answers with an error.
            RpcClosedError: if the peer goes before it answers.
        """
        if self._closed is not None:
            raise self._closed
        self._next_id += 1
        number = self._next_id
        pending = self._pending[number] = _Pending()
        try:
            await self._send({"id": number, "method": method, "params": params or {}})
            await pending.done.wait()
        finally:
            self._pending.pop(number, None)
        if pending.error is not None:
            raise pending.error
        return pending.result

    async def notify(self, method: str, params: dict[str, Any] | None = None) -> None:
        """Send a notification.

        Raises:
            RpcClosedError: if the peer is gone.
        """
        message: dict[str, Any] = {"method": method}
        if params is not None:
            message["params"] = params
        await self._send(message)

    async def reply(self, number: int | str, result: object) -> None:
        """Answer an incoming request."""
        await self._send({"id": number, "result": result})

    async def refuse(self, number: int | str, code: int, message: str) -> None:
        """Answer an incoming request with an error."""
        await self._send({"id": number, "error": {"code": code, "message": message}})

    async def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps({**self._header, **message}).encode() + b"\n"
        try:
            await self.process.write(data)
        except ProcessGoneError as exc:
            raise RpcClosedError("the process no longer takes input") from exc

    def _route(self, line: bytes, answers: TaskGroup) -> None:
        try:
            message = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            _log.debug("skipped a line that is not JSON from pid %d", self.process.pid)
            if self._on_noise is not None:
                self._on_noise(line)
            return
        for each in message if isinstance(message, list) else [message]:
            if isinstance(each, dict):
                self._take(each, answers)

    def _take(self, message: dict[str, Any], answers: TaskGroup) -> None:
        method = message.get("method")
        if not isinstance(method, str):
            self._settle(message)
            return
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        number = message.get("id")
        if number is None:
            self._on_notification(method, params)
        else:
            answers.start_soon(self._answer, number, method, params)

    async def _answer(self, number: int | str, method: str, params: dict[str, Any]) -> None:
        try:
            if self._on_request is None:
                await self.refuse(number, METHOD_NOT_FOUND, f"{method!r} is not known here")
            else:
                await self._on_request(number, method, params)
        except RpcClosedError:
            _log.debug("pid %d was gone before %s was answered", self.process.pid, method)

    def _settle(self, message: dict[str, Any]) -> None:
        number = message.get("id")
        pending = self._pending.get(number) if isinstance(number, int) else None
        if pending is None:
            _log.debug("pid %d answered a request nobody made: %r", self.process.pid, number)
            return
        error = message.get("error")
        if isinstance(error, dict):
            code = error.get("code")
            pending.error = RpcError(
                code if isinstance(code, int) else 0,
                str(error.get("message", "")),
                error.get("data"),
            )
        else:
            pending.result = message.get("result")
        pending.done.set()


__all__ = ["METHOD_NOT_FOUND", "RpcClosedError", "RpcError", "RpcPeer"]
