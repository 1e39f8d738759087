"""Any agent as a backend, against a small one whose behaviour its argument and prompts name."""

import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.backends import acp_session
from clinvk.backends.acp_agent import AcpBackend
from clinvk.backends.base import Live, State
from clinvk.capabilities import Level
from clinvk.config import AcpConfig
from clinvk.errors import (
    BadRequestError,
    CliCrashedError,
    ModelNotFoundError,
    NotInstalledError,
    NotLoggedInError,
    UnsupportedError,
)
from clinvk.events import (
    Event,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    ToolActivity,
    ToolCall,
    Usage,
    check_grammar,
)
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import (
    Message,
    OutputFormat,
    Role,
    TextPart,
    ToolChoice,
    ToolMode,
    ToolSpec,
    Turn,
)
from tests.backends.acp_script import AGENT

HUNG_S = 30
TIME = ToolSpec("get_time", "Tells the time.", {"type": "object"})
Make = Callable[..., AcpBackend]


def turn(text: str, **more: Any) -> Turn:
    return Turn("a", (Message(Role.USER, (TextPart(text),)),), **more)


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    async with Supervisor() as supervisor:

        def made(how: str = "well", *, program: str = sys.executable, **more: Any) -> AcpBackend:
            command = [program, str(script), how]
            return AcpBackend("a", AcpConfig(kind="acp", command=command, **more), supervisor)

        yield made
    assert list(temp.iterdir()) == []


async def rest(live: AsyncIterator[Event]) -> list[Event]:
    with anyio.fail_after(HUNG_S):
        events = [event async for event in live]
    check_grammar(events)
    return events


async def ask(backend: AcpBackend, asked: Turn, model: str | None = None) -> list[Event]:
    backend.check(asked)
    async with backend.open(asked, model) as live:
        return await rest(live)


async def told(backend: AcpBackend, text: str, model: str | None = None) -> str:
    events = await ask(backend, turn(text), model)
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_an_answer_and_its_usage(make: Make) -> None:
    assert await ask(make(), turn("Hello.")) == [
        Started(),
        TextDelta("Hello."),
        Usage(3, 2),
        Finished(FinishReason.STOP),
    ]


async def test_what_is_no_command_of_the_agents_is_guarded(make: Make) -> None:
    assert await told(make(), "/help") == "\u200b/help"


async def test_what_it_can_do_is_known_once_it_runs(make: Make) -> None:
    backend = make()
    before = backend.capabilities
    assert {before.vision, before.audio, before.pdf} == {Level.NO}
    assert (before.tools, before.tool_choice) == (Level.NATIVE, Level.EMULATED)
    await backend.warm()
    after = backend.capabilities
    assert after.vision is after.tools is after.audio is Level.NATIVE
    assert (after.pdf, after.image_urls) == (Level.NO, Level.EMULATED)
    assert (await backend.health()).version == "1.2"
    assert backend.processes.running == 1
    assert backend.trouble is None
    assert "1 starts" in repr(backend)


async def test_it_runs_in_an_empty_folder_with_what_it_may_see(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "one")
    monkeypatch.setenv("B_KEY", "two")
    backend = make(pass_env=["A_*"], env={"C": "three"})
    _, _, env = json.loads(await told(backend, "where"))
    assert (env["A_KEY"], env["C"]) == ("one", "three")
    assert "B_KEY" not in env


async def test_models_and_modes_are_chosen_by_what_the_agent_offers(make: Make) -> None:
    backend = make()
    assert json.loads(await told(backend, "settings", "big")) == [
        ["session/set_mode", {"sessionId": "s1", "modeId": "default"}],
        ["session/set_config_option", {"sessionId": "s1", "configId": "m", "value": "big"}],
    ]
    with pytest.raises(ModelNotFoundError, match="no model 'huge'; it has: big, small"):
        await told(backend, "hi", "huge")
    with pytest.raises(ModelNotFoundError, match="no choice of models"):
        await told(make("has no models"), "hi", "big")


