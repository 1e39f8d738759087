"""Limits are enforced the same however the answer is split into deltas."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from clinvk import tokens
from clinvk.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Usage,
    check_grammar,
)
from clinvk.limits import LimitFilter
from clinvk.turn import Limits

END = Finished(FinishReason.STOP)


def run(limits: Limits, events: list[Event]) -> list[Event]:
    filtered = LimitFilter(limits)
    out: list[Event] = []
    for event in events:
        out += filtered.feed(event)
        if filtered.done:
            break
    check_grammar(out)
    return out


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_without_limits_everything_passes() -> None:
    events: list[Event] = [Started(), ReasoningDelta("r"), TextDelta("a"), Usage(1, 1), END]
    assert run(Limits(), events) == events


def test_a_stop_text_split_over_deltas_is_found() -> None:
    out = run(Limits(stop=("END",)), [*map(TextDelta, ("one E", "N", "D two")), END])
    assert text_of(out) == "one "
    assert out[-1] == Finished(FinishReason.STOP, "END")


def test_a_held_back_start_of_a_stop_text_is_given_at_the_end() -> None:
    out = run(Limits(stop=("END",)), [TextDelta("one EN"), Usage(1, 1), END])
    assert text_of(out) == "one EN"
    assert out[-1] == END


def test_the_earliest_of_several_stop_texts_wins() -> None:
    assert text_of(run(Limits(stop=("c", "bc")), [TextDelta("abcd"), END])) == "a"


def test_the_answer_is_cut_at_the_token_limit() -> None:
    words = [TextDelta(f" word{i}") for i in range(50)]
    out = run(Limits(max_tokens=10), [*words, END])
    assert out[-1] == Finished(FinishReason.LENGTH)
    assert tokens.count(text_of(out)) == 10


def test_an_answer_of_exactly_the_limit_stops_by_itself() -> None:
    out = run(Limits(max_tokens=2), [TextDelta("hello"), TextDelta(" world"), END])
    assert text_of(out) == "hello world"
    assert out[-1] == END


def test_reasoning_counts_against_the_token_limit() -> None:
    out = run(Limits(max_tokens=1), [ReasoningDelta("hello world"), TextDelta("x"), END])
    assert out == [ReasoningDelta("hello"), Finished(FinishReason.LENGTH)]


def test_text_held_for_a_stop_text_is_given_when_the_token_limit_cuts() -> None:
    out = run(Limits(max_tokens=1, stop=("hello world!",)), [TextDelta("hello world"), END])
    assert text_of(out) == "hello"
    assert out[-1] == Finished(FinishReason.LENGTH)


@given(st.data(), st.text(alphabet="ab E\u00e9", max_size=60), st.sampled_from(["E", "ab", "a b"]))
def test_splitting_never_changes_what_a_stop_text_leaves(
    data: st.DataObject, text: str, stop: str
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    bounds = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in pairwise(bounds)]
    out = run(Limits(stop=(stop,)), [*(TextDelta(p) for p in pieces), END])
    assert text_of(out) == text.partition(stop)[0]


@given(st.lists(st.text(max_size=40), max_size=40), st.integers(1, 200))
def test_the_cut_text_is_a_start_of_the_answer_near_the_limit(
    pieces: list[str], limit: int
) -> None:
    out = run(Limits(max_tokens=limit), [*(TextDelta(p) for p in pieces), END])
    kept, whole = text_of(out), "".join(pieces)
    assert whole.startswith(kept)
    if out[-1] == Finished(FinishReason.STOP):
        assert kept == whole
    else:
        assert len(kept) < len(whole)


def test_a_long_answer_is_counted_to_within_a_few_tokens() -> None:
    words = [TextDelta(f" word{i},") for i in range(2000)]
    kept = text_of(run(Limits(max_tokens=3000), [*words, END]))
    assert abs(tokens.count(kept) - 3000) <= 3


def test_an_answer_without_spaces_is_counted_as_it_comes() -> None:
    pieces = [TextDelta("\u4e2d\u6587\u5b57" * 2000) for _ in range(20)]
    out = run(Limits(max_tokens=30_000), [*pieces, END])
    assert out[-1] == Finished(FinishReason.LENGTH)
    assert abs(tokens.count(text_of(out)) - 30_000) <= 100
