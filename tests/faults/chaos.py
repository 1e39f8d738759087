"""A backend whose conversations go wrong at random, and clients that ask, leave and come back.

What an answer must be is in what was asked, so that no wrong answer passes for a right one.
"""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count

import anyio
import anyio.lowlevel

from clinvk.backends import claims
from clinvk.backends.base import Health, Live, Processes, State
from clinvk.errors import BusyError, CliCrashedError, ClinvkError, OverloadedError
from clinvk.events import Event, Failed, Finished, FinishReason, Started, TextDelta, ToolCall, Usage
from clinvk.service import Service
from clinvk.stream import Stream
from clinvk.turn import Message, PriorCall, Role, TextPart, ToolSpec, Turn

TOOLS = (ToolSpec("f"),)
_CALLS = count()


class BugError(Exception):
    """What nobody expects of a backend."""


@dataclass
class Dice:
    """Chances, from one seed."""

    random: random.Random

    def likely(self, chance: float) -> bool:
        return self.random.random() < chance

    async def dally(self) -> None:
        """Let others go first, a few times or for a moment."""
        for _ in range(self.random.randrange(4)):
            await anyio.lowlevel.checkpoint()
        if self.likely(0.1):
            await anyio.sleep(self.random.random() / 200)


class Conversation(Live):
    """Says `re:` and what it was told last; some of it goes wrong."""

    def __init__(self, dice: Dice, said: str) -> None:
        self.alive = True
        self.faithful = True
        self._dice = dice
        self._left = self._play(said)

    @property
    def waits(self) -> bool:
        return self.alive and self.faithful

    def __aiter__(self) -> "Conversation":
        return self

    async def __anext__(self) -> Event:
        return await anext(self._left)

    async def go_on(self, news: tuple[Message, ...]) -> None:
        await self._dice.dally()
        if not self.alive or self._dice.likely(0.1):
            raise CliCrashedError("it died while it waited")
        self._left = self._play(" ".join(message.text for message in news))

    async def _play(self, said: str) -> AsyncIterator[Event]:
        for event in self._events(f"re:{said}"):
            await self._dice.dally()
            if self._dice.likely(0.03):
                self.alive = False
                raise self._dice.random.choice(
                    [CliCrashedError("died"), OSError(28, "no room"), BugError("oops")]
                )
            if self._dice.likely(0.01):
                await anyio.sleep_forever()
            if self._dice.likely(0.02):
                self.alive = False
                return
            if self._dice.likely(0.02):
                self.alive = False
                yield Failed(OverloadedError("try later"))
                return
            yield event
        if self._dice.likely(0.1):
            self.alive = False

    def _events(self, answer: str) -> list[Event]:
        at = self._dice.random.randrange(len(answer))
        events: list[Event] = [Started("m"), TextDelta(answer[:at]), TextDelta(answer[at:])]
        if not self._dice.likely(0.4):
            return [*events, Usage(1, 1), Finished(FinishReason.STOP)]
        idents = [f"call{next(_CALLS)}" for _ in range(self._dice.random.randint(1, 2))]
        events += [ToolCall(ident, "f", "{}") for ident in idents]
        return [*events, Usage(1, 1), Finished(FinishReason.TOOL_CALLS)]


