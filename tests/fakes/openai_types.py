"""What the openai package's own types say about a response and the events of its stream."""

import copy
from typing import Any, get_args

from openai.types.responses import Response, ResponseStreamEvent

# The type of each event, by the name it goes by.
EVENTS = {
    get_args(event.model_fields["type"].annotation)[0]: event
    for event in get_args(get_args(ResponseStreamEvent)[0])
}


def check_response(body: dict[str, Any]) -> None:
    """Hold a response to its type, and to the fields that the API's schema requires."""
    Response.model_validate(body, strict=True)
    required = {"id", "object", "created_at", "error", "incomplete_details", "instructions"}
    required |= {"model", "tools", "output", "parallel_tool_calls", "metadata", "tool_choice"}
    assert body.keys() >= required | {"temperature", "top_p", "status"}


def check_stream(events: list[dict[str, Any]]) -> None:
    """Hold every event to its type, and all of them to the order of the API."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        typed = EVENTS[event["type"]].model_validate(event, strict=True)
        # The schema requires the name of the function where the package does not know of it.
        extra = set(typed.model_extra or {}) - {"name"}
        assert not extra, f"{event['type']} has {extra}"
        if "response" in event:
            check_response(event["response"])
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    assert kinds[-1] in ("completed", "incomplete", "failed")
    assert not {"created", "in_progress", "completed", "incomplete", "failed"} & set(kinds[2:-1])


def fold(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Build the output from the pieces, as a client does that trusts nothing else."""
    output: list[dict[str, Any]] = []
    done: set[int] = set()
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(output)
            output.append(copy.deepcopy(event["item"]))
            continue
        if "output_index" not in event:
            continue
        index = event["output_index"]
        item = output[index]
        assert index not in done
        assert event.get("item_id", item["id"]) == item["id"]
        parts = (
            item["content" if "content_index" in event else "summary"] if _of_part(event) else []
        )
        if kind.endswith("part.added"):
            parts.append(dict(event["part"]))
        elif kind == "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind == "function_call_arguments.done":
            assert (item["name"], item["arguments"]) == (event["name"], event["arguments"])
        elif kind.endswith(".delta"):
            parts[-1]["text"] += event["delta"]
        elif kind == "output_item.done":
            item["status"] = event["item"]["status"]
            assert item == event["item"]
            done.add(index)
        else:
            assert parts[-1]["text"] == (
                event["text"] if "text" in event else event["part"]["text"]
            )
    return output


def _of_part(event: dict[str, Any]) -> bool:
    return "content_index" in event or "summary_index" in event
