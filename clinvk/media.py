"""Images as a caller sends them, read and checked: pure, and knows no CLI.

What an image is, its first bytes say: a type that was declared wrong is put right.
"""

import base64
import binascii
import re
from dataclasses import dataclass

from clinvk.errors import BadRequestError, UnsupportedError
from clinvk.turn import ImagePart

_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?P<options>(?:;[^,]*)?),", re.IGNORECASE)
_WEB = ("http://", "https://")
_SHOWN = 40
_HEAD = 64  # characters of base64 that tell the type


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
    data = part.data if part.data is not None else _content(part.url or "", param)
    data = "".join(data.split())
    data += "=" * (-len(data) % 4)
    try:
        # Some tools write the URL-safe alphabet; decoded once, to know that it can be.
        data = data.replace("-", "+").replace("_", "/")
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadRequestError(f"the image is not valid base64 ({exc})", param=param) from exc
    media_type = _type_of(base64.b64decode(data[:_HEAD]))
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


def _type_of(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None