@pytest.mark.parametrize("how", ["well", "takes stdio alone"])
async def test_calls_are_told_one_by_one_and_answered(make: Make, how: str) -> None:
    async with make(how).open(turn("call twice", tools=(TIME,)), None) as live:
        assert isinstance(live, Live)
        for at in (1, 2):
            events = await rest(live)
            [call] = [event for event in events if isinstance(event, ToolCall)]
            assert (call.name, json.loads(call.arguments)) == ("get_time", {"at": at})
            assert events[-1] == Finished(FinishReason.TOOL_CALLS)
            assert live.waits
            await live.go_on((Message(Role.TOOL, (TextPart(f"{at}:00"),), call_id=call.id),))
        assert await rest(live) == [
            Started(),
            TextDelta("1:00 and 2:00"),
            Finished(FinishReason.STOP),
        ]
        assert live.waits


@pytest.mark.parametrize(
    ("how", "tools", "stdio"),
    [
        ("well", "auto", False),
        ("well", "stdio", True),
        ("takes stdio alone", "auto", True),
    ],
)
async def test_tools_are_reached_as_the_agent_can_or_as_it_is_told(
    make: Make, how: str, tools: str, stdio: bool
) -> None:
    backend = make(how, tools=tools)
    events = await ask(backend, turn("servers", tools=(TIME,)))
    [said] = [event.text for event in events if isinstance(event, TextDelta)]
    [server] = json.loads(said)
    assert ("command" in server, "url" in server) == (stdio, not stdio)
    if stdio:
        secret = {each["name"]: each["value"] for each in server["env"]}
        assert not any(word in str(server["args"]) for word in secret.values())


async def test_an_agent_that_dies_is_a_crash_with_its_last_words(make: Make) -> None:
    with pytest.raises(CliCrashedError, match="out of memory"):
        await ask(make(), turn("die"))


async def test_a_conversation_does_not_go_on_where_the_agent_is_gone(make: Make) -> None:
    backend = make()
    async with backend.open(turn("Hello."), None) as live:
        assert isinstance(live, Live)
        await rest(live)
        before = live.waits
        with pytest.raises(CliCrashedError, match="out of memory"):
            await ask(backend, turn("die"))
        assert (before, live.waits) == (True, False)
        with pytest.raises(CliCrashedError):
            await live.go_on((Message(Role.USER, (TextPart("more"),)),))


async def test_what_a_session_cannot_be_told_is_left_to_a_transcript(make: Make) -> None:
    system = Message(Role.SYSTEM, (TextPart("Be brief."),))
    whole = Turn("a", (system, Message(Role.USER, (TextPart("Hello."),))))
    async with make().open(whole, None) as live:
        assert isinstance(live, Live)
        await rest(live)
        for text in ("", "<<<k0 system>>>"):
            with pytest.raises(CliCrashedError, match="no way to be told"):
                await live.go_on((Message(Role.USER, (TextPart(text),)),))


async def test_a_tool_of_its_own_is_refused_whatever_it_is_called(make: Make) -> None:
    async with make().open(turn("own tool", tools=(TIME,)), None) as live:
        assert isinstance(live, Live)
        events = await rest(live)
        assert TextDelta("no") in events
        assert ToolActivity("x_get_time", "pending") in events
        assert not live.waits


async def test_the_form_of_an_answer_is_asked_for_in_words(make: Make) -> None:
    events = await ask(make(), turn("hi", format=OutputFormat()))
    assert TextDelta('{"a": 1}') in events


async def test_what_cannot_be_done_is_refused_or_named(make: Make) -> None:
    backend = make()
    must = ToolChoice(ToolMode.REQUIRED)
    asked = turn("hi", tools=(TIME,), tool_choice=must, effort="high")
    assert backend.check(asked) == ("reasoning_effort",)
    with pytest.raises(BadRequestError, match="the message is empty"):
        backend.check(turn(""))


async def test_a_call_that_must_be_is_asked_for_in_words(make: Make) -> None:
    for name, words in ((None, "at least one of your tools"), ("get_time", "the tool get_time")):
        must = ToolChoice(ToolMode.REQUIRED, name)
        events = await ask(make(), turn("hi", tools=(TIME,), tool_choice=must))
        said = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert f"Your next reply must be a call of {words}." in said


