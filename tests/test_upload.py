"""Uploads that do not come to their end: whatever stops them, nothing of them stays."""

import asyncio
import errno
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from clinvk.config import FilesConfig
from clinvk.errors import StorageFullError
from clinvk.filestore import FileStore, StoreError
from clinvk.upload import Upload
from tests.stored import contents, kept, read, rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "files"


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[FileStore]:
    made = FileStore(FilesConfig(path=str(folder), max_mb=8, max_files=4))
    yield made
    await made.close()


async def test_what_is_broken_off_leaves_nothing(store: FileStore, folder: Path) -> None:
    async def send(*, finished: bool) -> None:
        async with Upload(store, "") as upload:
            await upload.write(b"x" * 100)
            assert len(contents(folder)) == 1
            if finished:
                await upload.finish(filename="a", purpose="vision")
            raise RuntimeError("enough")

    for finished in (False, True):
        with pytest.raises(RuntimeError, match="enough"):
            await send(finished=finished)
    async with Upload(store, "") as other:
        await other.write(b"y")
    assert (contents(folder), rows(folder)) == (set(), 0)


async def test_nobody_sees_what_is_not_finished(store: FileStore, folder: Path) -> None:
    async with Upload(store, "") as upload:
        await upload.write(b"x")
        (name,) = contents(folder)
        assert await store.find([name]) == {}
        assert await store.page(purpose=None, after=None, limit=9, newest=True) == ([], False)
        assert not await store.delete(name)
        await store.clean()  # and nobody cleans it away
        assert contents(folder) == {name}


async def test_an_upload_that_is_cancelled_at_any_point_leaves_nothing(
    store: FileStore, folder: Path
) -> None:
    """A thread that works on for a cancelled caller does not bring back what was removed."""

    async def send(reached: anyio.Event) -> None:
        async with Upload(store, "") as upload:
            reached.set()
            while True:
                await upload.write(b"x" * 1000)

    for wait in range(12):
        async with anyio.create_task_group() as group:
            reached = anyio.Event()
            group.start_soon(send, reached)
            for _ in range(wait):
                await anyio.lowlevel.checkpoint()
            if wait == 11:
                await reached.wait()
            group.cancel_scope.cancel()
    await store.clean()
    assert (contents(folder), rows(folder)) == (set(), 0)


async def test_a_raw_cancellation_leaves_nothing(store: FileStore, folder: Path) -> None:
    """As aiohttp cancels a handler whose client left: through anyio's shields."""

    async def send(reached: asyncio.Event) -> None:
        async with Upload(store, "") as upload:
            reached.set()
            while True:
                await upload.write(b"x" * 100_000)

    for wait in (None, 0, 1, 2, 5):
        reached = asyncio.Event()
        task = asyncio.create_task(send(reached))
        if wait is None:
            await reached.wait()
        for _ in range(wait or 0):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await store.clean()
    assert (contents(folder), rows(folder)) == (set(), 0)


def full(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have every content be a device that is full: the system itself says so."""
    real = os.open

    def opened(path: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        if str(path).startswith(str(folder / "file-")):
            path, flags = "/dev/full", os.O_WRONLY | os.O_CLOEXEC
        return real(path, flags, mode, **rest)

    monkeypatch.setattr(os, "open", opened)


async def test_a_full_disk_is_told_and_nothing_stays(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await kept(store)
    with monkeypatch.context() as patch:
        full(patch, folder)
        with pytest.raises(StorageFullError, match="disk") as caught:
            await kept(store, b"x" * 5000)
    assert (caught.value.status, caught.value.code) == (507, "storage_full")
    assert (contents(folder), rows(folder)) == ({before.id}, 1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_disk_without_room_for_another_file_is_full(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    await kept(store)

    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageFullError):
        await kept(store)
    assert (len(contents(folder)), rows(folder)) == (1, 1)


async def test_rows_that_find_no_room_are_a_full_disk(store: FileStore, folder: Path) -> None:
    await kept(store)

    def fill(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")

    store.change(fill)
    with pytest.raises(StorageFullError):
        async with Upload(store, "") as upload:
            await upload.finish(filename="x" * 100_000, purpose="vision")
    assert (len(contents(folder)), rows(folder)) == (1, 1)


async def test_a_disk_that_fails_is_an_error_that_names_it(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await kept(store)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=str(folder)):
        await kept(store)
    assert (len(contents(folder)), rows(folder)) == (1, 1)
    store.content(file.id).unlink()
    store.content(file.id).mkdir()
    with pytest.raises(StoreError, match=str(folder)):
        await read(store, file)
    with pytest.raises(StoreError, match=str(folder)):
        store.open(file)


async def test_rows_that_vanish_under_an_upload_are_an_error(
    store: FileStore, folder: Path
) -> None:
    async def send(content: bytes) -> None:
        async with Upload(store, "") as upload:
            store.change(lambda db: db.execute("DELETE FROM files"))
            if content:
                await upload.write(content)
            await upload.finish(filename="a", purpose="vision")

    for content in (b"x", b""):
        with pytest.raises(StoreError, match="is gone"):
            await send(content)
    assert contents(folder) == set()


async def test_what_cannot_be_removed_yet_is_said_in_the_log(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(FilesConfig(path=str(folder)))
    async with Upload(store, "") as upload:
        await upload.write(b"x")
        await store.close()
    assert "not removed yet" in caplog.text
    again = FileStore(FilesConfig(path=str(folder)))
    await again.clean()
    assert (contents(folder), rows(folder)) == (set(), 0)
    await again.close()


async def test_the_room_of_an_upload_is_free_before_its_row_goes(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a disk that is full by it has none for the change of the rows."""
    me = psutil.Process()
    at_drop: list[bool] = []
    drop = store.drop

    def dropped(file_id: str) -> None:
        at_drop.append(any(file_id in found.path for found in me.open_files()))
        drop(file_id)

    monkeypatch.setattr(store, "drop", dropped)
    async with Upload(store, "") as upload:
        await upload.write(b"x")
    assert at_drop == [False]
    assert (contents(folder), rows(folder)) == (set(), 0)


async def test_an_upload_takes_nothing_once_it_is_left(store: FileStore, folder: Path) -> None:
    upload = Upload(store, "")
    async with upload:
        pass
    await upload.write(b"late")  # what a thread does whose caller was cancelled
    async with upload:
        pass
    assert (contents(folder), rows(folder)) == (set(), 0)
