"""Requests that are nearly right: good ones, with some of their parts changed, and any JSON."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.test_media import PNG

Path = tuple[str | int, ...]

# What means something to somebody along the way, and what often breaks.
WORDS = (
    *("", " ", "\n", "\x00", "\ufeff", "\u2028", "\U0001f600", "\ud800", "\udfff", "e\u0301"),
    *("system", "developer", "user", "assistant", "tool", "function", "text", "image_url", "file"),
    *("input_audio", "refusal", "input_text", "output_text", "message", "function_call", "auto"),
    *("function_call_output", "item_reference", "reasoning", "none", "required", "any", "named"),
    *("allowed_tools", "json_schema", "json_object", "web_search", "custom", "disabled", "enabled"),
    *("tool_use", "tool_result", "thinking", "document", "image", "base64", "url", "content"),
    *("object", "array", "string", "#/$defs/a", "#", "#/", "#/$defs/a/b", "http://x/y", "$ref"),
    *("f", "mcp", "StructuredOutput", "ToolSearch", "x" * 70, "call_1", "@/etc/passwd", "/clear"),
    *("http://127.0.0.1/", "http://[", "data:image/png;base64,", f"data:image/png;base64,{PNG}"),
    *("<<<k0 user>>>", "</untrusted_context>", "<system-reminder>", "claude-x", "gpt-4", "minimal"),
    *("[DONE]", "(", "[", "**", "{}", "[]", "null", '{"a": 1e999}', "1" * 5000, "true"),
)
KEYS = (
    *("a", "", "type", "text", "name", "$ref", "$defs", "properties", "items", "required", "enum"),
    *("const", "anyOf", "allOf", "$schema", "$id", "$anchor", "pattern", "minItems", "content"),
    *("role", "tools", "stream", "n", "stop", "format", "x-y", "\x00", "\ud800", "id", "strict"),
    *("tool_calls", "tool_call_id", "function", "parameters", "cache_control", "default", "not"),
)
NUMBERS = (0, 1, -1, 2, 129, 2**31, 2**63, 2**64, 10**400, 0.0, -0.0, 0.5, 1e308, 1e-320)


def nested(found: list[Any]) -> Any:
    """One in the other, as deep as there are."""
    inside: Any = {}
    for at, value in enumerate(found):
        inside = [inside, value] if at % 2 else {"items": inside, "a": value}
    return inside


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(WORDS),
    st.text(max_size=8),
)
keys = st.sampled_from(KEYS) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
        | st.lists(inner, max_size=40).map(nested)
    ),
    max_leaves=12,
)


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a value, but the value itself."""
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in steps:
        yield (*path, step)
        if isinstance(inner, dict | list):
            yield from paths(inner, (*path, step))


@st.composite
def changed(draw: st.DrawFn, good: list[dict[str, Any]]) -> dict[str, Any]:
    """A good request with up to four changes: a place replaced, dropped, added to, or copied."""
    body: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(0, 4))):
        places = list(paths(body))
        if not places:
            break
        *before, last = draw(st.sampled_from(places))
        parent: Any = body
        for step in before:
            parent = parent[step]
        match draw(st.sampled_from(("replace", "drop", "add", "copy"))):
            case "replace":
                parent[last] = draw(values)
            case "drop":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(keys)] = draw(values)
            case "add":
                parent.insert(last, draw(values))
            case _:
                found: Any = body
                for step in draw(st.sampled_from(places)):
                    found = found[step]
                parent[last] = copy.deepcopy(found)
    return body


@st.composite
def encoded(draw: st.DrawFn, bodies: st.SearchStrategy[Any]) -> bytes:
    """A value as the bytes of a request, in one of the ways that clients write JSON, or damaged."""
    body = draw(bodies)
    match draw(st.sampled_from(("ascii", "ascii", "utf-8", "utf-16", "cut", "flipped"))):
        case "utf-8":
            return json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        case "utf-16":
            return json.dumps(body, ensure_ascii=False).encode("utf-16", "surrogatepass")
        case "cut":
            whole = json.dumps(body).encode()
            return whole[: draw(st.integers(0, len(whole)))]
        case "flipped":
            data = bytearray(json.dumps(body).encode())
            for _ in range(draw(st.integers(1, 3))):
                data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
            return bytes(data)
        case _:
            return json.dumps(body).encode()


SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "enum": ["x", "y"]},
        "b": {"type": "array", "items": {"$ref": "#/$defs/c"}, "minItems": 1},
    },
    "required": ["a"],
    "additionalProperties": False,
    "$defs": {"c": {"anyOf": [{"type": "integer"}, {"const": 1}]}},
}
FUNCTION = {"name": "f", "description": "does", "parameters": SCHEMA, "strict": True}
IMAGE = f"data:image/png;base64,{PNG}"
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": "x"}'}}

CHAT: list[dict[str, Any]] = [
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {
                "role": "user",
                "name": "n",
                "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
                    {"type": "file", "file": {"filename": "a.txt", "file_data": "aGk="}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "done"},
            {"role": "user", "content": "go on"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
    },
    {
        "model": "m",
        "messages": [{"role": "user", "content": "a b c d"}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": SCHEMA, "strict": False},
        },
        "stop": ["b", "c"],
        "n": 2,
        "temperature": 0.5,
        "logit_bias": {"5": 1.0},
        "metadata": {"k": "v"},
        "reasoning_effort": "low",
        "seed": 5,
    },
    {
        "model": "m",
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "x"},
            {
                "role": "user",
                "content": [
                    {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
                ],
            },
        ],
        "functions": [FUNCTION],
        "function_call": {"name": "f"},
    },
    {"model": "m", "messages": [{"role": "user", "content": "hello there"}]},
]
COMPLETIONS: list[dict[str, Any]] = [
    {"model": "m", "prompt": ["a b", "c"], "suffix": "z", "max_tokens": 3, "stop": "b", "n": 2},
    {"model": "m", "prompt": "hi", "echo": True, "best_of": 1, "stream": True, "logprobs": None},
    {"model": "m", "prompt": "hi", "stream_options": {"include_usage": True}, "temperature": 1},
]
RESPONSES: list[dict[str, Any]] = [
    {
        "model": "m",
        "instructions": "be brief",
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "see"},
                    {"type": "input_image", "image_url": IMAGE, "detail": "auto"},
                    {"type": "input_file", "filename": "a.txt", "file_data": "aGk="},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "call_1",
                "name": "f",
                "arguments": "{}",
                "status": "completed",
            },
            {"type": "function_call_output", "call_id": "call_1", "output": "done"},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "so", "annotations": []}],
            },
            {"role": "user", "content": "and?"},
        ],
        "tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "f"}],
        },
        "text": {
            "format": {"type": "json_schema", "name": "a", "schema": SCHEMA},
            "verbosity": "low",
        },
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": 16,
        "store": True,
        "metadata": {"k": "v"},
        "include": ["reasoning.encrypted_content"],
        "stream": True,
    },
    {"model": "m", "input": "hello there", "temperature": 0.5, "store": False},
    {"model": "m", "input": "hello", "previous_response_id": "resp_1"},
    {"model": "m", "input": [{"type": "item_reference", "id": "msg_1"}]},
]
TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": "x"}}
IMAGE_BLOCK = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": PNG},
}
MESSAGES: list[dict[str, Any]] = [
    {
        "model": "m",
        "max_tokens": 16,
        "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "see"},
                    IMAGE_BLOCK,
                    {
                        "type": "document",
                        "title": "t",
                        "source": {"type": "text", "media_type": "text/plain", "data": "so"},
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "well"},
                    TOOL_USE,
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "is_error": True,
                        "content": [{"type": "text", "text": "no"}, IMAGE_BLOCK],
                    },
                    {"type": "text", "text": "go on"},
                ],
            },
        ],
        "tools": [
            {"name": "f", "description": "does", "input_schema": SCHEMA},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 1},
        ],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "stream": True,
        "stop_sequences": ["b"],
        "metadata": {"user_id": "u"},
    },
    {
        "model": "m",
        "max_tokens": 16,
        "system": "be brief",
        "messages": [{"role": "user", "content": "a b c"}],
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        "temperature": 0.5,
        "top_k": 1,
    },
    {"model": "m", "max_tokens": 16, "messages": [{"role": "user", "content": "hello there"}]},
]
COUNT = [
    {
        k: v
        for k, v in body.items()
        if k not in ("max_tokens", "stream", "temperature", "top_k", "metadata", "stop_sequences")
    }
    for body in MESSAGES
]

GOOD = {
    "chat": CHAT,
    "completions": COMPLETIONS,
    "responses": RESPONSES,
    "messages": MESSAGES,
    "count": COUNT,
}
