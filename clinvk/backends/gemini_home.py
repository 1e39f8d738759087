"""The private home of a gemini process, and the user's login that it keeps.

Owns what gemini 0.61.0 reads and writes under `$GEMINI_CLI_HOME/.gemini`: minimal settings of
our own, the user's credential files as links (gemini refreshes a token by writing to the file,
so a link keeps the user's copy fresh), and what gemini leaves behind. Opens no credential file;
of the user's .env, which may hold a key, it passes on what gemini itself would take.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from clinvk.procs import scratch

CREDENTIALS = ("oauth_creds.json", "google_accounts.json", "gemini-credentials.json")
DEFAULT_MODEL = "pro"  # gemini's own alias of its best model; "auto" costs a call more a turn
KIND = "gemini"
# Model requests of one session, whatever for. A model that keeps calling what it was not given is
# asked again and again, up to here.
MAX_ROUNDS = 25
MAX_ROUNDS_WITH_TOOLS = 100
TOOLS_FOLDER = "tools"
CALL_TIMEOUT_MS = 24 * 3600 * 1000  # gemini's own, for a tool: 10 minutes; ours is park_s

# What may pass from the environment and from the user's .env: how to reach and pay the API.
# GEMINI_* as a whole would let in switches that undo the isolation (GEMINI_SYSTEM_MD …).
VENDOR_ENV = (
    "GEMINI_API_KEY",
    "GEMINI_API_KEY_AUTH_MECHANISM",
    "GEMINI_CLI_CUSTOM_HEADERS",
    "GEMINI_CLI_USE_COMPUTE_ADC",
    "GEMINI_CLI_SYSTEM_SETTINGS_PATH",
    "GEMINI_CLI_SYSTEM_DEFAULTS_PATH",
    "GEMINI_FORCE_ENCRYPTED_FILE_STORAGE",
    "GEMINI_FORCE_FILE_STORAGE",
    "GEMINI_MODEL",
    "GOOGLE_*",
    "GCLOUD_PROJECT",
    "CLOUDSDK_CONFIG",
    "CLOUD_SHELL",
    "CODE_ASSIST_*",
    "GCE_METADATA_*",
    "METADATA_SERVER_DETECTION",
)

# As Google's OpenAI endpoint maps reasoning_effort, but for values that not every model of the
# family takes: those go to the nearest that all take.
_BUDGETS = {
    "none": 512,
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 24_576,
    "max": 24_576,
}
_LEVELS = {"none": "LOW", "minimal": "LOW", "low": "LOW"}
EFFORTS = frozenset(_BUDGETS)


@dataclass(frozen=True, slots=True)
class Login:
    """How gemini is logged in, as far as files and variables tell.

    `auth` is the user's `security.auth` setting with the method in `selectedType`; `missing` says
    what is not there; `hidden` is true if the login, if any, is in a keyring, where only gemini
    can look. Two equal logins can share a process.
    """

    folder: Path
    auth: tuple[tuple[str, Any], ...]
    method: str | None
    model: str
    extra_env: tuple[tuple[str, str], ...]
    missing: str | None
    hidden: bool


def find_login(env: Mapping[str, str]) -> Login:
    """Look up the user's login in a child's environment.

    The order is gemini's own: the method chosen in the user's settings.json, else the first that
    the environment allows (`validateNonInteractiveAuth` of 0.61.0).
    """
    home = Path(env.get("GEMINI_CLI_HOME") or env.get("HOME") or Path.home())
    folder = home / ".gemini"
    from_file = _dotenv(folder / ".env") or _dotenv(home / ".env")
    extra = {name: value for name, value in from_file.items() if _allowed(name) and name not in env}
    settings = _settings(folder / "settings.json")
    seen = {**extra, **env}
    security = settings.get("security")
    auth = security.get("auth") if isinstance(security, dict) else None
    auth = dict(auth) if isinstance(auth, dict) else {}
    chosen = auth.get("selectedType") or settings.get("selectedAuthType")
    method = chosen if isinstance(chosen, str) else _method_of(seen, folder)
    auth["selectedType"] = method
    hidden = _hidden(method, seen)
    return Login(
        folder=folder,
        auth=tuple(sorted(auth.items(), key=lambda item: item[0])),
        method=method,
        model=_model(seen, settings),
        extra_env=tuple(sorted(extra.items())),
        missing=None if hidden else _missing(method, seen, folder),
        hidden=hidden,
    )


def _method_of(env: Mapping[str, str], folder: Path) -> str | None:
    if env.get("GOOGLE_GENAI_USE_GCA") == "true":
        return "oauth-personal"
    if env.get("GOOGLE_GENAI_USE_VERTEXAI") == "true":
        return "vertex-ai"
    if env.get("GOOGLE_GEMINI_BASE_URL"):
        return "gateway"
    if env.get("GEMINI_API_KEY"):
        return "gemini-api-key"
    if "true" in (env.get("CLOUD_SHELL"), env.get("GEMINI_CLI_USE_COMPUTE_ADC")):
        return "compute-default-credentials"
    if (folder / "oauth_creds.json").is_file():
        return "oauth-personal"
    return None


def _hidden(method: str | None, env: Mapping[str, str]) -> bool:
    if method == "gemini-api-key":
        return not env.get("GEMINI_API_KEY")
    return method == "oauth-personal" and env.get("GEMINI_FORCE_ENCRYPTED_FILE_STORAGE") == "true"


def _missing(method: str | None, env: Mapping[str, str], folder: Path) -> str | None:
    if method is None:
        return "no way to log in is chosen"
    if method == "vertex-ai":
        project = env.get("GOOGLE_CLOUD_PROJECT") and env.get("GOOGLE_CLOUD_LOCATION")
        if not project and not env.get("GOOGLE_API_KEY"):
            return (
                "Vertex AI is chosen, but neither GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_LOCATION "
                "nor GOOGLE_API_KEY is set"
            )
    if method == "oauth-personal":
        token = env.get("GOOGLE_GENAI_USE_GCA") and env.get("GOOGLE_CLOUD_ACCESS_TOKEN")
        file = (folder / "oauth_creds.json").is_file()
        if not (token or file or env.get("GOOGLE_APPLICATION_CREDENTIALS")):
            return "the Google login is chosen, but nobody is logged in"
    return None


def _model(env: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """The model of a turn that names none: the user's, unless it is one of the "auto" kinds."""
    section = settings.get("model")
    name = section.get("name") if isinstance(section, dict) else None
    name = env.get("GEMINI_MODEL") or name
    if not isinstance(name, str) or not name or name.startswith("auto"):
        return DEFAULT_MODEL
    return name


