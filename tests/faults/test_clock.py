"""A clock that is set while turns run changes no limit: all of them go by the monotonic one."""

import ast
import time
from pathlib import Path

import anyio
import pytest

import clinvk
from clinvk.procs.supervisor import Supervisor
from clinvk.registry import Registry
from clinvk.service import Service
from clinvk.turn import Message, Role, TextPart, Turn
from tests.fakes.backend import ANSWER, LiveBackend, script_config
from tests.faults.books import HUNG_S

PACKAGE = Path(clinvk.__file__).parent
# Who may look at the calendar: what is told or kept with its date, and dates that APIs tell.
DATED = {
    "backends/claude_events.py",
    "backends/openai_errors.py",
    "cli/keys.py",
    "filestore.py",
    "store.py",
    "wire/openai_chat.py",
    "wire/openai_completions.py",
    "wire/openai_models.py",
    "wire/openai_responses.py",
    "wire/openai_responses_encoder.py",
}
ASKED = Turn("fake", (Message(Role.USER, (TextPart("hi"),)),))


def looks_at_the_calendar(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in {("time", "time"), ("datetime", "now")}:
                return True
            if node.attr in {"utcnow", "today", "time_ns"}:
                return True
    return False


def test_only_what_needs_a_date_looks_at_the_calendar() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if looks_at_the_calendar(path)
    }
    assert found <= DATED


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
async def test_a_clock_that_is_set_in_mid_turn_ends_nothing(
    jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    hold = anyio.Event()
    async with Supervisor() as supervisor:
        config = script_config(timeout_s=60, silence_s=60, first_s=60, idle_s=60)
        backend = LiveBackend((ANSWER[0], hold, *ANSWER[1:]))
        service = Service(config, Registry(config, {"fake": backend}), supervisor)
        stream = service.start(ASKED)
        with anyio.fail_after(HUNG_S):
            events = [(await anext(stream))[1]]
            monkeypatch.setattr(time, "time", lambda: now() + jump_s)
            await anyio.wait_all_tasks_blocked()
            hold.set()
            events += [event async for _, event in stream]
            await stream.asks[0].told.wait()
        assert events == list(ANSWER)
        assert service.load()["fake"].idle == 1
