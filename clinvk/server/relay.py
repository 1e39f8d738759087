"""Requests that pass to an upstream of the same API as they are, and its replies.

Owns no parsing: but for the model's name, every byte is what the caller sent and what the
upstream answered. Admission, limits and records are those of every turn.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable

from aiohttp import hdrs, web

from clinvk.backends.base import Passed, PassedReply, Relay
from clinvk.errors import BadRequestError, ClinvkError, ModelNotFoundError, UnsupportedError
from clinvk.registry import Registry, Target
from clinvk.server.access import ASKS
from clinvk.server.auth import caller_of, own_key
from clinvk.server.handlers import SERVICE, taken_in_time
from clinvk.server.middleware import Handler, request_id
from clinvk.telling import Ask
from clinvk.wire.body import check, load
from clinvk.wire.passed import UsageTail, named
from clinvk.wire.passed_types import ModelOnly

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


class Only:
    """Answers an endpoint that upstreams alone have, for JSON bodies."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass the request on to the upstream of its model."""
        raw = await request.read()
        body = named(raw)
        if body is None:
            check(ModelOnly, load(raw))
            raise BadRequestError("the body is not JSON")
        target, backend = await require_relay(request, body.model, self._endpoint)
        passage = Passage(request, target, body.model)
        return await passage.run(backend, self._endpoint, body.renamed)


async def require_relay(request: web.Request, asked: str, endpoint: str) -> tuple[Target, Relay]:
    """Return who answers for a model at an endpoint.

    Raises:
        ModelNotAllowedError: if the caller's key is not for the model.
        ModelNotFoundError: if nobody does.
        UnsupportedError: if who does has no such endpoint, naming who has.
    """
    registry = request.app[SERVICE].registry
    caller_of(request).require_model(asked, registry)
    target = await resolved(registry, asked)
    backend = relay_of(target, endpoint)
    if backend is None:
        able = [
            name
            for name, each in registry.backends.items()
            if isinstance(each, Relay) and endpoint in each.endpoints
        ]
        who = f"{' and '.join(able)} can" if able else "a backend of kind openai can"
        raise UnsupportedError(
            f"{target.backend.name!r}, which has the model {asked!r}, cannot do {endpoint}; {who}",
            param="model",
        )
    return target, backend


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

    async def run(
        self, backend: Relay, endpoint: str, body: Body, content_type: str | None = None
    ) -> web.StreamResponse:
        """Pass the request on, and tell the reply; `body` makes its body for a model's name."""
        request, target = self._request, self._target
        renamed = body(backend.require_model(target.model))
        headers = request.headers.copy()
        if content_type is not None:
            headers[hdrs.CONTENT_TYPE] = content_type
        passed = Passed(endpoint, headers, renamed, own_key(request))
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
