"""The real Codex CLI when the API fails, the client leaves, or the CLI dies."""

import asyncio
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.backends.base import State
from clinvk.backends.codex import INSTALL
from clinvk.errors import (
    CliCrashedError,
    ClinvkError,
    ContextTooLongError,
    ModelNotFoundError,
    NotLoggedInError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    TooLargeError,
    UnavailableError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)
from clinvk.events import (
    Failed,
    TextDelta,
)
from tests.fakes.api import Reply
from tests.fakes.responses import FakeResponses
from tests.real.codex_world import (
    HUNG_S,
    World,
    codex_world,
    collect,
    failure,
    servers,
    text,
    turn,
    until,
)

pytestmark = pytest.mark.real


@pytest.fixture
async def world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with codex_world(home, tmp_path, monkeypatch) as opened:
        yield opened


def said_no(status: int, *, code: str | None = None, **more: Any) -> Reply:
    error = {"message": "the API says no", "code": code}
    return Reply(status=status, error=error, **more)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (said_no(400), UpstreamRefusedError),
        (said_no(401), NotLoggedInError),
        (said_no(403), PermissionDeniedError),
        (said_no(404), ModelNotFoundError),
        (said_no(413), TooLargeError),
        (said_no(429), RateLimitedError),
        (said_no(500), UpstreamError),
        (said_no(503), UpstreamError),
        (said_no(529), OverloadedError),
        (Reply(status=404, error={"message": "x", "code": "model_not_found"}), ModelNotFoundError),
        (
            Reply(status=429, error={"message": "x", "code": "insufficient_quota"}),
            QuotaExceededError,
        ),
        (
            Reply(status=400, error={"message": "x", "code": "context_length_exceeded"}),
            ContextTooLongError,
        ),
        (Reply(error={"message": "x", "code": "server_error"}), UpstreamError),
        (Reply(cut=0), UpstreamUnreachableError),
        (Reply(cut=2), UpstreamUnreachableError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value.status),
)
async def test_a_failure_of_the_api_is_typed_and_not_retried(
    world: World, reply: Reply, kind: type[ClinvkError]
) -> None:
    world.fake.answer(reply)
    backend = world.backend()
    error = await failure(backend, turn("hi"))
    assert type(error) is kind
    assert len(world.fake.requests) == 1
    world.fake.answer(Reply())
    assert text(await collect(backend, turn("again"))) == "Hello from the fake."


async def test_the_built_in_provider_is_not_retried_either(world: World) -> None:
    world.login_with_key("sk-user")
    backend = world.with_login()
    for status, kind in ((401, NotLoggedInError), (500, UpstreamError)):
        world.fake.requests.clear()
        world.fake.answer(said_no(status))
        assert type(await failure(backend, turn("hi"))) is kind
        assert len(world.fake.requests) == 1


async def test_a_rate_limit_tells_when_to_ask_again(world: World) -> None:
    world.fake.answer(said_no(429, headers={"Retry-After": "7"}))
    error = await failure(world.backend(), turn("hi"))
    assert (type(error), error.retry_after_s) == (RateLimitedError, 7)


async def test_retries_are_as_configured(world: World) -> None:
    world.fake.answer(said_no(500), Reply())
    events = await collect(world.backend(retries=1), turn("hi"))
    assert text(events) == "Hello from the fake."
    assert len(world.fake.requests) == 2


async def test_no_retry_after_the_answer_has_begun(world: World) -> None:
    world.fake.answer(Reply(cut=2), Reply())
    events = await collect(world.backend(retries=3), turn("hi"))
    assert text(events) == "Hello from"
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, UpstreamUnreachableError)


async def test_an_api_that_is_down_is_unreachable(world: World) -> None:
    backend = world.backend()
    async with FakeResponses().running() as gone:
        world.fake.url = gone.url
    error = await failure(world.backend(), turn("hi"))
    assert type(error) is UpstreamUnreachableError
    assert backend.installed


async def test_a_key_that_is_not_set_is_named(world: World) -> None:
    error = await failure(world.backend(env={"HOME": str(world.home)}), turn("hi"))
    assert type(error) is NotLoggedInError
    assert "FAKE_KEY" in error.message


