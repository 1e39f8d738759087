"""What an OpenAI-compatible server says of a failure, as a typed error. Pure."""

import email.utils
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from clinvk.errors import (
    BadRequestError,
    ClinvkError,
    ContextTooLongError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    TooLargeError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamTimeoutError,
    UpstreamUnauthorizedError,
)
from clinvk.procs.tail import scrub

_SHOWN = 500

_BY_CODE: dict[str, type[ClinvkError]] = {
    "insufficient_quota": QuotaExceededError,
    "rate_limit_exceeded": RateLimitedError,
    "context_length_exceeded": ContextTooLongError,
    "model_not_found": ModelNotFoundError,
    # types, which servers tell where they have no code
    "rate_limit_error": RateLimitedError,
    "overloaded_error": OverloadedError,
    "exceed_context_size_error": ContextTooLongError,  # llama.cpp
}
# In the words of vLLM, llama.cpp, Ollama, Mistral and Gemini, none of which has a code for it.
_TOO_LONG = re.compile(
    r"maximum context length|context (?:size|length|window)|prompt is too long|too many tokens"
    r"|input token count",
    re.IGNORECASE,
)
_BY_STATUS: dict[int, tuple[type[ClinvkError], str]] = {
    401: (UpstreamUnauthorizedError, "the upstream refused its key (api_key in backends.yaml)"),
    403: (PermissionDeniedError, "the upstream refused this account"),
    404: (ModelNotFoundError, "the upstream does not offer this"),
    408: (UpstreamTimeoutError, "the upstream timed out"),
    413: (TooLargeError, "the request is too large for the upstream"),
    429: (RateLimitedError, "the upstream limits this account"),
    503: (OverloadedError, "the upstream is overloaded"),
    504: (UpstreamTimeoutError, "the upstream timed out"),
    529: (OverloadedError, "the upstream is overloaded"),
}


def complaint(
    status: int | None,
    error: Any,  # noqa: ANN401 - JSON
    headers: Mapping[str, str] | None = None,
) -> ClinvkError:
    """Return the error that a body's `error` amounts to; no status is one within a stream."""
    if isinstance(error, list) and error:  # so Gemini tells it
        error = error[0].get("error", error[0]) if isinstance(error[0], dict) else error[0]
    said = error if isinstance(error, dict) else {"message": error}
    code, param = said.get("code"), said.get("param")
    text = scrub(_words(said.get("message") or said.get("detail")))[:_SHOWN]
    if status is None and isinstance(code, int):  # vLLM and OpenRouter tell it so
        status = code
    kind, what = _BY_STATUS.get(status or 502, (None, f"the upstream failed with {status}"))
    if kind is None:
        refused = status is not None and 400 <= status < 500
        kind = UpstreamRefusedError if refused else UpstreamError
        what = "the upstream refused the request" if refused else "the upstream failed"
    kind = _BY_CODE.get(str(code)) or _BY_CODE.get(str(said.get("type"))) or kind
    if kind is UpstreamRefusedError and _TOO_LONG.search(text):
        kind, what = ContextTooLongError, "the prompt is too long for the upstream"
    return kind(
        f"{what}: {text}",
        param=param if isinstance(param, str) and issubclass(kind, BadRequestError) else None,
        retry_after_s=retry_after(headers or {}),
    )


def failure(status: int, body: bytes, headers: Mapping[str, str]) -> ClinvkError:
    """Return the error that a reply with a status of failure amounts to."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = body.decode("utf-8", "replace").strip()
    error = told.get("error", told) if isinstance(told, dict) else told
    return complaint(status, error or None, headers)


def _words(told: Any) -> str:  # noqa: ANN401 - JSON
    """Return a message, which FastAPI tells as a list of what is wrong with which field."""
    if isinstance(told, list):
        faults = [
            f"{_place(each.get('loc'))}{each['msg']}"
            for each in told
            if isinstance(each, dict) and "msg" in each
        ]
        told = "; ".join(faults) or told
    return told if isinstance(told, str) else json.dumps(told) if told else "it gave no reason"


def _place(loc: object) -> str:
    return f"{'.'.join(str(step) for step in loc)}: " if isinstance(loc, list) else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` asks to wait, told as a number or a date."""
    told = headers.get("Retry-After")
    if told is None:
        return None
    try:
        wait_s = float(told)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(wait_s, 0.0), 86_400.0) if wait_s == wait_s else None  # noqa: PLR0124 - NaN
