"""The real Claude Code as a plain model: the user's login is kept, and nothing else of the user."""

import json
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from clinvk.backends.base import State
from clinvk.events import Finished, FinishReason, TextDelta
from tests.fakes.api import Reply
from tests.real.claude_world import KEY, World, answer, make_world, run, said, turn

pytestmark = pytest.mark.real

HELLO = "Hello from the fake."


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        yield made


def canary_project(folder: Path, ran: Path) -> None:
    """Plant all that Claude Code reads of a folder, or of one above its own."""
    folder.joinpath("CLAUDE.md").write_text("CANARY project memory")
    folder.joinpath("CLAUDE.local.md").write_text("CANARY local memory")
    folder.joinpath(".mcp.json").write_text(json.dumps(servers(ran)))
    folder.joinpath(".claude").mkdir(exist_ok=True)
    folder.joinpath(".claude", "CLAUDE.md").write_text("CANARY project memory")
    folder.joinpath(".claude", "settings.json").write_text(json.dumps(tastes(ran)))


def uproot(folder: Path) -> None:
    for name in ("CLAUDE.md", "CLAUDE.local.md", ".mcp.json"):
        folder.joinpath(name).unlink()
    shutil.rmtree(folder / ".claude")


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def servers(ran: Path) -> dict[str, Any]:
    return {"mcpServers": {"canary": {"command": "touch", "args": [f"{ran}-mcp"]}}}


def tastes(ran: Path) -> dict[str, Any]:
    def hook(name: str) -> list[dict[str, Any]]:
        return [{"hooks": [{"type": "command", "command": f"touch {ran}-{name}"}]}]

    names = ("SessionStart", "UserPromptSubmit", "Stop", "SessionEnd", "Setup", "Notification")
    return {
        "model": "haiku",
        "language": "CANARY",
        "outputStyle": "canary",
        "effortLevel": "low",
        "hooks": {name: hook(name) for name in names},
        "statusLine": {"type": "command", "command": f"touch {ran}-statusline"},
        "env": {"MAX_THINKING_TOKENS": "0", "CLAUDE_CODE_DISABLE_ATTACHMENTS": "0"},
        "enableAllProjectMcpServers": True,
    }


def canary_user(world: World, ran: Path) -> None:
    """Plant all that Claude Code reads of a user."""
    world.write(".claude/CLAUDE.md", "CANARY user memory")
    world.write(".claude/rules/canary.md", "CANARY rule")
    world.write(".claude/settings.json", json.dumps(tastes(ran)))
    head = "---\nname: canary\ndescription: CANARY\n---\nCANARY"
    for kind in ("agents", "output-styles", "commands"):
        world.write(f".claude/{kind}/canary.md", head)
    world.write(".claude/skills/canary/SKILL.md", head)
    account = {"oauthAccount": {"emailAddress": "CANARY@example.com"}, "numStartups": 5}
    world.write(".claude.json", json.dumps({**servers(ran), **account}))


