"""A conversation with one Claude Code process, turn after turn.

Owns when its process may be asked again, and when it must go; the pipe is claude_session's, the
meaning of the lines claude_events'.
"""

from collections import deque
from collections.abc import Callable

from clinvk.backends import claude_input
from clinvk.backends.base import Live
from clinvk.backends.claude_events import ClaudeParser
from clinvk.backends.claude_input import Script
from clinvk.backends.claude_session import ClaudeSession
from clinvk.errors import CliCrashedError, CliProtocolError
from clinvk.events import Event, Started
from clinvk.turn import Message, Role


class ClaudeConversation(Live):
    """The events of a conversation; its process begins to stop as soon as it cannot go on.

    Args:
        session: set up for the conversation.
        script: what to ask.
        retries: how often the CLI may ask its model API again.
        on_begun: called when the model API has accepted the first turn.
    """

    def __init__(
        self, session: ClaudeSession, script: Script, retries: int, on_begun: Callable[[], None]
    ) -> None:
        self._session = session
        self._script: Script | None = script
        self._offer = script.offer
        self._retries = retries
        self._on_begun: Callable[[], None] | None = on_begun
        self._parser = ClaudeParser(retries, script.offer)
        self._ready: deque[Event] = deque()

    @property
    def waits(self) -> bool:
        """Whether it can go on; see `Live.waits`."""
        return self._parser.may_go_on and self._session.alive

    async def __anext__(self) -> Event:
        if self._script is not None:
            script, self._script = self._script, None
            await self._session.ask(script)
        while not self._ready and not self._parser.ended:
            self._ready.extend(self._parser.feed(await self._session.next()))
            self._let_go()
            if self._on_begun is not None and self._ready and isinstance(self._ready[0], Started):
                self._on_begun()
                self._on_begun = None
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()

    async def go_on(self, news: tuple[Message, ...]) -> None:
        """Begin the next turn; see `Live.go_on`."""
        self._parser = ClaudeParser(self._retries, self._offer, follows=True)
        if news[0].role is Role.TOOL:
            results = claude_input.results(news)
            if results is None:
                raise CliCrashedError("claude would not pass on these results as they are")
            await self._session.answer(results)
            return
        try:
            await self._session.ask_more(claude_input.question(news))
        except CliProtocolError as exc:
            # Nothing was asked yet, and a new process knows nothing of this.
            raise CliCrashedError(str(exc)) from exc

    async def leave(self) -> None:
        """Begin to stop the process; waits for nothing."""
        self._session.leave(busy=not self._parser.may_linger)
        await self._session.close()

    def _let_go(self) -> None:
        if self._parser.ended and not self._parser.may_go_on:
            self._session.leave(busy=not self._parser.may_linger)
