"""Functions of a caller's that a CLI's model may call, served to the CLI as an MCP server.

Owns the protocol: MCP over streamable HTTP with plain JSON replies, on a loopback port of its
own, which toolbridge leads to over stdin and stdout. Each offer has an address that nobody can
guess and a secret of its own, so that a CLI sees what was offered to it and nothing else. A call
is held until it is answered or the offer ends. Knows no CLI, and runs nothing.
"""

import hmac
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from aiohttp import web

from clinvk import toolbridge
from clinvk.procs.supervisor import Supervisor
from clinvk.toolbridge import SECRET_HEADER

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"
HEARTBEAT_S = 20.0  # Node's fetch gives a silent reply up after 60 s, or as its user has set it
MAX_BODY_BYTES = 64 * 1024 * 1024
CLOSE_S = 0.1

_INVALID_REQUEST = -32600
_METHOD_NOT_FOUND = -32601
_INVALID_PARAMS = -32602
_ENDED = -32000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function as the CLI gets it; `schema` is a JSON Schema of an object."""

    name: str
    description: str
    schema: Json


class Call:
    """A call that the CLI waits for; `gone` once it has given up waiting."""

    def __init__(self, name: str, arguments: Json) -> None:
        self.name = name
        self.arguments = arguments
        self.gone = False
        self.content: list[Json] | None = None
        self.settled = anyio.Event()

    def answer(self, content: list[Json]) -> None:
        """Give the CLI its result, as MCP content blocks; returns at once."""
        self.content = content
        self.settled.set()


class Offer:
    """What one CLI session may call, and where."""

    def __init__(
        self, address: str, tools: Sequence[Tool], on_call: Callable[[Call], None]
    ) -> None:
        self.url = address
        self.headers = {SECRET_HEADER: secrets.token_urlsafe(32)}
        self.listing = anyio.Event()
        self._tools = {tool.name: tool for tool in tools}
        self._on_call = on_call
        self._open: dict[Call, object] = {}
        self._closed = False

    @property
    def bridge(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """A command, and its environment, that serves the same over its stdin and stdout."""
        [secret] = self.headers.values()
        return toolbridge.COMMAND, {toolbridge.URL: self.url, toolbridge.SECRET: secret}

    @property
    def listed(self) -> bool:
        """Whether the CLI has asked which tools there are."""
        return self.listing.is_set()

    def reply(self, message: Json) -> Json | Call | None:
        """Return the answer to a message, None to a notification, or the call it is."""
        if self._closed:  # while the message was read
            return _error(message, _ENDED, "the caller has left")
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        match message.get("method"):
            case "tools/call":
                return self._called(message, params)
            case "tools/list":
                self.listing.set()
                tools = [
                    {"name": t.name, "description": t.description, "inputSchema": t.schema}
                    for t in self._tools.values()
                ]
                return _result(message, {"tools": tools})
            case "initialize":
                return _result(
                    message,
                    {
                        "protocolVersion": params.get("protocolVersion"),
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "clinvk", "version": "1"},
                    },
                )
            case "ping":
                return _result(message, {})
            case toolbridge.UNTIL_END:
                held = Call("", {})
                self._open[held] = None
                return held
            case "notifications/cancelled":
                for call, number in self._open.items():
                    call.gone |= number == params.get("requestId")
                return None
            case str() if "id" not in message:
                return None
            case method:
                return _error(message, _METHOD_NOT_FOUND, f"there is no method {method!r}")

    def done(self, call: Call) -> None:
        """Forget a call whose connection has ended."""
        del self._open[call]
        call.gone |= not call.settled.is_set()

    def close(self) -> None:
        """Leave every call unanswered that is still held, and hold none any more."""
        self._closed = True
        for call in self._open:
            call.settled.set()

    def _called(self, message: Json, params: Json) -> Json | Call:
        name, arguments = params.get("name"), params.get("arguments") or {}
        known = isinstance(name, str) and name in self._tools
        if not known or not isinstance(arguments, dict):
            return _error(message, _INVALID_PARAMS, f"there is no tool {name!r}")
        call = Call(str(name), arguments)
        self._open[call] = message.get("id")
        self._on_call(call)
        return call


class ToolServer:
    """The HTTP server; it starts with the first offer and ends with the supervisor."""

    def __init__(self, supervisor: Supervisor, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._supervisor = supervisor
        self._heartbeat_s = heartbeat_s
        self._offers: dict[str, Offer] = {}
        self._starting = anyio.Lock()
        self._host = ""

    @asynccontextmanager
    async def offer(
        self, tools: Sequence[Tool], on_call: Callable[[Call], None]
    ) -> AsyncIterator[Offer]:
        """Serve tools at an address of their own; leaving ends it and drops the held calls.

        `on_call` is told of each call as it comes, and must not wait.
        """
        async with self._starting:
            if not self._host:
                self._host = await self._start()
        path = f"/{secrets.token_urlsafe(32)}"
        offer = self._offers[path] = Offer(f"http://{self._host}{path}", tools, on_call)
        try:
            yield offer
        finally:
            del self._offers[path]
            offer.close()

    async def _start(self) -> str:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=CLOSE_S
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, 0).start()
        except BaseException:
            await runner.cleanup()
            raise
        port = runner.addresses[0][1]
        self._supervisor.start(lambda: self._hold(runner))
        return f"{HOST}:{port}"

    async def _hold(self, runner: web.AppRunner) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._host = ""
            with anyio.CancelScope(shield=True):
                await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        offer = self._offers.get(request.path)
        if offer is None or request.host != self._host:
            raise web.HTTPNotFound
        [secret] = offer.headers.values()
        if not hmac.compare_digest(
            request.headers.get(SECRET_HEADER, "").encode("utf-8", "replace"), secret.encode()
        ):
            raise web.HTTPForbidden
        if (
            request.method != "POST"
        ):  # a client may ask for a stream of notifications: there is none
            raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        try:
            message = json.loads(await request.read())
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            return web.json_response(
                _error({}, _INVALID_REQUEST, "a JSON object is needed"), status=400
            )
        answer = offer.reply(message)
        if isinstance(answer, Call):
            return await self._hold_call(request, message, offer, answer)
        return web.Response(status=202) if answer is None else web.json_response(answer)

    async def _hold_call(
        self, request: web.Request, message: Json, offer: Offer, call: Call
    ) -> web.StreamResponse:
        """Keep the connection alive by blanks, which may stand before JSON, until the answer."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            while not call.settled.is_set():
                await response.write(b" ")
                with anyio.move_on_after(self._heartbeat_s):
                    await call.settled.wait()
            if call.content is None:
                answer = _error(message, _ENDED, "the caller has left")
            else:
                answer = _result(message, {"content": call.content})
            await response.write_eof(json.dumps(answer).encode())
        except ConnectionError:
            _log.debug("nobody was left to hear the result of a call")
        finally:
            offer.done(call)
        return response


def reachable(env: Mapping[str, str]) -> dict[str, str]:
    """Return a child's environment in which no proxy stands before the server."""
    spared = env.get("NO_PROXY", env.get("no_proxy", ""))
    if spared == "*":
        return dict(env)
    return {**env, "NO_PROXY": ",".join(filter(None, (spared, HOST)))}


def _result(message: Json, result: Json) -> Json:
    return {"jsonrpc": "2.0", "id": message.get("id"), "result": result}


def _error(message: Json, code: int, said: str) -> Json:
    return {"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": code, "message": said}}
