"""JSON Schema by the library; what it says, in words.

Apart from `clinvk.schema`, which imports it when the first schema comes: the library takes 60 ms
to load, and few requests have a schema. Nothing is fetched: a reference must stay inside its
schema.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

if TYPE_CHECKING:
    from referencing._core import Resolver

_SHOWN = 200


def schema_fault(schema: dict[str, Any]) -> str | None:
    """Return what keeps `schema` from being a JSON Schema, or None.

    Raises:
        RecursionError: if it is nested too deep.
    """
    try:
        if error := _kind(schema)[1]:
            return _said(error)
        resource = Resource.from_contents(schema, default_specification=DRAFT202012)
        resolver = Registry[Any]().with_resource("", resource).resolver()
    except Unresolvable as exc:
        return f"it refers to {exc.ref!r}, which is not in it"
    for reference in _references(schema):
        if not _is_found(resolver, reference):
            return f"it refers to {reference!r}, which is not in it"
    return None


def value_fault(value: Any, schema: dict[str, Any]) -> str | None:  # noqa: ANN401 - JSON
    """Return what keeps a value from being valid under `schema`, or None.

    Raises:
        RecursionError: if either is nested too deep.
    """
    try:
        error = next(_validator(schema).iter_errors(value), None)
    except re.error:
        return None  # a pattern in a dialect of another language, which nobody can check here
    return None if error is None else _said(error)


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


def _is_found(resolver: "Resolver[Any]", reference: str) -> bool:
    """Whether a reference leads to a schema; what it goes through need be none."""
    try:
        found = resolver.lookup(reference)
    except (Unresolvable, LookupError, TypeError, ValueError, AttributeError):
        return False
    return isinstance(found.contents, dict | bool)


def _said(error: ValidationError) -> str:
    message = error.message
    if len(message) > _SHOWN:
        message = f"{message[:_SHOWN]}…"
    return f"{message} (at {error.json_path})"
