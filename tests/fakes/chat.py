"""A fake of the Chat Completions API: streams by script and remembers what was asked.

A `Reply` with status 200 and an `error` sends it as a chunk after the text; one whose `stop` is
`NO_END` ends its stream there.
"""

import json
from typing import Any

from aiohttp import web

from tests.fakes.api import FakeApi, Reply

NO_END = "no end"


class FakeChat(FakeApi):
    """`POST /v1/chat/completions`, streamed, and `GET /v1/models`, which lists `models`.

    `POST /v1/embeddings` gives one vector.

    `whole` is a body to answer with in place of a stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self.models: list[str] = ["m"]
        self.listed: Any = None
        self.listing = 200
        self.peer: Any = None
        self.whole: str | None = None
        self.whole_status = 200

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/moved/chat/completions", self._move)
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/embeddings", self._embed)

    async def _list(self, request: web.Request) -> web.Response:
        await self.capture(request)
        data = [{"id": each, "object": "model"} for each in self.models]
        listed = {"object": "list", "data": data} if self.listed is None else self.listed
        return web.json_response(listed, status=self.listing)

    async def _embed(self, request: web.Request) -> web.Response:
        captured = await self.capture(request)
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}
        told = {"object": "list", "data": [vector], "model": captured.body["model"]}
        return web.json_response({**told, "usage": {"prompt_tokens": 1, "total_tokens": 1}})

    async def _move(self, _: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "/v1/chat/completions"})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        captured = await self.capture(request)
        self.peer = request.transport and request.transport.get_extra_info("peername")
        if self.whole is not None:
            return web.Response(text=self.whole, status=self.whole_status)
        reply = self.script(captured)
        if reply.status != 200:
            error = {"error": reply.error}
            return web.json_response(error, status=reply.status, headers=reply.headers)
        async with self.stream(request, reply) as response:
            for at, chunk in enumerate(_chunks(reply)):
                if at >= len(reply.thinking):
                    await self.pace(reply, at - len(reply.thinking), request)
                await _send(response, {"model": captured.body["model"], **chunk})
            if reply.error is not None:
                await _send(response, {"error": reply.error})
            elif reply.stop != NO_END:
                await response.write(b"data: [DONE]\n\n")
        return response


def _chunks(reply: Reply) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"reasoning_content": piece} for piece in reply.thinking]
    deltas += [{"content": piece} for piece in reply.text]
    for index, (name, arguments) in enumerate(reply.tool_calls):
        text = json.dumps(arguments)
        function = {"name": name, "arguments": ""}
        deltas.append(_call(index, id=f"call_{index}", type="function", function=function))
        deltas += [_call(index, function={"arguments": part}) for part in (text[:3], text[3:])]
    chunks = [{"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    if reply.error is not None or reply.stop == NO_END:
        return chunks
    reason = reply.stop or ("tool_calls" if reply.tool_calls else "stop")
    usage = {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reply.reasoning_tokens},
    }
    end: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return [*chunks, end, {"choices": [], "usage": usage}]


def _call(index: int, **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **fields}]}


async def _send(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
