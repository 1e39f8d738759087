"""CLIs that do not come up, programs that vanish, folders that cannot be written to."""

import errno
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.backends import claude_start
from clinvk.procs import pool, spares
from tests.faults.books import HUNG_S, children, until
from tests.faults.conftest import DRIVEN, ONE_EACH, POOLED, STANDINS, Outcome, World, made

CRASHED = {"cli_crashed"}
LATE = {"timeout", "cli_crashed", "cli_protocol_error"}


@pytest.fixture(params=DRIVEN)
def adapter(request: pytest.FixtureRequest) -> str:
    """Each kind that starts a program."""
    return str(request.param)


async def recovered(world: World) -> None:
    """Ask until there is an answer; all else must be an error that says when to ask again."""
    with anyio.fail_after(HUNG_S):
        while not (found := await world.ask()).right:
            assert found.code in {"cli_crashed", "backend_unavailable"}, found
            await anyio.sleep(0.05)


@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        ("start-die", CRASHED),
        ("start-hang", LATE),
        ("start-stubborn", LATE),
        ("start-flood", LATE),
        ("start-wrong-id", LATE),
    ],
)
async def test_a_cli_that_does_not_come_up_is_one_error_and_leaves_nothing(
    adapter: str, fault: str, codes: set[str], tmp_path: Path
) -> None:
    async with made(adapter, tmp_path, impatient=True, first_s=1.0) as world:
        world.fail_starts(fault)
        found: list[Outcome] = []

        async def ask(*, stream: bool) -> None:
            found.append(await world.ask(stream=stream))

        async with anyio.create_task_group() as group:
            for stream in (True, False):
                group.start_soon(partial(ask, stream=stream))
        assert {outcome.code for outcome in found} <= codes, found
        await world.books.at_rest(world.app, processes=0)
        world.fail_starts("")
        await recovered(world)
        await world.at_rest()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the back-off pass in a moment."""
    monkeypatch.setattr(claude_start, "BACKOFF_FIRST_S", 1.0)
    monkeypatch.setattr(pool, "BACKOFF_FIRST_S", 0.1)
    monkeypatch.setattr(spares, "BACKOFF_FIRST_S", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("adapter", POOLED)
async def test_a_cli_that_keeps_failing_is_not_started_for_every_request(
    adapter: str, tmp_path: Path
) -> None:
    async with made(adapter, tmp_path) as world:
        assert (await world.health())["state"] == "ready"
        world.fail_starts("start-die")
        for child in children():  # what looking at its health has started
            child.kill()
        with anyio.fail_after(HUNG_S):
            # Five in a row, however long that takes.
            while "5 times in a row" not in (found := await world.ask()).message:
                assert found.code == "cli_crashed"
                await anyio.sleep(0.01)
        starts = world.starts
        assert found.code == "cli_crashed"
        assert "boom" in found.message
        assert found.retry_after is not None
        assert int(found.retry_after) >= 1
        again = [await world.ask(stream=stream) for stream in (True, False)]
        assert all(outcome.retry_after is not None for outcome in again)
        assert world.starts == starts
        health = await world.health()
        assert health["state"] == "failing"
        assert "5 times in a row" in health["reason"]
        world.fail_starts("")
        await recovered(world)
        assert (await world.health())["state"] == "ready"
        await world.at_rest()


@pytest.mark.usefixtures("quick")
async def test_spares_that_fail_to_start_count_and_one_that_starts_ends_it(tmp_path: Path) -> None:
    async with made("claude", tmp_path, warm=1) as world:
        assert (await world.health())["state"] == "ready"
        world.fail_starts("start-die")
        backend = world.service.registry.backends["claude"]
        await backend.warm()
        await until(lambda: backend.trouble is not None, lambda: backend)
        starts = world.starts
        assert starts >= 5
        assert (await world.ask()).retry_after is not None
        world.fail_starts("")
        await until(lambda: backend.trouble is None, lambda: backend)
        assert (await world.ask()).right


def program(path: Path, adapter: str) -> Path:
    """Write a program of its own that runs a stand-in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    standin = STANDINS / f"{adapter}_cli.py"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {standin} "$@"\n')
    path.chmod(0o755)
    return path


def vanish(path: Path) -> None:
    path.unlink()


def break_(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"\x7fELF, but no more of it")
    path.chmod(0o755)


def replace(path: Path) -> None:
    path.unlink()
    path.write_text("#!/bin/sh\necho no such option >&2\nexit 2\n")
    path.chmod(0o755)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("change", "code"),
    [(vanish, "cli_not_installed"), (break_, "cli_crashed"), (replace, "cli_crashed")],
)
async def test_a_program_that_is_replaced_while_it_runs(
    adapter: str, change: Callable[[Path], None], code: str, tmp_path: Path
) -> None:
    path = program(tmp_path / "bin" / "cli", adapter)
    async with made(adapter, tmp_path, command=str(path)) as world:
        assert (await world.ask()).right
        change(path)
        for stream in (True, False):
            found = await world.ask(stream=stream)
            # What runs already goes on, of those that serve many conversations.
            assert found.code == code or (found.right and adapter not in ONE_EACH), found
        program(path, adapter)
        await recovered(world)
        await world.at_rest()


def no_folder(temp: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tempfile, "tempdir", str(temp / "gone"))


def no_room(temp: Path, patch: pytest.MonkeyPatch) -> None:
    """Refuse every file below the temp folder, as a full disk does."""
    write, mkdir = Path.write_text, Path.mkdir

    def refuse(path: Path) -> None:
        if path.is_relative_to(temp):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def write_text(path: Path, *arguments: Any, **more: Any) -> int:
        refuse(path)
        return write(path, *arguments, **more)

    def make(path: Path, *arguments: Any, **more: Any) -> None:
        refuse(path)
        mkdir(path, *arguments, **more)

    patch.setattr(Path, "write_text", write_text)
    patch.setattr(Path, "mkdir", make)


def read_only(temp: Path, patch: pytest.MonkeyPatch) -> None:
    """Refuse every folder, as a file system that is mounted read-only does."""

    def refuse(*, prefix: str) -> str:  # noqa: ARG001 - as it is called
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(temp))

    patch.setattr(tempfile, "mkdtemp", refuse)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("spoil", [no_folder, no_room, read_only])
async def test_without_a_folder_to_write_to_there_is_an_error_that_says_so(
    adapter: str, spoil: Callable[[Path, pytest.MonkeyPatch], None], tmp_path: Path
) -> None:
    async with made(adapter, tmp_path) as world:
        with pytest.MonkeyPatch.context() as patch:
            spoil(tmp_path / "temp", patch)
            for stream in (True, False):
                found = await world.ask(stream=stream)
                assert found.code == "backend_unavailable", found
                assert "temp folder ($TMPDIR)" in found.message
                assert str(tmp_path) not in found.message
        await recovered(world)
        await world.at_rest()


async def test_the_folder_of_a_server_that_was_killed_is_removed_by_the_next(
    tmp_path: Path,
) -> None:
    async with made("claude", tmp_path) as world:
        left = tmp_path / "temp" / "clinvk-claude-999999999-left"
        left.mkdir()
        assert (await world.ask()).right
        await world.at_rest()
        assert not left.exists()