def _allowed(name: str) -> bool:
    return any(
        name == allowed or (allowed.endswith("*") and name.startswith(allowed[:-1]))
        for allowed in VENDOR_ENV
    )


_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def _settings(path: Path) -> dict[str, Any]:
    """The user's settings.json, which may hold comments; anything unreadable is empty."""
    try:
        text = _COMMENT.sub(lambda m: m[0] if m[0][0] == '"' else "", path.read_text("utf-8"))
        value = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _dotenv(path: Path) -> dict[str, str]:
    """The assignments of a .env file; anything unreadable is empty."""
    try:
        found = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: value for name, value in found.items() if value is not None}


class Home:
    """A private folder for one gemini process: settings, links to the login, working folders."""

    def __init__(self, login: Login, *, attempts: int) -> None:
        self.attempts = attempts
        self._model = login.model
        self._folders = 0
        self.root = scratch.make(KIND)
        try:
            self._fill(login, attempts)
        except BaseException:
            self.remove()
            raise

    @property
    def responses(self) -> Path:
        """The file that gemini records the model's responses in."""
        return self.root / "responses.jsonl"

    @property
    def env(self) -> dict[str, str]:
        """What the child must be told to stay in here."""
        return {
            "GEMINI_CLI_HOME": str(self.root),
            "GEMINI_SYSTEM_MD": str(self.root / "system.md"),
            "GEMINI_CLI_NO_RELAUNCH": "1",
            "GEMINI_MODEL": self._model,
            "NO_BROWSER": "true",
            "TMPDIR": str(self.root / "tmp"),
        }

    def folder(self, effort: str | None) -> Path:
        """Return the empty working folder whose settings carry an effort."""
        return self.root / "work" / (effort if effort in EFFORTS else "default")

    def folder_with_tools(
        self, effort: str | None, server: str, access: Mapping[str, Any], *, must_call: bool
    ) -> Path:
        """Make a working folder for one session, whose settings let its model call tools.

        Args:
            effort: as in `folder`.
            server: the name of the MCP server that has the tools.
            access: where it is, as gemini's settings have it.
            must_call: whether each answer of the model must be a call.
        """
        self._folders += 1
        folder = self.root / "work" / str(self._folders) / TOOLS_FOLDER
        (folder / ".gemini").mkdir(parents=True)
        settings = _tool_settings(effort or "", server, access, must_call=must_call)
        (folder / ".gemini" / "settings.json").write_text(json.dumps(settings))
        # The model is told gemini's own name for the folder. It takes the same one again if it
        # has forgotten it, and a vendor's prompt cache goes by what stands first.
        for path in (
            self.root / ".gemini" / "projects.json",
            *self.root.glob(f".gemini/*/{TOOLS_FOLDER}/.project_root"),
        ):
            path.unlink(missing_ok=True)
        return folder

    def drop(self, folder: Path) -> None:
        """Delete the working folder of a session."""
        shutil.rmtree(folder.parent, ignore_errors=True)

    def error_class(self, message: str) -> str | None:
        """Return the class of gemini's error with this message, from its error reports.

        Over ACP a 404 comes as a 500 with no sign of what it was.
        """
        for report in self._reports():
            with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
                with report.open(encoding="utf-8", errors="replace") as file:
                    head = file.read(65_536).partition('"error":')[2].lstrip()
                error = json.JSONDecoder().raw_decode(head)[0]
                if error["message"] == message:
                    return str(error["stack"].partition(":")[0])
        return None

    def sweep(self) -> None:
        """Delete what gemini has written about turns that have ended."""
        for path in (*self._reports(), *self.root.glob(".gemini/tmp/*/chats/*")):
            with contextlib.suppress(OSError):
                path.unlink()

    def remove(self) -> None:
        """Delete the folder; the user's files behind the links stay."""
        scratch.remove(self.root)

    def _reports(self) -> list[Path]:
        return list((self.root / "tmp").glob("gemini-client-error-*.json"))

    def _fill(self, login: Login, attempts: int) -> None:
        gemini = self.root / ".gemini"
        gemini.mkdir()
        (self.root / "tmp").mkdir()
        (self.root / "system.md").write_text(" ")
        self.responses.touch()
        # gemini looks for a .env from the working folder upwards and takes the first: this one.
        (gemini / ".env").touch()
        (gemini / "settings.json").write_text(json.dumps(_own_settings(login, attempts)))
        for name in CREDENTIALS:
            # A link to nothing is right too: a later login creates the file behind it.
            (gemini / name).symlink_to(login.folder / name)
        for effort in ("", *EFFORTS):
            folder = self.folder(effort) / ".gemini"
            folder.mkdir(parents=True)
            (folder / "settings.json").write_text(json.dumps(_effort_settings(effort)))


