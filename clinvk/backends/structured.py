"""JSON from a model that cannot be held to it: asked for in words, checked, and mended once.

Owns what the model is told and when its answer counts; knows no CLI. Nothing of the answer is
shown before it is whole and right, so a stream gets it in one piece.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace

from clinvk.errors import BadRequestError, InvalidAnswerError
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    ToolCall,
    Usage,
    require_end,
)
from clinvk.schema import answer_fault, schema_fault, unfenced
from clinvk.turn import Message, OutputFormat, Role, TextPart, Turn

ATTEMPTS = 2

Ask = Callable[[Turn], AbstractAsyncContextManager[AsyncIterator[Event]]]


def check_format(form: OutputFormat | None) -> None:
    """Refuse what is no JSON Schema.

    Raises:
        BadRequestError: saying why.
    """
    fault = None if form is None or form.schema is None else schema_fault(form.schema)
    if fault is not None:
        raise BadRequestError(
            f"the schema of response_format is no JSON Schema: {fault}", param="response_format"
        )


def in_words(form: OutputFormat) -> str:
    """Return what the model is told of the form of its answer."""
    what = "a JSON object" if form.schema is None else "JSON"
    asked = f"Your answer must be {what} alone: no other text, no code fence."
    if not form.schema:
        return asked
    return f"{asked} It must be valid under this JSON Schema:\n{json.dumps(form.schema)}"


def told(turn: Turn) -> Turn:
    """Return the turn with the form asked for in words, after the caller's own instructions."""
    if turn.format is None:
        return turn
    at = next((i for i, m in enumerate(turn.messages) if m.role is Role.USER), 0)
    request = Message(Role.SYSTEM, (TextPart(in_words(turn.format)),))
    return replace(turn, messages=(*turn.messages[:at], request, *turn.messages[at:]), format=None)


@asynccontextmanager
async def opened(turn: Turn, ask: Ask) -> AsyncIterator[AsyncIterator[Event]]:
    """Run a turn by `ask`; one that has a form is asked for it in words, as `answer` does."""
    if turn.format is None:
        async with ask(turn) as events:
            yield events
    else:
        async with aclosing(answer(told(turn), turn.format, ask)) as answered:
            yield answered


async def answer(turn: Turn, form: OutputFormat, ask: Ask) -> AsyncGenerator[Event, None]:
    """Yield the events of an answer that is of `form`, or of its failure.

    An answer that was cut short, refused, or calls tools passes as it is: its end says so.

    Args:
        turn: what to ask, already `told`.
        form: what the answer must be.
        ask: runs a turn.
    """
    spent: Usage | None = None
    fault = None
    for attempt in range(ATTEMPTS):
        said = ""
        async with ask(turn) as events:
            async for event in events:
                match event:
                    case TextDelta(text=text):
                        said += text
                        require_end(len(said))
                    case Usage():
                        spent = event if spent is None else spent + event
                    case Finished(reason=FinishReason.STOP):
                        break
                    case ToolCall() | Finished() | Failed():
                        for passed in _ending(said, spent, event):
                            yield passed
                        if not isinstance(event, ToolCall):
                            return
                        said = ""
                    case _ if not (attempt and isinstance(event, Started)):
                        yield event
        fault = answer_fault(unfenced(said), form.schema)
        if fault is None:
            for passed in _ending(unfenced(said), spent, Finished(FinishReason.STOP)):
                yield passed
            return
        turn = _again(turn, said, fault)
    yield Failed(
        InvalidAnswerError(
            f"the model's answer is not what response_format asks for: {fault}; ask again"
        )
    )


def _ending(said: str, spent: Usage | None, end: Event) -> list[Event]:
    text: list[Event] = [TextDelta(said)] if said else []
    match end:
        case Failed():
            return [end]
        case Finished() if spent is not None:
            return [*text, spent, end]
        case _:
            return [*text, end]


def _again(turn: Turn, said: str, fault: str) -> Turn:
    wrong = f"That is not what was asked for: {fault}. Answer again, with the JSON alone."
    return replace(
        turn,
        messages=(
            *turn.messages,
            Message(Role.ASSISTANT, (TextPart(said),)),
            Message(Role.USER, (TextPart(wrong),)),
        ),
    )
