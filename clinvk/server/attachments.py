"""Uploaded files that a request names by id, put in their place as if they had been sent with it.

Owns which ids a caller may use, and how much of files a request may hold: no more than a body of
its own could. Ids that are an upstream's pass on to it.
"""

import base64
import json
import logging
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import anyio.to_thread
from aiohttp import web

from clinvk.backends.base import Relay
from clinvk.errors import (
    BadRequestError,
    InternalError,
    TooLargeError,
    UnknownFileError,
)
from clinvk.filestore import FileStore, StoredFile, StoreError
from clinvk.media import TYPE_BYTES, file_type
from clinvk.registry import Registry
from clinvk.server.auth import caller_of
from clinvk.turn import FilePart, ImagePart, Message, Part, Turn
from clinvk.wire.base import Parsed
from clinvk.wire.file_ids import Content, ids_in, put_in
from clinvk.wire.passed import Named, named

FILES = web.AppKey("clinvk.files", FileStore)
MAX_MB = web.AppKey("clinvk.files.max_mb", float)

_MARK = b'"file_id"'  # in every body that names a file, written as JSON is
_TYPES = mimetypes.MimeTypes()  # of this program alone, not the machine's

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A file with its content in base64; `media_type` is None where its bytes tell none."""

    file: StoredFile
    media_type: str | None
    data: str

    @property
    def content(self) -> Content:
        """The file as it stands in a body."""
        guessed = _TYPES.guess_type(self.file.filename)[0] or "application/octet-stream"
        url = f"data:{self.media_type or guessed};base64,{self.data}"
        return Content(self.file.filename, url)


@contextmanager
def readable() -> Iterator[None]:
    """Tell a fault of the store as the caller may know it, and the log why.

    Raises:
        InternalError: if the store cannot be read or written.
    """
    try:
        yield
    except StoreError as exc:
        _log.error("%s", exc)
        raise InternalError("the store of files cannot be used; the log says why") from exc


async def stored(request: web.Request, file_id: str) -> StoredFile | None:
    """Return what is known of a file of the caller's; None if it has none of this id.

    Raises:
        InternalError: if the store cannot be read.
    """
    return (await _find(request, [file_id])).get(file_id)


async def with_files(request: web.Request, parsed: Parsed, registry: Registry) -> Parsed:
    """Return a request with every file of the caller's in the place of its id.

    Only its first turn can have any: where there are more, they are of prompts.

    Raises:
        UnknownFileError: naming the part whose file is not here, unless an upstream may have it.
        TooLargeError: if the files are more than a body may hold.
        BadRequestError: if what stands for an image is none.
        InternalError: if the store cannot be read.
    """
    turn = await turn_with_files(request, parsed.turn, registry)
    return parsed if turn is parsed.turn else replace(parsed, turn=turn)


async def turn_with_files(request: web.Request, turn: Turn, registry: Registry) -> Turn:
    """Return a turn with every file of the caller's in the place of its id; see `with_files`.

    Raises:
        UnknownFileError: naming the part whose file is not here, unless an upstream may have it.
        TooLargeError: if the files are more than a body may hold.
        BadRequestError: if what stands for an image is none.
        InternalError: if the store cannot be read.
    """
    wanted = list(_by_id(turn.messages))
    if not wanted:
        return turn
    candidates = registry.route(turn.model).candidates
    elsewhere = any(isinstance(each.target.backend, Relay) for each in candidates)
    ids = [file_id for file_id, _, _ in wanted]
    loaded = await _load(request, ids)
    for file_id, part, param in wanted:
        if file_id in loaded:
            _check(loaded[file_id], part, param)
        elif not (elsewhere and isinstance(part, FilePart)):
            raise UnknownFileError(
                f"there is no file {file_id[:100]!r} here; upload it with POST /files, or send its "
                f"content",
                param=param,
            )
    messages = (replace(m, parts=tuple(_filled(p, loaded) for p in m.parts)) for m in turn.messages)
    return replace(turn, messages=tuple(messages))


async def embedded(request: web.Request, raw: bytes, body: Named) -> Named:
    """Return a body that passes to an upstream with the caller's files in the place of their ids.

    Args:
        request: who asks.
        raw: the body as it was sent.
        body: the same with its model; it is returned as it is if it names no file that is here.

    Raises:
        TooLargeError: if the files are more than a body may hold.
        InternalError: if the store cannot be read.
    """
    if _MARK not in raw:
        return body
    try:
        asked = json.loads(raw)
    except RecursionError:  # one level deeper than what was read of it
        return body
    loaded = await _load(request, ids_in(asked))
    if not loaded:
        return body
    put_in(asked, {file_id: each.content for file_id, each in loaded.items()})
    return named(json.dumps(asked).encode()) or body


async def _find(request: web.Request, ids: Sequence[str]) -> dict[str, StoredFile]:
    with readable():
        return await request.app[FILES].find(ids, owner=caller_of(request).name)


async def _load(request: web.Request, ids: Sequence[str]) -> dict[str, _Loaded]:
    """Return those of the files that the caller has, with their contents."""
    found = await _find(request, ids)
    most = request.app[MAX_MB]
    whole = sum(4 * ((found[each].size + 2) // 3) for each in ids if each in found)
    if whole > most * 1024 * 1024:
        raise TooLargeError(
            f"the files that the request names are over {most:g} MB in base64, and no request may "
            f"be; raise server.max_body_mb to allow more"
        )
    with readable():
        contents = await request.app[FILES].contents(list(found.values()))

    def loaded() -> dict[str, _Loaded]:
        return {
            file_id: _Loaded(
                found[file_id],
                file_type(content[:TYPE_BYTES]),
                base64.b64encode(content).decode(),
            )
            for file_id, content in contents.items()
        }

    return await anyio.to_thread.run_sync(loaded)


def _by_id(messages: Sequence[Message]) -> Iterator[tuple[str, Part, str]]:
    """Yield each file that is named alone, with its part and the name of the field."""
    for at, message in enumerate(messages):
        for position, part in enumerate(message.parts):
            if (file_id := _id_of(part)) is not None:
                yield file_id, part, f"messages[{at}].content[{position}].file_id"


def _id_of(part: Part) -> str | None:
    if isinstance(part, FilePart | ImagePart) and part.data is None:
        return None if isinstance(part, ImagePart) and part.url is not None else part.file_id
    return None


def _check(loaded: _Loaded, part: Part, param: str) -> None:
    is_image = (loaded.media_type or "").startswith("image/")
    if isinstance(part, ImagePart) and not is_image:
        raise BadRequestError(
            f"the file {loaded.file.id!r} is none of PNG, JPEG, GIF and WebP", param=param
        )


def _filled(part: Part, loaded: Mapping[str, _Loaded]) -> Part:
    found = loaded.get(_id_of(part) or "")
    if found is None:
        return part
    if isinstance(part, FilePart):
        name = part.filename or found.file.filename
        return FilePart(name, found.media_type or "text/plain", found.data)
    return ImagePart(media_type=found.media_type, data=found.data)
