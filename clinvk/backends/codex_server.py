"""A running `codex app-server`: its handshake, its threads, and how it ends.

Owns the process and the routing of notifications to threads; knows not what a turn is.
"""

import contextlib
import logging
import math
import re
import signal
from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio

from clinvk import __version__
from clinvk.backends.codex_catalog import Catalog
from clinvk.backends.codex_home import Home
from clinvk.backends.codex_stderr import CodexStderr
from clinvk.errors import CliCrashedError, CliProtocolError
from clinvk.procs import process
from clinvk.procs.process import Command, Process, ProcessStartError
from clinvk.procs.rpc import METHOD_NOT_FOUND, RpcClosedError, RpcError, RpcPeer
from clinvk.procs.supervisor import Supervisor
from clinvk.procs.tail import scrub

START_S = 20.0
LEAVE_S = 2.0  # codex that is well confirms within milliseconds
END_S = 5.0  # from the end of its output to that of the process, and its exit code

TOOL_CALL = "item/tool/call"
INTERNAL_ERROR = -32603

_log = logging.getLogger(__name__)

Message = dict[str, Any]


class Thread:
    """One conversation on the server, with an inbox of its own so that none holds up another."""

    def __init__(self, ident: str, model: str) -> None:
        self.id = ident
        self.model = model
        self.turn_id: str | None = None
        self._send, self.inbox = anyio.create_memory_object_stream[Message](math.inf)
        self._results: dict[str, list[Message]] = {}
        self._told = anyio.Event()

    def push(self, message: Message) -> None:
        """Put a notification into the inbox."""
        with contextlib.suppress(anyio.BrokenResourceError):
            self._send.send_nowait(message)

    def end(self) -> None:
        """Nothing more will come into the inbox."""
        self._send.close()

    def tell(self, results: Mapping[str, list[Message]]) -> None:
        """Give the results of calls by their ids; codex may already wait for one, or ask later."""
        self._results.update(results)
        told, self._told = self._told, anyio.Event()
        told.set()

    async def result(self, call_id: str) -> list[Message]:
        """Wait until the result of a call is told."""
        while call_id not in self._results:
            await self._told.wait()
        return self._results.pop(call_id)


