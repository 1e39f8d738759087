"""What is kept of responses, for how long, and for whose eyes."""

import sqlite3
import stat
from pathlib import Path
from typing import Any

import anyio
import platformdirs
import pytest

from clinvk import store
from clinvk.config import StoreConfig
from clinvk.store import DAY_S, Store, StoreError


def item(ident: str, text: str = "x") -> dict[str, Any]:
    return {"id": ident, "type": "message", "content": text}


def response(ident: str, *output: dict[str, Any]) -> dict[str, Any]:
    return {"id": ident, "output": list(output)}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "responses.sqlite3"


def rows(file: Path, table: str) -> int:
    db = sqlite3.connect(file)
    try:
        (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)
    finally:
        db.close()


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(mode=0o755)
    file.touch(mode=0o644)
    file.write_bytes(content)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_a_response_survives_a_restart(file: Path) -> None:
    first = Store(StoreConfig(path=str(file)))
    await first.save(response("r1", item("o1")), [item("i1"), item("i2")])
    await first.close()
    again = Store(StoreConfig(path=str(file)))
    assert await again.get("r1") == response("r1", item("o1"))
    assert await again.items("r1") == [item("i1"), item("i2")]
    assert await again.items("r1", output=True) == [item("i1"), item("i2"), item("o1")]
    assert await again.find(["o1", "i2", "nope"]) == {"o1": item("o1"), "i2": item("i2")}
    await again.close()


async def test_memory_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = Store(StoreConfig(path=":memory:"))
    await kept.save(response("r1"), [])
    assert await kept.items("r1") == []
    assert kept.path == ":memory:"
    await kept.close()
    assert modes(tmp_path) == {}


async def test_what_is_not_kept_is_none(file: Path) -> None:
    kept = Store(StoreConfig(path=str(file)))
    assert await kept.get("r") is None
    assert await kept.items("r") is None
    assert await kept.find([]) == {}
    assert not await kept.delete("r")
    await kept.close()


def test_the_default_file_is_in_the_users_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_state_dir", lambda *_, **__: "/state/clinvk")
    assert Store(StoreConfig()).path == "/state/clinvk/responses.sqlite3"
    assert not Store(StoreConfig(path="~/r.db")).path.startswith("~")


async def test_only_the_user_may_read_it(file: Path) -> None:
    write(file, b"")
    kept = Store(StoreConfig(path=str(file)))
    await kept.save(response("r1"), [item("i1")])
    found = modes(file.parent)
    await kept.close()
    assert set(found.values()) == {0o600}
    assert f"{file.name}-wal" in found


async def test_the_oldest_go_when_there_are_too_many(file: Path) -> None:
    kept = Store(StoreConfig(path=str(file), max_responses=2))
    for number in range(4):
        await kept.save(response(f"r{number}", item(f"o{number}")), [item("shared")])
    assert [await kept.get(f"r{n}") is not None for n in range(4)] == [False, False, True, True]
    await kept.close()
    assert (rows(file, "responses"), rows(file, "items"), rows(file, "places")) == (2, 3, 4)


async def test_what_is_too_old_goes(file: Path) -> None:
    clock = Clock()
    kept = Store(StoreConfig(path=str(file), max_age_days=2), now=clock)
    await kept.save(response("old", item("o1")), [])
    clock.now += DAY_S
    await kept.save(response("new"), [])
    clock.now += DAY_S + 1
    assert await kept.get("old") is None
    assert await kept.items("old", output=True) is None
    assert await kept.find(["o1"]) == {}
    assert await kept.get("new") is not None
    await kept.save(response("newest"), [])
    await kept.close()
    assert rows(file, "responses") == 2


async def test_an_item_is_kept_once_and_goes_with_its_last_response(file: Path) -> None:
    kept = Store(StoreConfig(path=str(file)))
    await kept.save(response("r1", item("o1")), [item("i1")])
    await kept.save(response("r2", item("o2")), [item("i1"), item("o1"), item("i2")])
    assert await kept.delete("r1")
    assert await kept.get("r1") is None
    assert await kept.items("r2") == [item("i1"), item("o1"), item("i2")]
    assert await kept.delete("r2")
    assert not await kept.delete("r2")
    await kept.close()
    assert (rows(file, "responses"), rows(file, "items"), rows(file, "places")) == (0, 0, 0)


