"""The bodies of `POST /embeddings`: what is asked, and vectors as they are told; knows no model.

A vector comes as the bytes of its 32-bit floats, the low byte first, which is what base64 carries.
"""

import base64
import json
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from clinvk.wire.body import check, load

MAX_INPUTS = 2048

_UNION_STEPS = frozenset({"<text>", "<texts>", "<tokens>", "<token lists>"})
_KNOWN_IGNORED = ("user",)
_HEADER_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_HEADER_NAMES = 40  # that a header may list

_Text = Annotated[str, Field(min_length=1)]
_Tokens = Annotated[list[int], Field(min_length=1)]
Encoding = Literal["float", "base64"]


def _input_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list):
        return None
    first = value[0] if value else ""
    if isinstance(first, list):
        return "<token lists>"
    return "<tokens>" if isinstance(first, int | float) else "<texts>"


InputIn = Annotated[
    Annotated[_Text, Tag("<text>")]
    | Annotated[list[_Text], Tag("<texts>"), Field(min_length=1, max_length=MAX_INPUTS)]
    | Annotated[_Tokens, Tag("<tokens>")]
    | Annotated[list[_Tokens], Tag("<token lists>"), Field(min_length=1, max_length=MAX_INPUTS)],
    Discriminator(
        _input_tag,
        custom_error_type="input_type",
        custom_error_message="it must be a string, tokens, or a list of either",
    ),
]


class EmbeddingRequest(BaseModel):
    """Texts, or their tokens; a server that it is passed on to may know more fields."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    model: str = Field(min_length=1)
    input: InputIn
    encoding_format: Encoding | None = None
    dimensions: int | None = Field(default=None, ge=1)
    # Accepted and ignored, but a wrong type is still the caller's mistake:
    user: str | None = None


class Embedding(BaseModel):
    """One vector: numbers, or the base64 of 32-bit floats."""

    model_config = ConfigDict(extra="allow")

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of all inputs."""

    model_config = ConfigDict(extra="allow")

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """A vector for each text."""

    model_config = ConfigDict(extra="allow")

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has been checked: each input with its name, a text or its tokens."""

    model: str
    inputs: tuple[tuple[str, str | list[int]], ...]
    encoding: Encoding
    dimensions: int | None
    ignored: tuple[str, ...]


def parse(body: bytes) -> Asked:
    """Check a request body.

    Raises:
        BadRequestError: naming the field at fault.
    """
    request = check(EmbeddingRequest, load(body), steps=_UNION_STEPS)
    ignored = [name for name in _KNOWN_IGNORED if getattr(request, name) is not None]
    unknown = (request.model_extra or {}).items()
    ignored += [name for name, value in unknown if value is not None]
    return Asked(
        request.model,
        _inputs(request.input),
        request.encoding_format or "float",
        request.dimensions,
        tuple(ignored),
    )


def ignored_names(asked: Asked) -> str:
    """Return the names of fields that had no effect, as a header lists them."""
    names = [name for name in asked.ignored if _HEADER_NAME.fullmatch(name)]
    return ", ".join(names[:_HEADER_NAMES])


def _inputs(
    asked: str | list[str] | list[int] | list[list[int]],
) -> tuple[tuple[str, str | list[int]], ...]:
    if isinstance(asked, str):
        return (("input", asked),)
    texts: list[str | list[int]] = []
    tokens: list[int] = []
    for each in asked:
        if isinstance(each, int):
            tokens.append(each)
        else:
            texts.append(each)
    if tokens:
        return (("input", tokens),)
    return tuple((f"input[{number}]", each) for number, each in enumerate(texts))


def item(index: int, vector: bytes, encoding: Encoding) -> bytes:
    """Return the `embedding` object of one vector."""
    told: str | Sequence[float]
    if encoding == "base64":
        told = base64.b64encode(vector).decode()
    else:
        told = struct.unpack(f"<{len(vector) // 4}f", vector)
    body = {"object": "embedding", "index": index, "embedding": told}
    return json.dumps(body, allow_nan=False).encode()


def reply(model: str, items: Iterable[bytes], tokens: int) -> bytes:
    """Return the `list` object of what `item` returned."""
    usage = json.dumps({"prompt_tokens": tokens, "total_tokens": tokens})
    pieces = (
        b'{"object": "list", "data": [',
        b", ".join(items),
        f'], "model": {json.dumps(model)}, "usage": {usage}}}'.encode(),
    )
    return b"".join(pieces)
