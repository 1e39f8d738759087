"""Secrets of a person, wherever programs look for such, and traps that tell when they are sprung.

Each secret holds `CANARY`, so that one search finds whatever gets out; each trap makes a file
whose name begins with `ran-` beside the home.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CANARY = "CANARY"

ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": "CANARY-env-aws",
    "AZURE_CLIENT_SECRET": "CANARY-env-azure",
    "DATABASE_URL": "postgres://u:CANARY-env-db@localhost/d",
    "GH_TOKEN": "CANARY-env-gh",
    "GITHUB_TOKEN": "CANARY-env-github",
    "NPM_TOKEN": "CANARY-env-npm",
    "SSH_AUTH_SOCK": "/CANARY-env-ssh",
    "MY_PASSWORD": "CANARY-env-mine",
    "OPENAI_API_KEY": "CANARY-env-openai",
}


@dataclass(frozen=True)
class Grounds:
    """Where everything is: the home, the folder the server is started in, and the traps' files."""

    home: Path
    start: Path
    root: Path

    @property
    def sprung(self) -> list[str]:
        """The traps that went off."""
        return sorted(path.name for path in self.root.rglob("ran-*"))

    def trap(self, name: str) -> str:
        """A command that springs a trap."""
        return f"touch {self.root}/ran-{name}"

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file of the person's, with its size and when it was written."""
        found = {}
        for folder in (self.home, self.start):
            for path in folder.rglob("*"):
                if path.is_symlink() or path.is_file():
                    seen = path.lstat()
                    found[str(path.relative_to(self.root))] = (seen.st_size, seen.st_mtime_ns)
        return found


def plant(root: Path, patch: pytest.MonkeyPatch) -> Grounds:
    """Fill a home, a folder to start in, and the environment; the folder is the current one."""
    grounds = Grounds(root / "home", root / "start", root)
    grounds.home.mkdir(exist_ok=True)
    (grounds.start / "src").mkdir(parents=True)
    for where in (grounds.home, grounds.start):
        for path, text in _everywhere(grounds).items():
            _write(where / path, text.replace("WHERE", where.name))
    for path, text in _at_home(grounds).items():
        _write(grounds.home / path, text)
    patch.chdir(grounds.start)
    for name, value in ENVIRONMENT.items():
        patch.setenv(name, value)
    patch.setenv("BASH_ENV", str(_write(root / "profile", grounds.trap("profile"))))
    return grounds


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if text.startswith("#!"):
        path.chmod(0o755)
    return path


def _everywhere(grounds: Grounds) -> dict[str, str]:
    """What is read of a project folder and of a home alike."""
    head = "---\nname: canary\ndescription: CANARY-WHERE-head\n---\nCANARY-WHERE-body"
    memories = ("CLAUDE.md", "CLAUDE.local.md", "AGENTS.md", "AGENTS.override.md", "GEMINI.md")
    skills = (".claude/skills", ".codex/skills", ".agents/skills", ".gemini/skills")
    claude = {"hooks": _hooks(grounds, "claude"), "env": {"X": "CANARY-WHERE"}, **_servers(grounds)}
    gemini = {
        **_servers(grounds),
        "hooks": _hooks(grounds, "gemini"),
        "tools": {"discoveryCommand": grounds.trap("discovery")},
        "context": {"fileName": ["GEMINI.md", "secret.txt"], "includeDirectories": ["src"]},
        "general": {"preferredEditor": "CANARY-WHERE"},
    }
    return {
        **{name: f"CANARY-WHERE-{name}" for name in memories},
        **{f"{folder}/canary/SKILL.md": head for folder in skills},
        ".claude/CLAUDE.md": "CANARY-WHERE-memory",
        ".claude/rules/canary.md": "CANARY-WHERE-rule",
        ".claude/commands/canary.md": head,
        ".claude/agents/canary.md": head,
        ".claude/output-styles/canary.md": head,
        ".claude/settings.json": json.dumps(claude),
        ".claude/settings.local.json": json.dumps(claude),
        ".mcp.json": json.dumps(_servers(grounds)),
        ".gemini/GEMINI.md": "CANARY-WHERE-memory",
        ".gemini/settings.json": json.dumps(gemini),
        ".gemini/commands/canary.toml": 'prompt = "CANARY-WHERE !{' + grounds.trap("toml") + '}"',
        ".gemini/agents/canary.md": head,
        ".gemini/system.md": "CANARY-WHERE-system",
        ".gemini/.env": "MY_SECRET=CANARY-WHERE-env",
        ".gemini/extensions/canary/gemini-extension.json": json.dumps(
            {"name": "canary", "version": "1.0.0", **_servers(grounds)}
        ),
        ".codex/AGENTS.md": "CANARY-WHERE-memory",
        ".codex/prompts/canary.md": "CANARY-WHERE-prompt",
        ".codex/rules/canary.rules": "CANARY-WHERE-rule",
        ".codex/hooks.json": json.dumps({"hooks": _hooks(grounds, "codex")}),
        ".codex/config.toml": _codex(grounds),
        ".env": "MY_SECRET=CANARY-WHERE-env",
        "secret.txt": "CANARY-WHERE-secret",
        "src/secret.txt": "CANARY-WHERE-source",
        "pic.png": "CANARY-WHERE-picture",
    }


