"""What gemini says of the model API: how a turn ended, what it cost, and why it failed.

Pure, but for reading the file of recorded responses. Over ACP gemini 0.61.0 tells no finish
reason and only two token counts; `--record-responses` appends each model response, chunk by
chunk, to a file before the turn's reply is sent, and there both stand.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinvk.backends.acp_parser import AcpParser
from clinvk.errors import (
    ClinvkError,
    CliProtocolError,
    ContextTooLongError,
    ModelNotFoundError,
    NotLoggedInError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    TooLargeError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)
from clinvk.events import Event, Failed, Finished, FinishReason, Usage
from clinvk.procs.tail import scrub

LOGIN_FIX = "run `gemini` and choose a login, or set GEMINI_API_KEY"
CONTEXT_TOKENS = 1_048_576

# Any other reason is the API's refusal to go on: SAFETY, RECITATION, PROHIBITED_CONTENT, SPII …
_REASONS = {"STOP": FinishReason.STOP, "MAX_TOKENS": FinishReason.LENGTH}
_BROKEN = {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"}


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call that the model made; `id` is the one that gemini tells its client."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One recorded model response; `text` is its visible text, thoughts left out."""

    text: str
    reason: str | None
    candidates: bool
    usage: dict[str, int]
    calls: tuple[RecordedCall, ...] = ()

    @property
    def spent(self) -> Usage:
        """What the response has cost."""
        return _usage(self.usage)


