"""Anthropic's API: its routes, its models and its counting of tokens; answers are `handlers`'s."""

import base64
import json
from collections.abc import Iterator

import anyio.to_thread
from aiohttp import web

from clinvk import tokens
from clinvk.server import handlers, middleware
from clinvk.server.attachments import turn_with_files
from clinvk.server.auth import caller_of
from clinvk.turn import FilePart, TextPart, Turn
from clinvk.wire.anthropic_messages import AnthropicMessages, count_body, list_body, model_body

PREFIX = "/anthropic"
MEDIA_TOKENS = 1_600  # about what an image or a page costs, whose content nothing here looks into


def add_routes(app: web.Application) -> None:
    """Serve Anthropic's API under `PREFIX`, errors in its own shape."""
    dialect = AnthropicMessages()
    app[middleware.DIALECTS][PREFIX] = dialect
    app.router.add_post(f"{PREFIX}/v1/messages", handlers.Answer(dialect).handle)
    app.router.add_post(f"{PREFIX}/v1/messages/count_tokens", _Count(dialect).handle)
    app.router.add_get(f"{PREFIX}/v1/models", list_models)
    app.router.add_get(f"{PREFIX}/v1/models/{{id:.+}}", get_model)
    for path in (PREFIX, f"{PREFIX}/"):  # Claude Code asks for its base address first
        app.router.add_head(path, greet)


async def list_models(request: web.Request) -> web.Response:
    """Answer `GET /models`: all of them, on one page."""
    await handlers.learn_models(request)
    return web.json_response(list_body(row.id for row in handlers.usable_rows(request)))


async def get_model(request: web.Request) -> web.Response:
    """Answer `GET /models/{id}`, also for ids that an alias or a CLI would take."""
    return web.json_response(model_body(handlers.find_model(request).id))


async def greet(_: web.Request) -> web.Response:
    """Answer `HEAD` of the base address: something is here."""
    return web.Response()


class _Count:
    """Handles `POST /messages/count_tokens`; starts no turn."""

    def __init__(self, dialect: AnthropicMessages) -> None:
        self._dialect = dialect

    async def handle(self, request: web.Request) -> web.Response:
        """Answer with an estimate, whichever model is asked for."""
        turn = self._dialect.parse_count(await request.read())
        registry = request.app[handlers.SERVICE].registry
        caller_of(request).require_model(turn.model, registry)
        turn = await turn_with_files(request, turn, registry)
        registry.route(turn.model)
        await tokens.ready()
        counted = await anyio.to_thread.run_sync(estimate, turn)
        return web.json_response(count_body(counted), headers={"x-clinvk-usage": "estimated"})


def estimate(turn: Turn) -> int:
    """Return about how many input tokens a turn has; `tokens` must be ready."""
    return sum(tokens.count(text) for text in _texts(turn)) + MEDIA_TOKENS * sum(
        not isinstance(part, TextPart) and not _is_text(part)
        for message in turn.messages
        for part in message.parts
    )


def _texts(turn: Turn) -> Iterator[str]:
    for message in turn.messages:
        yield message.text
        for part in message.parts:
            if isinstance(part, FilePart) and _is_text(part):
                yield _decoded(part.data or "")
        for call in message.calls:
            yield call.name
            yield call.arguments
    for tool in turn.tools:
        yield tool.name
        yield tool.description or ""
        yield json.dumps(tool.parameters, ensure_ascii=False)


def _decoded(data: str) -> str:
    try:
        return base64.b64decode(data).decode("utf-8", "replace")
    except ValueError:  # whether it can be read is the backend's question
        return data


def _is_text(part: object) -> bool:
    return (
        isinstance(part, FilePart)
        and part.data is not None
        and (part.media_type or "").startswith("text/")
    )