def remove_stale() -> None:
    """Delete the private homes of servers that were killed before they could."""
    scratch.remove_stale(KIND)


def _own_settings(login: Login, attempts: int) -> dict[str, Any]:
    return {
        "security": {"auth": dict(login.auth), "folderTrust": {"enabled": False}},
        "general": {
            "enableAutoUpdate": False,
            "enableAutoUpdateNotification": False,
            "maxAttempts": attempts,
            "retryFetchErrors": attempts > 1,
            "topicUpdateNarration": False,
            "plan": {"enabled": False},
            "sessionRetention": {"enabled": False},
        },
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "model": {
            "name": login.model,
            "disableLoopDetection": True,
            "skipNextSpeakerCheck": True,
            "maxSessionTurns": MAX_ROUNDS,
            # A share of the context window. Beyond, it would put a summary in place of what was
            # said; so never.
            "compressionThreshold": 10,
        },
        "context": {
            "includeDirectoryTree": False,
            "fileName": "NO_SUCH_CONTEXT.md",
            "discoveryMaxDirs": 0,
        },
        "tools": {"core": ["none"], "useRipgrep": False},
        "skills": {"enabled": False},
        "hooksConfig": {"enabled": False},
        "experimental": {"enableAgents": False},
        "advanced": {"autoConfigureMemory": False, "ignoreLocalEnv": True},
    }


def _effort_settings(effort: str) -> dict[str, Any]:
    overrides = _thinking(effort)
    return {"modelConfigs": {"customOverrides": overrides}} if overrides else {}


def _tool_settings(
    effort: str, server: str, access: Mapping[str, Any], *, must_call: bool
) -> dict[str, Any]:
    overrides = _thinking(effort)
    if must_call:
        config = {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}
        overrides.append(_override({"isChatModel": True}, config))
    return {
        # Patterns: of all tools those of MCP servers alone, which are then not asked about.
        "tools": {"core": ["none", "mcp_*"]},
        "mcp": {"allowed": [server]},
        "model": {"maxSessionTurns": MAX_ROUNDS_WITH_TOOLS},
        "mcpServers": {server: {**access, "trust": True, "timeout": CALL_TIMEOUT_MS}},
        "modelConfigs": {"customOverrides": overrides},
    }


def _thinking(effort: str) -> list[dict[str, Any]]:
    """The thinking of each model family; gemini applies it by the aliases in its model table."""
    if effort not in EFFORTS:
        return []
    thinking = {
        "chat-base-2.5": {"thinkingBudget": _BUDGETS[effort]},
        "chat-base-3": {"thinkingLevel": _LEVELS.get(effort, "HIGH")},
    }
    return [
        _override({"model": alias}, {"thinkingConfig": config})
        for alias, config in thinking.items()
    ]


def _override(match: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    return {"match": match, "modelConfig": {"generateContentConfig": config}}