async def test_a_configuration_that_codex_refuses_is_told(world: World) -> None:
    error = await failure(world.backend(config={"model_provider": "nowhere"}), turn("hi"))
    assert "nowhere" in error.message
    assert isinstance(error, UnavailableError | CliCrashedError)


async def test_leaving_closes_the_upstream_connection(world: World) -> None:
    world.fake.answer(Reply(hold=2))
    backend = world.backend()
    for model in (None, "unheard-of"):
        with anyio.fail_after(HUNG_S):
            async with backend.open(turn("hi"), model) as stream:
                async for event in stream:
                    if isinstance(event, TextDelta):
                        break
        await until(lambda: world.fake.open == 0)
    assert world.fake.aborted == 2


async def test_being_cancelled_at_any_moment_closes_the_upstream_connection(world: World) -> None:
    world.fake.answer(Reply(hold=1))
    backend = world.backend()
    await backend.warm()
    for moment in range(24):
        job = asyncio.ensure_future(collect(backend, turn("hi")))
        await asyncio.sleep(moment * 0.003)
        job.cancel()
        await asyncio.wait([job])
    world.fake.answer(Reply())
    assert text(await collect(backend, turn("hi"))) == "Hello from the fake."
    await until(lambda: world.fake.open == 0)


async def test_leaving_before_the_api_answers_closes_the_connection(world: World) -> None:
    world.fake.answer(Reply(hold=0))
    job = asyncio.ensure_future(collect(world.backend(), turn("hi")))
    await until(lambda: world.fake.open == 1)
    job.cancel()
    await asyncio.wait([job])
    await until(lambda: world.fake.open == 0)


@pytest.mark.parametrize("victim", [0, -1], ids=["launcher", "native"])
async def test_a_killed_cli_fails_its_turns_at_once_and_the_next_turn_works(
    world: World, victim: int
) -> None:
    world.fake.answer(Reply(hold=1))
    backend = world.backend()
    errors: list[ClinvkError] = []

    async def one() -> None:
        errors.append(await failure(backend, turn("hi")))

    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(one)
            await until(lambda: world.fake.open == 3)
            before = servers()
            before[victim].send_signal(signal.SIGKILL)
    assert [type(error) for error in errors] == [CliCrashedError] * 3
    assert "SIGKILL" in errors[0].message
    await until(lambda: not any(process in servers() for process in before))
    world.fake.answer(Reply())
    assert text(await collect(backend, turn("again"))) == "Hello from the fake."


async def test_a_cli_that_dies_between_turns_is_replaced_unseen(world: World) -> None:
    backend = world.backend()
    await collect(backend, turn("hi"))
    servers()[0].send_signal(signal.SIGKILL)
    assert text(await collect(backend, turn("again"))) == "Hello from the fake."


async def test_warming_starts_the_server_and_closing_ends_it(world: World) -> None:
    backend = world.backend()
    await backend.warm()
    assert servers() != []
    backend.close()
    await until(lambda: servers() == [])
    await until(lambda: list(world.temporary.iterdir()) == [])


async def test_folders_of_a_killed_clinvk_are_removed(world: World) -> None:
    stale = world.temporary / f"clinvk-codex-{2**22 + 1}-x"  # no process has this number
    stale.mkdir()
    await collect(world.backend(), turn("hi"))
    assert not stale.exists()


def script(folder: Path, body: str) -> str:
    """A program that stands in for codex."""
    path = folder / "codex"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_a_cli_that_does_not_start_says_why_and_when_to_ask_again(
    world: World, tmp_path: Path
) -> None:
    backend = world.backend(command=script(tmp_path, "echo 'no such thing' >&2; exit 7"))
    error = await failure(backend, turn("hi"))
    assert type(error) is CliCrashedError
    assert "exit code 7" in error.message
    assert "no such thing" in error.message
    with pytest.raises(CliCrashedError) as caught:
        await backend.warm()
    assert caught.value.retry_after_s is not None


async def test_a_program_that_is_something_else_is_no_codex(world: World, tmp_path: Path) -> None:
    backend = world.backend(command=script(tmp_path, "echo hello"))
    found = await backend.health()
    assert (found.state, found.fix) == (State.FAILING, INSTALL)
