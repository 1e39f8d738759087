"""The protocol of agents, driven against a small agent whose behaviour the prompt's text names."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.backends import acp
from clinvk.backends.acp import AcpAgent
from clinvk.backends.acp_parser import AcpParser
from clinvk.errors import CliCrashedError, CliProtocolError
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolActivity,
    check_grammar,
)
from clinvk.procs.process import Command, start
from clinvk.procs.rpc import RpcError
from clinvk.procs.supervisor import Supervisor

AGENT = r"""
import json, os, sys

def send(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)

def say(session, text):
    update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
    send(method="session/update", params={"sessionId": session, "update": update})

how = sys.argv[1]
sessions = 0
prompts = {}
asked = {}
for line in sys.stdin:
    message = json.loads(line)
    number, method = message.get("id"), message.get("method")
    params = message.get("params") or {}
    session = params.get("sessionId")
    if method == "initialize":
        if how == "dies at start":
            sys.exit("no such config")
        if how == "complains on stdout":
            print("this program is no longer maintained")
            sys.exit(0)
        if how == "refuses":
            send(id=number, error={"code": -32603, "message": "too old"})
        elif how == "is silent":
            continue
        print("not JSON")
        print("[1, 2]")
        if how == "sends batches":
            answer = {"jsonrpc": "2.0", "id": number, "result": {"agentInfo": "in a batch"}}
            print(json.dumps([{"method": "other"}, answer]), flush=True)
            continue
        send(id=number, result={"agentInfo": {"version": "9"}, "saw": params})
    elif method == "session/new":
        if how == "opens no session":
            send(id=number, error={"code": -32000, "message": "log in"})
        elif how == "names no session":
            send(id=number, result={})
        elif how == "is silent later":
            continue
        else:
            sessions += 1
            send(id=number, result={"sessionId": f"s{sessions}", "cwd": params["cwd"]})
    elif method == "session/prompt":
        text = "".join(block["text"] for block in params["prompt"])
        prompts[session] = number
        if text == "wait" or text == "ignore cancels":
            say(session, "waiting")
        elif text == "die":
            say(session, "so far")
            print("last words", file=sys.stderr)
            sys.stdout.write('{"half a li')
            sys.stdout.flush()
            os._exit(3)
        elif text == "permission":
            options = [{"optionId": "yes", "kind": "allow_once"}]
            options.append({"optionId": "no", "kind": "reject_once"})
            asked[7] = session
            send(id=7, method="session/request_permission",
                 params={"sessionId": session, "options": options})
        elif text == "read":
            asked[8] = session
            send(id=8, method="fs/read_text_file", params={"sessionId": session, "path": "/"})
        elif text == "fail":
            send(id=number, error={"code": 429, "message": "slow down"})
        else:
            say("elsewhere", "for another session")
            say(session, text)
            send(id=number, result={"stopReason": "end_turn"})
    elif method == "session/cancel":
        if session in prompts and how != "ignores cancels":
            send(id=prompts[session], result={"stopReason": "cancelled"})
    elif number in asked:
        session = asked[number]
        say(session, json.dumps(message.get("result", message.get("error"))))
        send(id=prompts[session], result={"stopReason": "end_turn"})
