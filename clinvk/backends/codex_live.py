"""A conversation on a thread of an app-server, turn after turn.

After its model's calls codex holds the turn open until each is answered (for 25 minutes, in a
test); after a turn's end the thread remembers it, until it is left. So what goes on is told only
what is new. Its model then hears what a new thread would tell it of the whole, and what only the
old one has: its reasoning items, and the ids, `status` and `annotations` of what it said itself
(observed with codex 0.169.0).
"""

from collections import deque

from anyio import EndOfStream, WouldBlock

from clinvk.backends.base import Live
from clinvk.backends.caller_tools import offered
from clinvk.backends.codex_calls import Calls
from clinvk.backends.codex_events import TurnParser
from clinvk.backends.codex_items import result_content
from clinvk.backends.codex_server import AppServer, Thread
from clinvk.backends.codex_tools import demand, inner_name
from clinvk.backends.codex_turns import begin_next
from clinvk.errors import RateLimitedError
from clinvk.events import Event, Failed
from clinvk.procs.inbox import next_of
from clinvk.schema import AnswerCheck
from clinvk.turn import Message, Role, Turn


class Conversation(Live):
    """The events of a thread whose first turn has begun; `leave` it when done.

    `retries` is how often codex may try its model API again in one turn.
    """

    def __init__(self, server: AppServer, thread: Thread, turn: Turn, *, retries: int) -> None:
        names = {inner_name(tool.name) for tool in offered(turn)}
        calls = Calls(names, parallel=turn.parallel_calls)
        self._server = server
        self._thread = thread
        self._turn = turn
        self._parser = TurnParser(thread.model, retries=retries, calls=calls)
        self._check = AnswerCheck(turn.format) if turn.format is not None else None
        self._events: deque[Event] = deque()
        # A demand stands after all that was said, where nothing can be put while a turn runs.
        self._repeatable = demand(turn.tool_choice) is None

    @property
    def waits(self) -> bool:
        """Whether codex waits for what is next, and remembers nothing but what was told."""
        if not self._repeatable or self._events or not self._parser.done:
            return False
        try:
            while True:
                self._parser.feed(self._thread.inbox.receive_nowait())
        except WouldBlock:
            return self._server.alive and self._parser.waits
        except EndOfStream:
            return False

    async def go_on(self, news: tuple[Message, ...]) -> None:
        """Answer the calls that codex holds, or begin the next turn on the thread."""
        self._parser.go_on()
        self._check = AnswerCheck(self._turn.format) if self._turn.format is not None else None
        self._server.stderr.expect(self._thread.id)
        results = {str(m.call_id): result_content(m) for m in news if m.role is Role.TOOL}
        if results:
            self._thread.tell(results)
        else:
            await begin_next(self._server, self._thread, self._turn, news)

    async def __anext__(self) -> Event:
        while not self._events:
            if self._parser.done:
                raise StopAsyncIteration
            try:
                message = await next_of(self._thread.inbox)
            except EndOfStream:
                raise await self._server.ended() from None
            self._events.extend(self._parser.feed(message))
        event = self._events.popleft()
        if isinstance(event, Failed) and isinstance(event.error, RateLimitedError):
            event.error.retry_after_s = (
                event.error.retry_after_s
                or await self._server.stderr.retry_after_s(self._thread.id)
            )
        return event if self._check is None else self._check.feed(event)

    def leave(self) -> None:
        """Drop the thread, and interrupt its turn if one runs; returns at once."""
        self._server.leave(self._thread, done=self._parser.ended)
