"""JSON Schema by the library; what it says, in words.

Apart from `clinvk.schema`, which imports it when the first schema comes: the library takes 60 ms
to load, and few requests have a schema. Nothing is fetched: a reference must stay inside its
schema.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator
from jsonschema.exceptions import UnknownType, ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from clinvk.patterns import may_take_long

if TYPE_CHECKING:
    from referencing._core import Resolver

_SHOWN = 200
_NEWER_MAPS = frozenset({"$defs", "dependentSchemas"})
_NEWER = _NEWER_MAPS | {
    *("prefixItems", "contains", "propertyNames", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
}


def schema_fault(schema: dict[str, Any]) -> str | None:
    """Return what keeps `schema` from being a JSON Schema, or None.

    Raises:
        RecursionError: if it is nested too deep.
    """
    kind, error = _kind(schema)
    if error is not None:
        return _said(error)
    for place, found in _newer(schema) if kind is not Draft202012Validator else ():
        if not isinstance(found, dict | bool) or _error(kind, found) is not None:
            return f"what is in its {place!r} is no schema"
    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = Registry[Any]().with_resource("", resource).resolver()
    for reference in _references(schema):
        if not _leads_to_schema(resolver, reference, kind):
            return f"it refers to {reference!r}, which is not in it"
    return None


def value_fault(value: Any, schema: dict[str, Any]) -> str | None:  # noqa: ANN401 - JSON
    """Return what keeps a value from being valid under `schema`, or None.

    Patterns of other languages, and such as might take for ever, are nothing that can be checked.

    Raises:
        RecursionError: if either is nested too deep.
    """
    longest = max(map(len, _texts(value)), default=0)
    if any(may_take_long(pattern, longest) for pattern in _patterns(schema)):
        return None
    try:
        error = next(_validator(schema).iter_errors(value), None)
    except re.error:
        return None
    except (LookupError, TypeError, AttributeError, UnknownType) as exc:
        return f"its schema cannot be applied: {exc}"[:_SHOWN]  # in an older draft a $ref is any
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


def _error(kind: type[Validator], schema: dict[str, Any] | bool) -> ValidationError | None:
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


def _newer(node: object) -> Iterator[tuple[str, object]]:
    """What stands where older drafts know of no schemas, with the keyword that it stands under."""
    if isinstance(node, dict):
        for key in _NEWER & node.keys():
            places = node[key]
            if key in _NEWER_MAPS:
                places = list(places.values()) if isinstance(places, dict) else [places, None]
            yield from (
                (key, place) for place in (places if isinstance(places, list) else [places])
            )
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _newer(value)


def _patterns(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(pattern := node.get("pattern"), str):
            yield pattern
        if isinstance(named := node.get("patternProperties"), dict):
            yield from named
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _patterns(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _leads_to_schema(resolver: "Resolver[Any]", reference: str, kind: type[Validator]) -> bool:
    """Whether a reference leads to a schema; what it goes through need be none."""
    try:
        found = resolver.lookup(reference).contents
    except (Unresolvable, LookupError, TypeError, ValueError, AttributeError):
        return False
    # An older draft lets anything stand where only newer ones keep schemas.
    return isinstance(found, dict | bool) and _error(kind, found) is None


def _said(error: ValidationError) -> str:
    message = error.message
    if len(message) > _SHOWN:
        message = f"{message[:_SHOWN]}…"
    return f"{message} (at {error.json_path})"
