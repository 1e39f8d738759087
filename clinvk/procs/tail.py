"""The last of a child's stderr, with secrets taken out.

That is what looks like one, and what children were given in secret, remembered for that alone.
"""

import re
from collections.abc import Mapping

TAIL_BYTES = 8192
_MARGIN_BYTES = 4096  # kept beyond the tail, so that a secret cut by its edge is still recognised

_SECRETS = (
    re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"),
    re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{6,}"),
    re.compile(r"\bAIza[A-Za-z0-9_-]{10,}"),
    re.compile(r"\bya29\.[A-Za-z0-9._-]{6,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"),
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{10,}"),
    re.compile(
        r"(?i)(?:api[_-]?key|token|secret|password|authorization)[\"']?\s*[:=]\s*"
        r"[\"']?[^\s\"',;]{4,}"
    ),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
)
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


# A variable that holds a secret, by its name; a short value could stand anywhere.
_NAMES_SECRET = re.compile(r"(?i)(?:^|_)(?:api_?)?(?:key|token|secret|password|passphrase)$")
_SHORTEST_SECRET = 8
_MOST_SECRETS = 256

_given: dict[str, None] = {}


def remember(environment: Mapping[str, str]) -> None:
    """Take from a child's environment what no text about it may hold."""
    for name, value in environment.items():
        if _NAMES_SECRET.search(name) and len(value) >= _SHORTEST_SECRET:
            _given[value] = _given.pop(value, None)
    while len(_given) > _MOST_SECRETS:
        del _given[next(iter(_given))]


def scrub(text: str) -> str:
    """Return `text` without terminal escapes, and with every secret as `[removed]`."""
    text = _ANSI.sub("", text)
    for secret in sorted(_given, key=len, reverse=True):
        text = text.replace(secret, "[removed]")
    for pattern in _SECRETS:
        text = pattern.sub("[removed]", text)
    return text


class StderrTail:
    """Keeps the last `TAIL_BYTES` bytes pushed into it."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = b""

    def push(self, chunk: bytes) -> None:
        """Take the next bytes, forgetting the oldest over the limit."""
        self._kept = (self._kept + chunk)[-TAIL_BYTES - _MARGIN_BYTES :]

    @property
    def text(self) -> str:
        """The kept bytes as scrubbed text, without blank lines at either end."""
        return scrub(self._kept.decode("utf-8", "replace"))[-TAIL_BYTES:].strip()
