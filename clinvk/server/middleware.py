"""Around every handler: a request id, and every failure as an error body of the dialect."""

import logging
import math
import uuid
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from clinvk.errors import (
    AuthenticationError,
    BadRequestError,
    ClinvkError,
    InternalError,
    MethodNotAllowedError,
    NotFoundError,
    TooLargeError,
)
from clinvk.wire.base import Dialect
from clinvk.wire.openai_chat import OpenAIChat

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Which dialect errors are told in, by the start of the path.
DIALECTS = web.AppKey("clinvk.dialects", dict[str, Dialect])
REQUEST_ID = web.RequestKey("clinvk.request_id", str)

_log = logging.getLogger(__name__)


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Put the request's id on every reply, streamed ones too; an `on_response_prepare` hook."""
    response.headers["x-request-id"] = request_id(request)
    response.headers["request-id"] = request_id(request)  # the name that Anthropic's clients read


def request_id(request: web.Request) -> str:
    """Return the id of a request, made at the first look."""
    if REQUEST_ID not in request:
        request[REQUEST_ID] = f"req_{uuid.uuid4().hex}"
    return request[REQUEST_ID]


@web.middleware
async def errors_as_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every failure with a JSON error of the path's dialect, never a text or a traceback."""
    dialect = dialect_of(request)
    try:
        return await handler(request)
    except ClinvkError as exc:
        return error_response(request, dialect, exc)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        allow = exc.headers.get("Allow")
        return error_response(request, dialect, _translate(request, exc), allow=allow)
    except web.RequestPayloadError as exc:  # its chunks or its encoding are broken
        said = " ".join(str(exc.__cause__ or exc).split())
        response = error_response(request, dialect, BadRequestError(f"no body to read: {said}"))
        response.force_close()  # nobody knows where the next request would begin
        request.content.feed_eof()  # or it would be read on, and fail again
        return response
    except Exception:  # noqa: BLE001 - logged with its traceback
        _log.exception("request %s failed by a bug", request_id(request))
        error = InternalError("clinvk failed on this request; its log says why")
        return error_response(request, dialect, error)


def dialect_of(request: web.Request) -> Dialect:
    """Return the dialect whose paths the request's is among; OpenAI's own if none."""
    for prefix, dialect in request.app[DIALECTS].items():
        if request.path.startswith(prefix):
            return dialect
    return OpenAIChat()


def error_response(
    request: web.Request, dialect: Dialect, exc: ClinvkError, *, allow: str | None = None
) -> web.Response:
    """Return the reply for an error, with what tells an SDK whether and when to retry."""
    status, body = dialect.error(exc)
    if "request_id" in body:
        body["request_id"] = request_id(request)
    response = web.json_response(body, status=status)
    if exc.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(exc.retry_after_s)))
    # SDKs retry 409, 429 and 5xx twice: each time the whole CLI would run again in vain.
    response.headers["x-should-retry"] = "true" if exc.retryable else "false"
    if isinstance(exc, AuthenticationError):
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    if allow is not None:
        response.headers["Allow"] = allow
    return response


def _translate(request: web.Request, exc: web.HTTPException) -> ClinvkError:
    where = f"{request.method} {request.path}"
    if exc.status == 404:
        return NotFoundError(f"there is no {where!r}; the APIs are at /openai/v1 and /anthropic/v1")
    if exc.status == 405:
        allowed = exc.headers.get("Allow", "")
        return MethodNotAllowedError(f"{where!r} does not exist; {request.path} takes {allowed}")
    if exc.status == 413:
        return TooLargeError("the body is too large; raise server.max_body_mb to allow more")
    return BadRequestError(exc.reason)
