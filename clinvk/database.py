"""A SQLite file of this user's alone: opened at the first use, used in threads by many at once.

Owns its mode, its version and its transactions; knows nothing of what stands in its tables.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
import platformdirs

MEMORY = ":memory:"
BUSY_TIMEOUT_S = 5.0  # how long another server may hold the file
BUSY_STEP_S = 0.02
DAY_S = 86_400

T = TypeVar("T")


class StoreError(Exception):
    """The file cannot be read or written; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Tables of a `version`, which is the file's `user_version`; `steps` lead from one to the next.

    A file of another version is not touched.
    """

    version: int
    tables: str
    steps: Mapping[int, str] = field(default_factory=dict)


class Database:
    """One connection to a file, or to memory; `title` is what errors call it."""

    def __init__(self, path: str, layout: Layout, title: str) -> None:
        self.path = path
        self._layout = layout
        self._name = f"{title}, {path}"
        # SQLite works in threads; a lock, as a cancelled caller leaves its thread behind.
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work in a transaction, in a thread.

        Raises:
            StoreError: if the file cannot be used.
        """
        return await anyio.to_thread.run_sync(self.run_here, work)

    def run_here(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work in a transaction, in this thread.

        Raises:
            StoreError: if the file cannot be used.
        """
        with self._lock:
            if self._closed:
                raise StoreError(f"{self._name}, is closed")
            try:
                if self._connection is None:
                    self._connection = _connect(self.path, self._layout)
                with self._connection:  # a transaction
                    return work(self._connection)
            except (sqlite3.Error, OSError, ValueError) as exc:
                raise StoreError(f"{self._name}: {exc}") from exc

    async def close(self) -> None:
        """Close the file; what is in memory is gone."""
        await anyio.to_thread.run_sync(self._close)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def state_folder() -> Path:
    """Return the user's state folder of clinvk."""
    return Path(platformdirs.user_state_dir("clinvk", appauthor=False))


def _connect(path: str, layout: Layout) -> sqlite3.Connection:
    if path != MEMORY:
        _make_private(Path(path))
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    try:
        _prepare_patiently(db, layout)
    except BaseException:
        db.close()
        raise
    return db


def _make_private(path: Path) -> None:
    """Only the user may read it: it holds prompts. SQLite gives its side files the same mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        # Not opened: closing it would drop the locks that this process has on it.
        if path.is_file():
            path.chmod(0o600)


def _prepare_patiently(db: sqlite3.Connection, layout: Layout) -> None:
    """SQLite does not wait by itself where two connections begin to use the WAL at once."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            return _prepare(db, layout)
        except sqlite3.OperationalError as exc:
            is_busy = exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
        time.sleep(BUSY_STEP_S)


def _prepare(db: sqlite3.Connection, layout: Layout) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA secure_delete = ON")
    db.execute("PRAGMA foreign_keys = ON")
    with db:
        db.execute("BEGIN IMMEDIATE")  # two servers may start at once
        with closing(db.execute("PRAGMA user_version")) as cursor:
            (version,) = cursor.fetchone()
        known = layout.version
        if version not in (0, known, *layout.steps):
            raise ValueError(f"it is of version {version}, and this clinvk knows {known}")
        if version == 0:
            for statement in layout.tables.split(";"):
                db.execute(statement)
        for step in range(version or known, known):
            db.execute(layout.steps[step])
        if version != known:
            db.execute(f"PRAGMA user_version = {known}")
