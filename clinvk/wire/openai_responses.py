"""The OpenAI Responses dialect: `POST /responses`, streamed and not.

Owns the turn made of a request, and the items as they are kept for a later one; knows neither
a backend nor where responses are kept: who has a store looks up what `Asked` names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from clinvk.errors import BadRequestError, ClinvkError, UnsupportedError
from clinvk.turn import (
    Limits,
    Message,
    OutputFormat,
    Role,
    TextPart,
    ToolChoice,
    ToolMode,
    ToolSpec,
    Turn,
)
from clinvk.wire.base import Parsed
from clinvk.wire.body import check, load, sampling
from clinvk.wire.openai_chat import error_body
from clinvk.wire.openai_responses_encoder import ResponsesEncoder
from clinvk.wire.openai_responses_items import Item, kept_items, messages_of
from clinvk.wire.openai_responses_names import Names, Place
from clinvk.wire.openai_responses_types import (
    IGNORED,
    UNION_STEPS,
    AllowedToolsIn,
    FunctionToolIn,
    ItemIn,
    ItemReferenceIn,
    JsonObjectFormatIn,
    JsonSchemaFormatIn,
    MessageIn,
    NamedToolIn,
    OtherToolIn,
    ResponsesRequest,
    TextFormatIn,
)

_ITEM: TypeAdapter[ItemIn] = TypeAdapter(ItemIn)

_INSTEAD = {
    "background": "leave it out and stream the response, or wait for it",
    "conversation": "send previous_response_id, or the earlier items as input",
    "prompt": "send the text of the template as instructions and input",
}


class PreviousResponseNotFoundError(BadRequestError):
    """`previous_response_id` names no response that is kept."""

    code = "previous_response_not_found"


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked request, and what it refers to: a response, and single items by their ids."""

    request: ResponsesRequest
    previous: str | None
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answerable(Parsed):
    """A request that was understood; `items` are its whole input, to keep if `store` is true."""

    encoder: ResponsesEncoder
    items: tuple[Item, ...]
    store: bool


class OpenAIResponses:
    """The dialect of `POST /responses`."""

    def parse(self, body: bytes) -> Parsed:
        """Check a request body that refers to nothing; see `clinvk.wire.base.Dialect`."""
        return self.understand(self.read(body))

    def read(self, body: bytes) -> Asked:
        """Check a request body for itself.

        Raises:
            BadRequestError: with `param` naming the field at fault.
        """
        request = check(ResponsesRequest, load(body), steps=UNION_STEPS)
        for name, instead in _INSTEAD.items():
            if getattr(request, name) not in (None, False):
                raise UnsupportedError(f"{name!r} is not served here; {instead}", param=name)
        items = () if isinstance(request.input, str) else request.input
        references = tuple(item.id for item in items if isinstance(item, ItemReferenceIn))
        return Asked(request, request.previous_response_id, references)

    def understand(
        self,
        asked: Asked,
        earlier: Sequence[Item] | None = None,
        referred: Mapping[str, Item] | None = None,
    ) -> Answerable:
        """Make the turn of a request, given what it refers to.

        Args:
            asked: the checked request.
            earlier: the items before this request's, or None if its previous response is not kept.
            referred: the items it refers to, as far as they are kept, by id.

        Raises:
            BadRequestError: with `param` naming the field at fault.
        """
        if asked.previous is not None and earlier is None:
            raise PreviousResponseNotFoundError(
                f"previous response {asked.previous!r} is not kept here; "
                f"send the earlier items as input",
                param="previous_response_id",
            )
        request = asked.request
        own = _own_items(request, referred or {})
        items = [*(_ITEM.validate_python(item) for item in earlier or ()), *(i for i, _ in own)]
        paths = [*("previous_response_id" for _ in earlier or ()), *(path for _, path in own)]
        messages, places = messages_of(zip(items, paths, strict=True))
        if not messages:
            raise BadRequestError("'input' holds nothing for the model", param="input")
        if request.instructions:
            messages.insert(0, Message(Role.SYSTEM, (TextPart(request.instructions),)))
            places.insert(0, Place("instructions", "instructions"))
        tools = _tools(request)
        names = Names(tuple(places), tuple(tools))
        encoder = ResponsesEncoder(_settings(request), named=names.of)
        kept = (*(earlier or ()), *kept_items((item for item, _ in own), earlier or ()))
        return Answerable(
            _turn(request, tuple(messages), tuple(tools.values())),
            bool(request.stream),
            encoder,
            items=kept,
            store=request.store is not False,
            named=names.of,
        )

    def error(self, exc: ClinvkError) -> tuple[int, dict[str, Any]]:
        """Return status and error body, the same as of every OpenAI endpoint."""
        return exc.status, error_body(exc)


