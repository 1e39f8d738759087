"""What went wrong, by what Claude Code says of it. Pure.

The CLI's result has `is_error`, the API's status if it had one, and a text; `subtype` says
success all the same. Texts and kinds observed with claude 2.1.197.
"""

import re
from dataclasses import dataclass

from clinvk.errors import (
    ClinvkError,
    CliProtocolError,
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
from clinvk.procs.tail import scrub

LOGIN_FIX = "claude auth login"

_TOO_LONG = re.compile(r"(?i)prompt is too long|input length and `?max_tokens`? exceed")
_OVERLOADED = re.compile(r"(?i)\boverloaded\b")
_USAGE_LIMIT = re.compile(r"(?i)(?:hit|reached) your .*limit|out of .*usage")
_CONNECTION = re.compile(
    r"(?i)connect|network|socket|econn|enotfound|timed? ?out|certificate|fetch|stream ended"
)
_PREFIX = re.compile(r"(?:Failed to authenticate\. )?(?:API Error: )?(?:\d{3} )?")
_ADVICE = re.compile(r" (?:This is a server-side issue|Run --model|Try with a smaller file).*")


@dataclass(frozen=True, slots=True)
class Complaint:
    """What the CLI said of a failure: API status, its own kind and reason, and a text."""

    text: str
    status: int | None = None
    kind: str | None = None
    reason: str | None = None
    retry_after_s: float | None = None


def classify(said: Complaint) -> ClinvkError:
    """Return the error that a complaint of the CLI amounts to."""
    text = _clean(said.text)
    if said.reason in {"prompt_too_long", "blocking_limit"} or _TOO_LONG.search(text):
        return ContextTooLongError(
            f"the conversation is over the model's context window ({text}); shorten it",
            param="messages",
        )
    if said.kind == "billing_error":
        return QuotaExceededError(f"the account that claude is logged in to cannot pay: {text}")
    if said.status == 403:
        return PermissionDeniedError(f"the model API refused this account: {text}")
    if said.status == 401 or said.kind in {"authentication_failed", "oauth_org_not_allowed"}:
        return NotLoggedInError(f"claude has no working login ({text}); log in with: {LOGIN_FIX}")
    if said.status is None:
        return _without_status(said, text)
    return _by_status(said, said.status, text)


def _by_status(said: Complaint, status: int, text: str) -> ClinvkError:
    if status == 429:
        limited = QuotaExceededError if _USAGE_LIMIT.search(text) else RateLimitedError
        return limited(
            f"the model API limits this account: {text}", retry_after_s=said.retry_after_s
        )
    if status == 404:
        return ModelNotFoundError(f"the model API does not offer this model: {text}", param="model")
    if status == 413:
        return TooLargeError(f"the request is too large for the model API: {text}")
    if status == 529 or said.kind == "overloaded":
        return OverloadedError(
            f"the model API is overloaded: {text}", retry_after_s=said.retry_after_s
        )
    if status >= 500 or status == 408:
        return UpstreamError(
            f"the model API failed with {status}: {text}", retry_after_s=said.retry_after_s
        )
    return UpstreamRefusedError(f"the model API refused the request with {status}: {text}")


def _without_status(said: Complaint, text: str) -> ClinvkError:
    if said.kind == "rate_limit":
        return _by_status(said, 429, text)
    if _OVERLOADED.search(text):
        return OverloadedError(f"the model API is overloaded: {text}")
    if _CONNECTION.search(text):
        return UpstreamUnreachableError(f"the connection to the model API failed: {text}")
    if said.kind is not None:
        return UpstreamError(f"the model API failed: {text}")
    return CliProtocolError(f"claude ended the turn without an answer: {text}")


def _clean(text: str) -> str:
    """Return the API's own words, without the CLI's prefix and advice, secrets removed."""
    bare = _ADVICE.sub("", _PREFIX.sub("", text, count=1), count=1)
    return scrub(bare).strip() or "it gave no reason"
