"""The routes of OpenAI's Files API: files of a caller, kept for it and shown to nobody else.

Owns the way of bytes between connections and the store, piece by piece. What a page is given is
never a page itself: whatever a file holds, browsers save it and do not show it.
"""

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import BinaryIO, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
from aiohttp import BodyPartReader, hdrs, web

from clinvk.config import ServerConfig
from clinvk.errors import (
    BadRequestError,
    MissingFieldError,
    NotFoundError,
    StorageFullError,
    TooLargeError,
)
from clinvk.filestore import FileStore, StoredFile, StoreError
from clinvk.media import TYPE_BYTES, file_type
from clinvk.server import pages
from clinvk.server.attachments import FILES, readable, stored
from clinvk.server.auth import caller_of
from clinvk.server.forms import PIECE_BYTES, form_faults, form_of, short_text
from clinvk.server.handlers import SEND_S, taken_in_time
from clinvk.server.middleware import request_id
from clinvk.server.paging import limit_of, newest_first
from clinvk.upload import Upload
from clinvk.wire.openai_files import (
    LIST_LIMIT_MAX,
    deleted_body,
    file_body,
    file_fields,
    file_name,
    list_body,
)

MB = 1024 * 1024
PARTS = 32  # of a form; the API knows four
PLAIN = frozenset({"binary", "8bit", "7bit"})
UNKNOWN_TYPE = "application/octet-stream"

T = TypeVar("T")

_log = logging.getLogger(__name__)


def add_routes(app: web.Application, prefix: str, server: ServerConfig) -> None:
    """Add the routes of the Files API under a prefix."""
    path = f"{prefix}/files"
    app.router.add_get(path, list_files)
    app.router.add_post(path, Uploads(server.max_upload_mb).handle)
    app[pages.FORMS].add(path)
    app.router.add_get(f"{path}/{{id}}", get_file)
    app.router.add_delete(f"{path}/{{id}}", delete_file)
    app.router.add_get(f"{path}/{{id}}/content", get_content)


class Uploads:
    """Answers `POST /files`, for files of up to `max_mb`."""

    def __init__(self, max_mb: float) -> None:
        self._max_mb = max_mb

    async def handle(self, request: web.Request) -> web.Response:
        """Keep the file of a form."""
        return web.json_response(_body(await _told(self._kept(request))))

    async def _kept(self, request: web.Request) -> StoredFile:
        """Keep the file; whatever fails, nothing of it stays."""
        told: dict[str, str] = {}
        name, upload = "", None
        async with contextlib.AsyncExitStack() as stack:
            async for part in _parts(request):
                if part.name != "file":
                    with _coming(request):
                        text = await short_text(part, part.name or "a field")
                    told[part.name or ""] = text
                    continue
                if upload is not None:
                    raise BadRequestError("'file' must be one file", param="file")
                name = file_name(part.filename)
                upload = Upload(request.app[FILES], caller_of(request).name)
                await stack.enter_async_context(upload)
                await self._write(request, upload, part)
            fields = file_fields(told)
            if upload is None:
                raise MissingFieldError("'file' is required", param="file")
            return await upload.finish(
                filename=name, purpose=fields.purpose, expires_s=fields.seconds
            )

    async def _write(self, request: web.Request, upload: Upload, part: BodyPartReader) -> None:
        encoding = part.headers.get(hdrs.CONTENT_TRANSFER_ENCODING, "binary").lower()
        if encoding not in PLAIN:
            raise BadRequestError("the bytes of a file must be sent as they are", param="file")
        left = int(self._max_mb * MB)
        while piece := await _read(request, part):
            left -= len(piece)
            if left < 0:
                raise TooLargeError(
                    f"the file is over {self._max_mb:g} MB; raise server.max_upload_mb to allow "
                    f"more",
                    param="file",
                )
            await upload.write(piece)


async def clean(store: FileStore) -> None:
    """Remove what has expired and what a crash left behind; a fault is logged."""
    try:
        await store.clean()
    except (StoreError, StorageFullError) as exc:
        _log.warning("the files that are kept could not be looked through: %s", exc)


