"""What happens during a turn, as values: the one stream between every backend and every dialect.

Grammar: any number of body events, then exactly one `Finished` or `Failed`, last.
Standard library only.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from clinvk.errors import ClinvkError, CliProtocolError

ANSWER_CHARS = 64 * 1024 * 1024  # no model says as much; what has no end would fill the memory


class FinishReason(StrEnum):
    """Why a turn ended; the values are those of the OpenAI API."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Started:
    """The model API has accepted the request; `model` is the name it answers under, if told."""

    model: str | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """The next piece of the model's visible thinking; never part of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolActivity:
    """A tool that the agent ran itself, in its own sandbox: information, not a request."""

    name: str
    status: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the client must run; `arguments` is a JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of this turn alone; added up, those of several requests.

    `input_tokens` includes `cached_tokens` (read) and `cache_write_tokens`; `output_tokens`
    includes `reasoning_tokens`. `estimated` is true if the CLI reported no count of its own.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            estimated=self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """The turn ended as a turn should; `stop` is the stop text that it was cut before, if any."""

    reason: FinishReason
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The turn ended by an error."""

    error: ClinvkError


Event = Started | TextDelta | ReasoningDelta | ToolActivity | ToolCall | Usage | Finished | Failed


def require_end(chars: int) -> None:
    """Give up an answer of so many characters that it cannot be one.

    Raises:
        CliProtocolError: if it is longer than `ANSWER_CHARS`.
    """
    if chars > ANSWER_CHARS:
        raise CliProtocolError(f"the answer has no end: {ANSWER_CHARS:,} characters, and more")


def check_grammar(events: Iterable[Event]) -> None:
    """Check that exactly one `Finished` or `Failed` stands in `events`, last.

    Raises:
        ValueError: if it does not.
    """
    terminal: Event | None = None
    for event in events:
        if terminal is not None:
            raise ValueError(f"{event!r} comes after {terminal!r}")
        if isinstance(event, Finished | Failed):
            terminal = event
    if terminal is None:
        raise ValueError("neither Finished nor Failed ends the events")
