"""The API's own description: `GET /openapi.json`, and `GET /docs` to read it by.

Owns the list of what is served. The page asks no other host for anything.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from clinvk import __version__
from clinvk.wire import replies
from clinvk.wire.anthropic_types import CountRequest, MessagesRequest
from clinvk.wire.openai_chat_types import ChatRequest
from clinvk.wire.openai_completions_types import CompletionRequest
from clinvk.wire.openai_embeddings import EmbeddingRequest, Embeddings
from clinvk.wire.openai_files import FileContent, FileForm
from clinvk.wire.openai_responses_types import ResponsesRequest
from clinvk.wire.openapi import Operation, document
from clinvk.wire.passed_types import (
    Bytes,
    ImageForm,
    ImageRequest,
    Images,
    Moderation,
    ModerationRequest,
    SoundForm,
    SpeechRequest,
    Transcription,
)

DESCRIPTION = (
    "Claude Code, Codex and Gemini CLI as OpenAI models. The OpenAI endpoints are also served at "
    "/v1 and /v1-openai. Fields that are not named are accepted and have no effect."
)
JSON = "application/json"
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_routes(app: web.Application) -> None:
    """Serve the document and the page."""
    app.router.add_get("/openapi.json", get_document)
    app.router.add_get("/docs", get_page)


async def get_document(_: web.Request) -> web.Response:
    """Answer `GET /openapi.json`."""
    return web.Response(body=_document_bytes(), content_type="application/json")


async def get_page(_: web.Request) -> web.Response:
    """Answer `GET /docs`."""
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
    return web.Response(text=_page(), content_type="text/html", headers=headers)


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of everything that is served."""
    return document(operations(), title="clinvk", version=__version__, description=DESCRIPTION)


def operations() -> list[Operation]:
    """Return every endpoint, without aliases and this description itself."""
    return [
        *(*_models(), *_openai(), *_responses(), *_files(), *_passed()),
        *(*_anthropic(), *_health()),
    ]


def _models() -> list[Operation]:
    path, tag = "/openai/v1/models", "Models"
    return [
        Operation("get", path, tag, "List the models", replies.ModelList, replies.Error),
        Operation("get", path + "/{id}", tag, "Describe a model", replies.Model, replies.Error),
    ]


def _openai() -> list[Operation]:
    return [
        Operation(
            "post",
            "/openai/v1/chat/completions",
            "Chat",
            "Answer a conversation",
            replies.ChatCompletion,
            replies.Error,
            request=ChatRequest,
            streams="chat.completion.chunk objects, then [DONE]",
        ),
        Operation(
            "post",
            "/openai/v1/completions",
            "Completions",
            "Continue a prompt, or several",
            replies.Completion,
            replies.Error,
            request=CompletionRequest,
            streams="text_completion objects, then [DONE]",
        ),
        Operation(
            "post",
            "/openai/v1/embeddings",
            "Embeddings",
            "Turn texts into vectors",
            Embeddings,
            replies.Error,
            request=EmbeddingRequest,
        ),
    ]


def _responses() -> list[Operation]:
    path, tag, error = "/openai/v1/responses", "Responses", replies.Error
    one = f"{path}/{{id}}"
    pages = (
        ("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
        ("order", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
        ("after", {"type": "string"}),
    )
    return [
        Operation(
            "post",
            path,
            tag,
            "Answer, and keep the response for a later turn",
            replies.Response,
            error,
            request=ResponsesRequest,
            streams="the events of the Responses API, each with its name",
        ),
        Operation("get", one, tag, "Read a response that is kept", replies.Response, error),
        Operation("delete", one, tag, "Forget a response", replies.DeletedResponse, error),
        Operation(
            "get",
            f"{one}/input_items",
            tag,
            "List the input items of a response",
            replies.ItemList,
            error,
            query=pages,
        ),
        Operation(
            "post",
            f"{one}/cancel",
            tag,
            "Always a 400: only background responses can be cancelled, and there are none",
            replies.Response,
            error,
        ),
    ]


def _files() -> list[Operation]:
    path, tag, error = "/openai/v1/files", "Files", replies.Error
    one = f"{path}/{{id}}"
    pages = (
        ("purpose", {"type": "string"}),
        ("limit", {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 10_000}),
        ("order", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
        ("after", {"type": "string"}),
    )
    form, content = "multipart/form-data", "*/*"
    return [
        Operation("get", path, tag, "List your files", replies.FileList, error, query=pages),
        Operation(
            "post", path, tag, "Keep a file", replies.File, error, request=FileForm, sent_as=form
        ),
        Operation("get", one, tag, "Describe a file", replies.File, error),
        Operation("delete", one, tag, "Remove a file", replies.DeletedFile, error),
        Operation("get", f"{one}/content", tag, "Read a file", FileContent, error, told_as=content),
    ]


def _passed() -> list[Operation]:
    form, sound = "multipart/form-data", "audio/mpeg"
    rows: tuple[tuple[str, str, type[BaseModel], type[BaseModel], str, str], ...] = (
        ("moderations", "Judge texts and images", ModerationRequest, Moderation, JSON, JSON),
        ("images/generations", "Make images", ImageRequest, Images, JSON, JSON),
        ("images/edits", "Change images", ImageForm, Images, form, JSON),
        ("audio/speech", "Say a text", SpeechRequest, Bytes, JSON, sound),
        ("audio/transcriptions", "Write sound down", SoundForm, Transcription, form, JSON),
        ("audio/translations", "Write sound down in English", SoundForm, Transcription, form, JSON),
    )
    return [
        Operation(
            "post",
            f"/openai/v1/{endpoint}",
            "Passed on to OpenAI-compatible servers",
            summary,
            reply,
            replies.Error,
            request=request,
            sent_as=sent_as,
            told_as=told_as,
        )
        for endpoint, summary, request, reply, sent_as, told_as in rows
    ]


def _anthropic() -> list[Operation]:
    path, tag, error = "/anthropic/v1", "Anthropic", replies.AnthropicError
    return [
        Operation(
            "post",
            f"{path}/messages",
            tag,
            "Answer a conversation",
            replies.AnthropicMessage,
            error,
            request=MessagesRequest,
            streams="the events of the Messages API, each with its name",
        ),
        Operation(
            "post",
            f"{path}/messages/count_tokens",
            tag,
            "Estimate the input tokens of a request",
            replies.TokenCount,
            error,
            request=CountRequest,
        ),
        Operation(
            "get", f"{path}/models", tag, "List the models", replies.AnthropicModelList, error
        ),
        Operation(
            "get", f"{path}/models/{{id}}", tag, "Describe a model", replies.AnthropicModel, error
        ),
    ]


def _health() -> list[Operation]:
    alive = "Tell whether the server is alive, and what its backends are like"
    ready = "Tell by the status whether a turn could be taken now"
    return [
        Operation("get", "/health", "Server", alive, replies.Health, replies.Error),
        Operation("get", "/health/ready", "Server", ready, replies.Readiness, replies.Readiness),
    ]


@cache
def _document_bytes() -> bytes:
    return json.dumps(openapi()).encode()


@cache
def _page() -> str:
    return (resources.files("clinvk.server") / "docs.html").read_text("utf-8")
