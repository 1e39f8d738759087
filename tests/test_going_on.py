"""Conversations that go on: parked on calls, or idle, over a backend that plays scripts."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from clinvk.conversations import Course
from clinvk.errors import BusyError, CliCrashedError, OverloadedError
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)
from clinvk.procs import memory
from clinvk.procs.supervisor import Supervisor
from clinvk.registry import Registry
from clinvk.service import Load, Service
from clinvk.stream import BUFFERED_EVENTS, Stream
from clinvk.telling import Ask
from clinvk.turn import (
    Limits,
    Message,
    PriorCall,
    Role,
    TextPart,
    ToolChoice,
    ToolMode,
    ToolSpec,
    Turn,
)
from tests.fakes.backend import LiveBackend, script_config

HUNG_S = 10  # a guard against hanging tests, not a measure
USAGE = Usage(5, 2)
STOP = Finished(FinishReason.STOP)
SAID: tuple[Event, ...] = (TextDelta("yes"), USAGE, STOP)
CALLED: tuple[Event, ...] = (
    ToolCall("a", "f", '{"x": 1}'),
    USAGE,
    Finished(FinishReason.TOOL_CALLS),
)
MORE: tuple[Event, ...] = (TextDelta("more"), USAGE, STOP)
FIRST = Turn("fake", (Message(Role.USER, (TextPart("hi"),)),), tools=(ToolSpec("f"),))
RESULT = Message(Role.TOOL, (TextPart("1"),), call_id="a")
QUESTION = Message(Role.USER, (TextPart("and?"),))
RESULTS = replace(
    FIRST,
    messages=(
        *FIRST.messages,
        Message(Role.ASSISTANT, calls=(PriorCall("a", "f", '{"x":1}'),)),
        RESULT,
    ),
)
NEXT = replace(
    FIRST, messages=(*FIRST.messages, Message(Role.ASSISTANT, (TextPart("yes"),)), QUESTION)
)
MUST_CALL = replace(FIRST, tool_choice=ToolChoice(ToolMode.REQUIRED))


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as running:
        yield running


def make(backend: LiveBackend, supervisor: Supervisor, **limits: float) -> Service:
    config = script_config(**limits)
    return Service(config, Registry(config, {"fake": backend}), supervisor)


async def heard(stream: Stream) -> tuple[Course, list[Event]]:
    with anyio.fail_after(HUNG_S):
        events = [event async for _, event in stream]
    stream.close()
    return stream.course, events


async def gone(backend: LiveBackend) -> None:
    with anyio.fail_after(HUNG_S):
        while backend.running:
            await anyio.lowlevel.checkpoint()


async def test_results_resume_the_turn_that_made_the_calls(supervisor: Supervisor) -> None:
    backend = LiveBackend(CALLED, MORE)
    service = make(backend, supervisor)
    assert await heard(service.start(FIRST)) == (Course.NEW, list(CALLED))
    assert await heard(service.start(RESULTS)) == (Course.RESUMED, list(MORE))
    assert len(backend.turns) == 1
    assert backend.conversations[0].news == [(RESULT,)]


async def test_a_conversation_goes_on_with_what_is_new(supervisor: Supervisor) -> None:
    backend = LiveBackend(SAID, MORE)
    service = make(backend, supervisor)
    await heard(service.start(FIRST))
    assert await heard(service.start(NEXT)) == (Course.CONTINUED, list(MORE))
    assert backend.conversations[0].news == [(QUESTION,)]


async def test_little_memory_keeps_nobody_idle(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LiveBackend(SAID, SAID, CALLED, MORE)
    service = make(backend, supervisor)
    await heard(service.start(FIRST))
    monkeypatch.setattr(memory, "is_scarce", lambda: True)
    await heard(service.start(FIRST))
    await gone(backend)
    await heard(service.start(FIRST))
    assert (await heard(service.start(RESULTS)))[0] is Course.RESUMED


async def test_of_two_branches_one_goes_on_and_one_starts_anew(supervisor: Supervisor) -> None:
    backend = LiveBackend(SAID, MORE, SAID)
    service = make(backend, supervisor)
    await heard(service.start(FIRST))
    first, second = service.start(NEXT), service.start(NEXT)
    assert await heard(first) == (Course.CONTINUED, list(MORE))
    assert await heard(second) == (Course.NEW, list(SAID))


async def test_callers_never_share_a_conversation(supervisor: Supervisor) -> None:
    backend = LiveBackend(CALLED, MORE, MORE)
    service = make(backend, supervisor)
    await heard(service.start(FIRST, caller="one"))
    assert await heard(service.start(RESULTS, caller="two")) == (Course.REPLAYED, list(MORE))
    assert await heard(service.start(RESULTS, caller="one")) == (Course.RESUMED, list(MORE))


async def test_a_parked_turn_holds_no_place(supervisor: Supervisor) -> None:
    backend = LiveBackend(CALLED, SAID, MORE)
    service = make(backend, supervisor, max_concurrency=1, max_queue=0)
    await heard(service.start(FIRST))
    assert await heard(service.start(FIRST)) == (Course.NEW, list(SAID))
    assert await heard(service.start(RESULTS)) == (Course.RESUMED, list(MORE))


async def test_a_resumed_turn_takes_a_place(supervisor: Supervisor) -> None:
    hold = anyio.Event()
    backend = LiveBackend(CALLED, (hold, *MORE))
    service = make(backend, supervisor, max_concurrency=1, max_queue=0)
    await heard(service.start(FIRST))
    resumed = service.start(RESULTS)
    with pytest.raises(BusyError):
        service.start(FIRST)
    hold.set()
    assert await heard(resumed) == (Course.RESUMED, list(MORE))


@pytest.mark.parametrize("limits", [{"max_parked": 0}, {"park_s": 0.001}])
async def test_a_turn_that_is_gone_is_replayed(
    supervisor: Supervisor, limits: dict[str, float]
) -> None:
    backend = LiveBackend(CALLED, MORE)
    service = make(backend, supervisor, **limits)
    await heard(service.start(FIRST))
    await gone(backend)
    assert await heard(service.start(RESULTS)) == (Course.REPLAYED, list(MORE))


async def test_the_oldest_parked_turn_goes_first(supervisor: Supervisor) -> None:
    other = replace(FIRST, effort="high")
    backend = LiveBackend(CALLED, CALLED, MORE, MORE)
    service = make(backend, supervisor, max_parked=1)
    await heard(service.start(FIRST))
    await heard(service.start(other))
    resumed = await heard(service.start(replace(RESULTS, effort="high")))
    assert resumed == (Course.RESUMED, list(MORE))
    assert await heard(service.start(RESULTS)) == (Course.REPLAYED, list(MORE))


async def test_a_dead_conversation_is_noticed_before_it_is_handed_out(
    supervisor: Supervisor,
) -> None:
    backend = LiveBackend(CALLED, MORE)
    service = make(backend, supervisor)
    await heard(service.start(FIRST))
    backend.conversations[0].alive = False
    assert await heard(service.start(RESULTS)) == (Course.REPLAYED, list(MORE))
    assert backend.turns[1][0] == RESULTS


@pytest.mark.parametrize("at_once", [True, False])
async def test_one_that_dies_when_it_is_asked_is_replaced_unseen(
    supervisor: Supervisor, *, at_once: bool
) -> None:
    backend = LiveBackend(CALLED, (CliCrashedError("dead"),), MORE)
    if at_once:
        del backend.scripts[1]
    service = make(backend, supervisor)
    await heard(service.start(FIRST))
    if at_once:
        backend.conversations[0].refusal = CliCrashedError("dead")
    assert await heard(service.start(RESULTS)) == (Course.REPLAYED, list(MORE))
    assert backend.running == 1


async def test_one_that_dies_in_mid_answer_is_an_error(supervisor: Supervisor) -> None:
    error = CliCrashedError("dead")
    backend = LiveBackend(CALLED, (TextDelta("m"), error))
    service = make(backend, supervisor)
    await heard(service.start(FIRST))
    assert await heard(service.start(RESULTS)) == (Course.RESUMED, [TextDelta("m"), Failed(error)])


async def test_a_failure_is_not_gone_on_with(supervisor: Supervisor) -> None:
    error = OverloadedError("busy")
    backend = LiveBackend((TextDelta("yes"), Failed(error)), MORE)
    service = make(backend, supervisor)
    await heard(service.start(FIRST))
    assert (await heard(service.start(NEXT)))[0] is Course.NEW


async def test_an_answer_that_was_cut_is_not_gone_on_with(supervisor: Supervisor) -> None:
    backend = LiveBackend((TextDelta("yes"), TextDelta(" no"), USAGE, STOP), MORE)
    service = make(backend, supervisor)
    cut = replace(FIRST, limits=Limits(stop=(" no",)))
    assert (await heard(service.start(cut)))[1][-1] == Finished(FinishReason.STOP, " no")
    assert (await heard(service.start(NEXT)))[0] is Course.NEW


async def test_a_reader_that_leaves_before_the_end_leaves_nothing(supervisor: Supervisor) -> None:
    backend = LiveBackend((TextDelta("yes"), anyio.Event()))
    service = make(backend, supervisor)
    stream = service.start(FIRST)
    with anyio.fail_after(HUNG_S):
        await anext(stream)
    stream.close()
    await gone(backend)


async def test_a_reader_that_leaves_as_the_next_word_comes_is_no_bug(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    hold = anyio.Event()
    backend = LiveBackend((TextDelta("yes"), hold, TextDelta("no"), anyio.Event()))
    stream = make(backend, supervisor).start(FIRST)
    with anyio.fail_after(HUNG_S):
        await anext(stream)
        await anyio.wait_all_tasks_blocked()
        hold.set()
        stream.close()
        await stream.asks[0].told.wait()
    await gone(backend)
    assert stream.asks[0].record.outcome == "cancelled"
    assert not caplog.records


async def test_who_has_not_heard_of_the_end_does_not_go_on(supervisor: Supervisor) -> None:
    many = (TextDelta("yes"),) * (BUFFERED_EVENTS - 1)
    backend = LiveBackend((*many, USAGE, STOP))
    stream = make(backend, supervisor).start(FIRST)
    with anyio.fail_after(HUNG_S):
        while not stream.asks[0].ended.is_set():
            await anyio.lowlevel.checkpoint()
    stream.close()
    await gone(backend)


async def test_each_choice_can_be_gone_on_with(supervisor: Supervisor) -> None:
    other = (ToolCall("b", "f", "{}"), USAGE, Finished(FinishReason.TOOL_CALLS))
    backend = LiveBackend(CALLED, other, MORE)
    service = make(backend, supervisor)
    await heard(service.start(replace(FIRST, choices=2)))
    assert await heard(service.start(RESULTS)) == (Course.RESUMED, list(MORE))
    assert backend.conversations[0].news == [(RESULT,)]


async def test_draining_ends_what_is_kept(supervisor: Supervisor) -> None:
    backend = LiveBackend(CALLED, SAID)
    service = make(backend, supervisor)
    await heard(service.start(FIRST))
    await heard(service.start(FIRST))
    assert backend.running == 2
    await service.drain(HUNG_S)
    await gone(backend)


async def test_what_became_of_a_turn_is_told(supervisor: Supervisor) -> None:
    hold = anyio.Event()
    backend = LiveBackend((Started("m"), hold, *CALLED), MORE)
    service = make(backend, supervisor, max_concurrency=1)
    seen: list[tuple[str, Ask]] = []
    service.observers.append(lambda name, ask: seen.append((name, ask)))
    first, second = service.start(FIRST), service.start(FIRST)
    assert service.load() == {"fake": Load(running=1, waiting=1, parked=0, idle=0)}
    second.close()
    hold.set()
    await heard(first)
    await service.drain(HUNG_S)
    by_outcome = {ask.record.outcome: (name, ask) for name, ask in seen}
    _, left = by_outcome["cancelled"]
    assert (left.record.admitted, left.record.usage) == (None, None)
    name, ask = by_outcome["tool_calls"]
    assert (name, ask.record.outcome, ask.record.usage) == ("fake", "tool_calls", USAGE)
    times = [ask.record.asked, ask.record.admitted, ask.record.first, ask.record.ended]
    assert times == sorted(filter(None, times))
    assert ask.record.since(ask.record.asked) == 0
    assert ask.record.since(None) is None


async def test_what_is_kept_is_counted(supervisor: Supervisor) -> None:
    service = make(LiveBackend(CALLED, MORE), supervisor)
    await heard(service.start(FIRST))
    assert service.load() == {"fake": Load(running=0, waiting=0, parked=1, idle=0)}
    await heard(service.start(RESULTS))
    assert service.load() == {"fake": Load(running=0, waiting=0, parked=0, idle=1)}


async def test_a_model_that_must_call_and_talks_is_asked_once_more(
    supervisor: Supervisor,
) -> None:
    thought = ReasoningDelta("hm")
    backend = LiveBackend((Started("m"), thought, *SAID), (Started("m"), *CALLED), MORE)
    service = make(backend, supervisor)
    course, events = await heard(service.start(MUST_CALL))
    assert course is Course.NEW
    assert events == [Started("m"), thought, CALLED[0], USAGE + USAGE, CALLED[-1]]
    asked = backend.turns[1][0]
    assert [(m.role, m.text) for m in asked.messages[1:]] == [
        (Role.ASSISTANT, "yes"),
        (Role.USER, "You did not call one of your tools. Call it now."),
    ]
    # The CLI has heard what the caller never said.
    again = replace(RESULTS, tool_choice=MUST_CALL.tool_choice)
    assert (await heard(service.start(again)))[0] is Course.REPLAYED


async def test_a_model_that_still_refuses_is_heard(supervisor: Supervisor) -> None:
    backend = LiveBackend(SAID, MORE)
    turn = replace(FIRST, tool_choice=ToolChoice(ToolMode.REQUIRED, "f"))
    events = (await heard(make(backend, supervisor).start(turn)))[1]
    assert events == [TextDelta("more"), USAGE + USAGE, STOP]
    assert backend.turns[1][0].messages[-1].text == "You did not call the tool f. Call it now."


async def test_what_is_said_before_a_call_is_kept(supervisor: Supervisor) -> None:
    backend = LiveBackend((TextDelta("let"), TextDelta(" me"), *CALLED))
    events = (await heard(make(backend, supervisor).start(MUST_CALL)))[1]
    assert events == [TextDelta("let"), TextDelta(" me"), *CALLED]


async def test_an_answer_cut_short_is_not_asked_for_again(supervisor: Supervisor) -> None:
    cut = (TextDelta("let"), USAGE, Finished(FinishReason.LENGTH))
    events = (await heard(make(LiveBackend(cut), supervisor).start(MUST_CALL)))[1]
    assert events == list(cut)


async def test_a_call_that_is_due_after_results_is_asked_for_again(
    supervisor: Supervisor,
) -> None:
    backend = LiveBackend(CALLED, SAID, CALLED)
    service = make(backend, supervisor)
    await heard(service.start(MUST_CALL))
    turn: Any = replace(RESULTS, tool_choice=MUST_CALL.tool_choice)
    course, events = await heard(service.start(turn))
    assert course is Course.RESUMED
    assert events == [CALLED[0], USAGE + USAGE, CALLED[-1]]
    assert len(backend.turns) == 2
