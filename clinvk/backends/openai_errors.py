"""What an OpenAI-compatible server says of a failure, as a typed error. Pure."""

import email.utils
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
    UnavailableError,
    UpstreamError,
    UpstreamRefusedError,
)
from clinvk.procs.tail import scrub

_SHOWN = 500

_BY_CODE: dict[str, type[ClinvkError]] = {
    "insufficient_quota": QuotaExceededError,
    "rate_limit_exceeded": RateLimitedError,
    "context_length_exceeded": ContextTooLongError,
    "model_not_found": ModelNotFoundError,
}
_BY_STATUS: dict[int, tuple[type[ClinvkError], str]] = {
    401: (UnavailableError, "the upstream refused its key (api_key in backends.yaml)"),
    403: (PermissionDeniedError, "the upstream refused this account"),
    404: (ModelNotFoundError, "the upstream does not offer this"),
    408: (UpstreamError, "the upstream timed out"),
    413: (TooLargeError, "the request is too large for the upstream"),
    429: (RateLimitedError, "the upstream limits this account"),
    503: (OverloadedError, "the upstream is overloaded"),
    529: (OverloadedError, "the upstream is overloaded"),
}


def complaint(
    status: int | None,
    error: Any,  # noqa: ANN401 - JSON
    headers: Mapping[str, str] | None = None,
) -> ClinvkError:
    """Return the error that a body's `error` amounts to; no status is one within a stream."""
    said = error if isinstance(error, dict) else {"message": error}
    code, param = said.get("code"), said.get("param")
    text = scrub(str(said.get("message") or said.get("detail") or "it gave no reason"))[:_SHOWN]
    if status is None and isinstance(code, int):  # vLLM and OpenRouter tell it so
        status = code
    kind, what = _BY_STATUS.get(status or 502, (None, f"the upstream failed with {status}"))
    if kind is None:
        refused = status is not None and 400 <= status < 500
        kind = UpstreamRefusedError if refused else UpstreamError
        what = "the upstream refused the request" if refused else "the upstream failed"
    kind = _BY_CODE.get(str(code), kind)
    return kind(
        f"{what}: {text}",
        param=param if isinstance(param, str) and issubclass(kind, BadRequestError) else None,
        retry_after_s=retry_after(headers or {}),
    )


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