"""


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as running:
        yield running


async def agent(supervisor: Supervisor, tmp_path: Path, how: str = "") -> AcpAgent:
    argv = (sys.executable, "-c", AGENT, how)
    process = await start(supervisor, Command(argv, dict(os.environ), tmp_path))
    with anyio.fail_after(10):
        return await AcpAgent.greet(supervisor, process)


async def ask(supervisor: Supervisor, agent: AcpAgent, *texts: str) -> list[Event]:
    parser = AcpParser()
    events: list[Event] = []
    with anyio.fail_after(10):
        session = await agent.open_session(Path("/tmp"))
        async with agent.prompt(supervisor, session, texts) as messages:
            async for message in messages:
                events += parser.feed(message)
    return events


async def test_an_answer_comes_from_its_own_session_alone(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    running = await agent(supervisor, tmp_path)
    assert await ask(supervisor, running, "one", " two") == [
        Started(),
        TextDelta("one two"),
        Finished(FinishReason.STOP),
    ]
    assert running.info["agentInfo"] == {"version": "9"}
    assert running.info["saw"]["clientCapabilities"]["fs"] == {
        "readTextFile": False,
        "writeTextFile": False,
    }


async def test_a_permission_is_refused_once(supervisor: Supervisor, tmp_path: Path) -> None:
    running = await agent(supervisor, tmp_path)
    events = await ask(supervisor, running, "permission")
    assert TextDelta('{"outcome": {"outcome": "selected", "optionId": "no"}}') in events


async def test_a_file_is_not_read_for_the_agent(supervisor: Supervisor, tmp_path: Path) -> None:
    running = await agent(supervisor, tmp_path)
    (_, text, _) = await ask(supervisor, running, "read")
    assert isinstance(text, TextDelta)
    assert "not offered" in text.text


async def test_an_error_is_the_last_message(supervisor: Supervisor, tmp_path: Path) -> None:
    running = await agent(supervisor, tmp_path)
    (failed,) = await ask(supervisor, running, "fail")
    assert isinstance(failed, Failed)
    assert "slow down (429)" in failed.error.message


async def test_death_ends_the_messages_and_tells_how(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    running = await agent(supervisor, tmp_path)
    assert await ask(supervisor, running, "die") == [Started(), TextDelta("so far")]
    error = await running.crash()
    assert "exit code 3" in error.message
    assert "last words" in error.message
    assert not running.alive
    with pytest.raises(CliCrashedError):
        await running.open_session(tmp_path)


async def test_death_ends_every_turn(supervisor: Supervisor, tmp_path: Path) -> None:
    running = await agent(supervisor, tmp_path)
    with anyio.fail_after(10):
        one, two = [await running.open_session(tmp_path) for _ in range(2)]
        async with (
            running.prompt(supervisor, one, ("wait",)) as first,
            running.prompt(supervisor, two, ("wait",)) as second,
        ):
            for messages in (first, second):
                await messages.receive()
            os.kill(running.process.pid, signal.SIGKILL)
            for messages in (first, second):
                with pytest.raises(anyio.EndOfStream):
                    await messages.receive()
    assert "exit code -9" in (await running.crash()).message


async def test_leaving_early_cancels_the_turn_and_keeps_the_agent(
    supervisor: Supervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = await agent(supervisor, tmp_path)
    with anyio.fail_after(10):
        session = await running.open_session(tmp_path)
        async with running.prompt(supervisor, session, ("wait",)) as messages:
            await messages.receive()
    assert running.alive
    assert (await ask(supervisor, running, "still here"))[1] == TextDelta("still here")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_leaving_at_once_asks_nothing(supervisor: Supervisor, tmp_path: Path) -> None:
    running = await agent(supervisor, tmp_path)
    with anyio.fail_after(10):
        session = await running.open_session(tmp_path)
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with running.prompt(supervisor, session, ("wait",)) as messages:
                await messages.receive()
    assert running.alive


async def test_an_agent_that_ignores_a_cancel_gets_no_more_turns(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acp, "CANCEL_S", 0.05)
    running = await agent(supervisor, tmp_path, "ignores cancels")
    with anyio.fail_after(10):
        session = await running.open_session(tmp_path)
        async with running.prompt(supervisor, session, ("wait",)) as messages:
            await messages.receive()
    assert not running.alive


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("dies at start", CliCrashedError, "no such config"),
        ("complains on stdout", CliCrashedError, "no longer maintained"),
        ("refuses", CliProtocolError, "too old"),
        ("is silent", CliProtocolError, "did not answer within"),
    ],
)
async def test_a_start_that_fails_stops_the_process(
    supervisor: Supervisor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.setattr(acp, "START_S", 0.3)
    argv = (sys.executable, "-c", AGENT, how)
    process = await start(supervisor, Command(argv, dict(os.environ), tmp_path))
    with anyio.fail_after(10):
        with pytest.raises(error, match=words):
            await AcpAgent.greet(supervisor, process)
        await process.stopped()


async def test_lines_that_are_not_json_are_told(supervisor: Supervisor, tmp_path: Path) -> None:
    argv = (sys.executable, "-c", AGENT, "")
    process = await start(supervisor, Command(argv, dict(os.environ), tmp_path))
    heard: list[bytes] = []
    with anyio.fail_after(10):
        await AcpAgent.greet(supervisor, process, on_noise=heard.append)
    assert heard == [b"not JSON"]


async def test_messages_may_come_in_batches(supervisor: Supervisor, tmp_path: Path) -> None:
    assert (await agent(supervisor, tmp_path, "sends batches")).info["agentInfo"] == "in a batch"


async def test_a_refused_session_is_the_agents_error(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    running = await agent(supervisor, tmp_path, "opens no session")
    with pytest.raises(RpcError, match="log in"):
        await running.open_session(tmp_path)


async def test_a_session_without_an_id_is_nonsense(supervisor: Supervisor, tmp_path: Path) -> None:
    running = await agent(supervisor, tmp_path, "names no session")
    with pytest.raises(CliProtocolError):
        await running.open_session(tmp_path)


async def test_an_agent_that_opens_no_session_in_time_gets_no_more_turns(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await agent(supervisor, tmp_path, "is silent later")
    monkeypatch.setattr(acp, "OPEN_S", 0.05)
    with pytest.raises(CliProtocolError, match="did not open a session"):
        await running.open_session(tmp_path)
    assert not running.alive


async def test_what_is_told_of_a_session_that_asks_nothing_is_dropped(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    running = await agent(supervisor, tmp_path)
    session = await running.open_session(tmp_path)
    running.tell(session, {"method": "other"})
    async with running.prompt(supervisor, session, ("hi",)) as messages:
        running.tell(session, {"method": "other"})
        with anyio.fail_after(10):
            assert await messages.receive() == {"method": "other"}


def update(**fields: Any) -> dict[str, Any]:
    return {"method": "session/update", "params": {"sessionId": "s", "update": fields}}


def chunk(kind: str, text: Any) -> dict[str, Any]:
    return update(sessionUpdate=kind, content={"type": "text", "text": text})


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        ("end_turn", Finished(FinishReason.STOP)),
        ("max_tokens", Finished(FinishReason.LENGTH)),
        ("max_turn_requests", Finished(FinishReason.LENGTH)),
        ("refusal", Finished(FinishReason.CONTENT_FILTER)),
    ],
)
def test_the_reply_says_how_the_turn_ended(reason: str, event: Event) -> None:
    assert AcpParser().feed({"result": {"stopReason": reason}}) == [event]


def test_an_end_that_nobody_knows_is_a_failure() -> None:
    (event,) = AcpParser().feed({"result": {"stopReason": "boredom"}})
    assert isinstance(event, Failed)
    assert "'boredom'" in event.error.message


def test_updates_become_events_and_start_once() -> None:
    parser = AcpParser()
    events = [
        *parser.feed(chunk("agent_thought_chunk", "hm")),
        *parser.feed(chunk("agent_message_chunk", "yes")),
        *parser.feed(update(sessionUpdate="tool_call", title="ls", status="in_progress")),
        *parser.feed(update(sessionUpdate="tool_call_update", kind="read")),
        *parser.feed({"result": {"stopReason": "end_turn"}}),
    ]
    assert events == [
        Started(),
        ReasoningDelta("hm"),
        TextDelta("yes"),
        ToolActivity("ls", "in_progress"),
        ToolActivity("read", "pending"),
        Finished(FinishReason.STOP),
    ]
    check_grammar(events)
    assert parser.text == "yes"


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"method": "session/update"},
        {"method": "session/update", "params": {"update": None}},
        {"method": "session/other", "params": {"update": {}}},
        update(sessionUpdate="plan", entries=[]),
        update(sessionUpdate="agent_message_chunk"),
        chunk("agent_message_chunk", ""),
        chunk("agent_message_chunk", None),
        chunk("agent_message_chunk", 3),
        update(sessionUpdate="agent_thought_chunk", content={"type": "image", "data": ""}),
    ],
)
def test_what_says_nothing_is_passed_over(message: dict[str, Any]) -> None:
    assert AcpParser().feed(message) == []
