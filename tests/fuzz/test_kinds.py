"""Whatever an agent, a command or an upstream says: events in their grammar or one of our errors.

Those that clinvk knows by name are test_parsers'.
"""

import json
from itertools import pairwise
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.backends import openai_errors, openai_upstream
from clinvk.backends.acp_agent import can
from clinvk.backends.acp_errors import api_error, classify, session_error
from clinvk.backends.acp_parser import AgentParser
from clinvk.backends.command_output import JsonParser, LineParser, TextParser, look
from clinvk.backends.openai_events import ChatEvents
from clinvk.errors import ClinvkError
from clinvk.events import Event, Failed, Finished, Started, TextDelta, ToolCall, check_grammar
from clinvk.kinds import PATH_STEP, CommandConfig
from clinvk.procs.rpc import RpcError
from clinvk.wire.passed import UsageTail
from tests.fuzz import messages
from tests.fuzz.bodies import changed, values
from tests.fuzz.budget import budget
from tests.fuzz.test_parsers import texts, told_in_every_dialect, up_to_the_end, well_typed

DEEP = "[" * 5000
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def is_turn(events: list[Event]) -> None:
    """Events up to the end of a turn are told in every dialect; one without an end fails."""
    ended = bool(events) and isinstance(events[-1], Finished | Failed)
    check_grammar(events if ended else [*events, Failed(ClinvkError("it has left"))])
    for event in events:
        if not isinstance(event, ToolCall):  # whose arguments are the model's own
            well_typed(event)
    told_in_every_dialect(events)


# --- agents ----------------------------------------------------------------------------------

AGENT: list[dict[str, Any]] = [
    {"method": "session/update", "params": {"sessionId": "s", "update": update}}
    for update in (
        {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "hi"}},
        {"sessionUpdate": "agent_thought_chunk", "content": {"type": "text", "text": "hm"}},
        {"sessionUpdate": "tool_call", "toolCallId": "t", "title": "ls", "status": "pending"},
        {"sessionUpdate": "tool_call_update", "toolCallId": "t", "_meta": {"usage": {}}},
        {
            "sessionUpdate": "usage_update",
            "_meta": {"usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 9}},
        },
    )
]
AGENT += [
    {"result": {"stopReason": "end_turn", "usage": {"inputTokens": 3, "outputTokens": 4}}},
    {"result": {"stopReason": "cancelled"}},
    {"error": {"code": -32603, "message": "Internal error", "data": {"details": "429 no"}}},
]
INFO = {
    "protocolVersion": 1,
    "agentInfo": {"name": "a", "version": "1"},
    "agentCapabilities": {
        "promptCapabilities": {"image": True, "audio": True, "embeddedContext": True},
        "mcpCapabilities": {"http": True},
    },
}


@budget(150)
@given(messages.conversation("gemini", AGENT) | st.lists(messages.anything, max_size=4))
def test_whatever_an_agent_says_is_a_turn_up_to_its_end(told: list[dict[str, Any]]) -> None:
    is_turn(up_to_the_end(AgentParser().feed, told))


@budget(120)
@given(changed([INFO]), st.booleans())
def test_an_agent_can_do_what_it_says_or_not(info: dict[str, Any], pdf: bool) -> None:
    assert can(info, pdf=pdf).told()


@budget(150)
@given(values | st.integers(-33_000, 600), values | texts, values)
def test_whatever_an_agent_refuses_by_is_one_of_our_errors(
    code: Any, message: Any, data: Any
) -> None:
    errors = [
        classify(code, message, data),
        session_error(RpcError(code if isinstance(code, int) else 0, str(message), data), ""),
    ]
    found = api_error(str(message), code if isinstance(code, int) else None, "it")
    for error in [*errors, *([] if found is None else [found])]:
        assert error.status >= 400
        well_typed(Failed(error))


# --- commands --------------------------------------------------------------------------------

