"""Requests that pass to an upstream of the same API as they are, and its replies.

Owns no parsing: but for the model's name, every byte is what the caller sent and what the
upstream answered. Admission, limits and records are those of every turn.
"""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import anyio
from aiohttp import hdrs, web

from clinvk.backends.base import Passed, PassedReply, Relay
from clinvk.backends.openai_errors import failure
from clinvk.errors import (
    BadRequestError,
    ClinvkError,
    ModelNotFoundError,
    TurnTimeoutError,
    UnsupportedError,
)
from clinvk.registry import Registry, Route, Target
from clinvk.routing import Way
from clinvk.server.access import ASKS, tried_before
from clinvk.server.attachments import embedded
from clinvk.server.auth import caller_of, own_key
from clinvk.server.handlers import SERVICE, WAY, taken_in_time, write_in_time
from clinvk.server.middleware import Handler, request_id
from clinvk.service import Service
from clinvk.telling import Ask
from clinvk.wire.body import check, load
from clinvk.wire.passed import Named, UsageTail, named, response_id, response_key
from clinvk.wire.passed_types import ModelOnly

REARMS = 20  # times in silence_s, at most, that its timer is set again
WEIGHED_BYTES = 64 * 1024  # of a failure's body, which says more than its status
_TELLS_USAGE = ("application/json", "text/event-stream")

_log = logging.getLogger(__name__)


