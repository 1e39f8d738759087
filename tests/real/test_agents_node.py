"""Agents on the AI SDK and on openai for Node, with the real CLIs."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio

from tests.real.agents import (
    ANSWER,
    BACKENDS,
    CALLS,
    HUNG_S,
    QUESTION,
    check_loop,
    of_json,
    play,
    serve,
)
from tests.real.bridge import Bridge

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

HERE = Path(__file__).parent
KINDS = ("chat", "responses", "compatible")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BACKENDS)
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bridge]:
    async with serve(request.param, tmp_path_factory.mktemp("node")) as made:
        yield made


async def node(served: Bridge, script: str, *words: str) -> dict[str, Any]:
    """Run a script and return what it saw."""
    command = ["node", HERE / script, served.url, served.name, words[0], QUESTION, *words[1:]]
    with anyio.fail_after(HUNG_S):
        done = await anyio.run_process(command, cwd=HERE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def check_ran(seen: dict[str, Any]) -> None:
    assert sorted((name, arguments) for name, arguments in seen["ran"]) == sorted(CALLS)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_ai_sdk_streams_a_loop_over_tools(served: Bridge, kind: str) -> None:
    play(served)
    seen = await node(served, "agents_ai_sdk.mjs", kind, "stream")
    check_ran(seen)
    check_loop(served)
    assert (seen["text"], seen["finish"], seen["steps"]) == (ANSWER, "stop", 2)
    assert "".join(seen["pieces"]) == f"Let me see.{ANSWER}"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_ai_sdk_generates_over_tools(served: Bridge, kind: str) -> None:
    play(served)
    seen = await node(served, "agents_ai_sdk.mjs", kind, "whole")
    check_ran(seen)
    check_loop(served)
    assert (seen["text"], seen["finish"], seen["steps"]) == (ANSWER, "stop", 2)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_ai_sdk_generates_an_object(served: Bridge, kind: str) -> None:
    play(served, calling=of_json(served, {"sky": "blue"}))
    seen = await node(served, "agents_ai_sdk.mjs", kind, "object")
    assert seen["object"] == {"sky": "blue"}


@pytest.mark.parametrize("kind", ["chat", "responses"])
async def test_openai_for_node_streams_a_loop_over_tools(served: Bridge, kind: str) -> None:
    play(served)
    seen = await node(served, "agents_openai_node.mjs", kind)
    check_ran(seen)
    check_loop(served)
    assert seen["text"] == ANSWER
