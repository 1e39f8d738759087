"""Which backend and which CLI model an asked-for model id means, and the rows of /models."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from clinvk.backends import claims
from clinvk.backends.acp_agent import AcpBackend
from clinvk.backends.base import Backend, Relay
from clinvk.backends.claude import ClaudeBackend
from clinvk.backends.codex import CodexBackend
from clinvk.backends.command import CommandBackend
from clinvk.backends.echo import EchoBackend
from clinvk.backends.embeddings import EmbeddingsBackend
from clinvk.backends.gemini import GeminiBackend
from clinvk.backends.openai_upstream import OpenAIBackend
from clinvk.capabilities import Capabilities, Level, best, require_parts
from clinvk.config import (
    AcpConfig,
    BackendConfig,
    ClaudeConfig,
    CodexConfig,
    CommandConfig,
    Config,
    EchoConfig,
    EmbeddingsConfig,
    GeminiConfig,
    OpenAIConfig,
)
from clinvk.errors import ModelNotFoundError
from clinvk.procs.supervisor import Supervisor
from clinvk.routes import FallbackOn, RouteConfig
from clinvk.turn import Turn

# What a program can be given, and no start of one fails for.
_IS_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers: a backend and the CLI's own model name; None is the CLI's default."""

    backend: Backend
    config: BackendConfig
    model: str | None

    @property
    def full_name(self) -> str:
        """What tells it from any other: the backend, and the model if it is not the default."""
        return self.backend.name if self.model is None else f"{self.backend.name}/{self.model}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of those who may answer for a model; `written` is how it stands in backends.yaml."""

    target: Target
    written: str
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Who may answer for a model, in order; see `clinvk.routes.RouteConfig`.

    A model that is no route has one candidate. `name` is how the route stands in backends.yaml.
    """

    name: str
    candidates: tuple[Candidate, ...]
    fallback: frozenset[FallbackOn] = frozenset()
    sticky: bool = False
    rest_s: float = 0


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model that can be asked for."""

    id: str
    owned_by: str
    capabilities: Capabilities