PATHS = {
    "text": "$.message.parts[0]['the text']",
    "reasoning": "$[type=thought].text",
    "end": "$[type=end]",
    "error": "$.error",
    "usage": {"input": "$.usage.in", "output": "$.usage['out']", "cached": "$.usage.cached[0]"},
}
COMMAND = CommandConfig.model_validate(
    {"kind": "command", "command": ["x"], "output": "jsonl", **PATHS}
)
PLAIN = CommandConfig(kind="command", command=["x"])
BETWEEN = CommandConfig(
    kind="command", command=["x"], after="^-*$", before="^=", failure="[Ee]rror|0"
)
LINES: list[dict[str, Any]] = [
    {"message": {"parts": [{"the text": "hi"}]}},
    {"type": "thought", "text": "hm"},
    {"type": "end", "usage": {"in": 3, "out": 4, "cached": [1]}},
    {"error": "429 no"},
]


@budget(150)
@given(st.lists(changed(LINES) | messages.limits(LINES) | values, max_size=6), st.binary())
def test_whatever_a_command_prints_is_a_turn_up_to_its_end(
    said: list[dict[str, Any]], noise: bytes
) -> None:
    parser = LineParser(COMMAND)
    events: list[Event] = []
    for line in [*(json.dumps(each).encode() for each in said), noise, DEEP.encode()]:
        events += parser.feed(line)
    assert parser.error is None or isinstance(parser.error, str)
    is_turn([*events, *parser.finish()])


@budget(150)
@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")), st.data())
def test_text_is_the_same_however_it_is_cut(printed: bytes, data: st.DataObject) -> None:
    config = data.draw(st.sampled_from((PLAIN, BETWEEN)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(printed)), max_size=6)))
    cut, whole = TextParser(config), TextParser(config)
    pieces = [printed[a:b] for a, b in pairwise([0, *cuts, len(printed)])]
    events = [event for piece in pieces for event in cut.feed(piece)] + cut.finish()
    is_turn(events)
    assert text_of(events) == text_of([*whole.feed(printed), *whole.finish()])
    assert not any(sign in text_of(events) for sign in "\x00\x07\x08\x7f")


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


documents = changed(LINES).map(lambda line: f"banner\n{json.dumps(line)}\n".encode())


@budget(120)
@given(documents | st.binary() | st.just(DEEP.encode()), st.data())
def test_a_document_is_the_same_however_it_is_cut(printed: bytes, data: st.DataObject) -> None:
    config = COMMAND.model_copy(update={"output": "json"})
    cuts = sorted(data.draw(st.lists(st.integers(0, len(printed)), max_size=6)))
    cut, whole = JsonParser(config), JsonParser(config)
    pieces = [printed[a:b] for a, b in pairwise([0, *cuts, len(printed)])]
    events = [event for piece in pieces for event in cut.feed(piece)] + cut.finish()
    assert events == [*whole.feed(printed), *whole.finish()]
    assert (cut.error, cut.ended) == (whole.error, whole.ended)
    is_turn(events)


steps = st.from_regex(PATH_STEP, fullmatch=True)


@budget(120)
@given(st.lists(steps, max_size=4), changed(LINES) | values)
def test_a_path_leads_to_what_is_there_or_to_nothing(path: list[str], value: Any) -> None:
    text = "$" + "".join(path)
    CommandConfig(kind="command", command=["x"], text=text)
    found = look(value, text)
    assert found is None or json.dumps(found) in json.dumps(value)


# --- upstreams -------------------------------------------------------------------------------


def _chunk(choice: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, **choice}], **more}


