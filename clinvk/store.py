"""Keeps responses for a later turn: bounded by number and age, in one SQLite file or in memory.

Owns the file and its tables; knows responses and items only as JSON objects with an id. An item
is kept once, however many responses of a conversation it is part of, and goes with the last.
"""

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
import platformdirs

from clinvk.config import StoreConfig

MEMORY = ":memory:"
BUSY_TIMEOUT_S = 5.0  # how long another server may hold the file
BUSY_STEP_S = 0.02
DAY_S = 86_400

# user_version of the file; a file of another version is not touched.
VERSION = 2
TABLES = """
CREATE TABLE responses (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kept_at REAL NOT NULL,
    body TEXT NOT NULL,
    owner TEXT NOT NULL DEFAULT ''
);
CREATE TABLE items (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX items_by_id ON items (id);
CREATE TABLE places (
    response INTEGER NOT NULL REFERENCES responses (number) ON DELETE CASCADE,
    output INTEGER NOT NULL,
    position INTEGER NOT NULL,
    item INTEGER NOT NULL REFERENCES items (number),
    PRIMARY KEY (response, output, position)
) WITHOUT ROWID;
CREATE INDEX places_by_item ON places (item);
"""
# From a version to the next.
STEPS = {1: "ALTER TABLE responses ADD COLUMN owner TEXT NOT NULL DEFAULT ''"}

Json = dict[str, Any]
T = TypeVar("T")

_log = logging.getLogger(__name__)


class StoreError(Exception):
    """The file cannot be read or written; the text says which and why."""


class Store:
    """Responses with their input and output items; opened at the first use."""

    def __init__(self, config: StoreConfig, *, now: Callable[[], float] = time.time) -> None:
        self._config = config
        self._now = now
        # SQLite works in threads; a lock, as a cancelled caller leaves its thread behind.
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    @property
    def path(self) -> str:
        """Where the responses are: a file, or `:memory:`."""
        path = self._config.path
        if path == MEMORY:
            return MEMORY
        return str(Path(path).expanduser() if path else default_file())

    async def save(self, body: Json, items: Sequence[Json], *, owner: str = "") -> None:
        """Keep a response of `owner` and its input items, and drop what is too old or too much.

        Raises:
            StoreError: if it cannot be kept.
        """
        await self._run(lambda db: self._save(db, body, items, owner))

    async def get(self, response_id: str, *, owner: str = "") -> Json | None:
        """Return a response of `owner`, or None.

        Raises:
            StoreError: if the store cannot be read.
        """
        return await self._run(lambda db: self._get(db, response_id, owner))

    async def delete(self, response_id: str, *, owner: str = "") -> bool:
        """Drop a response of `owner` and the items that no other has; return whether there was one.

        Raises:
            StoreError: if the store cannot be written.
        """
        return await self._run(lambda db: self._delete(db, response_id, owner))

    async def items(
        self, response_id: str, *, output: bool = False, owner: str = ""
    ) -> list[Json] | None:
        """Return the input items of a response of `owner`, then its output items with `output`.

        Raises:
            StoreError: if the store cannot be read.
        """
        return await self._run(lambda db: self._items(db, response_id, owner, output=output))

    async def find(self, item_ids: Sequence[str], *, owner: str = "") -> dict[str, Json]:
        """Return those of the items that `owner` has, by id; of several with one id the newest.

        Raises:
            StoreError: if the store cannot be read.
        """
        return await self._run(lambda db: self._find(db, item_ids, owner)) if item_ids else {}

    async def close(self) -> None:
        """Close the file; what is in memory is gone."""
        await anyio.to_thread.run_sync(self._close)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def locked() -> T:
            with self._lock:
                if self._closed:
                    raise StoreError(f"the store of responses, {self.path}, is closed")
                try:
                    if self._connection is None:
                        self._connection = _connect(self.path)
                    with self._connection:  # a transaction
                        return work(self._connection)
                except (sqlite3.Error, OSError, ValueError) as exc:
                    raise StoreError(f"the store of responses, {self.path}: {exc}") from exc

        return await anyio.to_thread.run_sync(locked)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _save(self, db: sqlite3.Connection, body: Json, items: Sequence[Json], owner: str) -> None:
        number = db.execute(
            "INSERT INTO responses (id, kept_at, body, owner) VALUES (?, ?, ?, ?)",
            (body["id"], self._now(), json.dumps(body), owner),
        ).lastrowid
        for output, group in enumerate((items, body["output"])):
            for position, item in enumerate(group):
                db.execute(
                    "INSERT INTO places (response, output, position, item) VALUES (?, ?, ?, ?)",
                    (number, output, position, _put(db, item)),
                )
        self._drop(db)

    def _get(self, db: sqlite3.Connection, response_id: str, owner: str) -> Json | None:
        row = db.execute(
            "SELECT body FROM responses WHERE id = ? AND owner = ? AND kept_at >= ?",
            (response_id, owner, self._oldest()),
        ).fetchone()
        return None if row is None else _loads(row[0])

    def _delete(self, db: sqlite3.Connection, response_id: str, owner: str) -> bool:
        found = db.execute(
            "DELETE FROM responses WHERE id = ? AND owner = ?", (response_id, owner)
        ).rowcount
        _drop_orphans(db)
        return found > 0

    def _items(
        self, db: sqlite3.Connection, response_id: str, owner: str, *, output: bool
    ) -> list[Json] | None:
        if self._get(db, response_id, owner) is None:
            return None
        rows = db.execute(
            "SELECT items.body FROM places"
            " JOIN responses ON responses.number = places.response"
            " JOIN items ON items.number = places.item"
            " WHERE responses.id = ? AND places.output <= ?"
            " ORDER BY places.output, places.position",
            (response_id, int(output)),
        )
        return [_loads(row[0]) for row in rows]

    def _find(self, db: sqlite3.Connection, item_ids: Iterable[str], owner: str) -> dict[str, Json]:
        found = {}
        for item_id in item_ids:
            row = db.execute(
                "SELECT items.body FROM items"
                " JOIN places ON places.item = items.number"
                " JOIN responses ON responses.number = places.response"
                " WHERE items.id = ? AND responses.owner = ? AND responses.kept_at >= ?"
                " ORDER BY items.number DESC LIMIT 1",
                (item_id, owner, self._oldest()),
            ).fetchone()
            if row is not None:
                found[item_id] = _loads(row[0])
        return found

    def _oldest(self) -> float:
        return self._now() - self._config.max_age_days * DAY_S

    def _drop(self, db: sqlite3.Connection) -> None:
        dropped = db.execute(
            "DELETE FROM responses WHERE kept_at < ? OR number <= ("
            "SELECT number FROM responses ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self._oldest(), self._config.max_responses),
        ).rowcount
        if dropped:
            _drop_orphans(db)


