"""What each kind of backend can do, side by side; a test holds every word against the real CLIs."""

from collections.abc import Collection
from dataclasses import replace

from clinvk.capabilities import Capabilities, Count, Level

_NATIVE, _EMULATED, _NO = Level.NATIVE, Level.EMULATED, Level.NO

CLAUDE = Capabilities(
    system_prompt=_NATIVE,
    history=_NATIVE,
    continued_turns=_NATIVE,
    reasoning=_NATIVE,
    reasoning_effort=_NATIVE,
    tools=_NATIVE,
    parallel_tool_calls=_NATIVE,
    tool_choice=_EMULATED,
    resumed_turns=_NATIVE,
    vision=_NATIVE,
    image_urls=_NATIVE,
    audio=_NO,
    files=_NATIVE,
    pdf=_NATIVE,
    json_object=_NATIVE,
    json_schema=_NATIVE,
)

CODEX = Capabilities(
    system_prompt=_NATIVE,
    history=_NATIVE,
    continued_turns=_NATIVE,
    reasoning=_NATIVE,
    reasoning_effort=_NATIVE,
    tools=_NATIVE,
    parallel_tool_calls=_NATIVE,
    tool_choice=_EMULATED,
    resumed_turns=_NATIVE,
    vision=_NATIVE,
    image_urls=_EMULATED,
    audio=_NO,
    files=_EMULATED,
    pdf=_NO,
    json_object=_EMULATED,
    json_schema=_NATIVE,
)

GEMINI = Capabilities(
    system_prompt=_EMULATED,
    history=_EMULATED,
    continued_turns=_NATIVE,
    reasoning=_NATIVE,
    reasoning_effort=_NATIVE,
    tools=_NATIVE,
    parallel_tool_calls=_NATIVE,
    tool_choice=_NATIVE,
    resumed_turns=_NATIVE,
    vision=_NATIVE,
    image_urls=_EMULATED,
    audio=_NATIVE,
    files=_EMULATED,
    pdf=_NATIVE,
    json_object=_EMULATED,
    json_schema=_EMULATED,
)

# Of an agent that has not been started: what it says of itself when it is adds to this.
ACP = Capabilities(
    system_prompt=_EMULATED,
    history=_EMULATED,
    continued_turns=_NATIVE,
    reasoning=_NATIVE,
    reasoning_effort=_NO,
    tools=_NATIVE,
    parallel_tool_calls=_NO,
    tool_choice=_EMULATED,
    resumed_turns=_NATIVE,
    vision=_NO,
    image_urls=_NO,
    audio=_NO,
    files=_EMULATED,
    pdf=_NO,
    json_object=_EMULATED,
    json_schema=_EMULATED,
    usage=Count.ESTIMATED,
)

# Of a program that says no more than its answer: what its settings tell adds to this.
COMMAND = Capabilities(
    system_prompt=_EMULATED,
    history=_EMULATED,
    continued_turns=_NO,
    reasoning=_NO,
    reasoning_effort=_NO,
    tools=_NO,
    parallel_tool_calls=_NO,
    tool_choice=_NO,
    resumed_turns=_NO,
    vision=_NO,
    image_urls=_NO,
    audio=_NO,
    files=_EMULATED,
    pdf=_NO,
    json_object=_EMULATED,
    json_schema=_EMULATED,
    usage=Count.ESTIMATED,
)

OPENAI = Capabilities(
    system_prompt=_NATIVE,
    history=_NATIVE,
    continued_turns=_EMULATED,
    reasoning=_NATIVE,
    reasoning_effort=_NATIVE,
    tools=_NATIVE,
    parallel_tool_calls=_NATIVE,
    tool_choice=_NATIVE,
    resumed_turns=_EMULATED,
    vision=_NATIVE,
    image_urls=_NATIVE,
    audio=_NATIVE,
    files=_EMULATED,
    pdf=_NATIVE,
    json_object=_NATIVE,
    json_schema=_NATIVE,
    max_tokens=_NATIVE,
    sampling=_NATIVE,
    embeddings=_NATIVE,
)


def of_upstream(endpoints: Collection[str]) -> Capabilities:
    """Return the claims of a server that takes requests as they are for these endpoints."""
    return replace(OPENAI, embeddings=_NATIVE if "embeddings" in endpoints else _NO)


ECHO = Capabilities(
    system_prompt=_NO,
    history=_NO,
    continued_turns=_NO,
    reasoning=_NO,
    reasoning_effort=_NO,
    tools=_NO,
    parallel_tool_calls=_NO,
    tool_choice=_NO,
    resumed_turns=_NO,
    vision=_NO,
    image_urls=_NO,
    audio=_NO,
    files=_NO,
    pdf=_NO,
    json_object=_NO,
    json_schema=_NO,
)

# It has nothing to say.
EMBEDDINGS = replace(
    ECHO, stream=_NO, max_tokens=_NO, stop=_NO, n=_NO, embeddings=_NATIVE, usage=Count.REPORTED
)

BY_KIND = {
    "claude": CLAUDE,
    "codex": CODEX,
    "gemini": GEMINI,
    "openai": OPENAI,
    "embeddings": EMBEDDINGS,
    "echo": ECHO,
}

# The kinds that run a program of the user's own: what is known before it was started, and what
# else it may turn out to do, by what it says of itself or by its settings.
OF_ANY_PROGRAM = {
    "acp": (ACP, {"reasoning_effort", "vision", "image_urls", "audio", "pdf", "usage"}),
    "command": (COMMAND, {"reasoning", "usage"}),
}
