"""What a program prints, as events: pure.

Owns text as it comes (cut anywhere, with terminal sequences in it), what stands around an answer
in it, and JSON, by lines or as one document, with paths into it. Knows no program, and no process.

A path is a small part of JSONPath, `$.a[0]['b c']`, and one thing that JSONPath has not: a
condition on the value where it stands, as in `$[role=assistant].content`. RFC 9535 filters only
among children, never the message itself, which is what a stream of messages needs.
"""

import codecs
import json
import re
from itertools import islice
from typing import Any

from clinvk.events import Event, ReasoningDelta, Started, TextDelta, Usage, require_end
from clinvk.kinds import PATH_STEP, CommandConfig, CountPaths

HELD_CHARS = 4096  # of a terminal sequence that does not end: it is none
LINE_CHARS = 64 * 1024  # a longer line is no banner
DOCUMENTS = 64  # places where a document may begin
SHOWN_CHARS = 2000  # at the end of what was printed, where that is all that tells of a failure

_STEP = re.compile(PATH_STEP)
_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])"
)
_DOCUMENT = re.compile(r"^[ \t]*[{\[]", re.MULTILINE)
_DECODER = json.JSONDecoder()
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=\n)")


class Cut:
    """Text in, of it the answer out: without what a program prints around it, line by line.

    `error` is what the program said of its failure; `begun` whether the answer was reached.
    """

    def __init__(self, config: CommandConfig) -> None:
        self._after, self._before, self._failure = (
            None if each is None else re.compile(each)
            for each in (config.after, config.before, config.failure)
        )
        self.begun = self._after is None
        self.error: str | None = None
        self._ended = False
        self._line = ""

    def feed(self, text: str, *, last: bool = False) -> str:
        """Take a piece of text and return what is certainly of the answer."""
        *lines, self._line = (self._line + text).split("\n")
        lines = [f"{line}\n" for line in lines]
        if last or len(self._line) > LINE_CHARS:
            lines.append(self._line)
            self._line = ""
        return "".join(self._kept(line) for line in lines)

    def _kept(self, whole: str) -> str:
        line = whole.rstrip("\r\n").rpartition("\r")[2]  # what a terminal would show
        if self.error is not None:
            self.error = f"{self.error}\n{line}"[-SHOWN_CHARS:]
        elif self._failure is not None and self._failure.search(line):
            self.error = line[:SHOWN_CHARS]
        elif not self.begun:
            self.begun = self._after is None or self._after.search(line) is not None
        elif self._before is not None and self._before.search(line):
            self._ended = True
        elif not self._ended:
            return f"{line}\n" if whole.endswith("\n") else line
        return ""


class Cleaner:
    """Bytes in, clean text out: UTF-8 and terminal sequences may be cut between pieces.

    Blank lines at the end of all are no part of the answer; they are held until more comes. Those
    at the beginning are none if something was cut off before them.
    """

    def __init__(self, cut: Cut | None = None) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._cut = cut
        self._begun = cut is None
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
        text = _CONTROL.sub("", text)
        if self._cut is not None:
            text = self._cut.feed(text, last=last)
        if not self._begun:
            text = text.lstrip("\n")
            self._begun = bool(text)
        text = self._blank + text
        kept = text.rstrip("\r\n")
        self._blank = text[len(kept) :]
        return kept


