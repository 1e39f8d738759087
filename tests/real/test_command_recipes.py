"""The recipes of `examples/backends/commands.yaml`: real CLIs on fakes of their model APIs."""

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from clinvk import config
from clinvk.backends.command import CommandBackend
from clinvk.errors import ClinvkError
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    TextDelta,
    Usage,
    check_grammar,
)
from clinvk.kinds import CommandConfig
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import Message, Role, TextPart, Turn
from tests.fakes.api import FakeApi, Reply
from tests.real.bridge import FAKES, settings
from tests.real.conftest import cli
from tests.real.gemini_world import API_KEY_LOGIN
from tests.real.upstream import said

pytestmark = pytest.mark.real

RECIPES = Path(__file__).parents[2] / "examples" / "backends" / "commands.yaml"
CLIS = {
    "claude-p": "claude",
    "codex-exec": "codex",
    "gemini-p": "gemini",
    "qwen-p": "qwen",
    "qwen-json": "qwen",
}
BY_HAND = {"opencode-run", "copilot-p", "continue-p", "llm", "shell-gpt", "aider-ask"}
AGENTS = Path(__file__).parent / "agents" / "node_modules" / ".bin"
STREAMED = {"claude-p", "qwen-p"}
COUNTED = {"claude-p", "codex-exec", "qwen-p"}
HUNG_S = 60  # a guard against hanging tests, not a measure
PROMPT = "--What's new, $HOME `id`?\n\u00e4\u4e2d"


def recipe(name: str, fake: FakeApi, home: Path) -> CommandConfig:
    """Return a recipe as it stands, but for the program's path and where its model API is."""
    entry = config.load(RECIPES, env={}).config.backends[name]
    assert isinstance(entry, CommandConfig)
    if CLIS[name] == "qwen":
        assert (AGENTS / "qwen").exists(), "qwen is missing: run `make test`, which installs it"
        api = {"ANTHROPIC_BASE_URL": fake.url, "ANTHROPIC_API_KEY": "sk-ant-test"}
        login = ["--auth-type", "anthropic"]
        command = [str(AGENTS / "qwen"), *entry.command[1:], *login]
        return entry.model_copy(update={"command": command, "env": {"HOME": str(home), **api}})
    told = settings(CLIS[name], fake, home)
    if name == "codex-exec":
        provider = [f'{key}="{value}"' for key, value in told["config"].items()]
        folder = home / ".codex"
        folder.mkdir()
        (folder / "config.toml").write_text("\n".join(provider))
    if name == "gemini-p":
        folder = home / ".gemini"
        folder.mkdir()
        (folder / "settings.json").write_text(json.dumps(API_KEY_LOGIN))
    command = [cli(CLIS[name]), *entry.command[1:]]
    limits = {"CLAUDE_CODE_MAX_RETRIES": "0"}
    return entry.model_copy(update={"command": command, "env": told["env"] | limits})


@asynccontextmanager
async def recipe_on_fake(name: str, path: Path) -> AsyncIterator[tuple[CommandBackend, FakeApi]]:
    home, temp = path / "home", path / "temp"
    home.mkdir()
    temp.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temp))
        fakes = {**FAKES, "qwen": FAKES["claude"]}
        async with fakes[CLIS[name]]().running() as fake, Supervisor() as supervisor:
            yield CommandBackend(name, recipe(name, fake, home), supervisor), fake
    assert [path for path in temp.iterdir() if path.name.startswith("clinvk-")] == []


async def run(backend: CommandBackend, text: str) -> list[Event]:
    system = Message(Role.SYSTEM, (TextPart("Be brief."),))
    turn = Turn("m", (system, Message(Role.USER, (TextPart(text),))))
    events: list[Event] = []
    with anyio.fail_after(HUNG_S):
        try:
            backend.check(turn)
            async with backend.open(turn, None) as stream:
                events += [event async for event in stream]
        except ClinvkError as exc:
            events.append(Failed(exc))
    check_grammar(events)
    return events


def test_every_recipe_is_held_here_or_named_as_tried_by_hand() -> None:
    backends = config.load(RECIPES, env={}).config.backends
    assert set(backends) == CLIS.keys() | BY_HAND


@pytest.mark.parametrize("name", CLIS)
async def test_a_recipe_answers_and_passes_the_prompt_as_it_is(name: str, tmp_path: Path) -> None:
    async with recipe_on_fake(name, tmp_path) as (backend, fake):
        events = await run(backend, PROMPT)
    pieces = [event.text for event in events if isinstance(event, TextDelta)]
    assert "".join(pieces) == "Hello from the fake."
    if name in STREAMED:
        assert len(pieces) == 5
    assert events[-1] == Finished(FinishReason.STOP)
    counted = [event for event in events if isinstance(event, Usage)]
    # Qwen Code counts what it asks for its memory, too.
    assert counted in ([[Usage(11, 7)], [Usage(22, 14)]] if name in COUNTED else [[]])
    whole = "".join(text for request in fake.requests if request.body for _, text in told(request))
    assert PROMPT in whole
    assert "Be brief." in whole


def told(request: object) -> list[tuple[str, str]]:
    body = getattr(request, "body", {})
    return said(body) if {"contents", "input", "messages"} & set(body) else []


@pytest.mark.parametrize("name", CLIS)
async def test_a_failure_of_the_model_api_is_typed(name: str, tmp_path: Path) -> None:
    async with recipe_on_fake(name, tmp_path) as (backend, fake):
        fake.answer(Reply(status=400))
        last = (await run(backend, "hi"))[-1]
    assert isinstance(last, Failed)
    assert last.error.status == 400
    assert "400" in last.error.message
