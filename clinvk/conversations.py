"""Conversations that a CLI still holds after their turn: which request goes on with which.

Owns how a request's history is compared with what was served, and how many conversations are
kept; knows no process. A request goes on only where all it says is exactly what the CLI has
heard and said, so the model never sees anything but what its caller sent.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, TypeVar

from clinvk.turn import Limits, Message, PriorCall, Role, TextPart, Turn

Key = bytes


class Course(StrEnum):
    """How a turn came about; clients are told, but need not care.

    `RESUMED`: the results of calls went to the turn that waited for them. `REPLAYED`: that turn
    was gone, so a new one was told the whole history. `CONTINUED`: a conversation went on where
    it was. `RELAYED`: the request passed to an upstream as it was. `NEW`: any other.
    """

    NEW = "new"
    REPLAYED = "replayed"
    RESUMED = "resumed"
    CONTINUED = "continued"
    RELAYED = "relayed"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request would go on: the conversation so far, and what is new since."""

    key: Key
    news: tuple[Message, ...]
    course: Course


def place_of(turn: Turn, *, caller: str, model: str) -> Place | None:
    """Return where a request would go on, if it can only be somewhere that was served before.

    Args:
        turn: the request with its whole history.
        caller: whose conversations it may go on with.
        model: what tells one target from another.
    """
    ends = [at for at, m in enumerate(turn.messages) if m.role is Role.ASSISTANT]
    if not ends:
        return None
    said, news = turn.messages[: ends[-1] + 1], turn.messages[ends[-1] + 1 :]
    calls = [call.id for call in _merged(said)[-1].calls]
    if calls:
        answered = [m.call_id for m in news if m.role is Role.TOOL]
        if len(answered) != len(news) or sorted(map(str, answered)) != sorted(calls):
            return None
        return Place(_key(turn, said, caller, model), news, Course.RESUMED)
    if not news or any(m.role is not Role.USER for m in news):
        return None
    return Place(_key(turn, said, caller, model), news, Course.CONTINUED)


def key_after(turn: Turn, reply: Message, *, caller: str, model: str) -> Key:
    """Return the key of a conversation that was just answered by `reply`."""
    return _key(turn, (*turn.messages, reply), caller, model)


def heads(turn: Turn, reply: Message | None = None, *, caller: str) -> tuple[Key, ...]:
    """Return by what the later turns of a conversation are known: the closest first.

    That is how it began up to its first answer, and up to just before; the first is missing
    while there is no answer. Of two conversations that began alike, who can tell?
    """
    messages = _merged((*turn.messages, *(() if reply is None else (reply,))))
    first = next((at for at, m in enumerate(messages) if m.role is Role.ASSISTANT), None)
    parts = [messages[:first]] if first is None else [messages[: first + 1], messages[:first]]
    return tuple(_digest((caller, part)) for part in parts)


def has_begun(turn: Turn) -> bool:
    """Whether a turn goes on with a conversation that somebody has answered in."""
    return any(message.role is Role.ASSISTANT for message in turn.messages)


def starts_over(turn: Turn) -> Course:
    """Return what a turn is that no kept conversation goes on with."""
    last = turn.messages[-1] if turn.messages else None
    return Course.REPLAYED if last is not None and last.role is Role.TOOL else Course.NEW


def _key(turn: Turn, said: Sequence[Message], caller: str, model: str) -> Key:
    settings = replace(turn, model=model, messages=(), limits=Limits(), choices=1, ignored=())
    return _digest((caller, settings, _merged(said)))


def _digest(whole: object) -> Key:
    text = repr(whole).encode("utf-8", "backslashreplace")
    return hashlib.blake2b(text, digest_size=32).digest()


def _merged(messages: Iterable[Message]) -> list[Message]:
    """Return the messages as one writes them who tells the same in as few as possible.

    Clients send back a reply with its text and its calls in one message or in two, arguments
    written in their own way, and an empty text or none.
    """
    merged: list[Message] = []
    for message in messages:
        parts = tuple(p for p in message.parts if not isinstance(p, TextPart) or p.text)
        if message.role is Role.ASSISTANT:
            text = "".join(p.text for p in parts if isinstance(p, TextPart))
            kept = tuple(p for p in parts if not isinstance(p, TextPart))
            parts = (*((TextPart(text),) if text else ()), *kept)
        plain = replace(message, parts=parts, calls=tuple(map(_plain, message.calls)))
        before = merged[-1] if merged else None
        both = before is not None and before.role is plain.role is Role.ASSISTANT
        if both and before is not None and not plain.parts:
            merged[-1] = replace(before, calls=(*before.calls, *plain.calls))
        else:
            merged.append(plain)
    return merged


def _plain(call: PriorCall) -> PriorCall:
    try:
        arguments = json.dumps(json.loads(call.arguments or "{}"), sort_keys=True)
    except (ValueError, RecursionError):
        return call
    return replace(call, arguments=arguments)


T = TypeVar("T")


class Kept(Generic[T]):
    """Conversations that wait, in two classes: parked on calls, and idle; oldest first.

    Args:
        parked: how many may wait for the results of calls.
        idle: how many may wait for what the user says next.
    """

    def __init__(self, parked: int, idle: int) -> None:
        self._most = {Course.RESUMED: parked, Course.CONTINUED: idle}
        self._waiting: dict[Course, OrderedDict[int, tuple[Key, T]]] = {
            course: OrderedDict() for course in self._most
        }

    def __repr__(self) -> str:
        parked, idle = map(len, self._waiting.values())
        return f"<Kept {parked} parked, {idle} idle>"

    def count(self, course: Course) -> int:
        """Return how many of a class wait."""
        return len(self._waiting[course])

    def wants(self, course: Course) -> bool:
        """Whether any conversation of this class may be kept."""
        return self._most[course] > 0

    def add(self, course: Course, key: Key, entry: T) -> list[T]:
        """Keep one more, and return those that have to go for it."""
        waiting = self._waiting[course]
        waiting[id(entry)] = key, entry
        gone = max(0, len(waiting) - self._most[course])
        return [waiting.popitem(last=False)[1][1] for _ in range(gone)]

    def claim(self, place: Place) -> T | None:
        """Take out the youngest conversation at a place, None if there is none."""
        waiting = self._waiting[place.course]
        for number, (key, entry) in reversed(waiting.items()):
            if key == place.key:
                del waiting[number]
                return entry
        return None

    def holds(self, place: Place) -> bool:
        """Whether a conversation at a place waits."""
        return any(key == place.key for key, _ in self._waiting[place.course].values())

    def drop(self, entry: T) -> bool:
        """Take a conversation out; return whether it was still there."""
        return any(waiting.pop(id(entry), None) for waiting in self._waiting.values())

    def close(self) -> list[T]:
        """Keep none any more; return those that have to go."""
        self._most = dict.fromkeys(self._most, 0)
        return self.clear()

    def clear(self, *courses: Course) -> list[T]:
        """Take out all conversations, or those of some classes."""
        entries: list[T] = []
        for course in courses or self._waiting:
            entries += [entry for _, entry in self._waiting[course].values()]
            self._waiting[course].clear()
        return entries