CALL = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}
CHUNKS = [
    _chunk({"delta": {"role": "assistant", "content": "hi", "reasoning_content": "hm"}}),
    _chunk({"delta": {"content": [{"type": "thinking", "thinking": [{"text": "hm"}]}]}}),
    _chunk({"delta": {"tool_calls": [CALL]}}),
    _chunk({"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}}),
    _chunk({"delta": {}, "finish_reason": "tool_calls", "usage": USAGE}),
    _chunk({"message": {"content": "hi", "refusal": None}, "finish_reason": "stop"}, usage=USAGE),
    {"choices": [], "usage": USAGE},
    {"error": {"message": "no", "type": "x", "code": 429, "param": "a"}},
    {"object": "error", "message": "no", "code": 400},
    {"detail": [{"loc": ["body", "a"], "msg": "no"}]},
]
said = st.lists(changed(CHUNKS) | messages.limits(CHUNKS) | values, max_size=8)


def events_of(told: list[str]) -> list[Event]:
    """The events of a stream, whose end may be an error."""
    chat = ChatEvents()
    events: list[Event] = []
    try:
        for data in told:
            events += chat.feed(data)
            if chat.done:
                break
        return events + chat.end()
    except ClinvkError as exc:
        return [*events, Failed(exc)]


@budget(120)
@given(said, st.booleans(), st.text(max_size=9))
def test_whatever_an_upstream_streams_is_a_turn(
    told: list[Any],
    whole: bool,
    noise: str,
) -> None:
    lines = [json.dumps(each) for each in told]
    is_turn(events_of([*lines, "[DONE]"] if whole else [*lines, noise, DEEP]))


@budget(120)
@given(st.lists(st.sampled_from([json.dumps(each) for each in CHUNKS]), max_size=4), st.data())
def test_a_stream_is_the_same_however_it_is_cut(told: list[str], data: st.DataObject) -> None:
    mark = data.draw(st.sampled_from(("\n", "\r\n", "\n: ping\n\nevent: x\n")))
    body = "".join(f"data: {each}{mark}{mark}" for each in told).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))

    async def pieces() -> Any:
        for a, b in pairwise([0, *cuts, len(body)]):
            yield body[a:b]

    async def read() -> list[str]:
        return [each async for each in openai_upstream._data(pieces())]

    assert [each for each in anyio.run(read) if each] == told


@budget(150)
@given(
    st.none() | st.integers(100, 999),
    changed(CHUNKS) | values,
    st.binary(max_size=20),
    texts | st.sampled_from(("7", "-1", "1e400", "nan", "Mon, 01 Jan 0001 00:00:00 -0000")),
)
def test_whatever_an_upstream_refuses_by_is_one_of_our_errors(
    status: int | None, error: Any, body: bytes, after: str
) -> None:
    headers = {"Retry-After": after}
    for failed in (
        openai_errors.complaint(status, error, headers),
        openai_errors.failure(status or 500, json.dumps(error).encode(), headers),
        openai_errors.failure(status or 500, body, headers),
    ):
        assert failed.status >= 400
        well_typed(Failed(failed))


@budget(150)
@given(st.lists(changed(CHUNKS) | messages.limits(CHUNKS), max_size=4), st.binary(max_size=9))
def test_usage_is_found_in_what_passes_or_not(told: list[dict[str, Any]], noise: bytes) -> None:
    tail = UsageTail()
    for each in told:
        tail.push(json.dumps(each).encode() + noise)
    found = tail.usage()
    assert found is None or min(found.input_tokens, found.output_tokens) >= 0


@pytest.mark.parametrize("deep", ['{"a": %s', '{"prompt_tokens": %s'])
def test_usage_that_is_nested_without_end_is_none(deep: str) -> None:
    tail = UsageTail()
    tail.push(b'{"usage": ' + (deep % DEEP).encode())
    assert tail.usage() is None


def test_much_that_looks_like_usage_is_soon_looked_through() -> None:
    tail = UsageTail()
    tail.push(b'"usage":{' * 10_000)
    assert tail.usage() is None


def test_an_error_that_is_nested_deeply_is_an_error() -> None:
    deep = "[" * 900 + "]" * 900
    for body in (f'{{"error": {{"message": {deep}}}}}', f'{{"message": {deep}}}'):
        *_, last = events_of([body])
        assert isinstance(last, Failed)
        assert openai_errors.failure(500, body.encode(), {}).status == 502


def test_the_first_of_a_turn_is_that_it_has_started() -> None:
    assert events_of([json.dumps(CHUNKS[0]), "[DONE]"])[0] == Started("m")
