"""Files by id in the bodies of Chat Completions and Responses, as JSON: where, and what instead.

Pure; knows neither where files are kept nor whose they are. What it does not know stays as it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Content:
    """A file as it stands in a body: `url` is a data URL."""

    filename: str
    url: str


def ids_in(body: Json) -> list[str]:
    """Return the id of each file that stands for a content, in order, as often as it does."""
    return [holder["file_id"] for _, holder in _holders(body)]


def put_in(body: Json, contents: Mapping[str, Content]) -> None:
    """Put contents in the place of their ids; other ids stay."""
    for kind, holder in _holders(body):
        content = contents.get(holder["file_id"])
        if content is None:
            continue
        del holder["file_id"]
        if kind == "input_image":
            holder["image_url"] = content.url
        else:
            holder["filename"] = holder.get("filename") or content.filename
            holder["file_data"] = content.url


def _holders(body: Json) -> Iterator[tuple[str, Json]]:
    """Yield each object that has an id and no content, with the type of its part."""
    for part in _parts(body):
        kind = part.get("type")
        holder = part.get("file") if kind == "file" else part
        if (
            kind in ("file", "input_file", "input_image")
            and isinstance(holder, dict)
            and isinstance(holder.get("file_id"), str)
            and not any(holder.get(name) for name in ("file_data", "file_url", "image_url"))
        ):
            yield kind, holder


def _parts(body: Json) -> Iterator[Json]:
    for items, fields in (("messages", ("content",)), ("input", ("content", "output"))):
        for item in _objects(body.get(items)):
            for field in fields:
                yield from _objects(item.get(field))


def _objects(value: object) -> Iterator[Json]:
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, dict))