class TextParser:
    """The output is the answer, or that of it which the settings cut out.

    `error` is what the program said of its failure; `ended` whether the answer was there; `tail`
    the end of what was printed.
    """

    def __init__(self, config: CommandConfig) -> None:
        needs_cut = config.after or config.before or config.failure
        self._cut = Cut(config) if needs_cut else None
        self._cleaner = Cleaner(self._cut)
        self._whole = None if self._cut is None else Cleaner()
        self._begun = False
        self.tail = ""

    @property
    def error(self) -> str | None:
        """What the program said of its failure."""
        return None if self._cut is None else self._cut.error

    @property
    def ended(self) -> bool:
        """Whether the answer was there."""
        return self._cut is None or self._cut.begun

    def feed(self, piece: bytes, *, last: bool = False) -> list[Event]:
        """Take a piece of the output and return the events in it."""
        text = self._cleaner.feed(piece, last=last)
        shown = text if self._whole is None else self._whole.feed(piece, last=last)
        self.tail = (self.tail + shown)[-SHOWN_CHARS:]
        begun, self._begun = self._begun, self._begun or bool(text)
        if not text:
            return []
        return [TextDelta(text)] if begun else [Started(), TextDelta(text)]

    def finish(self) -> list[Event]:
        """Return the events at the end of the output."""
        return self.feed(b"", last=True)


class JsonParser:
    """The whole output is one JSON document, of which the answer is a part.

    What stands before its first brace or bracket at the start of a line is passed over.
    """

    def __init__(self, config: CommandConfig) -> None:
        self._values = LineParser(config)
        self._whole = bytearray()

    @property
    def error(self) -> str | None:
        """What the program said of its failure."""
        return self._values.error

    @property
    def ended(self) -> bool:
        """Whether its end was seen, if one is to be seen."""
        return self._values.ended

    @property
    def tail(self) -> str:
        """The end of an output that is no such document."""
        return self._values.tail

    def feed(self, piece: bytes) -> list[Event]:
        """Take a piece of the output.

        Raises:
            CliProtocolError: if it is longer than any answer.
        """
        self._whole += piece
        require_end(len(self._whole))
        return []

    def finish(self) -> list[Event]:
        """Return all events."""
        whole = self._whole.decode("utf-8", "replace")
        for found in islice(_DOCUMENT.finditer(whole), DOCUMENTS):
            try:
                document, _ = _DECODER.raw_decode(whole, found.end() - 1)
            except (ValueError, RecursionError):
                continue
            if self._values.knows(document):
                return [*self._values.take(document), *self._values.finish()]
        self._values.pass_over(whole)
        return []


class LineParser:
    """Each line of the output is a JSON object, or a server-sent event of one; others are not.

    `error` is what the program said of its failure; `ended` whether its end was seen, if one is
    to be seen; `tail` the end of the other lines, which are no part of the answer.
    """

    def __init__(self, config: CommandConfig) -> None:
        self._config = config
        self._usage: Usage | None = None
        self._begun = False
        self.error: str | None = None
        self.ended = config.end is None
        self.tail = ""

    def feed(self, line: bytes) -> list[Event]:
        """Take a line and return the events in it."""
        told = line.decode("utf-8", "replace").removeprefix("data:")
        try:
            message = json.loads(told)
        except (ValueError, RecursionError):
            self.pass_over(told)
            return []
        return self.take(message)

    def pass_over(self, text: str) -> None:
        """Note a text that is no JSON."""
        shown = _CONTROL.sub("", _SEQUENCE.sub("", text[-2 * SHOWN_CHARS :]))
        self.tail = f"{self.tail}{shown}\n"[-SHOWN_CHARS:]

    def knows(self, message: object) -> bool:
        """Whether something that is looked for stands in a message."""
        config = self._config
        paths = (config.text, config.reasoning, config.error, config.end)
        return any(look(message, path) is not None for path in paths)

    def take(self, message: object) -> list[Event]:
        """Take a message and return the events in it."""
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
    if inner.removeprefix("-").isdigit():
        at = int(inner)
        return value[at] if isinstance(value, list) and -len(value) <= at < len(value) else None
    name, _, wanted = inner.partition("=")
    found = value.get(name) if isinstance(value, dict) else None
    return value if wanted == (found if isinstance(found, str) else json.dumps(found)) else None


def _usage(message: object, paths: CountPaths) -> Usage | None:
    spent = [look(message, path) for path in (paths.input, paths.output, paths.cached)]
    given, made, cached = (n if isinstance(n, int) and n > 0 else 0 for n in spent)
    return Usage(given, made, cached) if given or made else None
