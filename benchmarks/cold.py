"""The CLIs as most bridges run them: a process for each request, its prompt on stdin.

With the settings that clinvk gives them, so that nothing but the start is compared.
"""

from collections.abc import Callable

from benchmarks.bare import Lines, Message, claude_text
from benchmarks.real import Start
from benchmarks.told import Timed, Told


def arguments(name: str, argv: list[str]) -> list[str]:
    """Return the arguments that ask a CLI once, made of those that clinvk gives it."""
    program, *rest = argv
    if name == "claude":
        return [program, *(word for word in rest if not word.startswith("--input-format"))]
    if name == "codex":
        return [program, "exec", "--json", "--ephemeral", "--skip-git-repo-check", "-"]
    return [program, "--output-format", "stream-json"]


def text_of(name: str) -> Callable[[Message], object]:
    """Return what reads the text in a line of a CLI's."""
    return {"claude": claude_text, "codex": _codex_text, "gemini": _gemini_text}[name]


_ENDS = {"claude": "result", "codex": "turn.completed", "gemini": "result"}


async def ask(name: str, start: Start, asked: str) -> Told:
    """Start a CLI, ask it, and stop it."""
    timed = Timed()
    lines = await Lines.start(start, arguments(name, start.argv))
    try:
        lines.write(asked.encode(), last=True)
        read = text_of(name)
        while (message := await lines.next()).get("type") != _ENDS[name]:
            timed.say(read(message))
        return timed.end()
    finally:
        await lines.stop()


def _codex_text(message: Message) -> object:
    item = message.get("item") or {}
    return item.get("text") if item.get("type") == "agent_message" else ""


def _gemini_text(message: Message) -> object:
    return message.get("content") if message.get("role") == "assistant" else ""
