"""A YAML file as a pydantic model: every mistake is named by file, line and key.

Knows no model: `clinvk.config` has them.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


class ConfigError(Exception):
    """The configuration cannot be used; the text names the file, and the line and key if known."""


def mapping(text: str, name: str, keys: str) -> "tuple[dict[Any, Any], Lines]":
    """Return the mapping in a text, and where its keys stand.

    Args:
        text: the file's.
        name: stands for the file in errors.
        keys: what the mapping should have, for the error if it is none.

    Raises:
        ConfigError: if it is not YAML, or no mapping.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        lines = Lines(name, root)  # also sees whether anything holds itself
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise ConfigError(f"{name}:{line}: not YAML: {exc.problem}") from exc
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise ConfigError(f"{name}: not YAML: {exc}") from exc
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{name}:1: must be a mapping with {keys}")
    return data, lines


def checked(model: type[M], data: dict[Any, Any], lines: "Lines") -> M:
    """Return the data as a model.

    Raises:
        ConfigError: a line for each mistake.
    """
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        raise ConfigError(
            "\n".join(lines.describe(error, model) for error in exc.errors())
        ) from exc


KeyPath = tuple[str | int, ...]


class Lines:
    """Where each key stands in the file."""

    def __init__(self, name: str, root: yaml.Node | None) -> None:
        self._name = name
        self._line: dict[KeyPath, int] = {}
        if root is not None:
            self._walk(root, ())

    def at(self, path: KeyPath, message: str) -> str:
        """Return the message with file, line and key before it."""
        known = path
        while known and known not in self._line:
            known = known[:-1]
        key = ".".join(str(step) for step in path)
        line = self._line.get(known, 1)
        return (
            f"{self._name}:{line}: {key}: {message}" if key else f"{self._name}:{line}: {message}"
        )

    def describe(self, error: Mapping[str, Any], model: type[BaseModel]) -> str:
        """Return one of pydantic's errors as a line."""
        loc: KeyPath = error["loc"]
        # pydantic names the kind that it chose as a step of its own
        if len(loc) > 2 and loc[0] == "backends":
            loc = (*loc[:2], *loc[3:])
        message = {
            "extra_forbidden": "is not a known key",
            "missing": "is missing",
        }.get(error["type"], str(error["msg"]).removeprefix("Value error, "))
        if error["type"] == "union_tag_not_found":
            message = f"kind is missing; it is {_kinds(model)}"
        elif error["type"] == "union_tag_invalid":
            message = f"kind must be {_kinds(model)}"
        return self.at(loc, message[:1].lower() + message[1:])

    def _walk(self, node: yaml.Node, path: KeyPath) -> None:
        self._line.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                step = (*path, key.value)
                self._line[step] = key.start_mark.line + 1
                self._walk(value, step)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._walk(value, (*path, index))


def _kinds(model: type[BaseModel]) -> str:
    """What the one field that tells kinds apart may be, as a text."""
    backends = model.model_json_schema()["properties"]["backends"]
    *kinds, last = backends["additionalProperties"]["discriminator"]["mapping"]
    return f"{', '.join(kinds)} or {last}"


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expand(value: Any, env: Mapping[str, str], lines: Lines, path: KeyPath) -> Any:  # noqa: ANN401
    """Return the data with each `${NAME}` in its texts replaced by that variable of `env`.

    Raises:
        ConfigError: if there is no such variable.
    """
    if isinstance(value, dict):
        return {k: expand(v, env, lines, (*path, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [expand(v, env, lines, (*path, i)) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        if match[1] not in env:
            raise ConfigError(lines.at(path, f"${{{match[1]}}} is not set in the environment"))
        return env[match[1]]

    return _VARIABLE.sub(lookup, value)
