"""The real Gemini CLI on the logins that its user may have, and apart from all else of theirs."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from clinvk.backends import gemini
from clinvk.backends.base import Health, State
from clinvk.backends.gemini import GeminiBackend
from clinvk.config import GeminiConfig
from clinvk.errors import (
    CliCrashedError,
    NotInstalledError,
    NotLoggedInError,
)
from clinvk.events import (
    Finished,
    FinishReason,
    Usage,
)
from tests.fakes.api import Reply
from tests.fakes.google import FakeGoogle
from tests.real.conftest import cli
from tests.real.gemini_agent import BOTH, DONE, SEEN, asked, calls_in, go_through, opened, result
from tests.real.gemini_world import (
    API_KEY_LOGIN,
    GOOGLE_LOGIN,
    HUNG_S,
    World,
    answer,
    failure,
    gemini_world,
    run,
    said,
    turn,
)

pytestmark = pytest.mark.real


@pytest.fixture
async def own_world(tmp_path: Path) -> AsyncIterator[World]:
    """A world of its own."""
    async with gemini_world(tmp_path) as world:
        yield world


async def test_nothing_of_the_user_or_the_folder_reaches_the_model_or_runs(
    own_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    script = own_world.write("canary.sh", f"#!/bin/sh\ntouch {ran}\n")
    script.chmod(0o755)
    hook = {"hooks": [{"type": "command", "command": str(script)}]}
    canary_settings = {
        "mcpServers": {"canary": {"command": str(script)}},
        "hooks": {name: [hook] for name in ("SessionStart", "BeforeAgent", "BeforeModel")},
        "hooksConfig": {"enabled": True},
        "tools": {"core": ["run_shell_command"]},
        "context": {"fileName": ["GEMINI.md", "CANARY.md"]},
        "general": {"checkpointing": {"enabled": True}},
    }
    for folder in (".gemini", "project/.gemini"):
        own_world.write(f"{folder}/settings.json", json.dumps(canary_settings))
        own_world.write(f"{folder}/GEMINI.md", "CANARY")
        own_world.write(f"{folder}/system.md", "CANARY")
        own_world.write(f"{folder}/commands/canary.toml", 'prompt = "CANARY"')
        own_world.write(f"{folder}/skills/canary/SKILL.md", "---\nname: CANARY\n---\nCANARY")
        own_world.write(f"{folder}/.env", f"GEMINI_SYSTEM_MD={own_world.home}/.gemini/system.md")
    own_world.write("project/GEMINI.md", "CANARY")
    own_world.write("project/CANARY.md", "CANARY")
    own_world.write("project/.env", "GEMINI_API_KEY=CANARY")
    (own_world.temp / ".env").write_text("GEMINI_SYSTEM_MD=CANARY")
    before = sorted(own_world.home.rglob("*"))
    monkeypatch.chdir(own_world.home / "project")
    assert answer(await run(own_world.backend(), turn("Hello"))) == "Hello from the fake."
    (request,) = own_world.fake.requests
    assert "canary" not in json.dumps([request.headers, request.body]).lower()
    assert not ran.exists()
    assert sorted(own_world.home.rglob("*")) == before
    (own_world.temp / ".env").unlink()


async def test_nothing_of_a_turn_stays_on_disk_after_it(own_world: World) -> None:
    backend = own_world.backend()
    own_world.fake.answer(Reply(text=("ANSWER",)), Reply(status=400))
    for _ in range(2):
        await run(backend, turn("QUESTION"))
    kept = [path.read_text() for path in own_world.temp.rglob("*") if path.is_file()]
    assert kept
    assert not any("QUESTION" in text or "ANSWER" in text for text in kept)


async def test_the_users_env_file_logs_in(own_world: World) -> None:
    own_world.write(".gemini/.env", "GEMINI_API_KEY='from-the-file'\n")
    await run(own_world.backend(GEMINI_API_KEY=None), turn("Hello"))
    assert own_world.fake.requests[0].headers["x-goog-api-key"] == "from-the-file"


async def test_nobody_logged_in_is_told_before_a_process_starts(own_world: World) -> None:
    backend = own_world.backend(GEMINI_API_KEY=None, GOOGLE_GEMINI_BASE_URL=None)
    error = await failure(backend, turn("Hello"))
    assert type(error) is NotLoggedInError
    assert "run `gemini`" in error.message
    assert own_world.processes() == []
    health = await backend.health()
    assert health.state is State.NOT_LOGGED_IN
    with pytest.raises(NotLoggedInError):
        await backend.warm()


async def test_a_key_that_is_nowhere_is_found_out_by_gemini(own_world: World) -> None:
    own_world.write(".gemini/settings.json", json.dumps(API_KEY_LOGIN))
    backend = own_world.backend(GEMINI_API_KEY=None, GEMINI_FORCE_FILE_STORAGE="true")
    assert type(await failure(backend, turn("Hello"))) is NotLoggedInError
    with anyio.fail_after(HUNG_S):
        assert (await backend.health()).state is State.NOT_LOGGED_IN


STORE_KEY = """
const crypto = require("crypto"), fs = require("fs"), os = require("os");
const salt = `${os.hostname()}-${os.userInfo().username}-gemini-cli`;
const key = crypto.scryptSync("gemini-cli-oauth", salt, 32), iv = crypto.randomBytes(12);
const token = {accessToken: "a-stored-key", tokenType: "ApiKey"};
const entry = JSON.stringify({serverName: "default-api-key", token, updatedAt: 1});
const cipher = crypto.createCipheriv("aes-256-gcm", key, iv, {authTagLength: 16});
const all = JSON.stringify({"gemini-cli-api-key": {"default-api-key": entry}});
const text = cipher.update(all, "utf8", "hex") + cipher.final("hex");
const parts = [iv.toString("hex"), cipher.getAuthTag().toString("hex"), text];
fs.writeFileSync(process.argv[1], parts.join(":"));
"""


async def test_a_key_that_gemini_stored_is_used(own_world: World) -> None:
    own_world.write(".gemini/settings.json", json.dumps(API_KEY_LOGIN))
    store = own_world.home / ".gemini" / "gemini-credentials.json"
    await anyio.run_process(["node", "-e", STORE_KEY, str(store)])
    backend = own_world.backend(GEMINI_API_KEY=None, GEMINI_FORCE_FILE_STORAGE="true")
    with anyio.fail_after(HUNG_S):
        assert (await backend.health()).state is State.READY
    assert answer(await run(backend, turn("Hello"))) == "Hello from the fake."
    assert own_world.fake.requests[0].headers["x-goog-api-key"] == "a-stored-key"


async def test_a_google_login_that_cannot_be_refreshed_is_told(own_world: World) -> None:
    own_world.write(".gemini/settings.json", json.dumps(GOOGLE_LOGIN))
    expired = {"access_token": "x", "refresh_token": "y", "expiry_date": 1}
    own = own_world.write(".gemini/oauth_creds.json", json.dumps(expired))
    nowhere = "http://127.0.0.1:9"  # so that no host but this one is asked
    backend = own_world.backend(GEMINI_API_KEY=None, HTTPS_PROXY=nowhere, HTTP_PROXY=nowhere)
    error = await failure(backend, turn("Hello"))
    assert type(error) is NotLoggedInError
    assert json.loads(own.read_text()) == expired
    again = await failure(backend, turn("Hello"))
    assert type(again) is NotLoggedInError


async def test_a_google_login_is_used_and_its_fresh_token_is_the_users(own_world: World) -> None:
    own_world.write(".gemini/settings.json", json.dumps(GOOGLE_LOGIN))
    expired = {"access_token": "old", "refresh_token": FakeGoogle.REFRESH, "expiry_date": 1}
    own = own_world.write(".gemini/oauth_creds.json", json.dumps(expired))
    google = FakeGoogle()
    google.answer(Reply(cached_tokens=2, stop="MAX_TOKENS"))
    async with google.running():
        backend = own_world.backend(GEMINI_API_KEY=None, **google.env)
        assert (await backend.health()).state is State.READY
        events = await run(backend, turn(said("system", "Be brief."), "/help"))
    assert answer(events) == "Hello from the fake.", events
    assert events[-2:] == [Usage(11, 7, cached_tokens=2), Finished(FinishReason.LENGTH)]
    assert json.loads(own.read_text())["access_token"] == "fresh"
    asked = google.requests[-1]
    assert asked.headers["authorization"] == "Bearer fresh"
    parts = asked.body["request"]["contents"][0]["parts"]
    assert parts[-1] == {"text": "/help"}
    assert "Be brief." in parts[-2]["text"]
    assert own_world.fake.requests == []


async def test_tools_reach_the_model_of_a_google_login(own_world: World) -> None:
    own_world.write(".gemini/settings.json", json.dumps(GOOGLE_LOGIN))
    expired = {"access_token": "old", "refresh_token": FakeGoogle.REFRESH, "expiry_date": 1}
    own_world.write(".gemini/oauth_creds.json", json.dumps(expired))
    google = FakeGoogle()
    google.answer(BOTH, DONE)
    async with google.running():
        backend = own_world.backend(GEMINI_API_KEY=None, **google.env)
        async with opened(backend, asked()) as (live, events):
            weather, time = calls_in(events)
            end = await go_through(live, result(weather, "sun"), result(time, "noon"))
    assert answer(end) == "Sunny."
    [body] = [request.body["request"] for request in google.requests[-1:]]
    [tools] = body["tools"]
    assert [tool["name"] for tool in tools["functionDeclarations"]] == list(SEEN.values())
    assert "sun" in json.dumps(body["contents"][-1])


async def test_health_is_ready_without_starting_anything(own_world: World) -> None:
    assert await own_world.backend().health() == Health(
        State.READY, version=gemini.TESTED_VERSION, tested=True
    )
    assert own_world.processes() == []


async def test_a_program_that_is_not_there_is_missing(own_world: World) -> None:
    config = GeminiConfig(kind="gemini", command=["no-such-gemini"])
    backend = GeminiBackend("gemini", config, own_world.supervisor)
    assert not backend.installed
    health = await backend.health()
    assert health.state is State.MISSING
    assert health.fix == gemini.INSTALL_FIX
    assert type(await failure(backend, turn("Hello"))) is NotInstalledError


async def test_a_program_without_a_package_is_asked_for_its_version(
    own_world: World, tmp_path: Path
) -> None:
    wrapper = tmp_path / "wrapped"
    wrapper.write_text(f'#!/bin/sh\nexec {cli("gemini")} "$@"\n')
    wrapper.chmod(0o755)
    config = GeminiConfig(
        kind="gemini",
        command=[str(wrapper)],
        env={"HOME": str(own_world.home), "GEMINI_API_KEY": "k"},
    )
    backend = GeminiBackend("gemini", config, own_world.supervisor)
    with anyio.fail_after(HUNG_S):
        assert (await backend.health()).version == gemini.TESTED_VERSION


async def test_a_program_that_is_not_gemini_is_told(own_world: World) -> None:
    config = GeminiConfig(kind="gemini", command=["false"], env={"GEMINI_API_KEY": "k"})
    backend = GeminiBackend("gemini", config, own_world.supervisor)
    assert type(await failure(backend, turn("Hello"))) is CliCrashedError
    assert type(await failure(backend, turn("Hello"))) is CliCrashedError
    with pytest.raises(CliCrashedError):
        await backend.warm()
