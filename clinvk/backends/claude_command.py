"""How Claude Code is started: its arguments, its environment, and what of the user's login passes.

Owns flags and variables; starts nothing. The child keeps the user's home and configuration
folder, because that is where logins live; flags keep everything else in them out. Observed with
claude 2.1.197.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinvk.backends import claude_tools
from clinvk.procs.environment import child_environment, select

# Who the user is to the model API, and where it is: Anthropic, a gateway, or a cloud.
VENDOR_ENV = (
    "ANTHROPIC_*",
    "CLAUDE_CONFIG_DIR",
    "CLAUDE_SECURESTORAGE_CONFIG_DIR",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_REFRESH_TOKEN",
    "CLAUDE_CODE_OAUTH_SCOPES",
    "CLAUDE_CODE_API_KEY_HELPER_TTL_MS",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_GATEWAY",
    "CLAUDE_CODE_USE_MANTLE",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_SKIP_ANTHROPIC_AWS_AUTH",
    "CLAUDE_CODE_SKIP_BEDROCK_AUTH",
    "CLAUDE_CODE_SKIP_FOUNDRY_AUTH",
    "CLAUDE_CODE_SKIP_MANTLE_AUTH",
    "CLAUDE_CODE_SKIP_VERTEX_AUTH",
    "CLAUDE_CODE_CLIENT_CERT",
    "CLAUDE_CODE_CLIENT_KEY",
    "CLAUDE_CODE_CLIENT_KEY_PASSPHRASE",
    "CLAUDE_CODE_CERT_STORE",
    "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS",
    "CLAUDE_CODE_DISABLE_1M_CONTEXT",
    "CLAUDE_CODE_ATTRIBUTION_HEADER",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS",
    "DISABLE_PROMPT_CACHING*",
    "API_TIMEOUT_MS",
)
_AWS = ("AWS_*",)
# The logins of clouds, which pass only where claude is told to ask its model there.
_CLOUDS = {
    "CLAUDE_CODE_USE_ANTHROPIC_AWS": _AWS,
    "CLAUDE_CODE_USE_BEDROCK": _AWS,
    "CLAUDE_CODE_USE_MANTLE": _AWS,
    "CLAUDE_CODE_USE_FOUNDRY": ("AZURE_*",),
    "CLAUDE_CODE_USE_VERTEX": (
        *("GOOGLE_*", "GCLOUD_*", "CLOUDSDK_*", "CLOUD_ML_REGION", "VERTEX_REGION_*"),
    ),
}
_OFF = frozenset({"", "0", "false", "no", "off"})

# The keys of the user's settings.json that are a login, not a taste.
LOGIN_SETTINGS = ("apiKeyHelper", "awsAuthRefresh", "awsCredentialExport", "gcpAuthRefresh")

# Thinking that is asked for is sent as a summary; newer models otherwise send none at all.
_CHAT = (
    "-p",
    "--input-format=stream-json",
    "--output-format=stream-json",
    "--verbose",
    "--include-partial-messages",
    "--no-session-persistence",
    "--strict-mcp-config",
    "--disable-slash-commands",
    "--thinking-display=summarized",
    "--setting-sources=",
    "--system-prompt=",
    "--tools=",
    # The caller's tools may be called without a question, which is how their calls are heard of.
    f"--allowedTools=mcp__{claude_tools.SERVER}",
)
_FIXED_ENV = {
    "CLAUDE_AGENT_SDK_DISABLE_BUILTIN_AGENTS": "1",  # or a tool named Agent brings a list of them
    "CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1",  # the caller's tools keep their names
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",  # or `@path` in a text reads that file
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    # or an answer cut half way is asked for again and sent as a second message
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_REFUSAL_FALLBACK": "1",
    # or the CLI refuses by its own guess of a model's window, or shortens the conversation
    "DISABLE_COMPACT": "1",
    # or the caller's results are cut, and its calls given up
    "MAX_MCP_OUTPUT_TOKENS": "1000000000",
    "MCP_TOOL_TIMEOUT": str(24 * 60 * 60 * 1000),
    "ENABLE_TOOL_SEARCH": "false",  # or tools may be hidden until the model searches for them
    "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "1000000000",
}
_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
NO_THINKING = "none"

_log = logging.getLogger(__name__)


def knows_effort(effort: str | None) -> bool:
    """Return whether an effort changes how the CLI is started; none at all is fine too."""
    return effort is None or effort == NO_THINKING or effort in _EFFORTS


def arguments(model: str | None, effort: str | None, settings: Path | None) -> tuple[str, ...]:
    """Return the arguments of a process for chat; `settings` is a file of login settings."""
    argv = list(_CHAT)
    if settings is not None:
        argv.append(f"--settings={settings}")
    if model is not None:
        argv.append(f"--model={model}")
    if effort == NO_THINKING:
        argv.append("--thinking=disabled")
    elif effort in _EFFORTS:
        argv.append(f"--effort={_EFFORTS[effort]}")
    return tuple(argv)


@dataclass(frozen=True, slots=True)
class Login:
    """What a process must be given for the user's login to work: its environment and settings."""

    env: dict[str, str]
    settings: dict[str, Any]


def find_login(
    config_env: Mapping[str, str], retries: int, *, source: Mapping[str, str] | None = None
) -> Login:
    """Look up the environment and login settings for a process.

    Of the user's settings.json nothing passes but the keys that are a login, and those of its
    variables that would also pass from the server's own environment.

    Args:
        config_env: what backends.yaml adds; it wins over everything.
        retries: how often the CLI may ask its model API again.
        source: the server's own environment by default.
    """
    settings = _read_settings(child_environment(VENDOR_ENV, config_env, source=source))
    # One more than allowed: the CLI tells how long to wait only before it tries again.
    ours = {**_FIXED_ENV, "CLAUDE_CODE_MAX_RETRIES": str(retries + 1)}

    def environment(vendor: tuple[str, ...]) -> dict[str, str]:
        extra = {**_login_env(settings.get("env"), vendor), **ours, **config_env}
        return child_environment(vendor, extra, source=source)

    env = environment((*VENDOR_ENV, *_clouds(environment(VENDOR_ENV))))
    if "ANTHROPIC_BASE_URL" in env:
        # The CLI's account of itself is for Anthropic; at a gateway it spoils the prompt cache.
        env.setdefault("CLAUDE_CODE_ATTRIBUTION_HEADER", "0")
    return Login(env, {key: settings[key] for key in LOGIN_SETTINGS if key in settings})


def _read_settings(env: Mapping[str, str]) -> dict[str, Any]:
    folder = env.get("CLAUDE_CONFIG_DIR") or str(Path(env.get("HOME", "/")) / ".claude")
    try:
        settings = json.loads((Path(folder) / "settings.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as exc:
        _log.debug("the user's settings.json cannot be used: %s", exc)
        return {}
    return settings if isinstance(settings, dict) else {}


def _clouds(env: Mapping[str, str]) -> tuple[str, ...]:
    """The names that may pass as well, for the clouds that are in use."""
    in_use = (names for flag, names in _CLOUDS.items() if env.get(flag, "").lower() not in _OFF)
    return tuple(name for names in in_use for name in names)


def _login_env(settings_env: object, vendor: tuple[str, ...]) -> dict[str, str]:
    if not isinstance(settings_env, dict):
        return {}
    texts = {name: value for name, value in settings_env.items() if isinstance(value, str)}
    return select(vendor, texts)
