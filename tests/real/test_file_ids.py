"""Uploaded files with the real CLIs: by id they reach the model as the same content sent inline."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.real import upstream
from tests.real.bridge import Bridge, alone, bridge
from tests.real.test_files import CLAUDE_PDF, CLAUDE_TEXT, TEXT, blocks
from tests.test_media import PNG

pytestmark = pytest.mark.real

HERE = Path(__file__).parent
HUNG_S = 120
PDF = base64.b64decode(CLAUDE_PDF["source"]["data"])
PICTURE = base64.b64decode(PNG)


@pytest.fixture(autouse=True)
def environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(home, monkeypatch)


@asynccontextmanager
async def asking(name: str, home: Path) -> AsyncIterator[tuple[Bridge, AsyncOpenAI]]:
    server = {"files": {"path": str(home.parent / "files")}, "store": {"path": ":memory:"}}
    async with (
        bridge(name, home, server=server) as served,
        AsyncOpenAI(base_url=served.url, api_key="unused", max_retries=0) as client,
    ):
        yield served, client


async def keep(client: AsyncOpenAI, name: str, content: bytes) -> str:
    return (await client.files.create(file=(name, content), purpose="user_data")).id


def inline(name: str, content: bytes, kind: str) -> dict[str, str]:
    return {
        "filename": name,
        "file_data": f"data:{kind};base64,{base64.b64encode(content).decode()}",
    }


def said(body: Any) -> list[Any]:
    """What a request says of the conversation, without what differs from one to the next."""
    if "contents" in body:
        return [part for turn in body["contents"] for part in turn["parts"]]
    turns = body.get("messages") or body["input"]
    parts = [p for turn in turns for p in turn.get("content", ()) if isinstance(p, dict)]
    plain = [{k: v for k, v in part.items() if k != "cache_control"} for part in parts]
    return [part for part in plain if not part.get("text", "").startswith("<")]


@pytest.mark.parametrize("name", ["claude", "gemini", "codex"])
async def test_a_file_by_id_is_to_the_model_what_it_is_inline(name: str, home: Path) -> None:
    async with asking(name, home) as (served, client):
        contents: list[tuple[str, bytes, str]] = [("n.txt", TEXT.encode(), "text/plain")]
        if name != "codex":  # which takes no PDF files
            contents.append(("a.pdf", PDF, "application/pdf"))
        ids = [await keep(client, file, content) for file, content, _ in contents]
        told = []
        for files in ([inline(*each) for each in contents], [{"file_id": each} for each in ids]):
            see: list[Any] = [{"type": "text", "text": "see"}]
            chat: list[Any] = see + [{"type": "file", "file": file} for file in files]
            done = await client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": chat}]
            )
            assert done.choices[0].message.content
            told.append(said(served.fake.requests[-1].body))
            parts: list[Any] = [{"type": "input_text", "text": "see"}]
            parts += [{"type": "input_file", **file} for file in files]
            response = await client.responses.create(
                model=name, input=[{"role": "user", "content": parts}]
            )
            assert response.output_text
            told.append(said(served.fake.requests[-1].body))
        assert told == [told[0]] * 4
        text = json.dumps(told[0])
        assert json.dumps(TEXT)[1:-1] in text
        assert (base64.b64encode(PDF).decode() in text) is (name != "codex")


@pytest.mark.parametrize("name", ["claude", "gemini", "codex"])
async def test_an_image_by_id_is_seen(name: str, home: Path) -> None:
    async with asking(name, home) as (served, client):
        ident = await keep(client, "b.png", PICTURE)
        picture: Any = {"type": "input_image", "file_id": ident, "detail": "auto"}
        await client.responses.create(model=name, input=[{"role": "user", "content": [picture]}])
        seen = [str(each) for each in upstream.leaves(served.fake.requests[-1].body)]
        assert any(each.endswith(PNG) for each in seen)


async def test_a_tools_result_may_be_a_file(home: Path) -> None:
    async with asking("claude", home) as (served, client):
        ident = await keep(client, "a.pdf", PDF)
        items: list[Any] = [
            {"role": "user", "content": "look"},
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [{"type": "input_file", "file_id": ident}],
            },
        ]
        tool: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}}
        await client.responses.create(model="claude", input=items, tools=[tool])
        (given,) = blocks(served, 2)
        assert given["content"] == [CLAUDE_PDF]


async def test_anthropics_client_names_a_file(home: Path) -> None:
    async with asking("claude", home) as (served, client):
        pdf, text = await keep(client, "a.pdf", PDF), await keep(client, "n.txt", TEXT.encode())
        content: Any = [
            {"type": "document", "source": {"type": "file", "file_id": each}}
            for each in (pdf, text)
        ]
        url = served.url.removesuffix("/openai/v1") + "/anthropic"
        async with AsyncAnthropic(base_url=url, api_key="unused", max_retries=0) as other:
            message = await other.messages.create(
                model="claude", max_tokens=99, messages=[{"role": "user", "content": content}]
            )
        assert message.content
        assert blocks(served, 0) == [CLAUDE_PDF, CLAUDE_TEXT]


async def test_a_chat_with_a_file_goes_on_in_its_cli_until_the_file_is_gone(home: Path) -> None:
    async with asking("claude", home) as (served, client):
        ident = await keep(client, "a.pdf", PDF)
        messages: list[Any] = [
            {"role": "user", "content": [{"type": "file", "file": {"file_id": ident}}]}
        ]
        for course in ("new", "continued"):
            done = await client.chat.completions.create(model="claude", messages=messages)
            assert served.courses[-1] == course
            messages += [
                {"role": "assistant", "content": done.choices[0].message.content},
                {"role": "user", "content": "and?"},
            ]
        assert blocks(served, 0) == [CLAUDE_PDF]
        await client.files.delete(ident)
        with pytest.raises(openai.BadRequestError, match=ident) as caught:
            await client.chat.completions.create(model="claude", messages=messages)
        assert caught.value.param == "messages[0].content[0].file.file_id"


async def test_the_node_client_names_files_to_a_cli(home: Path) -> None:
    source = home.parent / "a.pdf"
    await anyio.Path(source).write_bytes(PDF)
    async with asking("claude", home) as (served, _):
        with anyio.fail_after(HUNG_S):
            done = await anyio.run_process(
                ["node", HERE / "openai_files_client.mjs", served.url, "claude", source], cwd=HERE
            )
        seen = json.loads(done.stdout)
        assert (seen["chat"], seen["response"]) == ("Hello from the fake.",) * 2
        chat, response = (call.body["messages"][0]["content"] for call in served.fake.requests[-2:])
        for content, names in ((chat, ["a.pdf", "n.txt"]), (response, ["a.pdf"])):
            documents = [block for block in content if block["type"] == "document"]
            assert [block["title"] for block in documents] == names
