"""Who is asked for a model that several backends can answer for, and who after a failure.

Owns the order, the shares, what is remembered of conversations, and who rests; runs nothing. A
way is one request's: it is walked until a target answers, and never turned back on.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from clinvk.conversations import Key
from clinvk.errors import (
    BusyError,
    CliCrashedError,
    ClinvkError,
    CliProtocolError,
    ContextTooLongError,
    ModelNotFoundError,
    NotInstalledError,
    NotLoggedInError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitedError,
    TurnTimeoutError,
    UnsupportedError,
    UpstreamError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from clinvk.registry import Candidate, Route, Target
from clinvk.routes import FallbackOn

REMEMBERED = 10_000  # conversations' targets
RESTING = 1_000
LONGEST_REST_S = 3_600.0

# The narrower class first.
_KINDS: tuple[tuple[type[ClinvkError], FallbackOn], ...] = (
    (NotInstalledError, "not_installed"),
    (NotLoggedInError, "not_logged_in"),
    (RateLimitedError, "rate_limited"),
    (BusyError, "busy"),
    (OverloadedError, "overloaded"),
    (TurnTimeoutError, "timeout"),
    (UpstreamTimeoutError, "timeout"),
    (UpstreamUnreachableError, "unreachable"),
    (CliCrashedError, "crashed"),
    (CliProtocolError, "crashed"),
    (UpstreamError, "upstream"),
    (PermissionDeniedError, "permission"),
    (ModelNotFoundError, "model_not_found"),
    (ContextTooLongError, "context_too_long"),
)
_MOMENTARY: tuple[FallbackOn, ...] = ("not_installed", "busy", "model_not_found")


def kind_of(error: ClinvkError) -> FallbackOn | None:
    """Return what a failure is called in a route's `fallback`; None if none is made for it."""
    return next((kind for cls, kind in _KINDS if isinstance(error, cls)), None)


class Way:
    """The targets of one request in the order in which they are asked.

    `failures` are of those who were asked and failed, by their full names. `keys` are by what its
    conversation is remembered, if whoever made the way knows them.
    """

    def __init__(
        self,
        route: Route,
        targets: Iterable[Target],
        rest: "Callable[[Route, str, ClinvkError], None]",
    ) -> None:
        self.route = route
        self.failures: list[tuple[str, ClinvkError]] = []
        self.keys: tuple[Key, ...] = ()
        self._asked = ""
        self._targets = list(targets)
        self._rest = rest
        self._unable: ClinvkError | None = None

    @property
    def more(self) -> bool:
        """Whether another could still be asked."""
        return bool(self._targets)

    @property
    def ahead(self) -> tuple[Target, ...]:
        """Who can still be asked."""
        return tuple(self._targets)

    def take(self) -> Target:
        """Return who is asked next; there must be one."""
        target = self._targets.pop(0)
        self._asked = target.full_name
        return target

    def put_back(self, target: Target) -> None:
        """Have a target asked next."""
        self._targets = [target, *(each for each in self._targets if each != target)]

    def end(self) -> None:
        """Have nobody else asked."""
        self._targets.clear()

    def split(self) -> "Way":
        """Return a way of its own with the same targets ahead."""
        way = Way(self.route, self._targets, self._rest)
        way.failures, way.keys = list(self.failures), self.keys
        way._asked, way._unable = self._asked, self._unable
        return way

    def leads_on(self, error: ClinvkError) -> bool:
        """Whether another is asked after this failure."""
        if not self._targets:
            return False
        return isinstance(error, UnsupportedError) or kind_of(error) in self.route.fallback

    def after(self, error: ClinvkError) -> ClinvkError | None:
        """Note why who was asked failed, with nothing told; return what to tell.

        None is for asking the next. Who cannot do what a request asks for is passed over, and is
        to blame only if nobody can.
        """
        leads_on = self.leads_on(error)
        if isinstance(error, UnsupportedError) and len(self.route.candidates) > 1:
            self._unable = self._unable or _alone(error, error.message)
        else:
            self.failures.append((self._asked, _alone(error, error.message)))
            if kind_of(error) in self.route.fallback:
                self._rest(self.route, self._asked, error)
        if leads_on:
            return None
        if not self.failures:
            return self._unable
        *before, (name, last) = self.failures
        if not before:
            return error if len(self.route.candidates) == 1 else last
        said = "; ".join(f"{asked}: {failure.message}" for asked, failure in before)
        return _alone(last, f"{name}: {last.message}; asked before: {said}")


