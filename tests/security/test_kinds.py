"""Agents, commands and upstreams: what they are given, and what gets out of what they tell.

The programs write down all that they can see: their arguments, environment and folder, and what
lies in it. A person's secrets are in the environment of the server.
"""

import json
import logging
import stat
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from clinvk import config
from clinvk.keys import PREFIX, Keyring
from clinvk.server.app import create_app
from tests.fakes.raw import Answer, RawUpstream
from tests.real.bridge import alone
from tests.security.plants import Grounds, leaked, plant
from tests.serving import API, serving

HUNG_S = 30  # a guard against hanging tests, not a measure
MEMORY = {"store": {"path": ":memory:"}}
SECRET = "correct-horse-of-a-backend-0123456789"
PROMPT, ANSWER, SYSTEM = "the-prompt-of-a-caller", "the-answer-of-a-model", "the-system-of-a-caller"
KEY = f"{PREFIX}ann-{'0123456789abcdef' * 3}"

SEES = """
import json, os, stat, sys
def tell():
    seen = {"argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd()}
    seen["files"] = sorted(os.listdir("."))
    above = os.path.dirname(os.getcwd())
    for name, path in (("cwd", "."), ("above", above)):
        seen["mode_" + name] = stat.S_IMODE(os.stat(path).st_mode)
    open(os.path.join(os.environ["HOME"], "seen"), "a").write(json.dumps(seen) + "\\n")
tell()
"""
AGENT = (
    SEES
    + """
for line in sys.stdin:
    message = json.loads(line)
    number, method = message.get("id"), message.get("method")
    session = (message.get("params") or {}).get("sessionId", "s")
    if method == "session/new":
        os.chdir(message["params"]["cwd"])
        tell()
        result = {"sessionId": "s"}
    elif method == "session/prompt":
        content = {"type": "text", "text": "the-answer-of-a-model"}
        update = {"sessionUpdate": "agent_message_chunk", "content": content}
        params = {"sessionId": session, "update": update}
        print(json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": params}))
        result = {"stopReason": "end_turn"}
    else:
        result = {"protocolVersion": 1}
    if number is not None:
        print(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}), flush=True)
"""
)
COMMAND = SEES + "sys.stdin.read(); print('the-answer-of-a-model')\n"
TELLS = """
import os, sys
for name in ("BACKEND_API_KEY", "HOME"):
    print(name, os.environ[name], file=sys.stderr)
print("canaries:", [each for each in os.environ.values() if "CANARY" in each], file=sys.stderr)
print("Authorization: Bearer abcdefghijklmnop", file=sys.stderr)
sys.exit(7)
"""


@dataclass
class World:
    """A server over one such backend."""

    name: str
    url: str
    http: aiohttp.ClientSession
    grounds: Grounds

    async def ask(self, path: str = f"{API}/chat/completions", **fields: Any) -> tuple[int, str]:
        messages = [{"role": "user", "content": PROMPT}]
        body = {"model": self.name, "messages": messages, "max_tokens": 99, **fields}
        headers = {"Authorization": f"Bearer {KEY}", "Cookie": "CANARY-cookie"}
        with anyio.fail_after(HUNG_S):
            async with self.http.post(self.url + path, json=body, headers=headers) as response:
                return response.status, await response.text()

    @property
    def seen(self) -> list[dict[str, Any]]:
        """What the programs have seen."""
        return [json.loads(line) for line in (self.grounds.home / "seen").read_text().splitlines()]


@pytest.fixture
def grounds(home: Path, monkeypatch: pytest.MonkeyPatch) -> Grounds:
    alone(home, monkeypatch)
    return plant(home.parent, monkeypatch)


@asynccontextmanager
async def served(
    grounds: Grounds, log: pytest.LogCaptureFixture, **backend: Any
) -> AsyncIterator[World]:
    """Serve a backend to callers with keys; its log at its most talkative holds nothing."""
    log.set_level(logging.DEBUG)
    name = backend["kind"]
    text = json.dumps({"server": MEMORY, "backends": {name: backend}})
    parsed = config.parse(text, name="test", env={})
    keyring = Keyring(parsed.server, env={"CLINVK_API_KEYS": f"ann={KEY}"})
    app = create_app(parsed, keyring=keyring)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        yield World(name, url, http, grounds)
    for hidden in (SECRET, PROMPT, ANSWER, SYSTEM, KEY):
        assert hidden not in log.text
    assert leaked(log.text) == []


