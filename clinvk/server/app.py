"""The application: routes, typed keys, and the service's life inside the server's."""

from collections.abc import AsyncIterator, Callable
from functools import partial

from aiohttp import web

from clinvk import registry
from clinvk.config import Config
from clinvk.filestore import FileStore
from clinvk.keys import Keyring
from clinvk.procs.supervisor import Supervisor
from clinvk.server import (
    access,
    anthropic,
    attachments,
    auth,
    docs,
    embeddings,
    files,
    forms,
    handlers,
    metrics,
    middleware,
    pages,
    relay,
    responses,
)
from clinvk.service import Service
from clinvk.store import Store
from clinvk.wire.openai_chat import OpenAIChat
from clinvk.wire.openai_completions import OpenAICompletions

Build = Callable[[Config, Supervisor, registry.Registry | None], registry.Registry]


class Settings:
    """What a running server can be given anew: backends, models and aliases."""

    def __init__(self, build: Build, service: Service, supervisor: Supervisor) -> None:
        self._build = build
        self._service = service
        self._supervisor = supervisor

    def apply(self, config: Config) -> None:
        """Use a new configuration for new turns; running ones end as they began."""
        old = self._service.registry
        self._service.apply(self._build(config, self._supervisor, old))


SETTINGS = web.AppKey("clinvk.settings", Settings)

OPENAI_PREFIX = "/openai/v1"
OPENAI_ALIASES = ("/v1", "/v1-openai")


def create_app(
    config: Config,
    *,
    warm: bool = False,
    log_prompts: bool = False,
    keyring: Keyring | None = None,
    build: Build = registry.build,
) -> web.Application:
    """Return the server of a configuration.

    Args:
        config: what backends.yaml says.
        warm: start what backends can start before their first turn.
        log_prompts: put what is asked and answered in the log.
        keyring: the keys of callers; those that `config` itself names by default.
        build: makes the backends; tests give their own.
    """
    app = web.Application(
        client_max_size=int(config.server.max_body_mb * 1024 * 1024),
        middlewares=[access.log_requests, middleware.errors_as_bodies, auth.guard],
    )
    auth.add_guard(app, keyring or Keyring(config.server), pages.Pages(config.server))
    app.on_response_prepare.append(middleware.add_request_id)
    app[middleware.DIALECTS] = {}
    app[access.LOG_PROMPTS] = log_prompts
    app[handlers.KEEPALIVE_S] = config.server.keepalive_s
    app[handlers.SEND_S] = config.server.send_s
    app[attachments.MAX_MB] = config.server.max_body_mb
    for prefix in (OPENAI_PREFIX, *OPENAI_ALIASES):
        _add_openai_routes(app, prefix, config)
    anthropic.add_routes(app)
    app.router.add_get("/health", handlers.health)
    app.router.add_get("/health/ready", handlers.ready)
    app.router.add_get("/metrics", metrics.expose)
    docs.add_routes(app)

    async def service_life(app: web.Application) -> AsyncIterator[None]:
        async with Supervisor() as supervisor:
            service = Service(config, build(config, supervisor, None), supervisor)
            app[handlers.SERVICE] = service
            app[SETTINGS] = Settings(build, service, supervisor)
            app[metrics.METRICS] = metrics.Metrics(service)
            store = app[responses.STORE] = Store(config.server.store)
            kept = app[attachments.FILES] = FileStore(config.server.files)
            supervisor.start(partial(files.clean, kept))
            if warm:
                supervisor.start(service.warm)
            yield
            service.close()
            await store.close()
            await kept.close()

    app.cleanup_ctx.append(service_life)
    return app


def _add_openai_routes(app: web.Application, prefix: str, config: Config) -> None:
    for endpoint, dialect in (
        ("chat/completions", OpenAIChat()),
        ("completions", OpenAICompletions()),
    ):
        passing = relay.PassOn(endpoint, handlers.Answer(dialect).handle)
        app.router.add_post(f"{prefix}/{endpoint}", passing.handle)
    app.router.add_get(f"{prefix}/models", handlers.list_models)
    app.router.add_get(f"{prefix}/models/{{id:.+}}", handlers.get_model)
    responses.add_routes(app, prefix)
    files.add_routes(app, prefix, config.server)
    embed = embeddings.Advised(relay.Only(embeddings.ENDPOINT).handle)
    app.router.add_post(f"{prefix}/{embeddings.ENDPOINT}", embed.handle)
    for endpoint in ("moderations", "images/generations", "audio/speech"):
        app.router.add_post(f"{prefix}/{endpoint}", relay.Only(endpoint).handle)
    for endpoint in ("images/edits", "audio/transcriptions", "audio/translations"):
        form = forms.Form(endpoint, config.server.max_upload_mb)
        app.router.add_post(f"{prefix}/{endpoint}", form.handle)
        app[pages.FORMS].add(f"{prefix}/{endpoint}")
