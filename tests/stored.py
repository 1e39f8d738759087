"""A store of files for tests, and what its folder holds."""

import sqlite3
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from clinvk.filestore import FileStore, StoredFile
from clinvk.upload import Upload


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def kept(store: FileStore, content: bytes = b"x", owner: str = "", **said: Any) -> StoredFile:
    async with Upload(store, owner) as upload:
        await upload.write(content)
        return await upload.finish(**{"filename": "a.txt", "purpose": "user_data", **said})


async def read(store: FileStore, file: StoredFile) -> bytes | None:
    return (await store.contents([file])).get(file.id)


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("file-*")}


def sizes(folder: Path) -> int:
    """How many bytes the contents have; others may go meanwhile."""
    size = 0
    for path in folder.glob("file-*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def rows(folder: Path) -> int:
    db = sqlite3.connect(folder / "files.sqlite3")
    try:
        (count,) = db.execute("SELECT count(*) FROM files").fetchone()
        return int(count)
    finally:
        db.close()
