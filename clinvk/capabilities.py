"""What a backend can do, and who does it: its CLI, or clinvk in its stead. Data; knows no CLI.

The same claims are told of every model, printed in the README, and held against the real CLIs
by a test.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

from clinvk.errors import UnsupportedError
from clinvk.media import is_pdf, is_remote
from clinvk.turn import AudioPart, FilePart, ImagePart, Part, Turn


class Level(StrEnum):
    """Who does it.

    `NATIVE`: the CLI is told, as its model API has a place for it. `EMULATED`: clinvk does it, or
    asks for it in words. `NO`: a 400, or no effect and a name in `x-clinvk-ignored`.
    """

    NATIVE = "native"
    EMULATED = "emulated"
    NO = "no"


class Count(StrEnum):
    """Whose count of tokens a reply has."""

    REPORTED = "reported"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The claims of one kind of backend; `TITLES` says what each is."""

    stream: Level = Level.NATIVE
    system_prompt: Level
    history: Level
    continued_turns: Level
    reasoning: Level
    reasoning_effort: Level
    tools: Level
    parallel_tool_calls: Level
    tool_choice: Level
    resumed_turns: Level
    vision: Level
    image_urls: Level
    audio: Level
    files: Level
    pdf: Level
    json_object: Level
    json_schema: Level
    max_tokens: Level = Level.EMULATED
    stop: Level = Level.EMULATED
    n: Level = Level.EMULATED
    sampling: Level = Level.NO
    embeddings: Level = Level.NO
    usage: Count = Count.REPORTED

    def told(self) -> dict[str, str]:
        """Return the claims as a client is told them."""
        return {name: level.value for name, level in asdict(self).items()}


def best(several: Sequence[Capabilities]) -> Capabilities:
    """Return what at least one of several can do, each claim as the best of them does it."""
    levels = [*Level, *Count]  # each the better first
    told = {
        field.name: min((getattr(each, field.name) for each in several), key=levels.index)
        for field in fields(Capabilities)
    }
    return Capabilities(**told)


# What each claim is about, and what clinvk does where the CLI does not.
TITLES = {
    "stream": ("token by token", ""),
    "system_prompt": ("system and developer messages", "in a transcript, between marks"),
    "history": ("earlier turns as turns", "in a transcript, between marks"),
    "continued_turns": ("the same conversation goes on", "the whole history is sent"),
    "reasoning": ("as `reasoning_content`", ""),
    "reasoning_effort": ("none to max", ""),
    "tools": ("functions, calls and results", ""),
    "parallel_tool_calls": ("several calls at once", ""),
    "tool_choice": ("required, or by name", "asked for, and reminded of once"),
    "resumed_turns": ("the turn that called goes on", "the whole history is sent"),
    "vision": ("images, in results too", ""),
    "image_urls": ("images by http(s) address", "clinvk fetches them"),
    "audio": ("wav, mp3", ""),
    "files": ("text files", "as text in their place"),
    "pdf": ("PDF files", ""),
    "json_object": ("any JSON object", "asked for, checked, mended once"),
    "json_schema": ("JSON of a schema", "asked for, checked, mended once"),
    "max_tokens": ("the longest answer", "cut, and the CLI interrupted"),
    "stop": ("where the answer ends", "cut, and the CLI interrupted"),
    "n": ("several answers", "as many turns"),
    "sampling": ("`temperature`, `top_p`, `seed`, penalties", ""),
    "embeddings": ("`/embeddings`, vectors of texts", ""),
    "usage": ("tokens, cached and reasoning ones", ""),
}

_KINDS = {
    "vision": ("images", "send text"),
    "image_urls": ("images by address", "send a data URL (data:image/png;base64,…)"),
    "audio": ("audio", "send text"),
    "files": ("files", "send text"),
    "pdf": ("PDF files", "send their text"),
}


def require_parts(
    turn: Turn, backend: str, can: Capabilities, able: Callable[[str], Sequence[str]]
) -> None:
    """Refuse the first part of a kind that a backend cannot take; all, if it answers nothing.

    Args:
        turn: whose parts are looked at.
        backend: what it is called.
        can: its claims.
        able: gives the names of the backends that have a capability.

    Raises:
        UnsupportedError: naming the part, and who can take it.
    """
    if can.stream is Level.NO:
        others = _listed(able("stream"))
        raise UnsupportedError(
            f"{backend!r} makes embeddings and answers no messages{others and f'; {others} can'}",
            param="model",
        )
    for at, message in enumerate(turn.messages):
        for position, part in enumerate(message.parts):
            for needed in _needs(part):
                if getattr(can, needed) is Level.NO:
                    what, instead = _KINDS[needed]
                    others = _listed(able(needed))
                    who = f"{others} can; or {instead}" if others else instead
                    raise UnsupportedError(
                        f"{backend!r} cannot take {what}; {who}",
                        param=f"messages[{at}].content[{position}]",
                    )


def _listed(names: Sequence[str]) -> str:
    """Return names as one says them: `a`, `a and b`, `a, b and c`."""
    *first, last = names or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _needs(part: Part) -> Iterator[str]:
    match part:
        case ImagePart():
            yield "vision"
            if is_remote(part):
                yield "image_urls"
        case AudioPart():
            yield "audio"
        case FilePart():
            yield "pdf" if is_pdf(part) else "files"
        case _:
            pass
