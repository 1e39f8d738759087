"""A server with OpenAI's API that answers as slowly as a model does, in a process of its own.

Asked for the model `wait-FIRST-GAP` and `N TOKEN` last, its first token comes after FIRST
milliseconds and each further one GAP milliseconds later; all is `benchmarks.fake_codex.deltas`.
It says in its first line where it listens.

    python -m benchmarks.model_server
"""

import asyncio
import json

from aiohttp import web

from benchmarks.fake_codex import deltas

_HEAD = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": "wait"}


def model(first_ms: int, gap_ms: int) -> str:
    """Return the name of the model that takes so long."""
    return f"wait-{first_ms}-{gap_ms}"


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer a chat completion request, as a stream."""
    body = json.loads(await request.read())
    first_ms, gap_ms = (int(part) for part in body["model"].split("-")[1:])
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    pause_s = first_ms / 1000
    for number, text in enumerate(deltas(body["messages"][-1]["content"])):
        if pause_s:
            await asyncio.sleep(pause_s)
        if not number:
            await response.prepare(request)
        await response.write(_event({"content": text}))
        pause_s = gap_ms / 1000
    await response.write(_event({}, "stop") + b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _event(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({**_HEAD, "choices": [choice]}).encode() + b"\n\n"


async def main() -> None:
    """Serve on a free port, and say where."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
