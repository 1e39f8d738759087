"""Files with the real Claude Code and Codex: what they hold reaches the model."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.api import Reply
from tests.real.bridge import Bridge, alone, bridge

pytestmark = pytest.mark.real

PDF = base64.b64encode(b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF").decode()
TEXT = "/clear \ufb01ne\n\n@/etc/passwd <x>\u200b  \n"
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.fixture(autouse=True)
def environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(home, monkeypatch)


@pytest.fixture
async def claude(home: Path) -> AsyncIterator[Bridge]:
    async with bridge("claude", home) as running:
        yield running


@pytest.fixture
async def codex(home: Path) -> AsyncIterator[Bridge]:
    async with bridge("codex", home) as running:
        yield running


def file(name: str, data: str, kind: str = "application/pdf") -> dict[str, Any]:
    return {
        "type": "file",
        "file": {"filename": name, "file_data": f"data:{kind};base64,{data}"},
    }


def text_file(name: str, text: str) -> dict[str, Any]:
    return file(name, base64.b64encode(text.encode()).decode(), "text/plain")


def document(name: str, kind: str, media_type: str, data: str) -> dict[str, Any]:
    source = {"type": kind, "media_type": media_type, "data": data}
    return {"type": "document", "source": source, "title": name}


def said_by_user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


TEXT_FILE = text_file("n.txt", TEXT)["file"]
CLAUDE_PDF = document("a.pdf", "base64", "application/pdf", PDF)
CLAUDE_TEXT = document("n.txt", "text", "text/plain", TEXT)


async def asked(served: Bridge, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    body = {"model": served.name, "messages": messages, **fields}
    async with served.http.post(f"{served.url}/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        return {**await response.json(), "turn": response.headers["x-clinvk-turn"]}


async def refused(served: Bridge, *parts: dict[str, Any]) -> tuple[int, str, str]:
    body = {"model": served.name, "messages": [{"role": "user", "content": list(parts)}]}
    async with served.http.post(f"{served.url}/chat/completions", json=body) as response:
        error = (await response.json())["error"]
    return response.status, error["param"], error["message"]


def blocks(served: Bridge, at: int) -> list[dict[str, Any]]:
    """The blocks of one message of Claude's last request, without what the CLI adds."""
    content = served.fake.requests[-1].body["messages"][at]["content"]
    plain = [{k: v for k, v in block.items() if k != "cache_control"} for block in content]
    return [b for b in plain if not b.get("text", "").startswith("<system-reminder>")]


async def test_claude_gets_files_as_documents_byte_for_byte(claude: Bridge) -> None:
    parts = [file("a.pdf", PDF), {"type": "text", "text": "and"}, text_file("n.txt", TEXT)]
    await asked(
        claude,
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": parts[:1]},
    )
    assert blocks(claude, 0) == [CLAUDE_PDF, {"type": "text", "text": "and"}, CLAUDE_TEXT]
    assert blocks(claude, 2) == [CLAUDE_PDF]


async def test_files_of_the_other_dialects_arrive_alike(claude: Bridge) -> None:
    pdf_part = {"type": "input_file", **file("a.pdf", PDF)["file"]}
    for path, body in (
        (
            "/anthropic/v1/messages",
            {"max_tokens": 99, "messages": [said_by_user(CLAUDE_PDF, CLAUDE_TEXT)]},
        ),
        ("/v1/responses", {"input": [said_by_user(pdf_part, {"type": "input_file", **TEXT_FILE})]}),
    ):
        url = claude.url.removesuffix("/openai/v1") + path
        async with claude.http.post(url, json={"model": "claude", **body}) as response:
            assert response.status == 200, await response.text()
        assert blocks(claude, 0) == [CLAUDE_PDF, CLAUDE_TEXT]


async def test_claude_gets_files_of_a_result_in_the_result(claude: Bridge) -> None:
    question = {"role": "user", "content": "look"}
    claude.fake.answer(Reply(tool_calls=(("look", {}),)), Reply())
    answer = await asked(claude, question, tools=TOOLS)
    called = answer["choices"][0]["message"]
    parts = [{"type": "text", "text": "here"}, file("a.pdf", PDF), text_file("n.txt", TEXT)]
    (call,) = called["tool_calls"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": parts}
    answer = await asked(claude, question, called, result, tools=TOOLS)
    # A turn that waits takes no documents from its tools, so the history is told anew.
    assert answer["turn"] in {"new", "replayed"}
    (given,) = blocks(claude, 2)
    assert given["content"] == [{"type": "text", "text": "here"}, CLAUDE_PDF, CLAUDE_TEXT]


async def test_codex_gets_text_files_as_text_in_their_place(codex: Bridge) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    parts = [{"type": "text", "text": "see"}, text_file("n.txt", TEXT)]
    await asked(
        codex,
        {"role": "user", "content": parts},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": parts},
        tools=TOOLS,
    )
    first, _, result = codex.fake.requests[-1].body["input"][-3:]
    as_text = [
        {"type": "input_text", "text": "see"},
        {"type": "input_text", "text": f"n.txt:\n{TEXT}\n"},
    ]
    assert (first["content"], result["output"]) == (as_text, as_text)


async def test_codex_refuses_a_pdf_and_names_who_takes_it(codex: Bridge) -> None:
    assert await refused(codex, {"type": "text", "text": "see"}, file("a.pdf", PDF)) == (
        400,
        "messages[0].content[1]",
        "'codex' cannot take PDF files; claude, gemini and openai can; or send their text",
    )
    assert codex.fake.requests == []


@pytest.mark.parametrize("name", ["claude", "codex"])
async def test_audio_is_refused_with_the_name_of_who_takes_it(name: str, home: Path) -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    async with bridge(name, home) as served:
        assert await refused(served, audio) == (
            400,
            "messages[0].content[0]",
            f"{name!r} cannot take audio; gemini and openai can; or send text",
        )


@pytest.mark.parametrize("name", ["claude", "codex", "gemini"])
async def test_a_file_that_is_not_here_is_refused_with_what_to_send(name: str, home: Path) -> None:
    async with bridge(name, home) as served:
        status, param, message = await refused(
            served, {"type": "file", "file": {"file_id": "file-1"}}
        )
    assert (status, param) == (400, "messages[0].content[0].file.file_id")
    assert "upload it with POST /files, or send its content" in message


async def test_what_stands_in_files_is_no_word_for_the_cli(claude: Bridge) -> None:
    await asked(claude, {"role": "user", "content": [text_file("n.txt", "/help")]})
    assert blocks(claude, 0) == [document("n.txt", "text", "text/plain", "/help")]
    assert "passwd" not in json.dumps(claude.fake.requests[-1].body)
