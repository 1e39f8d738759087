"""One model, several logins and CLIs: who answers, who stays, and who steps in; real CLIs."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from clinvk import config
from clinvk.server.app import create_app
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.api import Captured, Reply
from tests.fakes.responses import FakeResponses
from tests.real.bridge import alone, settings
from tests.serving import API, serving

pytestmark = pytest.mark.real

HUNG_S = 120
LIMIT = {"type": "error", "error": {"type": "rate_limit_error", "message": "too many requests"}}


@dataclass
class World:
    """Two logins of Claude Code, `work` and `home`, and a Codex, behind one clinvk."""

    claude: FakeAnthropic
    codex: FakeResponses
    client: AsyncOpenAI

    async def ask(self, *said: str, model: str, stream: bool = False) -> tuple[str, Any]:
        """Go on with a conversation; return the answer and the reply's headers."""
        roles = ("user", "assistant")
        messages: Any = [{"role": roles[at % 2], "content": text} for at, text in enumerate(said)]
        asking = self.client.chat.completions.with_raw_response
        raw = await asking.create(model=model, messages=messages, stream=stream)
        told = raw.parse()
        if isinstance(told, ChatCompletion):
            return told.choices[0].message.content or "", raw.headers
        pieces = [c.choices[0].delta.content or "" async for c in told if c.choices]
        return "".join(pieces), raw.headers

    @property
    def keys(self) -> list[str]:
        """Whose login each request to Claude's model API showed."""
        return [request.headers["x-api-key"] for request in self.claude.turns]


def account(home: Path, fake: FakeAnthropic, name: str) -> dict[str, Any]:
    """A login of Claude Code's in a folder of its own, as its user would set it up."""
    folder = home / f".claude-{name}"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"env": {"ANTHROPIC_API_KEY": f"sk-{name}"}}))
    backend = settings("claude", fake, home)
    del backend["env"]["ANTHROPIC_API_KEY"]
    backend["env"]["CLAUDE_CONFIG_DIR"] = str(folder)
    return backend


@pytest.fixture
async def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    alone(home, monkeypatch)
    async with FakeAnthropic().running() as claude, FakeResponses().running() as codex:
        codex.script = lambda asked: Reply(
            status=401 if "expired" in asked.headers["authorization"] else 200
        )
        no_login = settings("codex", codex, home)
        no_login["env"]["FAKE_KEY"] = "sk-expired"
        backends = {
            "work": account(home, claude, "work"),
            "home": account(home, claude, "home"),
            "codex": settings("codex", codex, home),
            "nobody": no_login,
            "gone": {"kind": "gemini", "command": "no-such-program"},
        }
        weighted = [{"target": name, "weight": 1} for name in ("work", "home")]
        routes = {
            "team": weighted,
            "best": ["gone", "nobody", "work", "codex"],
            "claude": ["work", "home"],
        }
        server = {"store": {"path": ":memory:"}}
        text = yaml.safe_dump({"server": server, "backends": backends, "routes": routes})
        app = create_app(config.parse(text, name="test", env={}))
        async with serving(app) as url:
            client = AsyncOpenAI(
                base_url=url + API, api_key="unused", max_retries=0, timeout=HUNG_S
            )
            async with client:
                yield World(claude, codex, client)


async def test_two_logins_share_the_conversations_and_each_stays(world: World) -> None:
    backends = {}
    for text in ("one", "two"):
        said, headers = await world.ask(text, model="team")
        backends[text] = headers["x-clinvk-backend"]
    assert world.keys == ["sk-work", "sk-home"]
    for text in ("two", "one"):
        _, headers = await world.ask(text, said, "and?", model="team")
        assert headers["x-clinvk-backend"] == backends[text]
        assert headers["x-clinvk-turn"] == "continued"
    assert world.keys == ["sk-work", "sk-home", "sk-home", "sk-work"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_limited_login_leaves_its_turns_to_the_other(world: World, stream: bool) -> None:
    def script(asked: Captured) -> Reply:
        limited = asked.headers["x-api-key"] == "sk-work"
        return Reply(status=429, error=LIMIT) if limited else Reply(text=("from ", "home"))

    world.claude.script = script
    said, headers = await world.ask("hi", model="claude", stream=stream)
    assert said == "from home"
    assert headers["x-clinvk-backend"] == "home"
    assert headers["x-clinvk-tried"] == "work=rate_limit_exceeded"
    assert world.keys == ["sk-work", "sk-home"]
    said, headers = await world.ask("hi", said, "and?", model="claude", stream=stream)
    assert headers["x-clinvk-turn"] == "continued"
    assert world.keys == ["sk-work", "sk-home", "sk-home"]


async def test_who_is_missing_or_has_no_login_is_passed_over(world: World) -> None:
    said, headers = await world.ask("hi", model="best", stream=True)
    assert said == "Hello from the fake."
    assert headers["x-clinvk-backend"] == "work"
    tried = headers["x-clinvk-tried"]
    assert tried == "gone=cli_not_installed, nobody=cli_not_logged_in"
    assert len(world.claude.turns) == 1


async def test_another_cli_answers_with_the_whole_history(world: World) -> None:
    said, _ = await world.ask("hi", model="best")
    world.claude.script = lambda _: Reply(status=429, error=LIMIT)
    answer, headers = await world.ask("hi", said, "and?", model="best")
    assert headers["x-clinvk-backend"] == "codex"
    assert answer == "Hello from the fake."
    told = json.dumps(world.codex.requests[-1].body["input"])
    assert [text in told for text in ("hi", said, "and?")] == [True] * 3
