"""The Completions dialect: prompts in, turns out; events in, chunks and body out."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from clinvk.errors import BadRequestError, OverloadedError
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolActivity,
    ToolCall,
    Usage,
)
from clinvk.turn import Limits, Message, Role, TextPart, Turn
from clinvk.wire import sse
from clinvk.wire.base import Parsed
from clinvk.wire.openai_completions import CompletionEncoder, OpenAICompletions

END = Finished(FinishReason.STOP)


def parsed(**fields: Any) -> Parsed:
    body = {"model": "m", "prompt": "Once", **fields}
    return OpenAICompletions().parse(json.dumps(body).encode())


def encoder(*echoes: str, include_usage: bool = False) -> CompletionEncoder:
    return CompletionEncoder(
        "m",
        echoes=echoes,
        include_usage=include_usage,
        new_id=lambda: "1",
        now=lambda: 1_700_000_000.9,
    )


def stream(made: CompletionEncoder, *events: tuple[int, Event]) -> list[Any]:
    frames = [frame for choice, event in events for frame in made.feed(event, choice)]
    frames += made.end()
    assert frames[-1] == sse.DONE
    return [json.loads(frame.data) for frame in frames[:-1]]


def test_the_prompt_is_the_users_message_as_it_is() -> None:
    assert parsed().turn == Turn("m", (Message(Role.USER, (TextPart("Once"),)),))
    assert not parsed().stream
    assert parsed().more == ()


def test_each_prompt_is_a_turn() -> None:
    asked = parsed(prompt=["a", "b", "c"], n=2)
    turns = (asked.turn, *asked.more)
    assert [turn.conversation[0].text for turn in turns] == ["a", "b", "c"]
    assert [turn.choices for turn in turns] == [2, 2, 2]


def test_a_suffix_is_asked_for_in_the_instructions() -> None:
    turn = parsed(suffix="the end").turn
    assert turn.instructions.endswith("\n\nthe end")
    assert turn.conversation == parsed().turn.conversation
    assert parsed(suffix="").turn == parsed().turn


def test_limits_and_what_has_no_effect() -> None:
    turn = parsed(max_tokens=5, stop=["x", "y"], temperature=0, seed=1, user="u", new=1).turn
    assert turn.limits == Limits(5, ("x", "y"))
    assert turn.ignored == ("temperature", "seed", "user", "new")
    assert parsed(stop="x").turn.limits == Limits(stop=("x",))


def test_null_is_the_same_as_absent() -> None:
    optional = (
        *("suffix", "echo", "stream", "stream_options", "max_tokens", "stop", "n", "best_of"),
        *("logprobs", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"),
        *("user", "logit_bias", "new"),
    )
    assert parsed(**dict.fromkeys(optional)).turn == parsed().turn


@pytest.mark.parametrize("n", [1, 3])
def test_as_many_as_best_of_are_no_choice(n: int) -> None:
    assert parsed(n=n, best_of=n).turn.choices == n


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"model": ""}, "model", "at least 1"),
        ({"prompt": None}, "prompt", "a string or a list of strings"),
        ({"prompt": {}}, "prompt", "a string or a list of strings"),
        ({"prompt": []}, "prompt", "at least 1"),
        ({"prompt": [1, 2]}, "prompt", "tokens cannot be taken"),
        ({"prompt": [[1], [2]]}, "prompt", "tokens cannot be taken"),
        ({"prompt": ["a", None]}, "prompt[1]", "string"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt", "over 128"),
        ({"logprobs": 0}, "logprobs", "leave it out"),
        ({"best_of": 3, "n": 2}, "best_of", "which is 2"),
        ({"best_of": 2}, "best_of", "which is 1"),
        ({"n": 0}, "n", "greater"),
        ({"max_tokens": 0}, "max_tokens", "greater"),
        ({"stop": 5}, "stop", "a string or a list"),
        ({"stop": ["x", ""]}, "stop[1]", "at least 1"),
        ({"echo": 1}, "echo", "boolean"),
        ({"suffix": 1}, "suffix", "string"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "boolean"),
    ],
)
def test_a_mistake_is_named(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(BadRequestError, match=says) as caught:
        parsed(**fields)
    assert caught.value.param == param
    status, body = OpenAICompletions().error(caught.value)
    assert (status, body["error"]["param"]) == (400, param)


def test_a_prompt_is_required() -> None:
    with pytest.raises(BadRequestError) as caught:
        OpenAICompletions().parse(b'{"model": "m"}')
    assert (caught.value.param, caught.value.code) == ("prompt", "missing_required_parameter")


def test_a_stream() -> None:
    events = (Started("x"), ReasoningDelta("Hm."), TextDelta(" upon"), Usage(5, 3), END)
    chunks = stream(encoder("Once", include_usage=True), *((0, event) for event in events))
    assert chunks == snapshot(
        [
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 1700000000,
                "model": "m",
                "choices": [{"text": "Once", "index": 0, "logprobs": None, "finish_reason": None}],
                "usage": None,
            },
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 1700000000,
                "model": "m",
                "choices": [{"text": " upon", "index": 0, "logprobs": None, "finish_reason": None}],
                "usage": None,
            },
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 1700000000,
                "model": "m",
                "choices": [{"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}],
                "usage": None,
            },
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 1700000000,
                "model": "m",
                "choices": [],
                "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
            },
        ]
    )


def test_without_include_usage_no_chunk_has_it() -> None:
    chunks = stream(encoder(), (0, TextDelta("a")), (0, Usage(1, 1)), (0, END))
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_a_body_of_two_prompts() -> None:
    made = encoder("a", "b")
    for choice in (1, 0):
        for event in (TextDelta(f"-{choice}"), Usage(2, 1), END):
            made.feed(event, choice)
    assert made.result() == snapshot(
        {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1700000000,
            "model": "m",
            "choices": [
                {"text": "a-0", "index": 0, "logprobs": None, "finish_reason": FinishReason.STOP},
                {"text": "b-1", "index": 1, "logprobs": None, "finish_reason": FinishReason.STOP},
            ],
            "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
        }
    )


def test_a_prompt_is_echoed_for_each_of_its_answers() -> None:
    made = parsed(prompt=["a", "b"], n=2, echo=True).encoder
    for choice in range(4):
        made.feed(END, choice)
    assert [choice["text"] for choice in made.result()["choices"]] == ["a", "a", "b", "b"]


def test_nothing_is_called_in_this_dialect() -> None:
    events = (ToolActivity("t", "s"), ToolCall("c", "f", "{}"), Finished(FinishReason.TOOL_CALLS))
    (chunk,) = stream(encoder(), *((0, event) for event in events))
    assert chunk["choices"][0] == {
        "text": "",
        "index": 0,
        "logprobs": None,
        "finish_reason": "stop",
    }


def test_an_estimate_is_marked() -> None:
    made = encoder(include_usage=True)
    chunks = stream(made, (0, Usage(1, 1, estimated=True)), (0, END))
    assert made.usage_estimated
    assert made.result()["clinvk"] == chunks[-1]["clinvk"] == {"usage": "estimated"}


def test_a_failure_in_a_stream_is_an_error_and_never_a_stop() -> None:
    made = encoder(include_usage=True)
    chunks = stream(made, (0, TextDelta("a")), (0, END), (1, Failed(OverloadedError("later"))))
    assert chunks[-1]["error"]["code"] == "upstream_overloaded"
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None, "stop"]


def test_frames_are_ascii_so_that_no_client_splits_them() -> None:
    data = sse.encode(encoder().feed(TextDelta("a\u2028b\u0085c\n\n")))
    assert data.isascii()
    assert data.count(b"\n\n") == 1


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.builds(TextDelta, st.text(max_size=8))
        | st.builds(ReasoningDelta, st.text(max_size=8))
        | st.builds(Usage, st.integers(0, 9), st.integers(0, 9)),
    ),
    max_size=12,
)


@given(EVENTS, st.sampled_from(FinishReason), st.sampled_from([(), ("p", "q", "")]))
def test_folding_the_chunks_gives_the_body(
    body: list[tuple[int, Event]], reason: FinishReason, echoes: tuple[str, ...]
) -> None:
    events = [*body, *((choice, Finished(reason)) for choice in (2, 0, 1))]
    made = encoder(*echoes, include_usage=True)
    *chunks, last = stream(made, *events)
    whole = made.result()
    choices = [chunk["choices"][0] for chunk in chunks]
    for told in whole["choices"]:
        mine = [choice for choice in choices if choice["index"] == told["index"]]
        assert "".join(choice["text"] for choice in mine) == told["text"]
        finishes = [choice["finish_reason"] for choice in mine]
        assert finishes == [None] * (len(mine) - 1) + [told["finish_reason"]]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])


JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
FIELDS = ("prompt", "n", "best_of", "stop", "suffix", "echo", "logprobs", "stream_options")


@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.lists(JSON, max_size=3), max_size=4))
def test_whatever_is_sent_is_parsed_or_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(BadRequestError):
        parsed(**fields)
