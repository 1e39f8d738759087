"""JSON Schemas that a caller sends: whether they are any, and whether an answer keeps to one.

Pure, and blind to which CLI the answer comes from. Nothing is fetched: a reference must stay
inside its schema.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from clinvk.errors import InvalidAnswerError
from clinvk.events import Event, Failed, Finished, FinishReason, TextDelta
from clinvk.turn import OutputFormat

_FENCE = "```"
_SHOWN = 200
_TOO_DEEP = "it is nested too deep"


def schema_fault(schema: dict[str, Any]) -> str | None:
    """Return what keeps `schema` from being a JSON Schema, or None."""
    if not isinstance(schema.get("$schema", ""), str):
        return "its $schema is not a string"
    try:
        if error := _kind(schema)[1]:
            return _said(error)
        resource = Resource.from_contents(schema, default_specification=DRAFT202012)
        resolver = Registry[Any]().with_resource("", resource).resolver()
        for reference in _references(schema):
            resolver.lookup(reference)
    except Unresolvable as exc:
        return f"it refers to {exc.ref!r}, which is not in it"
    except RecursionError:
        return _TOO_DEEP
    return None


def answer_fault(text: str, schema: dict[str, Any] | None) -> str | None:
    """Return what keeps `text` from being JSON of `schema` (None: any object), or None."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        if schema is None:
            return None if isinstance(value, dict) else "it is not a JSON object"
        error = next(_validator(schema).iter_errors(value), None)
    except ValueError as exc:
        return f"it is not JSON: {exc}"
    except RecursionError:
        return _TOO_DEEP
    except re.error:
        return None  # a pattern in a dialect of another language, which nobody can check here
    return None if error is None else _said(error)


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


def _validator(schema: dict[str, Any]) -> Validator:
    kind, _ = _kind(schema)
    # A registry of our own: the default one fetches what a reference names.
    return kind(schema, registry=Registry())


def _kind(schema: dict[str, Any]) -> tuple[type[Validator], ValidationError | None]:
    """The draft that a schema is of, and what is wrong with it.

    One that names no draft is of the newest that takes it: many tools still write older ones.
    """
    named: type[Validator] = validator_for(schema, default=Draft202012Validator)
    kinds: list[type[Validator]] = (
        [named] if "$schema" in schema else [named, Draft7Validator, Draft4Validator]
    )
    errors = [_error(kind, schema) for kind in kinds]
    at = errors.index(None) if None in errors else 0
    return kinds[at], errors[at]


def _error(kind: type[Validator], schema: dict[str, Any]) -> ValidationError | None:
    meta = validator_for(kind.META_SCHEMA, default=Draft202012Validator)(kind.META_SCHEMA)
    # Not `check_schema`, which takes a pattern for wrong that Python's `re` cannot read.
    found: ValidationError | None = best_match(meta.iter_errors(schema))
    return found


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _said(error: ValidationError) -> str:
    message = error.message
    if len(message) > _SHOWN:
        message = f"{message[:_SHOWN]}…"
    return f"{message} (at {error.json_path})"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
