"""What codex logs to stderr: the one place where it tells when to ask again, and what broke off.

Its errors over stdout lose the `retry-after` of a 429; the log of its HTTP client has the
headers of every response, and the thread that it was for. And a response that breaks off after a
tool call is no error over stdout until the call is answered; the log tells at once (observed with
codex 0.169.0). All else that is logged below an error is dropped.
"""

import re

import anyio

from clinvk.procs.tail import StderrTail

# The span is enabled for the thread's id in the line; nothing below it logs what was said.
LOG_FILTER = (
    "error,codex_http_client::client=debug,codex_core[session_loop]=info,codex_otel.trace_safe=info"
)

HINT_S = 0.2  # the line was written before the error was, but to another pipe

_LINE_LIMIT = 64 * 1024
# Nothing of the sandbox matters here, but codex complains of a part that it can do without; and
# that a call is never answered is how its turn ends.
_NOISE = re.compile(rb"^\S+Z +(?:(?:TRACE|DEBUG|INFO) |ERROR .*(?:bubblewrap|dynamic tool call))")
_RESPONSE = re.compile(
    r"thread_id=(?P<thread>[\w-]+).* codex_http_client\S* Request completed "
    r'(?:.*"retry-after(?P<unit>-ms)?": "(?P<value>\d+(?:\.\d+)?)")?'
)

_BROKEN = re.compile(
    r'"codex\.sse_event" event\.kind=response\.completed error\.message=.*'
    r" conversation\.id=(?P<thread>[\w-]+)"
)


class _Response:
    """What is known of the last response to a thread."""

    __slots__ = ("broken", "over")

    def __init__(self) -> None:
        self.broken = False
        self.over = anyio.Event()


class CodexStderr(StderrTail):
    """Keeps the tail of what is not a mere log, and what is heard of the model API's responses."""

    __slots__ = ("_heard", "_line", "_responses", "_waits")

    def __init__(self) -> None:
        super().__init__()
        self._line = b""
        self._waits: dict[str, list[float | None]] = {}
        self._heard = anyio.Event()
        self._responses: dict[str, _Response] = {}

    def push(self, chunk: bytes) -> None:
        """Take the next bytes."""
        *lines, rest = (self._line + chunk).split(b"\n")
        said = [line + b"\n" for line in lines if not self._heard_in(line)]
        if len(rest) > _LINE_LIMIT:
            said += [] if self._heard_in(rest) else [rest]
            rest = b""
        self._line = rest
        super().push(b"".join(said))

    @property
    def text(self) -> str:
        """The tail as text, with the line that was cut off by the end."""
        if self._line and not self._heard_in(self._line):
            super().push(self._line)
        self._line = b""
        return super().text

    def expect(self, thread_id: str) -> None:
        """Begin to keep what is heard for a thread, until `forget`."""
        self._waits[thread_id] = []
        self._responses[thread_id] = _Response()

    def forget(self, thread_id: str) -> None:
        """Drop what was heard for a thread."""
        self._waits.pop(thread_id, None)
        if response := self._responses.pop(thread_id, None):
            response.over.set()

    async def broke_off(self, thread_id: str) -> bool:
        """Wait until a thread's response breaks off, or nobody wants to know any more."""
        response = self._responses.get(thread_id)
        if response is None:
            return False
        await response.over.wait()
        return response.broken

    async def retry_after_s(self, thread_id: str) -> float | None:
        """Return how long the last response to a thread told it to wait, if it did."""
        waits = self._waits.get(thread_id, [])
        with anyio.move_on_after(HINT_S):
            while not waits:
                await self._heard.wait()
        return waits[-1] if waits else None

    def _heard_in(self, line: bytes) -> bool:
        """Whether a line is a mere log; what it tells is taken in."""
        if not _NOISE.match(line):
            return False
        text = line.decode("utf-8", "replace")
        if broken := _BROKEN.search(text):
            if response := self._responses.get(broken["thread"]):
                response.broken = True
                response.over.set()
        elif found := _RESPONSE.search(text):
            value = float(found["value"]) if found["value"] else None
            wait_s = value / 1000 if value is not None and found["unit"] else value
            self._waits.get(found["thread"], []).append(wait_s)
            if (response := self._responses.get(found["thread"])) and response.broken:
                self._responses[found["thread"]] = _Response()  # it was tried again
            heard, self._heard = self._heard, anyio.Event()
            heard.set()
        return True
