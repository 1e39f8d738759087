"""The embedding model that the package `wordllama` ships: texts in, vectors out.

Owns where its files are and what is made of them. They are read where they lie: the package's own
code would have to be imported with what it downloads by, and it takes the root logger over.
A text's vector is the mean of its tokens' vectors, brought to length 1; that is all the model
there is, so a text has no longest length and its end counts as much as its beginning.
https://github.com/dleemiller/WordLlama
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from clinvk.errors import UnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

PACKAGE = "wordllama"
DIMENSIONS = 256
_VECTORS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"

_lock = threading.Lock()
_loaded: "list[Model]" = []


@dataclass(frozen=True, slots=True)
class Embedded:
    """A text's vector, 32-bit floats with the low byte first, and how many tokens it has."""

    vector: bytes
    tokens: int


class Model:
    """The vectors of tokens, and what cuts texts into tokens. Safe to use from many threads."""

    def __init__(self, tokenizer: "Tokenizer", vectors: "NDArray[np.float32]") -> None:
        self._tokenizer = tokenizer
        self._vectors = vectors

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text; other threads run meanwhile."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def embed(self, tokens: Sequence[int], dimensions: int = DIMENSIONS) -> Embedded:
        """Return the vector of a text of these tokens; all zeros if there is none.

        The model was trained so that the first dimensions are a vector of their own: at 64, 128
        and 256.
        """
        import numpy as np  # noqa: PLC0415 - only who embeds pays for it

        found = self._vectors[np.asarray(tokens, np.int64), :dimensions]
        total = found.sum(axis=0, dtype=np.float32)
        length = float(np.linalg.norm(total))
        vector = total / length if length > 0 else total
        return Embedded(vector.astype("<f4").tobytes(), len(tokens))


def load() -> Model:
    """Return the model, read from its package at the first call: 0.2 s, and 90 MB.

    Raises:
        UnavailableError: if its files are not what they should be.
    """
    with _lock:
        if not _loaded:
            _loaded.append(_read())
        return _loaded[0]


def model_version() -> str | None:
    """Return the version of the package, if it says one."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return None


def _read() -> Model:
    # A request has one thread; the library would take all processors, and warn of every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import numpy as np  # noqa: PLC0415 - see above
        from safetensors.numpy import load_file  # noqa: PLC0415
        from tokenizers import Tokenizer  # noqa: PLC0415

        folder = _folder()
        tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
        vectors = load_file(folder / _VECTORS)["embedding.weight"].astype(np.float32)
    except Exception as exc:  # the tokenizer's library has no error of its own
        raise UnavailableError(
            f"the embedding model of the package {PACKAGE!r} cannot be read: "
            f"{type(exc).__name__}: {exc}"
        ) from exc
    if vectors.shape != (tokenizer.get_vocab_size(), DIMENSIONS):
        raise UnavailableError(f"the embedding model has another shape: {vectors.shape}")
    return Model(tokenizer, vectors)


def _folder() -> Path:
    spec = find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    if not places:
        raise FileNotFoundError(f"the package {PACKAGE!r} is not installed")
    return Path(next(iter(places)))
