"""What a request of each real CLI said to its model API, in one form for all."""

import json
from collections.abc import Iterator
from typing import Any

Said = tuple[str, str]


def said(body: dict[str, Any]) -> list[Said]:
    """Every text with the role it was said in; `system` is what instructs, `model` the model."""
    if "contents" in body:
        turns = [(turn["role"], turn["parts"]) for turn in body["contents"]]
        system = body.get("systemInstruction", {}).get("parts", [])
        return _texts([("system", system), *turns])
    if "input" in body:
        roles = {"developer": "system", "assistant": "model"}
        items = [i for i in body["input"] if i["type"] == "message"]
        return _texts([(roles.get(item["role"], item["role"]), item["content"]) for item in items])
    roles = {"assistant": "model"}
    turns = [(roles.get(m["role"], m["role"]), m["content"]) for m in body["messages"]]
    system = [("system", body["system"])] if "system" in body else []
    return _texts([*system, *turns])


def _texts(turns: list[tuple[str, Any]]) -> list[Said]:
    return [
        (role, part if isinstance(part, str) else part["text"])
        for role, parts in turns
        for part in ([parts] if isinstance(parts, str) else parts)
        if isinstance(part, str) or "text" in part
    ]


def tools(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The functions that the model may call, by the names it knows them by."""
    if "contents" in body:
        declared = [f for tool in body.get("tools", []) for f in tool["functionDeclarations"]]
    else:
        declared = list(body.get("tools", []))
        for item in body.get("input", []):
            for space in item.get("tools", []) if item["type"] == "additional_tools" else []:
                declared += space["tools"]
    return {tool["name"]: tool for tool in (each.get("function", each) for each in declared)}


def effort(body: dict[str, Any]) -> Any:
    """How hard the model is to think, in the API's own words."""
    if "contents" in body:
        return body["generationConfig"].get("thinkingConfig")
    told = body.get("reasoning", body.get("output_config"))
    return told or body.get("reasoning_effort")


def must_call(body: dict[str, Any]) -> bool:
    """Whether the API is told that a tool must be called."""
    choice = json.dumps([body.get("tool_choice"), body.get("toolConfig")])
    return any(word in choice for word in ('"any"', '"required"', '"tool"', '"ANY"'))


def form(body: dict[str, Any]) -> bool:
    """Whether the API, or Claude Code's own tool for it, is told the form of the answer."""
    if "contents" in body:
        return "responseMimeType" in body["generationConfig"]
    told = "format" in body.get("text", {}) or "response_format" in body
    return told or "StructuredOutput" in tools(body)


def leaves(value: Any) -> Iterator[Any]:
    """Every value that holds no others."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value
