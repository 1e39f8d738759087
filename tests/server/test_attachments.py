"""Files that a request names by id: what the backend, or the upstream, is given in their place."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clinvk.events import Finished, FinishReason, TextDelta, Usage
from clinvk.turn import FilePart, ImagePart, Part, TextPart
from tests.fakes.backend import LiveBackend
from tests.fakes.raw import RawUpstream
from tests.keyed import as_, entry, keyed
from tests.server.test_relay import World, served, settings
from tests.serving import API
from tests.test_media import PNG
from tests.uploads import PDF, Files, files_in, form, with_folder

NOBODY = "file-" + "0" * 32
TEXT = "ﬁne\n\n@x  \n".encode()
HI = [{"role": "user", "content": "hi"}]


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def chat(*parts: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": list(parts)}]}


def by_id(ident: str, **more: str) -> dict[str, Any]:
    return {"type": "file", "file": {"file_id": ident, **more}}


@pytest.fixture
async def files(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Files]:
    async with files_in(tmp_path / "files", **getattr(request, "param", {})) as made:
        yield made


async def ask(
    files: Files, body: Any, path: str = f"{API}/chat/completions", headers: Any = None
) -> tuple[int, dict[str, Any]]:
    async with files.http.post(files.url + path, json=body, headers=headers) as response:
        return response.status, await response.json()


def parts_of_last(files: Files) -> list[Part]:
    """What the backend was last given, but for texts."""
    turn, _ = files.backend.turns[-1]
    return [p for m in turn.messages for p in m.parts if not isinstance(p, TextPart)]


async def test_a_chat_has_the_content_in_the_place_of_the_id(files: Files) -> None:
    pdf, text = await files.keep(PDF, "a.pdf"), await files.keep(TEXT, "n.txt")
    named = by_id(text, filename="own.txt")
    status, told = await ask(files, chat(by_id(pdf), {"type": "text", "text": "see"}, named))
    assert status == 200, told
    assert parts_of_last(files) == [
        FilePart("a.pdf", "application/pdf", b64(PDF)),
        FilePart("own.txt", "text/plain", b64(TEXT)),
    ]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": "c", "content": [by_id(pdf)]}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    status, told = await ask(files, {"model": "fake", "messages": [*HI, said, result]})
    assert status == 200, told
    assert parts_of_last(files) == [FilePart("a.pdf", "application/pdf", b64(PDF))]


async def test_responses_have_files_and_images_in_messages_and_results(files: Files) -> None:
    pdf = await files.keep(PDF, "a.pdf")
    picture = await files.keep(base64.b64decode(PNG), "b.png", purpose="vision")
    parts = [
        {"type": "input_file", "file_id": pdf},
        {"type": "input_image", "file_id": picture, "detail": "low"},
    ]
    items = [
        {"role": "user", "content": parts},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": parts},
    ]
    status, told = await ask(files, {"model": "fake", "input": items}, f"{API}/responses")
    assert status == 200, told
    given = [
        FilePart("a.pdf", "application/pdf", b64(PDF)),
        ImagePart(media_type="image/png", data=PNG),
    ]
    assert parts_of_last(files) == given * 2


async def test_anthropics_documents_and_images_may_be_files(files: Files) -> None:
    pdf = await files.keep(PDF, "a.pdf")
    picture = await files.keep(base64.b64decode(PNG), "b.png")
    text = await files.keep(b"one two three", "n.txt")
    first = {"type": "file", "file_id": pdf}
    blocks = [
        {"type": "document", "source": first},
        {"type": "document", "source": {"type": "file", "file_id": text}, "title": "Notes"},
        {"type": "image", "source": {"type": "file", "file_id": picture}},
    ]
    body = {"model": "fake", "max_tokens": 9, "messages": [{"role": "user", "content": blocks}]}
    status, told = await ask(files, body, "/anthropic/v1/messages")
    assert status == 200, told
    assert parts_of_last(files) == [
        FilePart("a.pdf", "application/pdf", b64(PDF)),
        FilePart("Notes", "text/plain", b64(b"one two three")),
        ImagePart(media_type="image/png", data=PNG),
    ]
    count = "/anthropic/v1/messages/count_tokens"
    status, told = await ask(files, body, count)
    assert (status, told) == (200, {"input_tokens": 2 * 1600 + 3})
    first["file_id"] = NOBODY
    for path in ("/anthropic/v1/messages", count):
        status, told = await ask(files, body, path)
        assert (status, told["error"]["type"]) == (400, "invalid_request_error")
        assert NOBODY in told["error"]["message"]


async def test_a_file_that_is_not_here_is_named_by_its_field(files: Files) -> None:
    status, told = await ask(files, chat({"type": "text", "text": "x"}, by_id(NOBODY)))
    error = told["error"]
    assert (status, error["code"]) == (400, "file_not_found")
    assert error["param"] == "messages[0].content[1].file.file_id"
    assert "POST /files" in error["message"]
    for part, where in (
        ({"type": "input_file", "file_id": "file-abc"}, "content"),
        ({"type": "input_image", "file_id": "../../etc/passwd"}, "output"),
    ):
        item = {"role": "user", "content": [part]}
        if where == "output":
            item = {"type": "function_call_output", "call_id": "c", "output": [part]}
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        body = {"model": "fake", "input": [call, item]}
        status, told = await ask(files, body, f"{API}/responses")
        assert (status, told["error"]["code"]) == (400, "file_not_found")
        assert told["error"]["param"] == f"input[1].{where}[0].file_id"
        assert part["file_id"] in told["error"]["message"]
    assert files.backend.turns == []


async def test_what_is_no_image_is_not_given_as_one(files: Files) -> None:
    ident = await files.keep(PDF, "a.png")
    item = {"role": "user", "content": [{"type": "input_image", "file_id": ident}]}
    status, told = await ask(files, {"model": "fake", "input": [item]}, f"{API}/responses")
    assert (status, told["error"]["param"]) == (400, "input[0].content[0].file_id")
    assert "none of PNG, JPEG, GIF and WebP" in told["error"]["message"]


async def test_content_that_was_sent_with_an_id_needs_no_file(files: Files) -> None:
    part = by_id(NOBODY, filename="a", file_data=b64(b"own"))
    assert (await ask(files, chat(part)))[0] == 200
    assert parts_of_last(files) == [FilePart("a", None, b64(b"own"), NOBODY)]


@pytest.mark.parametrize("files", [{"max_body_mb": 1}], indirect=True)
async def test_a_request_pulls_no_more_in_than_it_could_send(files: Files) -> None:
    ident = await files.keep(bytes(400 * 1024))
    assert (await ask(files, chat(by_id(ident))))[0] == 200
    status, told = await ask(files, chat(by_id(ident), by_id(ident)))
    assert (status, told["error"]["code"]) == (413, "request_too_large")
    assert "server.max_body_mb" in told["error"]["message"]
    assert len(files.backend.turns) == 1


async def test_a_file_of_anothers_is_not_here(tmp_path: Path) -> None:
    async with files_in(tmp_path, keyed(entry("alice"), entry("bob"))) as files:
        ident = await files.keep(headers=as_("alice"))
        status, told = await ask(files, chat(by_id(ident)), headers=as_("bob"))
        assert (status, told["error"]["code"]) == (400, "file_not_found")
        other = (await ask(files, chat(by_id(NOBODY)), headers=as_("bob")))[1]["error"]
        assert told["error"] == {**other, "message": other["message"].replace(NOBODY, ident)}
        assert (await ask(files, chat(by_id(ident)), headers=as_("alice")))[0] == 200


async def test_a_model_that_is_not_there_is_told_before_a_file(files: Files) -> None:
    status, told = await ask(files, {**chat(by_id(NOBODY)), "model": "nope"})
    assert (status, told["error"]["code"]) == (404, "model_not_found")


async def test_a_file_that_cannot_be_read_is_the_servers_fault(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    ident = await files.keep()
    for path in files.kept:
        path.unlink()
    status, told = await ask(files, chat(by_id(ident)))
    assert (status, told["error"]["code"]) == (400, "file_not_found")
    (files.folder / ident).mkdir()
    status, told = await ask(files, chat(by_id(ident)))
    assert (status, told["error"]["code"]) == (500, "internal_error")
    assert str(files.folder) in caplog.text
    assert str(files.folder) not in str(told)


async def test_what_is_said_before_goes_on_while_its_file_is_here(files: Files) -> None:
    ident = await files.keep(PDF, "a.pdf")
    item = {"role": "user", "content": [{"type": "input_file", "file_id": ident}]}
    _, first = await ask(files, {"model": "fake", "input": [item]}, f"{API}/responses")
    after = {"model": "fake", "input": "and", "previous_response_id": first["id"]}
    status, second = await ask(files, after, f"{API}/responses")
    assert status == 200
    assert parts_of_last(files) == [FilePart("a.pdf", "application/pdf", b64(PDF))]
    async with files.http.get(f"{files.url}{API}/responses/{second['id']}/input_items") as reply:
        (*_, oldest) = (await reply.json())["data"]
    assert oldest["content"] == [{"type": "input_file", "file_id": ident}]
    await files.call("DELETE", f"/{ident}")
    status, told = await ask(files, after, f"{API}/responses")
    assert (status, told["error"]["code"]) == (400, "file_not_found")
    assert (told["error"]["param"], ident in told["error"]["message"]) == (
        "previous_response_id",
        True,
    )


async def test_a_conversation_with_a_file_goes_on_where_it_was(tmp_path: Path) -> None:
    said = (TextDelta("ok"), Usage(1, 1), Finished(FinishReason.STOP))
    async with files_in(tmp_path, backend=LiveBackend(said, said)) as files:
        ident = await files.keep(PDF, "a.pdf")
        body = chat(by_id(ident))
        url = f"{files.url}{API}/chat/completions"
        async with files.http.post(url, json=body) as response:
            assert response.headers["x-clinvk-turn"] == "new"
        body["messages"] += [
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": "on"},
        ]
        async with files.http.post(url, json=body) as response:
            assert response.headers["x-clinvk-turn"] == "continued"


@pytest.fixture
async def up() -> AsyncIterator[RawUpstream]:
    async with RawUpstream().running() as up:
        yield up


@pytest.fixture
async def world(
    up: RawUpstream, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    fields = getattr(request, "param", {})
    server = fields.pop("server", {})
    config = with_folder(settings(up, **fields), tmp_path, **server)
    async for each in served(config, up):
        yield each


async def keep(world: World, content: bytes, name: str) -> str:
    async with world.http.post(f"{world.url}{API}/files", data=form(content, name)) as response:
        assert response.status == 200
        return str((await response.json())["id"])


def sent(world: World) -> Any:
    return json.loads(world.up.asked[-1].body)


async def test_an_upstream_is_sent_the_content_of_a_file_that_is_here(world: World) -> None:
    pdf = await keep(world, PDF, "a.pdf")
    plain = await keep(world, TEXT, "n.txt")
    other = await keep(world, b"\0\1", "strange")
    parts = [
        by_id(pdf),
        by_id(plain, filename="own.md"),
        by_id(other),
        by_id("file-theirs"),
        {"type": "text", "text": pdf},
    ]
    body = {**chat(*parts), "model": "up/m", "temperature": 0.10, "metadata": {"file_id": pdf}}
    async with world.post(body=json.dumps(body)) as response:
        assert (response.status, response.headers["x-clinvk-turn"]) == (200, "relayed")
    data = "data:{};base64,{}".format
    assert sent(world) == {
        **body,
        "model": "m",
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "file",
                        "file": {
                            "filename": "a.pdf",
                            "file_data": data("application/pdf", b64(PDF)),
                        },
                    },
                    {
                        "type": "file",
                        "file": {"filename": "own.md", "file_data": data("text/plain", b64(TEXT))},
                    },
                    {
                        "type": "file",
                        "file": {
                            "filename": "strange",
                            "file_data": data("application/octet-stream", b64(b"\0\1")),
                        },
                    },
                    *parts[3:],
                ],
            }
        ],
    }


async def test_bytes_that_name_no_file_of_here_pass_as_they_are(world: World) -> None:
    for part in (by_id("file-theirs"), by_id(NOBODY), {"type": "text", "text": '"file_id"'}):
        body = json.dumps({**chat(part), "model": "up/m"}, indent=3).replace("user", "\\u0075ser")
        async with world.post(body=body) as response:
            assert response.status == 200
        assert world.up.asked[-1].body == body.replace("up/m", "m").encode()


async def test_a_body_of_any_depth_that_names_a_file_passes(world: World) -> None:
    ident = await keep(world, PDF, "a.pdf")

    async def status(deep: int) -> int:
        nested = "[" * deep + "]" * deep
        body = json.dumps({**chat(by_id(ident)), "model": "up/m", "x": "X"}).replace('"X"', nested)
        async with world.post(body=body) as response:
            return int(response.status)

    deep = 500
    while await status(deep * 9 // 8) == 200:
        deep = deep * 9 // 8
    # Just where it is too deep for one way to read it, and not for another.
    seen = {await status(each) for each in range(deep, deep * 9 // 8 + 1)}
    assert seen == {200, 400}  # and never the server's own fault


@pytest.mark.parametrize("world", [{"endpoints": ["responses"]}], indirect=True)
async def test_responses_pass_with_files_and_images(world: World) -> None:
    pdf, picture = await keep(world, PDF, "a.pdf"), await keep(world, base64.b64decode(PNG), "b")
    parts = [
        {"type": "input_file", "file_id": pdf},
        {"type": "input_image", "file_id": picture, "detail": "low"},
    ]
    call = {"type": "function_call_output", "call_id": "c", "output": parts}
    body = {"model": "up/m", "input": [{"role": "user", "content": parts}, call]}
    async with world.post("responses", json.dumps(body)) as response:
        assert response.status == 200
    given = [
        {
            "type": "input_file",
            "filename": "a.pdf",
            "file_data": f"data:application/pdf;base64,{b64(PDF)}",
        },
        {"type": "input_image", "detail": "low", "image_url": f"data:image/png;base64,{PNG}"},
    ]
    first, second = sent(world)["input"]
    assert (first["content"], second["output"]) == (given, given)


@pytest.mark.parametrize("world", [{"server": {"max_body_mb": 1}}], indirect=True)
async def test_an_upstream_is_sent_no_more_than_a_request_may_be(world: World) -> None:
    ident = await keep(world, bytes(900 * 1024), "a")
    async with world.post(body=json.dumps({**chat(by_id(ident)), "model": "up/m"})) as response:
        told = await response.json()
        assert (response.status, told["error"]["code"]) == (413, "request_too_large")
    assert world.up.asked == []


@pytest.mark.parametrize("world", [{"endpoints": []}], indirect=True)
async def test_an_upstream_that_is_asked_in_its_own_words_may_know_other_ids(world: World) -> None:
    """Translated requests: an id that is not here may be one of the upstream's own."""
    stream = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    world.up.answer.headers = {"Content-Type": "text/event-stream"}
    world.up.answer.pieces = (stream, b"data: [DONE]\n\n")
    ident = await keep(world, PDF, "a.pdf")
    body = {**chat(by_id("file-theirs"), by_id(ident)), "model": "up/m"}
    async with world.post(body=json.dumps(body)) as response:
        assert response.status == 200, await response.text()
    data = f"data:application/pdf;base64,{b64(PDF)}"
    assert sent(world)["messages"][0]["content"] == [
        by_id("file-theirs"),
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
    ]
    item = {"role": "user", "content": [{"type": "input_image", "file_id": "file-theirs"}]}
    async with world.post("responses", json.dumps({"model": "up/m", "input": [item]})) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (
            400,
            "file_not_found",
        )
