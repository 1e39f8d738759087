"""The codex adapter and an app-server that does not behave."""

import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from clinvk.backends import codex as adapter
from clinvk.backends import codex_server, codex_turns
from clinvk.backends.base import Live, State
from clinvk.backends.codex import CodexBackend
from clinvk.config import CodexConfig
from clinvk.errors import (
    BadRequestError,
    CliCrashedError,
    ClinvkError,
    CliProtocolError,
    UnavailableError,
)
from clinvk.events import Event, Finished, FinishReason, TextDelta, check_grammar
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import Message, Role, TextPart, ToolSpec, Turn

STAND_IN = Path(__file__).parent.parent / "fakes" / "codex_cli.py"
ASKED = Turn("codex", (Message(Role.USER, (TextPart("hi"),)),))
WITH_TOOL = replace(ASKED, tools=(ToolSpec("f"),))


@pytest.fixture
async def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    for name in list(os.environ):
        if name != "PATH":
            monkeypatch.delenv(name)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    async with Supervisor() as running:
        yield running
    assert list(temporary.iterdir()) == []


def backend(supervisor: Supervisor, mode: str, home: Path) -> CodexBackend:
    command = [sys.executable, str(STAND_IN), mode]
    config = CodexConfig(kind="codex", command=command, env={"HOME": str(home)})
    return CodexBackend("codex", config, supervisor)


async def run(codex: CodexBackend) -> list[Event]:
    events: list[Event] = []
    with anyio.fail_after(30):
        async with codex.open(ASKED, None) as stream:
            events = [event async for event in stream]
    check_grammar(events)
    return events


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("hates", CliProtocolError, "codex refused the handshake: too old"),
        ("refuses", UnavailableError, "codex would not start the turn: no such thing"),
        (
            "picky",
            BadRequestError,
            "codex refused the tools: dynamic tool name is reserved: f",
        ),
        ("vague", CliProtocolError, "codex started a turn in a way unknown here"),
        (
            "dies",
            CliCrashedError,
            "codex app-server ended with exit code 5; ask again. It said: out of coffee",
        ),
    ],
)
async def test_a_server_that_misbehaves_fails_the_turn_in_words(
    supervisor: Supervisor, tmp_path: Path, mode: str, kind: type[ClinvkError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        await run(backend(supervisor, mode, tmp_path))
    assert caught.value.message == words


async def test_a_server_that_closes_its_output_is_stopped(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    with pytest.raises(CliCrashedError, match="codex app-server"):
        await run(backend(supervisor, "closes", tmp_path))


async def test_a_server_that_never_answers_is_given_up(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codex_turns, "BEGIN_S", 0.1)
    with pytest.raises(CliProtocolError, match="did not start the turn within"):
        await run(backend(supervisor, "hangs", tmp_path))


async def test_a_server_that_does_not_greet_is_given_up(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codex_server, "START_S", 0.0)
    with pytest.raises(CliCrashedError, match="did not answer within"):
        await backend(supervisor, "fine", tmp_path).warm()


async def test_what_the_server_asks_is_refused(supervisor: Supervisor, tmp_path: Path) -> None:
    events = await run(backend(supervisor, "asks", tmp_path))
    assert TextDelta("refused with -32601") in events


def told(ident: str) -> Message:
    return Message(Role.TOOL, (TextPart(f"result {ident}"),), call_id=ident)


async def test_calls_that_codex_relays_one_by_one_get_each_their_result(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    with anyio.fail_after(30):
        async with backend(supervisor, "calls", tmp_path).open(WITH_TOOL, None) as stream:
            assert [event async for event in stream][-1] == Finished(FinishReason.TOOL_CALLS)
            assert isinstance(stream, Live)
            assert stream.waits
            await stream.go_on((told("two"), told("one")))
            assert TextDelta("result one and result two") in [event async for event in stream]


async def asked(home: Path, last: str) -> list[str]:
    """What the stand-in was asked, once the last of it has come."""
    methods: list[str] = []
    with anyio.fail_after(30):
        while last not in methods:
            await anyio.sleep(0.01)
            methods = (home / "asked").read_text().splitlines()
    return methods


@pytest.mark.parametrize("mode", ["calls", "fine"])
async def test_only_a_turn_that_runs_is_interrupted(
    supervisor: Supervisor, tmp_path: Path, mode: str
) -> None:
    with anyio.fail_after(30):
        async with backend(supervisor, mode, tmp_path).open(WITH_TOOL, None) as stream:
            assert isinstance([event async for event in stream][-1], Finished)
    methods = await asked(tmp_path, "thread/unsubscribe")
    assert ("turn/interrupt" in methods) is (mode == "calls")


async def test_a_thread_that_codex_forgot_is_one_that_died(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    with anyio.fail_after(30):
        async with backend(supervisor, "forgets", tmp_path).open(ASKED, None) as stream:
            assert [event async for event in stream][-1] == Finished(FinishReason.STOP)
            assert isinstance(stream, Live)
            with pytest.raises(CliCrashedError, match="would not go on with the thread"):
                await stream.go_on(ASKED.messages)


async def test_chatter_does_no_harm(supervisor: Supervisor, tmp_path: Path) -> None:
    assert TextDelta("fine") in await run(backend(supervisor, "chatters", tmp_path))


async def test_a_codex_that_lists_no_models_works_and_is_warned_of(
    supervisor: Supervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert TextDelta("fine") in await run(backend(supervisor, "fine", tmp_path))
    assert "codex may offer its own tools" in caplog.text


async def test_a_version_that_is_not_tested_is_told(supervisor: Supervisor, tmp_path: Path) -> None:
    found = await backend(supervisor, "fine", tmp_path).health()
    assert (found.version, found.tested, found.state) == ("9.8.7", False, State.NOT_LOGGED_IN)


async def test_a_program_that_cannot_be_run_is_told(supervisor: Supervisor, tmp_path: Path) -> None:
    junk = tmp_path / "codex"
    junk.write_bytes(b"\x00\x01")
    junk.chmod(0o755)
    config = CodexConfig(kind="codex", command=[str(junk)], env={"HOME": str(tmp_path)})
    codex = CodexBackend("codex", config, supervisor)
    assert codex.installed
    assert (await codex.health()).state is State.FAILING
    with pytest.raises(CliCrashedError, match="codex could not be started"):
        await run(codex)


async def test_a_start_that_is_given_up_leaves_nothing_behind(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    codex = backend(supervisor, "fine", tmp_path)
    for _ in range(3):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(codex.warm)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
    assert TextDelta("fine") in await run(codex)


async def test_a_login_status_that_cannot_be_had_is_not_taken_for_a_login(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "ASK_S", 2.0)
    found = await backend(supervisor, "slow", tmp_path).health()
    assert found.state is State.NOT_LOGGED_IN
    assert found.reason == "`codex login status` failed: it did not answer"
