"""Real ACP agents from npm on a fake of Anthropic's API, each with a home of its own."""

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from clinvk.backends.acp_agent import AcpBackend
from clinvk.backends.base import Live
from clinvk.config import AcpConfig
from clinvk.errors import ClinvkError
from clinvk.events import Event, Failed, TextDelta, check_grammar
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import Message, Role, TextPart, ToolSpec, Turn
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.api import Captured, Reply

BIN = Path(__file__).parent / "agents" / "node_modules" / ".bin"
HUNG_S = 90  # a guard against hanging tests, not a measure
COMMANDS = {
    "claude-code-acp": ["claude-code-acp"],
    "qwen": ["qwen", "--acp", "--auth-type", "anthropic", "-m", "claude-x"],
}
SHELL: dict[str, tuple[str, dict[str, Any]]] = {
    "claude-code-acp": ("Bash", {"command": "touch $HOME/marker"}),
    "qwen": ("run_shell_command", {"command": "touch $HOME/marker", "is_background": False}),
}
PASS_PDF = {"qwen"}  # the other drops them
WEATHER = ToolSpec(
    "get_weather",
    "Tells the weather.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CALL = Reply(text=("Let me see.",), tool_calls=(("mcp__x__get_weather", {"city": "Rome"}),))


def said(role: str, text: str) -> Message:
    return Message(Role(role), (TextPart(text),))


def turn(*messages: Message | str, **more: Any) -> Turn:
    told = tuple(said("user", m) if isinstance(m, str) else m for m in messages)
    return Turn("agent", told, **more)


@dataclass
class World:
    """An agent, its home and the API that it asks."""

    name: str
    home: Path
    fake: FakeAnthropic
    backend: AcpBackend
    replies: list[Reply] = field(default_factory=list)

    def answers(self, *replies: Reply) -> None:
        """Answer the agent's own turns by these; what it asks beside them gets a plain answer."""
        self.fake.requests.clear()
        left = list(replies)

        def script(call: Captured) -> Reply:
            if not is_turn(call):
                return Reply()
            return left.pop(0) if len(left) > 1 else left[0]

        self.fake.script = script

    @property
    def turns(self) -> list[dict[str, Any]]:
        """The bodies of the agent's own turns."""
        return [call.body for call in self.fake.requests if is_turn(call)]


def is_turn(call: Captured) -> bool:
    """Whether a request is a turn: with the agent's tools, and not what it asks beside them.

    That is about its memory, or what its user may say next.
    """
    body = call.body or {}
    tools = {tool["name"] for tool in body.get("tools", [])}
    last = body.get("messages", [{}])[-1].get("content")
    beside = last == "count" or "[SUGGESTION MODE" in json.dumps(last)
    return bool(tools & {"Task", "agent"}) and not beside


@asynccontextmanager
async def agent_world(name: str, path: Path, **settings: Any) -> AsyncIterator[World]:
    """Open a world; no process and no file of clinvk's may be left when it closes."""
    program, *words = COMMANDS[name]
    assert (BIN / program).exists(), f"{program} is missing: run `make test`, which installs it"
    home, temp = path / "home", path / "temp"
    home.mkdir()
    temp.mkdir()
    fake = FakeAnthropic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temp))
        async with fake.running(), Supervisor() as supervisor:
            config = AcpConfig(
                kind="acp",
                command=[str(BIN / program), *words],
                pdf=name in PASS_PDF,
                env={
                    "HOME": str(home),
                    "ANTHROPIC_BASE_URL": fake.url,
                    "ANTHROPIC_API_KEY": "sk-ant-test",
                    "CLAUDE_CODE_MAX_RETRIES": "0",
                    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                },
                **settings,
            )
            backend = AcpBackend(name, config, supervisor)
            with anyio.fail_after(HUNG_S):
                await backend.warm()
            yield World(name, home, fake, backend)
            backend.close()
    assert list(temp.iterdir()) == []
    words = [word for child in psutil.Process().children(recursive=True) for word in line(child)]
    assert not any(str(BIN.parent) in word for word in words)


def line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def rest(live: AsyncIterator[Event]) -> list[Event]:
    with anyio.fail_after(HUNG_S):
        events = [event async for event in live]
    check_grammar(events)
    return events


@asynccontextmanager
async def opened(
    backend: AcpBackend, asked: Turn, model: str | None = None
) -> AsyncIterator[tuple[Live, list[Event]]]:
    """Open a turn and give its events up to its end."""
    backend.check(asked)
    with anyio.fail_after(HUNG_S):
        context = backend.open(asked, model)
        live = await context.__aenter__()
    try:
        assert isinstance(live, Live)
        yield live, await rest(live)
    finally:
        with anyio.fail_after(HUNG_S):
            await context.__aexit__(None, None, None)


async def run(backend: AcpBackend, asked: Turn, model: str | None = None) -> list[Event]:
    """Run a turn to its end; a raised error is the last event."""
    try:
        async with opened(backend, asked, model) as (_, events):
            return events
    except ClinvkError as exc:
        return [Failed(exc)]


def answer(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))
