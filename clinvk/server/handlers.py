"""One handler for every dialect, the models and the health; owns no process."""

import contextlib
import functools
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from itertools import chain
from typing import Any

import anyio
from aiohttp import web

from clinvk import __version__
from clinvk.backends.base import Relay, State
from clinvk.errors import ClinvkError, ModelNotFoundError
from clinvk.events import Failed
from clinvk.registry import ModelRow
from clinvk.routing import Way
from clinvk.server.access import ASKS, tried_before
from clinvk.server.attachments import with_files
from clinvk.server.auth import caller_of
from clinvk.server.middleware import request_id
from clinvk.service import Service
from clinvk.stream import Stream
from clinvk.wire import sse
from clinvk.wire.base import Dialect, Frame, Parsed
from clinvk.wire.openai_models import list_body, model_body

SERVICE = web.AppKey("clinvk.service", Service)
KEEPALIVE_S = web.AppKey("clinvk.keepalive_s", float)
SEND_S = web.AppKey("clinvk.send_s", float)

# What a handler leaves that could not pass a request on: who is still to be asked.
WAY = web.RequestKey("clinvk.way", Way)

Finish = Callable[[], Awaitable[None]]

SURE_BYTES = 16 * 1024  # that asyncio and aiohttp take at once, whoever reads
_HEADER_NAMES = 40  # of ignored fields that a header may list

_log = logging.getLogger(__name__)


class Answer:
    """Handles the requests of one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Parse, start the turn, and tell its events as the dialect does.

        What a backend says of a field is told by the name that it has in the request.
        """
        parsed = await self.parse(request)
        try:
            return await self._answer(request, parsed)
        except ClinvkError as exc:
            exc.param = exc.param and parsed.named(exc.param)
            raise

    async def _answer(self, request: web.Request, parsed: Parsed) -> web.StreamResponse:
        """Run the turn.

        aiohttp cancels this when the client goes away; closing the stream is all that is owed.
        """
        service, caller = request.app[SERVICE], caller_of(request)
        caller.require_model(parsed.turn.model, service.registry)
        parsed = await with_files(request, parsed, service.registry)
        with caller.turns(sum(turn.choices for turn in (parsed.turn, *parsed.more))):
            way = request.get(WAY)
            stream = service.start(parsed.turn, *parsed.more, caller=caller.name, way=way)
            request[ASKS] = stream.asks
            try:
                _log.debug("%s asks %s", request_id(request), parsed.turn.model)
                finish = functools.partial(self.finish, request)
                if parsed.stream:
                    return await _Streamed(request, parsed).run(stream, finish)
                return await _whole(parsed, stream, finish)
            finally:
                stream.close()

    async def parse(self, request: web.Request) -> Parsed:
        """Check the request; a dialect with a memory adds what it refers to."""
        return self._dialect.parse(await request.read())

    async def finish(self, request: web.Request) -> None:
        """Do what is owed after the last event of turns that all finished, before it is told."""


async def _whole(parsed: Parsed, stream: Stream, finish: Finish) -> web.Response:
    encoder = parsed.encoder
    async for choice, event in stream:
        if isinstance(event, Failed):
            raise event.error
        encoder.feed(event, choice)
    await finish()
    headers = headers_of(stream)
    if encoder.usage_estimated:
        headers["x-clinvk-usage"] = "estimated"
    return web.json_response(encoder.result(), headers=headers)


class _Streamed:
    """A reply that is sent as it comes; until the first frame, a failure is still an HTTP error."""

    def __init__(self, request: web.Request, parsed: Parsed) -> None:
        self._request = request
        self._encoder = parsed.encoder
        self._unnamed = False  # a silence had to be broken before it was certain who answers
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )

    async def run(self, stream: Stream, finish: Finish) -> web.StreamResponse:
        """Send every event's frames, comments in silences, and the end."""
        keepalive_s = self._request.app[KEEPALIVE_S]
        finished = False
        try:
            while True:
                with anyio.move_on_after(keepalive_s) as silence:
                    try:
                        choice, event = await anext(stream)
                    except StopAsyncIteration:
                        finished = True
                        break
                if silence.cancelled_caught:
                    await self._write(sse.KEEP_ALIVE, stream)
                    continue
                # What has come meanwhile shares its write; nothing waits for more.
                frames: list[Frame] = []
                failed = False
                for number, each in chain([(choice, event)], stream.ready()):
                    failed = isinstance(each, Failed)
                    if isinstance(each, Failed) and not (frames or self._response.prepared):
                        raise each.error
                    frames += self._encoder.feed(each, number)
                    if failed:
                        break
                await self._send(frames, stream)
                if failed:
                    break
            if finished:
                await finish()
            await self._send(self._encoder.end(), stream)
            with taken_in_time(self._request):
                await self._response.write_eof()
        except ConnectionError:
            _log.debug("%s: the client went away", request_id(self._request))
        return self._response

    async def _send(self, frames: list[Frame], stream: Stream) -> None:
        if frames:
            await self._write(sse.encode(frames), stream)

    async def _write(self, data: bytes, stream: Stream) -> None:
        if not self._response.prepared:
            self._unnamed = not stream.settled
            self._response.headers.update({} if self._unnamed else headers_of(stream))
            await self._response.prepare(self._request)
        if self._unnamed and stream.settled:
            self._unnamed = False
            data = sse.comments(headers_of(stream)) + data
        await write_in_time(self._request, self._response, data)


