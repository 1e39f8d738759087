"""Who calls, and what their key allows: the middleware that every request passes.

Owns the counts of each caller. Keys are `clinvk.keys`'s; what pages may do is `pages`'s.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aiohttp import hdrs, web

from clinvk.errors import (
    AuthenticationError,
    BadRequestError,
    ClinvkError,
    KeyLimitError,
    ModelNotAllowedError,
)
from clinvk.keys import Key, Keyring
from clinvk.registry import Registry
from clinvk.server import access, pages
from clinvk.server.middleware import Handler

KEYRING = web.AppKey("clinvk.keyring", Keyring)

# Served without a key; what they tell then is no secret.
OPEN = frozenset({"/health", "/health/ready", "/docs", "/openapi.json"})

MINUTE_S = 60.0
UNKNOWN_TURN_S = 5.0  # how long a turn is thought to take before one has ended


class Account:
    """What a caller has asked lately and what runs for it, whichever of its keys it shows."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._asked: deque[float] = deque()
        self._started: list[float] = []
        self._turn_s = UNKNOWN_TURN_S

    def count_request(self, limit: int) -> float:
        """Count a request unless `limit` were counted in the last minute.

        Returns how many seconds to wait for the next; 0 if it was counted.
        """
        now = self._now()
        while self._asked and self._asked[0] <= now - MINUTE_S:
            self._asked.popleft()
        if len(self._asked) >= limit:
            return self._asked[len(self._asked) - limit] + MINUTE_S - now
        self._asked.append(now)
        return 0

    @property
    def running(self) -> int:
        """How many turns run."""
        return len(self._started)

    @property
    def free_in_s(self) -> float:
        """In about how many seconds the oldest of the running turns ends."""
        age = self._now() - min(self._started, default=0)
        return max(1, self._turn_s - age)

    @contextlib.contextmanager
    def run(self, turns: int) -> Iterator[None]:
        """Count turns while they run."""
        started = self._now()
        self._started += [started] * turns
        try:
            yield
        finally:
            for _ in range(turns):
                self._started.remove(started)
            self._turn_s += (self._now() - started - self._turn_s) / 4


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: a key's holder, or with no key anybody who may ask without one."""

    key: Key | None
    account: Account
    known: bool

    @property
    def name(self) -> str:
        """The name of the key; empty without keys."""
        return "" if self.key is None else self.key.name

    def count_request(self) -> None:
        """Count the request itself.

        Raises:
            KeyLimitError: if it is one too many for a minute.
        """
        if self.key is None or (limit := self.key.requests_per_minute) is None:
            return
        if wait_s := self.account.count_request(limit):
            raise KeyLimitError(
                f"the key {self.name!r} may send {limit} requests a minute; "
                f"ask again in {math.ceil(wait_s)} s",
                retry_after_s=wait_s,
            )

    @contextlib.contextmanager
    def turns(self, turns: int) -> Iterator[None]:
        """Hold the places of as many turns.

        Raises:
            KeyLimitError: if more run then than the key may have at once.
            BadRequestError: if these alone are more.
        """
        limit = math.inf if self.key is None else self.key.max_turns or math.inf
        if turns > limit:
            raise BadRequestError(
                f"the key {self.name!r} may have {limit} turns at once, and this needs {turns}",
                param="n",
            )
        if self.account.running + turns > limit:
            raise KeyLimitError(
                f"the key {self.name!r} may have {limit} turns at once; ask again when one ends",
                retry_after_s=self.account.free_in_s,
            )
        with self.account.run(turns):
            yield

    def require_model(self, asked: str, registry: Registry) -> None:
        """Check that the caller may use a model.

        Raises:
            ModelNotAllowedError: if the key is not for it.
        """
        if not self.may_use(asked, registry):
            patterns = ", ".join(() if self.key is None else self.key.models)
            raise ModelNotAllowedError(
                f"the key {self.name!r} is not for the model {asked!r}; it is for: {patterns}",
                param="model",
            )

    def may_use(self, asked: str, registry: Registry) -> bool:
        """Whether the key is for a model, as it is asked for or as `backend/model`.

        It is for a route by its name, or if it is for all of its targets.
        """
        if self.key is None or not self.key.models or self._has(asked):
            return True
        try:
            route = registry.route(asked)
        except ClinvkError:  # that there is none is told elsewhere
            return False
        return all(self._has(each.target.full_name) for each in route.candidates)

    def _has(self, name: str) -> bool:
        return self.key is not None and any(fnmatchcase(name, each) for each in self.key.models)


class Callers:
    """The accounts of all callers, by name."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._accounts: dict[str, Account] = {}

    def caller(self, key: Key | None, *, known: bool) -> Caller:
        """Return who holds a key."""
        name = "" if key is None else key.name
        if name not in self._accounts:
            self._accounts[name] = Account(self._now)
        return Caller(key, self._accounts[name], known)


CALLERS = web.AppKey("clinvk.callers", Callers)
CALLER = web.RequestKey("clinvk.auth.caller", Caller)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let through who may call, with its caller noted, and answer browsers that ask first."""
    keyring, callers = request.app[KEYRING], request.app[CALLERS]
    keyed = keyring.required
    request.app[pages.PAGES].admit(request, keyed=keyed)
    if pages.is_preflight(request):
        return pages.preflight(request)
    key = _key_of(request, keyring) if keyed else None
    request[CALLER] = caller = callers.caller(key, known=key is not None or not keyed)
    if not caller.known and not _is_open(request):
        raise AuthenticationError(_refusal(request))
    request[access.CALLER] = caller.name
    if not _is_open(request):
        caller.count_request()
    pages.require_json(request)
    return await handler(request)


def caller_of(request: web.Request) -> Caller:
    """Return who sends a request."""
    return request[CALLER]


def own_key(request: web.Request) -> str | None:
    """Return a key that a request shows and that is none of this server's: one for an upstream."""
    keyring = request.app[KEYRING]
    return next((key for key in _presented(request) if key and keyring.find(key) is None), None)


def add_guard(app: web.Application, keyring: Keyring, guarded: pages.Pages) -> None:
    """Keep an application, whose middlewares have `guard`, for those who may call."""
    app[KEYRING] = keyring
    app[CALLERS] = Callers()
    app[pages.PAGES] = guarded
    app[pages.FORMS] = set()
    app.on_response_prepare.append(pages.add_cors_headers)


def _is_open(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in OPEN


def _key_of(request: web.Request, keyring: Keyring) -> Key | None:
    found = None
    for presented in _presented(request):
        found = keyring.find(presented) or found
    return found


def _presented(request: web.Request) -> Iterable[str]:
    """Every key that the request shows; some clients send one by both headers."""
    for value in request.headers.getall(hdrs.AUTHORIZATION, []):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            yield key.strip()
    for value in request.headers.getall("X-Api-Key", []):
        yield value.strip()


def _refusal(request: web.Request) -> str:
    if any(_presented(request)):
        return "the key is not valid here; 'clinvk keys list' on the server names those that are"
    return (
        "a key is needed: send 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'; "
        "'clinvk keys create NAME' on the server makes one"
    )
