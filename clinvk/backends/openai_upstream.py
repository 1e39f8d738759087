"""A server with OpenAI's API as a backend: turns by its chat completions, requests as they are.

Owns neither bodies (`openai_request`, `openai_events`) nor connections (`openai_http`).
"""

import json
import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from clinvk.backends import claims
from clinvk.backends.base import Health, Passed, PassedReply, Processes, Relay, State
from clinvk.backends.openai_events import ChatEvents
from clinvk.backends.openai_http import BASE_URL_FIX, Upstream, error_of, plain, reply_headers
from clinvk.backends.openai_request import chat_body
from clinvk.config import OpenAIConfig
from clinvk.errors import (
    ClinvkError,
    CliProtocolError,
    ModelNotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UpstreamError,
)
from clinvk.events import Event
from clinvk.procs.lines import LineFramer, LineTooLongError
from clinvk.procs.supervisor import Supervisor
from clinvk.schema import AnswerCheck
from clinvk.turn import Turn

MODELS_S = 60.0  # how long a list of models is good
MODELS_AGAIN_S = 5.0  # after a look that failed
MODELS_WAIT_S = 5.0
LINE_BYTES = 64 * 1024 * 1024
_SHOWN = 20  # models in an error

_log = logging.getLogger(__name__)


class OpenAIBackend(Relay):
    """Asks an OpenAI-compatible server."""

    kind = "openai"
    installed = True
    trouble = None
    processes = Processes()

    def __init__(self, name: str, config: OpenAIConfig, supervisor: Supervisor) -> None:
        self.name = self.vendor = name
        self.config = config
        self.capabilities = claims.of_upstream(config.endpoints)
        self._upstream = Upstream(name, config, supervisor)
        self._models: tuple[str, ...] = ()
        self._look_at = 0.0
        self._looking = anyio.Lock()

    def check(self, turn: Turn) -> tuple[str, ...]:
        """Take everything."""
        del turn
        return ()

    @asynccontextmanager
    async def open(self, turn: Turn, model: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        """Ask for a stream, and give its events."""
        body = json.dumps(chat_body(turn, self.require_model(model))).encode()
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        sent = self._upstream.headers(headers, None)
        async with AsyncExitStack() as stack:
            events = self._events(stack, sent, body)
            yield events if turn.format is None else _checked(events, AnswerCheck(turn.format))

    async def _events(
        self, stack: AsyncExitStack, headers: dict[str, str], body: bytes
    ) -> AsyncIterator[Event]:
        upstream = self._upstream
        response = await stack.enter_async_context(
            upstream.send("POST", "chat/completions", headers, body)
        )
        if response.status != 200:
            raise error_of(response, await upstream.small_body(response))
        if response.content_type == "text/html":  # a page, where an API was looked for
            raise UpstreamError(f"backend {self.name!r} answered with a web page; {BASE_URL_FIX}")
        events = ChatEvents()
        async for data in _data(plain(response, upstream.pieces(response))):
            for event in events.feed(data):
                yield event
            if events.done:
                break
        for event in events.end():
            yield event

    @property
    def endpoints(self) -> Collection[str]:
        """Those of the configuration."""
        return self.config.endpoints

    @property
    def models(self) -> Sequence[str]:
        """Those of the configuration, else those that the server listed last."""
        return self.config.models or self._models

    def require_model(self, model: str | None) -> str:
        """Return the model, the configured one, or the only one that there is."""
        model = model or self.config.model
        if model is None and len(self.models) == 1:
            model = self.models[0]
        if model is None:
            known = ", ".join(f"{self.name}/{each}" for each in self.models[:_SHOWN])
            raise ModelNotFoundError(
                f"{self.name!r} has no default model (model in backends.yaml); "
                f"ask for one: {known or f'{self.name}/MODEL'}",
                param="model",
            )
        return model

    async def refresh(self) -> None:
        """Ask the server for its models unless that was done lately; what fails is logged."""
        if self.config.models or time.monotonic() < self._look_at:
            return
        async with self._looking:
            if time.monotonic() < self._look_at:
                return
            with anyio.move_on_after(MODELS_WAIT_S):
                try:
                    await self._look()
                except ClinvkError as exc:
                    _log.warning("the models of backend %s are not known: %s", self.name, exc)

    async def _look(self) -> None:
        self._look_at = time.monotonic() + MODELS_AGAIN_S
        self._models = tuple(dict.fromkeys(await self._upstream.models()))
        self._look_at = time.monotonic() + MODELS_S

    @asynccontextmanager
    async def send(self, request: Passed) -> AsyncIterator[PassedReply]:
        """Pass a request on to the endpoint of the same name."""
        upstream = self._upstream
        headers = upstream.headers(request.headers, request.key)
        async with upstream.send("POST", request.endpoint, headers, request.body) as response:
            yield PassedReply(
                response.status, tuple(reply_headers(response)), upstream.pieces(response)
            )

    async def health(self) -> Health:
        """Ask for the list of models."""
        try:
            await self._look()
        except ModelNotFoundError:  # it has no such list, but it is there
            return Health(State.READY)
        except (UnavailableError, PermissionDeniedError) as exc:
            fix = f"set api_key of backend {self.name!r} in backends.yaml"
            return Health(State.NOT_LOGGED_IN, reason=exc.message, fix=fix)
        except ClinvkError as exc:
            fix = f"start the server that base_url of backend {self.name!r} names"
            return Health(State.FAILING, reason=exc.message, fix=fix)
        return Health(State.READY)

    async def warm(self) -> None:
        """Learn the models."""
        await self.refresh()

    def close(self) -> None:
        """Begin to close the connections."""
        self._upstream.close()


async def _checked(events: AsyncIterator[Event], check: AnswerCheck) -> AsyncIterator[Event]:
    """Yield the events of an answer that must be JSON: many servers only try, or do not know."""
    async for event in events:
        yield check.feed(event)


async def _data(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the data of server-sent events; a body that is none is yielded whole."""
    framer = LineFramer(LINE_BYTES)
    plain = bytearray()
    try:
        async for piece in pieces:
            for line in framer.push(piece):
                if line.startswith(b"data:"):
                    yield line[5:].strip().decode("utf-8", "replace")
                elif line.lstrip()[:1] in (b"{", b"}") or plain:
                    plain += line + b"\n"
                    if len(plain) > LINE_BYTES:
                        raise CliProtocolError(
                            f"the upstream sent a body of more than {LINE_BYTES} bytes"
                        )
        rest = framer.flush()
    except LineTooLongError as exc:
        raise CliProtocolError(f"the upstream sent {exc}") from exc
    if rest.startswith(b"data:"):
        yield rest[5:].strip().decode("utf-8", "replace")
    elif plain or rest.strip():
        yield bytes(plain + rest).decode("utf-8", "replace")
