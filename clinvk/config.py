"""backends.yaml: its models, where it is looked up, and errors that name file, line and key."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from clinvk.kinds import (
    AcpConfig,
    AnyBackendConfig,
    BackendConfig,
    ClaudeConfig,
    CliConfig,
    CodexConfig,
    CommandConfig,
    EchoConfig,
    EmbeddingsConfig,
    Endpoint,
    GeminiConfig,
    OpenAIConfig,
    ProgramConfig,
    Seconds,
)
from clinvk.routes import RouteConfig
from clinvk.yamlfile import ConfigError as ConfigError  # noqa: PLC0414 - raised here, so told here
from clinvk.yamlfile import KeyPath, checked, expand, mapping

ENV_VAR = "CLINVK_CONFIG"
FILE_NAME = "backends.yaml"
KEYS_NAME = "keys.yaml"

KEY_NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"

_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_][A-Za-z0-9._-]*|\[?[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]?")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s?#@*]+")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StoreConfig(_Strict):
    """Where responses are kept for a later turn, and how many; null is the user's state folder."""

    path: Annotated[str, Field(min_length=1)] | None = None
    max_responses: int = Field(default=1000, ge=1, le=1_000_000)
    max_age_days: float = Field(default=30, gt=0, le=36_500)


class FilesConfig(_Strict):
    """Files that callers upload: their folder and how many; null is the user's state folder.

    `max_mb` is of all files together; how large one may be, `server.max_upload_mb` says.
    """

    path: Annotated[str, Field(min_length=1)] | None = None
    max_mb: float = Field(default=2048, gt=0, le=67_108_864)
    max_files: int = Field(default=1000, ge=1, le=1_000_000)
    max_age_days: float = Field(default=30, gt=0, le=36_500)


class FetchConfig(_Strict):
    """Images by address, which clinvk fetches for the CLIs that cannot.

    `max_mb` is of all images of a request together, `timeout_s` the whole of one fetch.
    `allow_private` names the hosts, as they stand in addresses, that may be private ones.
    """

    enabled: bool = True
    max_mb: float = Field(default=32, gt=0, le=1024)
    timeout_s: Seconds = 10
    max_redirects: int = Field(default=3, ge=0, le=20)
    allow_private: list[str] = []


