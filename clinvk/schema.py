"""JSON Schemas that a caller sends: whether they are any, and whether an answer keeps to one.

Pure, and blind to which CLI the answer comes from; the library's side is `clinvk.validation`.
"""

import json
from typing import Any, NoReturn

from clinvk.errors import InvalidAnswerError
from clinvk.events import Event, Failed, Finished, FinishReason, TextDelta
from clinvk.turn import OutputFormat

_FENCE = "```"
_TOO_DEEP = "it is nested too deep"


def schema_fault(schema: dict[str, Any]) -> str | None:
    """Return what keeps `schema` from being a JSON Schema, or None."""
    from clinvk import validation  # noqa: PLC0415 - its module says why

    if not isinstance(schema.get("$schema", ""), str):
        return "its $schema is not a string"
    try:
        return validation.schema_fault(schema)
    except RecursionError:
        return _TOO_DEEP


def resolved_root(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with the definition that its root refers to in the root's place.

    What stands beside the reference stays. For those who must see an object's own keywords.
    """
    match str(schema.get("$ref")).split("/"):
        case ["#", "$defs" | "definitions" as where, name]:
            target = schema[where][name]
            if isinstance(target, dict):
                return {**{k: v for k, v in schema.items() if k != "$ref"}, **target}
    return schema


def answer_fault(text: str, schema: dict[str, Any] | None) -> str | None:
    """Return what keeps `text` from being JSON of `schema` (None: any object), or None."""
    from clinvk import validation  # noqa: PLC0415 - its module says why

    try:
        value = json.loads(text, parse_constant=_refuse)
        if schema is not None:
            return validation.value_fault(value, schema)
    except ValueError as exc:
        return f"it is not JSON: {exc}"
    except RecursionError:
        return _TOO_DEEP
    return None if isinstance(value, dict) else "it is not a JSON object"


class AnswerCheck:
    """Passes the events of a turn on, but ends one whose answer is not of `form` as failed.

    An answer that was cut short, or refused, or that calls tools, is not checked: how it finished
    says what it is.
    """

    def __init__(self, form: OutputFormat) -> None:
        self._form = form
        self._text: list[str] = []

    def feed(self, event: Event) -> Event:
        """Take an event and return the one to be passed on."""
        if isinstance(event, TextDelta):
            self._text.append(event.text)
        if event == Finished(FinishReason.STOP):
            fault = answer_fault("".join(self._text), self._form.schema)
            if fault is not None:
                return Failed(
                    InvalidAnswerError(
                        "the model's answer is not what response_format asks for: "
                        f"{fault}; ask again"
                    )
                )
        return event


def unfenced(text: str) -> str:
    """Return `text` without the space and the code fence around it."""
    text = text.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE) and "\n" in text:
        return text[text.index("\n") : -len(_FENCE)].strip()
    return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
