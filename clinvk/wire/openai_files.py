"""The requests and replies of OpenAI's Files API, and what may be said of a file."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clinvk.errors import BadRequestError
from clinvk.wire.body import check

NAME_CHARACTERS = 255
LIST_LIMIT_MAX = 10_000
EXPIRES_MIN_S = 3_600
EXPIRES_MAX_S = 2_592_000
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]


class FileFields(BaseModel):
    """What a form says of its file; `expires_after` has both of its fields, or none."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    purpose: Purpose
    anchor: Literal["created_at"] | None = Field(default=None, alias=ANCHOR)
    seconds: int | None = Field(default=None, alias=SECONDS, ge=EXPIRES_MIN_S, le=EXPIRES_MAX_S)

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        for name, value, other in (
            (ANCHOR, self.anchor, self.seconds),
            (SECONDS, self.seconds, self.anchor),
        ):
            if value is None and other is not None:
                raise BadRequestError(f"{name!r} is required for an expiry", param=name)
        return self


class FileForm(FileFields):
    """A file, and what it is for."""

    file: bytes


class FileContent(BaseModel):
    """The bytes of a file; its type is that of a PDF or an image where its bytes say so."""


def file_fields(told: Mapping[str, str]) -> FileFields:
    """Check the fields of a form.

    Raises:
        BadRequestError: for the first fault, naming the field.
    """
    return check(FileFields, dict(told))


def file_name(told: str | None) -> str:
    """Return a file's name as it may be shown: the last of a path, on one line, not too long."""
    last = (told or "").replace("\\", "/").rpartition("/")[2]
    kept = "".join(c for c in last if c.isprintable())[:NAME_CHARACTERS].strip()
    return kept or "file"


def file_body(
    file_id: str, *, size: int, created_at: float, expires_at: float, filename: str, purpose: str
) -> dict[str, Any]:
    """Return a `file` object; `size` is in bytes, times are in seconds since 1970."""
    return {
        "id": file_id,
        "object": "file",
        "bytes": size,
        "created_at": int(created_at),
        "expires_at": int(expires_at),
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
    }


def list_body(files: Sequence[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """Return a page of `file` objects."""
    return {
        "object": "list",
        "data": list(files),
        "first_id": files[0]["id"] if files else "",
        "last_id": files[-1]["id"] if files else "",
        "has_more": more,
    }


def deleted_body(file_id: str) -> dict[str, Any]:
    """Return what is told of a file that is no more."""
    return {"id": file_id, "object": "file", "deleted": True}
