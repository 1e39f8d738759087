"""Images, sound and files as a caller sends them, read and checked: pure, and knows no CLI.

What an image or a file is, its first bytes say: a type that was declared wrong is put right.
"""

import base64
import binascii
import re
from dataclasses import dataclass

from clinvk.errors import BadRequestError, UnsupportedError
from clinvk.turn import AudioPart, FilePart, ImagePart

_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?P<options>(?:;[^,]*)?),", re.IGNORECASE)
_WEB = ("http://", "https://")
_SHOWN = 40
TYPE_BYTES = 48  # of an image that surely tell its type


@dataclass(frozen=True, slots=True)
class Image:
    """An image by content: `media_type` is one of four, `data` clean base64."""

    media_type: str
    data: str

    @property
    def url(self) -> str:
        """The image as a data URL."""
        return f"data:{self.media_type};base64,{self.data}"


def is_remote(part: ImagePart) -> bool:
    """Whether the image would have to be fetched."""
    return part.data is None and (part.url or "").lower().startswith(_WEB)


def read_image(part: ImagePart, param: str) -> Image:
    """Return the content of an image; `param` is the path of the part in the request.

    Raises:
        BadRequestError: if it is no base64 of a PNG, JPEG, GIF or WebP image.
        UnsupportedError: if it is an address, not content.
    """
    data = _clean(part.data if part.data is not None else _content(part.url or "", param))
    _decode(data, "image", param)
    media_type = image_type(base64.b64decode(data[: TYPE_BYTES // 3 * 4]))
    if media_type is None:
        raise BadRequestError(
            "the image is none of PNG, JPEG, GIF and WebP; convert it to one of them", param=param
        )
    return Image(media_type, data)


def _content(url: str, param: str) -> str:
    found = _DATA_URL.match(url)
    if found is not None:
        if not found["options"].lower().endswith(";base64"):
            raise BadRequestError("the data URL of an image must be base64", param=param)
        return url[found.end() :]
    if url.lower().startswith(_WEB):
        raise UnsupportedError(
            "an image by http address cannot be passed on; send it as a data URL "
            "(data:image/png;base64,…)",
            param=param,
        )
    shown = url if len(url) <= _SHOWN else f"{url[:_SHOWN]}…"
    raise BadRequestError(
        f"{shown!r} is not the address of an image; send a data URL (data:image/png;base64,…)",
        param=param,
    )


def image_type(head: bytes) -> str | None:
    """Return the media type of an image by its first bytes, None if it is of no known type."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None


@dataclass(frozen=True, slots=True)
class Document:
    """A file by content: a PDF as clean base64 in `data`, or anything that reads as `text`."""

    name: str
    data: str | None
    text: str | None

    @property
    def as_text(self) -> str | None:
        """A text file as text for a model, after its name."""
        return None if self.text is None else f"{self.name}:\n{self.text}\n"


AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mp3"}
PDF_TYPE = "application/pdf"
_PDF = b"%PDF-"


def file_type(head: bytes) -> str | None:
    """Return the media type of a PDF or an image by its first bytes, None of anything else."""
    return PDF_TYPE if head.startswith(_PDF) else image_type(head)


def read_audio(part: AudioPart, param: str) -> tuple[str, str]:
    """Return the media type and the clean base64 of a piece of sound.

    Raises:
        BadRequestError: if it is no base64, or of another format than wav and mp3.
    """
    media_type = AUDIO_TYPES.get(part.format.lower())
    if media_type is None:
        raise BadRequestError(
            f"the audio format {part.format!r} is none of {', '.join(AUDIO_TYPES)}", param=param
        )
    _decode(data := _clean(part.data), "audio", param)
    return media_type, data


def is_pdf(part: FilePart) -> bool:
    """Whether a file's first bytes say that it is a PDF."""
    found = _DATA_URL.match(part.data or "")
    start = found.end() if found is not None else 0
    head = _clean((part.data or "")[start : start + 2 * TYPE_BYTES])
    try:
        return base64.b64decode(head).startswith(_PDF)
    except ValueError:
        return False


def read_document(part: FilePart, param: str) -> Document:
    """Return the content of a file; what it is, its bytes say.

    Raises:
        BadRequestError: if it is neither a PDF nor UTF-8 text, or no base64.
        UnsupportedError: if it has no content, or only the id of a file that is not here.
    """
    if part.data is None:
        raise UnsupportedError(
            "the file has no content here; send its file_data, or the file_id of an upload",
            param=param,
        )
    found = _DATA_URL.match(part.data)
    data = _clean(part.data[found.end() :] if found is not None else part.data)
    raw = _decode(data, "file", param)
    name = part.filename or "file"
    if raw.startswith(_PDF):
        return Document(name, data, None)
    try:
        return Document(name, None, raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadRequestError(
            f"the file {name!r} is neither a PDF nor UTF-8 text", param=param
        ) from None


def _clean(data: str) -> str:
    # Some tools write the URL-safe alphabet, break lines, or leave the padding out.
    data = "".join(data.split()).replace("-", "+").replace("_", "/")
    return data + "=" * (-len(data) % 4)


def _decode(data: str, kind: str, param: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadRequestError(f"the {kind} is not valid base64 ({exc})", param=param) from exc
