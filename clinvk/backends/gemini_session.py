"""A gemini process as its turns see it, and one conversation in it, which may go on.

Owns the course of a conversation: what is asked in its session, which calls it waits for, and
whether it may go on. What is said there is gemini_prompt's, the calls are gemini_calls', what the
model API did gemini_api's.
"""

from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from clinvk.backends import acp
from clinvk.backends.acp import AcpAgent
from clinvk.backends.base import Live
from clinvk.backends.gemini_api import (
    LOGIN_FIX,
    RESTARTED,
    GeminiParser,
    Recordings,
    classify,
    estimate_tokens,
    quota,
)
from clinvk.backends.gemini_calls import Calls
from clinvk.backends.gemini_home import MAX_ROUNDS, MAX_ROUNDS_WITH_TOOLS, Home, Login
from clinvk.backends.gemini_prompt import mark_of, result_content, said_since
from clinvk.backends.gemini_tools import outer_names
from clinvk.errors import (
    CliCrashedError,
    ClinvkError,
    NotLoggedInError,
    UnavailableError,
    UpstreamUnreachableError,
)
from clinvk.events import Event, Failed, Finished, FinishReason, Usage
from clinvk.procs.inbox import next_of
from clinvk.procs.rpc import RpcError
from clinvk.procs.supervisor import Supervisor
from clinvk.procs.tail import scrub
from clinvk.toolserver import Call, Offer
from clinvk.transcript import Block
from clinvk.turn import Message, Turn

# Above 50 000 tokens of results gemini hides the older ones from its model, and no setting of
# 0.61.0 keeps it from that.
MAX_RESULT_TOKENS = 50_000

_CALL = "clinvk/call"  # among an agent's messages: a call that came over HTTP


class GeminiServer:
    """A gemini process with its private home, as the pool and the turns see it.

    Args:
        agent: the process.
        home: its home.
        login: the login that it was started with.
        login_now: looks up the login that holds now.
    """

    def __init__(
        self, agent: AcpAgent, home: Home, login: Login, login_now: Callable[[], Login]
    ) -> None:
        self.agent = agent
        self.home = home
        self.login = login
        self.recordings = Recordings(home.responses)
        self._login_now = login_now
        self._turns = 0
        # Two session/new at once fight for a lock on a file, and the loser waits 0.1 s, then 0.2,
        # 0.4 …: the eighth came after 13 s (observed with 0.61.0). One at a time is 30 ms each.
        self._opening = anyio.Lock()

    @property
    def alive(self) -> bool:
        """Whether it can take a turn as the login that holds now."""
        return self.agent.alive and self._login_now() == self.login

    def stop_soon(self) -> None:
        """Begin to stop the process."""
        self.agent.stop_soon()

    async def open_session(self, make_folder: Callable[[], Path], model: str | None) -> str:
        """Open a session that asks `model` (None: the login's own) in a folder made for it."""
        try:
            async with self._opening:
                session = await self.agent.open_session(make_folder())
            if model is not None and model != self.login.model:
                await self.agent.request(
                    "session/set_model", {"sessionId": session, "modelId": model}
                )
        except RpcError as exc:
            raise _session_error(exc) from exc
        return session

    def begin(self) -> None:
        """Count a turn that the model is asked in."""
        self._turns += 1

    def rest(self) -> None:
        """A turn has ended; after the last one, delete what gemini has written of them."""
        self._turns -= 1
        if not self._turns:
            self.home.sweep()
            self.recordings.clear()


