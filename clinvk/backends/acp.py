"""The Agent Client Protocol, version 1, whatever agent speaks it: one process, many sessions.

Owns the handshake, sessions and prompts; knows no agent by name, and not what updates mean. No
file access is offered, and every permission the agent asks for is refused but what a session's
entry in `permits` allows.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from clinvk import __version__
from clinvk.errors import CliCrashedError, CliProtocolError
from clinvk.media import PDF_TYPE, read_audio, read_document, read_image
from clinvk.procs.process import Process
from clinvk.procs.rpc import METHOD_NOT_FOUND, RpcClosedError, RpcError, RpcPeer
from clinvk.procs.supervisor import Supervisor
from clinvk.procs.tail import scrub
from clinvk.transcript import Block
from clinvk.turn import AudioPart, FilePart, ImagePart

PROTOCOL_VERSION = 1
START_S = 60.0
OPEN_S = 30.0  # a session of a CLI that is well is there in 0.03 s
CLOSE_S = 1.0  # what an agent does at the end of a session is its own
CANCEL_S = 2.0  # an agent that is well confirms within milliseconds
NOISE_CHARS = 2000
EXIT_S = 2.0  # from the end of stdout to the exit code

REFUSED = "clinvk/refused"  # among a session's messages: a permission that was not given

_log = logging.getLogger(__name__)

Message = dict[str, Any]


def content(block: Block) -> Message:
    """Return a block of a prompt as the protocol's content block; its media must be checked."""
    match block:
        case str(text):
            return {"type": "text", "text": text}
        case ImagePart():
            image = read_image(block, "")
            return {"type": "image", "mimeType": image.media_type, "data": image.data}
        case AudioPart():
            media_type, data = read_audio(block, "")
            return {"type": "audio", "mimeType": media_type, "data": data}
        case FilePart():
            # An embedded resource would lose its place, and its name would stand in the text.
            document = read_document(block, "")
            return {"type": "image", "mimeType": PDF_TYPE, "data": document.data}