def _at_home(grounds: Grounds) -> dict[str, str]:
    said = {"type": "user", "message": {"role": "user", "content": "CANARY-history"}}
    git = f"[user]\nname = CANARY-git\n[core]\nfsmonitor = {grounds.trap('git')}\n"
    account = {**_servers(grounds), "oauthAccount": {"emailAddress": "CANARY@example.com"}}
    return {
        ".ssh/id_ed25519": "CANARY-ssh-key",
        ".ssh/config": "# CANARY-ssh-config",
        ".gitconfig": git,
        ".netrc": "machine localhost login CANARY-netrc password CANARY-netrc",
        ".npmrc": "//x/:_authToken=CANARY-npm",
        ".aws/credentials": "[default]\naws_secret_access_key = CANARY-aws",
        ".bashrc": f"{grounds.trap('bashrc')}\nexport X=CANARY-bashrc\n",
        ".profile": f"{grounds.trap('login')}\nexport X=CANARY-profile\n",
        ".zshenv": f"{grounds.trap('zshenv')}\n",
        ".bash_history": "CANARY-bash-history",
        ".claude.json": json.dumps(account),
        ".claude/history.jsonl": json.dumps({"display": "CANARY-history"}) + "\n",
        ".claude/projects/-start/memory/MEMORY.md": "CANARY-auto-memory",
        ".claude/projects/-start/5f0c0c0e-0000-4000-8000-000000000000.jsonl": json.dumps(said),
        ".codex/history.jsonl": json.dumps({"text": "CANARY-history"}) + "\n",
        ".codex/memories/memory.md": "CANARY-memories",
        ".codex/sessions/2026/01/01/rollout-2026-01-01T00-00-00-5f0c.jsonl": json.dumps(said),
        ".gemini/tmp/start/chats/session-2026-01-01T00-00-5f0c0c0e.jsonl": json.dumps(said),
        ".gemini/memory/MEMORY.md": "CANARY-memories",
    }


def _hooks(grounds: Grounds, cli: str) -> dict[str, Any]:
    names = (
        *("SessionStart", "UserPromptSubmit", "Stop", "SessionEnd", "Setup", "Notification"),
        *("PreToolUse", "PostToolUse", "BeforeTool", "AfterTool", "BeforeAgent", "BeforeModel"),
    )
    return {
        name: [
            {
                "matcher": "*",
                "hooks": [{"type": "command", "command": grounds.trap(f"{cli}-{name}")}],
            }
        ]
        for name in names
    }


def _servers(grounds: Grounds) -> dict[str, Any]:
    server = {"command": "sh", "args": ["-c", grounds.trap("mcp")], "trust": True}
    return {"mcpServers": {"canary": server}}


def _codex(grounds: Grounds) -> str:
    return f"""
developer_instructions = "CANARY-WHERE-developer"
notify = ["sh", "-c", "{grounds.trap("notify")}"]
[mcp_servers.canary]
command = "sh"
args = ["-c", "{grounds.trap("codex-mcp")}"]
[shell_environment_policy]
inherit = "all"
"""


def leaked(*texts: object) -> list[str]:
    """Where a canary stands in what got out, with what is around it."""
    found = []
    for text in texts:
        whole = text if isinstance(text, str) else json.dumps(text, default=str)
        at = whole.find(CANARY)
        if at >= 0:
            found.append(whole[max(0, at - 60) : at + 60])
    return found
