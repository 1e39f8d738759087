"""Endpoints that upstreams alone have: JSON, and forms with files, which flow through."""

import io
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import psutil
import pytest

from tests.fakes.raw import Answer, RawUpstream
from tests.server.test_relay import World, served, settings

MB = 1024 * 1024
FILE = 'form-data; name="file"; filename="a.wav"; filename*=utf-8\'\'%C3%A4'
SOUND = os.urandom(3 * MB)


@pytest.fixture
async def up() -> AsyncIterator[RawUpstream]:
    async with RawUpstream().running() as up:
        yield up


@pytest.fixture
async def world(up: RawUpstream, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    fields = getattr(request, "param", {})
    server = fields.get("server", {"max_upload_mb": 4})
    async for each in served(settings(up, server), up):
        yield each


def form(*fields: tuple[str, Any]) -> aiohttp.MultipartWriter:
    writer = aiohttp.MultipartWriter("form-data")
    for name, value in fields:
        part = writer.append(io.BytesIO(value) if isinstance(value, bytes) else value)
        if isinstance(value, bytes):
            part.headers["Content-Disposition"] = FILE
        else:
            part.set_content_disposition("form-data", name=name)
    return writer


def post(world: World, body: Any, path: str = "audio/transcriptions", **headers: str) -> Any:
    return world.http.post(f"{world.url}/v1/{path}", data=body, headers=headers)


def parts(up: RawUpstream) -> dict[str, bytes]:
    """The parts of the last form, by what they say that they are."""
    asked = up.asked[-1]
    mark = asked.headers["Content-Type"].partition("boundary=")[2].encode()
    first, *found, last = (b"\r\n" + asked.body).split(b"\r\n--" + mark)
    assert (first, last) == (b"", b"--\r\n")
    told = (part.removeprefix(b"\r\n").partition(b"\r\n\r\n") for part in found)
    return {
        next(h for h in head.decode().split("\r\n") if "form-data" in h): data
        for head, _, data in told
    }


@pytest.mark.parametrize("late", [False, True])
async def test_a_form_passes_wherever_its_model_stands(world: World, *, late: bool) -> None:
    file, model = ("file", SOUND), ("model", "up/whisper")
    fields = [file, model] if late else [model, file]
    async with post(world, form(("language", "de"), *fields, ("prompt", "ä"))) as response:
        assert (response.status, await response.json()) == (200, {"ok": True})
        assert response.headers["x-clinvk-turn"] == "relayed"
    start = "Content-Disposition: form-data; name="
    assert parts(world.up) == {
        f'{start}"language"': b"de",
        f"Content-Disposition: {FILE}": SOUND,
        f'{start}"model"': b"whisper",
        f'{start}"prompt"': "ä".encode(),
    }
    assert world.up.asked[0].path == "audio/transcriptions"


async def test_a_model_that_is_named_twice_is_renamed_twice(world: World) -> None:
    async with post(world, form(("model", "up/m"), ("model", "up/m"))) as response:
        assert response.status == 200
    assert world.up.asked[0].body.count(b"\r\n\r\nm\r\n") == 2


@pytest.mark.parametrize("late", [False, True])
async def test_a_form_that_is_too_large_is_refused(world: World, *, late: bool) -> None:
    file, model = ("file", SOUND + SOUND), ("model", "up/whisper")
    fields = [file, model] if late else [model, file]
    async with post(world, form(*fields)) as response:
        assert response.status == 413
        assert "max_upload_mb" in (await response.json())["error"]["message"]
    assert world.up.asked == []
    while world.up.open:
        await anyio.lowlevel.checkpoint()


async def test_what_is_wrong_with_a_form_is_said(world: World) -> None:
    nested = aiohttp.MultipartWriter("form-data")
    nested.append(form(("a", "b")))
    bad: list[tuple[Any, dict[str, str], int, str]] = [
        (form(("file", b"x")), {}, 400, "'model' is required"),
        (form(("model", "m" * 2000)), {}, 400, "too long"),
        (nested, {}, 400, "within a form"),
        (b"junk", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "no form"),
        (b"junk", {"Content-Type": "multipart/form-data"}, 400, "no form"),
        (b"", {}, 400, "no body"),
        (b"{}", {"Content-Type": "application/json"}, 415, "multipart/form-data"),
        (form(("model", "none")), {}, 404, "does not exist"),
        (form(("model", "echo")), {}, 400, "up can"),
    ]
    for body, headers, status, said in bad:
        async with post(world, body, **headers) as response:
            told = (await response.json())["error"]["message"]
            assert (response.status, said in told) == (status, True), told
    assert world.up.asked == []


async def test_a_page_cannot_send_a_form(world: World) -> None:
    page = {"Origin": "https://evil.example"}
    async with post(world, form(("model", "up/m")), **page) as response:
        assert response.status == 403
    async with world.http.post(f"{world.url}/v1/embeddings", data=form(("a", "b"))) as response:
        assert response.status == 415


async def test_an_upstream_that_goes_away_is_told(world: World) -> None:
    world.up.answer = Answer(cut=True, pieces=(b"",))
    async with post(world, form(("model", "up/m"), ("file", SOUND))) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_an_upstream_may_refuse_a_form_unread(world: World) -> None:
    world.up.answer = Answer(413, pieces=(b'{"error": {}}',), early=True)
    async with post(world, form(("model", "up/m"), ("file", SOUND))) as response:
        assert (response.status, await response.read()) == (413, b'{"error": {}}')


@pytest.mark.parametrize("late", [False, True])
async def test_who_leaves_while_sending_ends_the_request(world: World, *, late: bool) -> None:
    begun, never = anyio.Event(), anyio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        head = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n'
        if not late:
            yield head % b"model" + b"up/m\r\n"
        yield head % b"file" + SOUND
        begun.set()
        await never.wait()

    async with anyio.create_task_group() as group:

        async def send() -> None:
            kind = {"Content-Type": "multipart/form-data; boundary=x"}
            async with post(world, slowly(), **kind):
                raise AssertionError("there is nothing to answer")

        group.start_soon(send)
        await begun.wait()
        while not late and world.up.received < len(SOUND) // 2:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    while world.up.open:
        await anyio.lowlevel.checkpoint()
    assert (world.up.asked, world.up.aborted) == ([], 0 if late else 1)


async def test_nobody_there_is_an_error(up: RawUpstream) -> None:
    gone = settings(up, base_url="http://127.0.0.1:1/v1")
    async for world in served(gone, up):
        async with post(world, form(("model", "up/m"), ("file", SOUND))) as response:
            assert response.status == 502


@pytest.mark.parametrize(
    "path", ["embeddings", "moderations", "images/generations", "audio/speech"]
)
async def test_json_passes_to_who_can(path: str, world: World) -> None:
    world.up.answer = Answer(headers={"Content-Type": "audio/mpeg"}, pieces=(b"\x00\xff", b"\x01"))
    async with world.post(
        path, '{"model": "up/m", "input": [[1, 2]], "dimensions": 3}'
    ) as response:
        assert (response.status, await response.read()) == (200, b"\x00\xff\x01")
        assert response.content_type == "audio/mpeg"
    assert world.up.asked[0].body == b'{"model": "m", "input": [[1, 2]], "dimensions": 3}'
    for body, status, said in (
        ('{"model": "echo"}', 400, "'echo', which has the model 'echo', cannot do"),
        ('{"model": "none"}', 404, "does not exist"),
        ('{"input": "a"}', 400, "'model' is required"),
        ("{", 400, "not JSON"),
        ('{"model": "up/m", "x": NaN} ', 200, ""),
        ('{"model": 1}', 400, "'model' is not valid"),
    ):
        async with world.post(path, body) as response:
            assert response.status == status
            assert said in (await response.read()).decode("latin-1")


async def test_without_an_upstream_it_is_said_what_could(up: RawUpstream) -> None:
    async for world in served(settings(up, endpoints=[]), up):
        async with world.post("embeddings", '{"model": "up/m"}') as response:
            assert response.status == 400
            assert "a backend of kind openai can" in await response.text()


@pytest.mark.parametrize("world", [{"server": {"max_upload_mb": 300}}], indirect=True)
@pytest.mark.parametrize("late", [False, True])
async def test_memory_stays_flat_with_a_large_file(
    world: World, tmp_path: Path, *, late: bool
) -> None:
    """Server, client and upstream are one process here: none of them may hold the file."""
    world.up.keeps_bodies = False
    piece = bytes(MB)
    file = tmp_path / "large"
    with file.open("wb") as sink:
        for _ in range(200):
            sink.write(piece)
    me = psutil.Process()
    await _upload(world, file, late=late)
    before = me.memory_info().rss
    await _upload(world, file, late=late)
    assert me.memory_info().rss - before < 32 * MB
    assert world.up.received > 400 * MB


async def _upload(world: World, file: Path, *, late: bool) -> None:
    with file.open("rb") as source:
        fields: list[tuple[str, Any]] = [("file", source), ("model", "up/m")]
        async with post(world, form(*(fields if late else fields[::-1]))) as response:
            assert response.status == 200


async def test_memory_stays_flat_with_a_large_reply(world: World) -> None:
    piece = bytes(MB)
    world.up.answer = Answer(headers={"Content-Type": "audio/wav"}, pieces=(piece,) * 200)
    me = psutil.Process()
    peak, got = 0, 0
    before = me.memory_info().rss
    async with world.post("audio/speech", '{"model": "up/m", "input": "a"}') as response:
        async for part in response.content.iter_any():
            got += len(part)
            peak = max(peak, me.memory_info().rss)
    assert got == 200 * MB
    assert peak - before < 32 * MB
