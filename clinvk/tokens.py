"""Token estimates by a real BPE (o200k), used only where a CLI reports no count.

The tables take most of a second and over a hundred megabytes, so they load at the first use:
`await ready()` first where an event loop must not stand still meanwhile.
"""

from functools import cache
from typing import Any

import anyio.to_thread


@cache
def _encoding() -> Any:  # noqa: ANN401 - the library is typed only inside
    from bpe_openai import get_encoding  # noqa: PLC0415 - see above

    return get_encoding("o200k_base")


async def ready() -> None:
    """Load the tables in a thread, if that has not been done."""
    if not _encoding.cache_info().currsize:
        await anyio.to_thread.run_sync(_encoding)


def count(text: str) -> int:
    """Return the number of tokens of `text`."""
    return len(_encoding().encode_ordinary(text))


def cut(text: str, tokens: int) -> str:
    """Return the longest start of `text` that is at most `tokens` tokens, at a character's end."""
    encoded = _encoding().encode_ordinary(text)
    if len(encoded) <= tokens:
        return text
    kept: bytes = _encoding().decode_bytes(encoded[:tokens])
    return kept.decode("utf-8", "ignore")
