"""Forms with files that pass to an upstream as they come.

Owns the search for the model in them: clients send their fields in any order, and some the file
first. What comes before the model waits, beyond a little of it on disk; what comes after flows.
Nothing but the model's name and the marks between parts is changed.
"""

import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO

import anyio.to_thread
from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from clinvk.errors import (
    BadRequestError,
    ClinvkError,
    MissingFieldError,
    TooLargeError,
    UpstreamUnreachableError,
)
from clinvk.server.relay import Walk, way_to

PIECE_BYTES = 256 * 1024
IN_MEMORY_BYTES = 1024 * 1024
FIELD_BYTES = 1024


class Form:
    """Answers an endpoint that upstreams alone have, for forms of up to `max_mb`."""

    def __init__(self, endpoint: str, max_mb: float) -> None:
        self._endpoint = endpoint
        self._max_mb = max_mb

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass the form on to the upstream of its model."""
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as early:
            flow = _Flow(request, early, self._max_mb)
            asked = await flow.find_model()
            way = await way_to(request, asked)
            walk = Walk(request, way, self._endpoint, asked)
            body = partial(flow.all, way.end)  # it can be read but once
            try:
                return await walk.run(body, flow.content_type)
            except UpstreamUnreachableError:
                if flow.fault is not None:
                    raise flow.fault from None
                raise


class _Flow:
    """The parts of one form; `fault` is why it could not be read to its end."""

    def __init__(self, request: web.Request, early: IO[bytes], max_mb: float) -> None:
        self.fault: ClinvkError | None = None
        self._request = request
        self._early = early
        self._max_mb = max_mb
        self._left = int(max_mb * 1024 * 1024)
        self._mark = f"clinvk-{uuid.uuid4().hex}"
        self._parts = self._read()

    @property
    def content_type(self) -> str:
        """What the form is sent on as."""
        return f"multipart/form-data; boundary={self._mark}"

    async def find_model(self) -> str:
        """Read up to the model.

        Raises:
            BadRequestError: if there is none, or it is no form.
            TooLargeError: if there is too much before it.
        """
        async for piece in self._parts:
            if isinstance(piece, str):
                return piece
            await anyio.to_thread.run_sync(self._early.write, piece)
        raise MissingFieldError("'model' is required", param="model")

    async def all(self, begin: Callable[[], None], model: str) -> AsyncIterator[bytes]:
        """Yield the whole form, with another model; `begin` is called before."""
        begin()
        await anyio.to_thread.run_sync(self._early.seek, 0)
        read = partial(self._early.read, PIECE_BYTES)
        while piece := await anyio.to_thread.run_sync(read):
            yield piece
        yield model.encode()
        try:
            async for later in self._parts:
                yield model.encode() if isinstance(later, str) else later
        except ClinvkError as exc:
            self.fault = exc
            raise

    async def _read(self) -> AsyncIterator[bytes | str]:
        """Yield the form as bytes, but for the model, which is yielded as a text."""
        with form_faults():
            reader = await form_of(self._request)
            while (part := await reader.next()) is not None:
                if not isinstance(part, BodyPartReader):
                    raise BadRequestError("a form within a form cannot be passed on")
                lines = [f"--{self._mark}", *(f"{k}: {v}" for k, v in part.headers.items()), "", ""]
                yield "\r\n".join(lines).encode("utf-8", "surrogateescape")
                if part.name == "model":
                    yield await short_text(part, "model")
                else:
                    while piece := await part.read_chunk(PIECE_BYTES):
                        self._count(piece)
                        yield piece
                yield b"\r\n"
        yield f"--{self._mark}--\r\n".encode()

    def _count(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            raise TooLargeError(
                f"the files are over {self._max_mb:g} MB; raise server.max_upload_mb to allow more"
            )


async def form_of(request: web.Request) -> MultipartReader:
    """Return the form that a request brings.

    Raises:
        BadRequestError: if it brings none.
    """
    if not request.body_exists:
        raise BadRequestError("there is no body; send a form, as multipart/form-data")
    with form_faults():
        return await request.multipart()


async def short_text(part: BodyPartReader, name: str) -> str:
    """Return the text of a form's field.

    Raises:
        BadRequestError: if it is over `FIELD_BYTES`.
    """
    text = bytearray()
    with form_faults():
        while piece := await part.read_chunk(FIELD_BYTES):
            text += piece
            if len(text) > FIELD_BYTES:
                raise BadRequestError(f"{name!r} is too long", param=name)
    return text.decode("utf-8", "replace").strip()


@contextmanager
def form_faults() -> Iterator[None]:
    """Tell what is wrong with a form as the caller's mistake."""
    try:
        yield
    except (ValueError, HttpProcessingError) as exc:
        said = " ".join(str(exc).split())
        raise BadRequestError(f"the body is no form: {said}") from exc
