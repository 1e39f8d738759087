"""With the real CLIs: keys and prompts are where they must be, and nowhere else.

Looked at while turns run, are parked, go on, and while spares wait: every process below the
server, its arguments and its environment; and the log at its most talkative.
"""

import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import psutil
import pytest
import yaml

from clinvk import config
from clinvk.keys import PREFIX, Keyring
from clinvk.server.app import create_app
from tests.fakes.api import Reply
from tests.real.bridge import FAKES, Bridge, alone, bridge, settings
from tests.security.plants import Grounds, leaked, plant
from tests.serving import API, serving

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

HUNG_S = 60  # a guard against hanging tests, not a measure
MEMORY = {"store": {"path": ":memory:"}}
CLIS = ("claude", "codex", "gemini")
KEY_OF = {"claude": "ANTHROPIC_API_KEY", "codex": "FAKE_KEY", "gemini": "GEMINI_API_KEY"}
SECRET = {name: f"correct-horse-of-{name}-0123456789" for name in CLIS}
PROMPT, ANSWER, RESULT = "the-prompt-of-a-caller", "the-answer-of-a-model", "the-result-of-a-tool"
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.fixture
def grounds(home: Path, monkeypatch: pytest.MonkeyPatch) -> Grounds:
    alone(home, monkeypatch)
    return plant(home.parent, monkeypatch)


