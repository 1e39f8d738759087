"""Bodies that pass: their model, and the tokens of their replies."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.events import Usage
from clinvk.wire.passed import TAIL_BYTES, UsageTail, named

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("body", "renamed"),
    [
        ('{"model":"a","x":1}', '{"model":"b/ä","x":1}'),
        (' { "x" : {"model": "c"} ,\n"model"\t: "a" } ', None),
        ('{"model":"a", "n":1.0, "big":123456789012345678901e-5, "s":"\\u00e9\\/é"}', None),
        ('{"model":"z","model":"a"}', '{"model":"b/ä","model":"b/ä"}'),
        ('{"m\\u006fdel":"a"}', '{"m\\u006fdel":"b/ä"}'),
    ],
)
def test_only_the_model_changes(body: str, renamed: str | None) -> None:
    found = named(body.encode())
    assert found is not None
    assert found.model == "a"
    expected = body.replace('"a"', '"b/ä"') if renamed is None else renamed
    assert found.renamed("b/ä").decode() == expected


@given(st.dictionaries(st.text(), JSON), st.text(), st.text(), st.sampled_from([None, 1]))
def test_any_object_keeps_its_other_members(
    fields: dict[str, object], model: str, other: str, indent: int | None
) -> None:
    body = json.dumps({**fields, "model": model}, indent=indent).encode()
    found = named(body)
    assert found is not None
    assert found.model == model
    if json.dumps(model) == json.dumps(model, ensure_ascii=False):
        assert found.renamed(model) == body
    assert json.loads(found.renamed(other)) == {**fields, "model": other}


@pytest.mark.parametrize(
    "body",
    [
        *("", "[]", "1", "{", "{}", '{"model"', '{"model":', '{"model":"a"', '{"model":"a",}'),
        *('{"model":"a"} x', '{"model":1}', '{"x":1}', "{1:2}", '{"model" "a"}', '{"a":1 "b":2}'),
        '{"model":"a","x":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_what_names_no_model_is_left_to_the_dialect(body: str) -> None:
    assert named(body.encode()) is None
    assert named(b"\xff" + body.encode()) is None


CHAT = (
    b'{"usage": {"prompt_tokens": 5, "completion_tokens": 3, '
    b'"prompt_tokens_details": {"cached_tokens": 2}, '
    b'"completion_tokens_details": {"reasoning_tokens": 1}}}'
)
RESPONSES = (
    b'data: {"response": {"usage": {"input_tokens": 5, "output_tokens": 3, '
    b'"input_tokens_details": {"cached_tokens": 2}, '
    b'"output_tokens_details": {"reasoning_tokens": 1}}}}\n\n'
)
SPENT = Usage(5, 3, cached_tokens=2, reasoning_tokens=1)


@pytest.mark.parametrize("reply", [CHAT, RESPONSES, b"x" * 3 * TAIL_BYTES + CHAT])
@pytest.mark.parametrize("size", [1, 1000, 1 << 30])
def test_usage_is_found_however_the_bytes_come(reply: bytes, size: int) -> None:
    tail = UsageTail()
    reply = reply[-TAIL_BYTES:] if size == 1 else reply
    for at in range(0, len(reply), size):
        tail.push(reply[at : at + size])
    assert tail.usage() == SPENT


@pytest.mark.parametrize(
    ("reply", "usage"),
    [
        (b"{}", None),
        (b'{"usage": null}', None),
        (b'{"usage": {"prompt_tokens', None),
        (CHAT + b'data: {"usage": {"prompt', SPENT),
        (b'{"content": "\\"usage\\": {}"}', None),
        (b'{"usage": {"prompt_tokens": 7, "completion_tokens": null}}', Usage(7, 0)),
        (b'{"usage": {"prompt_tokens": -7, "total_tokens": "x"}}', Usage(0, 0)),
    ],
)
def test_usage_is_what_was_told(reply: bytes, usage: Usage | None) -> None:
    tail = UsageTail()
    tail.push(reply)
    assert tail.usage() == usage
