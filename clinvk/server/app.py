"""The application: routes, typed keys, and the service's life inside the server's."""

from collections.abc import AsyncIterator, Callable

from aiohttp import web

from clinvk import registry
from clinvk.config import Config
from clinvk.procs.supervisor import Supervisor
from clinvk.server import anthropic, handlers, middleware
from clinvk.service import Service
from clinvk.wire.openai_chat import OpenAIChat
from clinvk.wire.openai_completions import OpenAICompletions

Build = Callable[[Config, Supervisor], registry.Registry]

OPENAI_PREFIX = "/openai/v1"


def create_app(
    config: Config, *, warm: bool = False, build: Build = registry.build
) -> web.Application:
    """Return the server of a configuration.

    Args:
        config: what backends.yaml says.
        warm: start what backends can start before their first turn.
        build: makes the backends; tests give their own.
    """
    app = web.Application(
        client_max_size=int(config.server.max_body_mb * 1024 * 1024),
        middlewares=[middleware.errors_as_bodies],
    )
    app.on_response_prepare.append(middleware.add_request_id)
    app[middleware.DIALECTS] = {}
    app[handlers.KEEPALIVE_S] = config.server.keepalive_s
    app.router.add_post(f"{OPENAI_PREFIX}/chat/completions", handlers.Answer(OpenAIChat()).handle)
    app.router.add_get(f"{OPENAI_PREFIX}/models", handlers.list_models)
    app.router.add_get(f"{OPENAI_PREFIX}/models/{{id:.+}}", handlers.get_model)
    completions = handlers.Answer(OpenAICompletions())
    app.router.add_post(f"{OPENAI_PREFIX}/completions", completions.handle)
    anthropic.add_routes(app)
    app.router.add_get("/health", handlers.health)

    async def service_life(app: web.Application) -> AsyncIterator[None]:
        async with Supervisor() as supervisor:
            service = Service(config, build(config, supervisor), supervisor)
            app[handlers.SERVICE] = service
            if warm:
                supervisor.start(service.warm)
            yield
            service.close()

    app.cleanup_ctx.append(service_life)
    return app