def default_file() -> Path:
    """Return the path of the file in the user's state folder."""
    return Path(platformdirs.user_state_dir("clinvk", appauthor=False)) / "responses.sqlite3"


def _connect(path: str) -> sqlite3.Connection:
    if path != MEMORY:
        _make_private(Path(path))
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    try:
        _prepare_patiently(db)
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


def _prepare_patiently(db: sqlite3.Connection) -> None:
    """SQLite does not wait by itself where two connections begin to use the WAL at once."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            return _prepare(db)
        except sqlite3.OperationalError as exc:
            is_busy = exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
        time.sleep(BUSY_STEP_S)


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA secure_delete = ON")
    db.execute("PRAGMA foreign_keys = ON")
    with db:
        db.execute("BEGIN IMMEDIATE")  # two servers may start at once
        with closing(db.execute("PRAGMA user_version")) as cursor:
            (version,) = cursor.fetchone()
        if version not in (0, VERSION, *STEPS):
            raise ValueError(f"it is of version {version}, and this clinvk knows {VERSION}")
        if version == 0:
            for statement in TABLES.split(";"):
                db.execute(statement)
        for step in range(version or VERSION, VERSION):
            db.execute(STEPS[step])
        if version != VERSION:
            db.execute(f"PRAGMA user_version = {VERSION}")


def _put(db: sqlite3.Connection, item: Json) -> int:
    """Return the number of an item, which is kept once."""
    body = json.dumps(item, sort_keys=True)
    row = db.execute(
        "SELECT number FROM items WHERE id = ? AND body = ?", (item["id"], body)
    ).fetchone()
    if row is None:
        cursor = db.execute("INSERT INTO items (id, body) VALUES (?, ?)", (item["id"], body))
        return int(cursor.lastrowid or 0)
    return int(row[0])


def _drop_orphans(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM items WHERE number NOT IN (SELECT item FROM places)")


def _loads(text: str) -> Json:
    try:
        value = json.loads(text)
    except (TypeError, RecursionError) as exc:
        raise ValueError(f"a row cannot be read: {exc}") from exc
    if not isinstance(value, dict):
        raise ValueError("a row is not a JSON object")  # noqa: TRY004 - the file is wrong, not we
    return value
