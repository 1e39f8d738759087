"""The real Codex CLI on the logins and keys that its user may have."""

import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from clinvk.backends.base import Health, State
from clinvk.backends.codex import INSTALL, LOGIN_BY_KEY, LOGIN_TO_FILE, TESTED
from clinvk.errors import (
    BadRequestError,
    NotInstalledError,
    UnsupportedError,
)
from clinvk.events import (
    ReasoningDelta,
)
from clinvk.turn import AudioPart, Message, OutputFormat, Role, TextPart, ToolSpec
from tests.fakes.api import Reply
from tests.real.codex_world import World, codex_world, collect, said, turn

pytestmark = pytest.mark.real


@pytest.fixture
async def world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with codex_world(home, tmp_path, monkeypatch) as opened:
        yield opened


def jwt(**claims: Any) -> str:
    def encode(part: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()

    return f"{encode({'alg': 'none'})}.{encode(claims)}.c2ln"


def tokens(refresh: str, *, lives_s: int) -> dict[str, str]:
    account = {"chatgpt_account_id": "acc", "chatgpt_plan_type": "plus", "user_id": "u"}
    token = jwt(**{"https://api.openai.com/auth": account, "exp": int(time.time()) + lives_s})
    return {
        "id_token": token,
        "access_token": token,
        "refresh_token": refresh,
        "account_id": "acc",
    }


def login_with_chatgpt(world: World, *, lives_s: int, refreshed: str) -> None:
    world.codex_home.mkdir()
    login = {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": tokens("first", lives_s=lives_s),
        "last_refresh": refreshed,
    }
    (world.codex_home / "auth.json").write_text(json.dumps(login))


async def test_a_subscription_login_is_used(world: World) -> None:
    login_with_chatgpt(world, lives_s=3600, refreshed="2030-01-01T00:00:00Z")
    (world.codex_home / "installation_id").write_text("11111111-2222-4333-8444-555555555555")
    backend = world.with_login()
    assert (await backend.health()).state is State.READY
    world.fake.answer(Reply(thinking=("hm",)))
    events = await collect(backend, turn("hi"), "gpt-5.5")
    request = world.fake.requests[-1]
    assert request.headers["chatgpt-account-id"] == "acc"
    assert request.headers["version"] == TESTED
    assert request.body["reasoning"]["summary"] == "auto"
    assert "1111-2222" in json.dumps(request.body["client_metadata"])
    assert ReasoningDelta("hm") in events
    assert not any("analytics" in path or "plugins" in path for path in world.fake.other)


async def test_a_refreshed_token_reaches_the_users_file(world: World) -> None:
    async def refresh(_: web.Request) -> web.Response:
        return web.json_response(tokens("second", lives_s=3600))

    app = web.Application()
    app.router.add_post("/token", refresh)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    login_with_chatgpt(world, lives_s=-10, refreshed="2020-01-01T00:00:00Z")
    backend = world.with_login(env={"CODEX_REFRESH_TOKEN_URL_OVERRIDE": url})
    await collect(backend, turn("hi"))
    login = json.loads((world.codex_home / "auth.json").read_text())
    assert login["tokens"]["refresh_token"] == "second"
    await runner.cleanup()


async def test_a_new_login_counts_from_the_next_turn(world: World) -> None:
    backend = world.with_login()
    assert await backend.health() == Health(
        State.NOT_LOGGED_IN, TESTED, tested=True, reason="codex is not logged in", fix="codex login"
    )
    for key in ("sk-first", "sk-second"):
        world.login_with_key(key)
        assert (await backend.health()).state is State.READY
        await collect(backend, turn("hi"))
        assert world.fake.requests[-1].headers["authorization"] == f"Bearer {key}"


async def test_a_key_in_the_environment_is_a_login(world: World) -> None:
    backend = world.with_login(env={"CODEX_API_KEY": "sk-env", "OPENAI_ORGANIZATION": "org"})
    assert (await backend.health()).state is State.READY
    await collect(backend, turn("hi"))
    headers = world.fake.requests[-1].headers
    assert (headers["authorization"], headers["openai-organization"]) == ("Bearer sk-env", "org")


async def test_a_login_that_codex_would_not_use_is_told_apart(world: World) -> None:
    found = await world.with_login(env={"OPENAI_API_KEY": "sk-x"}).health()
    assert (found.state, found.fix) == (State.NOT_LOGGED_IN, LOGIN_BY_KEY)
    world.codex_home.mkdir()
    (world.codex_home / "config.toml").write_text('cli_auth_credentials_store = "keyring"')
    found = await world.with_login().health()
    assert (found.state, found.fix) == (State.NOT_LOGGED_IN, LOGIN_TO_FILE)


async def test_health_of_a_provider_with_its_own_key(world: World) -> None:
    found = await world.backend().health()
    assert found == Health(State.READY, TESTED, tested=True)
    found = await world.backend(env={"HOME": str(world.home)}).health()
    assert (found.state, found.fix) == (State.NOT_LOGGED_IN, "export FAKE_KEY=…")
    assert world.fake.requests == []


async def test_a_missing_cli_is_told_with_the_command_that_installs_it(world: World) -> None:
    backend = world.backend(command="/no/such/codex")
    assert not backend.installed
    assert await backend.health() == Health(
        State.MISSING, reason="'/no/such/codex' was not found", fix=INSTALL
    )
    with pytest.raises(NotInstalledError, match="npm install"):
        backend.check(turn("hi"))
    with pytest.raises(NotInstalledError):
        await backend.warm()


def test_what_cannot_be_carried_is_refused_by_name(world: World) -> None:
    backend = world.backend()
    sound = Message(Role.USER, (TextPart("a"), AudioPart("wav", "AAAA")))
    with pytest.raises(UnsupportedError) as refused:
        backend.check(turn(sound))
    assert refused.value.param == "messages[0].content[1]"
    for asked, param in (
        (replace(turn("hi"), tools=(ToolSpec("a b"),)), "tools[0].function.name"),
        (replace(turn("hi"), format=OutputFormat({"type": 1})), "response_format"),
        (turn(Message(Role.TOOL, (TextPart("r"),), call_id="c")), "messages[0].tool_call_id"),
    ):
        with pytest.raises(BadRequestError) as caught:
            backend.check(asked)
        assert caught.value.param == param
    assert backend.check(turn("hi", effort="max")) == ()
    assert backend.check(turn(replace(said("user", "hi"), name="ann"))) == ("messages[].name",)
    strict = replace(turn("hi"), tools=(ToolSpec("f", strict=True),))
    assert backend.check(strict) == ("tools[].function.strict",)