def with_key(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """The settings of a CLI with a key that looks like no vendor's."""
    found["env"] = {**found["env"], KEY_OF[name]: SECRET[name]}
    return found


@pytest.fixture(params=CLIS)
async def served(
    request: pytest.FixtureRequest,
    grounds: Grounds,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Bridge]:
    """A server over one CLI, whose log holds nothing of what was asked, answered or kept secret."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(
        "tests.real.bridge.settings", lambda n, fake, home: with_key(n, settings(n, fake, home))
    )
    async with bridge(request.param, grounds.home, server=MEMORY) as running:
        yield running
    said = "\n".join(record.getMessage() for record in caplog.records)
    for hidden in (SECRET[request.param], PROMPT, ANSWER, RESULT):
        assert hidden not in caplog.text
        assert hidden not in said
    assert leaked(caplog.text) == []


def below() -> Iterator[tuple[list[str], dict[str, str]]]:
    """The arguments and the environment of each process below this one."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            yield child.cmdline(), child.environ()


def look(name: str) -> int:
    """Look at every process below the server, and return how many there are."""
    found = list(below())
    for words, env in found:
        for hidden in (SECRET[name], PROMPT, ANSWER, RESULT):
            assert hidden not in " ".join(words)
        assert leaked(words) == []
        foreign = {key: value for key, value in env.items() if key not in ("PATH", "HOME", "PWD")}
        assert leaked(foreign) == [], name
        assert not any(text in json.dumps(env) for text in (PROMPT, ANSWER, RESULT))
    return len(found)


def model_name(name: str) -> str:
    return "mcp_x_look" if name == "gemini" else "look"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def ask(served: Bridge, *messages: Any, **fields: Any) -> dict[str, Any]:
    body = {"model": served.name, "messages": messages, **fields}
    async with served.http.post(f"{served.url}/chat/completions", json=body) as response:
        got = await response.json()
        assert response.status == 200, got
        message: dict[str, Any] = got["choices"][0]["message"]
        return message


async def test_processes_show_no_secret_and_no_text_at_any_time_of_a_conversation(
    served: Bridge,
) -> None:
    system = {"role": "system", "content": PROMPT}
    question = user(PROMPT)
    served.fake.answer(
        Reply(text=(ANSWER,), tool_calls=((model_name(served.name), {"a": PROMPT}),)),
        Reply(text=(ANSWER, ANSWER), hold=1),
    )
    called = await ask(served, system, question, tools=TOOLS)
    assert look(served.name)  # parked
    result = {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": RESULT}
    got: list[dict[str, Any]] = []

    async def go_on() -> None:
        got.append(await ask(served, system, question, called, result, tools=TOOLS))

    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            group.start_soon(go_on)
            while not served.fake.holding:  # noqa: ASYNC110 - the fake sets no event
                await anyio.sleep(0.01)
            assert look(served.name)  # running
            served.fake.release.set()
    assert look(served.name)  # idle
    again = (system, question, called, result, got[0], user(PROMPT))
    await ask(served, *again, tools=TOOLS)
    assert look(served.name)
    assert served.courses == ["new", "resumed", "continued"]


ECHOES: dict[str, Any] = {
    "claude": lambda s: {"type": "error", "error": {"type": "x", "message": f"no such key: {s}"}},
    "codex": lambda s: {"error": {"message": f"no such key: {s}", "code": "x"}},
    "gemini": lambda s: {"error": {"code": 400, "message": f"no such key: {s}", "status": "X"}},
}


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
async def test_a_model_api_that_names_the_key_in_its_error_is_not_repeated(
    served: Bridge, status: int
) -> None:
    name = served.name
    served.fake.answer(Reply(status=status, error=ECHOES[name](SECRET[name])))
    for stream in (False, True):
        async with served.post(PROMPT, stream=stream) as response:
            body = await response.text()
            assert SECRET[name] not in body
            assert "no such key" in body or status in (429, 500), body
            assert PROMPT not in body


TELLTALE = """#!/bin/sh
env >&2
echo "$@" >&2
echo 'Authorization: Bearer abcdefghijklmnop' >&2
cat >/dev/null &
exit 7
"""


@pytest.mark.parametrize("name", CLIS)
async def test_a_cli_that_dies_telling_all_it_knows_tells_no_secret(
    name: str, grounds: Grounds, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    program = grounds.root / "telltale"
    program.write_text(TELLTALE)
    program.chmod(0o755)
    found = with_key(name, {"kind": name, "command": str(program), "env": {}})
    found["env"]["HOME"] = str(grounds.home)
    text = yaml.safe_dump({"server": MEMORY, "backends": {name: found}})
    app = create_app(config.parse(text, name="test", env={}))
    async with serving(app) as url, aiohttp.ClientSession() as http:
        async with Bridge(name, FAKES["echo"](), url + API, http, []).post(PROMPT) as response:
            body = await response.text()
            assert response.status >= 500
        async with http.get(f"{url}/health") as response:
            body += await response.text()
    assert SECRET[name] not in body + caplog.text
    assert "abcdefghijklmnop" not in body + caplog.text
    assert leaked(body, caplog.text) == []


@asynccontextmanager
async def all_served(grounds: Grounds) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """A server over every CLI, for callers with keys; the CLIs' keys are in its environment."""
    fakes = {name: FAKES[name]() for name in CLIS}
    async with fakes["claude"].running(), fakes["codex"].running(), fakes["gemini"].running():
        backends = {name: settings(name, fakes[name], grounds.home) for name in CLIS}
        for name in CLIS:
            del backends[name]["env"][KEY_OF[name]]
        text = yaml.safe_dump({"server": MEMORY, "backends": backends})
        parsed = config.parse(text, name="test", env={})
        app = create_app(parsed, keyring=Keyring(parsed.server, env=os.environ))
        async with serving(app) as url, aiohttp.ClientSession() as http:
            yield f"{url}{API}/chat/completions", http


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two callers and their keys; and every CLI has its own in the environment."""
    for name in CLIS:
        monkeypatch.setenv(KEY_OF[name], SECRET[name])
    found = {name: f"{PREFIX}{name}-{'0123456789abcdef' * 3}" for name in ("ann", "bob")}
    monkeypatch.setenv("CLINVK_API_KEYS", ",".join(f"{n}={key}" for n, key in found.items()))
    return found


async def test_every_cli_is_given_its_own_key_alone(
    grounds: Grounds, callers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = callers["ann"]
    async with all_served(grounds) as (url, http):
        for name in CLIS:
            body = {"model": name, "messages": [user(PROMPT)]}
            headers = {"Authorization": f"Bearer {key}"}
            async with http.post(url, json=body, headers=headers) as response:
                assert response.status == 200, await response.text()
        given = dict.fromkeys(CLIS, 0)
        for words, env in below():
            assert not any(secret in " ".join(words) for secret in (*SECRET.values(), key))
            assert key not in json.dumps(env)
            held = [name for name in CLIS if SECRET[name] in json.dumps(env)]
            assert len(held) <= 1, (words, held)
            for name in held:
                given[name] += 1
        assert all(given.values()), given
    assert not any(secret in caplog.text for secret in (*SECRET.values(), key, PROMPT))


async def test_a_caller_never_goes_on_with_the_conversation_of_another(
    grounds: Grounds, callers: dict[str, str]
) -> None:
    async with all_served(grounds) as (url, http):
        for name in CLIS:
            told = [user(PROMPT)]
            courses = []
            for caller in ("ann", "bob", "ann"):
                headers = {"X-Api-Key": callers[caller]}
                body = {"model": name, "messages": told}
                async with http.post(url, json=body, headers=headers) as response:
                    got = await response.json()
                    assert response.status == 200, got
                    courses.append(response.headers["x-clinvk-turn"])
                if len(told) == 1:
                    told += [got["choices"][0]["message"], user("and?")]
            assert courses == ["new", "new", "continued"], name
