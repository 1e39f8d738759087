"""JSON bodies in, checked models out; every fault becomes a 400 that names its field."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from clinvk.errors import BadRequestError, MissingFieldError

M = TypeVar("M", bound=BaseModel)

SAMPLING = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_SHOWN = 40


def load(body: bytes) -> dict[str, Any]:
    """Parse a body that must be a JSON object of text that UTF-8 can carry.

    Raises:
        BadRequestError: if it is not.
    """
    try:
        # Not left to `json`, which would take other encodings, and halves of surrogate pairs.
        text = body.decode("utf-8-sig")
        data = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        halved = _halved(data) if _SURROGATE_ESCAPE.search(body) else None
    except RecursionError:
        raise BadRequestError("the body is nested too deeply") from None
    except UnicodeDecodeError as exc:
        raise BadRequestError(
            f"the body is not JSON in UTF-8: {exc.reason} at {exc.start}"
        ) from None
    except ValueError as exc:
        raise BadRequestError(f"the body is not JSON: {exc}") from None
    if not isinstance(data, dict):
        raise BadRequestError("the body must be a JSON object")
    if halved is not None:
        raise BadRequestError(
            f"{halved or 'a name'!r} holds half of a surrogate pair, which no encoding can carry",
            param=halved or None,
        )
    return data


def check(model: type[M], data: dict[str, Any], *, steps: frozenset[str] = frozenset()) -> M:
    """Validate `data`; `steps` are the union tags that pydantic adds to an error's location.

    Raises:
        BadRequestError: for the first fault, with the path of the field.
    """
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        param = dotted(tuple(step for step in error["loc"] if step not in steps))
        if error["type"] == "missing":
            raise MissingFieldError(f"{param!r} is required", param=param) from None
        message = error["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        raise BadRequestError(f"{param!r} is not valid: {message}", param=param) from None


def sampling(request: BaseModel) -> dict[str, float]:
    """Return how the model is to choose its words, by the names that all of the APIs share."""
    told = {name: getattr(request, name, None) for name in SAMPLING}
    return {name: value for name, value in told.items() if value is not None}


def dotted(path: tuple[str | int, ...]) -> str:
    """Return a path as clients write it: `messages[0].content`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise ValueError(f"{number[:_SHOWN]} is over the largest number there is")
    return value


def _halved(value: object, path: tuple[str | int, ...] = ()) -> str | None:
    """The path of the first text that UTF-8 cannot carry."""
    if isinstance(value, str):
        return None if _is_utf8(value) else dotted(path)
    items: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, dict):
        if not all(_is_utf8(key) for key in value):
            return dotted(path)
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return next((p for key, item in items if (p := _halved(item, (*path, key))) is not None), None)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
