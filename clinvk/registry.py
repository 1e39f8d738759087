"""Which backend and which CLI model an asked-for model id means, and the rows of /models."""

import re
from collections.abc import Callable
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
from clinvk.capabilities import Capabilities, Level, require_parts
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

    def resolve(self, asked: str) -> Target:
        """Return who answers for a model id: a backend, backend/model, or an alias of one.

        Any other is of the first upstream that lists it.

        Raises:
            ModelNotFoundError: listing what exists.
        """
        if not _IS_NAME.fullmatch(asked):
            raise ModelNotFoundError(
                f"{asked[:_SHOWN]!r} is no name of a model; use up to 256 visible characters",
                param="model",
            )
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
        return target

    def rows(self) -> list[ModelRow]:
        """Return the models of every backend that is installed, and aliases without wildcard."""
        rows = []
        for name, backend in self.backends.items():
            if backend.installed:
                ids = self._ids(name, backend)
                can = self.capabilities(backend)
                rows += [ModelRow(model_id, backend.vendor, can) for model_id in ids]
        for alias, replacement in self.config.aliases.items():
            target = self._direct(replacement.replace("{model}", alias))
            if target is not None and target.backend.installed and not set(alias) & set("*?["):
                can = self.capabilities(target.backend)
                rows.append(ModelRow(alias, target.backend.vendor, can))
        return rows

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
        backend = self.backends.get(name)
        if backend is None or (slash and not model):
            return None
        config = self.config.backends[name]
        return Target(backend, config, model or config.model)


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
