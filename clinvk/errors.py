"""Every way a turn can fail, each with its HTTP status, code and whether a retry can help.

Owns the classes; knows no dialect: wire/ turns them into error bodies.
"""

from typing import ClassVar


class ClinvkError(Exception):
    """A failure with a message for the caller.

    Attributes:
        message: lower-case text that says what happened and what to do next.
        param: the request field at fault, such as `messages[0].content`.
        retry_after_s: seconds until a retry may succeed, if known.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def name(self) -> str:
        """What a turn that failed so is counted as."""
        return self.code or type(self).__name__


class InternalError(ClinvkError):
    """A bug in clinvk; the log has the traceback."""


class BadRequestError(ClinvkError):
    """The request cannot be served as it is; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class MissingFieldError(BadRequestError):
    """A required field is absent."""

    code = "missing_required_parameter"


class UnsupportedError(BadRequestError):
    """The field is valid, but this backend cannot carry it."""

    code = "unsupported_value"


class UnknownFileError(BadRequestError):
    """The caller has no file of this id here."""

    code = "file_not_found"


class StorageQuotaError(BadRequestError):
    """As many files are kept as `server.files` allows; a status that OpenAI's API has, too."""

    code = "storage_quota_exceeded"


class ContextTooLongError(BadRequestError):
    """The prompt is over a limit of the CLI or of the model; the message names it."""

    code = "context_length_exceeded"


class UpstreamRefusedError(BadRequestError):
    """The model API answered 400 to what the CLI sent."""

    code = "upstream_bad_request"


class AuthenticationError(ClinvkError):
    """The caller's key for this server is missing or wrong."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDeniedError(ClinvkError):
    """The model API refused the account that the CLI is logged in to."""

    status = 403
    type = "permission_error"
    code = "permission_denied"


class OriginRefusedError(ClinvkError):
    """A web page asks that may not."""

    status = 403
    type = "permission_error"
    code = "origin_not_allowed"


class HostRefusedError(OriginRefusedError):
    """The request is for another host than this server: a page may have rebound its name."""

    code = "host_not_allowed"


class ModelNotAllowedError(ClinvkError):
    """The caller's key is not for this model."""

    status = 403
    type = "permission_error"
    code = "model_not_allowed"


class NotFoundError(ClinvkError):
    """No such path or object."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """No backend, or no model of the vendor, has this name."""

    code = "model_not_found"


class MethodNotAllowedError(ClinvkError):
    """The path exists, but not for this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class TooLargeError(ClinvkError):
    """The request body is over `server.max_body_mb`, or over the model API's own limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class MediaTypeError(ClinvkError):
    """The body is not sent as JSON."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class BusyError(ClinvkError):
    """All turns and all places in the queue of a backend are taken."""

    status = 429
    type = "rate_limit_error"
    code = "server_busy"
    retryable = True


class RateLimitedError(ClinvkError):
    """The vendor's rate limit or quota is used up."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retryable = True


class KeyLimitError(ClinvkError):
    """The caller's key has used up what it may for now."""

    status = 429
    type = "rate_limit_error"
    code = "key_limit_exceeded"
    retryable = True


class QuotaExceededError(RateLimitedError):
    """The vendor's quota is used up for longer than a retry would wait."""

    code = "insufficient_quota"
    retryable = False


class UpstreamError(ClinvkError):
    """The model API failed (5xx)."""

    status = 502
    code = "upstream_error"
    retryable = True


class OverloadedError(UpstreamError):
    """The model API says that it is overloaded."""

    code = "upstream_overloaded"


class UpstreamUnreachableError(UpstreamError):
    """The CLI could not connect to its model API, or lost the connection mid-answer."""

    code = "upstream_unreachable"


class UpstreamTimeoutError(UpstreamError):
    """The model API says that it, or what is behind it, took too long."""

    status = 504
    code = "upstream_timeout"


class InvalidAnswerError(UpstreamError):
    """The model did not keep to the JSON that the caller asked for."""

    code = "invalid_answer"


class CliCrashedError(ClinvkError):
    """The CLI's process ended before its turn did."""

    status = 502
    code = "cli_crashed"
    retryable = True


class CliProtocolError(ClinvkError):
    """The CLI said something that clinvk cannot understand."""

    status = 502
    code = "cli_protocol_error"


class UnavailableError(ClinvkError):
    """The backend cannot be used until someone acts; the message has the command."""

    status = 503
    code = "backend_unavailable"


class NotInstalledError(UnavailableError):
    """The CLI is not on this machine."""

    code = "cli_not_installed"


class NotLoggedInError(UnavailableError):
    """The CLI has no working login."""

    code = "cli_not_logged_in"


class UpstreamUnauthorizedError(NotLoggedInError):
    """The upstream does not take the key that it is shown."""

    code = "upstream_unauthorized"


class ShuttingDownError(ClinvkError):
    """The server is stopping."""

    status = 503
    code = "server_shutting_down"
    retryable = True


class StorageFullError(ClinvkError):
    """The disk that files are kept on is full."""

    status = 507
    code = "storage_full"


class TurnTimeoutError(ClinvkError):
    """The turn took longer than a limit in backends.yaml allows."""

    status = 504
    type = "timeout_error"
    code = "timeout"
