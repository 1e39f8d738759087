"""A bare relay between HTTP and the stand-in for codex: the least that a server can do.

It checks nothing, limits nothing and stops nothing; what clinvk takes longer than this is what
its promises cost. The same library, the same protocol, the same deltas.
"""

import asyncio
import json
from itertools import count
from typing import Any

from aiohttp import web

from benchmarks.processes import API, FAKE_CODEX

_LINE_LIMIT = 1 << 24

Message = dict[str, Any]


class Relay:
    """One app-server and the requests that wait on it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = count(1)
        self._replies: dict[int, asyncio.Future[Message]] = {}
        self._inboxes: dict[str, asyncio.Queue[Message]] = {}

    async def read(self) -> None:
        """Route what the CLI says, until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if "method" not in message:
                self._replies.pop(message["id"]).set_result(message["result"])
            elif inbox := self._inboxes.get(message["params"].get("threadId")):
                inbox.put_nowait(message)

    async def request(self, method: str, **params: Any) -> Message:  # noqa: ANN401 - JSON
        """Ask the CLI."""
        number = next(self._numbers)
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        message = {"id": number, "method": method, "params": params}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        return await reply

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat completion request."""
        body = await request.json()
        started = await self.request("thread/start", ephemeral=True, model="fake-codex")
        thread = started["thread"]["id"]
        inbox = self._inboxes[thread] = asyncio.Queue()
        text = [{"type": "input_text", "text": body["messages"][-1]["content"]}]
        items = [{"type": "message", "role": "user", "content": text}]
        await self.request("thread/inject_items", threadId=thread, items=items)
        await self.request("turn/start", threadId=thread, input=[])
        if not body.get("stream"):
            content = "".join([delta async for delta in self._deltas(inbox)])
            message = {"role": "assistant", "content": content}
            reply: web.StreamResponse = web.json_response(
                {"choices": [{"index": 0, "message": message}]}
            )
        else:
            reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await reply.prepare(request)
            async for delta in self._deltas(inbox):
                chunk = {"choices": [{"index": 0, "delta": {"content": delta}}]}
                await reply.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            await reply.write(b"data: [DONE]\n\n")
            await reply.write_eof()
        del self._inboxes[thread]
        await self.request("thread/unsubscribe", threadId=thread)
        return reply

    @staticmethod
    async def _deltas(inbox: "asyncio.Queue[Message]") -> Any:  # noqa: ANN401 - a generator
        while (message := await inbox.get())["method"] != "turn/completed":
            if message["method"] == "item/agentMessage/delta":
                yield message["params"]["delta"]


async def main() -> None:
    """Serve on a free port, and say where."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *FAKE_CODEX, "app-server", stdin=pipe, stdout=pipe, limit=_LINE_LIMIT
    )
    relay = Relay(process)
    reading = asyncio.create_task(relay.read())
    await relay.request("initialize")
    app = web.Application()
    app.router.add_post(f"{API}/chat/completions", relay.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}{API}", flush=True)
    await reading


if __name__ == "__main__":
    asyncio.run(main())
