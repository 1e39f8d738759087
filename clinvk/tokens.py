"""Token estimates by a real BPE (o200k), used only where a CLI reports no count.

The tables load at the first use: they take a quarter of a second.
"""

from functools import lru_cache

from bpe_openai import Encoding, get_encoding


@lru_cache(maxsize=1)
def _encoding() -> Encoding:
    return get_encoding("o200k_base")


def count(text: str) -> int:
    """Return the number of tokens of `text`."""
    return len(_encoding().encode_ordinary(text))


def cut(text: str, tokens: int) -> str:
    """Return the longest start of `text` that is at most `tokens` tokens, at a character's end."""
    encoded = _encoding().encode_ordinary(text)
    if len(encoded) <= tokens:
        return text
    cut_off: bytes = _encoding().decode_bytes(encoded[:tokens])
    return cut_off.decode("utf-8", "ignore")