async def list_files(request: web.Request) -> web.Response:
    """Answer `GET /files`, the newest first unless asked otherwise."""
    after = request.query.get("after")
    page = await _told(
        request.app[FILES].page(
            owner=caller_of(request).name,
            purpose=request.query.get("purpose"),
            after=after,
            limit=limit_of(request, default=LIST_LIMIT_MAX, most=LIST_LIMIT_MAX),
            newest=newest_first(request),
        )
    )
    if page is None:
        raise BadRequestError(
            f"there is no file {str(after)[:100]!r} to go on after", param="after"
        )
    files, more = page
    return web.json_response(list_body([_body(file) for file in files], more=more))


async def get_file(request: web.Request) -> web.Response:
    """Answer `GET /files/{id}`."""
    return web.json_response(_body(await _asked(request)))


async def delete_file(request: web.Request) -> web.Response:
    """Answer `DELETE /files/{id}`: its content goes with it."""
    file_id = request.match_info["id"]
    deleting = request.app[FILES].delete(file_id, owner=caller_of(request).name)
    if not await _told(deleting):
        raise _not_found(file_id)
    return web.json_response(deleted_body(file_id))


async def get_content(request: web.Request) -> web.StreamResponse:
    """Answer `GET /files/{id}/content`, piece by piece from the disk."""
    file = await _asked(request)
    # Not in a thread: a caller that is cancelled would lose what that has opened.
    content = _opened(request.app[FILES], file)
    with content:
        head = content.read(TYPE_BYTES)
        content.seek(0)
        response = web.StreamResponse(headers=_headers(file, head))
        response.content_length = os.fstat(content.fileno()).st_size
        try:
            await _send(request, response, content)
        except ConnectionError:
            _log.debug("%s: the client went away", request_id(request))
        except OSError as exc:
            _log.error("%s broke off: %s", request_id(request), exc)
            if request.transport is not None:
                request.transport.abort()
    return response


async def _send(request: web.Request, response: web.StreamResponse, content: BinaryIO) -> None:
    await response.prepare(request)
    left = response.content_length or 0
    while left and request.method != hdrs.METH_HEAD:
        piece = await anyio.to_thread.run_sync(content.read, min(left, PIECE_BYTES))
        if not piece:
            raise OSError("its content has become shorter")
        left -= len(piece)
        with taken_in_time(request):
            await response.write(piece)
    with taken_in_time(request):
        await response.write_eof()


def _opened(store: FileStore, file: StoredFile) -> BinaryIO:
    with readable():
        content = store.open(file)
    if content is None:
        raise _not_found(file.id)
    return content


def _headers(file: StoredFile, head: bytes) -> dict[str, str]:
    """What says of a content that it is to be saved, and nothing else."""
    plain = "".join(c if c.isascii() and c not in '"\\%' else "_" for c in file.filename)
    name = f"filename=\"{plain}\"; filename*=UTF-8''{quote(file.filename, safe='')}"
    return {
        hdrs.CONTENT_TYPE: file_type(head) or UNKNOWN_TYPE,
        hdrs.CONTENT_DISPOSITION: f"attachment; {name}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        hdrs.CACHE_CONTROL: "private, no-store",
    }


async def _parts(request: web.Request) -> AsyncIterator[BodyPartReader]:
    """Yield the parts of a form, each to be read before the next."""
    reader = await form_of(request)
    for _ in range(PARTS):
        with _coming(request):
            part = await reader.next()
        if part is None:
            return
        if not isinstance(part, BodyPartReader):
            raise BadRequestError("a form within a form cannot be read")
        yield part
    raise BadRequestError(f"the form has more than {PARTS} parts")


async def _read(request: web.Request, part: BodyPartReader) -> bytes:
    with _coming(request):
        return await part.read_chunk(PIECE_BYTES)


@contextlib.contextmanager
def _coming(request: web.Request) -> Iterator[None]:
    """Give up on a client that sends nothing, or it would hold its room for as long."""
    send_s = request.app[SEND_S]
    try:
        with anyio.fail_after(send_s), form_faults():
            yield
    except TimeoutError:
        raise BadRequestError(
            f"nothing came for {send_s:g} s (server.send_s); send the form again"
        ) from None


async def _asked(request: web.Request) -> StoredFile:
    file_id = request.match_info["id"]
    file = await stored(request, file_id)
    if file is None:
        raise _not_found(file_id)
    return file


async def _told(asking: Awaitable[T]) -> T:
    with readable():
        return await asking


def _not_found(file_id: str) -> NotFoundError:
    return NotFoundError(f"there is no file {file_id[:100]!r} here", param="id")


def _body(file: StoredFile) -> dict[str, object]:
    return file_body(
        file.id,
        size=file.size,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
    )
