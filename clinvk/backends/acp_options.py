"""What an ACP agent lets a client choose in a session, and how each is asked for: pure.

Owns the three ways there are: `modes` and `models` in the reply to `session/new` (the latter has
left the protocol, but not the agents), and `configOptions`, which have a category. Efforts are
options of the category `thought_level`, or modes with such names. Knows no agent by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clinvk.errors import ModelNotFoundError

Message = dict[str, Any]
Request = tuple[str, Message]

EFFORT = "thought_level"
_WORDS = (
    {"none", "off", "disabled"},
    {"minimal"},
    {"low"},
    {"medium"},
    {"high"},
    {"xhigh", "extra_high", "extra-high"},
    {"max", "maximum"},
)


def choose_mode(session: str, opened: Message, mode: str | None) -> Iterator[Request]:
    """Give the request for a mode, if the agent has it and is in another."""
    modes = as_dict(opened, "modes")
    offered = [str(m.get("id")) for m in as_dicts(modes, "availableModes")]
    if mode in offered and modes.get("currentModeId") != mode:
        yield "session/set_mode", {"sessionId": session, "modeId": mode}


def choose_model(session: str, opened: Message, model: str) -> Request:
    """Return the request for a model.

    Raises:
        ModelNotFoundError: if the agent has no such model, or no choice of models.
    """
    models = as_dict(opened, "models")
    if known := [str(m.get("modelId")) for m in as_dicts(models, "availableModels")]:
        _require_model(model, known)
        return "session/set_model", {"sessionId": session, "modelId": model}
    for option in as_dicts(opened, "configOptions"):
        if option.get("category") == "model" or option.get("id") == "model":
            _require_model(model, _values(as_dicts(option, "options")))
            return _setting(session, option, value=model)
    raise ModelNotFoundError(
        f"the agent offers no choice of models, so not {model!r}; name it in `command`",
        param="model",
    )


def has_efforts(opened: Message) -> bool:
    """Whether the agent lets one choose how hard its model thinks."""
    return bool([*choose_effort("", opened, "low"), *choose_effort("", opened, "none")])


def choose_effort(session: str, opened: Message, effort: str) -> Iterator[Request]:
    """Give the request for an effort, or for the nearest that there is; none if there is none."""
    for option in as_dicts(opened, "configOptions"):
        if option.get("category") != EFFORT:
            continue
        if option.get("type") == "boolean":
            wanted = _rank(effort) != 0
            yield _setting(session, option, type="boolean", value=wanted)
            return
        if found := _nearest(effort, _values(as_dicts(option, "options"))):
            yield _setting(session, option, value=found)
            return
    modes = [str(m.get("id")) for m in as_dicts(as_dict(opened, "modes"), "availableModes")]
    if (found := _nearest(effort, modes)) and all(_rank(mode) is not None for mode in modes):
        yield "session/set_mode", {"sessionId": session, "modeId": found}


def as_dict(value: Mapping[str, Any], key: str) -> Message:
    """Return the object at a key, an empty one if there is none."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def as_dicts(value: Mapping[str, Any], key: str) -> list[Message]:
    """Return the objects in the list at a key."""
    found = value.get(key)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _setting(session: str, option: Message, **value: object) -> Request:
    params = {"sessionId": session, "configId": option.get("id"), **value}
    return "session/set_config_option", params


def _rank(word: str) -> int | None:
    return next((rank for rank, words in enumerate(_WORDS) if word.lower() in words), None)


def _nearest(effort: str, offered: Sequence[str]) -> str | None:
    wanted = _rank(effort)
    known = [(rank, word) for word in offered if (rank := _rank(word)) is not None]
    if wanted is None or not known:
        return None
    return min(known, key=lambda each: (abs(each[0] - wanted), each[0]))[1]


def _require_model(model: str, known: Sequence[str]) -> None:
    if model not in known:
        raise ModelNotFoundError(
            f"the agent has no model {model!r}; it has: {', '.join(known)}", param="model"
        )


def _values(options: Sequence[Message]) -> list[str]:
    """The values of a selection, which may stand in groups."""
    found: list[str] = []
    for option in options:
        inner = as_dicts(option, "options")
        found += _values(inner) if inner else [str(option.get("value"))]
    return found