async def test_nothing_is_kept_after_the_end(file: Path) -> None:
    kept = Store(StoreConfig(path=str(file)))
    await kept.save(response("r1"), [])
    await kept.close()
    await kept.close()
    with pytest.raises(StoreError, match="closed"):
        await kept.save(response("r2"), [])


async def test_of_two_items_with_one_id_the_newest_is_found(file: Path) -> None:
    kept = Store(StoreConfig(path=str(file)))
    await kept.save(response("r1"), [item("i", "a")])
    await kept.save(response("r2"), [item("i", "b")])
    assert await kept.find(["i"]) == {"i": item("i", "b")}
    assert await kept.items("r1") == [item("i", "a")]
    await kept.close()


async def test_two_servers_share_a_file(file: Path) -> None:
    one, two = Store(StoreConfig(path=str(file))), Store(StoreConfig(path=str(file)))
    async with anyio.create_task_group() as group:
        for number in range(10):
            for name, kept in (("a", one), ("b", two)):
                group.start_soon(kept.save, response(f"{name}{number}"), [item(f"{name}{number}")])
    assert await one.get("b9") is not None
    assert await two.get("a9") is not None
    await one.close()
    await two.close()
    assert rows(file, "responses") == 20


@pytest.mark.parametrize("content", [b"not a database, but long enough to look at", None])
async def test_a_file_that_cannot_be_used_is_an_error_that_names_it(
    file: Path, content: bytes | None
) -> None:
    if content is None:
        (file / "a folder").mkdir(parents=True)
    else:
        write(file, content * 50)
    kept = Store(StoreConfig(path=str(file)))
    with pytest.raises(StoreError, match=str(file)):
        await kept.save(response("r1"), [])
    with pytest.raises(StoreError, match=str(file)):
        await kept.get("r1")
    await kept.close()


async def test_a_file_of_another_version_is_left_alone(file: Path) -> None:
    file.parent.mkdir()
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version = 99")
    db.close()
    kept = Store(StoreConfig(path=str(file)))
    with pytest.raises(StoreError, match="version 99"):
        await kept.get("r1")
    await kept.close()


async def test_a_response_that_cannot_be_kept_leaves_nothing(file: Path) -> None:
    kept = Store(StoreConfig(path=str(file)))
    await kept.save(response("r1"), [])
    with pytest.raises(StoreError, match="UNIQUE"):
        await kept.save(response("r1"), [item("i1")])
    await kept.close()
    assert rows(file, "items") == 0


async def test_what_is_kept_is_its_owners_alone(file: Path) -> None:
    kept = Store(StoreConfig(path=str(file)))
    await kept.save(response("r1", item("o1")), [item("i1")], owner="alice")
    await kept.save(response("r2", item("o2")), [item("i1")], owner="bob")
    for stranger in ("bob", "", "alice "):
        assert await kept.get("r1", owner=stranger) is None
        assert await kept.items("r1", owner=stranger) is None
        assert await kept.find(["o1"], owner=stranger) == {}
        assert not await kept.delete("r1", owner=stranger)
    assert await kept.find(["i1", "o1"], owner="alice") == {"i1": item("i1"), "o1": item("o1")}
    assert await kept.delete("r1", owner="alice")
    assert await kept.items("r2", owner="bob", output=True) == [item("i1"), item("o2")]
    await kept.close()


async def test_a_file_of_the_version_before_is_read_as_nobodys(file: Path) -> None:
    file.parent.mkdir()
    db = sqlite3.connect(file)
    tables = store.TABLES.replace("body TEXT NOT NULL,\n    owner TEXT NOT NULL DEFAULT ''", "body")
    assert "owner" not in tables
    db.executescript(f"{tables} PRAGMA user_version = 1;")
    db.execute(
        "INSERT INTO responses (id, kept_at, body) VALUES ('old', 1e12, '{\"id\": \"old\"}')"
    )
    db.commit()
    db.close()
    for _ in range(2):  # brought up to date once
        kept = Store(StoreConfig(path=str(file)))
        assert await kept.get("old") == {"id": "old"}
        assert await kept.get("old", owner="alice") is None
        await kept.close()
    kept = Store(StoreConfig(path=str(file)))
    await kept.save(response("new"), [], owner="alice")
    assert await kept.get("new", owner="alice") is not None
    await kept.close()
