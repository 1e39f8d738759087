"""OpenAI's Files API: what is kept, told, given back and refused."""

import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import psutil
import pytest

from clinvk.server.app import OPENAI_ALIASES, OPENAI_PREFIX
from tests.keyed import as_, entry, keyed
from tests.published import check
from tests.serving import API
from tests.uploads import PDF, Files, files_in, form

MB = 1024 * 1024
HUNG_S = 60
NOBODY = "file-" + "0" * 32


@pytest.fixture
async def files(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Files]:
    async with files_in(tmp_path / "files", **getattr(request, "param", {})) as made:
        yield made


@pytest.mark.parametrize("prefix", [OPENAI_PREFIX, *OPENAI_ALIASES])
async def test_a_file_is_kept_told_given_back_and_removed(files: Files, prefix: str) -> None:
    url = f"{files.url}{prefix}/files"
    async with files.http.post(url, data=form(PDF, "ä b.pdf", purpose="vision")) as response:
        made = await response.json()
        assert response.status == 200, made
    check("openai", "OpenAIFile", made)
    assert (made["filename"], made["bytes"], made["purpose"]) == ("ä b.pdf", len(PDF), "vision")
    assert made["expires_at"] == made["created_at"] + 30 * 86_400
    async with files.http.get(url) as response:
        listed = await response.json()
    check("openai", "ListFilesResponse", listed)
    assert listed["data"] == [made]
    async with files.http.get(f"{url}/{made['id']}") as response:
        assert await response.json() == made
    async with files.http.get(f"{url}/{made['id']}/content") as response:
        assert (response.content_type, await response.read()) == ("application/pdf", PDF)
    async with files.http.delete(f"{url}/{made['id']}") as response:
        gone = await response.json()
    check("openai", "DeleteFileResponse", gone)
    assert gone == {"id": made["id"], "object": "file", "deleted": True}
    assert files.kept == []
    for method, rest in (("get", ""), ("delete", ""), ("get", "/content")):
        async with files.http.request(method, f"{url}/{made['id']}{rest}") as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"], error["param"]) == (404, "not_found", "id")


async def test_an_expiry_may_be_asked_for_within_what_is_kept(files: Files) -> None:
    asked = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    made = await files.call("POST", data=form(**asked))
    assert made["expires_at"] == made["created_at"] + 3600


def twice() -> aiohttp.FormData:
    made = form()
    made.add_field("file", b"again", filename="b")
    return made


def many() -> aiohttp.FormData:
    made = form()
    for number in range(40):
        made.add_field(f"x{number}", "y")
    return made


def nested() -> aiohttp.MultipartWriter:
    made = aiohttp.MultipartWriter("form-data")
    made.append(aiohttp.MultipartWriter("mixed"))
    return made


def encoded() -> bytes:
    head = b'Content-Disposition: form-data; name="file"; filename="a"\r\n'
    return b"--x\r\n" + head + b"Content-Transfer-Encoding: base64\r\n\r\naGk=\r\n--x--\r\n"


ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
RAW = {"Content-Type": "multipart/form-data; boundary=x"}
MISTAKES: list[tuple[Any, dict[str, str], int, str | None, str]] = [
    (form(None), {}, 400, "file", "is required"),
    (form(purpose=""), {}, 400, "purpose", "not valid"),
    (form(purpose="spying"), {}, 400, "purpose", "user_data"),
    (form(purpose="x" * 2000), {}, 400, "purpose", "too long"),
    (form(**{ANCHOR: "created_at"}), {}, 400, SECONDS, "is required"),
    (form(**{SECONDS: "3600"}), {}, 400, ANCHOR, "is required"),
    (form(**{ANCHOR: "now", SECONDS: "3600"}), {}, 400, ANCHOR, "created_at"),
    (form(**{ANCHOR: "created_at", SECONDS: "3599"}), {}, 400, SECONDS, "3600"),
    (form(**{ANCHOR: "created_at", SECONDS: "2592001"}), {}, 400, SECONDS, "2592000"),
    (form(**{ANCHOR: "created_at", SECONDS: "soon"}), {}, 400, SECONDS, "integer"),
    (twice(), {}, 400, "file", "one file"),
    (many(), {}, 400, None, "more than 32 parts"),
    (nested(), {}, 400, None, "within a form"),
    (encoded(), RAW, 400, "file", "as they are"),
    (b"--x--\r\n", RAW, 400, "purpose", "is required"),
    (b"junk", RAW, 400, None, "no form"),
    (b"junk", {"Content-Type": "multipart/form-data"}, 400, None, "no form"),
    (b"", {}, 400, None, "no body"),
    (b"{}", {"Content-Type": "application/json"}, 415, None, "multipart/form-data"),
]


@pytest.mark.parametrize(("body", "headers", "status", "param", "said"), MISTAKES)
async def test_a_mistake_is_named_and_leaves_nothing(
    files: Files, body: Any, headers: Any, status: int, param: str | None, said: str
) -> None:
    told = await files.call("POST", data=body, headers=headers, status=status)
    check("openai", "ErrorResponse", told)
    assert (told["error"]["param"], said in told["error"]["message"]) == (param, True), told
    assert files.kept == []


