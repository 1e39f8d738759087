"""How Anthropic's API tells errors and models."""

import pytest
from inline_snapshot import snapshot

from clinvk.errors import (
    AuthenticationError,
    BadRequestError,
    BusyError,
    CliCrashedError,
    ClinvkError,
    InternalError,
    MethodNotAllowedError,
    MissingFieldError,
    ModelNotFoundError,
    NotLoggedInError,
    OverloadedError,
    PermissionDeniedError,
    TooLargeError,
    TurnTimeoutError,
    UnsupportedError,
)
from clinvk.wire.anthropic_messages import AnthropicMessages, list_body

ERRORS: list[tuple[ClinvkError, int, str, str]] = [
    (BadRequestError("no", param="messages[0]"), 400, "invalid_request_error", "messages[0]: no"),
    (MissingFieldError("'a' is needed", param="a"), 400, "invalid_request_error", "'a' is needed"),
    (UnsupportedError("no"), 400, "invalid_request_error", "no"),
    (AuthenticationError("no"), 401, "authentication_error", "no"),
    (PermissionDeniedError("no"), 403, "permission_error", "no"),
    (ModelNotFoundError("no"), 404, "not_found_error", "no"),
    (MethodNotAllowedError("no"), 405, "invalid_request_error", "no"),
    (TooLargeError("no"), 413, "request_too_large", "no"),
    (BusyError("no"), 429, "rate_limit_error", "no"),
    (InternalError("no"), 500, "api_error", "no"),
    (CliCrashedError("no"), 502, "api_error", "no"),
    (NotLoggedInError("no"), 503, "api_error", "no"),
    (TurnTimeoutError("no"), 504, "timeout_error", "no"),
    (OverloadedError("no"), 529, "overloaded_error", "no"),
]


@pytest.mark.parametrize(("error", "status", "kind", "message"), ERRORS)
def test_errors(error: ClinvkError, status: int, kind: str, message: str) -> None:
    assert AnthropicMessages().error(error) == (
        status,
        {"type": "error", "error": {"type": kind, "message": message}, "request_id": None},
    )


def test_a_page_of_models() -> None:
    assert list_body(["a", "b/c"]) == snapshot(
        {
            "data": [
                {
                    "type": "model",
                    "id": "a",
                    "display_name": "a",
                    "created_at": "2025-01-01T00:00:00Z",
                    "max_input_tokens": None,
                    "max_tokens": None,
                    "capabilities": None,
                    "lifecycle": "active",
                },
                {
                    "type": "model",
                    "id": "b/c",
                    "display_name": "b/c",
                    "created_at": "2025-01-01T00:00:00Z",
                    "max_input_tokens": None,
                    "max_tokens": None,
                    "capabilities": None,
                    "lifecycle": "active",
                },
            ],
            "has_more": False,
            "first_id": "a",
            "last_id": "b/c",
        }
    )
    assert list_body([]) == {"data": [], "has_more": False, "first_id": None, "last_id": None}
