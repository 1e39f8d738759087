"""Token estimates by a real BPE (o200k), used only where a CLI reports no count.

Owns as well what the tokens mean that clients send in place of texts.
The tables take most of a second and over a hundred megabytes, so they load at the first use:
`await ready()` first where an event loop must not stand still meanwhile.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import anyio.to_thread

PIECE_CHARS = 50_000  # at once: the library refuses a million, and 200 000 tokens
COUNTED_CHARS = 2_000_000  # what is longer is taken to go on as it begins
CLIENTS = "cl100k_base"  # what OpenAI's embedding models take, and so what clients send


class NoTokenError(Exception):
    """A number that is no token."""

    def __init__(self, token: int) -> None:
        super().__init__(token)
        self.token = token


@cache
def _encoding() -> Any:  # noqa: ANN401 - the library is typed only inside
    from bpe_openai import get_encoding  # noqa: PLC0415 - see above

    return get_encoding("o200k_base")


@cache
def _clients_encoding() -> Any:  # noqa: ANN401 - see above
    from bpe_openai import get_encoding  # noqa: PLC0415 - see above

    return get_encoding(CLIENTS)


async def ready() -> None:
    """Load the tables in a thread, if that has not been done."""
    if not _encoding.cache_info().currsize:
        await anyio.to_thread.run_sync(_encoding)


def count(text: str) -> int:
    """Return the number of tokens of `text`, nearly if it is long."""
    counted = min(len(text), COUNTED_CHARS)
    encode = _encoding().encode_ordinary
    found = sum(
        len(encode(text[at : min(at + PIECE_CHARS, counted)]))
        for at in range(0, counted, PIECE_CHARS)
    )
    return found if counted == len(text) else found * len(text) // counted


def cut(text: str, tokens: int) -> str:
    """Return the longest start of `text` that is at most `tokens` tokens, at a character's end."""
    for at in range(0, len(text), PIECE_CHARS):
        encoded = _encoding().encode_ordinary(text[at : at + PIECE_CHARS])
        if len(encoded) > tokens:
            kept: bytes = _encoding().decode_bytes(encoded[:tokens])
            return text[:at] + kept.decode("utf-8", "ignore")
        tokens -= len(encoded)
    return text


def decode(tokens: Sequence[int]) -> str:
    """Return the text of a client's tokens; what is cut within a character becomes U+FFFD.

    Raises:
        NoTokenError: for the first that is none.
    """
    encoding = _clients_encoding()
    try:
        if min(tokens, default=0) >= 0:
            return str(encoding.decode_bytes(list(tokens)).decode("utf-8", "replace"))
    except KeyError:
        pass
    raise NoTokenError(next(token for token in tokens if not _is_token(encoding, token)))


def _is_token(encoding: Any, token: int) -> bool:  # noqa: ANN401 - see above
    try:
        return token >= 0 and bool(encoding.decode_bytes([token]))
    except KeyError:
        return False
