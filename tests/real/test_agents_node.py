"""Agents on the AI SDK and on openai for Node, with the real CLIs."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio

from tests.fakes.api import Reply
from tests.real.bridge import Bridge
from tests.real.tool_loop import (
    ANSWER,
    ANSWERING,
    BACKENDS,
    CALLING,
    CALLS,
    HUNG_S,
    QUESTION,
    Heard,
    check_loop,
    check_turns,
    of_json,
    play,
    play_by,
    serve,
    turns,
)

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
    command = ["node", str(HERE / script), served.url, served.name, *words]
    with anyio.fail_after(HUNG_S):
        done = await anyio.run_process(command, cwd=HERE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def check_ran(seen: dict[str, Any]) -> None:
    assert sorted((name, arguments) for name, arguments in seen["ran"]) == sorted(CALLS)


@dataclass
class Seen:
    """What the AI SDK made of each answer, and what was asked for it, by kind and way."""

    made: dict[str, Any]
    asked: dict[str, list[Heard]]
    courses: dict[str, list[str]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ai_sdk(served: Bridge) -> Seen:
    """Run the AI SDK once over every kind of model, for its program is slow to start."""

    def answer(asked: Heard) -> Reply:
        if "get_time" not in asked.tools:
            return of_json(served, {"sky": "blue"})
        return ANSWERING if asked.results else CALLING

    play_by(served, answer)
    seen = Seen(await node(served, "agents_ai_sdk.mjs", QUESTION), {}, {})
    asked, courses = turns(served), list(served.courses)
    for kind in KINDS:
        for way, steps in (("whole", 2), ("streamed", 2), ("object", 1)):
            seen.asked[f"{kind} {way}"] = [asked.pop(0) for _ in range(steps)]
            seen.courses[f"{kind} {way}"] = [courses.pop(0) for _ in range(steps)]
    assert (asked, courses) == ([], [])
    return seen


@pytest.mark.parametrize("way", ["whole", "streamed"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_ai_sdk_loops_over_tools(ai_sdk: Seen, kind: str, way: str) -> None:
    seen = ai_sdk.made[f"{kind} {way}"]
    check_ran(seen)
    check_turns(ai_sdk.asked[f"{kind} {way}"])
    assert (seen["text"], seen["finish"]) == (ANSWER, "stop")
    assert ai_sdk.courses[f"{kind} {way}"] == ["new", "resumed"]
    if way == "streamed":
        assert "".join(seen["pieces"]) == f"Let me see.{ANSWER}"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_ai_sdk_generates_an_object(ai_sdk: Seen, kind: str) -> None:
    assert ai_sdk.made[f"{kind} object"] == {"sky": "blue"}


@pytest.mark.parametrize("kind", ["chat", "responses"])
async def test_openai_for_node_streams_a_loop_over_tools(served: Bridge, kind: str) -> None:
    play(served)
    seen = await node(served, "agents_openai_node.mjs", kind, QUESTION)
    check_ran(seen)
    check_loop(served)
    assert seen["text"] == ANSWER