async def write_in_time(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write to a client, and cut it off if it takes nothing.

    Raises:
        ConnectionError: if it is gone, or was cut off.
    """
    if _takes(request, len(data)):  # a time limit costs more than the write
        await response.write(data)
        return
    with taken_in_time(request):
        await response.write(data)


def _takes(request: web.Request, size: int) -> bool:
    """Whether the client has room for so many bytes, so that a write cannot wait for it."""
    transport = request.transport
    return transport is not None and transport.get_write_buffer_size() + size < SURE_BYTES


@contextlib.contextmanager
def taken_in_time(request: web.Request) -> Iterator[None]:
    """Cut a client off that takes nothing, or it would hold its turn's place for as long."""
    send_s = request.app[SEND_S]
    try:
        with anyio.fail_after(send_s):
            yield
    except TimeoutError:
        _log.info("%s: the client took nothing for %g s", request_id(request), send_s)
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionAbortedError from None


async def list_models(request: web.Request) -> web.Response:
    """Answer `GET /models`."""
    await learn_models(request)
    rows = usable_rows(request)
    models = ((row.id, row.owned_by, row.capabilities.told()) for row in rows)
    return web.json_response(list_body(models))


async def get_model(request: web.Request) -> web.Response:
    """Answer `GET /models/{id}`, also for ids that an alias or a CLI would take."""
    row = find_model(request)
    return web.json_response(model_body(row.id, row.owned_by, row.capabilities.told()))


async def learn_models(request: web.Request) -> None:
    """Have every upstream look which models it has, unless it knows well enough."""
    async with anyio.create_task_group() as group:
        for backend in request.app[SERVICE].registry.backends.values():
            if isinstance(backend, Relay):
                group.start_soon(backend.refresh)


def usable_rows(request: web.Request) -> list[ModelRow]:
    """Return the models that the caller may ask for."""
    registry, caller = request.app[SERVICE].registry, caller_of(request)
    return [row for row in registry.rows() if caller.may_use(row.id, registry)]


def find_model(request: web.Request) -> ModelRow:
    """Return the model in the path.

    Raises:
        ModelNotAllowedError: if the caller's key is not for it.
        ModelNotFoundError: if nobody does, or it is not installed.
    """
    asked = request.match_info["id"]
    registry = request.app[SERVICE].registry
    caller_of(request).require_model(asked, registry)
    row = registry.row(asked)
    if row is None:
        raise ModelNotFoundError(
            f"what answers for {asked!r} is not installed; 'clinvk doctor' says how to install it",
            param="model",
        )
    return row


async def health(request: web.Request) -> web.Response:
    """Answer `GET /health`: alive, and what each backend is like; starts no turn.

    Who needs a key and shows none hears no more than that it is alive.
    """
    if not caller_of(request).known:
        return web.json_response({"status": "ok"})
    backends = await request.app[SERVICE].health()
    return web.json_response(
        {
            "status": "ok",
            "version": __version__,
            "backends": {name: asdict(found) for name, found in backends.items()},
        }
    )


async def ready(request: web.Request) -> web.Response:
    """Answer `GET /health/ready`: 200 if a turn could be taken now, else 503; starts no turn."""
    service = request.app[SERVICE]
    backends = await service.health()
    able = not service.stopping and any(h.state is State.READY for h in backends.values())
    body: dict[str, Any] = {"status": "ready" if able else "not_ready"}
    if caller_of(request).known:
        body["backends"] = {name: found.state.value for name, found in backends.items()}
    return web.json_response(body, status=200 if able else 503)


def headers_of(stream: Stream) -> dict[str, str]:
    """Return the headers that say who answers, and how."""
    names = [name for name in stream.ignored if _is_header_safe(name)][:_HEADER_NAMES]
    return {
        "x-clinvk-backend": stream.backend,
        "x-clinvk-turn": stream.course.value,
        **({"x-clinvk-tried": ", ".join(tried)} if (tried := tried_before(stream.asks)) else {}),
        **({"x-clinvk-ignored": ", ".join(names)} if names else {}),
    }


def _is_header_safe(name: str) -> bool:
    return len(name) <= 64 and name.isascii() and re.fullmatch(r"[\w.\[\]-]+", name) is not None
