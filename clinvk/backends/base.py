"""What every backend is: a turn in, events out, and an honest word on its own state.

Owns the protocol and the few things that all CLIs share; knows no CLI by name.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from clinvk.capabilities import Capabilities
from clinvk.errors import CliCrashedError, ClinvkError, NotInstalledError, UnavailableError
from clinvk.events import Event
from clinvk.procs.backoff import StartBackoffError, failed_often
from clinvk.procs.pool import Server, ServerPool
from clinvk.turn import Message, Turn


class State(StrEnum):
    """Whether a backend can take a turn."""

    READY = "ready"
    MISSING = "missing"
    NOT_LOGGED_IN = "not_logged_in"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Health:
    """A backend's state; `reason` says what is wrong and `fix` is the command that mends it.

    `tested` is whether the version is the one clinvk's tests run; None if that means nothing.
    """

    state: State
    version: str | None = None
    tested: bool | None = None
    reason: str | None = None
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Processes:
    """How many processes of a CLI run and wait for their first turn; its starts, and the failed.

    `failures` are those since the last start that succeeded.
    """

    running: int = 0
    spares: int = 0
    starts: int = 0
    failures: int = 0


class Live(ABC, AsyncIterator[Event]):
    """The events of a conversation that can go on after its turn has finished.

    Iterating gives a turn's events up to its `Finished` or `Failed`, and after `go_on` those of
    the next turn.
    """

    @property
    @abstractmethod
    def waits(self) -> bool:
        """Whether it can go on now; looked at after a `Finished`, at once and again later.

        After `TOOL_CALLS` the CLI holds its turn open for the results of the calls that were
        told, and of no others; after `STOP` it is ready for what the user says next. False if
        it has died, or if what it remembers is not what the caller was told.
        """

    @abstractmethod
    async def go_on(self, news: tuple[Message, ...]) -> None:
        """Begin the next turn: with a `TOOL` message for each call, or with `USER` messages.

        All else is as in the turn before.

        Raises:
            CliCrashedError: if it cannot go on after all; the turn is then run anew.
        """


@dataclass(frozen=True, slots=True)
class Passed:
    """A request to pass on as it is: an endpoint such as `embeddings`, its headers and its body.

    `key` is the caller's own, if it showed one.
    """

    endpoint: str
    headers: Mapping[str, str]
    body: bytes | AsyncIterator[bytes]
    key: str | None = None


@dataclass(frozen=True, slots=True)
class PassedReply:
    """What came back: any status, the headers that concern the caller, and the body as it comes."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: AsyncIterator[bytes]


class Relay(ABC):
    """What a backend is as well that has an HTTP API of its own, which requests can pass on to."""

    @property
    @abstractmethod
    def endpoints(self) -> Collection[str]:
        """The endpoints that it takes requests for."""

    @property
    @abstractmethod
    def models(self) -> Sequence[str]:
        """The models that can be asked for, as far as they are known."""

    @abstractmethod
    async def refresh(self) -> None:
        """Look which models there are, unless that is known well enough; never fails."""

    @abstractmethod
    def require_model(self, model: str | None) -> str:
        """Return the model, or the default for None.

        Raises:
            ModelNotFoundError: if there is no default.
        """

    @abstractmethod
    def send(self, request: Passed) -> AbstractAsyncContextManager[PassedReply]:
        """Pass a request on; leaving ends it.

        Raises:
            UpstreamError: if there is no answer, also from the reply's body.
        """


class Backend(Protocol):
    """Drives one CLI."""

    name: str
    kind: str
    vendor: str
    capabilities: Capabilities

    def check(self, turn: Turn) -> tuple[str, ...]:
        """Return the request fields that this backend will ignore.

        Starts nothing and waits for nothing.

        Raises:
            BadRequestError: naming the field or part that it cannot represent.
            NotInstalledError: if the CLI is not on this machine.
        """

    def open(
        self, turn: Turn, model: str | None
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run the turn on the CLI's `model` (None: its default); leaving interrupts it.

        The iterator follows the grammar of `clinvk.events`; failures of the CLI and of its
        model API may also be raised as ClinvkError. One that is `Live` may go on. No cancel
        scope is open while it is held: it may outlast the time limit that it was entered in.
        """

    @property
    def installed(self) -> bool:
        """Whether the CLI is found; a cheap look, done at each call."""

    @property
    def trouble(self) -> str | None:
        """Why it is not even tried to start the CLI now, None if it is; a cheap look."""

    @property
    def processes(self) -> Processes:
        """How many processes there are now."""

    async def health(self) -> Health:
        """Look at version and login; starts no turn."""

    async def warm(self) -> None:
        """Start what can be started before the first turn."""

    def close(self) -> None:
        """Begin to stop every process; the supervisor awaits their end."""


S = TypeVar("S", bound=Server)


def start_failure(exc: StartBackoffError) -> ClinvkError:
    """Return what the last start failed with, and when the next may be tried."""
    cause = as_unavailable(exc.cause) if isinstance(exc.cause, OSError) else exc.cause
    kind = type(cause) if isinstance(cause, ClinvkError) else CliCrashedError
    said = f"{cause}; {failed_often(exc.failures, exc.retry_after_s)}"
    return kind(said, retry_after_s=exc.retry_after_s)


@asynccontextmanager
async def leased(pool: ServerPool[S]) -> AsyncIterator[S]:
    """Hold a place on a backend's server; see `ServerPool.lease`.

    Raises:
        ClinvkError: if it does not come up.
    """
    try:
        async with pool.lease() as server:
            yield server
    except StartBackoffError as exc:
        raise start_failure(exc) from exc


async def warmed(pool: ServerPool[S]) -> None:
    """Start a backend's server ahead; see `ServerPool.warm`.

    Raises:
        ClinvkError: if it does not come up.
    """
    try:
        await pool.warm()
    except StartBackoffError as exc:
        raise start_failure(exc) from exc


def processes_of(pool: ServerPool[S]) -> Processes:
    """Return how many processes a backend has whose turns share a server."""
    return Processes(pool.running, 0, pool.starts, pool.failures)


def as_unavailable(exc: OSError) -> UnavailableError:
    """Return what the system refused as the caller hears it; no path of the machine is named."""
    return UnavailableError(
        f"this machine cannot run the CLI now: {(exc.strerror or str(exc)).lower()}; the server "
        f"needs a temp folder ($TMPDIR) that it can write to, and room in it"
    )


def find_program(command: Sequence[str], env: Mapping[str, str]) -> str | None:
    """Return the path of the program that `command` names, looked up in the child's PATH."""
    return shutil.which(command[0], path=env.get("PATH"))


def require_program(
    backend: str, command: Sequence[str], env: Mapping[str, str], *, fix: str
) -> tuple[str, ...]:
    """Return `command` with its program as a path.

    Raises:
        NotInstalledError: if it is not found; the message has `fix`, the command to install it.
    """
    path = find_program(command, env)
    if path is None:
        raise NotInstalledError(
            f"{command[0]!r} for backend {backend!r} was not found; install it with: {fix}"
        )
    return (path, *command[1:])
