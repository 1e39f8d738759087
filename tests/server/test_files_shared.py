"""Two servers, as on two ports, and one folder of files."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.serving import API
from tests.uploads import Files, files_in, form

HUNG_S = 60
MB = 1024 * 1024
RAW = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture
async def first(tmp_path: Path) -> AsyncIterator[Files]:
    async with files_in(tmp_path / "files") as made:
        yield made


async def test_what_one_keeps_the_other_gives_and_removes(first: Files) -> None:
    ident = await first.keep(b"one")
    async with files_in(first.folder) as second:
        other = await second.keep(b"two")
        assert [row["id"] for row in (await first.call("GET"))["data"]] == [other, ident]
        async with second.http.get(f"{second.url}{API}/files/{ident}/content") as response:
            assert await response.read() == b"one"
        await second.call("DELETE", f"/{ident}")
        await first.call("GET", f"/{ident}", status=404)
        await first.call("DELETE", f"/{other}")
    assert first.kept == []


async def test_a_server_that_starts_cleans_up_but_for_what_still_comes(first: Files) -> None:
    await first.call("DELETE", f"/{await first.keep()}")
    go_on = anyio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n'
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield bytes(MB)
        await go_on.wait()
        yield b"end\r\n--x--"

    sizes: list[int] = []

    async def send() -> None:
        sizes.append((await first.call("POST", data=slowly(), headers=RAW))["bytes"])

    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            group.start_soon(send)
            while not first.kept:
                await anyio.lowlevel.checkpoint()
            (coming,) = first.kept
            orphan = first.folder / f"file-{'0' * 32}"
            await anyio.Path(orphan).write_bytes(b"of a server that was killed")
            async with files_in(first.folder) as second:
                while orphan in second.kept:
                    await anyio.lowlevel.checkpoint()
                await second.keep(b"meanwhile")
                assert coming in second.kept
                go_on.set()
    assert sizes == [MB + 3]


async def test_both_keep_within_one_bound(first: Files) -> None:
    files = {"path": str(first.folder), "max_mb": 1}
    async with (
        files_in(first.folder, files=files) as one,
        files_in(first.folder, files=files) as two,
    ):
        await one.keep(bytes(MB // 2))
        told = await two.call("POST", data=form(bytes(MB // 2 + 1)), status=400)
        assert told["error"]["code"] == "storage_quota_exceeded"
        await two.keep(bytes(MB // 2))
