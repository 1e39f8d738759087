"""What is kept of uploads: how much, for how long, for whose eyes, and what a crash leaves."""

import fcntl
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import platformdirs
import pytest

from clinvk.config import FilesConfig
from clinvk.database import DAY_S
from clinvk.errors import StorageQuotaError
from clinvk.filestore import MB, FileStore, StoreError
from clinvk.upload import Upload
from tests.stored import Clock, contents, kept, modes, read, rows, sizes

HUNG_S = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "files"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(folder: Path, clock: Clock) -> AsyncIterator[FileStore]:
    made = FileStore(FilesConfig(path=str(folder), max_mb=8, max_files=4), now=clock)
    yield made
    await made.close()


async def test_a_file_survives_a_restart(folder: Path) -> None:
    first = FileStore(FilesConfig(path=str(folder)))
    file = await kept(first, b"one" * 1000, filename="ä.pdf", purpose="vision")
    await first.close()
    again = FileStore(FilesConfig(path=str(folder)))
    await again.clean()
    assert await again.find([file.id]) == {file.id: file}
    assert (file.filename, file.purpose, file.size) == ("ä.pdf", "vision", 3000)
    assert await read(again, file) == b"one" * 1000
    await again.close()


async def test_nothing_is_made_before_the_first_upload(store: FileStore, folder: Path) -> None:
    await store.clean()
    assert await store.find(["file-" + "0" * 32, "../x"]) == {}
    assert await store.page(purpose=None, after=None, limit=1, newest=True) == ([], False)
    assert not await store.delete("file-" + "0" * 32)
    assert not await anyio.Path(folder).exists()


def test_the_default_folder_is_in_the_users_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_state_dir", lambda *_, **__: "/state/clinvk")
    assert FileStore(FilesConfig()).folder == Path("/state/clinvk/files")
    assert not str(FileStore(FilesConfig(path="~/f")).folder).startswith("~")


async def test_only_the_user_may_read_them(store: FileStore, folder: Path) -> None:
    old = os.umask(0)
    try:
        await kept(store)
    finally:
        os.umask(old)
    assert modes(folder) == {0o600}
    assert modes(folder.parent) == {0o700}


async def test_a_file_is_its_owners_alone(store: FileStore, folder: Path) -> None:
    file = await kept(store, owner="alice")
    for stranger in ("bob", "", "alice "):
        assert await store.find([file.id], owner=stranger) == {}
        assert not await store.delete(file.id, owner=stranger)
        page = await store.page(owner=stranger, purpose=None, after=None, limit=9, newest=True)
        assert page == ([], False)
        after = await store.page(owner=stranger, purpose=None, after=file.id, limit=9, newest=True)
        assert after is None
    assert await store.delete(file.id, owner="alice")
    assert (contents(folder), rows(folder)) == (set(), 0)
    assert await read(store, file) is None
    assert store.open(file) is None


async def test_files_are_listed_in_order_and_by_purpose(store: FileStore) -> None:
    made = [await kept(store, purpose=p) for p in ("batch", "vision", "batch")]

    async def page(**asked: Any) -> tuple[list[int], bool]:
        found = await store.page(
            **{"purpose": None, "after": None, "limit": 9, "newest": True, **asked}
        )
        assert found is not None
        return [made.index(file) for file in found[0]], found[1]

    assert await page() == ([2, 1, 0], False)
    assert await page(newest=False) == ([0, 1, 2], False)
    assert await page(purpose="batch") == ([2, 0], False)
    assert await page(limit=2) == ([2, 1], True)
    assert await page(after=made[1].id) == ([0], False)
    assert await page(after=made[0].id, newest=False, limit=1) == ([1], True)
    assert await store.page(purpose=None, after="file-x", limit=1, newest=True) is None


async def test_more_files_than_are_allowed_are_refused(store: FileStore, folder: Path) -> None:
    made = [await kept(store) for _ in range(4)]
    with pytest.raises(StorageQuotaError, match="no more than 4") as caught:
        await kept(store)
    assert (caught.value.status, caught.value.retryable) == (400, False)
    assert len(contents(folder)) == 4
    await store.delete(made[0].id)
    await kept(store)


async def test_more_bytes_than_are_allowed_are_refused_and_nothing_else_goes(
    store: FileStore, folder: Path
) -> None:
    first = await kept(store, b"1" * (5 * MB))
    exact = await kept(store, b"2" * (3 * MB))
    with pytest.raises(StorageQuotaError, match="over 8 MB together"):
        await kept(store, b"3")
    assert contents(folder) == {first.id, exact.id}
    await store.delete(exact.id)
    with pytest.raises(StorageQuotaError):
        await kept(store, b"3" * (3 * MB + 1))
    assert await read(store, await kept(store, b"3" * (3 * MB))) == b"3" * (3 * MB)