class Registry:
    """Looks model ids up."""

    def __init__(self, config: Config, backends: dict[str, Backend]) -> None:
        self.config = config
        self.backends = backends

    def route(self, asked: str) -> Route:
        """Return who may answer for a model id: a route, a backend, backend/model, or an alias.

        Any other is of the first upstream that lists it.

        Raises:
            ModelNotFoundError: listing what exists.
        """
        if not _IS_NAME.fullmatch(asked):
            raise ModelNotFoundError(
                f"{asked[:_SHOWN]!r} is no name of a model; use up to 256 visible characters",
                param="model",
            )
        for name, route in self.config.routes.items():
            if fnmatchcase(asked, name):
                return self._routed(name, route, asked)
        target = self._direct(asked)
        if target is None:
            for pattern, replacement in self.config.aliases.items():
                if fnmatchcase(asked, pattern):
                    target = self._direct(replacement.replace("{model}", asked))
                    break
        if target is None:
            target = self._listed(asked)
        if target is None:
            known = ", ".join(row.id for row in self.rows())
            raise ModelNotFoundError(
                f"the model {asked!r} does not exist; there are: {known}", param="model"
            )
        return self.straight(target, asked)

    def straight(self, target: Target, asked: str) -> Route:
        """Return the route to a target and no other."""
        return Route(asked, (Candidate(target, target.full_name),))

    def backend_alone(self, name: str) -> Route:
        """Return the route to a backend's default model, whatever else has its name."""
        return self.straight(self._named(name), name)

    def rows(self) -> list[ModelRow]:
        """Return the models of every backend that is installed, and what has no wildcard.

        These are aliases and routes that lead to one.
        """
        names = [
            *(name for name in self.config.routes if _is_plain(name)),
            *(
                model_id
                for name, backend in self.backends.items()
                if backend.installed
                for model_id in self._ids(name, backend)
            ),
            *(name for name in self.config.aliases if _is_plain(name)),
        ]
        rows = []
        for name in dict.fromkeys(names):
            with suppress(ModelNotFoundError):  # a route that leads nowhere
                rows.append(self.row(name))
        return [row for row in rows if row is not None]

    def row(self, asked: str) -> ModelRow | None:
        """Return the row of a model id, None if nobody who is installed answers for it.

        Raises:
            ModelNotFoundError: listing what exists.
        """
        targets = [each.target for each in self.route(asked).candidates]
        able = [target.backend for target in targets if target.backend.installed]
        if not able:
            return None
        can = best([self.capabilities(backend) for backend in able])
        return ModelRow(asked, able[0].vendor, can)

    def capabilities(self, backend: Backend) -> Capabilities:
        """Return what a backend can do as it is configured."""
        can = backend.capabilities
        if can.image_urls is Level.EMULATED and not self.config.server.fetch.enabled:
            return replace(can, image_urls=Level.NO)
        return can

    def check(self, turn: Turn, backend: Backend) -> tuple[str, ...]:
        """Return the request's fields that have no effect on a backend; see `Backend.check`.

        Raises:
            UnsupportedError: for a part that it cannot take, naming who can.
        """
        require_parts(turn, backend.name, self.capabilities(backend), self._able)
        left_out = (*turn.ignored, *backend.check(turn))
        passed = turn.sampling if backend.capabilities.sampling is not Level.NO else ()
        return tuple(name for name in left_out if name not in passed)

    def _able(self, capability: str) -> list[str]:
        """The backends with a capability: those that there are, else those that there could be."""
        found = [
            name
            for name, backend in self.backends.items()
            if getattr(self.capabilities(backend), capability) is not Level.NO
        ]
        kinds = (k for k, can in claims.BY_KIND.items() if getattr(can, capability) is not Level.NO)
        return found or list(kinds)

    def _ids(self, name: str, backend: Backend) -> list[str]:
        config = self.config.backends[name]
        models = backend.models if isinstance(backend, Relay) else config.models
        ids = [f"{name}/{model}" for model in models]
        default = not isinstance(backend, Relay) or config.model is not None or len(ids) == 1
        return [name, *ids] if default else ids

    def _listed(self, asked: str) -> Target | None:
        for name, backend in self.backends.items():
            if isinstance(backend, Relay) and asked in backend.models:
                return Target(backend, self.config.backends[name], asked)
        return None

    def _direct(self, model_id: str) -> Target | None:
        name, slash, model = model_id.partition("/")
        if name not in self.backends or (slash and not model):
            return None
        return self._named(name, model or None)

    def _named(self, name: str, model: str | None = None) -> Target:
        config = self.config.backends[name]
        return Target(self.backends[name], config, model or config.model)

    def _routed(self, name: str, route: RouteConfig, asked: str) -> Route:
        candidates: dict[str, Candidate] = {}
        for each in route.targets:
            target = self._direct(each.target.replace("{model}", asked))
            if target is not None:
                candidate = Candidate(target, each.target, each.weight)
                candidates.setdefault(target.full_name, candidate)
        if not candidates:
            raise ModelNotFoundError(
                f"no target of the route {name!r} is there for the model {asked!r}", param="model"
            )
        order = tuple(candidates.values())
        return Route(name, order, frozenset(route.fallback), route.sticky, route.rest_s)


def _is_plain(name: str) -> bool:
    return not set(name) & set("*?[")


def build(config: Config, supervisor: Supervisor, old: Registry | None = None) -> Registry:
    """Make every backend of the configuration; starts nothing.

    One that `old` has from the same settings is taken over as it is.
    """
    backends: dict[str, Backend] = {}
    for name, wanted in config.backends.items():
        if old is not None and old.config.backends.get(name) == wanted:
            backends[name] = old.backends[name]
        else:
            backends[name] = _FACTORIES[type(wanted)](name, wanted, supervisor)
    return Registry(config, backends)


# One line a kind: a new backend is a file and an entry here.
_FACTORIES: dict[type[BackendConfig], Callable[[str, Any, Supervisor], Backend]] = {
    ClaudeConfig: ClaudeBackend,
    CodexConfig: CodexBackend,
    GeminiConfig: GeminiBackend,
    AcpConfig: AcpBackend,
    CommandConfig: CommandBackend,
    OpenAIConfig: OpenAIBackend,
    EmbeddingsConfig: lambda name, config, _: EmbeddingsBackend(name, config),
    EchoConfig: lambda name, config, _: EchoBackend(name, config),
}
