"""instructor, in its modes, with the real CLIs; it runs in an environment of its own."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio

from tests.fakes.api import Reply
from tests.real.tool_loop import BACKENDS, HUNG_S, Heard, of_json, play_by, serve, turns

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

HERE = Path(__file__).parent
PYTHON = HERE / ".venv/bin/python"
ROME = {"city": "Rome", "people": 3}
CALLS = (("GetWeather", {"city": "Rome"}), ("GetTime", {"zone": "CET"}))


@dataclass
class Seen:
    """What the client made of each mode's answer, and what the model was asked for it."""

    made: dict[str, Any]
    asked: dict[str, Heard]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BACKENDS)
async def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    assert PYTHON.exists(), "instructor is missing: run `make test`, which installs it"
    async with serve(request.param, tmp_path_factory.mktemp("instructor")) as served:

        def answer(asked: Heard) -> Reply:
            offered = asked.tools.keys()
            if "GetTime" in offered:
                return Reply(text=(), tool_calls=CALLS)
            (place,) = offered & {"Place", "PartialPlace"} or {""}
            called = Reply(text=(), tool_calls=((place, ROME),))
            return called if place else of_json(served, ROME)

        play_by(served, answer)
        command = [str(PYTHON), str(HERE / "instructor_client.py"), served.url, served.name]
        with anyio.fail_after(HUNG_S):
            done = await anyio.run_process(command, check=False)
        assert done.returncode == 0, done.stderr.decode()
        made = json.loads(done.stdout)
        assert len(turns(served)) == len(made)
        return Seen(made, dict(zip(made, turns(served), strict=True)))


@pytest.mark.parametrize("mode", ["TOOLS", "TOOLS_STRICT", "RESPONSES_TOOLS"])
async def test_a_class_is_filled_by_a_call(seen: Seen, mode: str) -> None:
    assert seen.made[mode] == ROME
    assert seen.asked[mode].tools["Place"]["properties"].keys() == ROME.keys()


async def test_a_class_is_filled_by_json(seen: Seen) -> None:
    assert seen.made["JSON_SCHEMA"] == ROME
    assert "Place" not in seen.asked["JSON_SCHEMA"].tools


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
async def test_a_class_is_filled_as_it_streams(seen: Seen, mode: str) -> None:
    assert seen.made[f"{mode} streamed"][-1] == ROME


async def test_several_classes_are_filled_by_parallel_calls(seen: Seen) -> None:
    assert seen.made["PARALLEL_TOOLS"] == [list(call) for call in CALLS]
    assert seen.asked["PARALLEL_TOOLS"].tools.keys() == {"GetWeather", "GetTime"}
