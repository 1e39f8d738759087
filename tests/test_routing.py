"""Who is asked in which order: shares, rest, memory and failures."""

from collections import Counter
from dataclasses import replace

import pytest

from clinvk.capabilities import Count, Level
from clinvk.config import Config, EchoConfig
from clinvk.errors import (
    BadRequestError,
    BusyError,
    CliCrashedError,
    ClinvkError,
    CliProtocolError,
    ContextTooLongError,
    InternalError,
    InvalidAnswerError,
    ModelNotFoundError,
    NotInstalledError,
    NotLoggedInError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    ShuttingDownError,
    TurnTimeoutError,
    UnsupportedError,
    UpstreamError,
    UpstreamTimeoutError,
    UpstreamUnauthorizedError,
    UpstreamUnreachableError,
)
from clinvk.registry import Registry, Route
from clinvk.routes import DEFAULT_FALLBACK, RouteConfig
from clinvk.routing import REMEMBERED, RESTING, Router, Way, kind_of
from tests.fakes.backend import ScriptBackend

LIMITED = RateLimitedError("slow down")
CANNOT = UnsupportedError("no images", param="messages[0]")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def router(clock: Clock) -> Router:
    return Router(clock)


def registry(routes: dict[str, object], *names: str) -> Registry:
    config = Config(
        backends={name: EchoConfig(kind="echo") for name in names or "abc"},
        routes={name: RouteConfig.model_validate(route) for name, route in routes.items()},
    )
    return Registry(config, {name: ScriptBackend(name) for name in config.backends})


def route(*targets: object, **settings: object) -> Route:
    return registry({"r": {"targets": list(targets), **settings}}).route("r")


def weighted(**shares: float) -> list[object]:
    return [{"target": name, "weight": weight} for name, weight in shares.items()]


def order(way: Way) -> str:
    return "".join(target.full_name for target in way.ahead)


def failed(way: Way, error: ClinvkError) -> ClinvkError | None:
    way.take()
    return way.after(error)


def same(error: ClinvkError | None, other: ClinvkError) -> bool:
    """Whether two errors are told alike; one that was kept has lost its traceback."""
    told = [(type(each), str(each), each and each.param) for each in (error, other)]
    return told[0] == told[1] and error is not other


def test_targets_are_asked_in_order(router: Router) -> None:
    assert [order(router.way(route("b", "a", "c"))) for _ in range(3)] == ["bac"] * 3


def test_shares_are_exact_and_mixed(router: Router) -> None:
    asked = route(*weighted(a=3, b=1))
    first = [order(router.way(asked))[0] for _ in range(40)]
    assert Counter(first) == {"a": 30, "b": 10}
    assert "aaaa" not in "".join(first)


def test_who_has_no_share_comes_where_it_stands(router: Router) -> None:
    asked = route("c", *weighted(a=1, b=1))
    assert {order(router.way(asked)) for _ in range(4)} == {"cab", "cba"}


def test_each_route_has_shares_of_its_own(router: Router) -> None:
    both = registry({"r": weighted(a=1, b=1), "s": weighted(a=1, b=1)})
    assert [order(router.way(both.route(name))) for name in "rssr"] == ["ab", "ab", "ba", "ba"]


def test_who_failed_rests_until_its_time_is_over(router: Router, clock: Clock) -> None:
    asked = route("a", "b", rest_s=30)
    assert failed(router.way(asked), LIMITED) is None
    assert order(router.way(asked)) == "ba"
    clock.now += 30
    assert order(router.way(asked)) == "ab"


def test_who_says_when_to_come_back_rests_until_then(router: Router, clock: Clock) -> None:
    asked = route("a", "b")
    failed(router.way(asked), RateLimitedError("later", retry_after_s=300))
    clock.now += 299
    assert order(router.way(asked)) == "ba"
    clock.now += 1
    assert order(router.way(asked)) == "ab"


def test_nobody_rests_for_longer_than_an_hour(router: Router, clock: Clock) -> None:
    asked = route("a", "b")
    failed(router.way(asked), RateLimitedError("next week", retry_after_s=600_000))
    clock.now += 3600
    assert order(router.way(asked)) == "ab"


@pytest.mark.parametrize("error", [NotInstalledError("x"), BusyError("x"), UnsupportedError("x")])
def test_what_costs_no_time_to_find_out_needs_no_rest(router: Router, error: ClinvkError) -> None:
    asked = route("a", "b")
    assert failed(router.way(asked), error) is None
    assert order(router.way(asked)) == "ab"


def test_rest_can_be_turned_off(router: Router) -> None:
    asked = route("a", "b", rest_s=0)
    failed(router.way(asked), LIMITED)
    assert order(router.way(asked)) == "ab"


