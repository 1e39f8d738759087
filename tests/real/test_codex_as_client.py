"""The real Codex CLI as a client: `codex exec` with clinvk as its model provider."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.errors import ContextTooLongError, RateLimitedError
from clinvk.events import Event, Finished, FinishReason, ReasoningDelta, TextDelta, ToolCall
from clinvk.server.app import create_app
from clinvk.turn import Role
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.real.conftest import cli
from tests.serving import API, serving

pytestmark = pytest.mark.real

OPTIONS = ("--skip-git-repo-check", "--sandbox", "danger-full-access")
HUNG_S = 60  # a guard against hanging tests, not a measure


class TwoTurns(ScriptBackend):
    """Plays `first` at the first turn, if there is one, and `script` at those that follow."""

    first: tuple[Event, ...] | None = None

    async def _play(self) -> AsyncIterator[Event]:
        first, self.first = self.first, None
        if first is None:
            async for event in super()._play():
                yield event
        for event in first or ():
            yield event


@pytest.fixture
def backend() -> TwoTurns:
    return TwoTurns()


@pytest.fixture
async def address(backend: TwoTurns) -> AsyncIterator[str]:
    async with serving(create_app(script_config(), build=builder(backend))) as url:
        yield url + API


async def codex(address: str, home: Path, prompt: str) -> tuple[int, list[dict[str, Any]]]:
    """Run `codex exec --json` and return its exit code and what it printed."""
    provider = {
        "model": "fake",
        "model_provider": "clinvk",
        "model_providers.clinvk.name": "clinvk",
        "model_providers.clinvk.base_url": address,
        "model_providers.clinvk.wire_api": "responses",
        "model_providers.clinvk.request_max_retries": 0,
        "model_providers.clinvk.stream_max_retries": 0,
    }
    settings = [word for name, value in provider.items() for word in ("-c", f"{name}={value}")]
    folder = home / "project"
    folder.mkdir(exist_ok=True)
    with anyio.fail_after(HUNG_S):
        done = await anyio.run_process(
            [cli("codex"), "exec", "--json", *OPTIONS, *settings, prompt],
            env={"PATH": os.environ["PATH"], "HOME": str(home)},
            cwd=folder,
            stdin=None,
            check=False,
        )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    return done.returncode, lines


def messages(lines: list[dict[str, Any]]) -> list[str]:
    items = [line["item"] for line in lines if line["type"] == "item.completed"]
    return [item["text"] for item in items if item["type"] == "agent_message"]


async def test_codex_hears_the_answer(address: str, home: Path, backend: TwoTurns) -> None:
    backend.script = (ReasoningDelta("Hm."), *backend.script)
    code, lines = await codex(address, home, "say hello")
    assert (code, messages(lines)) == (0, ["Hello world"])
    (usage,) = [line["usage"] for line in lines if line["type"] == "turn.completed"]
    assert (usage["input_tokens"], usage["cached_input_tokens"], usage["output_tokens"]) == (
        5,
        3,
        2,
    )
    turn = backend.turns[-1][0]
    assert turn.messages[-1].role is Role.USER
    assert turn.messages[-1].text == "say hello"
    assert turn.instructions
    assert turn.tools


async def test_codex_runs_the_tool_that_the_model_calls(
    address: str, home: Path, backend: TwoTurns
) -> None:
    call = ToolCall("call_1", "exec_command", json.dumps({"cmd": "echo $((40 + 2))"}))
    backend.first = (TextDelta("Let me see."), call, Finished(FinishReason.TOOL_CALLS))
    code, lines = await codex(address, home, "what is it?")
    assert code == 0
    assert messages(lines) == ["Let me see.", "Hello world"]
    *_, said, result = backend.turns[-1][0].messages
    assert said.role is Role.ASSISTANT
    assert said.text == "Let me see."
    assert [earlier.id for earlier in said.calls] == ["call_1"]
    assert (result.role, result.call_id) == (Role.TOOL, "call_1")
    assert "42" in result.text


@pytest.mark.parametrize(
    ("error", "before", "within"),
    [
        (RateLimitedError("slow down"), "429", "slow down"),
        (ContextTooLongError("too long"), "context window", "too long"),
    ],
)
async def test_codex_hears_of_a_failure(
    address: str, home: Path, backend: TwoTurns, error: Exception, before: str, within: str
) -> None:
    for script, told in (((error,), before), ((TextDelta("a"), error), within)):
        backend.script = script
        code, lines = await codex(address, home, "say hello")
        assert code == 1
        (failed,) = [line["error"]["message"] for line in lines if line["type"] == "turn.failed"]
        assert told in failed