def parse_record(line: bytes) -> Record | None:
    """Return the record of a line of the file, or None if it is not of a streamed answer."""
    try:
        value = json.loads(line)
        if value["method"] != "generateContentStream":
            return None
        chunks = value["response"]
        candidates = [c for chunk in chunks for c in (chunk.get("candidates") or [])[:1]]
        parts = [p for c in candidates for p in (c.get("content") or {}).get("parts") or []]
        text = "".join(p.get("text") or "" for p in parts if not p.get("thought"))
        calls = tuple(_call(part["functionCall"]) for part in parts if part.get("functionCall"))
        reason = next((str(r) for c in candidates if (r := c.get("finishReason"))), None)
        usage: dict[str, Any] = {}
        for chunk in chunks:
            usage = chunk.get("usageMetadata") or usage
        counts = {name: count for name, count in usage.items() if isinstance(count, int)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return Record(text, reason, bool(candidates), counts, calls)


def _call(made: dict[str, Any]) -> RecordedCall:
    return RecordedCall(str(made.get("id")), str(made.get("name")), dict(made.get("args") or {}))


class Recordings:
    """The file of responses, which all turns of a process share, and what is unclaimed in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._unclaimed: list[Record] = []

    def claim(self, text: str) -> Record | None:
        """Take the record of the turn that has shown `text`, None if there is none.

        Records name no session, so the text decides; of turns with the same text it does not
        matter who gets which.
        """
        self._read()
        last = [r for r in self._unclaimed if not r.calls]
        matches = [r for r in last if r.text == text]
        # The CLI starts over when a stream breaks, if retries are allowed: the text before stays.
        matches += [r for r in last if r.text and text.endswith(r.text)]
        if not matches:
            return None
        self._unclaimed.remove(matches[0])
        return matches[0]

    def claim_calls(self, call_id: str) -> Record | None:
        """Take the record with a call of this id, None if there is none.

        Nor if there are several that differ: an id has but a name and a time in it, and the calls
        of one session must never be told to another.
        """
        self._read()
        matches = [r for r in self._unclaimed if any(call.id == call_id for call in r.calls)]
        if not matches or any(
            (r.text, r.calls) != (matches[0].text, matches[0].calls) for r in matches
        ):
            return None
        self._unclaimed.remove(matches[0])
        return matches[0]

    def clear(self) -> None:
        """Forget everything and empty the file; only when no turn runs."""
        self._unclaimed = []
        self._offset = 0
        with suppress(OSError):
            self._path.write_bytes(b"")

    def _read(self) -> None:
        lines: list[bytes] = []
        # The folder goes with the process, which may have just died.
        with suppress(OSError), self._path.open("rb") as file:
            file.seek(self._offset)
            *lines, _rest = file.read().split(b"\n")
        self._offset += sum(len(line) + 1 for line in lines)
        self._unclaimed += [r for line in lines if (r := parse_record(line)) is not None]


class GeminiParser(AcpParser):
    """Turns what gemini says in one turn into events; `text` is what it has shown so far."""

    def __init__(self) -> None:
        super().__init__()
        self.record: Record | None = None
        self.error_class: str | None = None
        self.counts_alone = True  # whether the reply's counts are of what it was fed alone

    def thought(self, text: str) -> str:
        """Part thoughts by a blank line: gemini sends `**subject**`, a line, and the rest."""
        text = text.removeprefix("****\n")
        return f"\n\n{text}" if self.thinking else text

    def ended(self, reason: str, result: dict[str, Any]) -> list[Event]:
        """Return how the turn ended, by its record if there is one."""
        if reason == "max_tokens":
            return [
                Failed(
                    ContextTooLongError(
                        "the prompt is over the context window of this model, by gemini's "
                        "estimate; shorten it"
                    )
                )
            ]
        record = self.record
        if reason == "max_turn_requests":
            return [Failed(UpstreamError("the model kept asking for tools that it was not given"))]
        if reason != "end_turn" or record is None:
            total = quota(result)
            usage = [total] if total is not None and self.counts_alone else []
            return [*usage, *super().ended(reason, result)]
        spent = record.spent
        if self.text != record.text and not self.activity:
            return [Failed(UpstreamUnreachableError(RESTARTED))]
        if record.reason is None:
            # A blocked prompt gets an answer without candidates; a broken one lacks only its end.
            if record.usage and not record.candidates:
                return [spent, Finished(FinishReason.CONTENT_FILTER)]
            return [Failed(UpstreamUnreachableError(_NO_END))]
        if record.reason in _BROKEN:
            return [Failed(UpstreamError(f"the model's answer broke off: {record.reason}"))]
        if record.reason == "STOP" and not record.text:
            return [Failed(UpstreamError("the model gave an empty answer; ask again"))]
        return [spent, Finished(_REASONS.get(record.reason, FinishReason.CONTENT_FILTER))]

    def failed(self, code: int, message: str) -> ClinvkError:
        """Return the error that an error of the CLI is to the caller."""
        return classify(code, message, self.error_class)


RESTARTED = "the model API's answer broke off and the CLI began again: the text is not whole"
_NO_END = "the model API's answer broke off before its end; ask again"


def _usage(counts: dict[str, int]) -> Usage:
    thoughts = counts.get("thoughtsTokenCount", 0)
    tool = counts.get("toolUsePromptTokenCount", 0)
    return Usage(
        input_tokens=counts.get("promptTokenCount", 0) + tool,
        output_tokens=counts.get("candidatesTokenCount", 0) + thoughts,
        cached_tokens=counts.get("cachedContentTokenCount", 0),
        reasoning_tokens=thoughts,
    )


def quota(result: dict[str, Any]) -> Usage | None:
    """Return the two counts of a reply, of all model requests of its prompt, if it has them."""
    try:
        counts = result["_meta"]["quota"]["token_count"]
        usage = Usage(int(counts["input_tokens"]), int(counts["output_tokens"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return usage if usage.input_tokens else None


_TOO_LONG = re.compile(r"token count.*exceeds|maximum number of (?:input )?tokens|too many tokens")
_BAD_KEY = re.compile(r"api key not valid|api_key_invalid|api key (?:expired|not found)")
_NO_MODEL = re.compile(r"is not found for api version|model.*not found|entity was not found")
_NETWORK = re.compile(
    r"^terminated$|fetch failed|econn|enotfound|etimedout|eai_again|socket hang up|"
    r"other side closed|network|und_err|premature close|stream.*(?:closed|aborted)"
)
_RETRY = re.compile(r"retry (?:after|in) ([0-9]+(?:\.[0-9]+)?)(ms|s)", re.IGNORECASE)
_QUOTA = re.compile(r"daily quota|limit: 0(?![\d.])|exhausted your capacity|quota_exhausted")


def classify(code: int, message: str, error_class: str | None = None) -> ClinvkError:
    """Return the error that a JSON-RPC error of a turn is to the caller.

    `code` is the HTTP status of the model API, but for 404, which comes as 500; `message` is the
    API's body or its text alone; `error_class` is gemini's own class of the error, if known.
    """
    said = scrub(api_message(message))
    low = message.lower()
    if code == 500 and (error_class == "ModelNotFoundError" or _NO_MODEL.search(low)):
        code = 404
    if code == 500 and api_message(message) == message and _NETWORK.search(low):
        return UpstreamUnreachableError(f"gemini lost its model API: {said}")
    if code == 429:
        return _rate_limited(said)
    if code == 401 or (code in {400, 403} and _BAD_KEY.search(low)):
        return NotLoggedInError(f"the model API refuses gemini's login ({said}); {LOGIN_FIX}")
    if code in {400, 413, 500} and _TOO_LONG.search(low):
        return ContextTooLongError(f"the model API says: {said}")
    simple = {
        403: PermissionDeniedError,
        404: ModelNotFoundError,
        413: TooLargeError,
        503: OverloadedError,
        529: OverloadedError,
    }.get(code)
    if simple is not None:
        return simple(f"the model API says: {said}")
    if 400 <= code < 500:
        return UpstreamRefusedError(f"the model API refused the request ({code}): {said}")
    if 500 <= code < 600:
        return UpstreamError(f"the model API failed ({code}): {said}")
    return CliProtocolError(f"gemini refused the turn ({code}): {said}")


def _rate_limited(said: str) -> ClinvkError:
    found = _RETRY.search(said)
    after_s = None
    if found is not None:
        after_s = float(found[1]) / (1000 if found[2] == "ms" else 1)
    kind = QuotaExceededError if _QUOTA.search(said.lower()) else RateLimitedError
    return kind(f"the model API limits this login: {said}", retry_after_s=after_s)


def api_message(text: str) -> str:
    """Return the innermost message of an API's error body, or the text as it is."""
    for _ in range(4):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        value = value[0] if isinstance(value, list) and value else value
        inner = value.get("error", value) if isinstance(value, dict) else None
        deeper = inner.get("message") if isinstance(inner, dict) else None
        if not isinstance(deeper, str) or not deeper:
            return text
        text = deeper
    return text


def estimate_tokens(texts: Iterable[str]) -> int:
    """Return the tokens of a prompt as gemini estimates them before it asks the model.

    A text of over 100 000 UTF-16 units counts a quarter of them, any other a quarter a letter of
    ASCII and 1.5 for each other unit (`tokenCalculation` of 0.61.0).
    """
    total = 0.0
    for text in texts:
        units = len(text.encode("utf-16-le", "surrogatepass")) // 2
        if units > 100_000 or text.isascii():
            total += units / 4
        else:
            plain = sum(char < "\x80" for char in text)
            total += plain / 4 + (units - plain) * 1.5
    return int(total)
