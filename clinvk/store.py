"""Keeps responses for a later turn: bounded by number and age, in one SQLite file or in memory.

Owns the file and its tables; knows responses and items only as JSON objects with an id. An item
is kept once, however many responses of a conversation it is part of, and goes with the last.
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from clinvk.config import StoreConfig
from clinvk.database import DAY_S, Database, Layout, StoreError, state_folder

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
LAYOUT = Layout(2, TABLES, {1: "ALTER TABLE responses ADD COLUMN owner TEXT NOT NULL DEFAULT ''"})

Json = dict[str, Any]


class Store:
    """Responses with their input and output items; opened at the first use."""

    def __init__(self, config: StoreConfig, *, now: Callable[[], float] = time.time) -> None:
        self._config = config
        self._now = now
        named = config.path
        path = os.path.expanduser(named) if named else str(default_file())  # noqa: PTH111
        self._database = Database(path, LAYOUT, "the store of responses")
        self._run = self._database.run

    @property
    def path(self) -> str:
        """Where the responses are: a file, or `:memory:`."""
        return self._database.path

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
        await self._database.close()

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
    return state_folder() / "responses.sqlite3"


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


__all__ = ["DAY_S", "Store", "StoreError", "default_file"]