def test_who_answers_rests_no_more(router: Router) -> None:
    asked = route("a", "b")
    failed(router.way(asked), LIMITED)
    router.answered("a", ())
    assert order(router.way(asked)) == "ab"


def test_if_all_rest_the_order_is_as_ever(router: Router) -> None:
    asked = route("a", "b")
    way = router.way(asked)
    assert failed(way, LIMITED) is None
    assert failed(way, LIMITED) is not None
    assert order(router.way(asked)) == "ab"


def test_who_rests_has_no_turn_in_the_shares(router: Router, clock: Clock) -> None:
    asked = route(*weighted(a=1, b=1, c=1), rest_s=30)
    failed(router.way(asked), LIMITED)
    first = [order(router.way(asked))[0] for _ in range(10)]
    assert Counter(first) == {"b": 5, "c": 5}
    clock.now += 30
    assert "a" in {order(router.way(asked))[0] for _ in range(3)}


def test_who_has_no_place_free_has_no_turn_in_the_shares(clock: Clock) -> None:
    full = {"a"}
    router = Router(clock, lambda target: target.full_name not in full)
    asked = route(*weighted(a=1, b=1))
    assert [order(router.way(asked)) for _ in range(3)] == ["ba"] * 3
    full.add("b")
    assert {order(router.way(asked)) for _ in range(2)} == {"ab", "ba"}


def test_the_rests_that_are_remembered_are_bounded(router: Router) -> None:
    made = registry({"r*": ["a/{model}", "b"]})
    for number in range(RESTING + 1):
        failed(router.way(made.route(f"r{number}")), LIMITED)
    assert router.way(made.route("r0")).ahead[0].full_name == "a/r0"
    assert router.way(made.route("r1")).ahead[0].full_name == "b"


def test_a_conversation_stays_where_it_was_answered(router: Router) -> None:
    asked = route(*weighted(a=1, b=1))
    router.answered("b", (b"opening",))
    orders = [order(router.way(asked, (b"head", b"opening"))) for _ in range(4)]
    assert {each[0] for each in orders} == {"b"}


def test_the_closest_that_is_known_counts(router: Router) -> None:
    asked = route("a", "b")
    router.answered("a", (b"opening",))
    router.answered("b", (b"head",))
    assert order(router.way(asked, (b"head", b"opening"))) == "ba"


def test_staying_takes_no_turn_of_the_shares(router: Router) -> None:
    asked = route(*weighted(a=1, b=1))
    router.answered("a", (b"k",))
    assert order(router.way(asked)) == "ab"
    for _ in range(3):
        router.way(asked, (b"k",))
    assert order(router.way(asked)) == "ba"


def test_a_conversation_leaves_who_rests(router: Router) -> None:
    asked = route("a", "b")
    router.answered("b", (b"k",))
    way = router.way(asked, (b"k",))
    failed(way, LIMITED)
    assert order(router.way(asked, (b"k",))) == "ab"


def test_a_route_may_be_told_not_to_stick(router: Router) -> None:
    asked = route("a", "b", sticky=False)
    router.answered("b", (b"k",))
    assert order(router.way(asked, (b"k",))) == "ab"


def test_who_is_not_of_the_route_is_not_stuck_to(router: Router) -> None:
    router.answered("c", (b"k",))
    assert order(router.way(route("a", "b"), (b"k",))) == "ab"


def test_the_conversations_that_are_remembered_are_bounded(router: Router) -> None:
    asked = route("a", "b")
    router.answered("b", (b"first",))
    router.answered("b", (b"second",))
    for number in range(REMEMBERED - 2):
        router.answered("b", (str(number).encode(),))
    router.answered("b", (b"first",))  # which makes it young again
    router.answered("b", (b"one too many",))
    assert order(router.way(asked, (b"first",))) == "ba"
    assert order(router.way(asked, (b"second",))) == "ab"


def test_a_chosen_failure_leads_on_and_no_other(router: Router) -> None:
    asked = route("a", "b", fallback=["overloaded"])
    assert failed(router.way(asked), OverloadedError("x")) is None
    assert same(failed(router.way(asked), LIMITED), LIMITED)
    wrong = BadRequestError("wrong")
    assert same(failed(router.way(route("a", "b")), wrong), wrong)


def test_what_all_said_is_told_with_the_last(router: Router) -> None:
    way = router.way(route("a", "b", "c"))
    assert failed(way, NotLoggedInError("log in")) is None
    assert failed(way, CANNOT) is None
    told = failed(way, RateLimitedError("slow down", retry_after_s=7))
    assert isinstance(told, RateLimitedError)
    assert told.message == "c: slow down; asked before: a: log in"
    assert told.retry_after_s == 7


