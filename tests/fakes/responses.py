"""A fake of the OpenAI Responses API, streaming, as Codex uses it."""

import json
from collections.abc import Callable
from itertools import count
from typing import Any

from aiohttp import web

from tests.fakes.api import FakeApi, Reply


class FakeResponses(FakeApi):
    """Answers `POST /v1/responses` by script and lists `models` at `GET /v1/models`.

    A reply with status 200 and an `error` ends as `response.failed`; a `stop` makes it end as
    `response.incomplete` for that reason, but `refusal` says the text as a refusal. `hold` and
    `cut` count the tool calls after the first on from the text. A websocket upgrade is refused
    with 426.
    """

    def __init__(self) -> None:
        super().__init__()
        self.models: list[dict[str, Any]] = []
        self.other: list[str] = []
        self._ids = count(1)

    @property
    def base_url(self) -> str:
        """What a model provider's `base_url` must be."""
        return f"{self.url}/v1"

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/responses", self._responses)
        app.router.add_get("/v1/models", self._models)
        app.router.add_route("*", "/{rest:.*}", self._unknown)

    async def _models(self, request: web.Request) -> web.Response:
        self.other.append(f"{request.method} {request.path}")
        return web.json_response({"models": self.models, "data": [], "object": "list"})

    async def _unknown(self, request: web.Request) -> web.Response:
        self.other.append(f"{request.method} {request.path}")
        status = 426 if request.headers.get("Upgrade") else 404
        return web.json_response({"error": {"message": "not served here"}}, status=status)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        reply = self.script(await self.capture(request))
        if reply.status != 200:
            return web.json_response(
                {"error": reply.error or {"message": f"the fake says {reply.status}"}},
                status=reply.status,
                headers=reply.headers,
            )
        number = next(self._ids)
        async with self.stream(request, reply) as response:
            stream = _Stream(response.write, f"resp_{number}")
            await stream.send("response.created", response=stream.response("in_progress"))
            await stream.reasoning(reply.thinking)
            if reply.stop == "refusal":
                await stream.refusal(reply.text)
            else:
                await self._text(stream, reply, request)
            for at, call in enumerate(reply.tool_calls):
                if at:
                    await self.pace(reply, len(reply.text) + at, request)
                await stream.call(at, *call)
            await stream.end(reply)
        return response

    async def _text(self, stream: "_Stream", reply: Reply, request: web.Request) -> None:
        if not reply.text and reply.cut is None and reply.hold is None:
            return
        item = {"type": "message", "role": "assistant", "id": f"msg_{stream.id}"}
        opened = False
        for at, piece in enumerate((*reply.text, None)):
            await self.pace(reply, at, request)
            if piece is None:
                break
            if not opened:
                opened = True
                await stream.send(
                    "response.output_item.added",
                    output_index=1,
                    item={**item, "status": "in_progress", "content": []},
                )
            await stream.send(
                "response.output_text.delta",
                item_id=item["id"],
                output_index=1,
                content_index=0,
                delta=piece,
            )
        content = [{"type": "output_text", "text": "".join(reply.text), "annotations": []}]
        await stream.done({**item, "status": "completed", "content": content})


class _Stream:
    """Writes the events of one response."""

    def __init__(self, write: Callable[[bytes], Any], ident: str) -> None:
        self._write = write
        self.id = ident
        self._sequence = count()
        self._output: list[dict[str, Any]] = []

    async def send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "sequence_number": next(self._sequence), **fields}
        await self._write(f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode())

    def response(self, status: str, **fields: Any) -> dict[str, Any]:
        return {"id": self.id, "object": "response", "status": status, **fields}

    async def done(self, item: dict[str, Any]) -> None:
        self._output.append(item)
        await self.send("response.output_item.done", output_index=len(self._output), item=item)

    async def reasoning(self, pieces: tuple[str, ...]) -> None:
        if not pieces:
            return
        item = {"type": "reasoning", "id": f"rs_{self.id}", "summary": []}
        await self.send("response.output_item.added", output_index=0, item=item)
        place = {"item_id": item["id"], "output_index": 0, "summary_index": 0}
        await self.send("response.reasoning_summary_part.added", **place)
        for piece in pieces:
            await self.send("response.reasoning_summary_text.delta", **place, delta=piece)
        summary = [{"type": "summary_text", "text": "".join(pieces)}]
        await self.done({**item, "summary": summary, "encrypted_content": None})

    async def refusal(self, pieces: tuple[str, ...]) -> None:
        item = {"type": "message", "role": "assistant", "id": f"msg_{self.id}"}
        place = {"item_id": item["id"], "output_index": 1, "content_index": 0}
        await self.send("response.output_item.added", output_index=1, item={**item, "content": []})
        for piece in pieces:
            await self.send("response.refusal.delta", **place, delta=piece)
        content = [{"type": "refusal", "refusal": "".join(pieces)}]
        await self.done({**item, "status": "completed", "content": content})

    async def call(self, at: int, name: str, arguments: dict[str, Any] | str) -> None:
        said = arguments if isinstance(arguments, str) else json.dumps(arguments)
        item = {
            "type": "function_call",
            "id": f"fc_{self.id}_{at}",
            "call_id": f"call_{self.id}_{at}",
            "name": name,
        }
        place = {"item_id": item["id"], "output_index": 2 + at}
        start = {**item, "arguments": "", "status": "in_progress"}
        await self.send("response.output_item.added", output_index=2 + at, item=start)
        for piece in (said[:5], said[5:]):
            await self.send("response.function_call_arguments.delta", **place, delta=piece)
        await self.send("response.function_call_arguments.done", **place, arguments=said)
        await self.done({**item, "arguments": said, "status": "completed"})

    async def end(self, reply: Reply) -> None:
        usage = {
            "input_tokens": reply.input_tokens,
            "input_tokens_details": {"cached_tokens": reply.cached_tokens},
            "output_tokens": reply.output_tokens,
            "output_tokens_details": {"reasoning_tokens": reply.reasoning_tokens},
            "total_tokens": reply.input_tokens + reply.output_tokens,
        }
        if reply.error is not None:
            response = self.response("failed", error=reply.error, usage=None)
            await self.send("response.failed", response=response)
        elif reply.stop not in (None, "refusal"):
            details = {"reason": reply.stop}
            response = self.response("incomplete", incomplete_details=details, usage=usage)
            await self.send("response.incomplete", response=response)
        else:
            response = self.response("completed", output=self._output, usage=usage)
            await self.send("response.completed", response=response)
