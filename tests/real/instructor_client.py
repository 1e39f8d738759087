"""Uses instructor as a program would, in an environment of its own; prints what it saw as JSON.

Its arguments: the server's address, and the model.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

import instructor
from openai import OpenAI
from pydantic import BaseModel


class Place(BaseModel):
    """Where it is."""

    city: str
    people: int


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str


class GetTime(BaseModel):
    """The time of a zone."""

    zone: str


def main(url: str, model: str) -> None:
    """Ask for model classes in every way."""
    openai = OpenAI(base_url=url, api_key="unused", max_retries=0)
    seen: dict[str, Any] = {}

    def asked(mode: str) -> tuple[instructor.Instructor, dict[str, Any]]:
        client = instructor.from_openai(openai, mode=instructor.Mode[mode])
        messages = [{"role": "user", "content": f"By {mode}?"}]
        return client, {"model": model, "messages": messages, "max_retries": 0}

    for mode in ("TOOLS", "TOOLS_STRICT", "JSON_SCHEMA", "RESPONSES_TOOLS"):
        client, request = asked(mode)
        seen[mode] = client.create(response_model=Place, **request).model_dump()
    for mode in ("TOOLS", "JSON_SCHEMA"):
        client, request = asked(mode)
        partials = client.create_partial(response_model=Place, **request)
        seen[f"{mode} streamed"] = [partial.model_dump() for partial in partials]
    client, request = asked("PARALLEL_TOOLS")
    found = client.create(response_model=Iterable[GetWeather | GetTime], **request)
    seen["PARALLEL_TOOLS"] = [[type(made).__name__, made.model_dump()] for made in found]
    sys.stdout.write(json.dumps(seen))


main(*sys.argv[1:])
