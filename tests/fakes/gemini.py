"""A fake of the Gemini API: streams by script and remembers what was asked."""

import asyncio
import json
from typing import Any

from aiohttp import web

from tests.fakes.api import Captured, FakeApi, Reply

_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
PROMPT_BLOCKED = "PROMPT_BLOCKED"  # as Reply.stop: no candidate at all, only promptFeedback
NO_END = "NO_END"  # as Reply.stop: the stream ends without a finish reason


class FakeGemini(FakeApi):
    """`POST /v1beta/models/MODEL:METHOD` for the three methods that the CLI calls.

    `idle` is set while no stream is open.
    """

    def __init__(self) -> None:
        super().__init__()
        self.idle = asyncio.Event()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1beta/models/{call}", self._call)

    def wrap(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return a chunk as this API sends it."""
        return chunk

    @property
    def turns(self) -> list[Captured]:
        """The streamed model requests alone."""
        return [call for call in self.requests if ":streamGenerateContent" in call.path]

    @property
    def body(self) -> dict[str, Any]:
        """The body of the last model request."""
        body: dict[str, Any] = self.turns[-1].body
        return body

    @property
    def model(self) -> str:
        """The model of the last request."""
        return self.turns[-1].path.partition("/models/")[2].partition(":")[0]

    def texts(self, at: int = -1) -> list[str]:
        """The text parts of one request's contents, all roles, in order."""
        contents = self.turns[at].body["contents"]
        return [part["text"] for content in contents for part in content["parts"]]

    async def _call(self, request: web.Request) -> web.StreamResponse:
        captured = await self.capture(request)
        method = request.match_info["call"].partition(":")[2]
        if method == "countTokens":
            return web.json_response({"totalTokens": 10})
        reply = self.script(captured)
        if reply.status != 200:
            return self._refuse(reply)
        if method == "generateContent":
            return web.json_response(_chunk(reply, [{"text": "".join(reply.text)}], last=True))
        return await self.stream_reply(reply, request)

    async def stream_reply(self, reply: Reply, request: web.Request) -> web.StreamResponse:
        """Stream a reply, chunk by chunk."""
        self.idle.clear()
        try:
            async with self.stream(request, reply) as response:
                await self._stream(reply, request, response)
        finally:
            if not self.open:
                self.idle.set()
        return response

    async def _stream(
        self, reply: Reply, request: web.Request, response: web.StreamResponse
    ) -> None:
        async def send(chunk: dict[str, Any]) -> None:
            data = json.dumps(self.wrap(chunk)).encode()
            await response.write(b"data: " + data + b"\r\n\r\n")

        if reply.stop == PROMPT_BLOCKED:
            await send(
                {
                    "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
                    "usageMetadata": {"promptTokenCount": reply.input_tokens},
                }
            )
            return
        for piece in reply.thinking:
            await send(_chunk(reply, [{"text": piece, "thought": True}]))
        for at, piece in enumerate(reply.text):
            await self.pace(reply, at, request)
            await send(_chunk(reply, [{"text": piece}]))
        await self.pace(reply, len(reply.text), request)
        for name, arguments in reply.tool_calls:
            await send(_chunk(reply, [{"functionCall": {"name": name, "args": arguments}}]))
        if reply.stop != NO_END:
            await send(_chunk(reply, [{"text": ""}], last=True))

    def _refuse(self, reply: Reply) -> web.Response:
        error = reply.error or {
            "error": {
                "code": reply.status,
                "message": f"fake error {reply.status}",
                "status": _STATUS_NAMES.get(reply.status, "INTERNAL"),
            }
        }
        return web.json_response(error, status=reply.status, headers=reply.headers)


def _chunk(reply: Reply, parts: list[dict[str, Any]], *, last: bool = False) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    usage = {"promptTokenCount": reply.input_tokens, "totalTokenCount": reply.input_tokens}
    if last:
        candidate["finishReason"] = reply.stop or "STOP"
        usage = {
            "promptTokenCount": reply.input_tokens,
            "candidatesTokenCount": reply.output_tokens,
            "totalTokenCount": reply.input_tokens + reply.output_tokens + reply.reasoning_tokens,
        }
        if reply.cached_tokens:
            usage["cachedContentTokenCount"] = reply.cached_tokens
        if reply.reasoning_tokens:
            usage["thoughtsTokenCount"] = reply.reasoning_tokens
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": "gemini-fake-001",
        "responseId": "fake-response",
    }
