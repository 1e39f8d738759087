"""The private CODEX_HOME of a codex process, and what of the user's own it keeps.

Owns what codex 0.169.0 reads and writes there: a configuration of our own in which only the way
to the model is the user's, and a link to the user's login. A link, because codex refreshes a
token by writing to the file, and the user's copy must stay the fresh one. Reads no credential.
"""

import json
import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from clinvk.config import CodexConfig
from clinvk.errors import UnavailableError
from clinvk.procs import scratch

KIND = "codex"
STORE_KEY = "cli_auth_credentials_store"
OWN_PROVIDER = "clinvk"
LOGIN_FILE = "auth.json"
CONFIG_FILE = "config.toml"

# How to reach the model; all else of the user's configuration stays behind.
KEPT = (
    "model",
    "model_provider",
    "model_providers",
    "openai_base_url",
    "chatgpt_base_url",
    "forced_login_method",
    "forced_chatgpt_workspace_id",
    STORE_KEY,
)

# What may pass from the environment besides what the chosen provider names.
VENDOR_ENV = (
    "CODEX_API_KEY",
    "CODEX_CA_CERTIFICATE",
    "OPENAI_ORGANIZATION",
    "OPENAI_PROJECT",
)
_BEDROCK = "amazon-bedrock"

_OFF = (
    "apps",
    "goals",
    "hooks",
    "image_generation",
    "memories",
    "plugins",
    "remote_plugin",
    "shell_snapshot",
    "shell_tool",
    "sleep_tool",
    "tool_suggest",
    "unbounded_connection_retries",  # else a host that is down is tried for ever
    "unified_exec",
    "view_image",
)
_NO_LIMIT = 10**9
_CHAT: dict[str, Any] = {
    "agents": {"enabled": False},
    "analytics": {"enabled": False},
    "check_for_update_on_startup": False,
    # A keyring entry is bound to the path of its CODEX_HOME, so only the file can be shared.
    STORE_KEY: "file",
    "features": dict.fromkeys(_OFF, False),
    "feedback": {"enabled": False},
    "history": {"persistence": "none"},
    "include_apps_instructions": False,
    "include_collaboration_mode_instructions": False,
    "include_environment_context": False,
    "include_permissions_instructions": False,
    "project_doc_max_bytes": 0,
    "project_root_markers": [],
    "skills": {"include_instructions": False, "bundled": {"enabled": False}},
    "thread_unload_delay_secs": 1,
    # Codex cuts a tool's result in the history at 48 kB otherwise.
    "tool_output_token_limit": _NO_LIMIT,
    "tools": {"experimental_request_user_input": {"enabled": False}},
    "web_search": "disabled",
}

_log = logging.getLogger(__name__)

Table = dict[str, Any]


def user_folder(env: Mapping[str, str]) -> Path:
    """Return the user's own CODEX_HOME."""
    if named := env.get("CODEX_HOME"):
        return Path(named)
    return Path(env.get("HOME") or Path.home()) / ".codex"


def read_user(folder: Path) -> Table:
    """Return what the user's own configuration says on how to reach the model.

    Raises:
        UnavailableError: if it is not TOML; codex itself would not start with it either.
    """
    path = folder / CONFIG_FILE
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        if not isinstance(exc, FileNotFoundError):
            _log.warning("%s cannot be read, and is left out: %s", path, exc)
        return {}
    except tomllib.TOMLDecodeError as exc:
        raise UnavailableError(f"{path} is not TOML ({exc}); mend it") from exc
    profiles = table.get("profiles")
    profile = profiles.get(table.get("profile")) if isinstance(profiles, dict) else None
    chosen = merge(table, profile if isinstance(profile, dict) else {})
    return {key: chosen[key] for key in KEPT if key in chosen}


def settings(user: Table, config: CodexConfig, env: Mapping[str, str]) -> Table:
    """Return codex's whole configuration: chat mode, the user's way to the model, and `config`."""
    user = {key: value for key, value in user.items() if key != STORE_KEY}
    own = nested(config.config)
    chosen = str(own.get("model_provider") or user.get("model_provider") or "openai")
    limits = {
        "request_max_retries": config.retries,
        "stream_max_retries": config.retries,
    }
    idle = {"stream_idle_timeout_ms": int(config.silence_s * 1000)}
    if chosen == "openai":
        # The built-in provider cannot be changed, and tries a websocket five times first; one of
        # ours with the same name and login is treated the same otherwise.
        provider = {**_openai(merge(user, own), env), **limits, **idle}
        reach = {"model_provider": OWN_PROVIDER, "model_providers": {OWN_PROVIDER: provider}}
        return merge(_CHAT, {**user, "model_providers": {}}, own, reach)
    named = {**user, "model_providers": _only(user, chosen)}
    if not {**_only(user, chosen), **_only(own, chosen)}:
        return merge(_CHAT, named, own)  # built into codex, and closed to changes
    first, then = {"model_providers": {chosen: idle}}, {"model_providers": {chosen: limits}}
    return merge(_CHAT, first, named, then, own)


