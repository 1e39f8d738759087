"""The real Claude Code and Codex as clients of a server whose callers need keys."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from clinvk.server.anthropic import PREFIX
from tests.keyed import KEYS, Served, entry, keyed, over
from tests.real.bridge import clean_environment
from tests.real.conftest import cli
from tests.serving import API

pytestmark = pytest.mark.real

HUNG_S = 60  # a guard against hanging tests, not a measure


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    config = keyed(entry("alice")).model_copy(update={"aliases": {"claude-*": "fake/{model}"}})
    async with over(config) as made:
        yield made


async def run(command: list[str], home: Path, **env: str) -> tuple[int, str]:
    folder = home.parent / "project"
    folder.mkdir(exist_ok=True)
    (home.parent / "tmp").mkdir(exist_ok=True)
    with anyio.fail_after(HUNG_S):
        done = await anyio.run_process(
            command, cwd=folder, check=False, env={**clean_environment(home), **env}
        )
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
async def test_claude_code_is_let_in_by_a_key_alone(
    served: Served, home: Path, variable: str
) -> None:
    env = {"ANTHROPIC_BASE_URL": served.url + PREFIX, "CLAUDE_CODE_MAX_RETRIES": "0"}
    command = [cli("claude"), "-p", "Say hello."]
    code, told = await run(command, home, **env, **{variable: "sk-wrong"})
    assert code != 0
    assert served.backend.turns == []
    assert KEYS["alice"] not in told
    code, told = await run(command, home, **env, **{variable: KEYS["alice"]})
    assert (code, "Hello world" in told) == (0, True), told
    assert served.backend.turns


async def test_codex_is_let_in_by_a_key_alone(served: Served, home: Path) -> None:
    provider = {
        "model": "fake",
        "model_provider": "clinvk",
        "model_providers.clinvk.name": "clinvk",
        "model_providers.clinvk.base_url": served.url + API,
        "model_providers.clinvk.wire_api": "responses",
        "model_providers.clinvk.env_key": "CLINVK_KEY",
        "model_providers.clinvk.request_max_retries": 0,
        "model_providers.clinvk.stream_max_retries": 0,
    }
    settings = [word for name, value in provider.items() for word in ("-c", f"{name}={value}")]
    command = [cli("codex"), "exec", "--skip-git-repo-check", *settings, "say hello"]
    path = os.environ["PATH"]
    code, told = await run(command, home, PATH=path, CLINVK_KEY="sk-wrong")
    assert (code, "401" in told) == (1, True), told
    assert served.backend.turns == []
    code, told = await run(command, home, PATH=path, CLINVK_KEY=KEYS["alice"])
    assert (code, "Hello world" in told) == (0, True), told