class Router:
    """Orders the targets of each request, and remembers for all of them.

    Args:
        now: counts seconds.
        free: whether a target could begin at once.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        free: Callable[[Target], bool] = lambda _: True,
    ) -> None:
        self._now = now
        self._free = free
        self._shares: dict[tuple[str, str], float] = {}
        self._at: OrderedDict[Key, str] = OrderedDict()
        self._rests: OrderedDict[str, float] = OrderedDict()

    def way(self, route: Route, known: Iterable[Key] = ()) -> Way:
        """Return a request's way.

        Args:
            route: who may answer.
            known: digests of its conversation so far, the closest first; none if it is new.
        """
        if len(route.candidates) == 1:
            return Way(route, (route.candidates[0].target,), self._rest)
        last = self._last(route, known) if route.sticky else None
        targets = list(self._shared(route, draws=last is None))
        if last is not None:
            targets.sort(key=lambda target: target.full_name != last)
        targets.sort(key=self.rests)
        return Way(route, targets, self._rest)

    def rests(self, target: Target) -> bool:
        """Whether a target failed so lately that others are asked first."""
        return self._rests.get(target.full_name, -math.inf) > self._now()

    def answered(self, name: str, keys: Iterable[Key]) -> None:
        """Note by its full name who answered, and what the conversation is known by."""
        self._rests.pop(name, None)
        for key in keys:
            self._at[key] = name
            self._at.move_to_end(key)
        while len(self._at) > REMEMBERED:
            self._at.popitem(last=False)

    def _last(self, route: Route, known: Iterable[Key]) -> str | None:
        names = {each.target.full_name for each in route.candidates}
        return next((name for key in known if (name := self._at.get(key)) in names), None)

    def _shared(self, route: Route, *, draws: bool) -> Iterator[Target]:
        """Yield the targets in order; those side by side with weights by whose turn it is."""
        for weighted, group in groupby(route.candidates, lambda each: each.weight is not None):
            candidates = list(group)
            if weighted:
                candidates.sort(key=lambda each: -self._share(route, each))
                if draws:
                    self._draw(route, candidates)
            yield from (each.target for each in candidates)

    def _draw(self, route: Route, candidates: list[Candidate]) -> None:
        """Put the one first whose turn it is.

        Smooth weighted round-robin: all gain their weight, and the first pays for all, so that
        shares are exact and well mixed. Who rests is left out, and who has no place free.
        """
        awake = [each for each in candidates if not self.rests(each.target)] or candidates
        able = [each for each in awake if self._free(each.target)] or awake
        for each in able:
            self._shares[_place(route, each)] = self._share(route, each) + (each.weight or 0)
        first = max(able, key=lambda each: self._share(route, each))
        self._shares[_place(route, first)] -= sum(each.weight or 0 for each in able)
        candidates.sort(key=lambda each: each is not first)

    def _share(self, route: Route, candidate: Candidate) -> float:
        return self._shares.get(_place(route, candidate), 0.0)

    def _rest(self, route: Route, name: str, error: ClinvkError) -> None:
        if not route.rest_s or kind_of(error) in _MOMENTARY:
            return
        rest_s = route.rest_s if error.retry_after_s is None else error.retry_after_s
        self._rests[name] = self._now() + min(rest_s, LONGEST_REST_S)
        self._rests.move_to_end(name)
        while len(self._rests) > RESTING:
            self._rests.popitem(last=False)


def _alone(error: ClinvkError, message: str) -> ClinvkError:
    """Return the same error without its traceback, which would keep all that it passed through."""
    return type(error)(message, param=error.param, retry_after_s=error.retry_after_s)


def _place(route: Route, candidate: Candidate) -> tuple[str, str]:
    return route.name, candidate.written