class ChaosBackend:
    """Opens conversations that go wrong."""

    kind = "chaos"
    vendor = "tests"
    capabilities = claims.CLAUDE
    installed = True
    trouble = None
    processes = Processes()

    def __init__(self, dice: Dice, name: str = "fake") -> None:
        self.name = name
        self.running = 0
        self._dice = dice

    def check(self, turn: Turn) -> tuple[str, ...]:
        return ()

    @asynccontextmanager
    async def open(self, turn: Turn, model: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        self.running += 1
        try:
            await self._dice.dally()
            if self._dice.likely(0.05):
                raise CliCrashedError("it did not come up")
            yield Conversation(self._dice, asked_of(turn))
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await self._dice.dally()
            finally:
                self.running -= 1

    async def health(self) -> Health:
        return Health(State.READY)

    async def warm(self) -> None:
        pass

    def close(self) -> None:
        pass


def asked_of(turn: Turn) -> str:
    """What stands after the last answer."""
    ends = [at for at, message in enumerate(turn.messages) if message.role is Role.ASSISTANT]
    return " ".join(message.text for message in turn.messages[ends[-1] + 1 if ends else 0 :])


@dataclass
class Clients:
    """Those who ask; `books` counts how their requests ended, and whether another answered."""

    service: Service
    dice: Dice
    books: Counter[str] = field(default_factory=Counter)
    courses: Counter[str] = field(default_factory=Counter)
    asked: int = 0

    async def converse(self, number: int) -> None:
        """Ask, answer calls rightly or not, go on, branch off, be late, or leave."""
        turn = Turn("fake", (user(f"{number}.0"),), tools=TOOLS)
        for step in range(1, 1 + self.dice.random.randint(1, 5)):
            reply = await self.ask(turn)
            if reply is None:
                return
            if self.dice.likely(0.05):
                await anyio.sleep(0.12)  # kept for less
            turn = replace(turn, messages=(*turn.messages, reply, *self.news(reply, step, number)))
            if self.dice.likely(0.15):
                await self.ask(turn)  # the same again: one of them finds its place taken

    def news(self, reply: Message, step: int, number: int) -> list[Message]:
        results = [
            Message(Role.TOOL, (TextPart(f"{number}.{step}.{call.id}"),), call_id=call.id)
            for call in reply.calls
        ]
        self.dice.random.shuffle(results)
        if not results:
            return [user(f"{number}.{step}")]
        if self.dice.likely(0.1):
            return [*results, user("and more")]
        return results[1:] if self.dice.likely(0.1) and len(results) > 1 else results

    async def ask(self, turn: Turn) -> Message | None:
        """Run a turn; return its reply if it was whole."""
        self.asked += 1
        if self.dice.likely(0.1):
            turn = replace(turn, choices=2)
        try:
            stream = self.service.start(turn, caller=self.dice.random.choice("xy"))
        except BusyError:
            self.books["refused"] += 1
            return None
        patience = self.dice.random.randrange(8) if self.dice.likely(0.2) else None
        try:
            return await self._heard(stream, turn, patience)
        finally:
            stream.close()

    async def _heard(self, stream: Stream, turn: Turn, patience: int | None) -> Message | None:
        said: dict[int, list[Event]] = {choice: [] for choice in range(turn.choices)}
        heard = 0
        if patience == 0 and self.dice.likely(0.5):
            self.books["cancelled"] += 1
            return None
        async for choice, event in stream:
            before = said[choice]
            assert not any(isinstance(e, Finished | Failed) for e in before), "two ends"
            before.append(event)
            heard += 1
            if patience is not None and heard > patience:
                self.books["cancelled"] += 1
                return None
            await self.dice.dally()
        replies = [self._reply(turn, events) for events in said.values()]
        ways = [ask.way for ask in stream.asks if ask.way is not None]
        self.books["handed on"] += any(way.failures and None not in replies for way in ways)
        self.courses[stream.course] += 1
        self.books["answered" if None not in replies else "failed"] += 1
        return replies[0]

    def _reply(self, turn: Turn, events: list[Event]) -> Message | None:
        last = events[-1]
        if isinstance(last, Failed):
            assert isinstance(last.error, ClinvkError)
            return None
        assert isinstance(last, Finished), "no end"
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert text == f"re:{asked_of(turn)}", "a wrong answer"
        calls = tuple(PriorCall(e.id, e.name, "{}") for e in events if isinstance(e, ToolCall))
        return Message(Role.ASSISTANT, (TextPart(text),), calls)


def user(text: str) -> Message:
    return Message(Role.USER, (TextPart(text),))