def provider_of(table: Table) -> Table:
    """Return the model provider that a configuration chooses; empty if it is built in."""
    providers = table.get("model_providers", {})
    found = providers.get(table.get("model_provider"), {})
    return found if isinstance(found, dict) else {}


def variables(table: Table) -> tuple[str, ...]:
    """Return the names of the environment variables that the chosen model provider reads."""
    if table.get("model_provider") == _BEDROCK:
        return ("AWS_*",)
    provider = provider_of(table)
    headers = provider.get("env_http_headers")
    names = [provider.get("env_key"), *(headers.values() if isinstance(headers, dict) else ())]
    return tuple(name for name in names if isinstance(name, str))


class Home:
    """A private folder for one codex process: its configuration, its login, a place to stand."""

    def __init__(self, user: Path, table: Table) -> None:
        self._watched = (user / LOGIN_FILE, user / CONFIG_FILE)
        self._seen = self._look()
        self._table = table
        self._catalogs = 0
        self.root = scratch.make(KIND)
        try:
            self._fill(user)
        except BaseException:
            self.remove()
            raise

    @property
    def codex_home(self) -> Path:
        """What CODEX_HOME must be."""
        return self.root / "home"

    @property
    def work(self) -> Path:
        """An empty folder to work in."""
        return self.root / "work"

    @property
    def own_provider(self) -> bool:
        """Whether the model provider is ours, in place of the built-in one."""
        return self._table.get("model_provider") == OWN_PROVIDER

    @property
    def env(self) -> dict[str, str]:
        """What the child must be told to stay in here."""
        return {"CODEX_HOME": str(self.codex_home), "TMPDIR": str(self.root / "tmp")}

    @property
    def current(self) -> bool:
        """Whether the user's login and configuration are still those that this was made of."""
        return self._look() == self._seen

    def configure(self, **settings: Any) -> None:  # noqa: ANN401 - any TOML value
        """Add settings, and write the configuration."""
        self._table |= settings
        path = self.codex_home / CONFIG_FILE
        path.touch(mode=0o600)
        path.write_text(tomli_w.dumps(self._table), "utf-8")

    def add_catalog(self, models: list[Table]) -> Path:
        """Write a model catalog and return where; `drop_catalog` it after use."""
        self._catalogs += 1
        path = self.root / f"models-{self._catalogs}.json"
        path.write_text(json.dumps({"models": models}), "utf-8")
        return path

    def drop_catalog(self, path: Path) -> None:
        """Delete a catalog."""
        path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder; the user's login behind the link stays."""
        scratch.remove(self.root)

    def _fill(self, user: Path) -> None:
        for folder in (self.codex_home, self.work, self.root / "tmp"):
            folder.mkdir()
        for name in (LOGIN_FILE, "installation_id"):
            # A link to nothing is right for the login: a later one creates the file behind it.
            if name == LOGIN_FILE or (user / name).exists():
                (self.codex_home / name).symlink_to((user / name).absolute())
        self.configure()

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._watched)


def nested(dotted: Mapping[str, Any]) -> Table:
    """Return a table of tables from dotted keys; null values are left out."""
    table: Table = {}
    for key, value in dotted.items():
        for step in reversed(key.split(".")):
            value = {step: value}  # noqa: PLW2901 - wrapped from the inside out
        table = merge(table, value)
    return table


def merge(*tables: Mapping[str, Any]) -> Table:
    """Return the tables laid over each other, the last on top."""
    merged: Table = {}
    for table in tables:
        for key, value in table.items():
            below = merged.get(key)
            if isinstance(value, Mapping):
                merged[key] = merge(below if isinstance(below, dict) else {}, value)
            elif value is not None:
                merged[key] = value
    return merged


def _openai(reach: Table, env: Mapping[str, str]) -> Table:
    provider: Table = {
        "name": "OpenAI",
        "wire_api": "responses",
        "requires_openai_auth": True,
        "supports_websockets": False,
        "env_http_headers": {
            "OpenAI-Organization": "OPENAI_ORGANIZATION",
            "OpenAI-Project": "OPENAI_PROJECT",
        },
    }
    if base_url := reach.get("openai_base_url"):
        provider["base_url"] = base_url
    if env.get("CODEX_API_KEY"):
        provider["env_key"] = "CODEX_API_KEY"  # `codex exec` reads it, the app-server does not
    return provider


def _only(table: Table, provider: str) -> Table:
    providers = table.get("model_providers")
    found = providers.get(provider) if isinstance(providers, dict) else None
    return {provider: found} if isinstance(found, dict) else {}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def remove_stale() -> None:
    """Delete the private folders of servers that were killed before they could."""
    scratch.remove_stale(KIND)
