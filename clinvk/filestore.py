"""Keeps what callers upload: bounded together, in one folder that only this user may read.

Owns the folder: a row for each file in `files.sqlite3`, and its content beside that, named by its
id. Knows no HTTP. Two servers may share a folder.

    begin -> write, reserving room as it comes -> finish, or leave nothing

A file counts from its first byte, and is there once it is finished. Until then its writer holds a
lock on its content, which ends with the process: what is neither finished nor locked, a crash has
left behind.
"""

import errno
import fcntl
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, TypeVar

import anyio.to_thread

from clinvk.config import FilesConfig
from clinvk.database import DAY_S, Database, Layout, StoreError, state_folder
from clinvk.errors import StorageFullError, StorageQuotaError

MB = 1024 * 1024
STEP_BYTES = 4 * MB  # that an upload reserves at once, where there is so much

ROWS_NAME = "files.sqlite3"
TABLES = """
CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    size INTEGER NOT NULL DEFAULT 0,
    finished INTEGER NOT NULL DEFAULT 0,
    filename TEXT NOT NULL DEFAULT '',
    purpose TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL
);
CREATE INDEX files_by_end ON files (expires_at);
"""
LAYOUT = Layout(1, TABLES)

_ID = re.compile(r"file-[0-9a-f]{32}")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_THERE = (
    "SELECT id, filename, purpose, size, created_at, expires_at FROM files"
    " WHERE owner = ? AND finished = 1 AND expires_at > ?"
)
_PAGES = {  # by whether the newest come first
    True: _THERE + " AND ifnull(purpose = ?, 1) AND ifnull(number < ?, 1)"
    " ORDER BY number DESC LIMIT ?",
    False: _THERE + " AND ifnull(purpose = ?, 1) AND ifnull(number > ?, 1) ORDER BY number LIMIT ?",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of a file; `size` is in bytes, times are in seconds since 1970."""

    id: str
    filename: str
    purpose: str
    size: int
    created_at: float
    expires_at: float


class FileStore:
    """The files of one folder; it is made at the first upload."""

    def __init__(self, config: FilesConfig, *, now: Callable[[], float] = time.time) -> None:
        self._config = config
        self._now = now
        named = config.path
        self.folder = Path(os.path.expanduser(named) if named else default_folder())  # noqa: PTH111
        self._database = Database(str(self.folder / ROWS_NAME), LAYOUT, "the store of files")

    async def find(self, ids: Iterable[str], *, owner: str = "") -> dict[str, StoredFile]:
        """Return those of the files that `owner` has, by id.

        Raises:
            StoreError: if the store cannot be read.
        """
        likely = {file_id for file_id in ids if _ID.fullmatch(file_id)}
        if not likely:
            return {}

        def find(db: sqlite3.Connection) -> dict[str, StoredFile]:
            found = ((file_id, self._get(db, file_id, owner)) for file_id in likely)
            return {file_id: file for file_id, file in found if file is not None}

        return await self._read(find) or {}

    async def page(
        self, *, owner: str = "", purpose: str | None, after: str | None, limit: int, newest: bool
    ) -> tuple[list[StoredFile], bool] | None:
        """Return files of `owner` in order, and whether there are more.

        Args:
            owner: whose files.
            purpose: None is every one.
            after: the id of the file before the first; None begins at the start.
            limit: how many at most.
            newest: whether the newest come first.

        Returns None if there is no file `after`.

        Raises:
            StoreError: if the store cannot be read.
        """
        found = await self._read(lambda db: self._page(db, owner, purpose, after, limit, newest))
        return ([], False) if found is None and after is None else found

    async def delete(self, file_id: str, *, owner: str = "") -> bool:
        """Remove a file of `owner` and its content; return whether there was one.

        Raises:
            StoreError: if it cannot be removed.
        """
        return bool(await self._read(lambda db: self._delete(db, file_id, owner)))

    async def contents(self, files: Sequence[StoredFile]) -> dict[str, bytes]:
        """Return the contents of files by their ids; of those that are there no more, none.

        Raises:
            StoreError: if one cannot be read.
        """

        def read() -> dict[str, bytes]:
            found = {}
            with self.faults_told():
                for file in files:
                    with suppress(FileNotFoundError):
                        found[file.id] = self.content(file.id).read_bytes()
            return found

        return await anyio.to_thread.run_sync(read)

    def open(self, file: StoredFile) -> BinaryIO | None:
        """Open the content of a file; None if it is there no more.

        Raises:
            StoreError: if it cannot be read.
        """
        with self.faults_told(), suppress(FileNotFoundError):
            return self.content(file.id).open("rb")
        return None

    async def clean(self) -> None:
        """Remove what has expired, what a crash left behind, and rows without their content.

        Raises:
            StoreError: if the store cannot be used.
        """
        await self._read(self._clean)

    async def close(self) -> None:
        """Close the file of rows."""
        await self._database.close()

    def content(self, file_id: str) -> Path:
        """Return where the content of a file is; for ids that this store made."""
        return self.folder / file_id

    def change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work in a transaction that no other server's overlaps, in this thread.

        Raises:
            StorageFullError: if the disk is full.
            StoreError: if the store cannot be written.
        """

        def alone(db: sqlite3.Connection) -> T:
            db.execute("BEGIN IMMEDIATE")
            return work(db)

        with self.faults_told():
            return self._database.run_here(alone)

    @contextmanager
    def faults_told(self) -> Iterator[None]:
        """Tell a full disk from what else the system says."""
        try:
            yield
        except (OSError, StoreError) as exc:
            cause = exc.__cause__ or exc
            if getattr(cause, "errno", None) in _NO_ROOM or (
                getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
            ):
                raise StorageFullError(
                    "the disk that files are kept on is full; delete files, or make room there"
                ) from exc
            if isinstance(exc, StoreError):
                raise
            raise StoreError(f"the store of files, {self.folder}: {exc}") from exc

    def begin(self, owner: str) -> tuple[str, FileIO]:
        """Make an empty file of `owner` that nobody sees yet; return its id and its content.

        Whoever has it calls `finish` or `drop`, and then closes the content.

        Raises:
            StorageQuotaError: if there are as many files as there may be.
            StorageFullError: if the disk is full.
            StoreError: if the store cannot be written.
        """
        file_id = f"file-{secrets.token_hex(16)}"
        made: list[FileIO] = []

        def work(db: sqlite3.Connection) -> None:
            self._drop_gone(db)
            (count,) = db.execute("SELECT count(*) FROM files").fetchone()
            most = self._config.max_files
            if count >= most:
                raise StorageQuotaError(
                    f"there are {count} files here, and no more than {most} are kept; delete some, "
                    f"or raise server.files.max_files"
                )
            made.append(FileIO(self.content(file_id), "xb", opener=_open_private))
            fcntl.flock(made[0], fcntl.LOCK_EX)
            db.execute(
                "INSERT INTO files (id, owner, created_at, expires_at) VALUES (?, ?, ?, ?)",
                (file_id, owner, self._now(), self._now()),
            )

        try:
            self.change(work)
        except BaseException:
            for content in made:
                content.close()
                self.content(file_id).unlink(missing_ok=True)
            raise
        return file_id, made[0]

    def reserve(self, file_id: str, need: int) -> int:
        """Take room for `need` bytes more of a file, and return how much was taken.

        Raises:
            StorageQuotaError: if there is less.
            StorageFullError: if the disk is full.
            StoreError: if the store cannot be written.
        """

        def work(db: sqlite3.Connection) -> int:
            taken: int
            (taken,) = db.execute("SELECT coalesce(sum(size), 0) FROM files").fetchone()
            room = int(self._config.max_mb * MB) - taken
            if room < need:
                raise StorageQuotaError(
                    f"the files that are kept here would be over {self._config.max_mb:g} MB "
                    f"together; delete some, or raise server.files.max_mb"
                )
            step = min(room, max(need, STEP_BYTES))
            changed = db.execute("UPDATE files SET size = size + ? WHERE id = ?", (step, file_id))
            if not changed.rowcount:
                raise ValueError(f"the row of {file_id} is gone")
            return step

        return self.change(work)

    def finish(
        self, file_id: str, *, size: int, filename: str, purpose: str, expires_s: int | None
    ) -> StoredFile:
        """Have a file be there, and return what is known of it.

        Raises:
            StorageFullError: if the disk is full.
            StoreError: if the store cannot be written.
        """
        age_s = self._config.max_age_days * DAY_S
        if expires_s is not None:
            age_s = min(age_s, expires_s)

        def work(db: sqlite3.Connection) -> StoredFile:
            row = db.execute("SELECT created_at FROM files WHERE id = ?", (file_id,)).fetchone()
            if row is None:
                raise ValueError(f"the row of {file_id} is gone")
            expires_at = row[0] + age_s
            db.execute(
                "UPDATE files SET finished = 1, size = ?, filename = ?, purpose = ?,"
                " expires_at = ? WHERE id = ?",
                (size, filename, purpose, expires_at, file_id),
            )
            return StoredFile(file_id, filename, purpose, size, row[0], expires_at)

        return self.change(work)

    def drop(self, file_id: str) -> None:
        """Remove a file, whether it is finished or not.

        Raises:
            StoreError: if it cannot be removed.
        """
        self.content(file_id).unlink(missing_ok=True)
        self.change(lambda db: db.execute("DELETE FROM files WHERE id = ?", (file_id,)))

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do some work after what has expired is removed; None where nothing was ever kept."""

        def locked(db: sqlite3.Connection) -> T:
            gone = db.execute(
                "SELECT 1 FROM files WHERE expires_at <= ? AND finished = 1", (self._now(),)
            )
            if gone.fetchone() is not None:
                db.execute("BEGIN IMMEDIATE")
                self._drop_gone(db)
            return work(db)

        def run() -> T | None:
            with self.faults_told():
                if not (self.folder / ROWS_NAME).is_file():
                    return None
                return self._database.run_here(locked)

        return await anyio.to_thread.run_sync(run)

    def _get(self, db: sqlite3.Connection, file_id: str, owner: str) -> StoredFile | None:
        row = db.execute(_THERE + " AND id = ?", (owner, self._now(), file_id)).fetchone()
        return None if row is None else StoredFile(*row)

    def _page(
        self,
        db: sqlite3.Connection,
        owner: str,
        purpose: str | None,
        after: str | None,
        limit: int,
        newest: bool,
    ) -> tuple[list[StoredFile], bool] | None:
        place = None
        if after is not None:
            if self._get(db, after, owner) is None:
                return None
            (place,) = db.execute("SELECT number FROM files WHERE id = ?", (after,)).fetchone()
        rows = db.execute(_PAGES[newest], (owner, self._now(), purpose, place, limit + 1))
        files = [StoredFile(*row) for row in rows]
        return files[:limit], len(files) > limit

    def _delete(self, db: sqlite3.Connection, file_id: str, owner: str) -> bool:
        if self._get(db, file_id, owner) is None:
            return False
        db.execute("DELETE FROM files WHERE id = ?", (file_id,))
        self.content(file_id).unlink(missing_ok=True)
        return True

    def _drop_gone(self, db: sqlite3.Connection) -> None:
        """Remove what has expired, and uploads whose writer is no more."""
        rows = db.execute("SELECT id, finished FROM files WHERE expires_at <= ?", (self._now(),))
        for file_id, finished in rows.fetchall():
            path = self.content(file_id)
            if finished or not _is_written(path):
                db.execute("DELETE FROM files WHERE id = ?", (file_id,))
                path.unlink(missing_ok=True)

    def _clean(self, db: sqlite3.Connection) -> None:
        if not db.in_transaction:
            db.execute("BEGIN IMMEDIATE")
        self._drop_gone(db)
        rows = {file_id for (file_id,) in db.execute("SELECT id FROM files")}
        kept = {path.name for path in self.folder.iterdir() if _ID.fullmatch(path.name)}
        for file_id in rows - kept:
            db.execute("DELETE FROM files WHERE id = ?", (file_id,))
        for file_id in kept - rows:
            self.content(file_id).unlink(missing_ok=True)


def default_folder() -> Path:
    """Return the folder in the user's state folder."""
    return state_folder() / "files"


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _is_written(path: Path) -> bool:
    """Whether an upload to it goes on."""
    try:
        with path.open("r+b") as content:
            fcntl.flock(content, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


__all__ = ["FileStore", "StoreError", "StoredFile", "default_folder"]
