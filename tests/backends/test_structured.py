"""JSON asked for in words: checked, mended once, and never shown when it is wrong."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from clinvk.backends.structured import answer, check_format, told
from clinvk.errors import BadRequestError, InvalidAnswerError, OverloadedError
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
    check_grammar,
)
from clinvk.turn import Message, OutputFormat, Role, TextPart, Turn

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORM = OutputFormat(SCHEMA)
END = Finished(FinishReason.STOP)
TURN = Turn(
    "m",
    (Message(Role.SYSTEM, (TextPart("be"),)), Message(Role.USER, (TextPart("hi"),))),
    format=FORM,
)


class Model:
    """Answers each turn by the next of its replies."""

    def __init__(self, *replies: list[Event]) -> None:
        self.replies = list(replies)
        self.turns: list[Turn] = []
        self.open = 0

    @asynccontextmanager
    async def __call__(self, turn: Turn) -> AsyncIterator[AsyncIterator[Event]]:
        self.turns.append(turn)
        self.open += 1
        yield self._events(self.replies.pop(0))
        self.open -= 1

    async def _events(self, reply: list[Event]) -> AsyncIterator[Event]:
        for event in reply:
            yield event


async def run(model: Model, form: OutputFormat = FORM) -> list[Event]:
    events = [event async for event in answer(told(TURN), form, model)]
    check_grammar(events)
    assert model.open == 0
    return events


def test_the_form_is_asked_for_after_the_callers_instructions() -> None:
    asked = told(TURN)
    assert asked.format is None
    assert [m.role for m in asked.messages] == [Role.SYSTEM, Role.SYSTEM, Role.USER]
    assert '"required": ["a"]' in asked.messages[1].text
    assert told(asked) is asked


async def test_a_right_answer_comes_whole_without_its_fence() -> None:
    model = Model(
        [
            Started("m"),
            ReasoningDelta("hm"),
            TextDelta("```json\n{"),
            TextDelta('"a": 1}\n```'),
            END,
        ]
    )
    assert await run(model) == [Started("m"), ReasoningDelta("hm"), TextDelta('{"a": 1}'), END]


async def test_a_wrong_answer_is_mended_once_and_both_are_paid_for() -> None:
    model = Model(
        [Started("m"), TextDelta("sure: {}"), Usage(3, 1), END],
        [Started("m"), TextDelta('{"a": 2}'), Usage(5, 2, cached_tokens=3), END],
    )
    assert await run(model) == [
        Started("m"),
        TextDelta('{"a": 2}'),
        Usage(8, 3, cached_tokens=3),
        END,
    ]
    *_, said, wrong = model.turns[1].messages
    assert (said.role, said.text) == (Role.ASSISTANT, "sure: {}")
    assert (wrong.role, "not JSON" in wrong.text) == (Role.USER, True)


async def test_an_answer_that_stays_wrong_is_an_error_and_not_shown() -> None:
    model = Model([TextDelta("{}"), END], [TextDelta('{"a": "x"}'), END])
    (end,) = await run(model)
    assert isinstance(end, Failed)
    assert isinstance(end.error, InvalidAnswerError)


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.CONTENT_FILTER])
async def test_what_was_cut_or_refused_passes_as_it_is(reason: FinishReason) -> None:
    model = Model([TextDelta('{"a":'), Usage(1, 1), Finished(reason)])
    assert await run(model) == [TextDelta('{"a":'), Usage(1, 1), Finished(reason)]


async def test_a_failure_passes_as_it_is() -> None:
    failed = Failed(OverloadedError("later"))
    assert await run(Model([TextDelta("x"), failed])) == [failed]


async def test_any_object_will_do_without_a_schema() -> None:
    assert await run(Model([TextDelta("{}"), END]), OutputFormat()) == [TextDelta("{}"), END]


def test_what_is_no_schema_is_refused() -> None:
    check_format(None)
    check_format(OutputFormat())
    with pytest.raises(BadRequestError) as caught:
        check_format(OutputFormat({"type": "thing"}))
    assert caught.value.param == "response_format"


async def test_what_was_said_before_a_call_comes_before_it() -> None:
    call, end = ToolCall("c", "f", "{}"), Finished(FinishReason.TOOL_CALLS)
    model = Model([Started("m"), TextDelta("Let me"), TextDelta(" see."), call, Usage(1, 2), end])
    events = [event async for event in answer(told(TURN), FORM, model)]
    assert events == [Started("m"), TextDelta("Let me see."), call, Usage(1, 2), end]
