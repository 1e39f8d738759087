import pytest

from clinvk.errors import InternalError
from clinvk.events import Event, Failed, Finished, FinishReason, Started, TextDelta, check_grammar

END = Finished(FinishReason.STOP)


@pytest.mark.parametrize(
    "events",
    [[END], [Started(), TextDelta("a"), END], [TextDelta("a"), Failed(InternalError("x"))]],
)
def test_one_end_at_the_end_is_grammatical(events: list[Event]) -> None:
    check_grammar(events)


@pytest.mark.parametrize("events", [[], [TextDelta("a")], [END, END], [END, TextDelta("a")]])
def test_anything_else_is_not(events: list[Event]) -> None:
    with pytest.raises(ValueError, match=r"comes after|neither"):
        check_grammar(events)