class AppServer:
    """One process and the threads on it."""

    def __init__(
        self,
        child: Process,
        stderr: CodexStderr,
        home: Home,
        catalog: Catalog,
        supervisor: Supervisor,
    ) -> None:
        self.home = home
        self.catalog = catalog
        self.stderr = stderr
        self.version: str | None = None
        self._process = child
        self._supervisor = supervisor
        self._threads: dict[str, Thread] = {}
        self._stopping = False
        self._stuck = False
        self._leaves: set[anyio.Event] = set()
        self._ended = anyio.Event()
        self._peer = RpcPeer(
            child, version=None, on_notification=self._route, on_request=self._asked
        )

    @property
    def alive(self) -> bool:
        """Whether it takes another thread: it runs, and on the login that is the user's now."""
        unfit = self._stopping or self._stuck or self._peer.closed
        return not unfit and self.home.current

    def give_up(self) -> None:
        """Have it take no more threads: it does not answer. What still runs on it may end."""
        _log.warning("pid %d does not answer and gets no more turns", self._process.pid)
        self._stuck = True

    async def settled(self) -> None:
        """Wait until the threads that were left are gone, or the server is known to be stuck."""
        for left in list(self._leaves):
            await left.wait()

    def stop_soon(self) -> None:
        """Begin to stop it; returns at once."""
        self._stopping = True
        self._process.stop_soon()

    async def serve(self) -> None:
        """Route what it says until it ends; then tell every thread, and clean up after it."""
        try:
            await self._peer.serve()
        finally:
            self.stop_soon()
            with anyio.CancelScope(shield=True):
                await self._process.stopped()
            self._ended.set()
            for thread in self._threads.values():
                thread.end()
            self.home.remove()

    async def request(self, method: str, params: Message) -> Message:
        """Ask the server.

        Raises:
            CliCrashedError: if it ends before it answers.
            RpcError: if it answers with an error.
        """
        try:
            result = await self._peer.request(method, params)
        except RpcClosedError:
            raise await self.ended() from None
        return result if isinstance(result, dict) else {}

    async def greet(self) -> None:
        """Shake hands.

        Raises:
            CliCrashedError: if it ends, or does not answer in time.
            CliProtocolError: if it will not.
        """
        client = {"name": "clinvk", "title": "clinvk", "version": __version__}
        try:
            with anyio.fail_after(START_S):
                hello = await self.request(
                    "initialize",
                    {"clientInfo": client, "capabilities": {"experimentalApi": True}},
                )
                await self._peer.notify("initialized")
        except TimeoutError:
            raise CliCrashedError(
                f"codex did not answer within {START_S:g} s of its start"
            ) from None
        except RpcError as exc:
            raise CliProtocolError(f"codex refused the handshake: {scrub(exc.message)}") from exc
        except RpcClosedError:
            raise await self.ended() from None
        found = re.search(r"/(\d+\.\d+\.\d+[\w.+-]*)", str(hello.get("userAgent", "")))
        self.version = found[1] if found else None

    def join(self, thread_id: str, model: str) -> Thread:
        """Open the inbox of a thread."""
        thread = self._threads[thread_id] = Thread(thread_id, model)
        self.stderr.expect(thread_id)
        return thread

    def leave(self, thread: Thread, *, done: bool) -> None:
        """Close a thread's inbox; the server drops the thread, and its turn, behind the scenes."""
        self._threads.pop(thread.id, None)
        thread.end()
        thread.inbox.close()
        self.stderr.forget(thread.id)
        if not self._ended.is_set():
            with contextlib.suppress(RuntimeError):  # the supervisor is leaving, and stops it all
                gone = anyio.Event()
                self._supervisor.start(partial(self._let_go, thread, gone, done=done))
                self._leaves.add(gone)

    async def ended(self) -> CliCrashedError:
        """Return the error of a server that is no more."""
        with anyio.move_on_after(END_S):
            await self._ended.wait()
        said = self._process.stderr_tail
        return CliCrashedError(
            f"codex app-server {_exit(self._process.returncode)}; ask again"
            + (f". It said: {said}" if said else "")
        )

    def _route(self, method: str, params: Message) -> None:
        thread = self._threads.get(str(params.get("threadId")))
        if thread is None:
            _log.debug("codex said %s", method)
            return
        thread.push({"method": method, "params": params})

    async def _asked(self, number: int | str, method: str, params: Message) -> None:
        """Hold a call of the caller's tool until its result is told; refuse all else.

        Codex sets no time for it. If none is told, the turn is interrupted, and the call with it.
        """
        thread = self._threads.get(str(params.get("threadId")))
        if method != TOOL_CALL:  # approvals, questions, logins
            await self._peer.refuse(number, METHOD_NOT_FOUND, f"{method!r} is not known here")
        elif thread is not None:
            await self._hold(number, thread, str(params.get("callId")))

    async def _hold(self, number: int | str, thread: Thread, call_id: str) -> None:
        """Answer a call once its result is told.

        But refuse it if its response breaks off: of that codex tells no end before.
        """
        content: list[Message] | None = None
        broken = False

        async def watch() -> None:
            nonlocal broken
            broken = await self.stderr.broke_off(thread.id)
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            content = await thread.result(call_id)
            group.cancel_scope.cancel()
        if content is not None:
            await self._peer.reply(number, {"contentItems": content, "success": True})
        elif broken:
            await self._peer.refuse(number, INTERNAL_ERROR, "the response broke off")

    async def _let_go(self, thread: Thread, gone: anyio.Event, *, done: bool) -> None:
        try:
            with anyio.move_on_after(LEAVE_S) as late:
                if not done:
                    turn = {"threadId": thread.id, "turnId": thread.turn_id or ""}
                    await self._quietly("turn/interrupt", turn)
                await self._quietly("thread/unsubscribe", {"threadId": thread.id})
            if late.cancelled_caught:
                self.give_up()
        finally:
            self._leaves.discard(gone)
            gone.set()

    async def _quietly(self, method: str, params: Message) -> None:
        try:
            await self._peer.request(method, params)
        except (RpcError, RpcClosedError) as exc:
            _log.debug("codex did not take %s: %s", method, exc)


async def launch(
    supervisor: Supervisor, command: Command, home: Home, catalog: Catalog
) -> AppServer:
    """Start an app-server and wait until it answers; its home is removed when it ends.

    Raises:
        CliCrashedError: if it does not come up.
        CliProtocolError: if it speaks something else.
    """
    stderr = CodexStderr()
    try:
        child = await process.start(supervisor, command, tail=stderr)
    except BaseException as exc:
        home.remove()
        if isinstance(exc, ProcessStartError):
            raise CliCrashedError(f"codex could not be started: {exc}") from exc
        raise
    server = AppServer(child, stderr, home, catalog, supervisor)
    supervisor.start(server.serve)
    try:
        await server.greet()
    except BaseException:
        server.stop_soon()
        raise
    return server


def _exit(code: int | None) -> str:
    if code is None:
        return "closed its output"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
