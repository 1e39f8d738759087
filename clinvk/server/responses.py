"""The routes of the Responses API: the answer that is kept, and what can be asked of it later.

Owns when the store is read and written. A store that fails costs an answer nothing: the fault
is logged, and the response says `store: false`. Nothing is kept of a turn that failed. What is
kept is its caller's alone: to others it does not exist.
"""

import logging
from collections.abc import Awaitable
from typing import Any, TypeVar

from aiohttp import web

from clinvk.errors import (
    BadRequestError,
    InternalError,
    NotFoundError,
    UnsupportedError,
)
from clinvk.server import relay
from clinvk.server.auth import caller_of
from clinvk.server.handlers import Answer
from clinvk.server.middleware import request_id
from clinvk.server.paging import limit_of, newest_first
from clinvk.store import Store, StoreError
from clinvk.wire.base import Parsed
from clinvk.wire.openai_responses import Answerable, OpenAIResponses

STORE = web.AppKey("clinvk.store", Store)
PARSED = web.RequestKey("clinvk.responses.parsed", Answerable)

LIST_LIMIT = 20
LIST_LIMIT_MAX = 100

T = TypeVar("T")

_log = logging.getLogger(__name__)


def add_routes(app: web.Application, prefix: str) -> None:
    """Add the routes of the Responses API under a prefix."""
    one = f"{prefix}/responses/{{id}}"
    passing = relay.PassOn("responses", Responses().handle)
    app.router.add_post(f"{prefix}/responses", passing.handle)
    app.router.add_get(one, get_response)
    app.router.add_delete(one, delete_response)
    app.router.add_get(f"{one}/input_items", list_input_items)
    app.router.add_post(f"{one}/cancel", cancel_response)


class Responses(Answer):
    """Answers `POST /responses`: recalls what the request refers to, and keeps the response."""

    def __init__(self) -> None:
        self._wire = OpenAIResponses()
        super().__init__(self._wire)

    async def parse(self, request: web.Request) -> Parsed:
        """Check the request together with what it refers to."""
        asked = self._wire.read(await request.read())
        store, owner = request.app[STORE], caller_of(request).name
        earlier = None
        if asked.previous is not None:
            earlier = await _readable(store.items(asked.previous, output=True, owner=owner))
        referred = await _readable(store.find(asked.references, owner=owner))
        request[PARSED] = self._wire.understand(asked, earlier, referred)
        return request[PARSED]

    async def finish(self, request: web.Request) -> None:
        """Keep the response, before the client hears of its end and can refer to it."""
        parsed = request[PARSED]
        if not parsed.store:
            return
        try:
            body, owner = parsed.encoder.result(), caller_of(request).name
            await request.app[STORE].save(body, parsed.items, owner=owner)
        except StoreError as exc:
            _log.warning("%s: the response is not kept: %s", request_id(request), exc)
            parsed.encoder.forget()


async def get_response(request: web.Request) -> web.Response:
    """Answer `GET /responses/{id}`."""
    if request.query.get("stream") == "true":
        raise UnsupportedError(
            "only background responses can be streamed again, and there are none here",
            param="stream",
        )
    return web.json_response(await _kept(request))


async def delete_response(request: web.Request) -> web.Response:
    """Answer `DELETE /responses/{id}`."""
    response_id = request.match_info["id"]
    owner = caller_of(request).name
    if not await _readable(request.app[STORE].delete(response_id, owner=owner)):
        raise _not_found(response_id)
    return web.json_response({"id": response_id, "object": "response", "deleted": True})


async def list_input_items(request: web.Request) -> web.Response:
    """Answer `GET /responses/{id}/input_items`, the newest first unless asked otherwise."""
    limit = limit_of(request, default=LIST_LIMIT, most=LIST_LIMIT_MAX)
    newest = newest_first(request)
    response_id = request.match_info["id"]
    owner = caller_of(request).name
    items = await _readable(request.app[STORE].items(response_id, owner=owner))
    if items is None:
        raise _not_found(response_id)
    if newest:
        items.reverse()
    if (after := request.query.get("after")) is not None:
        at = next((at for at, item in enumerate(items) if item["id"] == after), None)
        if at is None:
            raise BadRequestError(f"there is no item {after!r} in this list", param="after")
        items = items[at + 1 :]
    page = items[:limit]
    return web.json_response(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else "",
            "last_id": page[-1]["id"] if page else "",
            "has_more": len(items) > limit,
        }
    )


async def cancel_response(request: web.Request) -> web.Response:
    """Answer `POST /responses/{id}/cancel`: what is kept has always ended."""
    await _kept(request)
    raise BadRequestError(
        "cannot cancel a synchronous response; end the request itself to stop a running one"
    )


async def _kept(request: web.Request) -> dict[str, Any]:
    response_id = request.match_info["id"]
    owner = caller_of(request).name
    body = await _readable(request.app[STORE].get(response_id, owner=owner))
    if body is None:
        raise _not_found(response_id)
    return body


async def _readable(reading: Awaitable[T]) -> T:
    try:
        return await reading
    except StoreError as exc:
        _log.error("%s", exc)
        raise InternalError("the responses that are kept cannot be read; the log says why") from exc


def _not_found(response_id: str) -> NotFoundError:
    return NotFoundError(f"response {response_id!r} is not kept here", param="id")
