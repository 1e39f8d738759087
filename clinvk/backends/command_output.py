"""What a program prints, as events: pure.

Owns text as it comes (cut anywhere, with terminal sequences in it) and lines of JSON with paths
into them. Knows no program, and no process.

A path is a small part of JSONPath, `$.a[0]['b c']`, and one thing that JSONPath has not: a
condition on the value where it stands, as in `$[role=assistant].content`. RFC 9535 filters only
among children, never the message itself, which is what a stream of messages needs.
"""

import codecs
import json
import re
from typing import Any

from clinvk.events import Event, ReasoningDelta, Started, TextDelta, Usage
from clinvk.kinds import PATH_STEP, CommandConfig, CountPaths

HELD_CHARS = 4096  # of a terminal sequence that does not end: it is none

_STEP = re.compile(PATH_STEP)
_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=\n)")


class Cleaner:
    """Bytes in, clean text out: UTF-8 and terminal sequences may be cut between pieces.

    Blank lines at the end of all are no part of the answer; they are held until more comes.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._blank = ""

    def feed(self, piece: bytes, *, last: bool = False) -> str:
        """Take a piece and return the text that is certain now."""
        text = _SEQUENCE.sub("", self._held + self._decoder.decode(piece, last))
        self._held = ""
        if not last:
            cut = text.rfind("\x1b")
            if cut < 0 and text.endswith("\r"):
                cut = len(text) - 1
            if cut >= 0 and len(text) - cut <= HELD_CHARS:
                text, self._held = text[:cut], text[cut:]
        text = self._blank + _CONTROL.sub("", text)
        kept = text.rstrip("\r\n")
        self._blank = text[len(kept) :]
        return kept


class TextParser:
    """The output is the answer."""

    ended = True
    error: str | None = None

    def __init__(self) -> None:
        self._cleaner = Cleaner()
        self._begun = False

    def feed(self, piece: bytes, *, last: bool = False) -> list[Event]:
        """Take a piece of the output and return the events in it."""
        text = self._cleaner.feed(piece, last=last)
        begun, self._begun = self._begun, self._begun or bool(text)
        if not text:
            return []
        return [TextDelta(text)] if begun else [Started(), TextDelta(text)]

    def finish(self) -> list[Event]:
        """Return the events at the end of the output."""
        return self.feed(b"", last=True)


class LineParser:
    """Each line of the output is a JSON object; other lines are passed over.

    `error` is what the program said of its failure; `ended` whether its end was seen, if one is
    to be seen.
    """

    def __init__(self, config: CommandConfig) -> None:
        self._config = config
        self._usage: Usage | None = None
        self._begun = False
        self.error: str | None = None
        self.ended = config.end is None

    def feed(self, line: bytes) -> list[Event]:
        """Take a line and return the events in it."""
        try:
            message = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return []
        config, events = self._config, list[Event]()
        thought, text = look(message, config.reasoning), look(message, config.text)
        if isinstance(thought, str) and thought:
            events.append(ReasoningDelta(thought))
        if isinstance(text, str) and text:
            events.append(TextDelta(text))
        if (error := look(message, config.error)) not in (None, "", False):
            self.error = error if isinstance(error, str) else json.dumps(error)
        self.ended |= look(message, config.end) is not None
        if config.usage is not None:
            self._usage = _usage(message, config.usage) or self._usage
        begun, self._begun = self._begun, self._begun or bool(events)
        return [Started(), *events] if events and not begun else events

    def finish(self) -> list[Event]:
        """Return the events at the end of the output."""
        return [] if self._usage is None else [self._usage]


def look(value: Any, path: str | None) -> Any:  # noqa: ANN401 - JSON
    """Return what stands at a path in a JSON value, None if nothing does."""
    if path is None:
        return None
    for step in _STEP.findall(path):
        value = _step(value, step)
        if value is None:
            return None
    return value


def _step(value: Any, step: str) -> Any:  # noqa: ANN401 - JSON
    inner = step[1:-1]
    if step.startswith("."):
        return value.get(step[1:]) if isinstance(value, dict) else None
    if inner.startswith("'"):
        return value.get(inner[1:-1]) if isinstance(value, dict) else None
    if inner.isdigit():
        at = int(inner)
        return value[at] if isinstance(value, list) and at < len(value) else None
    name, _, wanted = inner.partition("=")
    found = value.get(name) if isinstance(value, dict) else None
    return value if wanted == (found if isinstance(found, str) else json.dumps(found)) else None


def _usage(message: object, paths: CountPaths) -> Usage | None:
    spent = [look(message, path) for path in (paths.input, paths.output, paths.cached)]
    given, made, cached = (n if isinstance(n, int) and n > 0 else 0 for n in spent)
    return Usage(given, made, cached) if given or made else None
