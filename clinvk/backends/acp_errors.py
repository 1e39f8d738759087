"""What any ACP agent says when a turn or a session fails, as errors: pure.

The protocol has one code of its own, -32000: a login is needed. All else comes in the agent's own
words, in which the status of the model API is looked for. Knows no agent by name.
"""

import json
import re

from clinvk.errors import (
    ClinvkError,
    CliProtocolError,
    ModelNotFoundError,
    NotLoggedInError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitedError,
    TooLargeError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)
from clinvk.procs.rpc import RpcError
from clinvk.procs.tail import scrub

AUTH_REQUIRED = -32000

# Not what is part of an address, a path, a version or a measure, or the number of a line of code.
_STATUS = re.compile(
    r"(?<![\d.:/-])(?<!line )(?<!port )([45]\d\d)(?![\w.])"
    r"(?! (?:ms|seconds|[kKMG]i?B|bytes|tokens|lines|characters|files)\b)"
)
_NETWORK = re.compile(
    r"\b(?:econn\w+|enotfound|etimedout|eai_again)\b|fetch failed|socket hang up"
    r"|connection (?:error|refused)|unable to connect|premature close|network error",
    re.IGNORECASE,
)
_LOGIN = re.compile(
    r"(?:invalid|incorrect|missing|no|bad) (?:api.?key|credentials)"
    r"|authentication (?:failed|error)|unauthori[sz]ed|not (?:logged|signed) in|please log in",
    re.IGNORECASE,
)
_BUSY = re.compile(r"overloaded|high demand|at capacity", re.IGNORECASE)
_SHOWN = 2000


def words(exc: RpcError) -> str:
    """Return what an agent says of an error, without secrets."""
    return scrub(_words(exc.message, exc.data))[:_SHOWN]


def session_error(exc: RpcError, methods: str) -> ClinvkError:
    """Return the error that a session could not be opened by; `methods` says how to log in."""
    if exc.code == AUTH_REQUIRED:
        how = methods or "start the agent by hand and log in"
        return NotLoggedInError(f"the agent wants a login: {scrub(exc.message)}; {how}")
    return classify(exc.code, exc.message, exc.data)


def classify(code: object, message: object, data: object) -> ClinvkError:
    """Return the error that a turn failed with.

    Args:
        code: of JSON-RPC, or the status of the model API.
        message: in the agent's words, often no more than "Internal error".
        data: whatever the agent adds, often with the words of the model API.
    """
    said = scrub(_words(message, data))[:_SHOWN]
    if code == AUTH_REQUIRED:
        return NotLoggedInError(f"the agent wants a login: {said}; start it by hand and log in")
    status = code if isinstance(code, int) and 400 <= code < 600 else None
    found = api_error(said, status, "the agent")
    return found or CliProtocolError(f"the agent refused the turn: {said} ({code})")


def api_error(said: str, status: int | None, who: str) -> ClinvkError | None:
    """Return the error of a model API that `who` speaks of, None if there is none in the words.

    `status` is that of the API if it is known; else it is looked for.
    """
    status = _status(said) if status is None else status
    if status is None:
        if _NETWORK.search(said):
            return UpstreamUnreachableError(f"{who} could not reach its model API: {said}")
        status = 401 if _LOGIN.search(said) else 503 if _BUSY.search(said) else None
    if status is None:
        return None
    if status == 401:
        return NotLoggedInError(
            f"the model API refuses the login of {who}: {said}; start it by hand and log in"
        )
    kinds = {
        403: PermissionDeniedError,
        404: ModelNotFoundError,
        413: TooLargeError,
        429: RateLimitedError,
        503: OverloadedError,
        529: OverloadedError,
    }
    kind = kinds.get(status, UpstreamRefusedError if status < 500 else UpstreamError)
    return kind(f"the model API says: {said}")


def _words(message: object, data: object) -> str:
    if isinstance(data, dict):
        data = data.get("details") or data.get("message") or json.dumps(data)
    return f"{message}: {data}" if data else str(message)


def _status(said: str) -> int | None:
    found = _STATUS.search(said)
    return None if found is None else int(found[1])
