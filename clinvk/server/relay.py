"""Requests that pass to an upstream of the same API as they are, and its replies.

Owns no parsing: but for the model's name, every byte is what the caller sent and what the
upstream answered. Admission, limits and records are those of every turn.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable

from aiohttp import hdrs, web

from clinvk.backends.base import Passed, PassedReply, Relay
from clinvk.errors import ClinvkError, ModelNotFoundError
from clinvk.registry import Registry, Target
from clinvk.server.access import ASKS
from clinvk.server.auth import caller_of, own_key
from clinvk.server.handlers import SERVICE, taken_in_time
from clinvk.server.middleware import Handler, request_id
from clinvk.telling import Ask
from clinvk.wire.passed import UsageTail, named

_TELLS_USAGE = ("application/json", "text/event-stream")

_log = logging.getLogger(__name__)


class PassOn:
    """Passes the requests of an endpoint on where that can be; `otherwise` has the rest."""

    def __init__(self, endpoint: str, otherwise: Handler) -> None:
        self._endpoint = endpoint
        self._otherwise = otherwise

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer the request."""
        registry = request.app[SERVICE].registry
        if not any(isinstance(backend, Relay) for backend in registry.backends.values()):
            return await self._otherwise(request)
        body = named(await request.read())
        if body is None:  # which the dialect tells better
            return await self._otherwise(request)
        caller_of(request).require_model(body.model, registry)
        try:
            target = await resolved(registry, body.model)
        except ModelNotFoundError:
            return await self._otherwise(request)
        backend = relay_of(target, self._endpoint)
        if backend is None:
            return await self._otherwise(request)
        passage = Passage(request, target, body.model)
        return await passage.run(backend, self._endpoint, body.renamed)


def relay_of(target: Target, endpoint: str) -> Relay | None:
    """Return the backend of a target if requests for an endpoint can be passed on to it."""
    backend = target.backend
    return backend if isinstance(backend, Relay) and endpoint in backend.endpoints else None


async def resolved(registry: Registry, asked: str) -> Target:
    """Return who answers for a model, which an upstream may have only lately.

    Raises:
        ModelNotFoundError: listing what exists.
    """
    try:
        return registry.resolve(asked)
    except ModelNotFoundError:
        for backend in registry.backends.values():
            if isinstance(backend, Relay):
                await backend.refresh()
        return registry.resolve(asked)


Body = Callable[[str], bytes | AsyncIterator[bytes]]


class Passage:
    """One request on its way: until its first byte is told, a failure is still an HTTP error."""

    def __init__(self, request: web.Request, target: Target, asked: str) -> None:
        self._request = request
        self._target = target
        self._asked = asked
        self._response: web.StreamResponse | None = None

    async def run(self, backend: Relay, endpoint: str, body: Body) -> web.StreamResponse:
        """Pass the request on, and tell the reply; `body` makes its body for a model's name."""
        request, target = self._request, self._target
        renamed = body(backend.require_model(target.model))
        passed = Passed(endpoint, request.headers, renamed, own_key(request))
        caller, service = caller_of(request), request.app[SERVICE]
        try:
            with caller.turns(1):
                async with service.passing(target, self._asked, caller.name) as ask:
                    request[ASKS] = [ask]
                    async with backend.send(passed) as reply:
                        return await self._tell(reply, ask)
        except ClinvkError as exc:
            if self._response is None:
                raise
            _log.info("%s broke off: %s", request_id(request), exc)
            self._cut_off()
        except ConnectionError:
            if self._response is None:
                raise
            _log.debug("%s: the client went away", request_id(request))
        return self._response

    async def _tell(self, reply: PassedReply, ask: Ask) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status)
        for name, value in reply.headers:
            response.headers.add(name, value)
        response.headers["x-clinvk-backend"] = ask.backend
        response.headers["x-clinvk-turn"] = ask.course.value
        self._response = response
        await response.prepare(self._request)
        told = response.headers.get(hdrs.CONTENT_TYPE, "")
        tail = UsageTail() if told.startswith(_TELLS_USAGE) else None
        async for piece in reply.body:
            if ask.record.first is None:
                ask.record.first = time.monotonic()
            if tail is not None:
                tail.push(piece)
            with taken_in_time(self._request):
                await response.write(piece)
        ask.record.usage = None if tail is None else tail.usage()
        ask.record.outcome = "relayed" if reply.status < 400 else f"status_{reply.status}"
        with taken_in_time(self._request):
            await response.write_eof()
        return response

    def _cut_off(self) -> None:
        """End the connection, so that nobody takes what was told for the whole."""
        if self._request.transport is not None:
            self._request.transport.abort()
