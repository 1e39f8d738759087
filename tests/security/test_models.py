"""With the real CLIs: names of models that no CLI can be given, or that look like flags."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.api import Reply
from tests.real.bridge import Bridge, alone, bridge
from tests.security.plants import Grounds, plant

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture
def grounds(home: Path, monkeypatch: pytest.MonkeyPatch) -> Grounds:
    alone(home, monkeypatch)
    return plant(home.parent, monkeypatch)


@pytest.fixture(params=["claude", "codex", "gemini"])
async def served(request: pytest.FixtureRequest, grounds: Grounds) -> AsyncIterator[Bridge]:
    memory = {"store": {"path": ":memory:"}}
    async with bridge(request.param, grounds.home, server=memory) as running:
        yield running
    assert grounds.sprung == []


async def test_a_name_that_no_program_can_be_given_is_no_model_and_stops_nobody(
    served: Bridge,
) -> None:
    for odd in ("a\0b", "a\nb", "\x1b[31m", "x" * 300, "x" * 300_000, "\x7f"):
        async with served.post("hi", model=f"{served.name}/{odd}") as response:
            assert response.status == 404, repr(odd[:20])
            assert len(await response.text()) < 2000
    async with served.post("hi") as response:
        assert response.status == 200


async def test_a_name_that_looks_like_a_flag_or_a_command_is_a_name(
    served: Bridge, grounds: Grounds
) -> None:
    served.fake.script = lambda _: Reply()
    for odd in (
        "--dangerously-skip-permissions",
        "-c model=x",
        f"x; {grounds.trap('model')}",
        f"$({grounds.trap('model')})",
        "../../etc/passwd",
        "@secret.txt",
    ):
        async with served.post("hi", model=f"{served.name}/{odd}") as response:
            assert response.status in (200, 400, 404, 502), (odd, await response.text())
    async with served.post("hi") as response:
        assert response.status == 200