class KeyConfig(_Strict):
    """A key for this server, by its hash, and what it allows; null and no models are no limit.

    `models` are patterns of model ids, as they are asked for or as `backend/model`.
    """

    name: Annotated[str, Field(pattern=f"^{KEY_NAME}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: str | None = None
    requests_per_minute: int | None = Field(default=None, ge=1, le=100_000)
    max_turns: int | None = Field(default=None, ge=1, le=1024)
    models: list[Annotated[str, Field(min_length=1)]] = []


class KeysConfig(_Strict):
    """Keys, each name once."""

    keys: list[KeyConfig] = []

    @field_validator("keys")
    @classmethod
    def _names_differ(cls, value: list[KeyConfig]) -> list[KeyConfig]:
        return _named_once(value)


class ServerConfig(_Strict):
    """Where the server listens, who may call it, and what it bounds.

    `uds` is the path of a Unix socket, and takes the place of `host` and `port`.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    uds: Annotated[str, Field(min_length=1)] | None = None
    tls_cert: Annotated[str, Field(min_length=1)] | None = None
    tls_key: Annotated[str, Field(min_length=1)] | None = None
    api_keys: list[KeyConfig] = []
    keys_file: Annotated[str, Field(min_length=1)] | None = None
    insecure_no_auth: bool = False
    allowed_hosts: list[str] = []
    cors_origins: list[str] = []
    max_body_mb: float = Field(default=32, gt=0, le=1024)
    max_upload_mb: float = Field(default=512, gt=0, le=65_536)
    keepalive_s: Seconds = 15
    send_s: Seconds = 60
    grace_s: float = Field(default=10, ge=0, le=86_400)
    store: StoreConfig = StoreConfig()
    files: FilesConfig = FilesConfig()
    fetch: FetchConfig = FetchConfig()

    @field_validator("api_keys")
    @classmethod
    def _names_differ(cls, value: list[KeyConfig]) -> list[KeyConfig]:
        return _named_once(value)

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts_are_names(cls, value: list[str]) -> list[str]:
        for host in value:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"{host!r} must be a host without scheme and port, such as 'box.lan', "
                    f"'*.box.lan' or '192.168.1.5'"
                )
        return [host.lower().removesuffix(".") for host in value]

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, value: list[str]) -> list[str]:
        for origin in value:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} must be an origin without a path, such as "
                    f"'https://app.example.com', or '*' or 'null'"
                )
        return [origin.lower() for origin in value]


def _named_once(keys: list[KeyConfig]) -> list[KeyConfig]:
    seen: set[str] = set()
    for key in keys:
        if key.name in seen:
            raise ValueError(f"there are two keys named {key.name!r}")
        seen.add(key.name)
    return keys


def _default_backends() -> dict[str, AnyBackendConfig]:
    return {
        "claude": ClaudeConfig(kind="claude", models=["opus", "sonnet", "haiku"]),
        "codex": CodexConfig(kind="codex"),
        "gemini": GeminiConfig(kind="gemini"),
        "echo": EchoConfig(kind="echo"),
    }


DEFAULT_ALIASES = {
    "claude-*": "claude/{model}",
    "gpt-*": "codex/{model}",
    "o[1-9]*": "codex/{model}",
    "gemini-*": "gemini/{model}",
    "text-embedding-*": "embeddings",
}


def default_aliases(backends: Mapping[str, BackendConfig]) -> dict[str, str]:
    """Return the aliases that there are if nobody wrote any: those of backends that exist.

    Embeddings of one model cannot be compared with those of another. So where an upstream makes
    some, its models are asked for by the names that it lists, and no alias takes one from it.
    """
    kept = {alias: to for alias, to in DEFAULT_ALIASES.items() if _target(to) in backends}
    upstreams = (each for each in backends.values() if isinstance(each, OpenAIConfig))
    if any("embeddings" in each.endpoints for each in upstreams):
        kept.pop("text-embedding-*", None)
    return kept


class Config(_Strict):
    """The whole of backends.yaml."""

    server: ServerConfig = ServerConfig()
    backends: dict[str, AnyBackendConfig] = Field(default_factory=_default_backends, min_length=1)
    routes: dict[str, RouteConfig] = {}
    aliases: dict[str, str] = {}

    @field_validator("backends")
    @classmethod
    def _names_are_ids(cls, value: dict[str, AnyBackendConfig]) -> dict[str, AnyBackendConfig]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"{name!r} must be letters, digits, '.', '_' and '-'")
        return value


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and the file it came from; None is the built-in one."""

    config: Config
    path: Path | None


def default() -> Config:
    """Return the built-in configuration."""
    return Config(aliases=default_aliases(_default_backends()))


def user_file() -> Path:
    """Return the path of the user's own backends.yaml, whether it exists or not."""
    return Path(platformdirs.user_config_dir("clinvk", appauthor=False)) / FILE_NAME


def user_keys_file() -> Path:
    """Return the path of the user's own keys, whether it exists or not."""
    return user_file().with_name(KEYS_NAME)


def find(explicit: Path | None = None, *, look_here: bool) -> Path | None:
    """Return the file to read, or None for the built-in configuration.

    Args:
        explicit: what the caller named; it need not exist for this to return it.
        look_here: whether a backends.yaml in the current folder counts. The file names programs
            to run, so only a command that tells the user what it read may look there.
    """
    if explicit is not None:
        return explicit
    if named := os.environ.get(ENV_VAR):
        return Path(named)
    candidates = ([Path(FILE_NAME)] if look_here else []) + [user_file()]
    return next((path for path in candidates if path.is_file()), None)


def load(path: Path | None, *, env: Mapping[str, str] | None = None) -> Loaded:
    """Read and check a configuration file; None gives the built-in configuration.

    Raises:
        ConfigError: if the file cannot be read or is wrong.
    """
    if path is None:
        return Loaded(default(), None)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    return Loaded(parse(text, name=str(path), env=os.environ if env is None else env), path)


def parse(text: str, *, name: str, env: Mapping[str, str]) -> Config:
    """Check the text of a configuration file; `name` stands for it in errors.

    Raises:
        ConfigError: naming the line and key at fault.
    """
    data, lines = mapping(text, name, "server, backends, routes or aliases")
    data = expand(data, env, lines, ())
    config = checked(Config, data, lines)
    if "aliases" not in data:
        config = config.model_copy(update={"aliases": default_aliases(config.backends)})
    for path, target in _targets(config):
        if _target(target) not in config.backends:
            known = ", ".join(config.backends)
            raise ConfigError(lines.at(path, f"{target!r} names no backend; there are: {known}"))
    return config


def parse_keys(text: str, *, name: str) -> list[KeyConfig]:
    """Check the text of a file of keys; `name` stands for it in errors.

    Raises:
        ConfigError: naming the line and key at fault.
    """
    return checked(KeysConfig, *mapping(text, name, "keys")).keys


def dump_keys(keys: Sequence[KeyConfig]) -> str:
    """Return the text of a file of keys."""
    rows = [key.model_dump(mode="json", exclude_defaults=True) for key in keys]
    return yaml.safe_dump({"keys": rows}, sort_keys=False)


def _targets(config: Config) -> Iterator[tuple[KeyPath, str]]:
    """Yield what names a backend, and where it stands; not what a request will name."""
    for alias, target in config.aliases.items():
        yield ("aliases", alias), target
    for name, route in config.routes.items():
        for number, each in enumerate(route.targets):
            if not each.target.startswith("{model}"):
                yield ("routes", name, "targets", number), each.target


def _target(alias_target: str) -> str:
    return alias_target.partition("/")[0]


__all__ = [
    "AcpConfig",
    "AnyBackendConfig",
    "BackendConfig",
    "ClaudeConfig",
    "CliConfig",
    "CodexConfig",
    "CommandConfig",
    "EchoConfig",
    "EmbeddingsConfig",
    "Endpoint",
    "GeminiConfig",
    "OpenAIConfig",
    "ProgramConfig",
]