class PassOn:
    """Passes the requests of an endpoint on where that can be; `otherwise` has the rest."""

    def __init__(self, endpoint: str, otherwise: Handler) -> None:
        self._endpoint = endpoint
        self._otherwise = otherwise

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer the request."""
        service = request.app[SERVICE]
        if not _has_upstream(service.registry):
            return await self._otherwise(request)
        raw = await request.read()
        body = named(raw)
        if body is None:  # which the dialect tells better
            return await self._otherwise(request)
        caller = caller_of(request)
        caller.require_model(body.model, service.registry)
        try:
            route = await routed(service.registry, body.model)
        except ModelNotFoundError:
            return await self._otherwise(request)
        if not any(relay_of(each.target, self._endpoint) for each in route.candidates):
            return await self._otherwise(request)
        sent = await embedded(request, raw, body)
        way = _way_of(service, route, body, caller.name)
        walk = Walk(request, way, self._endpoint, body.model)
        return await walk.run(sent.renamed, streams=body.streams, otherwise=self._otherwise)


def _has_upstream(registry: Registry) -> bool:
    """Whether a turn could be passed on; the embedding model takes none, and lists nothing new."""
    return any(isinstance(b, Relay) and b.kind != "embeddings" for b in registry.backends.values())


def _way_of(service: Service, route: Route, body: Named, caller: str) -> Way:
    if len(route.candidates) == 1:
        return service.way_of(route)
    keys, begun = body.conversation(caller)
    way = service.way_of(route, keys if begun else ())
    way.keys = keys
    return way


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
        way = await way_to(request, body.model)
        return await Walk(request, way, self._endpoint, body.model).run(body.renamed)


async def way_to(request: web.Request, asked: str) -> Way:
    """Return who is asked for a model, which is the whole of what is known of the request.

    Raises:
        ModelNotAllowedError: if the caller's key is not for the model.
        ModelNotFoundError: if nobody answers for it.
    """
    service = request.app[SERVICE]
    caller_of(request).require_model(asked, service.registry)
    return service.way_of(await routed(service.registry, asked))


class Walk:
    """A request that passes to one after the other until there is a reply."""

    def __init__(self, request: web.Request, way: Way, endpoint: str, asked: str) -> None:
        self._request = request
        self._way = way
        self._endpoint = endpoint
        self._asked = asked

    async def run(
        self,
        body: "Body",
        content_type: str | None = None,
        *,
        streams: bool = False,
        otherwise: Handler | None = None,
    ) -> web.StreamResponse:
        """Return the reply; `otherwise` answers once the next cannot be passed on to.

        One that `streams` must begin within `first_s`.

        Raises:
            ClinvkError: if there is nobody left to ask.
        """
        while True:
            target = self._way.take()
            backend = relay_of(target, self._endpoint)
            if backend is None and otherwise is not None:
                self._way.put_back(target)
                self._request[WAY] = self._way
                return await otherwise(self._request)
            try:
                if backend is None:
                    raise self._unable(target)
                passage = Passage(self._request, target, self._asked, self._way)
                first_s = target.config.first_s if streams else math.inf
                return await passage.run(backend, self._endpoint, body, content_type, first_s)
            except ClinvkError as exc:
                told = self._way.after(exc)
                if told is not None:
                    raise told from None
                name = target.full_name
                _log.info("%s: %s failed with %s", request_id(self._request), name, exc.name)

    def _unable(self, target: Target) -> UnsupportedError:
        """Return why a backend cannot have the request, naming who can."""
        able = [
            name
            for name, each in self._request.app[SERVICE].registry.backends.items()
            if isinstance(each, Relay) and self._endpoint in each.endpoints
        ]
        who = f"{' and '.join(able)} can" if able else "a backend of kind openai can"
        return UnsupportedError(
            f"{target.backend.name!r}, which has the model {self._asked!r}, "
            f"cannot do {self._endpoint}; {who}",
            param="model",
        )


def relay_of(target: Target, endpoint: str) -> Relay | None:
    """Return the backend of a target if requests for an endpoint can be passed on to it."""
    backend = target.backend
    return backend if isinstance(backend, Relay) and endpoint in backend.endpoints else None


async def routed(registry: Registry, asked: str) -> Route:
    """Return who may answer for a model, which an upstream may have only lately.

    Raises:
        ModelNotFoundError: listing what exists.
    """
    try:
        return registry.route(asked)
    except ModelNotFoundError:
        for backend in registry.backends.values():
            if isinstance(backend, Relay):
                await backend.refresh()
        return registry.route(asked)


Body = Callable[[str], bytes | AsyncIterator[bytes]]


class Passage:
    """One request at one upstream: until its first byte is told, a failure is an exception."""

    def __init__(self, request: web.Request, target: Target, asked: str, way: Way) -> None:
        self._request = request
        self._target = target
        self._asked = asked
        self._way = way
        self._response: web.StreamResponse | None = None

    async def run(
        self, backend: Relay, endpoint: str, body: Body, content_type: str | None, first_s: float
    ) -> web.StreamResponse:
        """Pass the request on, and tell the reply, which must begin within `first_s` seconds.

        `body` makes its body for a model's name.
        """
        request, target = self._request, self._target
        renamed = body(backend.require_model(target.model))
        headers = request.headers.copy()
        if content_type is not None:
            headers[hdrs.CONTENT_TYPE] = content_type
        passed = Passed(endpoint, headers, renamed, own_key(request))
        caller, service = caller_of(request), request.app[SERVICE]
        try:
            with caller.turns(1):
                passing = service.passing(target, self._asked, caller.name, self._way)
                async with passing as ask:
                    request[ASKS] = [ask]
                    async with AsyncExitStack() as stack:
                        with self._in_time(first_s, "did not begin for", "first_s"):
                            reply = await stack.enter_async_context(backend.send(passed))
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
        begun = b""
        if reply.status >= 400 and self._way.more:
            begun = await self._weighed(reply)
        response = web.StreamResponse(status=reply.status)
        for name, value in reply.headers:
            response.headers.add(name, value)
        response.headers["x-clinvk-backend"] = ask.backend
        response.headers["x-clinvk-turn"] = ask.course.value
        if tried := tried_before([ask]):
            response.headers["x-clinvk-tried"] = ", ".join(tried)
        self._response = response
        await response.prepare(self._request)
        told = response.headers.get(hdrs.CONTENT_TYPE, "")
        tail = UsageTail() if told.startswith(_TELLS_USAGE) else None
        await self._pass(_chained(begun, reply.body), response, ask, tail)
        ask.record.usage = None if tail is None else tail.usage()
        ask.record.outcome = "relayed" if reply.status < 400 else f"status_{reply.status}"
        with taken_in_time(self._request):
            await response.write_eof()
        return response

    async def _pass(
        self,
        pieces: AsyncIterator[bytes],
        response: web.StreamResponse,
        ask: Ask,
        tail: UsageTail | None,
    ) -> None:
        """Tell each piece as it comes.

        Raises:
            TurnTimeoutError: if none comes for too long.
        """
        silence_s = self._target.config.silence_s
        rearm_s = silence_s / REARMS
        with self._in_time(silence_s, "was silent for", "silence_s") as silence:
            async for piece in pieces:
                if ask.record.first is None and response.status < 400:  # a failure is no answer
                    ask.record.first = time.monotonic()
                    self._remember(piece)
                if tail is not None:
                    tail.push(piece)
                await write_in_time(self._request, response, piece)
                due = anyio.current_time() + silence_s
                if due - silence.deadline > rearm_s:  # a timer for each piece would cost more
                    silence.deadline = due

    @contextmanager
    def _in_time(self, seconds: float, what: str, key: str) -> Iterator[anyio.CancelScope]:
        try:
            with anyio.fail_after(seconds) as scope:
                yield scope
        except TimeoutError:
            raise TurnTimeoutError(
                f"the upstream {what} {seconds:g} s; raise {key} of backend "
                f"{self._target.backend.name!r} to allow more"
            ) from None

    def _remember(self, begun: bytes) -> None:
        """Note what later requests may name that go on with this one."""
        if self._way.keys and (found := response_id(begun)) is not None:
            self._way.keys += (response_key(found, caller_of(self._request).name),)

    async def _weighed(self, reply: PassedReply) -> bytes:
        """Return as much of a failure's body as was read to see what it says.

        Raises:
            ClinvkError: if another is to be asked for it.
        """
        begun = b""
        async for piece in reply.body:
            begun += piece
            if len(begun) > WEIGHED_BYTES:
                break
        error = failure(reply.status, begun, dict(reply.headers))
        if self._way.leads_on(error):
            raise error
        return begun

    def _cut_off(self) -> None:
        """End the connection, so that nobody takes what was told for the whole."""
        if self._request.transport is not None:
            self._request.transport.abort()


async def _chained(begun: bytes, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if begun:
        yield begun
    async for piece in body:
        yield piece
