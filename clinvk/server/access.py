"""One line in the log for each request, and its count; the outermost of all middlewares.

A line has names and numbers, never what was asked or answered, unless `--log-prompts` says so.
"""

import json
import logging
import time
from collections.abc import Sequence

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from clinvk.server.metrics import METRICS
from clinvk.server.middleware import Handler, request_id
from clinvk.telling import Ask
from clinvk.turn import Message

# What a handler leaves for the line: the turns that its request started.
ASKS = web.RequestKey("clinvk.asks", list[Ask])
CALLER = web.RequestKey("clinvk.caller", str)
LOG_PROMPTS = web.AppKey("clinvk.log_prompts", bool)
CANCELLED = 499  # nginx's number for a client that left; nobody is sent it

_log = logging.getLogger("clinvk.access")

# What aiohttp logs of requests that it cannot read.
broken_requests = logging.getLogger("clinvk.http")


def _without_content(record: logging.LogRecord) -> bool:
    """Tell a request that is no HTTP by its kind alone: what it holds may be a key."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = f"a request is no HTTP: {type(error).__name__}", ()
        record.exc_info = record.exc_text = None
    return True


broken_requests.addFilter(_without_content)
_QUIET = frozenset({"/health", "/health/ready", "/metrics"})


@web.middleware
async def log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log and count a request when it is over, whatever became of it."""
    started = time.monotonic()
    status = CANCELLED
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        request.app[METRICS].observe_request(request, status)
        fields = _fields(request, status, time.monotonic() - started)
        level = logging.DEBUG if request.path in _QUIET else logging.INFO
        line = " ".join(f"{name}={value}" for name, value in fields.items())
        _log.log(level, "%s", line, extra={"clinvk": fields})
        if request.app[LOG_PROMPTS]:
            for ask in request.get(ASKS, []):
                _log_content(request_id(request), ask)


def _fields(request: web.Request, status: int, seconds: float) -> dict[str, str | int | float]:
    fields: dict[str, str | int | float] = {
        "request": request_id(request),
        "method": request.method,
        "path": _safe(request.path),
        "status": status,
        "total_s": round(seconds, 4),
    }
    if caller := request.get(CALLER):
        fields["key"] = _safe(caller)
    asks = request.get(ASKS, [])
    if not asks:
        return fields
    first = asks[0]
    fields |= {
        "model": _safe(first.turn.model),
        "backend": first.backend,
        "turn": first.course.value,
        "outcome": ",".join(ask.record.outcome for ask in asks),
    }
    if tried := tried_before(asks):
        fields["tried"] = ",".join(tried)
    usages = [ask.record.usage for ask in asks if ask.record.usage is not None]
    if usages:
        fields["input_tokens"] = sum(usage.input_tokens for usage in usages)
        fields["output_tokens"] = sum(usage.output_tokens for usage in usages)
    for name, moment in (("queue_s", first.record.admitted), ("first_s", first.record.first)):
        if (passed := first.record.since(moment)) is not None:
            fields[name] = round(passed, 4)
    return fields


def tried_before(asks: Sequence[Ask]) -> list[str]:
    """Return who was asked and failed, and with what, as `name=code`."""
    failures = [failure for ask in asks if ask.way is not None for failure in ask.way.failures]
    return list(dict.fromkeys(f"{_safe(name)}={error.name}" for name, error in failures))


def _safe(text: str) -> str:
    """A client's text as one word of a line: it can start no line, and bring no colour."""
    kept = text[:100].encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() and c not in ' "=' else "_" for c in kept)


def _log_content(ident: str, ask: Ask) -> None:
    said = [_content(message) for message in ask.turn.messages]
    answer = None if ask.reply is None else _content(ask.reply())
    content = {"request": ident, "messages": said, "answer": answer}
    _log.info("%s", json.dumps(content), extra={"clinvk": content})


def _content(message: Message) -> dict[str, object]:
    calls = [{"name": call.name, "arguments": call.arguments} for call in message.calls]
    return {
        "role": message.role.value,
        "text": message.text,
        **({"calls": calls} if calls else {}),
    }
