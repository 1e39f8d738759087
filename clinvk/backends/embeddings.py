"""Embeddings offline, by a model that ships in its package; answers nothing else.

Owns what it takes and in which pieces it works; `embedding_model` owns the model. Nothing is
loaded before the first request, and no vector is made on the event loop. What upstreams are
passed is answered here: so places, limits and records are those of every request that passes.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from clinvk import tokens
from clinvk.backends import claims, embedding_model
from clinvk.backends.base import Health, Passed, PassedReply, Processes, Relay, State
from clinvk.backends.embedding_model import DIMENSIONS
from clinvk.config import EmbeddingsConfig
from clinvk.errors import (
    BadRequestError,
    ContextTooLongError,
    ModelNotFoundError,
    NotInstalledError,
    UnsupportedError,
)
from clinvk.events import Event
from clinvk.extras import INSTALL_EMBEDDINGS, has_embeddings
from clinvk.turn import Turn
from clinvk.wire import openai_embeddings as wire

MODEL = "wordllama"
# The model has no longest text: these keep a piece of work short, and its memory small.
MAX_TOKENS = 65_536
MAX_CHARACTERS = 4 * MAX_TOKENS
_BATCH_INPUTS = 64
_BATCH_SIZE = 65_536  # characters
_TOKEN_SIZE = 16  # characters that a token is taken for: most have four, the longest 128
_PIECE_BYTES = 256 * 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Input:
    """A text or its tokens, by cl100k_base, and what the caller calls it."""

    name: str
    value: str | Sequence[int]

    @property
    def size(self) -> int:
        """About how many characters it has, rather too many."""
        return len(self.value) * (1 if isinstance(self.value, str) else _TOKEN_SIZE)

    def text(self) -> str:
        """Return the text, within `MAX_CHARACTERS`.

        Raises:
            BadRequestError: if its tokens are none.
            ContextTooLongError: if it is too long.
        """
        value = self.value
        if not isinstance(value, str):
            if len(value) > MAX_TOKENS:
                raise self._too_long()
            try:
                value = tokens.decode(value)
            except tokens.NoTokenError as exc:
                raise BadRequestError(
                    f"{self.name!r} is not valid: {exc.token} is no token of {tokens.CLIENTS}",
                    param=self.name,
                ) from None
        if len(value) > MAX_CHARACTERS:
            raise self._too_long()
        return value

    def require_short(self, count: int) -> None:
        """Hold its number of tokens to the limit.

        Raises:
            ContextTooLongError: if there are too many.
        """
        if count > MAX_TOKENS:
            raise self._too_long()

    def _too_long(self) -> ContextTooLongError:
        return ContextTooLongError(
            f"{self.name!r} is over the limit of {MAX_TOKENS} tokens or {MAX_CHARACTERS} "
            f"characters; split it",
            param=self.name,
        )


class EmbeddingsBackend(Relay):
    """Makes vectors of texts."""

    kind = "embeddings"
    vendor = MODEL
    capabilities = claims.EMBEDDINGS
    trouble = None
    processes = Processes()

    def __init__(self, name: str, config: EmbeddingsConfig) -> None:
        self.name = name
        self.config = config
        self._threads = anyio.CapacityLimiter(config.max_concurrency)

    @property
    def installed(self) -> bool:
        """Whether the extra is."""
        return has_embeddings()

    @property
    def endpoints(self) -> Collection[str]:
        """The one that it answers."""
        return ("embeddings",)

    @property
    def models(self) -> Sequence[str]:
        """The one that there is."""
        return (MODEL,)

    async def refresh(self) -> None:
        """Know it already."""

    def require_model(self, model: str | None) -> str:
        """Return the one that there is."""
        if model not in (None, MODEL):
            raise ModelNotFoundError(
                f"{self.name!r} has no model {model!r}; ask for {self.name!r}", param="model"
            )
        return MODEL

    @asynccontextmanager
    async def send(self, request: Passed) -> AsyncIterator[PassedReply]:
        """Answer a request.

        Raises:
            NotInstalledError: if the extra is not installed.
            BadRequestError: naming the field at fault.
        """
        if not self.installed:
            raise NotInstalledError(
                f"the model of backend {self.name!r} is not installed; "
                f"install it with: {INSTALL_EMBEDDINGS}"
            )
        if not isinstance(request.body, bytes):
            raise TypeError("a body of embeddings comes whole")
        asked = wire.parse(request.body)
        if asked.dimensions is not None and asked.dimensions > DIMENSIONS:
            raise BadRequestError(
                f"'dimensions' is not valid: the model has {DIMENSIONS}; ask for as many or fewer",
                param="dimensions",
            )
        inputs = [Input(name, value) for name, value in asked.inputs]
        told = partial(wire.item, encoding=asked.encoding)
        items, count = await self.embed(inputs, asked.dimensions, told)
        body = wire.reply(asked.model, items, count)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        if names := wire.ignored_names(asked):
            headers.append(("x-clinvk-ignored", names))
        yield PassedReply(200, tuple(headers), _pieces(body))

    async def embed(
        self, inputs: Sequence[Input], dimensions: int | None, told: Callable[[int, bytes], T]
    ) -> tuple[list[T], int]:
        """Return what `told` makes of each input's number and vector, and the count of tokens.

        A vector is of 32-bit floats, the low byte first. The work is done in a thread, piece by
        piece: who leaves ends it with the piece.

        Raises:
            BadRequestError: naming the input that cannot be taken.
            UnavailableError: if the model cannot be loaded.
        """
        made: list[T] = []
        count = 0
        for batch in _batches(inputs):

            def work(batch: Sequence[Input] = batch, at: int = len(made)) -> tuple[list[T], int]:
                return _work(batch, at, dimensions or DIMENSIONS, told)

            more, spent = await anyio.to_thread.run_sync(work, limiter=self._threads)
            made += more
            count += spent
        return made, count

    def check(self, turn: Turn) -> tuple[str, ...]:
        """Refuse every turn."""
        raise self._no_chat(turn.model)

    def open(
        self, turn: Turn, model: str | None
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Refuse every turn."""
        del model
        raise self._no_chat(turn.model)

    async def health(self) -> Health:
        """Look whether the extra is installed; loads nothing."""
        if not self.installed:
            return Health(
                State.MISSING, reason="its model is not installed", fix=INSTALL_EMBEDDINGS
            )
        return Health(State.READY, version=embedding_model.model_version())

    async def warm(self) -> None:
        """Leave the model where it is until somebody needs it."""

    def close(self) -> None:
        """Hold nothing."""

    def _no_chat(self, asked: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.name!r}, which has the model {asked!r}, makes embeddings and answers nothing",
            param="model",
        )


def _work(
    batch: Sequence[Input], at: int, dimensions: int, told: Callable[[int, bytes], T]
) -> tuple[list[T], int]:
    model = embedding_model.load()
    ids = model.tokens([each.text() for each in batch])
    made, count = [], 0
    for number, (each, found) in enumerate(zip(batch, ids, strict=True), start=at):
        each.require_short(len(found))
        embedded = model.embed(found, dimensions)
        made.append(told(number, embedded.vector))
        count += embedded.tokens
    return made, count


def _batches(inputs: Sequence[Input]) -> Iterator[Sequence[Input]]:
    start, size = 0, 0
    for at, each in enumerate(inputs):
        if at > start and (at - start == _BATCH_INPUTS or size + each.size > _BATCH_SIZE):
            yield inputs[start:at]
            start, size = at, 0
        size += each.size
    yield inputs[start:]


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]