def test_one_failure_is_told_as_it_is(router: Router) -> None:
    way = router.way(route("a", "b"))
    assert failed(way, CANNOT) is None
    assert same(failed(way, LIMITED), LIMITED)


def test_if_nobody_can_the_first_says_so(router: Router) -> None:
    way = router.way(route("a", "b"))
    assert failed(way, CANNOT) is None
    assert same(failed(way, UnsupportedError("nor can I")), CANNOT)


def test_a_failure_weighs_more_than_what_another_cannot_do(router: Router) -> None:
    way = router.way(route("a", "b"))
    assert failed(way, LIMITED) is None
    assert same(failed(way, CANNOT), LIMITED)


def test_ways_that_part_go_on_by_themselves(router: Router) -> None:
    way = router.way(route("a", "b", "c"))
    failed(way, LIMITED)
    other = way.split()
    assert failed(other, OverloadedError("x")) is None
    assert (order(way), order(other)) == ("bc", "c")
    assert [name for name, _ in other.failures] == ["a", "b"]
    assert [name for name, _ in way.failures] == ["a"]


def test_a_way_can_be_ended(router: Router) -> None:
    way = router.way(route("a", "b"))
    way.take()
    assert way.leads_on(LIMITED)
    way.end()
    assert not way.more
    assert same(way.after(LIMITED), LIMITED)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotInstalledError, "not_installed"),
        (NotLoggedInError, "not_logged_in"),
        (UpstreamUnauthorizedError, "not_logged_in"),
        (RateLimitedError, "rate_limited"),
        (QuotaExceededError, "rate_limited"),
        (OverloadedError, "overloaded"),
        (BusyError, "busy"),
        (TurnTimeoutError, "timeout"),
        (UpstreamTimeoutError, "timeout"),
        (UpstreamUnreachableError, "unreachable"),
        (CliCrashedError, "crashed"),
        (CliProtocolError, "crashed"),
        (UpstreamError, "upstream"),
        (InvalidAnswerError, "upstream"),
        (PermissionDeniedError, "permission"),
        (ModelNotFoundError, "model_not_found"),
        (ContextTooLongError, "context_too_long"),
        (BadRequestError, None),
        (ShuttingDownError, None),
        (InternalError, None),
    ],
)
def test_each_failure_has_its_name(error: type[ClinvkError], kind: str | None) -> None:
    assert kind_of(error("x")) == kind


def test_the_defaults_are_what_another_need_not_suffer_from() -> None:
    assert route("a", "b").fallback == set(DEFAULT_FALLBACK)


def test_a_route_comes_before_a_backend_and_an_alias_of_its_name() -> None:
    made = registry({"a": ["b", "a"], "a/*": ["{model}", "c"]})
    assert [each.target.full_name for each in made.route("a").candidates] == ["b", "a"]
    assert [each.target.full_name for each in made.route("a/x").candidates] == ["a/x", "c"]
    assert [each.target.full_name for each in made.backend_alone("a").candidates] == ["a"]


def test_targets_that_a_name_makes_the_same_are_one() -> None:
    made = registry({"a*": ["{model}", "a"]})
    assert [each.target.full_name for each in made.route("a").candidates] == ["a"]


def test_a_route_that_leads_nowhere_says_so() -> None:
    made = registry({"any*": ["{model}"], "none": ["{model}"]})
    with pytest.raises(ModelNotFoundError, match=r"no target of the route 'any\*' is there"):
        made.route("anything")
    assert [row.id for row in made.rows()] == ["a", "b", "c"]
    with pytest.raises(ModelNotFoundError, match="there are: a, b, c"):
        made.route("missing")


def test_a_route_is_listed_with_what_the_best_of_its_targets_can() -> None:
    made = registry({"r": ["b", "a"], "w*": ["a"], "gone": ["c"]})
    eyes, ears, missing = ScriptBackend("a"), ScriptBackend("b"), ScriptBackend("c")
    eyes.capabilities = replace(eyes.capabilities, audio=Level.NO, usage=Count.ESTIMATED)
    ears.capabilities = replace(ears.capabilities, vision=Level.NO)
    ears.vendor, missing.installed = "bees", False
    made.backends |= {"a": eyes, "b": ears, "c": missing}
    rows = {row.id: row for row in made.rows()}
    assert set(rows) == {"r", "a", "b"}
    assert rows["r"].owned_by == "bees"
    assert rows["r"].capabilities == ScriptBackend().capabilities
