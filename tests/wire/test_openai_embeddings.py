"""What `POST /embeddings` is asked and tells, without any model."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.errors import BadRequestError, MissingFieldError
from clinvk.wire import openai_embeddings as wire
from tests.published import check


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "a", **fields}).encode()


def vector(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


@pytest.mark.parametrize(
    ("sent", "inputs"),
    [
        ("hi", [("input", "hi")]),
        (["hi", "ho"], [("input[0]", "hi"), ("input[1]", "ho")]),
        ([1, 2], [("input", [1, 2])]),
        ([[1], [2, 3]], [("input[0]", [1]), ("input[1]", [2, 3])]),
        ([0], [("input", [0])]),
    ],
)
def test_each_input_has_the_name_that_the_caller_gives_it(sent: Any, inputs: Any) -> None:
    asked = wire.parse(body(input=sent))
    assert list(asked.inputs) == inputs
    assert (asked.model, asked.encoding, asked.dimensions) == ("m", "float", None)
    assert wire.ignored_names(asked) == ""


def test_what_is_asked_for_beside_the_texts() -> None:
    sent = {"encoding_format": "base64", "dimensions": 64, "user": "u", "truncate": 1, "ü": 1}
    asked = wire.parse(body(**sent, nothing=None))
    assert (asked.encoding, asked.dimensions) == ("base64", 64)
    assert wire.ignored_names(asked) == "user, truncate"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": [1, 2.5]}, "input[1]"),
        ({"input": [True]}, "input[0]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [[1], "a"]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [[1]] * 2049}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": None}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "64"}, "dimensions"),
        ({"user": 1}, "user"),
        ({"model": ""}, "model"),
    ],
)
def test_a_mistake_names_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        wire.parse(body(**fields))
    assert caught.value.param == param
    assert repr(param) in caught.value.message


def test_an_input_is_needed() -> None:
    with pytest.raises(MissingFieldError, match="'input' is required"):
        wire.parse(b'{"model": "m"}')


def test_a_reply_is_of_openais_schema() -> None:
    items = [wire.item(0, vector(0.5, -0.25), "float"), wire.item(1, vector(1, 0), "float")]
    told = json.loads(wire.reply('m "1"', items, 3))
    check("openai", "CreateEmbeddingResponse", told)
    assert told == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 0.0]},
        ],
        "model": 'm "1"',
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert wire.Embeddings.model_validate(told).usage.total_tokens == 3


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_both_encodings_carry_the_same_numbers_to_the_last_bit(numbers: list[float]) -> None:
    told = [json.loads(wire.item(0, vector(*numbers), each)) for each in ("float", "base64")]
    as_numbers, as_text = (each["embedding"] for each in told)
    assert vector(*as_numbers) == base64.b64decode(as_text) == vector(*numbers)


def test_what_is_no_number_is_never_told() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        wire.item(0, vector(float("nan")), "float")