def _own_items(request: ResponsesRequest, referred: Mapping[str, Item]) -> list[tuple[ItemIn, str]]:
    """The request's items with the paths they stand at; references are resolved."""
    if isinstance(request.input, str):
        return [(MessageIn(role="user", content=request.input), "input")]
    items: list[tuple[ItemIn, str]] = []
    for at, item in enumerate(request.input):
        path = f"input[{at}]"
        if isinstance(item, ItemReferenceIn):
            if item.id not in referred:
                raise BadRequestError(
                    f"item {item.id!r} is not kept here; send the item itself", param=f"{path}.id"
                )
            items.append((_ITEM.validate_python(referred[item.id]), path))
        else:
            items.append((item, path))
    return items


def _tools(request: ResponsesRequest) -> dict[int, ToolSpec]:
    """The functions that may be called, each with its place among the tools."""
    tools = {
        at: ToolSpec(tool.name, tool.description, tool.parameters, bool(tool.strict))
        for at, tool in enumerate(request.tools or ())
        if isinstance(tool, FunctionToolIn)
    }
    if not isinstance(request.tool_choice, AllowedToolsIn):
        return tools
    allowed = [tool.get("name") for tool in request.tool_choice.tools]
    return {at: tool for at, tool in tools.items() if tool.name in allowed}


def _turn(
    request: ResponsesRequest, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]
) -> Turn:
    unknown = sorted((request.model_extra or {}).items())
    ignored = [name for name in IGNORED if getattr(request, name) not in (None, [], {})]
    ignored += [name for name, value in unknown if value is not None]
    if request.text is not None and request.text.verbosity is not None:
        ignored.append("verbosity")
    ignored += [
        f"tools.{tool.type}" for tool in request.tools or () if isinstance(tool, OtherToolIn)
    ]
    if isinstance(request.tool_choice, OtherToolIn):
        ignored.append("tool_choice")
    return Turn(
        model=request.model,
        messages=messages,
        tools=tools,
        tool_choice=_tool_choice(request),
        parallel_calls=request.parallel_tool_calls is not False,
        format=_format(request),
        limits=Limits(max_tokens=request.max_output_tokens),
        effort=request.reasoning.effort if request.reasoning else None,
        ignored=tuple(dict.fromkeys(ignored)),
        sampling=sampling(request),
    )


def _tool_choice(request: ResponsesRequest) -> ToolChoice:
    match request.tool_choice:
        case None | OtherToolIn():
            return ToolChoice()
        case str(mode) | AllowedToolsIn(mode=mode):
            return ToolChoice(ToolMode(mode))
        case NamedToolIn(name=name):
            return ToolChoice(ToolMode.REQUIRED, name)


def _format(request: ResponsesRequest) -> OutputFormat | None:
    match request.text.format if request.text else None:
        case None | TextFormatIn():
            return None
        case JsonObjectFormatIn():
            return OutputFormat()
        case JsonSchemaFormatIn() as asked:
            return OutputFormat(asked.schema_, asked.name, bool(asked.strict))


def _settings(request: ResponsesRequest) -> dict[str, Any]:
    """What a response repeats of its request."""
    form = request.text.format if request.text else None
    choice = request.tool_choice
    if choice is None or isinstance(choice, OtherToolIn):
        choice = "auto"
    return {
        "model": request.model,
        "instructions": request.instructions,
        "previous_response_id": request.previous_response_id,
        "store": request.store is not False,
        "metadata": request.metadata or {},
        "max_output_tokens": request.max_output_tokens,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "truncation": request.truncation or "disabled",
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [
            tool.model_dump() for tool in request.tools or () if isinstance(tool, FunctionToolIn)
        ],
        "text": {
            "format": form.model_dump(by_alias=True, exclude_none=True)
            if form
            else {"type": "text"}
        },
        "reasoning": {
            "effort": request.reasoning.effort if request.reasoning else None,
            "summary": request.reasoning.summary if request.reasoning else None,
        },
    }
