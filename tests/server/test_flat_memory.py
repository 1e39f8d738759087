"""The memory of `clinvk serve`, in its own process, while OpenAI's client sends and takes much."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio.to_thread
import psutil
import pytest
from openai import AsyncOpenAI

from benchmarks import processes
from benchmarks.processes import Server
from tests.fakes.raw import Answer, RawUpstream

MB = 1024 * 1024
LARGE = 200 * MB
SPARE = 24 * MB  # buffers, and what the first requests load


class Watched:
    """A server, the client that asks it, and the most memory that it was seen to hold."""

    def __init__(self, server: Server, client: AsyncOpenAI) -> None:
        self.client = client
        self._process = psutil.Process(server.pid)
        self.before = self.peak = self.held()

    def held(self) -> int:
        """How many bytes of memory the server has now."""
        return int(self._process.memory_info().rss)

    def look(self) -> None:
        """Note what it has now."""
        self.peak = max(self.peak, self.held())


@pytest.fixture
async def up() -> AsyncIterator[RawUpstream]:
    async with RawUpstream().running() as up:
        up.keeps_bodies = False
        yield up


@pytest.fixture
def server(up: RawUpstream) -> Iterator[Server]:
    with (
        processes.place() as where,
        processes.serve(where, {"up": {"kind": "openai", "base_url": up.url}}) as server,
    ):
        yield server


@pytest.fixture
async def watched(server: Server) -> AsyncIterator[Watched]:
    async with AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
        await client.audio.transcriptions.create(model="up/m", file=("a.wav", b"RIFF"))
        yield Watched(server, client)


async def test_a_large_file_to_transcribe_is_not_held(
    up: RawUpstream, watched: Watched, tmp_path: Path
) -> None:
    file = tmp_path / "long.wav"
    with file.open("wb") as sink:
        sink.truncate(LARGE)
    up.on_piece = watched.look
    with file.open("rb") as source:
        await watched.client.audio.transcriptions.create(model="up/m", file=source)
    assert up.received > LARGE
    assert watched.peak - watched.before < SPARE


async def test_a_long_speech_is_not_held(up: RawUpstream, watched: Watched) -> None:
    piece = bytes(MB)
    up.answer = Answer(headers={"Content-Type": "audio/wav"}, pieces=(piece,) * (LARGE // MB))
    got = 0
    async with watched.client.audio.speech.with_streaming_response.create(
        model="up/m", input="Once upon a time", voice="alloy"
    ) as speech:
        async for part in speech.iter_bytes(MB):
            got += len(part)
            watched.look()
    assert got == LARGE
    assert watched.peak - watched.before < SPARE


async def test_who_takes_slowly_makes_the_server_hold_no_more(
    up: RawUpstream, watched: Watched
) -> None:
    """The upstream is held back, until the rest is wanted."""
    piece = bytes(MB)
    up.answer = Answer(headers={"Content-Type": "audio/wav"}, pieces=(piece,) * (LARGE // MB))
    async with watched.client.audio.speech.with_streaming_response.create(
        model="up/m", input="Once upon a time", voice="alloy"
    ) as speech:
        parts = speech.iter_bytes(MB)
        assert len(await anext(parts)) > 0
        for _ in range(200):  # the loop goes round, so that all who can send do
            await anyio.to_thread.run_sync(watched.look)
        sent = up.sent
        assert sent < LARGE // 2
        assert watched.peak - watched.before < SPARE
