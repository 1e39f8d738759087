"""The real openai packages for Python and Node, and the files of a served clinvk."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import FilePurpose

from clinvk.turn import FilePart
from tests.keyed import KEYS, entry, keyed
from tests.serving import API
from tests.uploads import PDF, Files, files_in

REAL = Path(__file__).parents[1] / "real"
HUNG_S = 60


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Files]:
    async with files_in(tmp_path / "files", files={"max_mb": 8}) as made:
        yield made


@pytest.fixture
async def client(files: Files) -> AsyncIterator[AsyncOpenAI]:
    url = files.url + API
    async with AsyncOpenAI(base_url=url, api_key="unused", max_retries=2) as made:
        yield made


async def test_a_file_from_its_upload_to_its_end(
    client: AsyncOpenAI, files: Files, tmp_path: Path
) -> None:
    source = tmp_path / "Ünïted report.pdf"
    await anyio.Path(source).write_bytes(PDF)
    made = await client.files.create(
        file=source, purpose="user_data", expires_after={"anchor": "created_at", "seconds": 86_400}
    )
    assert (made.filename, made.bytes, made.status) == (source.name, len(PDF), "processed")
    assert made.expires_at == made.created_at + 86_400
    assert await client.files.wait_for_processing(made.id) == made
    assert (await client.files.retrieve(made.id)).to_dict() == made.to_dict()
    read = await client.files.content(made.id)
    assert (read.content, read.response.headers["content-type"]) == (PDF, "application/pdf")
    async with client.files.with_streaming_response.content(made.id) as streamed:
        assert b"".join([piece async for piece in streamed.iter_bytes(10)]) == PDF
    gone = await client.files.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    assert files.kept == []
    with pytest.raises(openai.NotFoundError) as caught:
        await client.files.content(made.id)
    assert caught.value.param == "id"


async def test_a_list_goes_on_from_page_to_page(client: AsyncOpenAI) -> None:
    purposes: list[FilePurpose] = ["assistants", "batch", "fine-tune", "vision", "evals"]
    made = [await client.files.create(file=(p, b"x"), purpose=p) for p in purposes]
    ids = [file.id for file in made]
    assert [file.id async for file in client.files.list(limit=2, order="asc")] == ids
    assert [file.id async for file in client.files.list()] == ids[::-1]
    assert [file.id async for file in client.files.list(purpose="batch")] == ids[1:2]


async def test_files_stand_in_chats_and_responses(client: AsyncOpenAI, files: Files) -> None:
    pdf = await client.files.create(file=("a.pdf", PDF), purpose="user_data")
    chat = await client.chat.completions.create(
        model="fake",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "read"},
                    {"type": "file", "file": {"file_id": pdf.id}},
                ],
            }
        ],
    )
    assert chat.choices[0].message.content == "Hello world"
    response = await client.responses.create(
        model="fake",
        input=[{"role": "user", "content": [{"type": "input_file", "file_id": pdf.id}]}],
    )
    assert response.output_text == "Hello world"
    for turn, _ in files.backend.turns:
        (part,) = (p for m in turn.messages for p in m.parts if isinstance(p, FilePart))
        assert (part.filename, part.media_type) == ("a.pdf", "application/pdf")
    await client.files.delete(pdf.id)
    with pytest.raises(openai.BadRequestError, match=pdf.id) as caught:
        await client.responses.create(
            model="fake", input="and", previous_response_id=response.id, stream=True
        )
    assert caught.value.code == "file_not_found"


async def test_what_cannot_be_kept_is_an_error_that_is_not_tried_again(
    client: AsyncOpenAI, files: Files
) -> None:
    with pytest.raises(openai.BadRequestError, match="delete some") as caught:
        await client.files.create(file=bytes(9_000_000), purpose="user_data")
    assert caught.value.code == "storage_quota_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.files.create(file=b"x", purpose="nothing")  # type: ignore[arg-type]
    assert caught.value.param == "purpose"
    assert files.kept == []


async def test_a_key_has_files_of_its_own(tmp_path: Path) -> None:
    async with files_in(tmp_path, keyed(entry("alice"), entry("bob"))) as files:
        url = files.url + API
        async with (
            AsyncOpenAI(base_url=url, api_key=KEYS["alice"]) as alice,
            AsyncOpenAI(base_url=url, api_key=KEYS["bob"]) as bob,
        ):
            made = await alice.files.create(file=("a.png", b"x"), purpose="vision")
            assert [file.id async for file in alice.files.list()] == [made.id]
            assert [file async for file in bob.files.list()] == []
            with pytest.raises(openai.NotFoundError):
                await bob.files.delete(made.id)


async def test_the_node_client_uses_files(files: Files, tmp_path: Path) -> None:
    source = tmp_path / "a.pdf"
    await anyio.Path(source).write_bytes(PDF)
    with anyio.fail_after(HUNG_S):
        done = await anyio.run_process(
            ["node", REAL / "openai_files_client.mjs", files.url + API, "fake", source], cwd=REAL
        )
    assert json.loads(done.stdout) == {
        "first": ["file", "a.pdf", len(PDF), 3600],
        "listed": ["a.pdf", "n.txt"],
        "read": "a note\n",
        "told": "assistants",
        "chat": "Hello world",
        "response": "Hello world",
        "deleted": [True, True],
        "errors": [
            ["NotFoundError", 404, "not_found", "id"],
            ["BadRequestError", 400, "invalid_value", "purpose"],
            ["BadRequestError", 400, "file_not_found", "input[0].content[0].file_id"],
        ],
    }
    names = [
        [p.filename for m in turn.messages for p in m.parts if isinstance(p, FilePart)]
        for turn, _ in files.backend.turns
    ]
    assert names == [["a.pdf", "n.txt"], ["a.pdf"]]