@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader")
@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionParam")
async def test_a_form_that_ends_too_soon_is_no_file(files: Files) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
    whole = head % (b"purpose", b"") + b"vision\r\n" + head % (b"file", b'; filename="a"') + b"ab"
    end = b"\r\n--x--"
    for size in range(len(whole) + len(end)):
        told = await files.call("POST", data=(whole + end)[:size], headers=RAW, status=400)
        assert told["error"]["type"] == "invalid_request_error"
    assert files.kept == []
    assert (await files.call("POST", data=whole + end, headers=RAW))["bytes"] == 2


@pytest.mark.parametrize("files", [{"max_upload_mb": 1}], indirect=True)
async def test_a_file_that_is_too_large_is_refused(files: Files) -> None:
    told = await files.call("POST", data=form(bytes(MB + 1)), status=413)
    assert "max_upload_mb" in told["error"]["message"]
    assert files.kept == []
    await files.keep(bytes(MB))


@pytest.mark.parametrize("files", [{"files": {"max_mb": 1, "max_files": 2}}], indirect=True)
async def test_a_full_store_refuses_and_says_what_to_do(files: Files) -> None:
    first = await files.keep(bytes(MB - 1))
    for content, said in ((b"ab", "max_mb"), (b"a", None), (b"", "max_files")):
        if said is None:
            await files.keep(content)
            continue
        told = await files.call("POST", data=form(content), status=400)
        assert told["error"]["code"] == "storage_quota_exceeded"
        assert f"delete some, or raise server.files.{said}" in told["error"]["message"]
    assert len(files.kept) == 2
    await files.call("DELETE", f"/{first}")
    await files.keep(bytes(MB - 1))


