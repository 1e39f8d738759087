"""Answers of a server with OpenAI's API, written byte by byte: rightly, or as one likes."""

import asyncio
import json
import socket
import struct
from typing import Any

SSE = "text/event-stream"
JSON = "application/json"
TEXTS = ("Hello", " wörld 🌍")


def event(data: object) -> bytes:
    """A server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n".encode("utf-8", "surrogatepass")


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    """A chunk of a streamed completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def whole(text: str = "".join(TEXTS)) -> bytes:
    """A completion in one body."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    body = {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice]}
    return json.dumps(body, ensure_ascii=False).encode()


def pieces(*, stream: bool) -> list[bytes]:
    """A right answer: its first half, its second half, and what ends it."""
    if stream:
        said = [event(chunk({"content": text})) for text in TEXTS]
        return [*said, event(chunk({}, "stop")) + event("[DONE]")]
    body = whole()
    return [body[:90], body[90:-2], body[-2:]]


class Talk:
    """One request, and the way to answer it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        release: asyncio.Event,
        *,
        stream: bool,
    ) -> None:
        self.stream = stream
        self.release = release
        self.pieces = pieces(stream=stream)
        self.ends = True  # whether the connection can take no other request
        self._reader = reader
        self._writer = writer

    async def raw(self, *data: bytes) -> None:
        """Write bytes as they are."""
        for each in data:
            self._writer.write(each)
        await self._writer.drain()

    async def head(self, status: int = 200, **headers: object) -> None:
        """Write a head; of chunks unless there is a length."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("Content-Type", SSE if self.stream else JSON)
        if "Content-Length" not in named:
            named["Transfer-Encoding"] = "chunked"
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in named.items())]
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def say(self, *data: bytes) -> None:
        """Write chunks."""
        await self.raw(*(b"%x\r\n%s\r\n" % (len(each), each) for each in data))

    async def done(self) -> None:
        """End the chunks, and be ready for another request."""
        await self.raw(b"0\r\n\r\n")
        self.ends = False

    async def begin(self) -> None:
        """Say the first half."""
        await self.head()
        await self.say(self.pieces[0])

    async def well(self) -> None:
        """Answer rightly."""
        await self.begin()
        await self.say(*self.pieces[1:])
        await self.done()

    async def body(self, data: bytes, status: int = 200, **headers: object) -> None:
        """Answer by a whole body."""
        await self.head(status, **{"Content_Length": len(data), "Content_Type": JSON, **headers})
        await self.raw(data)
        self.ends = False

    async def hang(self) -> None:
        """Say no more until the other side has gone."""
        while await self._reader.read(65_536):
            pass

    def reset(self) -> None:
        """Break the connection without a goodbye."""
        found = self._writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
