"""What a CLI might say: messages of its protocol, recorded or made up, changed, and any bytes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.bodies import changed, values

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"

LIMITS_OF_NUMBERS = st.sampled_from((float("inf"), float("-inf"), float("nan"), 10**400, -1, True))


def recorded(folder: str) -> list[dict[str, Any]]:
    """Every message of the recorded transcripts of a CLI."""
    found: list[dict[str, Any]] = []
    for path in sorted((TRANSCRIPTS / folder).glob("*.jsonl")):
        found += [m for m in map(_loaded, path.read_bytes().splitlines()) if m is not None]
    assert found
    return found


def _loaded(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def conversation(folder: str, made_up: list[dict[str, Any]] = []) -> st.SearchStrategy[list[Any]]:  # noqa: B006
    """Some messages, in any order, some of them changed."""
    known = [*recorded(folder), *made_up]
    small = [message for message in known if len(json.dumps(message)) < 4000]
    message = st.sampled_from(small) | changed(small) | limits(small)
    return st.lists(message, max_size=12)


@st.composite
def limits(draw: st.DrawFn, good: list[dict[str, Any]]) -> dict[str, Any]:
    """A message with a number in it at the edge of what there is."""
    message = json.loads(json.dumps(draw(st.sampled_from(good))))
    places = list(_numbers(message))
    if places:
        parent, step = draw(st.sampled_from(places))
        parent[step] = draw(LIMITS_OF_NUMBERS)
    return dict(message)


def _numbers(value: Any) -> Iterator[tuple[Any, Any]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in steps:
        if isinstance(inner, dict | list):
            yield from _numbers(inner)
        elif isinstance(inner, int | float):
            yield value, step


anything = st.dictionaries(st.sampled_from(("type", "method", "params", "id")), values, max_size=4)