def program(kind: str, script: str, grounds: Grounds, **more: Any) -> dict[str, Any]:
    """A backend whose program has a secret of its own."""
    path = grounds.root / "program.py"
    path.write_text(textwrap.dedent(script))
    env = {"HOME": str(grounds.home), "BACKEND_API_KEY": SECRET}
    command = [sys.executable, "-S", "-E", str(path), *more.pop("words", ())]
    return {"kind": kind, "command": command, "env": env, **more}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("acp", {}),
        ("command", {}),
        ("command", {"prompt": "file", "words": ["{file}"]}),
        ("command", {"system": "{system}\n\n{prompt}"}),
    ],
    ids=["acp", "stdin", "file", "system"],
)
async def test_a_program_is_given_its_own_secret_and_no_other(
    kind: str, more: dict[str, Any], grounds: Grounds, caplog: pytest.LogCaptureFixture
) -> None:
    script = AGENT if kind == "acp" else COMMAND
    system = {"role": "system", "content": SYSTEM}
    async with served(grounds, caplog, **program(kind, script, grounds, **dict(more))) as world:
        for stream in (False, True):
            messages = [system, {"role": "user", "content": PROMPT}]
            status, got = await world.ask(messages=messages, stream=stream)
            assert status == 200
            assert ANSWER in got
        seen = world.seen
        assert len(seen) >= 2
        for each in seen:
            hidden = (SECRET, PROMPT, SYSTEM, KEY)
            assert not any(text in word for text in hidden for word in each["argv"])
            env = {name: value for name, value in each["env"].items() if name not in OWN}
            assert leaked(env) == []
            assert each["env"]["BACKEND_API_KEY"] == SECRET
            assert not any(text in json.dumps(each["env"]) for text in (PROMPT, SYSTEM, KEY))
            # Nobody else of this machine comes to it, and it begins with nothing.
            assert each["files"] == []
            assert {each["mode_cwd"], each["mode_above"]} <= {0o700, stat.S_IMODE(TEMP_MODE)}
            assert Path(each["cwd"]).is_relative_to(grounds.root / "tmp")
    assert list((grounds.root / "tmp").iterdir()) == []


OWN = ("PATH", "HOME", "PWD")
TEMP_MODE = 0o755  # of the folder of the test's that an agent's own stands in


@pytest.mark.parametrize("kind", ["acp", "command"])
async def test_a_program_that_dies_telling_all_it_knows_tells_no_secret(
    kind: str, grounds: Grounds, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(grounds, caplog, **program(kind, TELLS, grounds)) as world:
        got = ""
        for stream in (False, True):
            status, body = await world.ask(stream=stream)
            assert status >= 500
            got += body
        headers = {"Authorization": f"Bearer {KEY}"}
        async with world.http.get(f"{world.url}/health", headers=headers) as response:
            got += await response.text()
        assert "exit code 7" in got
        assert not any(text in got for text in (SECRET, "abcdefghijklmnop", PROMPT))
        assert leaked(got) == []


TRANSLATED = "/anthropic/v1/messages"


@pytest.mark.parametrize("status", [200, 400, 401, 403, 429, 500])
async def test_an_upstream_that_names_its_key_in_an_error_is_not_repeated(
    status: int, grounds: Grounds, caplog: pytest.LogCaptureFixture
) -> None:
    async with RawUpstream().running() as up:
        # A key of its own, so that no test before has taught that it is one.
        key, token = f"key-at-{status}-of-an-upstream", f"token-at-{status}-of-an-upstream"
        error = {"error": {"message": f"no such key: {key}, {token}", "code": None}}
        up.answer = Answer(status=status, pieces=(json.dumps(error).encode(),))
        more = {"api_key": key, "headers": {"X-Team-Token": token}}
        backend = {"kind": "openai", "base_url": up.url, "model": "m", "retries": 0, **more}
        async with served(grounds, caplog, **backend) as world:
            for stream in (False, True):
                got, body = await world.ask(TRANSLATED, stream=stream)
                assert got >= 400
                assert "no such" in body
                assert not any(hidden in body for hidden in (key, token))
        sent = [(asked.headers, asked.body.decode()) for asked in up.asked]
        assert len(sent) == 2
        for headers, text in sent:
            assert (headers["Authorization"], headers["X-Team-Token"]) == (f"Bearer {key}", token)
            assert not any(KEY in value for value in headers.values())
            assert leaked(dict(headers), text) == []
        assert not any(hidden in caplog.text for hidden in (key, token))


async def test_an_upstream_is_sent_nothing_of_the_caller_but_what_it_asks(
    grounds: Grounds, caplog: pytest.LogCaptureFixture
) -> None:
    async with RawUpstream().running() as up:
        backend = {"kind": "openai", "base_url": up.url, "model": "m", "forward_key": True}
        async with served(grounds, caplog, **backend, api_key=SECRET) as world:
            for stream in (False, True):
                assert (await world.ask(stream=stream))[0] == 200
        for asked in up.asked:
            assert asked.headers["Authorization"] == f"Bearer {SECRET}"
            assert not any(KEY in value for value in asked.headers.values())
            assert leaked(dict(asked.headers), asked.body.decode()) == []