async def test_a_full_disk_is_an_error_of_its_own(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def opened(path: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        if Path(path).name.startswith("file-"):
            path, flags = "/dev/full", os.O_WRONLY | os.O_CLOEXEC
        return real(path, flags, mode, **rest)

    monkeypatch.setattr(os, "open", opened)
    async with files.http.post(f"{files.url}{API}/files", data=form(b"x" * 9000)) as response:
        told = (await response.json())["error"]
        assert (response.status, told["code"]) == (507, "storage_full")
        assert response.headers["x-should-retry"] == "false"
    assert files.kept == []


async def test_a_store_that_fails_is_told_without_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "files"
    async with files_in(folder) as files:
        ident = await files.keep()
        for path in files.kept:
            path.unlink()
        await files.call("GET", f"/{ident}/content", status=404)
        await anyio.Path(folder / ident).mkdir()
        await files.call("GET", f"/{ident}/content", status=500)
    await anyio.Path(tmp_path / "other").write_bytes(b"")
    caplog.clear()
    async with files_in(tmp_path / "other") as files:
        told = await files.call("POST", data=form(), status=500)
        assert str(tmp_path) not in str(told)
        assert "the log says why" in told["error"]["message"]
        assert str(tmp_path) in caplog.text


async def test_a_start_that_cannot_look_through_the_folder_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tmp_path / "files.sqlite3"
    await anyio.Path(rows).write_bytes(b"no rows at all, but long enough to be looked at" * 40)
    async with files_in(tmp_path):
        with anyio.fail_after(HUNG_S):
            while "could not be looked through" not in caplog.text:
                await anyio.lowlevel.checkpoint()


async def test_a_list_is_told_in_pages(files: Files) -> None:
    made = [await files.keep(name=str(n), purpose=p) for n, p in enumerate(("batch", "vision") * 2)]

    async def listed(query: str) -> tuple[list[int], bool]:
        told = await files.call("GET", f"?{query}")
        check("openai", "ListFilesResponse", told)
        rows = [row["id"] for row in told["data"]]
        assert [told["first_id"], told["last_id"]] == ([rows[0], rows[-1]] if rows else ["", ""])
        return [made.index(row) for row in rows], told["has_more"]

    assert await listed("") == ([3, 2, 1, 0], False)
    assert await listed("order=asc&limit=3") == ([0, 1, 2], True)
    assert await listed(f"order=asc&after={made[2]}") == ([3], False)
    assert await listed(f"after={made[2]}&limit=1") == ([1], True)
    assert await listed("purpose=batch&limit=10000") == ([2, 0], False)
    assert await listed("purpose=nothing") == ([], False)
    for query, param in (
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        (f"after={NOBODY}", "after"),
    ):
        told = await files.call("GET", f"?{query}", status=400)
        assert told["error"]["param"] == param


async def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    config = keyed(entry("alice"), entry("bob", requests_per_minute=8))
    async with files_in(tmp_path, config) as files:
        alice, bob = as_("alice"), as_("bob")
        ident = await files.keep(headers=alice)
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
            told = await files.call(method, f"/{ident}{path}", headers=bob, status=404)
            other = await files.call(method, f"/{NOBODY}{path}", headers=bob, status=404)
            message = other["error"]["message"].replace(NOBODY, ident)
            assert told["error"] == {**other["error"], "message": message}
        await files.call("GET", f"?after={ident}", headers=bob, status=400)
        assert (await files.call("GET", headers=bob))["data"] == []
        for method, path in (("GET", ""), ("POST", ""), ("GET", f"/{ident}/content")):
            await files.call(method, path, status=401)
        limited = await files.call("GET", headers=bob, status=429)
        assert limited["error"]["code"] == "key_limit_exceeded"
        assert (await files.call("GET", headers=alice))["data"][0]["id"] == ident


@pytest.mark.parametrize("files", [{"max_upload_mb": 300}], indirect=True)
async def test_memory_stays_flat_with_a_large_file(files: Files, tmp_path: Path) -> None:
    """Server and client are one process here: neither may hold the file."""
    large = tmp_path / "large"
    with large.open("wb") as sink:
        sink.truncate(200 * MB)
    me = psutil.Process()
    peaks = []
    for _ in range(2):
        with large.open("rb") as source:
            ident = (await files.call("POST", data=form(source)))["id"]
        before = me.memory_info().rss
        peak, got = 0, 0
        async with files.http.get(f"{files.url}{API}/files/{ident}/content") as response:
            assert response.content_length == 200 * MB
            async for piece in response.content.iter_any():
                got += len(piece)
                peak = max(peak, me.memory_info().rss)
        assert got == 200 * MB
        peaks.append(me.memory_info().rss)
        assert peak - before < 32 * MB
    assert peaks[1] - peaks[0] < 32 * MB


async def test_who_leaves_while_sending_leaves_nothing(files: Files) -> None:
    never = anyio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield bytes(MB)
        await never.wait()

    async def send() -> None:
        url = f"{files.url}{API}/files"
        async with files.http.post(url, data=slowly(), headers=RAW):
            raise AssertionError("there is nothing to answer")

    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            group.start_soon(send)
            while not any(path.stat().st_size for path in files.kept):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        while files.kept:
            await anyio.lowlevel.checkpoint()
    assert (await files.call("GET"))["data"] == []


async def test_who_leaves_while_reading_leaves_nothing_open(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ident = await files.keep(bytes(30 * MB))
    me = psutil.Process()

    def is_open() -> bool:
        return any(ident in found.path for found in me.open_files())

    async with files.http.get(f"{files.url}{API}/files/{ident}/content") as response:
        await response.content.readany()
        assert is_open()
        response.close()
    with anyio.fail_after(HUNG_S):
        while is_open():
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("files", [{"send_s": 0.2}], indirect=True)
async def test_who_takes_nothing_is_cut_off(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ident = await files.keep(bytes(30 * MB))
    async with files.http.get(f"{files.url}{API}/files/{ident}/content") as response:
        with anyio.fail_after(HUNG_S):
            while "took nothing" not in caplog.text:
                await anyio.lowlevel.checkpoint()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


@pytest.mark.parametrize("files", [{"send_s": 0.2}], indirect=True)
async def test_who_sends_nothing_any_more_holds_no_room(files: Files) -> None:
    never = anyio.Event()
    head = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n'

    async def begun(said: bytes) -> AsyncIterator[bytes]:
        yield said
        await never.wait()

    for said in (b"--x", head % b"purpose", head % b"file" + bytes(MB)):
        told = await files.call("POST", data=begun(said), headers=RAW, status=400)
        assert "server.send_s" in told["error"]["message"]
        assert files.kept == []


async def test_a_content_that_breaks_off_breaks_the_reply_off(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    ident = await files.keep(bytes(30 * MB))
    async with files.http.get(f"{files.url}{API}/files/{ident}/content") as response:
        await response.content.readany()
        os.truncate(files.folder / ident, MB)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert "broke off: its content has become shorter" in caplog.text


async def test_only_the_head_is_sent_if_no_more_is_asked_for(files: Files) -> None:
    ident = await files.keep(PDF)
    async with files.http.head(f"{files.url}{API}/files/{ident}/content") as response:
        assert (response.status, response.content_type) == (200, "application/pdf")
        assert (response.content_length, await response.read()) == (len(PDF), b"")
    assert (await files.call("GET", f"/{ident}"))["bytes"] == len(PDF)


async def test_a_request_is_one_line_and_one_route_of_the_metrics(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ident = await files.keep()
    await files.call("GET", f"/{ident}")
    await files.call("GET", "/secret-name", status=404)
    lines = [r.message for r in caplog.records if r.name == "clinvk.access"]
    assert [line.split(" status=")[0].split(" ", 1)[1] for line in lines] == [
        f"method=POST path={API}/files",
        f"method=GET path={API}/files/{ident}",
        f"method=GET path={API}/files/secret-name",
    ]
    async with files.http.get(f"{files.url}/metrics") as response:
        told = await response.text()
    assert f'method="GET",route="{API}/files/{{id}}",status="200"' in told
    assert ident not in told
    assert "secret-name" not in told
