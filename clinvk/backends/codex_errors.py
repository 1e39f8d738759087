"""What codex says when a turn fails, as an error of ours or as a way to finish: pure.

Codex keeps the upstream status in `codexErrorInfo` for some failures and only in its prose for
others; all shapes here were recorded from codex 0.169.0.
"""

import json
import re
from typing import Any

from clinvk.errors import (
    ClinvkError,
    ContextTooLongError,
    ModelNotFoundError,
    NotLoggedInError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    TooLargeError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)
from clinvk.events import FinishReason
from clinvk.procs.tail import scrub

LOGIN = "codex login"

_INCOMPLETE = re.compile(r"Incomplete response returned, reason: (\w+)")
_FINISHES = {
    "max_output_tokens": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_STATUS = re.compile(r"(?:unexpected|last) status:? (\d{3})\b[^:]*(?:: )?")
_URL = re.compile(r",? url: \S+")
_NO_KEY = re.compile(r"Missing environment variable: `?(\w+)")
_WAIT = re.compile(r"try again in (?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)(ms|s))?", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"model\b.*\b(?:does not exist|not found|not supported|not available)|unknown model",
    re.IGNORECASE | re.DOTALL,
)
_TOO_LONG = re.compile(r"context[ _](?:window|length)|maximum context", re.IGNORECASE)
_CUT = re.compile(
    r"Transport error|network error|stream closed|Connection failed|error sending request|time-?out"
    r"|timed out"
)
_LIMITED = "exceeded retry limit, last status: 429 Too Many Requests"  # codex's word for any 429

_KINDS: dict[str, type[ClinvkError]] = {
    "badRequest": UpstreamRefusedError,
    "contextWindowExceeded": ContextTooLongError,
    "cyberPolicy": UpstreamRefusedError,
    "flexUnavailable": OverloadedError,
    "inferenceHookDenied": PermissionDeniedError,
    "internalServerError": UpstreamError,
    "misalignmentPolicyViolation": UpstreamRefusedError,
    "modelNotFound": ModelNotFoundError,
    "policyCapacityUnavailable": OverloadedError,
    "rateLimitExceeded": RateLimitedError,
    "serverOverloaded": OverloadedError,
    "sessionBudgetExceeded": QuotaExceededError,
    "unauthorized": NotLoggedInError,
    "usageLimitExceeded": QuotaExceededError,
}
_STATUSES: dict[int, type[ClinvkError]] = {
    400: UpstreamRefusedError,
    401: NotLoggedInError,
    403: PermissionDeniedError,
    404: ModelNotFoundError,
    408: UpstreamUnreachableError,
    413: TooLargeError,
    429: RateLimitedError,
    529: OverloadedError,
}


def outcome(error: object) -> FinishReason | ClinvkError:
    """Return how a failed turn ended: codex calls an answer cut by a limit a failure, too."""
    said = error if isinstance(error, dict) else {}
    message = str(said.get("message") or "")
    if found := _INCOMPLETE.search(message):
        finish = _FINISHES.get(found[1])
        if finish is not None:
            return finish
    return classify(message, said.get("codexErrorInfo"))


def classify(message: str, info: object) -> ClinvkError:
    """Return the error for what codex said; `info` is its `codexErrorInfo`."""
    kind, status = _kind_and_status(info)
    if found := _STATUS.search(message):
        status = status or int(found[1])
    body = _json_error(message)
    if message == _LIMITED:
        body = "429 Too Many Requests"
    text = _prose(message) if body is None else body
    if missing := _NO_KEY.search(message):
        return NotLoggedInError(
            f"codex's model provider reads its key from {missing[1]}, which is not set; set it "
            "for the server, or under `env` of the backend"
        )
    if kind in _KINDS:
        return _make(_KINDS[kind], text, message)
    if status is not None:
        return _make(_by_status(status), text, message)
    if body is not None:
        return _make(UpstreamRefusedError, text, message)
    if _CUT.search(message):
        return _make(UpstreamUnreachableError, text, message)
    if message.startswith("Invalid prompt"):
        return _make(UpstreamRefusedError, text, message)
    return _make(UpstreamError, text, message)


def _make(kind: type[ClinvkError], text: str, message: str) -> ClinvkError:
    if kind is UpstreamRefusedError:
        if _TOO_LONG.search(text):
            kind = ContextTooLongError
        elif _NO_MODEL.search(text):
            kind = ModelNotFoundError
    text = scrub(text).rstrip(".") or "it gave no reason"
    if kind is NotLoggedInError:
        return NotLoggedInError(f"codex's login was refused ({text}); log in with: {LOGIN}")
    if issubclass(kind, RateLimitedError):
        return kind(f"codex's rate limit is used up: {text}", retry_after_s=_wait_s(message))
    if kind is ContextTooLongError:
        if text.startswith("Codex ran out of room"):
            text = "send less of it"
        return kind(f"the conversation is over the model's context window: {text}")
    if kind is UpstreamUnreachableError:
        return kind(f"codex lost, or never got, its connection to the model API: {text}")
    return kind(f"codex's model API says: {text}")


def _by_status(status: int) -> type[ClinvkError]:
    fallback = UpstreamError if status >= 500 else UpstreamRefusedError
    return _STATUSES.get(status, fallback)


def _kind_and_status(info: object) -> tuple[str, int | None]:
    """`codexErrorInfo` is a name, or an object of one name with an HTTP status in it."""
    if isinstance(info, str):
        return info, None
    if isinstance(info, dict) and len(info) == 1:
        (kind, detail), *_ = info.items()
        status = detail.get("httpStatusCode") if isinstance(detail, dict) else None
        return str(kind), status if isinstance(status, int) else None
    return "", None


def _json_error(message: str) -> str | None:
    """The text inside an error body that codex passed on whole, as it does for a 400."""
    try:
        body: Any = json.loads(message)
    except (ValueError, RecursionError):
        return None
    error = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(error, dict):
        return str(error.get("message") or error.get("detail") or message)
    return str(error) if isinstance(error, str) else message


def _prose(message: str) -> str:
    return _URL.sub("", _STATUS.sub("", message)) or message


def _wait_s(message: str) -> float | None:
    found = _WAIT.search(message)
    if found is None or (found[1] is None and found[2] is None):
        return None
    seconds = float(found[2] or 0) / (1000 if found[3] == "ms" else 1)
    return 60 * int(found[1] or 0) + seconds
