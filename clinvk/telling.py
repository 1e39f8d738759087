"""Passes a turn's events to its reader: cut at the limits, and with usage.

Owns what a reader has been told, and what it may never be told; knows no backend.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from clinvk import tokens
from clinvk.conversations import Course
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolActivity,
    ToolCall,
    Usage,
    require_end,
)
from clinvk.gate import Ticket
from clinvk.limits import LimitFilter
from clinvk.procs.supervisor import Job
from clinvk.routing import Way
from clinvk.turn import Message, PriorCall, Role, TextPart, ToolMode, Turn

_log = logging.getLogger(__name__)

Item = tuple[int, Event]


@dataclass(slots=True)
class Record:
    """What became of a turn; times in seconds of the monotonic clock, None if it never came to it.

    `first` is when the first of the answer was told: text, thinking or a call.
    """

    asked: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first: float | None = None
    ended: float | None = None
    outcome: str = "cancelled"
    usage: Usage | None = None

    def since(self, moment: float | None) -> float | None:
        """Return how long after the turn was asked for something came."""
        return None if moment is None else moment - self.asked


@dataclass(eq=False, slots=True)
class Ask:
    """One turn that somebody waits for, and where its events go.

    `backend`, `ignored` and `ticket` are of who is asked, whose full name is `answering`. Where
    that fails the next on its `way` may be, unless it has `begun`: something was told of it, or
    of those that make one reply `together` with it. `news` is what a conversation that goes on
    has not heard. `ended` is set once the turn no longer runs, and `told` once its last event has
    been passed on, too. `reply` is what the reader was told so far.
    """

    turn: Turn
    choice: int
    backend: str
    caller: str
    ticket: Ticket
    send: MemoryObjectSendStream[Item]
    course: Course
    way: Way | None = None
    answering: str = ""
    ignored: tuple[str, ...] = ()
    together: "list[Ask]" = field(default_factory=list)
    left: bool = False
    news: tuple[Message, ...] = ()
    job: Job | None = None
    record: Record = field(default_factory=Record)
    reply: Callable[[], Message] | None = None
    ended: anyio.Event = field(default_factory=anyio.Event)
    told: anyio.Event = field(default_factory=anyio.Event)

    @property
    def begun(self) -> bool:
        """Whether anything was told of this request's answers."""
        return any(each.record.first is not None for each in (self, *self.together))

    def abandon(self) -> None:
        """Stop the turn if it still runs; returns at once."""
        self.left = True
        if not self.ended.is_set() and self.job is not None:
            self.job.cancel()

    async def tell(self, event: Event) -> None:
        """Pass an event on."""
        try:
            self.send.send_nowait((self.choice, event))
        except anyio.WouldBlock:
            await self.send.send((self.choice, event))

    async def end(self, last: Event | None) -> bool:
        """The turn runs no more: pass on its last event; return whether somebody heard it."""
        self.record.ended = time.monotonic()
        self.ended.set()
        self.together = []  # nobody waits for a collector to free what was asked
        try:
            if last is not None:
                await self.tell(last)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            _log.debug("nobody was left to hear %r", last)
            return False
        finally:
            self.send.close()
            self.told.set()
        return last is not None


class Telling:
    """What the reader of one turn is told.

    Where a call is required, text is held back until there is one: a model that only talked is
    asked once more, and then what it says is the answer.
    """

    def __init__(self, ask: Ask) -> None:
        self.begun = False
        ask.reply = self.reply
        self._ask = ask
        self._limit = LimitFilter(ask.turn.limits)
        self._chars = 0
        self._reminded = False
        self._holds = ask.turn.tool_choice.mode is ToolMode.REQUIRED
        self._held: list[Event] = []
        self._spent: Usage | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []

    def reply(self) -> Message:
        """Return what the reader was told, as the message that it will send back."""
        text = "".join(self._text)
        calls = tuple(PriorCall(call.id, call.name, call.arguments) for call in self._calls)
        return Message(Role.ASSISTANT, (TextPart(text),) if text else (), calls)

    async def feed(self, event: Event) -> Finished | Failed | None:
        """Take an event of the backend; return the one that ends the turn, untold.

        Raises:
            CliProtocolError: if the answer has no end.
        """
        if isinstance(event, TextDelta | ReasoningDelta):
            self._chars += len(event.text)
            require_end(self._chars)
        for passed in self._limit.feed(event):
            if isinstance(passed, Failed):
                return passed
            if isinstance(passed, Finished):
                return await self._finish(passed)
            await self._take(passed)
        return None

    def lacks_call(self, last: Finished | Failed) -> bool:
        """Whether the model was to call a tool, did not, and is to be asked once more."""
        return self._holds and _only_talked(last)

    def reminded(self) -> Turn:
        """Return the turn that asks once more; what was said so far is forgotten."""
        said = "".join(event.text for event in self._held if isinstance(event, TextDelta))
        turn = self._ask.turn
        name = turn.tool_choice.name
        what = "one of your tools" if name is None else f"the tool {name}"
        reminder = Message(Role.USER, (TextPart(f"You did not call {what}. Call it now."),))
        answer = (Message(Role.ASSISTANT, (TextPart(said),)),) if said else ()
        self._reminded, self._holds, self._held = True, False, []
        self._limit = LimitFilter(turn.limits)
        return replace(turn, messages=(*turn.messages, *answer, reminder))

    def goes_on_as(self, last: Finished | Failed) -> Course | None:
        """Return how a conversation may go on whose reader knows all that the CLI knows."""
        if self._limit.done or self._reminded or not isinstance(last, Finished):
            return None
        return {
            FinishReason.TOOL_CALLS: Course.RESUMED,
            FinishReason.STOP: Course.CONTINUED,
        }.get(last.reason)

    async def _take(self, event: Event) -> None:
        if self._holds and isinstance(event, TextDelta):
            self._held.append(event)
            return
        if isinstance(event, ToolCall):
            await self._let_go()
        await self._tell(event)

    async def _finish(self, last: Finished) -> Finished:
        if self._holds and _only_talked(last):
            return last
        await self._let_go()
        usage = self._ask.record.usage = self._spent or await self._estimate()
        await self._ask.tell(usage)
        return last

    async def _let_go(self) -> None:
        held, self._held, self._holds = self._held, [], False
        for event in held:
            await self._tell(event)

    async def _tell(self, event: Event) -> None:
        match event:
            case Usage():
                self._spent = event if self._spent is None else self._spent + event
                return
            case Started() if self._reminded:
                return
            case TextDelta(text=text):
                self._text.append(text)
            case ToolCall():
                self._calls.append(event)
            case ReasoningDelta(text=text):
                self._reasoning.append(text)
            case _:
                pass
        self.begun = True
        if self._ask.record.first is None and not isinstance(event, Started | ToolActivity):
            self._ask.record.first = time.monotonic()
        await self._ask.tell(event)

    async def _estimate(self) -> Usage:
        """Count what the CLI did not."""
        await tokens.ready()
        reasoning = tokens.count("".join(self._reasoning))
        said = "".join((*self._text, *(call.arguments for call in self._calls)))
        return Usage(
            input_tokens=sum(tokens.count(message.text) for message in self._ask.turn.messages),
            output_tokens=tokens.count(said) + reasoning,
            reasoning_tokens=reasoning,
            estimated=True,
        )


def _only_talked(last: Finished | Failed) -> bool:
    return last == Finished(FinishReason.STOP)