async def test_nothing_of_the_user_or_the_folder_reaches_the_model_or_runs(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    canary_user(world, ran)
    canary_project(world.home, ran)
    canary_project(world.temp, ran)
    monkeypatch.chdir(world.home)
    backend = world.backend()
    assert answer(await run(backend, turn("/canary @CLAUDE.md"))) == HELLO
    assert (await backend.health()).state is State.READY
    sent = json.dumps(world.fake.body) + json.dumps(world.fake.turns[0].headers)
    assert "CANARY" not in sent
    assert world.fake.body["model"] == "claude-opus-4-8"
    assert world.fake.body["thinking"]["type"] == "adaptive"
    assert world.fake.body["output_config"]["effort"] == "high"
    assert world.fake.body["tools"] == []
    assert len(world.fake.turns) == 1
    assert all(not path.name.startswith("ran") for path in files(tmp_path))
    await world.all_gone()
    uproot(world.temp)


async def test_nothing_of_a_turn_stays_with_the_user(world: World) -> None:
    backend = world.backend()
    await run(backend, turn("warm up"))
    config = world.home / ".claude.json"
    await world.all_gone()
    before = files(world.home)
    kept = json.loads(config.read_text())
    asked = turn(said("system", "SECRET"), "SECRET", said("assistant", "SECRET"), "SECRET")
    world.fake.answer(Reply(text=("SECRET",)), Reply(text=("SECRET",), stop="max_tokens"))
    await run(backend, asked)
    await run(backend, asked)  # ended by a signal
    await world.all_gone()
    assert files(world.home) == before
    assert json.loads(config.read_text()) == kept
    assert not any(b"SECRET" in path.read_bytes() for path in before)


async def test_the_working_folder_is_empty_and_private(world: World) -> None:
    world.fake.answer(Reply(text=("a", "b")))
    looks: list[tuple[list[Path], int, Path]] = []

    def look() -> None:
        (child,) = world.processes()
        folder = Path(child.cwd())
        looks.append((list(folder.iterdir()), stat.S_IMODE(folder.parent.stat().st_mode), folder))

    await run(world.backend(), turn("hi"), on_text=look)
    listed, mode, folder = looks[0]
    assert listed == []
    assert mode == 0o700
    assert folder.is_relative_to(world.temp)
    await world.all_gone()


async def test_no_secret_and_no_text_is_on_the_command_line(world: World) -> None:
    words: list[str] = []
    await run(
        world.backend(),
        turn(said("system", "SYSTEM"), "TEXT"),
        on_text=lambda: words.extend(psutil.Process(world.processes()[0].pid).cmdline()),
    )
    assert words
    assert not any(hidden in " ".join(words) for hidden in (KEY, "SYSTEM", "TEXT"))


def subscription(expires_in_s: float) -> str:
    """What `claude auth login` writes for a subscription where there is no keychain."""
    login = {
        "accessToken": "sk-ant-oat01-test",
        "refreshToken": "sk-ant-ort01-test",
        "expiresAt": int((time.time() + expires_in_s) * 1000),
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
    }
    return json.dumps({"claudeAiOauth": login})


async def sent_headers(world: World, **env: Any) -> dict[str, str]:
    backend = world.backend(ANTHROPIC_API_KEY=None, **env)
    assert (await backend.health()).state is State.READY
    assert answer(await run(backend, turn("hi"))) == HELLO
    return world.fake.turns[-1].headers


async def test_a_subscriptions_login_is_used(world: World) -> None:
    path = world.write(".claude/.credentials.json", subscription(86_400))
    before = path.read_text()
    headers = await sent_headers(world)
    assert headers["authorization"] == "Bearer sk-ant-oat01-test"
    assert "x-api-key" not in headers
    assert "oauth-2025-04-20" in headers["anthropic-beta"]
    assert path.read_text() == before


async def test_a_login_in_another_configuration_folder_is_used(world: World) -> None:
    world.write("elsewhere/.credentials.json", subscription(86_400))
    headers = await sent_headers(world, CLAUDE_CONFIG_DIR=str(world.home / "elsewhere"))
    assert headers["authorization"] == "Bearer sk-ant-oat01-test"


@pytest.mark.parametrize("name", ["CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_AUTH_TOKEN"])
async def test_a_token_in_the_servers_environment_is_used(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "sk-ant-oat01-env")
    assert (await sent_headers(world))["authorization"] == "Bearer sk-ant-oat01-env"


async def test_a_key_helper_in_the_users_settings_is_used(world: World) -> None:
    helper = world.write("helper", "#!/bin/sh\necho sk-ant-from-helper\n")
    helper.chmod(0o700)
    settings = {"apiKeyHelper": str(helper), "model": "haiku"}
    world.write(".claude/settings.json", json.dumps(settings))
    assert (await sent_headers(world))["x-api-key"] == "sk-ant-from-helper"
    assert world.fake.body["model"] == "claude-opus-4-8"


async def test_a_gateway_in_the_users_settings_is_used(world: World) -> None:
    env = {"ANTHROPIC_BASE_URL": world.fake.url, "ANTHROPIC_AUTH_TOKEN": "gateway-token"}
    world.write(".claude/settings.json", json.dumps({"env": env}))
    headers = await sent_headers(world, ANTHROPIC_BASE_URL=None)
    assert headers["authorization"] == "Bearer gateway-token"


async def test_a_nested_cli_is_not_told_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLAUDECODE", "CLAUDE_CODE_SIMPLE", "CLAUDE_CODE_ACTION"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CLAUDE_CODE_ENTRYPOINT", "cli")
    seen: list[str] = []
    events = await run(
        world.backend(),
        turn("hi"),
        on_text=lambda: seen.extend(world.processes()[0].environ()),
    )
    assert events[-1] == Finished(FinishReason.STOP)
    assert TextDelta("Hello") in events
    assert "HOME" in seen
    assert not {"CLAUDECODE", "CLAUDE_CODE_SIMPLE", "CLAUDE_CODE_ACTION"} & set(seen)


async def test_a_process_that_lives_long_tidies_nothing_of_the_user_away(world: World) -> None:
    """Five seconds after its start the CLI would remove transcripts that are over 30 days old."""
    old = world.write(".claude/projects/-home-me/old.jsonl", "{}\n")
    long_ago = time.time() - 90 * 86_400
    os.utime(old, (long_ago, long_ago))
    tidied = world.home / ".claude/.last-cleanup"
    world.fake.answer(Reply(hold=1))

    async def until_tidied() -> None:
        while not tidied.exists():  # noqa: ASYNC110 - the CLI tells nobody
            await anyio.sleep(0.05)
        world.fake.release.set()

    async with anyio.create_task_group() as group:
        group.start_soon(until_tidied)
        assert answer(await run(world.backend(), turn("hi"))) == HELLO
    assert old.exists()
