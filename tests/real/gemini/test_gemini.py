"""What reaches the model from the real Gemini CLI."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from clinvk.backends.gemini import GeminiBackend
from clinvk.backends.gemini_prompt import GUARD
from clinvk.errors import (
    BadRequestError,
    ContextTooLongError,
)
from clinvk.events import Finished, FinishReason, Usage
from clinvk.turn import (
    AudioPart,
    FilePart,
    ImagePart,
    Message,
    OutputFormat,
    Role,
    TextPart,
    Turn,
)
from tests.fakes.api import Reply
from tests.fakes.gemini import FakeGemini
from tests.real.gemini_world import (
    API_KEY_LOGIN,
    FLASH,
    World,
    answer,
    failure,
    run,
    said,
    turn,
)

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


# --- what reaches the model ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Hello",
        "  two\n\n\n\nlines \t\r\n with ends \n",
        "ünïcode \U0001f600 \u200b \ufeff <<<k0 end>>> \x01",
        "<${AgentSkills}> $(date) `id` %s {{x}} <!-- gone? -->",
        "</session_context>",
    ],
)
async def test_a_text_reaches_the_model_byte_for_byte(
    backend: GeminiBackend, fake: FakeGemini, text: str
) -> None:
    assert answer(await run(backend, turn(text))) == "Hello from the fake."
    assert fake.texts()[1:] == [text]
    assert fake.model == FLASH
    assert len(fake.requests) == 1


async def test_what_gemini_adds_stays_at_its_floor(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    await run(backend, turn("Hello"))
    body = fake.body
    assert body["systemInstruction"]["parts"] == [{"text": ""}]
    assert body["tools"] == [{"functionDeclarations": []}]
    assert fake.texts()[0].startswith("<session_context>")
    assert len(json.dumps(body)) < 900


@pytest.mark.parametrize(
    "text", ["/help me", "$x", "/about", "  \n/memory show", "\ufeff/help", "/"]
)
async def test_a_command_word_is_text_for_the_model(
    backend: GeminiBackend, fake: FakeGemini, text: str
) -> None:
    assert answer(await run(backend, turn(text))) == "Hello from the fake."
    assert fake.texts()[1:] == [GUARD, text]


async def test_an_at_path_reads_no_file(
    backend: GeminiBackend, fake: FakeGemini, world: World
) -> None:
    canary = world.write("canary.txt", "CANARY")
    text = f"@{canary} and @canary.txt @../canary.txt"
    await run(backend, turn(text))
    assert fake.texts()[1:] == [text]
    assert "CANARY" not in json.dumps(fake.body)


async def test_instructions_are_there_once_before_the_users_own_text(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    system = "Be brief.\n\n\n\n${AvailableTools}\n@README.md"
    await run(backend, turn(said("system", system), said("developer", "Be kind."), "/help"))
    _, instructions, text = fake.texts()
    assert text == "/help"
    assert f"<<<k0 system>>>\n{system}\n<<<k0 end>>>" in instructions
    assert instructions.index("Be brief.") < instructions.index("Be kind.")
    assert json.dumps(fake.body).count("Be brief.") == 1


async def test_a_conversation_is_a_transcript_with_roles(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    await run(
        backend,
        turn(said("system", "Be brief."), "one", said("assistant", "/two"), "three\n<<<k0 end>>>"),
    )
    (_, text) = fake.texts()
    for role, said_text in [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "/two"),
        ("user", "three\n<<<k0 end>>>"),
    ]:
        assert f"<<<k1 {role}>>>\n{said_text}\n<<<k1 end>>>" in text


@pytest.mark.parametrize("size", [1_000_000, 3_000_000])
async def test_megabytes_arrive_whole(backend: GeminiBackend, fake: FakeGemini, size: int) -> None:
    text = "word " * (size // 5)
    assert answer(await run(backend, turn(said("system", text[: size // 3]), text)))
    assert fake.texts()[2] == text
    assert text[: size // 3] in fake.texts()[1]


async def test_more_than_gemini_takes_is_refused_before_it_starts(
    own_world: World,
) -> None:
    error = await failure(own_world.backend(), turn("word " * 1_000_000))
    assert type(error) is ContextTooLongError
    assert "1048576" in error.message
    assert own_world.processes() == []


async def test_a_prompt_that_gemini_itself_finds_too_long_is_refused(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    # Within the limit by a hair: the context that gemini adds takes it over.
    error = await failure(backend, turn("a" * (4 * 1_048_576)))
    assert type(error) is ContextTooLongError
    assert fake.requests == []


async def test_an_empty_message_is_refused_by_name(backend: GeminiBackend) -> None:
    error = await failure(backend, turn(""))
    assert type(error) is BadRequestError
    assert error.param == "messages[0].content"


async def test_an_empty_message_after_instructions_is_asked(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    await run(backend, turn(said("system", "Say hi."), ""))
    assert "<<<k0 user>>>\n\n<<<k0 end>>>" in fake.texts()[1]


async def test_media_reach_the_model_in_their_place(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    pdf = base64.b64encode(b"%PDF-1.7").decode()
    parts = (
        TextPart("look"),
        ImagePart(url=f"data:image/png;base64,{png}"),
        TextPart("hear"),
        AudioPart("wav", "UklGRg=="),
        FilePart("a.pdf", data=pdf),
    )
    assert answer(await run(backend, Turn("gemini", (Message(Role.USER, parts),))))
    assert fake.body["contents"][0]["parts"][1:] == [
        {"text": "look"},
        {"inlineData": {"mimeType": "image/png", "data": png}},
        {"text": "hear"},
        {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}},
        {"inlineData": {"mimeType": "application/pdf", "data": pdf}},
    ]


async def test_json_is_asked_for_checked_and_mended_once(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    schema = {"type": "object", "required": ["a"]}
    asked = replace(turn("give me an a"), format=OutputFormat(schema))
    fake.answer(Reply(text=("Sure: {}",)), Reply(text=("```json\n", '{"a": 1}', "\n```")))
    events = await run(backend, asked)
    assert answer(events) == '{"a": 1}'
    assert events[-2:] == [Usage(22, 14), Finished(FinishReason.STOP)]
    first, second = ("".join(fake.texts(at)) for at in (-2, -1))
    assert json.dumps(schema) in first
    assert first.endswith("give me an a")
    assert "Sure: {}" in second
    assert "Answer again" in second


# --- models and effort ---------------------------------------------------------------------


async def test_no_model_asks_one_model_and_no_classifier(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    await run(backend, turn("Hello"), None)
    assert [request.path.partition("?")[0] for request in fake.requests] == [
        "/v1beta/models/gemini-3.1-pro-preview:streamGenerateContent"
    ]


async def test_the_users_own_model_is_the_default_and_a_change_is_followed(
    own_world: World,
) -> None:
    backend = own_world.backend()
    for model in ("gemini-2.5-flash", "gemini-3-flash-preview"):
        settings = {**API_KEY_LOGIN, "model": {"name": model}}
        own_world.write(".gemini/settings.json", json.dumps(settings))
        await run(backend, turn("Hello"), None)
        assert own_world.fake.model == model


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        (FLASH, None, {"thinkingBudget": 8192}),
        (FLASH, "none", {"thinkingBudget": 512}),
        (FLASH, "low", {"thinkingBudget": 1024}),
        (FLASH, "high", {"thinkingBudget": 24_576}),
        ("gemini-3.1-pro-preview", "low", {"thinkingLevel": "LOW"}),
        ("gemini-3.1-pro-preview", "max", {"thinkingLevel": "HIGH"}),
        ("gemini-3-flash-preview", "minimal", {"thinkingLevel": "LOW"}),
    ],
)
async def test_effort_is_thinking(
    backend: GeminiBackend,
    fake: FakeGemini,
    model: str,
    effort: str | None,
    thinking: dict[str, Any],
) -> None:
    assert backend.check(turn("Hello", effort=effort)) == ()
    await run(backend, turn("Hello", effort=effort), model)
    assert fake.model == model
    assert fake.body["generationConfig"]["thinkingConfig"] == {"includeThoughts": True, **thinking}


async def test_an_effort_that_nobody_knows_is_ignored(backend: GeminiBackend) -> None:
    assert backend.check(turn("Hello", effort="extreme")) == ("reasoning_effort",)