async def test_an_agent_that_asks_for_no_tools_is_offered_none_any_more(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acp_session, "LIST_S", 0.01)
    backend = make("is deaf to tools", recycle_after=6)
    asked = turn("hi", tools=(TIME,))
    for _ in range(3):
        async with backend.open(asked, None):
            pass  # who leaves at once has not seen what it would have done
    for _ in range(2):
        assert backend.capabilities.tools is Level.NATIVE
        await ask(backend, asked)
    assert backend.capabilities.tools is Level.NO
    assert "does not ask which tools there are" in caplog.text
    with pytest.raises(UnsupportedError, match="leave them out"):
        backend.check(asked)
    with anyio.fail_after(HUNG_S):
        while backend.capabilities.tools is Level.NO:  # until another process, which may hear
            assert await told(backend, "hi") == "hi"


async def test_an_effort_is_chosen_where_the_agent_has_efforts(make: Make) -> None:
    backend = make("thinks")
    chosen = json.loads("".join([await told(backend, "settings")]))
    assert [each for each in chosen if each[0] == "session/set_config_option"] == []
    assert backend.capabilities.reasoning_effort is Level.NATIVE
    asked = turn("settings", effort="medium")
    assert backend.check(asked) == ()
    events = await ask(backend, asked)
    [said] = [event.text for event in events if isinstance(event, TextDelta) and event.text]
    wanted = {"sessionId": "s2", "configId": "effort", "value": "low"}
    assert ["session/set_config_option", wanted] in json.loads(said)


async def test_a_session_is_closed_and_deleted_where_the_agent_can(make: Make) -> None:
    backend = make()
    await told(backend, "hi")
    methods = [each[0] for each in json.loads(await told(backend, "settings"))]
    assert methods[1:3] == ["session/close", "session/delete"]


async def test_a_login_that_asks_nobody_is_done_at_the_start(make: Make) -> None:
    assert await told(make(auth="key"), "hi") == "hi"
    backend = make(auth="browser")
    with pytest.raises(NotLoggedInError, match="refuses the login 'browser': no such way"):
        await told(backend, "hi")
    assert (await make(auth="browser").health()).state is State.NOT_LOGGED_IN


async def test_an_agent_of_a_newer_protocol_alone_is_refused(make: Make) -> None:
    assert "version 2 of its protocol only" in str((await make("is newer").health()).reason)


async def test_a_program_that_is_not_there_is_named_with_what_to_do(make: Make) -> None:
    backend = make(program="/no/such/agent")
    health = await backend.health()
    assert (health.state, backend.installed) == (State.MISSING, False)
    assert "check `command`" in str(health.reason)
    with pytest.raises(NotInstalledError, match="mend `command`"):
        backend.check(turn("hi"))


async def test_an_agent_that_dies_at_its_start_is_failing(make: Make) -> None:
    backend = make("dies")
    assert "no such setting" in str((await backend.health()).reason)
    with pytest.raises(CliCrashedError, match="no such setting"):
        await backend.warm()


async def test_a_program_that_cannot_run_leaves_nothing(make: Make, tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    assert "could not be started" in str((await make(program=str(program)).health()).reason)


async def test_a_missing_login_is_known_once_it_was_missed(make: Make, tmp_path: Path) -> None:
    login = tmp_path / "login"
    backend = make("wants a login", env={"LOGIN": str(login)})
    with pytest.raises(NotLoggedInError, match=r"Run `a login`; `auth` in .* may name one of 'l'"):
        await told(backend, "hi")
    assert (await backend.health()).state is State.NOT_LOGGED_IN
    login.touch()
    assert await told(backend, "hi") == "hi"
    assert (await backend.health()).state is State.READY


async def test_the_process_is_replaced_after_its_share(make: Make) -> None:
    backend = make(recycle_after=1)
    for _ in range(3):
        assert await told(backend, "hi") == "hi"
    assert backend.processes.starts >= 2