class Conversation(Live):
    """A session and what was asked in it; `leave` it when done."""

    def __init__(self, server: GeminiServer, supervisor: Supervisor, turn: Turn) -> None:
        self._server = server
        self._supervisor = supervisor
        self._calls = Calls(outer_names(turn), parallel=turn.parallel_calls)
        self._offer: Offer | None = None
        self._session = ""
        self._mark: str | None = None
        self._prompt = AsyncExitStack()
        self._messages: MemoryObjectReceiveStream[acp.Message] | None = None
        self._parser = GeminiParser()
        self._events: deque[Event] = deque()
        self._running = False
        self._last: Finished | Failed | None = None
        self._sound = True
        self._rounds = 0
        self._result_tokens = 0
        self._spent = Usage(0, 0)  # in the prompt that runs, for what was told

    def called(self, call: Call) -> None:
        """Take a call that gemini waits for; returns at once."""
        self._server.agent.tell(self._session, {"method": _CALL, "call": call})

    async def begin(self, session: str, blocks: tuple[Block, ...], offer: Offer | None) -> None:
        """Ask the first prompt in a session that was just opened."""
        self._session, self._offer, self._mark = session, offer, mark_of(blocks)
        await self._ask(blocks)

    async def leave(self) -> None:
        """Cancel what still runs in the session."""
        try:
            await self._prompt.aclose()
        finally:
            self._rest()

    @property
    def waits(self) -> bool:
        """See `Live.waits`."""
        return (
            isinstance(self._last, Finished)
            and self._last.reason in {FinishReason.TOOL_CALLS, FinishReason.STOP}
            and self._sound
            and not (self._calls.hidden or self._calls.dropped)
            and self._rounds < (MAX_ROUNDS if self._offer is None else MAX_ROUNDS_WITH_TOOLS)
            and self._result_tokens <= MAX_RESULT_TOKENS
            and self._server.alive
        )

    async def go_on(self, news: tuple[Message, ...]) -> None:
        """See `Live.go_on`."""
        if not self._server.agent.alive:
            raise await self._server.agent.crash()
        if self._calls.dropped:
            raise CliCrashedError("gemini has given up waiting for the results")
        if self._last == Finished(FinishReason.TOOL_CALLS):
            results = {str(message.call_id): result_content(message) for message in news}
            known = {call_id: result for call_id, result in results.items() if result is not None}
            texts = [part.get("text", "") for result in known.values() for part in result]
            self._require_sayable(texts, whole=len(known) == len(results))
            self._result_tokens += estimate_tokens(texts)
            self._start()
            self._calls.answer(known)
        else:
            blocks = said_since(news)
            texts = [block for block in blocks or () if isinstance(block, str)]
            self._require_sayable(texts, whole=blocks is not None)
            await self._ask(blocks or ())

    def _require_sayable(self, texts: list[str], *, whole: bool) -> None:
        """Refuse what a session cannot be told, but a transcript can."""
        forged = self._mark is not None and any(self._mark in text for text in texts)
        if forged or not whole:
            raise CliCrashedError("gemini has no way to say this where it is")

    async def __anext__(self) -> Event:
        while not self._events:
            if self._last is not None or self._messages is None:
                raise StopAsyncIteration
            try:
                message = await next_of(self._messages)
            except anyio.EndOfStream:
                raise await self._server.agent.crash() from None
            self._events.extend(self._take(message))
        event = self._events.popleft()
        if isinstance(event, Finished | Failed):
            self._last = event
            self._rest()
        return event

    async def _ask(self, blocks: tuple[Block, ...]) -> None:
        await self._prompt.aclose()
        prompt = self._server.agent.prompt(self._supervisor, self._session, blocks)
        self._messages = await self._prompt.enter_async_context(prompt)
        self._spent = Usage(0, 0)
        self._start()

    def _start(self) -> None:
        self._parser = GeminiParser()
        self._last = None
        self._running = True
        self._server.begin()

    def _rest(self) -> None:
        if self._running:
            self._running = False
            self._server.rest()

    def _take(self, message: acp.Message) -> list[Event]:
        if message.get("method") == _CALL:
            self._calls.hold(message["call"])
            return self._told_calls()
        if (update := _tool_update(message)) is not None:
            if update.get("sessionUpdate") == "tool_call":
                self._calls.show(str(update.get("toolCallId")))
            elif update.get("status") == "failed":
                self._calls.hidden = True
            return self._told_calls()
        if "result" in message:
            self._end(message["result"])
        elif "error" in message and message["error"]["code"] == 500:
            home = self._server.home
            self._parser.error_class = home.error_class(message["error"]["message"])
        events = self._parser.feed(message)
        if events and self._calls.owed:
            raise CliCrashedError("gemini went on without the result of a call")
        if events and self._offer is not None and not self._offer.listed:
            raise UnavailableError(
                "gemini did not ask for the tools: its system settings may forbid MCP servers"
            )
        return events

    def _told_calls(self) -> list[Event]:
        """Return the calls of the model's response, once gemini waits for the first."""
        if (shown := self._calls.shown) is None:
            return []
        record = self._server.recordings.claim_calls(shown)
        self._rounds += 1
        usage: list[Event] = []
        if record is not None:
            if not self._is_whole(record.text):
                return [Failed(UpstreamUnreachableError(RESTARTED))]
            self._spent += record.spent
            usage = [record.spent]
        calls = self._calls.tell(record)
        return [*self._parser.begin(), *calls, *usage, Finished(FinishReason.TOOL_CALLS)]

    def _is_whole(self, last: str) -> bool:
        """Whether all that was shown stands, of which `last` came with the calls.

        Before it there may be what came with a call of something that the model was not given.
        """
        if self._parser.text == last:
            return True
        self._sound = False
        return self._parser.text.endswith(last) and self._server.home.attempts == 1

    def _end(self, result: dict[str, Any]) -> None:
        """Tell the parser what the prompt's end does not say."""
        parser = self._parser
        parser.counts_alone = not self._spent.input_tokens and not self._calls.owed
        parser.record = record = self._server.recordings.claim(parser.text)
        self._rounds += 1
        if record is None:
            self._sound = False
            return
        total, told = quota(result), self._spent + record.spent
        if total is not None and total.input_tokens > told.input_tokens:
            # The model was asked in between, after a call of what it was not given.
            self._sound = False
            parser.activity = True


def _tool_update(message: acp.Message) -> dict[str, Any] | None:
    params = message.get("params")
    update = params.get("update") if isinstance(params, dict) else None
    if not isinstance(update, dict):
        return None
    return update if str(update.get("sessionUpdate")).startswith("tool_call") else None


def _session_error(exc: RpcError) -> ClinvkError:
    if exc.code != -32000:
        return classify(exc.code, exc.message)
    network = classify(500, exc.message)
    if isinstance(network, UpstreamUnreachableError):
        return network
    return NotLoggedInError(f"gemini is not logged in: {scrub(exc.message)} {LOGIN_FIX}")