async def test_uploads_at_once_do_not_pass_the_bound_together(folder: Path) -> None:
    """Two servers share the folder; what all of them send would be three times too much."""
    config = FilesConfig(path=str(folder), max_mb=8)
    stores = [FileStore(config), FileStore(config)]
    outcomes: list[str] = []
    most = 0

    async def send(number: int) -> None:
        nonlocal most
        try:
            async with Upload(stores[number % 2], "") as upload:
                for _ in range(24):
                    await upload.write(bytes(MB // 8))
                    most = max(most, sizes(folder))
                await upload.finish(filename="a", purpose="vision")
                outcomes.append("kept")
        except StorageQuotaError:
            outcomes.append("refused")

    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(send, number)
    assert most <= 8 * MB
    assert len(contents(folder)) == rows(folder) == outcomes.count("kept") == 2
    for store in stores:
        assert len(await store.find(contents(folder))) == 2  # whichever server took them
        await store.close()


async def test_files_go_when_their_time_is_over_and_not_before(folder: Path, clock: Clock) -> None:
    store = FileStore(FilesConfig(path=str(folder), max_files=2, max_age_days=2), now=clock)
    short = await kept(store, expires_s=3600)
    whole = await kept(store, expires_s=10 * DAY_S)
    assert short.expires_at == clock.now + 3600
    assert whole.expires_at == clock.now + 2 * DAY_S
    clock.now += 3599
    assert len(await store.find([short.id, whole.id])) == 2
    clock.now += 1
    assert await store.find([short.id, whole.id]) == {whole.id: whole}
    assert contents(folder) == {whole.id}
    clock.now += 2 * DAY_S
    new = [await kept(store), await kept(store)]
    assert contents(folder) == {file.id for file in new}
    await store.close()


async def test_what_a_crash_leaves_is_removed_at_the_start(
    folder: Path,
) -> None:
    store = FileStore(FilesConfig(path=str(folder)))
    whole = await kept(store, b"whole")
    lost = await kept(store, b"lost")
    store.content(lost.id).unlink()  # a row without content
    orphan = folder / f"file-{'0' * 32}"  # a content without a row
    orphan.write_bytes(b"orphan")
    other = folder / "notes.txt"  # not this store's
    other.write_bytes(b"mine")
    child = f"""
import os, anyio
from clinvk.config import FilesConfig
from clinvk.filestore import FileStore
from clinvk.upload import Upload
async def main():
    async with Upload(FileStore(FilesConfig(path={str(folder)!r})), "") as upload:
        await upload.write(b"half")
        os._exit(9)
anyio.run(main)
"""
    done = await anyio.run_process([sys.executable, "-c", child], check=False)
    assert done.returncode == 9
    assert len(contents(folder)) == 3
    await store.close()
    again = FileStore(FilesConfig(path=str(folder)))
    await again.clean()
    assert contents(folder) == {whole.id}
    assert rows(folder) == 1
    assert other.read_bytes() == b"mine"
    await again.close()


async def test_the_next_upload_removes_what_a_crash_left(store: FileStore, folder: Path) -> None:
    file_id, content = store.begin("")
    store.reserve(file_id, 1)
    content.close()  # as the system does when a process ends
    new = await kept(store)
    assert contents(folder) == {new.id}
    file_id, content = store.begin("")
    store.content(file_id).unlink()
    newer = await kept(store)
    content.close()
    assert contents(folder) == {new.id, newer.id}
    assert rows(folder) == 2


async def test_a_folder_that_cannot_be_used_is_an_error_that_names_it(folder: Path) -> None:
    await anyio.Path(folder.parent).mkdir(parents=True)
    await anyio.Path(folder).write_bytes(b"a file")
    store = FileStore(FilesConfig(path=str(folder)))
    with pytest.raises(StoreError, match=str(folder)):
        await kept(store)
    await store.close()


async def test_a_lock_of_another_process_is_respected(store: FileStore, folder: Path) -> None:
    file_id, content = store.begin("")
    with store.content(file_id).open("rb") as same, pytest.raises(BlockingIOError):
        fcntl.flock(same, fcntl.LOCK_EX | fcntl.LOCK_NB)
    other = FileStore(FilesConfig(path=str(folder)))
    await other.clean()
    await kept(other)
    assert file_id in contents(folder)
    store.drop(file_id)
    content.close()
    await other.close()
