"""The real Claude Code as a client of clinvk: nothing but ANTHROPIC_BASE_URL points it there."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.config import Config, EchoConfig
from clinvk.errors import NotLoggedInError
from clinvk.events import Event, Finished, FinishReason, ReasoningDelta, TextDelta, ToolCall, Usage
from clinvk.server.anthropic import PREFIX
from clinvk.server.app import create_app
from clinvk.turn import Role
from tests.fakes.backend import ScriptBackend, builder
from tests.real.bridge import clean_environment
from tests.real.conftest import cli
from tests.serving import serving

pytestmark = pytest.mark.real

HUNG_S = 60  # a guard against hanging tests, not a measure
END = Finished(FinishReason.STOP)
CONFIG = Config(backends={"fake": EchoConfig(kind="echo")}, aliases={"claude-*": "fake/{model}"})


class Conversation(ScriptBackend):
    """Plays the next script at each turn."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[tuple[Event | Exception, ...]] = []

    async def _play(self) -> AsyncIterator[Event]:
        self.script = self.scripts.pop(0)
        async for event in super()._play():
            yield event


@dataclass
class Client:
    """Claude Code in an empty folder, and the backend that answers it."""

    backend: Conversation
    url: str
    home: Path

    async def ask(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """Run it once; its exit code, and the messages it prints."""
        folder = self.home.parent / "project"
        folder.mkdir(exist_ok=True)
        with anyio.fail_after(HUNG_S):
            done = await anyio.run_process(
                [
                    *(cli("claude"), "-p", "--output-format", "stream-json", "--verbose"),
                    *arguments,
                ],
                cwd=folder,
                check=False,
                env={
                    **clean_environment(self.home),
                    "ANTHROPIC_BASE_URL": self.url,
                    "ANTHROPIC_API_KEY": "unused",
                    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                },
            )
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
async def client(home: Path) -> AsyncIterator[Client]:
    (home.parent / "tmp").mkdir()
    backend = Conversation()
    async with serving(create_app(CONFIG, build=builder(backend))) as url:
        yield Client(backend, url + PREFIX, home)


async def test_it_prints_the_answer(client: Client) -> None:
    client.backend.scripts = [
        (ReasoningDelta("hm"), TextDelta("Hello"), TextDelta(" there"), Usage(9, 3), END)
    ]
    code, printed = await client.ask("Say hello.")
    assert code == 0
    assert (printed[-1]["subtype"], printed[-1]["result"]) == ("success", "Hello there")
    assert printed[-1]["usage"]["input_tokens"] == 9
    ((turn, model),) = client.backend.turns
    assert model is not None
    assert model.startswith("claude-")
    assert "Claude Code" in turn.instructions or "Claude agent" in turn.instructions
    assert "Say hello." in turn.conversation[-1].text
    assert {"Bash", "Read", "Edit"} <= {tool.name for tool in turn.tools}
    assert all(tool.parameters for tool in turn.tools)


async def test_it_runs_its_own_tools_and_goes_on_with_their_results(client: Client) -> None:
    read = json.dumps({"file_path": str(client.home.parent / "project" / "note.txt")})
    missing = json.dumps({"file_path": str(client.home / "nothing.txt")})
    (client.home.parent / "project").mkdir()
    (client.home.parent / "project" / "note.txt").write_text("the secret is 42\n")
    client.backend.scripts = [
        (
            ReasoningDelta("I must look."),
            TextDelta("Reading."),
            ToolCall("call_1", "Read", read),
            ToolCall("call_2", "Read", missing),
            Usage(9, 3),
            Finished(FinishReason.TOOL_CALLS),
        ),
        (TextDelta("It is 42."), Usage(20, 4), END),
    ]
    code, printed = await client.ask("What is the secret?")
    assert (code, printed[-1]["result"]) == (0, "It is 42.")
    said = client.backend.turns[1][0].conversation
    assistant = next(message for message in said if message.role is Role.ASSISTANT)
    assert [(call.id, call.name) for call in assistant.calls] == [
        ("call_1", "Read"),
        ("call_2", "Read"),
    ]
    assert json.loads(assistant.calls[0].arguments) == json.loads(read)
    results = {message.call_id: message.text for message in said if message.role is Role.TOOL}
    assert "the secret is 42" in results["call_1"]
    assert results["call_2"].startswith("error: ")


async def test_effort_is_passed_on(client: Client) -> None:
    client.backend.scripts = [(TextDelta("ok"), Usage(1, 1), END)]
    assert (await client.ask("--effort", "high", "hi"))[0] == 0
    assert client.backend.turns[0][0].effort == "high"


async def test_a_lasting_failure_is_told_once(client: Client) -> None:
    client.backend.scripts = [(NotLoggedInError("log in with `fake login`"),)]
    code, printed = await client.ask("hi")
    assert code != 0
    assert printed[-1]["is_error"]
    assert "log in with `fake login`" in printed[-1]["result"]
    assert len(client.backend.turns) == 1
