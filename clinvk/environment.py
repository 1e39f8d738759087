"""Settings by environment variables that users of other OpenAI-compatible servers know.

Owns which there are and what they mean. They fill in what a file leaves
out: what backends.yaml or the command line says comes first.
"""

import ipaddress
from collections.abc import Mapping

from pydantic import ValidationError

from clinvk.config import Config, ConfigError, OpenAIConfig, ServerConfig, default_aliases

BASE, KEY, MODEL = "OPENAI_API_BASE", "OPENAI_API_KEY", "OPENAI_MODEL"
HOST, PORT = "HOST", "PORT"
REQUIRE_AUTH, TOKEN = "REQUIRE_AUTH", "API_TOKEN"
UPSTREAM = "openai"

_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def with_upstream(config: Config, env: Mapping[str, str]) -> Config:
    """Return the built-in configuration with the backend `openai` if `$OPENAI_API_BASE` is set.

    Alone the key and the model mean nothing here: they may be for others.

    Raises:
        ConfigError: if it is no address.
    """
    if not (base := env.get(BASE)):
        return config
    try:
        upstream = OpenAIConfig(
            kind="openai",
            base_url=base,
            api_key=env.get(KEY) or None,
            model=env.get(MODEL) or None,
        )
    except ValidationError:
        raise ConfigError(
            f"${BASE}: must be the address of an API, such as http://127.0.0.1:8000/v1"
        ) from None
    backends = {**config.backends, UPSTREAM: upstream}
    aliases = default_aliases(backends)
    return config.model_copy(update={"backends": backends, "aliases": aliases})


def listening(server: ServerConfig, env: Mapping[str, str]) -> dict[str, str | int]:
    """Return where to listen, of `$HOST` and `$PORT`, as far as the file does not say.

    Some shells export the machine's own name as `$HOST`: only an address, or localhost, counts.

    Raises:
        ConfigError: if the port is none.
    """
    if server.uds is not None:
        return {}
    found: dict[str, str | int] = {}
    host = env.get(HOST, "")
    if _is_address(host) and "host" not in server.model_fields_set:
        found["host"] = host
    if (port := env.get(PORT)) and "port" not in server.model_fields_set:
        if not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65_536):
            raise ConfigError(f"${PORT}: {port!r} is no port; give a number from 0 to 65535")
        found["port"] = int(port)
    return found


def _is_address(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def token(env: Mapping[str, str]) -> str | None:
    """Return the key in `$API_TOKEN`, unless `$REQUIRE_AUTH` says that none is needed."""
    return None if needs_key(env) is False else env.get(TOKEN) or None


def needs_key(env: Mapping[str, str]) -> bool | None:
    """Return whether callers need a key as `$REQUIRE_AUTH` says; None if it says nothing.

    Raises:
        ConfigError: if it says neither true nor false.
    """
    if not (said := env.get(REQUIRE_AUTH, "").strip()):
        return None
    if said.lower() not in _WORDS:
        raise ConfigError(f"${REQUIRE_AUTH}: {said!r} is neither true nor false")
    return _WORDS[said.lower()]
