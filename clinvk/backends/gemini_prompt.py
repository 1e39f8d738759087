"""A turn as the blocks of a prompt for Gemini CLI: pure.

Owns what differs from any other agent's prompt: the names of tools, and what gemini puts around
their results.
"""

from typing import Any

from clinvk.backends import acp_prompt
from clinvk.backends.acp_prompt import GUARD, mark_of, said_since
from clinvk.backends.gemini_tools import as_seen
from clinvk.transcript import Block
from clinvk.turn import Message, Turn

_CLOSING = "</untrusted_context>"


def prompt(turn: Turn) -> tuple[Block, ...]:
    """Return the blocks of a turn's prompt; see `acp_prompt.prompt`."""
    return acp_prompt.prompt(as_seen(turn), "gemini")


def result_content(message: Message) -> list[dict[str, Any]] | None:
    """Return a tool's result as MCP content, None if gemini would not pass it on as it is.

    It puts each text between two lines, and takes no sound.
    """
    return acp_prompt.result_content(message, _CLOSING)


__all__ = ["GUARD", "mark_of", "prompt", "result_content", "said_since"]
