"""The Claude Code driver against small programs that misbehave as the real one rarely does."""

import json
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from clinvk.backends import claude_start
from clinvk.backends.base import State
from clinvk.backends.claude import ClaudeBackend
from clinvk.config import ClaudeConfig
from clinvk.errors import CliCrashedError, CliProtocolError
from clinvk.events import Event, Finished, FinishReason, TextDelta, Usage
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import Message, Role, TextPart, Turn

HUNG_S = 20  # a guard against hanging tests, not a measure
PRELUDE = """
import json, os, sys
def hear(): return json.loads(sys.stdin.readline() or sys.exit(9))
def say(**message): print(json.dumps(message), flush=True)
def ready(): hear(); say(type="control_response", response={"subtype": "success"})
def delta(text): say(type="stream_event", event={
    "type": "content_block_delta", "delta": {"type": "text_delta", "text": text}})
def stop(): say(type="stream_event", event={
    "type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}})
"""
ASKED = Turn("claude", (Message(Role.USER, (TextPart("hi"),)),))
WITH_HISTORY = Turn(
    "claude",
    tuple(Message(role, (TextPart("x"),)) for role in (Role.USER, Role.ASSISTANT, Role.USER)),
)


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as running:
        yield running


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "temp"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def contents(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def program(supervisor: Supervisor, folder: Path, code: str) -> ClaudeBackend:
    script = folder / "program.py"
    script.write_text(PRELUDE + textwrap.dedent(code))
    config = ClaudeConfig(
        kind="claude", command=[sys.executable, str(script)], env={"HOME": str(folder)}
    )
    return ClaudeBackend("claude", config, supervisor)


async def run(backend: ClaudeBackend, asked: Turn = ASKED) -> list[Event]:
    with anyio.fail_after(HUNG_S):
        async with backend.open(asked, None) as events:
            return [event async for event in events]


async def test_noise_between_the_lines_is_skipped(supervisor: Supervisor, tmp_path: Path) -> None:
    backend = program(
        supervisor,
        tmp_path,
        """
        print("Welcome!"); print("[1]"); ready(); hear()
        print("{oops"); delta("a"); print(); stop(); sys.stdin.read()
        """,
    )
    assert await run(backend) == [TextDelta("a"), Usage(0, 2), Finished(FinishReason.STOP)]


@pytest.mark.parametrize(
    ("code", "asked", "error", "words"),
    [
        ("print('bad option', file=sys.stderr); sys.exit(3)", ASKED, CliCrashedError, "code 3"),
        ("ready(); sys.exit(0)", ASKED, CliCrashedError, "no reason"),
        ("ready(); hear(); delta('a'); sys.exit(4)", ASKED, CliCrashedError, "code 4"),
        (
            "ready(); hear(); delta('a'); os.close(1); sys.stdin.read()",
            ASKED,
            CliCrashedError,
            "claude ended",
        ),
        ("ready(); os.close(0); hear()", WITH_HISTORY, CliCrashedError, "claude ended"),
        (
            "hear(); say(type='control_response', response={'subtype': 'error', 'error': 'no'})",
            ASKED,
            CliProtocolError,
            "refused its setup: no",
        ),
        (
            "ready(); hear(); say(type='result', is_error=True, result='full'); sys.stdin.read()",
            WITH_HISTORY,
            CliProtocolError,
            "full",
        ),
        (
            "ready(); hear(); sys.stdout.write('x' * (65 << 20)); sys.stdout.flush()",
            ASKED,
            CliProtocolError,
            "longer than",
        ),
    ],
)
async def test_misbehaviour_is_a_typed_error(
    supervisor: Supervisor,
    tmp_path: Path,
    code: str,
    asked: Turn,
    error: type[Exception],
    words: str,
) -> None:
    backend = program(supervisor, tmp_path, code)
    with pytest.raises(error, match=words):
        await run(backend, asked)


async def test_requests_of_the_cli_are_answered_as_far_as_they_are_known(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    backend = program(
        supervisor,
        tmp_path,
        """
        ready(); hear()
        say(type="control_request", request_id="a", request={"subtype": "can_use_tool"})
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        say(type="control_request", request_id="b", request={"message": ping})
        delta(json.dumps(hear()["response"])); stop(); sys.stdin.read()
        """,
    )
    events = await run(backend)
    assert isinstance(events[0], TextDelta)
    assert json.loads(events[0].text) == {
        "subtype": "success",
        "request_id": "b",
        "response": {"mcp_response": {"jsonrpc": "2.0", "id": 1, "result": {}}},
    }


async def test_a_program_that_never_answers_is_given_up(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claude_start, "BOOT_TIMEOUT_S", 0.05)
    backend = program(supervisor, tmp_path, "sys.stdin.read()")
    with pytest.raises(CliProtocolError, match="not ready"):
        await run(backend)


async def test_a_program_that_cannot_run_is_an_error(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    broken = tmp_path / "claude"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o700)
    config = ClaudeConfig(kind="claude", command=[str(broken)], env={"HOME": str(tmp_path)})
    backend = ClaudeBackend("claude", config, supervisor)
    with pytest.raises(CliCrashedError, match="could not be started"):
        await run(backend)
    health = await backend.health()
    assert health.state is State.FAILING
    assert str(broken) in (health.reason or "")


async def test_a_login_command_that_says_nonsense_is_failing(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    said = program(supervisor, tmp_path, "print('9.9.9 (Claude Code)'); sys.exit(1)")
    health = await said.health()
    assert (health.state, health.version, health.tested) == (State.FAILING, "9.9.9", False)
    await said.warm()
    said.close()


async def test_nothing_is_left_in_the_temporary_folder(
    supervisor: Supervisor, tmp_path: Path, temp: Path
) -> None:
    settings = tmp_path / ".claude" / "settings.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"apiKeyHelper": "true"}))
    backend = program(
        supervisor,
        tmp_path,
        """
        ready(); hear()
        [path] = [a.partition("=")[2] for a in sys.argv if a.startswith("--settings=")]
        delta(open(path).read() + oct(os.stat(os.path.dirname(path)).st_mode)[-3:]); stop()
        """,
    )
    stale = temp / "clinvk-claude-999999999-x"
    stale.mkdir()
    events = await run(backend)
    assert events[0] == TextDelta('{"apiKeyHelper": "true"}700')
    await supervisor.__aexit__(None, None, None)
    assert contents(temp) == []
