"""What every dialect is: a body in, a turn out; events in, frames out.

A dialect never learns which backend answers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from clinvk.errors import ClinvkError
from clinvk.events import Event
from clinvk.turn import Turn


class Frame(NamedTuple):
    """One server-sent event: its data, and its name if the dialect names its events."""

    data: str
    event: str | None = None


class Encoder(Protocol):
    """Turns one request's events into frames, and into the whole body; one state for both."""

    @property
    def usage_estimated(self) -> bool:
        """Whether any of the token counts is clinvk's own estimate."""

    def feed(self, event: Event, choice: int = 0) -> list[Frame]:
        """Take the next event of a choice and return the frames it makes, if any."""

    def end(self) -> list[Frame]:
        """Return the frames that close the stream after every choice has ended."""

    def result(self) -> dict[str, Any]:
        """Return the body of the reply that is not streamed; every choice must have finished."""


def same(param: str) -> str:
    """Return a field's name as it is: backends name fields as Chat Completions does."""
    return param


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request that was understood: what to run, and how the answer is to be told.

    The choices of the turns in `more` are numbered on from those of `turn`. `named` gives what a
    field that a backend names is called in the request.
    """

    turn: Turn
    stream: bool
    encoder: Encoder
    more: tuple[Turn, ...] = field(default=(), kw_only=True)
    named: Callable[[str], str] = field(default=same, kw_only=True)


class Dialect(Protocol):
    """One API's way of asking and answering."""

    def parse(self, body: bytes) -> Parsed:
        """Check a request body.

        Raises:
            BadRequestError: with `param` naming the field at fault.
        """

    def error(self, exc: ClinvkError) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the body that report an error."""
