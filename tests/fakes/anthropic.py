"""A fake of the Anthropic Messages API: streams by script and remembers what was asked.

A `Reply` with status 200 and an `error` sends it as an event after the text; one whose `stop` is
`NO_END` ends its stream there.
"""

import asyncio
import json
from typing import Any

from aiohttp import web

from tests.fakes.api import Captured, FakeApi, Reply

NO_END = "no end"

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


class FakeAnthropic(FakeApi):
    """`POST /v1/messages`, streamed or not.

    `greeted` is set by `HEAD /`, with which each process of the CLI begins; `idle` is set while
    no stream is open.
    """

    def __init__(self) -> None:
        super().__init__()
        self.greeted = asyncio.Event()
        self.idle = asyncio.Event()
        self._calls = 0

    def add_routes(self, app: web.Application) -> None:
        app.router.add_route("HEAD", "/", self._head)
        app.router.add_post("/v1/messages", self._messages)

    @property
    def turns(self) -> list[Captured]:
        """The model requests alone."""
        return [request for request in self.requests if request.path.startswith("/v1/messages")]

    @property
    def body(self) -> dict[str, Any]:
        """The body of the last model request."""
        body: dict[str, Any] = self.turns[-1].body
        return body

    async def _head(self, _: web.Request) -> web.Response:
        self.greeted.set()
        return web.Response()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        captured = await self.capture(request)
        reply = self.script(captured)
        if reply.status != 200:
            return self._refuse(reply)
        if not captured.body.get("stream"):
            return web.json_response(_message(captured, reply, len(self.turns)))
        self.idle.clear()
        try:
            async with self.stream(request, reply) as response:
                await self._stream(captured, reply, request, response)
        finally:
            if not self.open:
                self.idle.set()
        return response

    async def _stream(
        self,
        captured: Captured,
        reply: Reply,
        request: web.Request,
        response: web.StreamResponse,
    ) -> None:
        async def send(event: dict[str, Any]) -> None:
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

        await send(
            {
                "type": "message_start",
                "message": _message(captured, reply, len(self.turns), empty=True),
            }
        )
        await send({"type": "ping"})
        index = 0
        if reply.thinking:
            await send(_open(index, {"type": "thinking", "thinking": "", "signature": ""}))
            for piece in reply.thinking:
                await send(_delta(index, {"type": "thinking_delta", "thinking": piece}))
            await send(_delta(index, {"type": "signature_delta", "signature": "c2ln"}))
            await send({"type": "content_block_stop", "index": index})
            index += 1
        if reply.text:
            await send(_open(index, {"type": "text", "text": ""}))
        for at, piece in enumerate(reply.text):
            await self.pace(reply, at, request)
            await send(_delta(index, {"type": "text_delta", "text": piece}))
        await self.pace(reply, len(reply.text), request)
        if reply.error is not None:
            await send(reply.error)
        if reply.error is not None or reply.stop == NO_END:
            return
        if reply.text:
            await send({"type": "content_block_stop", "index": index})
            index += 1
        for name, arguments in reply.tool_calls:
            block = {"type": "tool_use", "id": self._next_call_id(), "name": name, "input": {}}
            text = json.dumps(arguments)
            await send(_open(index, block))
            for piece in ("", text[:5], text[5:]):
                await send(_delta(index, {"type": "input_json_delta", "partial_json": piece}))
            await send({"type": "content_block_stop", "index": index})
            index += 1
        await send(
            {
                "type": "message_delta",
                "delta": {"stop_reason": _stop(reply), "stop_sequence": None},
                "usage": _usage(reply),
            }
        )
        await send({"type": "message_stop"})

    def _next_call_id(self) -> str:
        self._calls += 1
        return f"toolu_{self._calls - 1}"

    def _refuse(self, reply: Reply) -> web.Response:
        error = reply.error or {
            "type": "error",
            "error": {
                "type": _ERROR_TYPES.get(reply.status, "api_error"),
                "message": f"fake error {reply.status}",
            },
        }
        return web.json_response(error, status=reply.status, headers=reply.headers)


def _stop(reply: Reply) -> str:
    return reply.stop or ("tool_use" if reply.tool_calls else "end_turn")


def _usage(reply: Reply) -> dict[str, int]:
    return {
        "input_tokens": reply.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": reply.cached_tokens,
        "output_tokens": reply.output_tokens,
    }


def _message(
    captured: Captured, reply: Reply, number: int, *, empty: bool = False
) -> dict[str, Any]:
    content = [] if empty else [{"type": "text", "text": "".join(reply.text)}]
    usage = _usage(reply)
    return {
        "id": f"msg_fake_{number}",
        "type": "message",
        "role": "assistant",
        "model": captured.body["model"],
        "content": content,
        "stop_reason": None if empty else _stop(reply),
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 1} if empty else usage,
    }


def _open(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}