class AcpAgent:
    """A running agent process."""

    def __init__(
        self,
        supervisor: Supervisor,
        process: Process,
        *,
        on_noise: Callable[[bytes], None] | None,
        patience_s: float | None,
    ) -> None:
        self.process = process
        self._supervisor = supervisor
        self._patience_s = patience_s
        self.info: Message = {}
        self._peer = RpcPeer(
            process,
            version="2.0",
            on_notification=self._route,
            on_request=self._refuse,
            on_noise=on_noise or self._hear,
        )
        self._sessions: dict[str, MemoryObjectSendStream[Message]] = {}
        self._stuck = False
        self._noise = b""
        self.permits: dict[str, Callable[[Message], bool]] = {}

    @classmethod
    async def greet(
        cls,
        supervisor: Supervisor,
        process: Process,
        *,
        on_noise: Callable[[bytes], None] | None = None,
        patience_s: float | None = None,
        method: str | None = None,
    ) -> Self:
        """Shake hands with a process that was just started; `on_noise` gets what is not JSON.

        `patience_s` is how long its start, or the opening of a session, may take. `method` is
        one of its ways to log in, which is asked for before any session.

        Raises:
            CliCrashedError: if it ends before it answers.
            CliProtocolError: if it answers by an error or not at all, or speaks a newer protocol.
            RpcError: if it refuses the login.
        """
        agent = cls(supervisor, process, on_noise=on_noise, patience_s=patience_s)
        supervisor.start(agent._peer.serve)
        try:
            await agent._shake_hands()
            if method is not None:
                await agent.opening("authenticate", {"methodId": method})
        except BaseException:
            process.stop_soon()
            raise
        return agent

    @property
    def alive(self) -> bool:
        """Whether it can take another session."""
        return not (self._stuck or self._peer.closed or self.process.returncode is not None)

    def stop_soon(self) -> None:
        """Begin to stop the process; returns at once."""
        self.process.stop_soon()

    async def request(self, method: str, params: Message) -> Message:
        """Send a request and return its result.

        Raises:
            RpcError: if the agent answers by an error.
            CliCrashedError: if it is gone.
        """
        try:
            result = await self._peer.request(method, params)
        except RpcClosedError:
            raise await self.crash() from None
        return result if isinstance(result, dict) else {}

    async def open_session(self, cwd: Path) -> str:
        """Open a session in a folder and return its id; see `new_session`."""
        return str((await self.new_session(cwd))["sessionId"])

    async def new_session(self, cwd: Path, servers: Sequence[Message] = ()) -> Message:
        """Open a session in a folder, with MCP servers, and return what the agent says of it.

        Raises:
            RpcError: if the agent refuses, for instance because nobody is logged in.
            CliCrashedError: if it is gone.
            CliProtocolError: if it names no session, or does not answer.
        """
        result = await self.opening("session/new", {"cwd": str(cwd), "mcpServers": list(servers)})
        if not isinstance(result.get("sessionId"), str):
            raise CliProtocolError("the agent opened a session without an id")
        return result

    async def opening(self, method: str, params: Message) -> Message:
        """Send a request on the way to an open session, which an agent that is well answers soon.

        Raises:
            RpcError: if the agent answers by an error.
            CliCrashedError: if it is gone.
            CliProtocolError: if it does not answer; it then gets no more turns.
        """
        if self._stuck:
            raise CliProtocolError("the CLI does not answer; ask again, and it is started anew")
        outcome: list[Message | Exception] = []
        done = anyio.Event()

        async def ask() -> None:
            limit_s = self._patience_s or OPEN_S
            try:
                with anyio.fail_after(limit_s):
                    outcome.append(await self.request(method, params))
            except TimeoutError:
                self._stuck = True
                outcome.append(
                    CliProtocolError(
                        f"the CLI did not open a session within {limit_s:g} s; "
                        "the next turn starts it anew"
                    )
                )
            except (RpcError, CliCrashedError) as exc:
                outcome.append(exc)
            finally:
                done.set()

        # Who leaves meanwhile must not keep it from being known that the CLI is stuck.
        self._supervisor.start(ask)
        await done.wait()
        if not outcome:
            raise CliCrashedError("the CLI was stopped before it opened a session")
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    @asynccontextmanager
    async def prompt(
        self,
        supervisor: Supervisor,
        session: str,
        prompt: tuple[Block, ...],
        *,
        say: Callable[[Block], Message] = content,
    ) -> AsyncIterator[MemoryObjectReceiveStream[Message]]:
        """Ask in a session; yields its messages, the reply last. Leaving cancels the turn.

        The stream ends without a reply if the agent goes.

        Args:
            supervisor: holds what runs beside the reader.
            session: where to ask.
            prompt: what to ask.
            say: gives the protocol's content block of a block.
        """
        send, receive = anyio.create_memory_object_stream[Message](float("inf"))
        self._sessions[session] = send
        answered = anyio.Event()
        left = False

        def tell(message: Message) -> None:
            # The reader may have left.
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                send.send_nowait(message)

        async def ask() -> None:
            if left:  # before this job's first step: a prompt now would come after its cancel
                answered.set()
                return
            blocks = [say(block) for block in prompt]
            try:
                result = await self._peer.request(
                    "session/prompt", {"sessionId": session, "prompt": blocks}
                )
                tell({"result": result if isinstance(result, dict) else {}})
            except RpcError as exc:
                tell({"error": {"code": exc.code, "message": exc.message, "data": exc.data}})
            except RpcClosedError:
                pass
            finally:
                answered.set()
                send.close()

        job = supervisor.start(ask)
        try:
            with receive:
                yield receive
        finally:
            left = True
            self._sessions.pop(session, None)
            if not answered.is_set():
                await self._cancel(session, answered)
            job.cancel()
            send.close()  # the job may never have run

    def tell(self, session: str, message: Message) -> None:
        """Put a message of another source among those of a session's prompt, if it has one."""
        stream = self._sessions.get(session)
        if stream is None:
            _log.debug("pid %d: a message for no turn", self.process.pid)
            return
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            stream.send_nowait(message)

    async def crash(self) -> CliCrashedError:
        """Return the error that tells how the process ended."""
        with anyio.move_on_after(EXIT_S):
            await self.process.exited()
        code = self.process.returncode
        how = "closed its output" if code is None else f"ended with exit code {code}"
        return CliCrashedError(f"the CLI {how} before the turn did{self._last_words()}")

    async def close_session(self, session: str) -> None:
        """Have the agent forget a session and what it keeps of it, as far as it can."""
        told = self.info.get("agentCapabilities")
        can = told.get("sessionCapabilities") if isinstance(told, dict) else None
        for what in ("close", "delete"):
            if isinstance(can, dict) and isinstance(can.get(what), dict) and self.alive:
                with suppress(RpcError, CliCrashedError):
                    with anyio.move_on_after(CLOSE_S, shield=True):
                        await self.request(f"session/{what}", {"sessionId": session})

    def _last_words(self) -> str:
        """What it said on stderr, or else on stdout where only messages belong."""
        tail = self.process.stderr_tail or scrub(self._noise.decode("utf-8", "replace"))
        return f"; its last words: {tail[-NOISE_CHARS:]}" if tail.strip() else ""

    def _hear(self, line: bytes) -> None:
        self._noise = (self._noise + line + b"\n")[-NOISE_CHARS:]

    async def _cancel(self, session: str, answered: anyio.Event) -> None:
        with anyio.move_on_after(CANCEL_S, shield=True):
            with suppress(RpcClosedError):
                await self._peer.notify("session/cancel", {"sessionId": session})
            await answered.wait()
        if not answered.is_set():
            _log.warning("pid %d ignored a cancel and gets no more turns", self.process.pid)
            self._stuck = True

    async def _shake_hands(self) -> None:
        limit_s = self._patience_s or START_S
        try:
            with anyio.fail_after(limit_s):
                self.info = await self.request(
                    "initialize",
                    {
                        "protocolVersion": PROTOCOL_VERSION,
                        "clientInfo": {"name": "clinvk", "title": "clinvk", "version": __version__},
                        "clientCapabilities": {
                            "fs": {"readTextFile": False, "writeTextFile": False},
                            "terminal": False,
                        },
                    },
                )
        except TimeoutError:
            raise CliProtocolError(
                f"the CLI did not answer within {limit_s:g} s of its start{self._last_words()}"
            ) from None
        except RpcError as exc:
            raise CliProtocolError(f"the CLI refused to start: {scrub(exc.message)}") from exc
        spoken = self.info.get("protocolVersion")
        if isinstance(spoken, int) and spoken > PROTOCOL_VERSION:
            raise CliProtocolError(
                f"the agent speaks version {spoken} of its protocol only, and clinvk version "
                f"{PROTOCOL_VERSION}; install a version of the agent that speaks it"
            )

    def _route(self, method: str, params: Message) -> None:
        self.tell(str(params.get("sessionId")), {"method": method, "params": params})

    async def _refuse(self, number: int | str, method: str, params: Message) -> None:
        with suppress(RpcClosedError):
            if method == "session/request_permission":
                outcome, allowed = self._decide(params)
                if not allowed:
                    self._route(REFUSED, params)
                await self._peer.reply(number, {"outcome": outcome})
            else:
                await self._peer.refuse(number, METHOD_NOT_FOUND, f"{method!r} is not offered")

    def _decide(self, params: Message) -> tuple[Message, bool]:
        permit, call = self.permits.get(str(params.get("sessionId"))), params.get("toolCall")
        allowed = permit is not None and isinstance(call, dict) and permit(call)
        # Rejecting this once, if that is offered: `cancelled` would end the turn.
        wanted = "allow_once" if allowed else "reject_once"
        options = params.get("options")
        for option in options if isinstance(options, list) else []:
            if isinstance(option, dict) and option.get("kind") == wanted:
                return {"outcome": "selected", "optionId": option.get("optionId")}, allowed
        return {"outcome": "cancelled"}, False
