"""Codex's catalog of models, with the agent taken out of each: pure.

A model's entry decides, over every setting, which tools it is given (`exec`, `apply_patch`,
sub-agents) and when its history is cut down to a summary; so chat mode needs entries of its
own (observed with codex 0.169.0: 17 kB of tools and roles without them, none with).
"""

import json
from collections.abc import Mapping
from typing import Any

Entry = dict[str, Any]

_NO_LIMIT = 10**9
_PLAIN: Entry = {
    "apply_patch_tool_type": None,
    "auto_compact_token_limit": _NO_LIMIT,
    "availability_nux": None,
    "base_instructions": "",
    "context_window": _NO_LIMIT,
    "effective_context_window_percent": 100,
    "experimental_supported_tools": [],
    "input_modalities": ["text", "image"],  # else codex drops images without a word
    "max_context_window": _NO_LIMIT,
    "model_messages": None,
    "supports_search_tool": False,
    "tool_mode": "direct",
    "upgrade": None,
}
_DROPPED = ("multi_agent_reasoning_effort", "multi_agent_version")
# What codex takes a model for that it does not know.
_UNKNOWN: Entry = {
    "additional_speed_tiers": [],
    "default_reasoning_level": None,
    "default_reasoning_summary": "auto",
    "default_verbosity": None,
    "service_tiers": [],
    "support_verbosity": False,
    "supported_reasoning_levels": [],
    "supports_reasoning_effort_updates": False,
    "use_responses_lite": False,
}


class Catalog:
    """The models that codex knows, each a plain model."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self._by_slug = {str(entry["slug"]): entry for entry in entries}

    @classmethod
    def parse(cls, text: str) -> "Catalog":
        """Read the output of `codex debug models`.

        Raises:
            ValueError: if it is not a catalog.
        """
        data = json.loads(text)
        models = data.get("models") if isinstance(data, dict) else None
        found = models if isinstance(models, list) else []
        entries = [m for m in found if isinstance(m, dict) and isinstance(m.get("slug"), str)]
        if not entries:
            raise ValueError("it lists no models")
        return cls([_plain(entry) for entry in entries])

    def entry_for(self, model: str | None) -> Entry | None:
        """Return an entry for a model that the catalog does not have, else None."""
        if model is None or not self.entries or model in self._by_slug:
            return None
        like = max(
            (slug for slug in self._by_slug if model.startswith(slug)), key=len, default=None
        )
        entry = {**self.entries[0], **_UNKNOWN} if like is None else self._by_slug[like]
        return {**entry, "slug": model, "display_name": model, "description": model}

    def effort(self, asked: str, model: str) -> str:
        """Return what codex calls an effort; `max` is `xhigh` where a model has no `max`."""
        if asked != "max":
            return asked
        levels = self._by_slug.get(model, {}).get("supported_reasoning_levels") or ()
        known = {level.get("effort") for level in levels if isinstance(level, Mapping)}
        return "max" if "max" in known else "xhigh"


def _plain(entry: Entry) -> Entry:
    return {**{k: v for k, v in entry.items() if k not in _DROPPED}, **_PLAIN}
